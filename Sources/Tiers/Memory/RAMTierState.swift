// SPDX-License-Identifier: Apache-2.0
internal import KVCore

extension ChunkEntry {
    var description: ChunkDescription {
        ChunkDescription(
            byteCount: byteCount, checksum: checksum, layout: layout, level: level, expiry: expiry,
            firstPosition: positionPlusOne == 0 ? nil : positionPlusOne - 1)
    }
}

/// All that the tier's lock guards.
struct RAMTierState: ~Copyable {
    enum SlotOutcome {
        case taken(slot: UInt32, generation: UInt32, firstGranule: Int)
        case callAgain
        case refused(Status)
    }

    /// A hold, with where its bytes are.
    struct Held {
        let hold: Hold
        let firstGranule: Int
        let description: ChunkDescription
    }

    var table: ChunkTable
    var extents: ExtentAllocator
    var policy: LeastRecentlyUsed
    /// Chunks that wait to be written to SSD, the first to wait as the oldest; nil: there is none.
    var demotions: LeastRecentlyUsed?
    var statistics = RAMTier.Statistics()
    var sweepCursor: UInt32 = 0

    /// Chunks evicted in one call, so that the lock is held for microseconds.
    private static let evictionCountPerCallMax = 64

    func check(
        _ slot: UInt32, _ generation: UInt32, _ expected: ChunkEntry.State
    ) {
        invariant(
            table[slot].generation == generation && table[slot].state == expected,
            "a reservation is used once")
    }

    mutating func findUnexpired(
        _ namespace: NamespaceID, _ key: ChunkKey, _ now: Instant
    ) -> UInt32? {
        guard let slot = table.find(namespace, key) else { return nil }
        guard table[slot].expiry <= now else { return slot }
        unpublish(slot)
        statistics.expirationCount += 1
        return nil
    }

    /// Finds a slot and an extent, evicting for both.
    mutating func takeSpace(
        granuleCount: Int, for proposal: ChunkProposal
    ) -> SlotOutcome {
        var evictionCount = 0
        while true {
            if let slot = table.takeSlot() {
                if let extent = extents.allocate(granuleCount: granuleCount, owner: slot) {
                    return fill(slot, extent, proposal)
                }
                table.returnSlot(slot)
            }
            guard evictionCount < Self.evictionCountPerCallMax else { return .callAgain }
            guard let evicted = evictForRun(granuleCount: granuleCount) else {
                return .refused(.busy)
            }
            evictionCount += evicted
        }
    }

    private mutating func fill(
        _ slot: UInt32, _ extent: ExtentAllocator.NodeIndex, _ proposal: ChunkProposal
    ) -> SlotOutcome {
        let generation = table[slot].generation
        table[slot] = ChunkEntry(
            state: .filling, generation: generation, holdCount: 0, extent: extent,
            namespace: proposal.namespace, level: proposal.level, key: proposal.key,
            layout: proposal.layout, byteCount: proposal.byteCount, checksum: 0,
            expiry: proposal.expiry, positionPlusOne: proposal.firstPosition.map { $0 &+ 1 } ?? 0,
            nextUnused: .max)
        statistics.openReservationCount += 1
        return .taken(
            slot: slot, generation: generation,
            firstGranule: extents.granules(of: extent).lowerBound)
    }

    /// Evicts the policy's next victim and then, when enough is free but scattered, the victim's
    /// neighbours as far as they are cold, until one run is long enough. Hot neighbours go only
    /// when half the arena is free and still no run is long enough.
    /// - Returns: how many chunks went; nil when none can.
    private mutating func evictForRun(granuleCount: Int) -> Int? {
        guard let victim = nextVictim() else { return nil }
        var evictionCount = 1
        var run = evict(victim)
        // Only when enough is free in all, else a large chunk would eat its neighbourhood first.
        while extents.freeGranuleCount >= 2 * granuleCount,
            extents.granules(of: run).count < granuleCount,
            evictionCount < Self.evictionCountPerCallMax
        {
            let (previous, next) = extents.neighbourOwners(of: run)
            if let next, mayComplete(next) {
                run = evict(next)
            } else if let previous, mayComplete(previous) {
                run = evict(previous)
            } else {
                break
            }
            evictionCount += 1
        }
        return evictionCount
    }

    private func mayComplete(_ slot: UInt32) -> Bool {
        isEvictable(slot)
            && (policy.isCold(slot) || extents.freeGranuleCount >= extents.granuleCount / 2)
    }

    private func isEvictable(_ slot: UInt32) -> Bool {
        table[slot].state == .live && table[slot].holdCount == 0
            && table[slot].pinnedUntil.nanoseconds == 0
    }

    /// The policy's candidate that nobody reads; looks at each chunk at most once.
    private mutating func nextVictim() -> UInt32? {
        for _ in 0..<table.liveCount {
            guard let candidate = policy.candidate() else { return nil }
            if isEvictable(candidate) { return candidate }
            policy.used(candidate)
        }
        return nil
    }

    private mutating func evict(_ slot: UInt32) -> ExtentAllocator.NodeIndex {
        statistics.evictionCount += 1
        leaveIndex(slot)
        return freeEntry(slot)
    }

    /// Takes a chunk out of the index, and frees it unless it is being read.
    mutating func unpublish(_ slot: UInt32) {
        leaveIndex(slot)
        table[slot].state = .doomed
        if table[slot].holdCount == 0 { freeEntry(slot) }
    }

    private mutating func leaveIndex(_ slot: UInt32) {
        table.remove(slot)
        if table[slot].isAside { table[slot].isAside = false } else { policy.removed(slot) }
        if table[slot].storage == .waiting { demotions?.removed(slot) }
        if table[slot].pinnedUntil.nanoseconds != 0 { unpin(slot) }
    }

    mutating func unpin(_ slot: UInt32) {
        statistics.pinnedByteCount -= table[slot].byteCount
        table[slot].pinnedUntil = Instant(nanoseconds: 0)
    }

    /// The chunk is wanted on SSD, where it is not.
    mutating func admit(_ slot: UInt32) {
        guard table[slot].storage == .memoryOnly, demotions != nil else { return }
        table[slot].storage = .waiting
        demotions?.inserted(slot)
    }

    mutating func abandon(_ slot: UInt32) {
        statistics.openReservationCount -= 1
        freeEntry(slot)
    }

    @discardableResult
    mutating func freeEntry(_ slot: UInt32) -> ExtentAllocator.NodeIndex {
        let run = extents.free(table[slot].extent)
        table.returnSlot(slot)
        return run
    }

    // MARK: Reading

    /// Counts a use.
    mutating func use(_ slot: UInt32, _ use: RAMTier.Use, _ admission: RAMTier.Admission) {
        guard use != .doesNotCount else { return }
        touch(slot)
        // Where all are admitted at once, this is one that could not be written.
        if use == .counts, admission != .none { admit(slot) }
    }

    /// Counts a use for eviction.
    mutating func touch(_ slot: UInt32) {
        table[slot].wasUsed = true
        guard table[slot].isAside else { return policy.used(slot) }
        table[slot].isAside = false
        policy.inserted(slot)
    }

    /// Takes a chunk from SSD into the order. One that nobody used twice goes before all others; it
    /// stays out of the order while it is held, or it would return to its warm end as `nextVictim`
    /// passes, and push out what is used.
    mutating func list(_ slot: UInt32, isCold: Bool, isHeld: Bool) {
        table[slot].isAside = isCold && isHeld
        guard !table[slot].isAside else { return }
        isCold ? policy.insertedColdest(slot) : policy.inserted(slot)
    }

    /// Ends one hold.
    mutating func release(_ slot: UInt32) {
        statistics.holdCount -= 1
        table[slot].holdCount -= 1
        guard table[slot].holdCount == 0 else { return }
        if table[slot].state == .doomed {
            freeEntry(slot)
        } else if table[slot].isAside {
            list(slot, isCold: true, isHeld: false)
        }
    }

    mutating func hold(_ slot: UInt32) -> Held {
        table[slot].holdCount += 1
        statistics.holdCount += 1
        return place(of: slot)
    }

    func place(of slot: UInt32) -> Held {
        let entry = table[slot]
        return Held(
            hold: Hold(slot: slot, generation: entry.generation),
            firstGranule: extents.granules(of: entry.extent).lowerBound,
            description: entry.description)
    }
}
