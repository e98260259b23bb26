// SPDX-License-Identifier: Apache-2.0

/// A run of memory that does not move: part of the arena or of a connection's own buffer.
///
/// The kernel reads and writes such memory while tasks are suspended, which a `Span` cannot
/// express (it does not live across an `await`). So this is the one type that carries an address
/// between modules. It does not own the memory: whoever hands it out keeps the memory mapped for
/// as long as the value is used, and no two writers share a run. Every access here is checked
/// against `count`; all methods may be called on any thread.
// SAFETY: only an address and a length; the owner's promise above makes sharing sound.
@safe
package struct PinnedBytes: @unchecked Sendable {
    // SAFETY: valid for `count` bytes for as long as the owner promised in `init`.
    package let start: UnsafeMutableRawPointer
    package let count: Int

    /// Names `count` bytes from `start`; the caller keeps them mapped while the value is used.
    @inlinable
    @unsafe
    package init(start: UnsafeMutableRawPointer, count: Int) {
        unsafe self.start = start
        self.count = count
    }

    /// The bytes `offset ..< offset + count` of this run; traps when they do not lie within it.
    @inlinable
    @inline(__always)
    package func slice(offset: Int, count: Int) -> PinnedBytes {
        invariant(
            offset >= 0 && count >= 0 && count <= self.count - offset, "slice outside its run")
        // SAFETY: the range was just checked to lie within this run.
        return unsafe PinnedBytes(start: start + offset, count: count)
    }

    /// All bytes from `offset` on.
    @inlinable
    @inline(__always)
    package func dropFirst(_ offset: Int) -> PinnedBytes {
        slice(offset: offset, count: count - offset)
    }

    /// The first `count` bytes.
    @inlinable
    @inline(__always)
    package func prefix(_ count: Int) -> PinnedBytes {
        slice(offset: 0, count: count)
    }

    /// Runs `body` over the bytes, read only, without copying.
    @inlinable
    package func withBytes<Result, Failure: Error>(
        _ body: (RawSpan) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        // SAFETY: the run is valid for `count` bytes, and the span does not outlive the call.
        let buffer = unsafe UnsafeRawBufferPointer(start: start, count: count)
        return try unsafe body(buffer.bytes)
    }

    /// Runs `body` over the bytes, writable, without copying.
    @inlinable
    package func withMutableBytes<Result, Failure: Error>(
        _ body: (inout MutableRawSpan) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        // SAFETY: as in `withBytes`; the owner promised that nobody else writes meanwhile.
        let buffer = unsafe UnsafeMutableRawBufferPointer(start: start, count: count)
        var span = unsafe buffer.mutableBytes
        return try body(&span)
    }

    /// The byte at `offset`; traps outside the run.
    @inlinable
    @inline(__always)
    package subscript(offset: Int) -> UInt8 {
        invariant(offset >= 0 && offset < count, "byte outside its run")
        // SAFETY: the offset was just checked.
        return unsafe start.load(fromByteOffset: offset, as: UInt8.self)
    }

    /// Sets every byte to `value`.
    @inlinable
    package func fill(_ value: UInt8) {
        // SAFETY: the run is valid for `count` bytes.
        unsafe _ = start.initializeMemory(as: UInt8.self, repeating: value, count: count)
    }

    /// Copies all of `source` to the start of this run; traps when it does not fit. May overlap.
    @inlinable
    package func copy(from source: PinnedBytes) {
        invariant(source.count <= count, "copy does not fit its target")
        // SAFETY: both runs are valid for `source.count` bytes; `copyMemory` allows overlap.
        unsafe start.copyMemory(from: source.start, byteCount: source.count)
    }
}

/// Heap memory with a fixed address for a connection or a test; freed with the object.
///
/// Confined to its owner; the owner ends all I/O on it before it lets go.
// SAFETY: the pointer never changes and is freed once, in `deinit`.
@safe
package final class OwnedBytes: @unchecked Sendable {
    package let bytes: PinnedBytes

    /// Allocates `count` zeroed bytes, aligned to `alignment`.
    package init(count: Int, alignment: Int = 64) {
        // SAFETY: fresh memory of exactly `count` bytes, owned by this object until `deinit`.
        let start = UnsafeMutableRawPointer.allocate(byteCount: count, alignment: alignment)
        unsafe start.initializeMemory(as: UInt8.self, repeating: 0, count: count)
        unsafe bytes = PinnedBytes(start: start, count: count)
    }

    deinit {
        // SAFETY: allocated in `init`, and nobody uses it past its owner.
        unsafe bytes.start.deallocate()
    }
}
