// SPDX-License-Identifier: Apache-2.0
internal import KVCore

/// A fixed number of words at a fixed address, zero at first. A reference; every access is checked.
///
/// An array of a class would be looked at for exclusive and unique access at every element.
struct Words {
    let count: Int
    private let memory: OwnedBytes
    let bytes: PinnedBytes

    init(count: Int) {
        self.count = count
        memory = OwnedBytes(count: count * 4)
        bytes = memory.bytes
    }

    @inline(__always)
    subscript(index: Int) -> UInt32 {
        get { bytes.load(UInt32.self, at: 4 * index) }
        nonmutating set { bytes.store(newValue, at: 4 * index) }
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
