// SPDX-License-Identifier: Apache-2.0
import Codec
import KVCore
import Testing

@testable import Tiers

@Suite struct `The first position of a chunk on SSD` {
    private func position(of number: UInt64, in test: isolated TestStore) -> UInt32? {
        let name = ChunkName(.default, key(number))
        return test.tier.locate(name.namespace, name.key, now: test.now, asUse: .doesNotCount)?
            .description.firstPosition
    }

    private func expectAll(_ test: isolated TestStore, _ comment: Comment) {
        #expect(position(of: 1, in: test) == 0, comment)
        #expect(position(of: 2, in: test) == 768, comment)
        #expect(position(of: 3, in: test) == nil, comment)
        #expect(position(of: 4, in: test) == nil, comment)
    }

    /// By scan, by footers and by checkpoint.
    @Test(arguments: StoreEnd.allCases, [false, true])
    func `is there after a start`(end: StoreEnd, hasCheckpoint: Bool) async throws {
        let directories = try TestDirectories()
        let options = StoreOptions(directories).with { $0.segmentCountMax = 12 }
        try await withStore(options, end: end) { test in
            for (number, position) in [(1, 0), (2, 768), (3, nil), (4, 7)] as [(UInt64, UInt32?)] {
                test.put(number, firstPosition: position)
                #expect(await test.makeDurable(number))
            }
            expectAll(test, "written")
            #expect(await test.store.openAnotherSegment())
            if hasCheckpoint { await test.store.writeCheckpointNow() }
        }
        try await withStore(options) { test in
            #expect(hasCheckpoint ? test.found.hasCheckpoint : true)
            expectAll(test, "after a start")
            #expect(await test.read(2) == .ok)
            guard let held = test.memory.hold(.default, key(2), now: test.now) else {
                Issue.record("not in memory")
                return
            }
            let description = held.description
            #expect(description.firstPosition == 768)
        }
    }

    @Test func `moves with the chunk`() async throws {
        let directories = try TestDirectories()
        let options = StoreOptions(directories).with { $0.segmentCountMax = 6 }
        try await withStore(options) { test in
            test.put(2, firstPosition: 768)
            #expect(await test.makeDurable(2))
            #expect(await test.pin(2))
            let place = { test.tier.locate(.default, key(2), now: test.now, asUse: .counts)?.place }
            let first = place()
            for number in 10..<100 as Range<UInt64> where place() == first {
                #expect(await test.putDurably(number, byteCount: 20_000))
            }
            #expect(place() != first)
            #expect(position(of: 2, in: test) == 768)
        }
        try await withStore(options) { test in #expect(position(of: 2, in: test) == 768) }
    }

    @Test func `is given up where there are many`() {
        var bindings = SSDBindings()
        var numbers: Set<UInt16> = []
        for unit in 0..<8_192 as Range<UInt32> {
            let binding = SSDBinding(
                namespace: .default, layout: .opaque, level: .raw,
                position: CompactPosition(16 * unit))
            guard let number = bindings.number(of: binding) else {
                Issue.record("no number")
                return
            }
            bindings.add(number, byteCount: 1)
            numbers.insert(number)
            let kept = bindings[number].position.position
            #expect(kept == 16 * unit || kept == nil)
        }
        #expect(numbers.count == CheckpointLayout.smallRowCountMax / 2 + 1)
    }

    @Test(arguments: [0, 16, 256, 1_048_544] as [UInt32])
    func `is kept in units of sixteen`(position: UInt32) {
        #expect(CompactPosition(position).position == position)
        #expect(CompactPosition(position + 1) == .unknown)
        #expect(CompactPosition(position &- 16).position != position)
    }

    @Test func `is unknown beyond a million`() {
        #expect(CompactPosition(nil).position == nil)
        #expect(CompactPosition(1_048_560) == .unknown && CompactPosition(.max) == .unknown)
    }
}
