// SPDX-License-Identifier: Apache-2.0
package import Codec
package import KVCore
internal import Synchronization

/// What a chunk is, as told to clients. A value.
package struct ChunkDescription: Hashable, Sendable {
    package let byteCount: Int
    package let checksum: UInt64
    package let layout: LayoutID
    package let level: Level
    /// When it ends; `distantFuture` for never.
    package let expiry: Instant
    /// Place of the first token in its sequence; nil: not known, as of all that comes from SSD.
    package var firstPosition: UInt32?
}

/// What a writer says of the chunk that it is about to write. A value.
package struct ChunkProposal: Sendable {
    package let namespace: NamespaceID
    package let key: ChunkKey
    package let layout: LayoutID
    package let level: Level
    package let byteCount: Int
    /// When it is to end; `distantFuture` for never.
    package let expiry: Instant
    /// Place of the first token in its sequence; nil: not known.
    package let firstPosition: UInt32?

    package init(
        namespace: NamespaceID, key: ChunkKey, layout: LayoutID, level: Level = .raw,
        byteCount: Int, expiry: Instant = .distantFuture, firstPosition: UInt32? = nil
    ) {
        self.namespace = namespace
        self.key = key
        self.layout = layout
        self.level = level
        self.byteCount = byteCount
        self.expiry = expiry
        self.firstPosition = firstPosition
    }
}

/// Chunks in one memory arena with a hard budget: immutable, put if absent, evicted when room is
/// needed and nobody reads them.
///
/// Life of a chunk: `reserve` takes space, the writer fills it, `commit` makes it visible at once
/// and whole; `hold` lends it to a reader, who keeps it from being evicted or reused; eviction,
/// expiry or `remove` make it unfindable, and the last reader's `release` frees its bytes.
///
/// Any thread; every call is a short section under one leaf lock (measured simpler and, at our
/// request rates, as fast as partitions) and allocates nothing. The tier never looks at the clock:
/// callers say what time it is. Arena bytes are only ever written between `reserve` and `commit`.
package final class RAMTier: Sendable {
    /// How much a tier may hold. A value.
    package struct Capacity: Hashable, Sendable {
        package let arenaByteCount: Int
        package let entryCountMax: Int

        /// An entry, its two extent nodes, its links in two orders and its index buckets.
        package static let bookkeepingByteCountPerEntry =
            MemoryLayout<ChunkEntry>.stride + 2 * 28 + 2 * 16 + 4 * 4
        /// Entries never run out before space does for chunks of this size and more.
        private static let chunkByteCountExpected = 16 << 10

        /// Splits a budget into arena and bookkeeping; nil when it is too small for a granule.
        package init?(budget: ByteCount) {
            let entryCountMax = min(
                max(budget.bytes / Self.chunkByteCountExpected, 65_536),
                budget.bytes / Limits.arenaGranuleByteCount, 1 << 30)
            let bookkeeping = entryCountMax * Self.bookkeepingByteCountPerEntry
            let arena = (budget.bytes - bookkeeping) / Limits.arenaGranuleByteCount
            guard entryCountMax > 0, arena > 0 else { return nil }
            arenaByteCount = arena * Limits.arenaGranuleByteCount
            self.entryCountMax = entryCountMax
        }
    }

    /// Counts since the start, and what is there now. A value.
    package struct Statistics: Hashable, Sendable {
        package var chunkCount = 0
        package var usedByteCount = 0
        package var evictionCount = 0
        package var expirationCount = 0
        package var openReservationCount = 0
        package var holdCount = 0
        package var pinnedByteCount = 0
    }

    /// Which chunks are written to SSD.
    package enum Admission: Sendable {
        /// None: there is no SSD tier.
        case none
        /// Each, once it is stored.
        case all
        /// Those that are used after they were stored.
        case secondUse
    }

    let arena: PinnedBytes
    package let admission: Admission
    let state: Mutex<RAMTierState>
    private let encodedChunksCame = Atomic<Bool>(false)

    /// A tier over `arena`, whose size is `capacity.arenaByteCount`. `seed` is random bits.
    package init(
        arena: PinnedBytes, capacity: Capacity, seed: UInt64, admission: Admission = .none
    ) {
        invariant(arena.count == capacity.arenaByteCount, "the arena has the size planned for it")
        self.arena = arena
        self.admission = admission
        state = Mutex(
            RAMTierState(
                table: ChunkTable(entryCountMax: capacity.entryCountMax, seed: seed),
                extents: ExtentAllocator(
                    granuleCount: arena.count / Limits.arenaGranuleByteCount,
                    extentCountMax: capacity.entryCountMax),
                policy: LeastRecentlyUsed(entryCountMax: capacity.entryCountMax),
                demotions: admission == .none
                    ? nil : LeastRecentlyUsed(entryCountMax: capacity.entryCountMax)))
    }

    /// The largest chunk that could ever fit.
    package var chunkByteCountMax: Int { arena.count }

    /// Whether any chunk at another level than raw has come here since the start.
    package var mayHoldEncodedChunks: Bool { encodedChunksCame.load(ordering: .relaxed) }

    /// Where `bytes` begins within the arena; for clients that mapped it.
    package func arenaOffset(of bytes: PinnedBytes) -> Int {
        // SAFETY: both addresses belong to the arena, so their distance is meaningful.
        unsafe bytes.start - arena.start
    }

    /// Counts and sizes.
    package func statistics() -> Statistics {
        state.withLock { state in
            var statistics = state.statistics
            statistics.chunkCount = state.table.liveCount
            let freeGranuleCount = state.extents.freeGranuleCount
            statistics.usedByteCount =
                arena.count - freeGranuleCount * Limits.arenaGranuleByteCount
            return statistics
        }
    }

    // MARK: Writing

    /// The outcome of `reserve`.
    package enum ReserveResult: ~Copyable {
        /// Space to fill.
        case reserved(Reservation)
        /// Some chunks were evicted, more must be; call again. Bounds the time under the lock.
        case callAgain
        /// `exists`, `busy` or `tooLarge`.
        case refused(Status)
    }

    /// Takes space for a chunk. Evicts what it must, at most 64 chunks a call.
    package func reserve(_ proposal: ChunkProposal, now: Instant) -> ReserveResult {
        takeSpace(proposal) { state in
            guard let slot = state.findUnexpired(proposal.namespace, proposal.key, now) else {
                return nil
            }
            state.touch(slot)
            return .exists
        }
    }

    /// Takes space that nobody will ever find: for a part of a chunk.
    package func reserveScratch(byteCount: Int) -> ReserveResult {
        takeSpace(
            ChunkProposal(
                namespace: .default, key: ChunkKey(words: (0, 0, 0, 0)), layout: .opaque,
                byteCount: byteCount))
    }

    /// Takes space for a chunk unless `refusal`, asked under the lock, says why not.
    func takeSpace(
        _ proposal: ChunkProposal, unless refusal: (inout RAMTierState) -> Status? = { _ in nil }
    ) -> ReserveResult {
        guard proposal.byteCount > 0, proposal.byteCount <= chunkByteCountMax else {
            return .refused(.tooLarge)
        }
        let granule = Limits.arenaGranuleByteCount
        let outcome = state.withLock { state -> RAMTierState.SlotOutcome in
            if let status = refusal(&state) { return .refused(status) }
            return state.takeSpace(
                granuleCount: (proposal.byteCount + granule - 1) / granule, for: proposal)
        }
        switch outcome {
        case .refused(let status): return .refused(status)
        case .callAgain: return .callAgain
        case .taken(let slot, let generation, let firstGranule):
            if proposal.level != .raw { encodedChunksCame.store(true, ordering: .relaxed) }
            let bytes = arena.slice(offset: firstGranule * granule, count: proposal.byteCount)
            // What another chunk left behind this one's end must not get to the disk with it.
            if admission != .none { wholeGranules(of: bytes).dropFirst(bytes.count).fill(0) }
            return .reserved(
                Reservation(tier: self, slot: slot, generation: generation, bytes: bytes))
        }
    }

    func commit(
        _ slot: UInt32, _ generation: UInt32, checksum: UInt64, _ origin: ChunkOrigin,
        holds: Bool = false
    ) -> Status {
        let admitsNow = admission == .all
        return state.withLock { state in
            state.check(slot, generation, .filling)
            let namespace = state.table[slot].namespace
            guard state.table.find(namespace, state.table[slot].key) == nil else {
                state.abandon(slot)
                return .exists
            }
            state.table[slot].checksum = checksum
            state.table[slot].state = .live
            state.table.insert(slot)
            switch origin {
            case .writer:
                state.policy.inserted(slot)
                if admitsNow { state.admit(slot) }
            case .ssd(let isCold):
                state.table[slot].storage = .stored
                state.list(slot, isCold: isCold, isHeld: holds)
            }
            state.statistics.openReservationCount -= 1
            if holds { _ = state.hold(slot) }
            return .ok
        }
    }

    func keepUnlisted(
        _ slot: UInt32, _ generation: UInt32, _ bytes: PinnedBytes, _ form: ChunkDescription
    ) {
        // As in `takeSpace`: it may be written to disk in whole blocks.
        wholeGranules(of: bytes).dropFirst(bytes.count).fill(0)
        state.withLock { state in
            state.check(slot, generation, .filling)
            state.table[slot].layout = form.layout
            state.table[slot].level = form.level
            state.table[slot].byteCount = form.byteCount
            state.table[slot].checksum = form.checksum
            state.table[slot].expiry = form.expiry
            state.table[slot].positionPlusOne = form.firstPosition.map { $0 &+ 1 } ?? 0
            // As one that was taken out of the index while it was read.
            state.table[slot].state = .doomed
            state.statistics.openReservationCount -= 1
            _ = state.hold(slot)
        }
    }

    func abort(_ slot: UInt32, _ generation: UInt32) {
        state.withLock { state in
            state.check(slot, generation, .filling)
            state.abandon(slot)
        }
    }

    // MARK: Reading

    /// Lends a chunk to a reader, and counts as a use; nil when it is absent or has expired.
    package func hold(
        _ namespace: NamespaceID, _ key: ChunkKey, now: Instant, asUse: Use = .counts
    ) -> HeldChunk? {
        let admission = admission
        let found = state.withLock { state -> RAMTierState.Held? in
            guard let slot = state.findUnexpired(namespace, key, now) else { return nil }
            state.use(slot, asUse, admission)
            return state.hold(slot)
        }
        return found.map { lend($0) }
    }

    /// Lends what `escape` took out of a `HeldChunk` again; it is this value's to release now.
    package func lend(_ hold: Hold) -> HeldChunk {
        lend(
            state.withLock { state in
                let entry = state.table[hold.slot]
                invariant(
                    entry.generation == hold.generation && entry.holdCount > 0,
                    "only a hold that was not released is lent")
                return state.place(of: hold.slot)
            })
    }

    func lend(_ held: RAMTierState.Held) -> HeldChunk {
        HeldChunk(
            hold: held.hold, tier: self,
            bytes: arena.slice(
                offset: held.firstGranule * Limits.arenaGranuleByteCount,
                count: held.description.byteCount),
            description: held.description)
    }

    /// Ends a hold that was taken out of its `HeldChunk` by `escape`.
    package func release(_ hold: Hold) {
        state.withLock { state in
            let entry = state.table[hold.slot]
            invariant(
                entry.generation == hold.generation && entry.holdCount > 0,
                "a hold is released once")
            state.release(hold.slot)
        }
    }

    /// What is known of a chunk; nil when it is absent or has expired.
    package func describe(
        _ namespace: NamespaceID, _ key: ChunkKey, now: Instant, asUse: Use
    ) -> ChunkDescription? {
        let admission = admission
        return state.withLock { state in
            guard let slot = state.findUnexpired(namespace, key, now) else { return nil }
            state.use(slot, asUse, admission)
            return state.table[slot].description
        }
    }

    /// Whether a look counts for eviction, and for admission to SSD.
    package enum Use: Sendable {
        case counts
        /// For eviction alone: what stood before the chunk is missing, so it is of no use there.
        case countsInMemory
        case doesNotCount
    }

    // MARK: Removing

    /// Makes a chunk unfindable; its readers keep it until they let go.
    /// - Returns: whether it was there.
    package func remove(_ namespace: NamespaceID, _ key: ChunkKey, now: Instant) -> Bool {
        state.withLock { state in
            guard let slot = state.findUnexpired(namespace, key, now) else { return false }
            state.unpublish(slot)
            return true
        }
    }

    /// Removes expired chunks among the next `entryCount` slots; call it now and then.
    package func sweep(entryCount: Int, now: Instant) {
        state.withLock { state in
            for _ in 0..<min(entryCount, state.table.entries.count) {
                let slot = state.sweepCursor
                state.sweepCursor = (slot + 1) % UInt32(state.table.entries.count)
                let pinnedUntil = state.table[slot].pinnedUntil
                if pinnedUntil.nanoseconds != 0, pinnedUntil <= now { state.unpin(slot) }
                if state.table[slot].state == .live, state.table[slot].expiry <= now {
                    state.unpublish(slot)
                    state.statistics.expirationCount += 1
                }
            }
        }
    }
}
