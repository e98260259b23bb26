// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Tiers

/// Chunks that stay in memory for a while because a client was told that they are there, and may
/// read them on any connection. Confined to its shard; all have the same length, so they end in the
/// order in which they began. One that was extended may last up to that length longer than it must.
struct ReadLeases: ~Copyable {
    private struct Lease {
        let hold: Hold
        let byteCount: Int
        var end: Instant
    }

    private struct Turn {
        let name: ChunkName
        let end: Instant
    }

    private var leases: [ChunkName: Lease] = [:]
    /// One for each beginning and extension, oldest first, from `first` on.
    private var turns: [Turn] = []
    private var first = 0

    /// Leases that are held.
    var count: Int { leases.count }

    /// Whether the chunk has a lease, which then lasts until `end`.
    mutating func extend(_ name: ChunkName, _ hold: Hold, until end: Instant) -> Bool {
        guard let lease = leases[name], lease.hold == hold else { return false }
        leases[name]?.end = end
        return true
    }

    /// Keeps a chunk until `end`.
    /// - Returns: what was kept under that name before, for the caller to release.
    mutating func begin(
        _ name: ChunkName, _ hold: Hold, byteCount: Int, until end: Instant
    ) -> (hold: Hold, byteCount: Int)? {
        let old = leases.updateValue(
            Lease(hold: hold, byteCount: byteCount, end: end), forKey: name)
        if old == nil { turns.append(Turn(name: name, end: end)) }
        return old.map { ($0.hold, $0.byteCount) }
    }

    /// Ends those that are over.
    mutating func endExpired(by now: Instant, _ release: (Hold, Int) -> Void) {
        while first < turns.count, turns[first].end <= now {
            let name = turns[first].name
            first += 1
            guard let lease = leases[name] else { continue }
            if lease.end <= now {
                leases[name] = nil
                release(lease.hold, lease.byteCount)
            } else {
                turns.append(Turn(name: name, end: lease.end))
            }
        }
        if first > 1_024, first > turns.count / 2 {
            turns.removeFirst(first)
            first = 0
        }
    }

    /// Ends all.
    mutating func endAll(_ release: (Hold, Int) -> Void) {
        for lease in leases.values { release(lease.hold, lease.byteCount) }
        leases = [:]
        turns = []
        first = 0
    }
}
