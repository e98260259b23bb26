// SPDX-License-Identifier: Apache-2.0

internal import KVCore

/// The bytes that a simulated client stores: every word follows from a number and its place, so
/// that any part of a chunk tells whose it is.
extension PinnedBytes {
    /// Writes the bytes that `pattern` gives.
    func fill(pattern: UInt64) {
        for offset in stride(from: 0, to: count - 7, by: 8) {
            store(Self.word(pattern, offset / 8), at: offset)
        }
        let rest = count & 7
        for offset in 0..<rest {
            let word = Self.word(pattern, count / 8)
            store(
                UInt8(truncatingIfNeeded: word >> (8 * UInt64(offset))), at: count - rest + offset)
        }
    }

    /// Whether these are the bytes that `fill` writes, from the chunk's byte `start` on.
    func has(pattern: UInt64, from start: Int = 0) -> Bool {
        var offset = 0
        while offset < count {
            let inWord = (start + offset) & 7
            let word = Self.word(pattern, (start + offset) / 8)
            if inWord == 0, count - offset >= 8 {
                guard load(UInt64.self, at: offset) == word else { return false }
                offset += 8
            } else {
                let byte = UInt8(truncatingIfNeeded: word >> (8 * UInt64(inWord)))
                guard self[offset] == byte else { return false }
                offset += 1
            }
        }
        return true
    }

    /// Every other pattern can be compressed.
    private static func word(_ pattern: UInt64, _ number: Int) -> UInt64 {
        var random = SeededRandom(
            seed: pattern &* 0x2545_f491_4f6c_dd1d &+ UInt64(number) &* 0x9e37_79b9_7f4a_7c15)
        let isCompressible = pattern.nonzeroBitCount.isMultiple(of: 2)
        return random.next() & (isCompressible ? 0x0000_ffff_0000_00ff : .max)
    }
}

extension ChunkKey {
    /// The key that simulated clients call `number`.
    init(simulated number: Int) {
        var random = SeededRandom(seed: UInt64(number))
        self.init(words: (random.next(), random.next(), random.next(), random.next()))
    }
}
