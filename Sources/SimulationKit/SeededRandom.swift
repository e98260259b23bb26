// SPDX-License-Identifier: Apache-2.0

/// The only source of chance in a simulation: SplitMix64 (Steele, Lea, Flood: "Fast Splittable
/// Pseudorandom Number Generators", 2014). A value; equal seeds give equal numbers for ever.
///
/// Its own arithmetic instead of `Int.random(in:using:)`, so that a seed that failed once still
/// means the same run with another standard library.
package struct SeededRandom: Sendable {
    private var state: UInt64

    package init(seed: UInt64) {
        state = seed
    }

    /// 64 random bits.
    package mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var bits = state
        bits = (bits ^ (bits >> 30)) &* 0xbf58_476d_1ce4_e5b9
        bits = (bits ^ (bits >> 27)) &* 0x94d0_49bb_1331_11eb
        return bits ^ (bits >> 31)
    }

    /// A number in `0 ..< bound`; `bound` is at least 1.
    package mutating func below(_ bound: UInt64) -> UInt64 {
        precondition(bound >= 1, "nothing lies below zero")
        return next().multipliedFullWidth(by: bound).high
    }

    /// A number in `0 ..< bound`; `bound` is at least 1.
    package mutating func below(_ bound: Int) -> Int {
        Int(below(UInt64(bound)))
    }

    /// A number in `range`.
    package mutating func within(_ range: ClosedRange<Int>) -> Int {
        range.lowerBound + below(range.upperBound - range.lowerBound + 1)
    }

    /// True `permille` times in a thousand.
    package mutating func happens(permille: Int) -> Bool {
        // Drawn even when the answer is known, so that a changed rate shifts no later choice.
        below(1_000) < permille
    }

    /// A generator of its own whose numbers do not depend on how many this one draws later.
    package mutating func fork() -> SeededRandom {
        SeededRandom(seed: next())
    }

    /// Puts `elements` into a random order.
    package mutating func shuffle<Element>(_ elements: inout [Element]) {
        guard elements.count > 1 else { return }
        for index in stride(from: elements.count - 1, to: 0, by: -1) {
            elements.swapAt(index, below(index + 1))
        }
    }
}
