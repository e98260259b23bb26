// SPDX-License-Identifier: Apache-2.0
internal import KVCore

/// A fixed number of words at a fixed address, zero at first. A reference; every access is checked.
///
/// An array of a class would be looked at for exclusive and unique access at every element.
@safe
struct Words {
    let count: Int
    private let memory: OwnedBytes
    /// All words, side by side.
    var bytes: PinnedBytes { memory.bytes }
    // SAFETY: `count` words of `memory`, which lives as long.
    private let start: UnsafeMutablePointer<UInt32>

    init(count: Int) {
        self.count = count
        memory = OwnedBytes(count: count * 4)
        // SAFETY: fresh memory of that many bytes, aligned to 64, which nobody else binds.
        unsafe start = memory.bytes.start.bindMemory(to: UInt32.self, capacity: count)
    }

    @inline(__always)
    subscript(index: Int) -> UInt32 {
        get {
            precondition(index >= 0 && index < count, "a word outside its array")
            // SAFETY: the index was just checked.
            return unsafe start[index]
        }
        nonmutating set {
            precondition(index >= 0 && index < count, "a word outside its array")
            // SAFETY: the index was just checked.
            unsafe start[index] = newValue
        }
    }
}

/// The same of numbers.
struct Floats {
    private let words: Words

    /// All numbers, side by side.
    var bytes: PinnedBytes { words.bytes }

    init(count: Int) { words = Words(count: count) }

    @inline(__always)
    subscript(index: Int) -> Float {
        get { Float(bitPattern: words[index]) }
        nonmutating set { words[index] = newValue.bitPattern }
    }
}

/// Values one by one: not generic, so that a loop over them is as fast as its memory.
extension PinnedBytes {
    /// The little-endian value of `width` bytes, 1, 2 or 4, at `offset`; traps outside the run.
    @inline(__always)
    func bits(_ width: Int, at offset: Int) -> UInt32 {
        precondition(offset >= 0 && offset <= count - width, "a value outside its run")
        // SAFETY: the bytes were just checked to lie within this run; any bits are a number.
        let place = unsafe UnsafeRawPointer(start + offset)
        switch width {
        case 1: return UInt32(unsafe place.load(as: UInt8.self))
        case 2: return UInt32(UInt16(littleEndian: unsafe place.loadUnaligned(as: UInt16.self)))
        default: return UInt32(littleEndian: unsafe place.loadUnaligned(as: UInt32.self))
        }
    }

    /// Writes the low `width` bytes of `bits`, little-endian, at `offset`; traps outside the run.
    @inline(__always)
    func setBits(_ bits: UInt32, _ width: Int, at offset: Int) {
        precondition(offset >= 0 && offset <= count - width, "a value outside its run")
        // SAFETY: the bytes were just checked to lie within this run.
        switch width {
        case 1:
            unsafe start.storeBytes(
                of: UInt8(truncatingIfNeeded: bits), toByteOffset: offset, as: UInt8.self)
        case 2:
            unsafe start.storeBytes(
                of: UInt16(truncatingIfNeeded: bits).littleEndian, toByteOffset: offset,
                as: UInt16.self)
        default:
            unsafe start.storeBytes(
                of: bits.littleEndian, toByteOffset: offset, as: UInt32.self)
        }
    }
}
