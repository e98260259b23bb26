// SPDX-License-Identifier: Apache-2.0

/// Chooses what leaves a tier when room is needed.
///
/// A confined value inside the tier's lock; every call takes constant time and allocates nothing.
/// Entries are numbers below the capacity that `init` was told.
package protocol EvictionPolicy: ~Copyable, Sendable {
    init(entryCountMax: Int)
    /// The entry became visible.
    mutating func inserted(_ entry: UInt32)
    /// The entry became visible, and is to go before all others unless it is used again.
    mutating func insertedColdest(_ entry: UInt32)
    /// The entry was read or looked up.
    mutating func used(_ entry: UInt32)
    /// The entry is no longer there: evicted, expired or deleted.
    mutating func removed(_ entry: UInt32)
    /// The entry to evict next, without removing it; nil when there is none. A candidate that the
    /// tier cannot evict (it is being read) is reported as `used`, which moves it back.
    func candidate() -> UInt32?
    /// Whether the entry is among those that would go before long; such a one may go out of turn
    /// when its place completes a run.
    func isCold(_ entry: UInt32) -> Bool
}

/// Evicts what was used longest ago.
package struct LeastRecentlyUsed: EvictionPolicy, ~Copyable {
    private struct Link {
        var newer: UInt32
        var older: UInt32
        /// Position in the order of all uses so far.
        var use: UInt64
    }

    private static let none = UInt32.max
    private var links: [Link] = []
    private var newest = Self.none
    private var oldest = Self.none
    private var useCount: UInt64 = 0

    package init(entryCountMax: Int) {
        links.reserveCapacity(entryCountMax)
    }

    package mutating func inserted(_ entry: UInt32) {
        useCount += 1
        let link = Link(newer: Self.none, older: newest, use: useCount)
        while links.count <= Int(entry) { links.append(link) }
        links[Int(entry)] = link
        if newest != Self.none { links[Int(newest)].newer = entry }
        newest = entry
        if oldest == Self.none { oldest = entry }
    }

    package mutating func insertedColdest(_ entry: UInt32) {
        guard oldest != Self.none else { return inserted(entry) }
        let link = Link(newer: oldest, older: Self.none, use: links[Int(oldest)].use)
        while links.count <= Int(entry) { links.append(link) }
        links[Int(entry)] = link
        links[Int(oldest)].older = entry
        oldest = entry
    }

    package mutating func used(_ entry: UInt32) {
        guard newest != entry else { return }
        removed(entry)
        inserted(entry)
    }

    package mutating func removed(_ entry: UInt32) {
        let link = links[Int(entry)]
        if link.newer == Self.none {
            newest = link.older
        } else {
            links[Int(link.newer)].older = link.older
        }
        if link.older == Self.none {
            oldest = link.newer
        } else {
            links[Int(link.older)].newer = link.newer
        }
    }

    package func candidate() -> UInt32? {
        oldest == Self.none ? nil : oldest
    }

    /// Used in the older three quarters of the time that the entries span.
    package func isCold(_ entry: UInt32) -> Bool {
        guard oldest != Self.none else { return true }
        let first = links[Int(oldest)].use
        return links[Int(entry)].use < first + (useCount - first) / 4 * 3
    }
}
