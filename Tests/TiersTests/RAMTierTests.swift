// SPDX-License-Identifier: Apache-2.0
import KVCore
import Testing

@testable import Tiers

/// A tier over heap memory, and the arena that must outlive it.
struct TestTier {
    let arena: OwnedBytes
    let tier: RAMTier

    init(budget: ByteCount = .mebibytes(1), admission: RAMTier.Admission = .none) throws {
        let capacity = try #require(RAMTier.Capacity(budget: budget))
        arena = OwnedBytes(count: capacity.arenaByteCount, alignment: 4_096)
        tier = RAMTier(arena: arena.bytes, capacity: capacity, seed: 42, admission: admission)
    }

    func put(
        _ key: ChunkKey, byteCount: Int, fill: UInt8 = 7, namespace: NamespaceID = .default,
        expiry: Instant = .distantFuture, now: Instant = Instant(nanoseconds: 0)
    ) -> Status {
        let proposal = ChunkProposal(
            namespace: namespace, key: key, layout: .opaque, byteCount: byteCount, expiry: expiry)
        while true {
            switch tier.reserve(proposal, now: now) {
            case .callAgain: continue
            case .refused(let status): return status
            case .reserved(let reservation):
                reservation.bytes.fill(fill)
                return reservation.commit(checksum: UInt64(fill))
            }
        }
    }

    func contains(_ key: ChunkKey, now: Instant = Instant(nanoseconds: 0)) -> Bool {
        tier.describe(.default, key, now: now, asUse: .doesNotCount) != nil
    }
}

func key(_ number: UInt64) -> ChunkKey {
    ChunkKey(words: (number &* 0x9e37_79b9_7f4a_7c15, number, 3, 4))
}

let start = Instant(nanoseconds: 0)

@Suite struct `The RAM tier` {
    @Test func `returns what was put, and refuses a second put`() throws {
        let world = try TestTier()
        #expect(world.put(key(1), byteCount: 10_000, fill: 9) == .ok)
        #expect(world.put(key(1), byteCount: 10_000, fill: 8) == .exists)
        guard let held = world.tier.hold(.default, key(1), now: start) else {
            Issue.record("the chunk is absent")
            return
        }
        let bytes = held.bytes
        #expect((0..<bytes.count).map { bytes[$0] } == Array(repeating: 9, count: 10_000))
        let checksum = held.description.checksum
        #expect(checksum == 9)
    }

    @Test func `keeps namespaces apart`() throws {
        let world = try TestTier()
        #expect(world.put(key(1), byteCount: 1, namespace: NamespaceID(number: 1)) == .ok)
        #expect(!world.contains(key(1)))
        #expect(!world.tier.remove(.default, key(1), now: start))
    }

    @Test func `shows nothing of a reservation, and frees one that is dropped`() throws {
        let world = try TestTier()
        do {
            let proposal = ChunkProposal(
                namespace: .default, key: key(1), layout: .opaque, byteCount: 5_000)
            let result = world.tier.reserve(proposal, now: start)
            #expect(world.tier.statistics().openReservationCount == 1)
            #expect(!world.contains(key(1)))
            _ = consume result
        }
        #expect(world.tier.statistics() == RAMTier.Statistics())
    }

    @Test func `lets the first of two writers win`() throws {
        let world = try TestTier()
        let proposal = ChunkProposal(
            namespace: .default, key: key(1), layout: .opaque, byteCount: 5_000)
        guard case .reserved(let slow) = world.tier.reserve(proposal, now: start) else {
            Issue.record("no room")
            return
        }
        #expect(world.put(key(1), byteCount: 5_000) == .ok)
        #expect(slow.commit(checksum: 0) == .exists)
        #expect(world.tier.statistics().openReservationCount == 0)
        #expect(world.tier.statistics().chunkCount == 1)
    }

    @Test func `evicts what was used longest ago`() throws {
        let world = try TestTier()
        let size = world.tier.chunkByteCountMax / 4 / 4_096 * 4_096
        for number in 1...4 { #expect(world.put(key(UInt64(number)), byteCount: size) == .ok) }
        _ = world.tier.hold(.default, key(1), now: start)
        #expect(world.put(key(5), byteCount: size) == .ok)
        #expect(world.contains(key(1)))
        #expect(!world.contains(key(2)))
        #expect(world.tier.statistics().evictionCount == 1)
    }

    @Test func `answers busy when everything is held, and recovers`() throws {
        let world = try TestTier()
        let size = world.tier.chunkByteCountMax / 2 / 4_096 * 4_096
        #expect(world.put(key(1), byteCount: size) == .ok)
        #expect(world.put(key(2), byteCount: size) == .ok)
        do {
            let first = world.tier.hold(.default, key(1), now: start)
            let second = world.tier.hold(.default, key(2), now: start)
            #expect(world.put(key(3), byteCount: size) == .busy)
            _ = consume first
            _ = consume second
        }
        #expect(world.put(key(3), byteCount: size) == .ok)
    }

    @Test func `makes one long run out of scattered chunks`() throws {
        let world = try TestTier()
        var number: UInt64 = 0
        while world.tier.statistics().evictionCount == 0 {
            number += 1
            #expect(world.put(key(number), byteCount: 4_096) == .ok)
        }
        #expect(world.put(key(0), byteCount: world.tier.chunkByteCountMax) == .ok)
        #expect(world.tier.statistics().chunkCount == 1)
    }

    @Test func `keeps recent chunks when a long run is made among old ones`() throws {
        let world = try TestTier(budget: .mebibytes(16))
        for number in 1...3_000 { #expect(world.put(key(UInt64(number)), byteCount: 4_096) == .ok) }
        let large = 1 << 20
        for number in 10_001...10_008 {
            #expect(world.put(key(UInt64(number)), byteCount: large) == .ok)
        }
        for number in 10_001...10_008 { #expect(world.contains(key(UInt64(number)))) }
    }

    @Test func `refuses what can never fit`() throws {
        let world = try TestTier()
        #expect(world.put(key(1), byteCount: world.tier.chunkByteCountMax + 1) == .tooLarge)
    }

    @Test func `gives a deleted chunk to its reader until the end, and to nobody else`() throws {
        let world = try TestTier()
        #expect(world.put(key(1), byteCount: 4_096, fill: 5) == .ok)
        do {
            guard let held = world.tier.hold(.default, key(1), now: start) else {
                Issue.record("the chunk is absent")
                return
            }
            #expect(world.tier.remove(.default, key(1), now: start))
            #expect(!world.contains(key(1)))
            #expect(world.put(key(1), byteCount: 4_096, fill: 6) == .ok)
            let first = held.bytes[0]
            #expect(first == 5)
        }
        #expect(world.tier.statistics().chunkCount == 1)
        #expect(world.tier.statistics().usedByteCount == 4_096)
    }

    @Test func `forgets a chunk when its time is over`() throws {
        let world = try TestTier()
        let end = Instant(nanoseconds: 100)
        #expect(world.put(key(1), byteCount: 1, expiry: end) == .ok)
        #expect(world.put(key(2), byteCount: 1, expiry: end) == .ok)
        #expect(world.contains(key(1), now: Instant(nanoseconds: 99)))
        #expect(!world.contains(key(1), now: end))
        world.tier.sweep(entryCount: 10, now: end)
        #expect(world.tier.statistics().expirationCount == 2)
        #expect(world.tier.statistics().usedByteCount == 0)
    }

    @Test(arguments: [11, 12, 13])
    func `agrees with a dictionary under random operations`(seed: UInt64) throws {
        let world = try TestTier(budget: .kibibytes(512))
        var random = SeededGenerator(seed: seed)
        var contents: [UInt64: UInt8] = [:]
        for step in 0..<4_000 {
            let number = UInt64.random(in: 0..<200, using: &random)
            switch Int.random(in: 0..<10, using: &random) {
            case 0..<5:
                let fill = UInt8.random(in: 0...255, using: &random)
                let size = Int.random(in: 1...40_000, using: &random)
                let wasThere = world.contains(key(number))
                let status = world.put(key(number), byteCount: size, fill: fill)
                #expect(status == (wasThere ? .exists : .ok), "seed \(seed) step \(step)")
                if status == .ok { contents[number] = fill }
            case 5..<9:
                guard let held = world.tier.hold(.default, key(number), now: start)
                else { continue }
                let fill = held.bytes[held.bytes.count - 1]
                #expect(fill == contents[number], "seed \(seed) step \(step)")
            default:
                let removed = world.tier.remove(.default, key(number), now: start)
                if removed { #expect(contents[number] != nil, "seed \(seed) step \(step)") }
                contents[number] = nil
            }
        }
        let statistics = world.tier.statistics()
        #expect(statistics.holdCount == 0 && statistics.openReservationCount == 0)
        #expect(statistics.evictionCount > 100, "seed \(seed): the arena was under pressure")
    }
}

@Suite struct `A capacity` {
    @Test(arguments: [1, 16, 1_024, 65_536])
    func `keeps arena and bookkeeping within the budget`(mebibytes: Int) throws {
        let budget = ByteCount.mebibytes(mebibytes)
        let capacity = try #require(RAMTier.Capacity(budget: budget))
        let bookkeeping =
            capacity.entryCountMax * RAMTier.Capacity.bookkeepingByteCountPerEntry
        #expect(capacity.arenaByteCount + bookkeeping <= budget.bytes)
        #expect(capacity.arenaByteCount > budget.bytes * 9 / 10)
    }

    @Test func `is refused below one granule`() {
        #expect(RAMTier.Capacity(budget: ByteCount(100)) == nil)
    }
}
