// SPDX-License-Identifier: Apache-2.0
import Foundation
import KVCore
import Testing

@testable import Tiers

@Suite struct `Reclaim` {
    /// Segments with room for 20 chunks of one block and a few notes.
    private func options(_ directories: TestDirectories) -> StoreOptions {
        StoreOptions(directories).with { $0.segmentBlockCount = 46 }
    }

    /// Fills a segment with chunks 0 to 19, seals it, and takes them out of memory.
    private func fillOne(_ test: isolated TestStore) async throws {
        for number in 0..<20 as Range<UInt64> { test.put(number) }
        try await test.sealAll()
        for number in 0..<20 as Range<UInt64> { test.forget(number) }
    }

    private func present(_ numbers: Range<UInt64>, _ test: isolated TestStore) -> [UInt64] {
        numbers.filter { test.isOnSSD($0) }
    }

    @Test(arguments: StoreEnd.allCases)
    func `writes again what is pinned, read or in memory, and drops the rest`(
        end: StoreEnd
    ) async throws {
        let directories = try TestDirectories()
        let options = options(directories)
        try await withStore(options, end: end) { test in
            try await fillOne(test)
            #expect(await test.pin(1))
            for number in [2, 3] as [UInt64] {
                #expect(await test.readFromDisk(number) == .ok)
            }
            #expect(await test.read(4) == .ok)
            #expect(await test.delete(5) == (true, true))
            #expect(await test.store.reclaimOldestNow())
            #expect(present(0..<20, test) == [1, 2, 3, 4])
            for number in [1, 2, 3, 4] as [UInt64] {
                #expect(await test.readFromDisk(number) == .ok)
            }
            let statistics = test.tier.statistics()
            #expect(statistics.reinsertionCount == 4 && statistics.evictionCount == 15)
        }
        try await withStore(options) { test in
            #expect(present(0..<20, test) == [1, 2, 3, 4])
            for number in [1, 2, 3, 4] as [UInt64] {
                #expect(await test.readFromDisk(number) == .ok)
            }
            #expect(test.tier.statistics().pinCount == 1)
        }
    }

    @Test func `writes again what memory serves, not all that it has`() async throws {
        let directories = try TestDirectories()
        try await withStore(options(directories)) { test in
            for number in 0..<20 as Range<UInt64> { test.put(number) }
            try await test.sealAll()
            for number in [7, 8] as [UInt64] { #expect(await test.read(number) == .ok) }
            #expect(await test.store.reclaimOldestNow())
            #expect(present(0..<20, test) == [7, 8])
            #expect(test.tier.statistics().reinsertionCount == 2)
            #expect(test.memory.isResident(ChunkName(.default, key(9))))
        }
    }

    @Test func `spares what was read once, for half of what is gained`() async throws {
        let directories = try TestDirectories()
        try await withStore(options(directories)) { test in
            try await fillOne(test)
            for number in 0..<20 as Range<UInt64> {
                #expect(await test.readFromDisk(number) == .ok)
            }
            #expect(await test.store.reclaimOldestNow())
            #expect(present(0..<20, test) == Array(0..<11), "23 of 46 blocks")
            try await test.sealAll()
            #expect(await test.store.reclaimOldestNow())
            #expect(present(0..<20, test).isEmpty, "they were not read since")
        }
    }

    @Test func `keeps all that lives while there is room, and no expired chunk`() async throws {
        let directories = try TestDirectories()
        let options = options(directories)
        try await withStore(options) { test in
            for number in 0..<10 as Range<UInt64> { test.put(number) }
            for number in 10..<15 as Range<UInt64> { test.put(number, lifeMilliseconds: 60_000) }
            try await test.sealAll()
        }
        // More than a busy machine takes for what is above.
        try await withStore(options.with { $0.laterMilliseconds = 1_000_000 }) { test in
            #expect(await test.store.reclaimOldestNow(.living))
            #expect(present(0..<15, test) == Array(0..<10))
            #expect(test.tier.statistics().reinsertionCount == 10)
        }
    }

    @Test func `lets nobody pin what it may have passed by`() async throws {
        let directories = try TestDirectories()
        try await withStore(StoreOptions(directories)) { test in
            #expect(await test.putDurably(1))
            let slot = try #require(test.tier.segments().firstIndex { $0.state == .open })
            let name = ChunkName(.default, key(1))
            test.tier.setState(of: slot, to: .erasing)
            #expect(!test.tier.mayPin(name, byteCount: 4_096))
            #expect(await !test.pin(1))
            #expect(test.tier.statistics().pinCount == 0)
            #expect(await test.pin(1, milliseconds: 0), "a pin can always be ended")
            test.tier.setState(of: slot, to: .open)
            #expect(test.tier.mayPin(name, byteCount: 4_096))
            #expect(await test.pin(1))
        }
    }

    @Test func `keeps a deletion for as long as an older record may be there`() async throws {
        let directories = try TestDirectories()
        let options = options(directories)
        try await withStore(options, end: .kill) { test in
            try await fillOne(test)
            // The note is alone in the second segment, which is reclaimed first.
            #expect(await test.delete(7) == (true, true))
            try await test.sealAll()
            #expect(await test.store.reclaim(slot: 1, .hot))
            #expect(test.tier.segments()[1].state == .free)
            #expect(await test.store.openNoteCount == 1)
        }
        try await withStore(options, end: .kill) { test in
            #expect(await test.read(7) == .notFound)
            #expect(present(0..<20, test).count == 19)
            // Once the record's segment is gone, nobody needs the note any more.
            #expect(await test.store.reclaim(slot: 0, .hot))
            try await test.sealAll()
            let noted = test.tier.segments().indices.filter {
                test.tier.segments()[$0].state == .sealed
            }
            for slot in noted { #expect(await test.store.reclaim(slot: slot, .hot)) }
            #expect(await test.store.openNoteCount == 0)
        }
        try await withStore(options) { test in
            #expect(await test.read(7) == .notFound)
        }
    }

    @Test func `drops a record that decayed, and copies nothing of it`() async throws {
        let directories = try TestDirectories()
        let options = options(directories)
        try await withStore(options) { test in try await fillOne(test) }
        // The payload of the third chunk: header, two records, a header.
        try directories.change("segment-00000.kvs") { $0[6 * 4_096 + 100] ^= 1 }
        try await withStore(options) { test in
            #expect(await test.store.reclaimOldestNow(.living))
            let missing = (0..<20 as Range<UInt64>).filter { !test.isOnSSD($0) }
            #expect(missing.count == 1)
            #expect(test.tier.statistics().checksumMismatchCount == 1)
            #expect(test.eventCount(.checksumMismatch) == 1)
            for number in 0..<20 as Range<UInt64> where !missing.contains(number) {
                #expect(await test.readFromDisk(number) == .ok)
            }
        }
    }

    @Test func `makes room when the index is full`() async throws {
        let directories = try TestDirectories()
        let options = options(directories).with { $0.entryCountMax = 50 }
        try await withStore(options) { test in
            for number in 0..<300 as Range<UInt64> {
                test.put(number)
                if number % 10 == 9 { try await test.settle() }
                test.forget(number &- 20)
            }
            try await test.until("the latest are written") { test in
                test.put(300)
                return await test.makeDurable(300)
            }
            #expect(test.tier.statistics().chunkCount <= 50)
            #expect(await test.readFromDisk(300) == .ok)
        }
        // A start with room for fewer: what it leaves out stays deleted when it is deleted.
        let left = try await withStore(options.with { $0.entryCountMax = 5 }) { test in
            #expect(test.tier.statistics().chunkCount == 5)
            #expect(test.eventCount(.unavailable) == 1)
            let left = (0...300 as ClosedRange<UInt64>).filter { !test.isOnSSD($0) }
            for number in left { #expect(await test.delete(number) == (false, true)) }
            return left
        }
        try await withStore(options) { test in
            for number in left { #expect(await test.read(number) == .notFound) }
        }
    }

    @Test func `leaves a chunk in memory that is too large for a segment`() async throws {
        let directories = try TestDirectories()
        let options = options(directories)
        try await withStore(options) { test in
            let size = options.segmentByteCount
            #expect(await !test.putDurably(1, byteCount: size))
            #expect(await test.read(1) == .ok)
            #expect(await test.putDurably(2))
            #expect(test.tier.statistics().skippedCount > 0)
        }
    }
}

@Suite struct `The capacity of a store` {
    @Test(arguments: [301, 302] as [UInt64])
    func `is kept at all times`(seed: UInt64) async throws {
        let directories = try TestDirectories(2)
        let options = StoreOptions(directories).with {
            $0.segmentCountMax = 5
            $0.memory = .mebibytes(2)
        }
        let limit = options.capacity.bytes
        var random = SeededGenerator(seed: seed)
        let sizes = (0..<500).map { _ in Int.random(in: 1...25_000, using: &random) }
        let deleted = (0..<60).map { _ in UInt64.random(in: 0..<500, using: &random) }
        try await withStore(options) { test in
            let watch = Task {
                var largest = 0
                while !Task.isCancelled {
                    largest = max(
                        largest, directories.byteCount(0), directories.byteCount(1))
                    try await test.pause(milliseconds: 1)
                }
                return largest
            }
            for (number, size) in sizes.enumerated() {
                test.put(UInt64(number), byteCount: size)
                if number % 20 == 0 { try await test.settle() }
                if number % 7 == 0 { #expect(await test.read(UInt64(number / 2)) != .busy) }
                if number % 100 == 99 { await test.store.writeCheckpointNow() }
            }
            for number in deleted { #expect(await test.delete(number).isDurable) }
            try await test.settle()
            watch.cancel()
            let largest = try await watch.value
            #expect(largest <= limit && largest > limit / 2, "seed \(seed)")
            #expect(test.tier.statistics().evictionCount > 0)
            for number in sizes.indices {
                #expect(await [.ok, .notFound].contains(test.readFromDisk(UInt64(number))))
            }
        }
        #expect(max(directories.byteCount(0), directories.byteCount(1)) <= limit)
        try await withStore(options) { test in
            for number in deleted { #expect(await test.read(number) == .notFound) }
        }
    }

    @Test func `gives files back when it is lowered, and keeps what is newest and pinned`()
        async throws
    {
        let directories = try TestDirectories()
        let options = StoreOptions(directories).with { $0.segmentCountMax = 14 }
        try await withStore(options) { test in
            // One a segment.
            for number in 0..<10 as Range<UInt64> {
                test.put(number, byteCount: 30_000)
                try await test.settle()
            }
            #expect(await test.pin(0))
            #expect(test.tier.statistics().reinsertionCount == 0)
        }
        #expect(directories.segmentNames().count >= 10)
        try await withStore(options.with { $0.segmentCountMax = 6 }) { test in
            try await test.until("files are given back") { _ in
                directories.segmentNames().count == 6
            }
            try await test.settle()
            #expect(await test.readFromDisk(0) == .ok)
            let kept = (0..<10 as Range<UInt64>).filter { test.isOnSSD($0) }
            #expect(kept.count >= 3 && kept.contains(9), "\(kept)")
            for number in 20..<30 as Range<UInt64> {
                #expect(await test.putDurably(number, byteCount: 30_000))
            }
            #expect(await test.readFromDisk(0) == .ok)
            #expect(directories.segmentNames().count == 6)
        }
        // And raised again.
        try await withStore(options) { test in
            for number in 30..<40 as Range<UInt64> {
                #expect(await test.putDurably(number, byteCount: 30_000))
            }
            #expect(await test.readFromDisk(0) == .ok)
            #expect(directories.segmentNames().count > 6)
        }
    }

    @Test func `is taken when others have given back what was missing`() async throws {
        let directories = try TestDirectories()
        let options = StoreOptions(directories)
        try await withStore(options) { test in
            for number in 0..<6 as Range<UInt64> {
                #expect(await test.putDurably(number, byteCount: 20_000))
            }
            options.calls.limitFreeSpace(to: 0)
            for number in 10..<30 as Range<UInt64> {
                test.put(number, byteCount: 20_000)
                try await test.settle()
            }
            let count = directories.segmentNames().count
            #expect(count < 8 && test.eventCount(.diskFull) == 1)
            options.calls.limitFreeSpace(to: .max)
            var number: UInt64 = 100
            try await test.until("it has all that it may have") { test in
                test.put(number, byteCount: 20_000)
                _ = await test.makeDurable(number)
                number += 1
                return directories.segmentNames().count == 8
            }
            #expect(test.eventCount(.diskFull) == 1 && test.eventCount(.fault) == 0)
        }
    }

    @Test func `is nothing where the file system must keep more free`() async throws {
        let directories = try TestDirectories()
        let options = StoreOptions(directories).with { $0.reserve = ByteCount(.max / 2) }
        try await withStore(options) { test in
            for number in 0..<20 as Range<UInt64> {
                #expect(await !test.putDurably(number))
                #expect(await test.read(number) == .ok, "it stays in memory")
            }
            #expect(directories.segmentNames().isEmpty)
            #expect(test.eventCount(.diskFull) == 1)
            #expect(test.eventCount(.fault) == 0)
            // Nothing is on the disk, so that nothing must be noted.
            #expect(await test.delete(3) == (true, true))
        }
        try await withStore(options.with { $0.reserve = ByteCount(0) }) { test in
            #expect(await test.putDurably(1))
        }
        // With some segments it goes on in these.
        try await withStore(options) { test in
            let count = directories.segmentNames().count
            for number in 10..<20 as Range<UInt64> { test.put(number) }
            try await test.settle()
            #expect(await test.readFromDisk(1) == .ok)
            #expect(directories.segmentNames().count == count)
        }
    }
}
