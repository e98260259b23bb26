// SPDX-License-Identifier: Apache-2.0
import Foundation
import KVCore
import Testing

@testable import Tiers

@Suite struct `A store` {
    @Test(arguments: StoreEnd.allCases)
    func `finds after a restart what it wrote`(end: StoreEnd) async throws {
        let directories = try TestDirectories()
        let options = StoreOptions(directories)
        let sizes = [1, 4_095, 4_096, 4_097, 20_000, 40_000]
        try await withStore(options, end: end) { test in
            for (number, size) in sizes.enumerated() {
                #expect(test.put(UInt64(number), byteCount: size) == .ok)
                test.put(
                    UInt64(number), byteCount: size + 1, namespace: NamespaceID(number: 1))
            }
            try await test.settle()
            for number in sizes.indices {
                #expect(await test.readFromDisk(UInt64(number)) == .ok)
            }
            // A kill leaves what nobody waited for to chance, but not a synchronized one.
            #expect(await test.makeDurable(0))
        }
        try await withStore(options) { test in
            #expect(test.found.chunkCount == 2 * sizes.count)
            #expect(test.found.hasCheckpoint == (end == .stop))
            #expect((test.found.scannedSegmentCount == 0) == (end == .stop))
            for number in sizes.indices {
                for namespace in [NamespaceID.default, NamespaceID(number: 1)] {
                    #expect(
                        await test.readFromDisk(UInt64(number), namespace: namespace) == .ok,
                        "\(number)")
                }
            }
            #expect(await test.read(99) == .notFound)
            #expect(test.events.isEmpty, "\(test.events)")
        }
    }

    @Test(arguments: StoreEnd.allCases)
    func `goes on from start to start`(end: StoreEnd) async throws {
        let directories = try TestDirectories()
        let options = StoreOptions(directories)
        var serial: UInt64 = 0
        for round in 0..<4 as Range<UInt64> {
            let last = try await withStore(options, end: end) { test in
                for number in 0..<10 * round { #expect(await test.readFromDisk(number) == .ok) }
                for number in 10 * round..<10 * (round + 1) {
                    #expect(await test.putDurably(number))
                }
                return test.tier.segments().map(\.serial).max() ?? 0
            }
            #expect(last > serial, "every segment is opened with a number of its own")
            serial = last
        }
    }

    @Test(arguments: StoreEnd.allCases)
    func `does not bring back what was deleted, and not what was deleted in memory`(
        end: StoreEnd
    ) async throws {
        let directories = try TestDirectories()
        let options = StoreOptions(directories)
        try await withStore(options, end: end) { test in
            for number in 1...6 as ClosedRange<UInt64> { #expect(await test.putDurably(number)) }
            #expect(await test.delete(1) == (true, true))
            test.forget(2)
            #expect(await test.delete(2) == (true, true))
            #expect(await test.delete(2) == (false, true))
            // Stored again after a deletion: the second one counts.
            #expect(await test.delete(3) == (true, true))
            #expect(await test.putDurably(3))
            try await test.sealAll()
            #expect(await test.delete(4) == (true, true))
        }
        for _ in 0..<2 {
            try await withStore(options, end: end) { test in
                for number in [1, 2, 4] as [UInt64] {
                    #expect(await test.read(number) == .notFound)
                }
                for number in [3, 5, 6] as [UInt64] {
                    #expect(await test.readFromDisk(number) == .ok)
                }
            }
        }
    }

    @Test func `writes nothing that is deleted, or there already`() async throws {
        let directories = try TestDirectories()
        let options = StoreOptions(directories).with { $0.segmentBlockCount = 100 }
        try await withStore(options) { test in
            for number in 0..<50 as Range<UInt64> { test.put(number, byteCount: 30_000) }
            for number in 0..<50 as Range<UInt64> where number % 2 == 0 {
                _ = await test.delete(number)
            }
            try await test.settle()
            #expect(test.tier.statistics().chunkCount == 25)
            let written = test.tier.statistics().recordCount
            for number in 0..<50 as Range<UInt64> where number % 2 == 1 {
                #expect(await test.makeDurable(number))
            }
            #expect(test.tier.statistics().recordCount == written)
        }
    }

    @Test func `forgets what has expired, also when it is opened later`() async throws {
        let directories = try TestDirectories()
        let options = StoreOptions(directories)
        try await withStore(options) { test in
            test.put(1, lifeMilliseconds: 3_600_000)
            test.put(2, lifeMilliseconds: 600_000)
            test.put(3)
            try await test.settle()
            for number in 1...3 as ClosedRange<UInt64> {
                #expect(await test.readFromDisk(number) == .ok)
            }
        }
        // Time that a start does not see must count as well: by a checkpoint, and by footers.
        for hasCheckpoint in [true, false] {
            if !hasCheckpoint { try directories.remove(SSDFormat.checkpointName) }
            let later = options.with { $0.laterMilliseconds = 1_000_000 }
            try await withStore(later, end: .kill) { test in
                #expect(test.found.hasCheckpoint == hasCheckpoint)
                #expect(await test.read(2) == .notFound)
                for number in [1, 3] as [UInt64] { #expect(await test.read(number) == .ok) }
                let life = test.memory.describe(
                    .default, key(1), now: test.now, asUse: .doesNotCount)?.expiry
                let left = test.now.milliseconds(until: try #require(life))
                // Each start has a clock of its own, and a busy machine takes minutes between them.
                #expect((2_200_000...3_000_000).contains(left))
            }
        }
        try await withStore(options.with { $0.laterMilliseconds = 4_000_000 }) { test in
            #expect(test.found.chunkCount == 1)
            #expect(await test.read(3) == .ok)
        }
    }

    @Test func `keeps the pins that it promised to keep`() async throws {
        let directories = try TestDirectories()
        let options = StoreOptions(directories)
        try await withStore(options, end: .kill) { test in
            for number in 1...5 as ClosedRange<UInt64> { #expect(await test.putDurably(number)) }
            for number in 1...4 as ClosedRange<UInt64> {
                #expect(await test.pin(number, milliseconds: 86_400_000))
            }
            #expect(await test.pin(2, milliseconds: 0))
            #expect(await test.pin(5, milliseconds: 0), "nothing to be done")
            #expect(await test.delete(3) == (true, true))
            #expect(await test.pin(4, milliseconds: 3_600_000))
            #expect(test.tier.statistics().pinCount == 2)
        }
        for end in [StoreEnd.stop, .stop] {
            try await withStore(options, end: end) { test in
                #expect(test.tier.statistics().pinCount == 2)
                #expect(await test.putDurably(3))
            }
        }
        try await withStore(options.with { $0.laterMilliseconds = 7_200_000 }) { test in
            #expect(test.tier.statistics().pinCount == 1)
        }
    }

    @Test func `makes many durable at once, whoever writes them`() async throws {
        let directories = try TestDirectories()
        let options = StoreOptions(directories).with {
            $0.segmentBlockCount = 128
            $0.memory = .mebibytes(8)
        }
        let count = try await withStore(options, end: .kill) { test in
            // They stand in the queue already when they are wanted durable.
            await test.putDurably(0..<100, byteCount: 8_192)
        }
        #expect(count == 100)
        try await withStore(options) { test in
            for number in 0..<100 as Range<UInt64> {
                #expect(await test.readFromDisk(number) == .ok)
            }
        }
    }

    @Test func `leaves nobody waiting when it stops, and late by no more than a round`()
        async throws
    {
        let directories = try TestDirectories()
        try await withStore(StoreOptions(directories).with { $0.admission = .none }) { test in
            await test.store.pretendThatWritesHang()
            test.put(1)
            test.put(2)
            let isLate = await test.store.store(
                ChunkName(.default, key(1)), deadline: test.now.adding(milliseconds: 50))
            #expect(!isLate)
            let waiting = Task { await test.makeDurable(2) }
            try await test.until("it waits") { await $0.store.storeCount == 2 }
            await test.store.stop(by: test.now.adding(milliseconds: 100))
            #expect(await !waiting.value)
        }
    }

    @Test func `writes what is used again, without being called`() async throws {
        let directories = try TestDirectories()
        let options = StoreOptions(directories).with { $0.admission = .secondUse }
        try await withStore(options) { test in
            for number in 1...3 as ClosedRange<UInt64> { test.put(number) }
            try await test.settle()
            #expect(test.tier.statistics().chunkCount == 0)
            #expect(await test.read(2) == .ok)
            try await test.until("it is written") { $0.tier.statistics().chunkCount == 1 }
            try await test.settle()
            #expect(test.isOnSSD(2))
        }
    }

    @Test func `reads a chunk once for all that want it`() async throws {
        let directories = try TestDirectories()
        let options = StoreOptions(directories)
        try await withStore(options) { test in
            #expect(await test.putDurably(1, byteCount: 40_000))
            test.forget(1)
            #expect(await test.read(1, times: 20) == Array(repeating: .ok, count: 20))
            #expect(test.tier.statistics().readByteCount == 40_960)
        }
    }

    @Test func `serves one who has time, whoever asked first`() async throws {
        let directories = try TestDirectories()
        let options = StoreOptions(directories).with { $0.segmentBlockCount = 256 }
        try await withStore(options) { test in
            #expect(await test.putDurably(0..<60, byteCount: 50_000) == 60)
            for number in 0..<60 as Range<UInt64> { test.forget(number) }
            // More than are read at once stand before the last one, and whoever begins its read
            // has too little time to wait for them.
            let others = (0..<59).map { number in Task { await test.read(number) } }
            let hurry = test.now.adding(milliseconds: 1)
            let hurried = Task { await test.read(59, deadline: hurry) }
            let patient = (0..<5).map { _ in Task { await test.read(59) } }
            for task in patient + others { #expect(await task.value == .ok) }
            #expect(await [.ok, .deadlineExceeded].contains(hurried.value))
        }
    }

    @Test func `answers busy when memory has no room for what is read`() async throws {
        let directories = try TestDirectories()
        let options = StoreOptions(directories).with { $0.memory = .mebibytes(1) }
        try await withStore(options) { test in
            let size = test.memory.chunkByteCountMax / 2 / 4_096 * 4_096
            let small = options.segmentByteCount / 2
            #expect(await test.putDurably(1, byteCount: small))
            test.forget(1)
            for number in 2...3 as ClosedRange<UInt64> { test.put(number, byteCount: size) }
            let holds = [2, 3].map { test.memory.hold(.default, key($0), now: test.now)?.escape() }
            #expect(await test.read(1) == .busy)
            for case let hold? in holds { test.memory.release(hold) }
            #expect(await test.read(1) == .ok)
        }
    }
}

@Suite struct `A part of a chunk on SSD` {
    /// Reads a range, and compares it; the bytes read besides.
    private func read(
        _ range: Range<Int>, of number: UInt64, byteCount: Int, _ test: isolated TestStore
    ) async throws -> (Status, Int) {
        let before = test.tier.statistics().readByteCount
        let located = try #require(
            test.tier.locate(.default, key(number), now: test.now, asUse: .doesNotCount))
        let name = ChunkName(.default, key(number))
        switch await test.reader.readPart(name, located, range, deadline: test.soon) {
        case .refused(let status): return (status, 0)
        case .read(let part):
            let bytes = part.bytes
            let expected = test.content(number, byteCount: byteCount)
            #expect(bytes.count == range.count)
            let isEqual = (0..<bytes.count).allSatisfy {
                bytes[$0] == expected.bytes[range.lowerBound + $0]
            }
            #expect(isEqual, "\(range)")
            return (.ok, test.tier.statistics().readByteCount - before)
        }
    }

    private func options(_ directories: TestDirectories) -> StoreOptions {
        StoreOptions(directories).with { $0.segmentBlockCount = 100 }
    }

    @Test func `costs its stripes and the header, and is checked`() async throws {
        let directories = try TestDirectories()
        try await withStore(options(directories)) { test in
            let size = 200_001
            #expect(await test.putDurably(1, byteCount: size))
            test.forget(1)
            for (range, stripes) in [
                (0..<1, 65_536), (65_535..<65_536, 65_536), (65_535..<65_537, 131_072),
                (70_000..<131_072, 65_536), (0..<200_001, 200_704), (200_000..<200_001, 4_096),
                (131_072..<200_001, 69_632),
            ] {
                let (status, byteCount) = try await read(range, of: 1, byteCount: size, test)
                #expect(status == .ok && byteCount == 4_096 + stripes, "\(range): \(byteCount)")
            }
            // Nothing stays in memory.
            #expect(test.memory.statistics().chunkCount == 0)
        }
    }

    @Test(arguments: [0, 100, 2_000, 4_096 + 70_000])
    func `is refused when the disk changed it`(offset: Int) async throws {
        let directories = try TestDirectories()
        let options = self.options(directories)
        try await withStore(options) { test in
            #expect(await test.putDurably(1, byteCount: 200_001))
        }
        try directories.change("segment-00000.kvs") { $0[4_096 + offset] ^= 4 }
        try await withStore(options) { test in
            let isPayload = offset > 4_096
            let first = try await read(0..<10, of: 1, byteCount: 200_001, test)
            #expect(first.0 == (isPayload ? .ok : .notFound))
            guard isPayload else {
                #expect(test.tier.statistics().checksumMismatchCount == 1)
                #expect(!test.isOnSSD(1))
                return
            }
            let second = try await read(65_536..<65_537, of: 1, byteCount: 200_001, test)
            #expect(second.0 == .notFound)
            #expect(test.tier.statistics().checksumMismatchCount == 1)
            #expect(test.eventCount(.checksumMismatch) == 1)
            #expect(!test.isOnSSD(1))
        }
    }
}
