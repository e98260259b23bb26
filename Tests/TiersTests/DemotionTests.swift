// SPDX-License-Identifier: Apache-2.0
import KVCore
import Testing

@testable import Tiers

extension TestTier {
    /// The number of the chunk that is written next; nil when none waits. Lets go of it.
    func takeDemotion(now: Instant = start) -> UInt64? {
        guard let demotion = tier.takeDemotion(now: now) else { return nil }
        return demotion.name.key.words.1
    }

    func takeAllDemotions() -> [UInt64] {
        var numbers: [UInt64] = []
        while let number = takeDemotion() { numbers.append(number) }
        return numbers
    }

    func use(_ number: UInt64, as use: RAMTier.Use = .counts) {
        _ = tier.describe(.default, key(number), now: start, asUse: use)
    }

    /// Puts a chunk there that was read from SSD.
    func load(_ number: UInt64, byteCount: Int, isCold: Bool) -> Status {
        switch reserve(number, byteCount: byteCount) {
        case .reserved(let reservation):
            return reservation.commit(checksum: 0, from: .ssd(isCold: isCold))
        case .refused(let status): return status
        case .callAgain: return .busy
        }
    }

    /// Puts a cold chunk there that was read from SSD, for a reader.
    func loadHeld(_ number: UInt64, byteCount: Int) -> Hold? {
        guard case .reserved(let reservation) = reserve(number, byteCount: byteCount) else {
            return nil
        }
        return reservation.commitHeld(checksum: 0, from: .ssd(isCold: true))
    }

    private func reserve(_ number: UInt64, byteCount: Int) -> RAMTier.ReserveResult {
        let proposal = ChunkProposal(
            namespace: .default, key: key(number), layout: .opaque, byteCount: byteCount)
        while true {
            switch tier.reserve(proposal, now: start) {
            case .callAgain: continue
            case .refused(let status): return .refused(status)
            case .reserved(let reservation): return .reserved(reservation)
            }
        }
    }
}

private func name(_ number: UInt64) -> ChunkName { ChunkName(.default, key(number)) }

@Suite struct `The queue of chunks for SSD` {
    @Test func `has every chunk once, in the order of storing`() throws {
        let world = try TestTier(admission: .all)
        #expect(!world.tier.hasDemotions)
        for number in 1...5 as ClosedRange<UInt64> {
            #expect(world.put(key(number), byteCount: 100) == .ok)
        }
        #expect(world.tier.hasDemotions)
        for number in [1, 3] as [UInt64] { world.use(number) }
        #expect(world.takeAllDemotions() == [1, 2, 3, 4, 5])
        #expect(!world.tier.hasDemotions)
        world.use(2)
        #expect(world.takeAllDemotions() == [])
        #expect(world.tier.statistics().holdCount == 0)
    }

    @Test func `stays empty without an SSD tier`() throws {
        let world = try TestTier()
        #expect(world.put(key(1), byteCount: 100) == .ok)
        world.use(1)
        #expect(world.tier.pin(name(1), until: Instant(nanoseconds: 9), now: start) == .ok)
        #expect(!world.tier.hasDemotions)
    }

    @Test func `has only what was used again, with second use`() throws {
        let world = try TestTier(admission: .secondUse)
        for number in 1...5 as ClosedRange<UInt64> {
            #expect(world.put(key(number), byteCount: 100) == .ok)
        }
        world.use(4)
        world.use(2, as: .doesNotCount)
        world.use(3, as: .countsInMemory)
        _ = world.tier.hold(.default, key(1), now: start)
        world.use(4)
        #expect(world.takeAllDemotions() == [4, 1])
    }

    @Test func `loses what is evicted, deleted or expired`() throws {
        let world = try TestTier(admission: .all)
        let size = world.tier.chunkByteCountMax / 4 / 4_096 * 4_096
        for number in 1...4 as ClosedRange<UInt64> {
            let end = number == 2 ? Instant(nanoseconds: 10) : .distantFuture
            #expect(world.put(key(number), byteCount: size, expiry: end) == .ok)
        }
        // A fifth evicts the first.
        #expect(world.put(key(5), byteCount: size) == .ok)
        #expect(world.tier.remove(.default, key(4), now: start))
        #expect(world.takeDemotion(now: Instant(nanoseconds: 10)) == 3)
        #expect(world.takeAllDemotions() == [5])
    }

    @Test func `keeps a chunk in memory while it is being written`() throws {
        let world = try TestTier(admission: .all)
        let size = world.tier.chunkByteCountMax / 2 / 4_096 * 4_096
        #expect(world.put(key(1), byteCount: size) == .ok)
        do {
            guard let demotion = world.tier.takeDemotion(now: start) else {
                Issue.record("nothing waits")
                return
            }
            #expect(world.tier.statistics().holdCount == 1)
            #expect(world.put(key(2), byteCount: size) == .ok)
            #expect(world.put(key(3), byteCount: size) == .ok)
            #expect(world.contains(key(1)) && !world.contains(key(2)))
            // Deleted meanwhile: the writer is told, and its bytes stay.
            #expect(world.tier.remove(.default, key(1), now: start))
            let hold = demotion.release()
            let held = world.tier.lend(hold)
            let (isFindable, byte) = (held.isFindable, held.bytes[0])
            #expect(!isFindable && byte == 7)
        }
        #expect(world.tier.statistics().holdCount == 0)
    }

    @Test func `gives a chunk out of its turn`() throws {
        let world = try TestTier(admission: .all)
        for number in 1...3 as ClosedRange<UInt64> {
            #expect(world.put(key(number), byteCount: 100) == .ok)
        }
        _ = world.tier.demote(name(2), now: start)
        let absent = world.tier.demote(name(9), now: start)
        let isAbsent = absent == nil
        #expect(isAbsent)
        #expect(world.takeAllDemotions() == [1, 3])
    }

    @Test(arguments: [RAMTier.Admission.all, .secondUse])
    func `takes a chunk again that is not on SSD after all`(admission: RAMTier.Admission) throws {
        let world = try TestTier(admission: admission)
        for number in 1...3 as ClosedRange<UInt64> {
            #expect(world.put(key(number), byteCount: 100) == .ok)
            world.use(number)
        }
        #expect(world.takeAllDemotions() == [1, 2, 3])
        world.tier.isNotStored(name(1), waits: false)
        world.tier.isNotStored(name(2), waits: true)
        world.tier.isNotStored(name(9), waits: true)
        #expect(world.takeAllDemotions() == [2])
        for number in 1...3 as ClosedRange<UInt64> { world.use(number) }
        #expect(world.takeAllDemotions() == [1])
    }

    @Test func `does not take back what came from SSD`() throws {
        let world = try TestTier(admission: .all)
        #expect(world.load(1, byteCount: 100, isCold: false) == .ok)
        world.use(1)
        #expect(!world.tier.hasDemotions)
        world.tier.isNotStored(name(1), waits: true)
        #expect(world.takeAllDemotions() == [1])
    }
}

@Suite struct `A chunk that was read from SSD` {
    @Test func `goes first when it is cold, and in its turn once it is used`() throws {
        let world = try TestTier(admission: .all)
        let size = world.tier.chunkByteCountMax / 4 / 4_096 * 4_096
        for number in 1...2 as ClosedRange<UInt64> {
            #expect(world.put(key(number), byteCount: size) == .ok)
        }
        #expect(world.load(3, byteCount: size, isCold: true) == .ok)
        #expect(world.load(4, byteCount: size, isCold: true) == .ok)
        world.use(3)
        #expect(world.put(key(5), byteCount: size) == .ok)
        #expect(!world.contains(key(4)) && world.contains(key(3)) && world.contains(key(1)))
        #expect(world.put(key(6), byteCount: size) == .ok)
        #expect(!world.contains(key(1)) && world.contains(key(3)))
    }

    @Test func `is still the first to go once its reader lets go of it`() throws {
        let world = try TestTier(admission: .all)
        let size = world.tier.chunkByteCountMax / 4 / 4_096 * 4_096
        for number in 1...2 as ClosedRange<UInt64> {
            #expect(world.put(key(number), byteCount: size) == .ok)
        }
        let third = try #require(world.loadHeld(3, byteCount: size))
        let fourth = try #require(world.loadHeld(4, byteCount: size))
        // What is held cannot go.
        #expect(world.put(key(5), byteCount: size) == .ok)
        #expect(!world.contains(key(1)))
        world.use(4)
        world.tier.release(third)
        world.tier.release(fourth)
        #expect(world.put(key(6), byteCount: size) == .ok)
        #expect(!world.contains(key(3)) && world.contains(key(2)) && world.contains(key(4)))
        #expect(world.put(key(7), byteCount: size) == .ok)
        #expect(!world.contains(key(2)) && world.contains(key(4)))
    }

    @Test func `can be deleted while it is read`() throws {
        let world = try TestTier(admission: .all)
        let size = world.tier.chunkByteCountMax / 4 / 4_096 * 4_096
        let held = try #require(world.loadHeld(1, byteCount: size))
        #expect(world.tier.remove(.default, key(1), now: start))
        world.tier.release(held)
        for number in 2...9 as ClosedRange<UInt64> {
            #expect(world.put(key(number), byteCount: size) == .ok)
        }
        #expect(world.tier.statistics().chunkCount == 4)
    }

    @Test func `is as good as a new one when it is not cold`() throws {
        let world = try TestTier(admission: .all)
        let size = world.tier.chunkByteCountMax / 2 / 4_096 * 4_096
        #expect(world.put(key(1), byteCount: size) == .ok)
        #expect(world.load(2, byteCount: size, isCold: false) == .ok)
        #expect(world.put(key(3), byteCount: size) == .ok)
        #expect(!world.contains(key(1)) && world.contains(key(2)))
    }
}

@Suite struct `A pin in memory` {
    private let later = Instant(nanoseconds: 1_000)

    @Test func `keeps its chunk from eviction until it ends`() throws {
        let world = try TestTier()
        let size = world.tier.chunkByteCountMax / 4 / 4_096 * 4_096
        for number in 1...4 as ClosedRange<UInt64> {
            #expect(world.put(key(number), byteCount: size) == .ok)
        }
        #expect(world.tier.pin(name(1), until: later, now: start) == .ok)
        #expect(world.tier.statistics().pinnedByteCount == size)
        for number in 5...10 as ClosedRange<UInt64> {
            #expect(world.put(key(number), byteCount: size) == .ok)
        }
        #expect(world.contains(key(1)))
        world.tier.sweep(entryCount: 1_000, now: Instant(nanoseconds: 999))
        #expect(world.tier.statistics().pinnedByteCount == size)
        world.tier.sweep(entryCount: 1_000, now: later)
        #expect(world.tier.statistics().pinnedByteCount == 0)
        for number in 11...14 as ClosedRange<UInt64> {
            #expect(world.put(key(number), byteCount: size) == .ok)
        }
        #expect(!world.contains(key(1)))
    }

    @Test func `is bounded, replaced and ended`() throws {
        let world = try TestTier(admission: .secondUse)
        let size = world.tier.chunkByteCountMax / 5 / 4_096 * 4_096
        for number in 1...4 as ClosedRange<UInt64> {
            #expect(world.put(key(number), byteCount: size) == .ok)
        }
        let pin = { number in world.tier.pin(name(number), until: later, now: start) }
        #expect(pin(9) == .notFound)
        #expect(pin(1) == .ok && pin(2) == .ok && pin(3) == .busy)
        // The first again: it counts once.
        #expect(pin(1) == .ok)
        #expect(world.tier.statistics().pinnedByteCount == 2 * size)
        #expect(world.tier.pin(name(1), until: start, now: start) == .ok)
        #expect(pin(3) == .ok && pin(1) == .busy)
        // Whoever is pinned is wanted on SSD.
        #expect(world.takeAllDemotions() == [1, 2, 3])
        for number in [2, 3] as [UInt64] {
            #expect(world.tier.remove(.default, key(number), now: start))
        }
        #expect(world.tier.statistics().pinnedByteCount == 0)
    }
}
