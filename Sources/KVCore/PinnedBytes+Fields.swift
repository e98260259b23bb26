// SPDX-License-Identifier: Apache-2.0
internal import Glibc

/// Fields at fixed places: blocks on disk.
extension PinnedBytes {
    /// The little-endian number at `offset`; traps outside the run. Any alignment.
    @inlinable
    @inline(__always)
    package func load<Number: FixedWidthInteger & BitwiseCopyable>(
        _ type: Number.Type, at offset: Int
    ) -> Number {
        invariant(
            offset >= 0 && offset <= count - MemoryLayout<Number>.size, "field outside its run")
        // SAFETY: the bytes were just checked to lie within this run; any bits are a number.
        return unsafe Number(
            littleEndian: start.loadUnaligned(fromByteOffset: offset, as: Number.self))
    }

    /// Writes `value` little-endian at `offset`; traps outside the run. Any alignment.
    @inlinable
    @inline(__always)
    package func store<Number: FixedWidthInteger & BitwiseCopyable>(
        _ value: Number, at offset: Int
    ) {
        invariant(
            offset >= 0 && offset <= count - MemoryLayout<Number>.size, "field outside its run")
        // SAFETY: the bytes were just checked to lie within this run.
        unsafe start.storeBytes(of: value.littleEndian, toByteOffset: offset, as: Number.self)
    }

    /// Whether both runs hold the same bytes.
    package func holds(sameAs other: PinnedBytes) -> Bool {
        // SAFETY: both runs are valid for their counts, which are the same.
        unsafe count == other.count && memcmp(start, other.start, count) == 0
    }
}
