// SPDX-License-Identifier: Apache-2.0
import Foundation
import KVCore
import LinuxIO
import Testing

@testable import Tiers

extension SSDStore {
    /// Goes on in another segment, as reclaim does with the last one; nothing is reclaimed.
    func openAnotherSegment() async -> Bool {
        lanes[0].reclaimAgainAt = .distantFuture
        lanes[0].isRolling = true
        let note = RecordSize(blockCount: 1, entryCount: 1, isOfNotes: true)
        if case .opened = await roll(lanes[0], for: note, forReclaim: true) { return true }
        return false
    }
}

@Suite struct `A store of which a stop left no segment free` {
    private let pinned = 0..<6 as Range<UInt64>

    /// Each segment has something that is pinned, and nothing says so but its footer.
    private func makeFull(_ options: StoreOptions) async throws {
        try await withStore(options, end: .kill) { test in
            for number in pinned {
                #expect(await test.store.openAnotherSegment())
                #expect(await test.putDurably(number, byteCount: 12_000))
                #expect(await test.pin(number))
            }
            #expect(test.tier.freeSegmentCount(directory: 0) == 0)
        }
    }

    private func expectPinned(_ test: isolated TestStore, from first: UInt64 = 0) async {
        for number in first..<pinned.upperBound {
            #expect(await test.readFromDisk(number) == .ok, "\(number)")
        }
    }

    @Test(arguments: StoreEnd.allCases)
    func `goes on behind what a segment has`(end: StoreEnd) async throws {
        let directories = try TestDirectories()
        let options = StoreOptions(directories).with { $0.segmentCountMax = 6 }
        try await makeFull(options)
        try await withStore(options, end: end) { test in
            #expect(test.tier.freeSegmentCount(directory: 0) == 0)
            // It tells of segments that are complete, of which one will be no more.
            await test.store.writeCheckpointNow()
            #expect(await test.putDurably(100, byteCount: 20_000))
            #expect(await test.delete(0).isDurable)
            await expectPinned(test, from: 1)
            #expect(await test.putDurably(101, byteCount: 20_000))
        }
        try await withStore(options) { test in
            await expectPinned(test, from: 1)
            #expect(await test.read(0) == .notFound)
            #expect(await test.readFromDisk(101) == .ok)
        }
    }

    /// It would wait for notes that nobody writes any more.
    @Test func `begins no reclaim once it stops`() async throws {
        let directories = try TestDirectories()
        let options = StoreOptions(directories).with { $0.segmentCountMax = 6 }
        try await makeFull(options)
        // Sooner than its first look at what is to be done, as a rule.
        for _ in 0..<4 { try await withStore(options) { _ in } }
        try await withStore(options) { test in await expectPinned(test) }
    }

    @Test(arguments: [OperationKind.write, .synchronize], 0..<4)
    func `loses nothing to a fault meanwhile`(point: OperationKind, skipCount: Int) async throws {
        let directories = try TestDirectories()
        let options = StoreOptions(directories).with { $0.segmentCountMax = 6 }
        try await makeFull(options)
        try await withStore(options, end: .kill) { test in
            test.reactor.base.inject(.failure(errorNumber: EIO), into: point, skipCount: skipCount)
            // It may be refused, but not for ever.
            _ = await test.putDurably(100, byteCount: 20_000)
            try await test.until("it goes on") { await $0.putDurably(100, byteCount: 20_000) }
            await expectPinned(test)
        }
        try await withStore(options) { test in
            await expectPinned(test)
            #expect(await test.readFromDisk(100) == .ok)
        }
    }
}
