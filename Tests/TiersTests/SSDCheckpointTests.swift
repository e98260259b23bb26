// SPDX-License-Identifier: Apache-2.0
import Foundation
import KVCore
import LinuxIO
import Testing

@testable import Tiers

@Suite struct `A checkpoint of a store` {
    private func fill(_ options: StoreOptions) async throws {
        try await withStore(options) { test in
            for number in 0..<20 as Range<UInt64> { test.put(number, byteCount: 10_000) }
            try await test.settle()
            #expect(await test.delete(3) == (true, true))
            #expect(await test.pin(4))
        }
    }

    private func check(_ test: isolated TestStore, _ comment: Comment) async {
        for number in 0..<20 as Range<UInt64> {
            let status = await test.readFromDisk(number)
            #expect(status == (number == 3 ? .notFound : .ok), comment)
        }
        #expect(test.tier.statistics().pinCount == 1, comment)
    }

    @Test func `spares the footers, and is not believed when it is damaged`() async throws {
        let directories = try TestDirectories()
        let options = StoreOptions(directories).with { $0.segmentCountMax = 12 }
        try await fill(options)
        let sound = try directories.content(SSDFormat.checkpointName)
        try await withStore(options, end: .kill) { test in
            #expect(test.found.hasCheckpoint && test.found.chunkCount == 19)
            await check(test, "sound")
        }
        // The header, a row, the padding, and the last byte of the page's checksum.
        for offset in [9, 4_000, 4_096 + 50, 4_096 + 500_000, sound.count - 1] {
            try directories.change(SSDFormat.checkpointName) { data in
                data = sound
                data[offset] ^= 0x10
            }
            try await withStore(options, end: .kill) { test in
                #expect(!test.found.hasCheckpoint && test.eventCount(.fault) == 1)
                await check(test, "byte \(offset)")
            }
        }
        for count in [0, 100, 4_096, sound.count - 1] {
            try directories.write(sound.prefix(count), to: SSDFormat.checkpointName)
            try await withStore(options, end: .kill) { test in
                #expect(!test.found.hasCheckpoint)
                await check(test, "\(count) bytes")
            }
        }
        // One that was not finished, beside none.
        try directories.remove(SSDFormat.checkpointName)
        try directories.write(sound, to: SSDFormat.checkpointDraftName)
        try await withStore(options) { test in
            #expect(!test.found.hasCheckpoint)
            await check(test, "draft")
        }
    }

    @Test func `costs time alone when it cannot be read or written`() async throws {
        let directories = try TestDirectories()
        let options = StoreOptions(directories).with { $0.segmentCountMax = 12 }
        try await fill(options)
        let count = directories.segmentNames().count
        // A start reads the identity and the segments' headers before.
        for skipCount in count + 1...count + 2 {
            try await withStore(options, end: .kill) { test in
                #expect(test.found.directoryCount == 1)
                #expect(test.tier.statistics().readFaultCount == 0)
                #expect(!test.found.hasCheckpoint, "\(skipCount): \(test.events)")
                await check(test, "\(skipCount)")
            } arming: { reactor in
                reactor.inject(
                    .failure(errorNumber: EIO), into: .read, skipCount: skipCount)
            }
        }
        let before = try directories.content(SSDFormat.checkpointName)
        try await withStore(options, end: .kill) { test in
            test.reactor.base.inject(.failure(errorNumber: ENOSPC), into: .write, skipCount: 0)
            await test.store.writeCheckpointNow()
            #expect(test.eventCount(.fault) == 1)
            #expect(await test.putDurably(99))
        }
        #expect(try directories.content(SSDFormat.checkpointName) == before)
        try await withStore(options) { test in
            #expect(test.found.hasCheckpoint)
            await check(test, "the old one")
            #expect(await test.readFromDisk(99) == .ok)
        }
    }

    @Test func `has what a synchronization failed for, so that its deletion is noted`() async throws
    {
        let directories = try TestDirectories()
        let options = StoreOptions(directories)
        try await withStore(options) { test in
            // Its record is whole on the disk, and the kernel says that it may not be.
            test.reactor.base.inject(.failure(errorNumber: EIO), into: .synchronize, skipCount: 0)
            test.put(1)
            try await test.settle()
            _ = await test.makeDurable(1)
            #expect(test.tier.statistics().writeFaultCount == 1)
            test.forget(1)
            try await test.until("it goes on") { await $0.store.faultyLaneCount == 0 }
            try await test.settle()
        }
        try await withStore(options) { test in
            #expect(await test.delete(1).isDurable)
        }
        try directories.remove(SSDFormat.checkpointName)
        try await withStore(options) { test in
            #expect(await test.read(1) == .notFound)
        }
    }

    @Test func `does not lose a chunk that moves while it is written`() async throws {
        let directories = try TestDirectories()
        let options = StoreOptions(directories).with { $0.segmentBlockCount = 46 }
        try await withStore(options, end: .kill) { test in
            for number in 0..<20 as Range<UInt64> { test.put(number) }
            try await test.sealAll()
            // The segment is being emptied when the checkpoint begins.
            let reclaim = Task { await test.store.reclaim(slot: 0, .living) }
            let checkpoint = Task { await test.store.writeCheckpointNow() }
            #expect(await reclaim.value)
            await checkpoint.value
        }
        try await withStore(options) { test in
            #expect(test.found.hasCheckpoint)
            for number in 0..<20 as Range<UInt64> {
                #expect(await test.readFromDisk(number) == .ok)
            }
        }
    }
}

/// What must be found, whatever happened to a store before.
private struct StoreModel {
    /// On stable storage, and not deleted since.
    var kept: Set<UInt64> = []
    /// Deleted, and not stored since.
    var deleted: Set<UInt64> = []
}

@Suite struct `A store that is killed again and again` {
    @Test(arguments: 401...406 as ClosedRange<UInt64>)
    func `keeps what it promised, with and without checkpoints`(seed: UInt64) async throws {
        let directories = try TestDirectories(2)
        let options = StoreOptions(directories).with {
            $0.segmentBlockCount = 24
            $0.segmentCountMax = 30
        }
        var random = SeededGenerator(seed: seed)
        var model = StoreModel()
        for round in 0..<6 {
            let end: StoreEnd = Int.random(in: 0..<3, using: &random) == 0 ? .stop : .kill
            let roundSeed = random.next()
            let before = model
            model = try await withStore(options, end: end) { test in
                for number in before.kept {
                    let status = await test.readFromDisk(number)
                    #expect(status == .ok, "seed \(seed) round \(round) chunk \(number)")
                }
                for number in before.deleted {
                    let status = await test.read(number)
                    #expect(status == .notFound, "seed \(seed) round \(round) chunk \(number)")
                }
                var random = SeededGenerator(seed: roundSeed)
                var model = before
                for _ in 0..<40 {
                    try await step(test, &model, &random)
                }
                return model
            }
            // Without one, a start reads every footer: the result must be the same.
            if Int.random(in: 0..<4, using: &random) == 0,
                directories.files(0).contains(SSDFormat.checkpointName)
            {
                try directories.remove(SSDFormat.checkpointName)
            }
        }
    }

    private func step(
        _ test: isolated TestStore, _ model: inout StoreModel, _ random: inout SeededGenerator
    ) async throws {
        let number = UInt64.random(in: 0..<60, using: &random)
        switch Int.random(in: 0..<20, using: &random) {
        case 0..<9:
            let isDurable = await test.putDurably(number, byteCount: 8_000)
            #expect(isDurable)
            model.kept.insert(number)
            model.deleted.remove(number)
        case 9..<14:
            #expect(await test.delete(number).isDurable)
            model.kept.remove(number)
            model.deleted.insert(number)
        case 14:
            test.put(number, byteCount: 8_000)
            // It may be there, or not.
            model.deleted.remove(number)
        case 15: await test.store.closeOpenSegments()
        case 16: await test.store.writeCheckpointNow()
        case 17, 18: _ = await test.store.reclaimOldestNow(.living)
        default:
            async let reclaim = test.store.reclaimOldestNow(.living)
            await test.store.writeCheckpointNow()
            _ = await reclaim
        }
    }
}
