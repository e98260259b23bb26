// SPDX-License-Identifier: Apache-2.0
package import KVCore
internal import Synchronization

/// The way of chunks to SSD, and pins.
///
/// Chunks that are wanted on SSD stand in a queue inside the entry table, so that the queue needs
/// no bound of its own and no writer of a chunk ever waits for it: a chunk that is evicted before
/// its turn leaves the queue.
extension RAMTier {
    /// A chunk that is being written to SSD: its bytes stay until it is dropped.
    package struct Demotion: ~Copyable, Sendable {
        package let name: ChunkName
        package let held: HeldChunk

        /// The hold, for the caller to `lend` or `release` once.
        package consuming func release() -> Hold { held.escape() }
    }

    /// Another hold on a chunk that is held.
    package func holdAgain(_ hold: Hold) -> Hold {
        state.withLock { $0.hold(hold.slot).hold }
    }

    /// Runs `body` over the bytes of a chunk that is held, and stays so meanwhile.
    package func withHeld<Result>(_ hold: Hold, _ body: (PinnedBytes) -> Result) -> Result {
        let place = state.withLock { $0.place(of: hold.slot) }
        return body(
            arena.slice(
                offset: place.firstGranule * Limits.arenaGranuleByteCount,
                count: place.description.byteCount))
    }

    /// What is known of a chunk that is held.
    package func description(of hold: Hold) -> ChunkDescription {
        state.withLock { $0.table[hold.slot].description }
    }

    /// The size of a chunk that is held.
    package func byteCount(of hold: Hold) -> Int {
        state.withLock { $0.table[hold.slot].byteCount }
    }

    /// The memory of a chunk to the end of its last granule, for I/O in whole blocks.
    package func wholeGranules(of bytes: PinnedBytes) -> PinnedBytes {
        let granule = Limits.arenaGranuleByteCount
        return arena.slice(
            offset: arenaOffset(of: bytes), count: (bytes.count + granule - 1) / granule * granule)
    }

    /// Takes the chunk that has waited longest; nil when none waits.
    package func takeDemotion(now: Instant) -> Demotion? {
        let taken = state.withLock { state -> (ChunkName, RAMTierState.Held)? in
            while let slot = state.demotions?.candidate() {
                state.demotions?.removed(slot)
                state.table[slot].storage = .stored
                if state.table[slot].expiry <= now { continue }
                let entry = state.table[slot]
                return (ChunkName(entry.namespace, entry.key), state.hold(slot))
            }
            return nil
        }
        guard let (name, held) = taken else { return nil }
        return Demotion(name: name, held: lend(held))
    }

    /// Whether a chunk that is held can still be found.
    func isLive(_ hold: Hold) -> Bool {
        state.withLock { $0.table[hold.slot].state == .live }
    }

    /// Whether a chunk waits for `takeDemotion`.
    package var hasDemotions: Bool {
        state.withLock { $0.demotions?.candidate() != nil }
    }

    /// Takes a chunk of that name out of its turn; nil when it is not in memory.
    package func demote(_ name: ChunkName, now: Instant) -> Demotion? {
        let taken = state.withLock { state -> RAMTierState.Held? in
            guard let slot = state.findUnexpired(name.namespace, name.key, now) else { return nil }
            if state.table[slot].storage == .waiting { state.demotions?.removed(slot) }
            state.table[slot].storage = .stored
            return state.hold(slot)
        }
        return taken.map { Demotion(name: name, held: lend($0)) }
    }

    /// A chunk is not on SSD after all: it could not be written, or is there no more. It waits
    /// again when it is used, or at once where `waits`.
    package func isNotStored(_ name: ChunkName, waits: Bool) {
        state.withLock { state in
            guard let slot = state.table.find(name.namespace, name.key),
                state.table[slot].storage == .stored
            else { return }
            state.table[slot].storage = .memoryOnly
            if waits { state.admit(slot) }
        }
    }

    /// Whether the chunk is in memory; counts as no use.
    package func isResident(_ name: ChunkName) -> Bool {
        state.withLock { $0.table.find(name.namespace, name.key) != nil }
    }

    /// Whether the chunk is in memory, was used there, and not so long ago that it would go soon.
    func isInUse(_ name: ChunkName) -> Bool {
        state.withLock { state in
            guard let slot = state.table.find(name.namespace, name.key) else { return false }
            return state.table[slot].wasUsed && !state.policy.isCold(slot)
        }
    }

    /// Keeps a chunk from being evicted until `end`; in the past: no longer. Pins take at most
    /// half of the arena.
    /// - Returns: `ok`, `notFound`, or `busy` when too much is pinned.
    package func pin(_ name: ChunkName, until end: Instant, now: Instant) -> Status {
        let byteCountMax = chunkByteCountMax / 2
        return state.withLock { state in
            guard let slot = state.findUnexpired(name.namespace, name.key, now) else {
                return .notFound
            }
            if state.table[slot].pinnedUntil.nanoseconds != 0 { state.unpin(slot) }
            guard end > now else { return .ok }
            let byteCount = state.table[slot].byteCount
            guard state.statistics.pinnedByteCount + byteCount <= byteCountMax else { return .busy }
            state.statistics.pinnedByteCount += byteCount
            state.table[slot].pinnedUntil = end
            state.admit(slot)
            return .ok
        }
    }
}
