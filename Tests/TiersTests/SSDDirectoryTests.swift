// SPDX-License-Identifier: Apache-2.0
import Foundation
import Glibc
import KVCore
import Testing

@testable import Tiers

extension Data {
    /// Changes a block of metadata and gives it a checksum that fits.
    fileprivate mutating func reseal(block: Int, _ change: (PinnedBytes) -> Void) {
        let memory = SSDFormat.makeBlocks(1)
        let start = block * SSDFormat.blockByteCount
        for offset in 0..<SSDFormat.blockByteCount {
            memory.bytes.store(self[start + offset], at: offset)
        }
        change(memory.bytes)
        memory.bytes.sealBlock()
        for offset in 0..<SSDFormat.blockByteCount {
            self[start + offset] = memory.bytes[offset]
        }
    }
}

@Suite struct `A directory of a store` {
    /// Makes a store with a few sealed segments.
    private func makeStore(_ options: StoreOptions) async throws {
        try await withStore(options) { test in
            for number in 0..<10 as Range<UInt64> {
                #expect(await test.putDurably(number, byteCount: 10_000))
            }
        }
    }

    @Test func `keeps files that are not its own, whatever else happens there`() async throws {
        let directories = try TestDirectories()
        let options = StoreOptions(directories).with { $0.segmentCountMax = 5 }
        try await makeStore(options)
        let segment = try directories.content("segment-00000.kvs")
        var foreign: [String: Data] = [
            "segment-00090.kvs": segment.prefix(segment.count / 2),
            // A copy: it says that it is number 0.
            "segment-00091.kvs": segment,
            "segment-00094.kvs": Data(repeating: 7, count: segment.count),
            "segment-4294967295.kvs": Data("somebody's".utf8),
            "segment-7.kvs": segment, "notes.txt": Data("somebody's".utf8),
        ]
        for (number, offset, value) in [(92, 16, 99), (93, 8, 2), (95, 12, 3)]
            as [(Int, Int, UInt32)]
        {
            var changed = segment
            changed.reseal(block: 0) { block in
                block.store(UInt32(number), at: 32)
                block.store(value, at: offset)
            }
            foreign["segment-000\(number).kvs"] = changed
        }
        for (name, content) in foreign { try directories.write(content, to: name) }
        try await withStore(options) { test in
            #expect(test.tier.statistics().foreignFileCount == 7)
            #expect(test.eventCount(.foreignFile) == 7)
            for number in 100..<160 as Range<UInt64> { test.put(number, byteCount: 20_000) }
            try await test.settle()
            #expect(test.tier.statistics().evictionCount > 0, "all segments were used again")
            #expect(await test.putDurably(200))
        }
        for (name, content) in foreign {
            #expect(try directories.content(name) == content, "\(name)")
        }
        // With the highest number taken by somebody, the lowest that is free is used.
        #expect(directories.segmentNames().count == 5 + 8)
    }

    @Test(arguments: ["short", "text", "version", "size", "flipped"])
    func `is left alone without an identity that is one`(what: String) async throws {
        let directories = try TestDirectories()
        let options = StoreOptions(directories)
        try await makeStore(options)
        try directories.change(SSDFormat.identityName) { identity in
            switch what {
            case "short": identity = identity.prefix(100)
            case "text": identity = Data("somebody's".utf8)
            case "version": identity.reseal(block: 0) { $0.store(UInt32(2), at: 8) }
            case "size": identity.reseal(block: 0) { $0.store(UInt32(4), at: 12) }
            default: identity[3_000] ^= 1
            }
        }
        let names = directories.files()
        let contents = try names.map { try directories.content($0) }
        try await withStore(options) { test in
            #expect(test.found.directoryCount == 0)
            #expect(test.eventCount(.unavailable) == 1)
            #expect(await !test.putDurably(1))
            #expect(await test.read(1) == .ok)
            #expect(test.tier.statistics().failedDirectoryCount == 1)
        }
        #expect(directories.files() == names)
        #expect(try names.map { try directories.content($0) } == contents)
    }

    @Test func `is left alone with segments and no identity`() async throws {
        let directories = try TestDirectories()
        let options = StoreOptions(directories)
        try await makeStore(options)
        try directories.remove(SSDFormat.identityName)
        let names = directories.files()
        try await withStore(options) { test in #expect(test.found.directoryCount == 0) }
        #expect(directories.files() == names)
    }

    @Test func `is left out when it cannot be listed`() async throws {
        let directories = try TestDirectories()
        let options = StoreOptions(directories)
        try await makeStore(options)
        // The first look is for the identity.
        let count = options.calls.counts[.fileNames, default: 0]
        options.calls.arm(.failure(EIO), .fileNames, after: count + 1)
        try await withStore(options) { test in
            #expect(test.found.directoryCount == 0)
            #expect(test.eventCount(.unavailable) == 1)
            #expect(test.tier.statistics().failedDirectoryCount == 1)
            #expect(await !test.putDurably(20))
            #expect(await test.read(20) == .ok)
        }
        try await withStore(options) { test in
            for number in 0..<10 as Range<UInt64> {
                #expect(await test.readFromDisk(number) == .ok)
            }
        }
    }

    @Test func `keeps the size that its segments had at first`() async throws {
        let directories = try TestDirectories()
        let options = StoreOptions(directories)
        try await makeStore(options)
        try await withStore(options.with { $0.segmentBlockCount = 32 }) { test in
            for number in 0..<10 as Range<UInt64> {
                #expect(await test.readFromDisk(number) == .ok)
            }
            for number in 20..<40 as Range<UInt64> {
                #expect(await test.putDurably(number, byteCount: 10_000))
            }
        }
        for name in directories.segmentNames() {
            #expect(try directories.content(name).count == 16 * SSDFormat.blockByteCount)
        }
    }

    @Test func `belongs to one store at a time`() async throws {
        let directories = try TestDirectories()
        let options = StoreOptions(directories)
        try await withStore(options) { test in
            #expect(await test.putDurably(1))
            try await withStore(options) { other in
                #expect(other.found.directoryCount == 0)
                #expect(other.eventCount(.unavailable) == 1)
                #expect(await !other.putDurably(2))
                #expect(await other.read(1) == .notFound)
            }
            #expect(await test.putDurably(3))
        }
        try await withStore(options) { test in
            for number in [1, 3] as [UInt64] { #expect(await test.readFromDisk(number) == .ok) }
            #expect(await test.read(2) == .notFound)
        }
    }
}

@Suite struct `Two directories of a store` {
    private func only(_ number: Int, _ options: StoreOptions) -> StoreOptions {
        options.with { $0.paths = [options.paths[number]] }
    }

    @Test func `share what is written, in whatever order they are named`() async throws {
        let directories = try TestDirectories(2)
        let options = StoreOptions(directories)
        try await withStore(options) { test in
            for number in 0..<20 as Range<UInt64> {
                #expect(await test.putDurably(number, byteCount: 10_000))
            }
            for number in 0..<3 as Range<UInt64> {
                #expect(await test.delete(number) == (true, true))
            }
            for number in 0..<2 {
                let own = test.tier.segments().filter { $0.directory == number }
                #expect((7...10).contains(own.reduce(0) { $0 + $1.liveCount }), "half of them")
            }
        }
        for paths in [options.paths, options.paths.reversed()] {
            try await withStore(options.with { $0.paths = paths }) { test in
                for number in 0..<20 as Range<UInt64> {
                    #expect(await test.readFromDisk(number) == (number < 3 ? .notFound : .ok))
                }
            }
        }
    }

    @Test func `are one store when one is added, before or behind`() async throws {
        let directories = try TestDirectories(3)
        let all = StoreOptions(directories)
        try await withStore(only(1, all)) { test in #expect(await test.putDurably(1)) }
        try await withStore(all) { test in
            #expect(test.found.directoryCount == 3, "\(test.events)")
            #expect(await test.readFromDisk(1) == .ok)
            for number in 2..<20 as Range<UInt64> {
                #expect(await test.putDurably(number, byteCount: 10_000))
            }
        }
        #expect((0..<3).allSatisfy { !directories.segmentNames($0).isEmpty })
        try await withStore(all) { test in
            for number in 2..<20 as Range<UInt64> {
                #expect(await test.readFromDisk(number) == .ok)
            }
        }
    }

    @Test func `are not mixed with those of another store, and not with a copy`() async throws {
        let directories = try TestDirectories(3)
        let all = StoreOptions(directories)
        try await withStore(only(0, all)) { test in #expect(await test.putDurably(1)) }
        try await withStore(only(1, all)) { test in #expect(await test.putDurably(2)) }
        for name in directories.files(0) {
            try directories.write(directories.content(name, 0), to: name, 2)
        }
        let contents = try directories.files(1).map { try directories.content($0, 1) }
        try await withStore(all) { test in
            #expect(test.found.directoryCount == 1)
            #expect(test.eventCount(.unavailable) == 2)
            #expect(await test.readFromDisk(1) == .ok)
            #expect(await test.read(2) == .notFound)
            #expect(await test.putDurably(3))
        }
        #expect(try directories.files(1).map { try directories.content($0, 1) } == contents)
    }

    @Test func `keep a deletion from coming back with one that was missing`() async throws {
        let directories = try TestDirectories(2)
        let options = StoreOptions(directories).with { $0.segmentCountMax = 24 }
        try await withStore(options) { test in
            for number in 0..<40 as Range<UInt64> {
                #expect(await test.putDurably(number, byteCount: 10_000))
            }
        }
        let away = directories.paths[1] + "-away"
        try FileManager.default.moveItem(atPath: directories.paths[1], toPath: away)
        let missing = try await withStore(options) { test in
            #expect(test.found.directoryCount == 1)
            #expect(test.tier.statistics().failedDirectoryCount == 1)
            let missing = (0..<40 as Range<UInt64>).filter { !test.isOnSSD($0) }
            for number in missing.prefix(3) {
                #expect(await test.delete(number) == (false, true))
            }
            return missing
        }
        #expect(missing.count > 3)
        try FileManager.default.moveItem(atPath: away, toPath: directories.paths[1])
        try await withStore(options) { test in
            for number in 0..<40 as Range<UInt64> {
                let isDeleted = missing.prefix(3).contains(number)
                #expect(await test.readFromDisk(number) == (isDeleted ? .notFound : .ok))
            }
        }
    }

    @Test func `keep a deletion of what is newer than all that was there`() async throws {
        let directories = try TestDirectories(2)
        let options = StoreOptions(directories)
        try await withStore(only(1, options)) { test in
            for number in 0..<10 as Range<UInt64> { #expect(await test.putDurably(number)) }
        }
        // The first one joins, and holds nothing.
        try await withStore(options, end: .kill) { test in
            #expect(test.found.directoryCount == 2)
        }
        let away = directories.paths[1] + "-away"
        try FileManager.default.moveItem(atPath: directories.paths[1], toPath: away)
        try await withStore(options) { test in
            for number in 0..<5 as Range<UInt64> {
                #expect(await test.delete(number) == (false, true))
            }
        }
        try FileManager.default.moveItem(atPath: away, toPath: directories.paths[1])
        try await withStore(options) { test in
            for number in 0..<10 as Range<UInt64> {
                #expect(await test.readFromDisk(number) == (number < 5 ? .notFound : .ok))
            }
        }
    }

    @Test func `are one store when the first has trouble at its first start`() async throws {
        let directories = try TestDirectories(2)
        let options = StoreOptions(directories)
        // Its identity has its name, and may not be durable.
        options.calls.arm(.late, .synchronizeDirectory, after: 0)
        try await withStore(options) { test in
            #expect(test.found.directoryCount == 1)
            #expect(await test.putDurably(1))
        }
        #expect(directories.files(0).contains(SSDFormat.identityName))
        try await withStore(options) { test in
            #expect(test.found.directoryCount == 2, "\(test.events)")
            #expect(await test.readFromDisk(1) == .ok)
        }
    }

    @Test func `stay two when the one to be evacuated could not be read`() async throws {
        let directories = try TestDirectories(2)
        let options = StoreOptions(directories).with { $0.segmentCountMax = 24 }
        try await withStore(options) { test in
            #expect(await test.putDurably(0..<20, byteCount: 10_000) == 20)
        }
        // Each identity is opened twice before the first segment is.
        options.calls.arm(.failure(EIO), .open, after: 4 + options.calls.counts[.open, default: 0])
        try await withStore(options, end: .kill) { test in
            #expect(test.eventCount(.fault) == 1, "\(test.events)")
            #expect(test.tier.statistics().readFaultCount == 1)
            #expect(await test.store.beginEvacuation(directories.paths[0]) == .ok)
            try await test.until("it is over") { $0.eventCount(.fault) == 2 }
            #expect(test.eventCount(.finished) == 0)
        }
        try await withStore(options) { test in
            #expect(test.found.directoryCount == 2, "\(test.events)")
            for number in 0..<20 as Range<UInt64> {
                #expect(await test.readFromDisk(number) == .ok)
            }
        }
    }

    @Test func `become one when the other is evacuated`() async throws {
        let directories = try TestDirectories(2)
        let options = StoreOptions(directories)
        try await withStore(options) { test in
            for number in 0..<12 as Range<UInt64> {
                #expect(await test.putDurably(number, byteCount: 10_000))
            }
            for number in 0..<3 as Range<UInt64> {
                #expect(await test.delete(number) == (true, true))
            }
            #expect(await test.pin(5))
            let path = directories.paths[0]
            #expect(await test.store.beginEvacuation("/nowhere") == .notFound)
            #expect(await test.store.beginEvacuation(path) == .ok)
            #expect(await [.busy, .notFound].contains(test.store.beginEvacuation(path)))
            #expect(await test.putDurably(30))
            try await test.until("it is empty") { $0.eventCount(.finished) == 1 }
            #expect(await test.store.beginEvacuation(directories.paths[1]) == .unsupported)
            for number in 0..<12 as Range<UInt64> {
                #expect(await test.readFromDisk(number) == (number < 3 ? .notFound : .ok))
            }
            #expect(await test.putDurably(31))
        }
        #expect(directories.files(0) == ["lock"])
        try await withStore(only(1, options)) { test in
            for number in Array(3..<12) + [30, 31] as [UInt64] {
                #expect(await test.readFromDisk(number) == .ok)
            }
            for number in 0..<3 as Range<UInt64> { #expect(await test.read(number) == .notFound) }
            #expect(test.tier.statistics().pinCount == 1)
        }
    }

    @Test func `make room when one is evacuated and the other is full`() async throws {
        let directories = try TestDirectories(2)
        let options = StoreOptions(directories).with { $0.segmentCountMax = 5 }
        try await withStore(options) { test in
            for number in 0..<40 as Range<UInt64> {
                test.put(number, byteCount: 20_000)
                try await test.settle()
                test.forget(number)
            }
            #expect(await test.putDurably(50))
            #expect(await test.delete(50) == (true, true))
            #expect(await test.store.beginEvacuation(directories.paths[0]) == .ok)
            try await test.until("it is over") {
                $0.eventCount(.finished) + $0.eventCount(.fault) == 1
            }
            #expect(test.eventCount(.finished) == 1, "\(test.events)")
            #expect(await test.putDurably(60))
        }
        #expect(directories.files(0) == ["lock"])
        #expect(directories.byteCount(1) <= options.capacity.bytes)
        try await withStore(only(1, options)) { test in
            #expect(await test.read(50) == .notFound)
            #expect(await test.readFromDisk(60) == .ok)
        }
    }
}
