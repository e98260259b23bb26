// SPDX-License-Identifier: Apache-2.0
import KVCore
import Kernels
import Testing

@testable import Tiers

extension TestTier {
    /// Stores a chunk of `fill` in the place of what `replacement` allows.
    func replace(
        _ key: ChunkKey, byteCount: Int = 5_000, fill: UInt8, _ replacement: RAMTier.Replacement,
        expiry: Instant = .distantFuture, now: Instant = start
    ) -> Status {
        let proposal = ChunkProposal(
            namespace: .default, key: key, layout: .opaque, byteCount: byteCount)
        while true {
            switch tier.reserveToReplace(proposal) {
            case .callAgain: continue
            case .refused(let status): return status
            case .reserved(let reservation):
                reservation.bytes.fill(fill)
                return reservation.replace(
                    replacement, checksum: UInt64(fill), expiry: expiry, now: now)
            }
        }
    }

    /// What fills the chunk; nil when it is absent.
    func fill(of key: ChunkKey, now: Instant = start) -> UInt8? {
        guard let held = tier.hold(.default, key, now: now) else { return nil }
        return held.bytes[0]
    }

    /// A hold on the chunk, to be released.
    func hold(_ key: ChunkKey) -> Hold? {
        guard let held = tier.hold(.default, key, now: start) else { return nil }
        return held.escape()
    }
}

@Suite struct `A name whose value changes` {
    @Test func `has the last value, and readers of the one before finish with that`() throws {
        let world = try TestTier()
        #expect(world.replace(key(1), fill: 1, .any) == .ok)
        let held = try #require(world.hold(key(1)))
        #expect(world.replace(key(1), byteCount: 70_000, fill: 2, .any) == .ok)
        #expect(world.fill(of: key(1)) == 2)
        let old = world.tier.lend(held)
        let bytes = old.bytes
        #expect((0..<bytes.count).allSatisfy { bytes[$0] == 1 })
        _ = consume old
        #expect(world.tier.statistics().chunkCount == 1)
        #expect(world.tier.statistics().usedByteCount == 18 * 4_096)
        #expect(world.tier.statistics().openReservationCount == 0)
    }

    @Test func `is taken only where it is free, if its writer wants that`() throws {
        let world = try TestTier()
        let later = start.adding(milliseconds: 10)
        #expect(world.replace(key(1), fill: 1, .nothing, expiry: later) == .ok)
        #expect(world.replace(key(1), fill: 2, .nothing) == .exists)
        #expect(world.fill(of: key(1)) == 1)
        #expect(world.replace(key(1), fill: 3, .nothing, now: later) == .ok)
        #expect(world.fill(of: key(1), now: later) == 3)
    }

    @Test func `changes from one certain value alone, if its writer wants that`() throws {
        let world = try TestTier()
        #expect(world.replace(key(1), fill: 1, .any) == .ok)
        let first = try #require(world.hold(key(1)))
        #expect(world.replace(key(1), fill: 2, .only(first)) == .ok)
        #expect(world.replace(key(1), fill: 3, .only(first)) == .notFound)
        #expect(world.fill(of: key(1)) == 2)
        #expect(world.tier.remove(.default, key(1), now: start))
        #expect(world.replace(key(1), fill: 4, .only(first)) == .notFound)
        #expect(world.fill(of: key(1)) == nil)
        world.tier.release(first)
        #expect(world.tier.statistics().holdCount == 0)
        #expect(world.tier.statistics().usedByteCount == 0)
    }

    @Test func `is met by a walk that it does not escape by changing`() throws {
        let world = try TestTier(budget: .mebibytes(2))
        let numbers = 0..<100 as Range<UInt64>
        for number in numbers { #expect(world.replace(key(number), fill: 1, .any) == .ok) }
        _ = world.put(key(7), byteCount: 10, namespace: NamespaceID(number: 1))
        var met: Set<ChunkKey> = []
        var next: Int? = 0
        var turn: UInt64 = 0
        while let first = next {
            let walked = world.tier.walk(
                .default, from: first, count: 64, chunkCountMax: 7, now: start)
            for chunk in walked.chunks {
                #expect(met.insert(chunk.key).inserted, "each is met once")
            }
            next = walked.next
            // Every value has another slot now, and other neighbours.
            for number in numbers where number % 3 == turn % 3 {
                #expect(world.replace(key(number), fill: 2, .any) == .ok)
            }
            turn += 1
        }
        #expect(met == Set(numbers.map { key($0) }))
    }

    @Test func `does not come back from SSD with its old value`() async throws {
        let directories = try TestDirectories()
        let options = StoreOptions(directories)
        try await withStore(options) { test in
            #expect(await test.putDurably(1))
            // The bytes of another number tell the new value from the old one.
            #expect(test.replace(1, contentOf: 2, .any) == .ok)
            #expect(test.replace(1, contentOf: 3, .nothing) == .exists)
            #expect(await test.makeDurable(1))
            test.forget(1)
            #expect(await test.readContent(1) == 2)
            test.forget(1)
            // On SSD alone it is there all the same.
            #expect(test.replace(1, contentOf: 3, .nothing) == .exists)
            let walked = test.tier.walk(
                .default, from: 0, count: 100, keyCountMax: 100, now: test.now)
            #expect(walked.keys == [key(1)])
            #expect(walked.next == nil)
        }
        try await withStore(options) { test in
            #expect(test.found.chunkCount == 1)
            #expect(await test.readContent(1) == 2)
        }
    }

    @Test func `keeps what was written last while the store writes all the time`() async throws {
        let directories = try TestDirectories()
        try await withStore(StoreOptions(directories)) { test in
            for round in 0..<40 as Range<UInt64> {
                for number in 0..<5 as Range<UInt64> {
                    #expect(test.replace(number, contentOf: 100 * round + number, .any) == .ok)
                }
                if round.isMultiple(of: 3) { try await test.pause(milliseconds: 2) }
                for number in 0..<5 as Range<UInt64> {
                    if round.isMultiple(of: 2) { test.forget(number) }
                    let content = await test.readContent(number)
                    // What was not on SSD yet is gone; an older value must never be seen.
                    #expect(content == 100 * round + number || content == nil)
                }
            }
        }
    }
}

extension TestStore {
    /// Gives a name the bytes that the chunk of another number has.
    func replace(
        _ number: UInt64, contentOf other: UInt64, _ replacement: RAMTier.Replacement
    ) -> Status {
        let proposal = ChunkProposal(
            namespace: .default, key: key(number), layout: .opaque, byteCount: 4_096)
        while true {
            switch memory.reserveToReplace(proposal) {
            case .callAgain: continue
            case .refused(let status): return status
            case .reserved(let reservation):
                let content = content(other, byteCount: 4_096)
                reservation.bytes.copy(from: content.bytes)
                let checksum = Checksum.of(reservation.bytes)
                let status = tier.replace(
                    reservation, ChunkName(.default, key(number)), replacement,
                    checksum: checksum, expiry: .distantFuture, now: now)
                store.bell.ring()
                return status
            }
        }
    }

    /// The number whose bytes a reader gets; nil when there are none.
    func readContent(_ number: UInt64) async -> UInt64? {
        guard
            case .success(let hold) = await reader.obtain(
                ChunkName(.default, key(number)), deadline: soon)
        else { return nil }
        let held = memory.lend(hold)
        let first = held.bytes.load(UInt64.self, at: 0)
        return (0..<5_000).first { $0 &* 0x9e37_79b9_7f4a_7c15 | 1 == first }
    }
}
