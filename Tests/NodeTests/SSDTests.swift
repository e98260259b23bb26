// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVClient
import KVCore
import LinuxIO
import Node
import Telemetry
import Testing
import Tiers
import Wire

private let byteCount = 100_001

extension WorldOptions {
    /// The same with an SSD tier in a fresh directory.
    fileprivate func withSSD(
        _ change: (inout SSDOptions) -> Void = { _ in }
    ) throws -> WorldOptions {
        var ssd = try SSDOptions()
        change(&ssd)
        return with { options in
            options.ssd = ssd
            options.node.userID = getuid()
        }
    }
}

extension Client {
    /// Stores a chunk whose bytes live as long as the call: an owner whose last use comes before an
    /// `await` is freed there.
    fileprivate func put(_ label: ChunkLabel, of bytes: OwnedBytes) async throws -> PutOutcome {
        try await put(label, bytes.bytes, deadline: soon)
    }

    fileprivate func putInPlace(
        _ label: ChunkLabel, of bytes: OwnedBytes
    ) async throws -> PutOutcome {
        try await putInPlace(label, bytes.bytes, deadline: soon)
    }

    /// Stores chunks durably, over the socket.
    fileprivate func putDurably(_ numbers: Range<UInt64>) async throws {
        for number in numbers {
            let bytes = chunk(number, count: byteCount)
            let outcome = try await put(
                ChunkLabel(key: key(number), acknowledge: .ssd), of: bytes)
            #expect(outcome == .stored)
        }
    }

    fileprivate func put(_ numbers: Range<UInt64>) async throws {
        for number in numbers {
            let bytes = chunk(number, count: byteCount)
            _ = try await put(ChunkLabel(key: key(number)), of: bytes)
        }
    }

    /// Gets chunks in one request and compares them.
    /// - Returns: those that were found.
    fileprivate func found(_ numbers: [UInt64]) async throws -> [UInt64] {
        let fetched = try await fetch(numbers.map { key($0) }, deadline: soon)
        var found: [UInt64] = []
        for (number, chunk) in zip(numbers, fetched) {
            guard let memory = chunk.memory else {
                #expect(chunk.outcome == .missed(.notFound))
                continue
            }
            let expected = NodeTests.chunk(number, count: byteCount)
            #expect(memory.bytes.holds(sameAs: expected.bytes), "\(number)")
            found.append(number)
        }
        return found
    }

    /// In which tier each chunk is; nil: in none.
    fileprivate func tiers(_ numbers: Range<UInt64>) async throws -> [UInt8?] {
        let answer = try await lookup(numbers.map { key($0) }, .everyKey, deadline: soon)
        return answer.records.map { $0.status == .ok ? $0.tier : nil }
    }
}

@Suite struct `Chunks on SSD` {
    @Test(arguments: WorldOptions.all)
    func `are sent in one batch with those in memory and those nowhere`(
        options: WorldOptions
    ) async throws {
        try await withNode(options.withSSD()) { world in
            let client = world.client()
            try await client.putDurably(0..<40)
            world.forget(0..<30)
            let tiers = try await client.tiers(29..<32)
            #expect(tiers == [LookupRecord.ssdTier, LookupRecord.ramTier, LookupRecord.ramTier])
            let wanted: [UInt64] = [99, 39, 0, 1, 98] + Array(2..<39) + [97, 0]
            let found = try await client.found(wanted)
            #expect(found == wanted.filter { $0 < 40 })
            #expect(world.count(.ssdHits) >= 29 && world.count(.ssdHits) <= 31)
            #expect(world.count(.misses) == 3)
            let after = try await client.tiers(0..<30)
            #expect(after == Array(repeating: LookupRecord.ramTier, count: 30))
            client.close()
        }
    }

    @Test(arguments: WorldOptions.all)
    func `are sent in part without being read as a whole`(options: WorldOptions) async throws {
        try await withNode(options.withSSD()) { world in
            let client = world.client()
            let bytes = chunk(1, count: 900_000)
            let label = ChunkLabel(key: key(1), acknowledge: .ssd)
            _ = try await client.put(label, of: bytes)
            world.forget(1..<2)
            for (offset, count) in [(0, 1), (65_535, 2), (500_000, 100_000), (899_999, 1)] {
                let before = world.ssdReadByteCount
                let range = ByteRange(offset: UInt64(offset), byteCount: UInt64(count))
                let part = try await client.fetch(
                    key(1), GetOptions(range: range), deadline: client.soon)
                let expected = bytes.bytes.slice(offset: offset, count: count)
                #expect(part?.bytes.holds(sameAs: expected) == true)
                #expect(world.ssdReadByteCount - before <= count + 3 * 65_536)
            }
            #expect(try await client.tiers(1..<2) == [LookupRecord.ssdTier])
            let behind = GetOptions(range: ByteRange(offset: 899_999, byteCount: 2))
            let error = await clientError {
                _ = try await client.fetch(key(1), behind, deadline: client.soon)
            }
            #expect(error?.status == .limitExceeded)
            // Each of several keys has its own answer.
            let range = ByteRange(offset: 10, byteCount: 20)
            let several = try await client.fetch(
                [key(1), key(2), key(1)], GetOptions(range: range), deadline: client.soon)
            #expect(several.map { $0.memory?.bytes.count } == [20, nil, 20])
            let other = GetOptions(layout: LayoutID(words: (1, 2)), range: range)
            let outcomes = try await client.fetch([key(1)], other, deadline: client.soon)
            #expect(outcomes[0].outcome == .missed(.layoutMismatch))
            client.close()
        }
    }

    @Test(arguments: WorldOptions.local)
    func `are lent in place`(options: WorldOptions) async throws {
        try await withNode(options.withSSD()) { world in
            let client = world.client()
            try await client.putDurably(0..<20)
            world.forget(0..<15)
            let keys = (0..<21).map { key($0) }
            let outcomes = try await client.lease(keys, deadline: client.soon)
            var leases: [UInt64] = []
            for (number, outcome) in outcomes.enumerated() {
                switch outcome {
                case .leased(let leased):
                    let expected = chunk(UInt64(number), count: byteCount)
                    #expect(leased.bytes.holds(sameAs: expected.bytes))
                    leases.append(leased.id)
                case .missed(let status): #expect(status == .notFound && number == 20)
                }
            }
            #expect(leases.count == 20)
            #expect(try await client.release(leases, deadline: client.soon) == 20)
            client.close()
        }
    }

    @Test(arguments: WorldOptions.all)
    func `that cannot be read are misses`(options: WorldOptions) async throws {
        try await withNode(options.withSSD()) { world in
            let client = world.client()
            try await client.putDurably(0..<2)
            world.forget(0..<2)
            await world.door.inject(.failure(errorNumber: EIO), into: .read, skipCount: 0)
            #expect(try await client.found([0]).isEmpty)
            #expect(try await client.found([0, 1]) == [0, 1])
            #expect(world.ssd?.tier.statistics().readFaultCount == 1)
            client.close()
        }
    }
}

@Suite struct `A client that wants chunks kept` {
    @Test(arguments: WorldOptions.all)
    func `finds them after a restart, and not what it deleted`(
        options: WorldOptions
    ) async throws {
        let options = try options.withSSD()
        try await withNode(options) { world in
            let client = world.client()
            try await client.putDurably(0..<10)
            for number in [3, 4] as [UInt64] {
                let bytes = chunk(number, count: byteCount)
                let label = ChunkLabel(key: key(number), acknowledge: .ssd)
                #expect(
                    try await client.put(label, of: bytes) == .exists)
            }
            // In memory and on SSD, on SSD alone, in memory alone, nowhere.
            world.forget(1..<2)
            let keys = [key(0), key(1), key(11), key(12)]
            _ = try await client.put(
                ChunkLabel(key: key(11)), of: chunk(11, count: 10))
            let statuses = try await client.delete(keys, deadline: client.soon)
            #expect(statuses == [.ok, .ok, .ok, .notFound])
            #expect(try await client.tiers(0..<2) == [nil, nil])
            client.close()
        }
        try await withNode(options) { world in
            let client = world.client()
            let found = try await client.found(Array(0..<13))
            #expect(found == Array(2..<10))
            // It is there, though not in memory.
            world.forget(2..<3)
            let bytes = chunk(2, count: byteCount)
            let label = ChunkLabel(key: key(2), acknowledge: .ssd)
            #expect(try await client.put(label, of: bytes) == .exists)
            client.close()
        }
    }

    @Test(arguments: WorldOptions.local)
    func `may write them in place`(options: WorldOptions) async throws {
        let options = try options.withSSD()
        try await withNode(options) { world in
            let client = world.client()
            let bytes = chunk(1, count: byteCount)
            let label = ChunkLabel(key: key(1), acknowledge: .ssd)
            let first = try await client.putInPlace(label, of: bytes)
            #expect(first == .stored && world.isOnSSD(1))
            world.forget(1..<2)
            let second = try await client.putInPlace(label, of: bytes)
            #expect(second == .exists)
            client.close()
        }
        try await withNode(options) { world in
            let client = world.client()
            let found = try await client.found([1])
            #expect(found == [1])
            client.close()
        }
    }

    @Test(arguments: WorldOptions.all)
    func `is told when that cannot be`(options: WorldOptions) async throws {
        try await withNode(options) { world in
            let client = world.client()
            let bytes = chunk(1, count: byteCount)
            let error = await clientError {
                _ = try await client.put(
                    ChunkLabel(key: key(1), acknowledge: .ssd), of: bytes)
            }
            #expect(error?.kind == .refused && error?.status == .notDurable)
            #expect(try await client.found([1]) == [1])
            let pins = try await client.pin([key(1)], milliseconds: 1_000, deadline: client.soon)
            #expect(pins == [.notDurable])
            // Memory forgets it for good.
            #expect(try await client.delete([key(1)], deadline: client.soon) == [.ok])
            client.close()
        }
    }

    @Test(arguments: WorldOptions.all)
    func `pins them beyond a restart`(options: WorldOptions) async throws {
        let options = try options.withSSD {
            $0.pinnedByteCountMax = 3 * byteCount
            $0.capacity = .mebibytes(24)
        }
        try await withNode(options) { world in
            let client = world.client()
            try await client.putDurably(0..<4)
            world.forget(0..<1)
            let keys = [key(0), key(9), key(1), key(2), key(3)]
            let pins = try await client.pin(keys, milliseconds: 600_000, deadline: client.soon)
            #expect(pins == [.ok, .notFound, .ok, .ok, .busy])
            let ends = try await client.unpin([key(1), key(9)], deadline: client.soon)
            #expect(ends == [.ok, .notFound])
            client.close()
        }
        try await withNode(options) { world in
            let client = world.client()
            #expect(world.ssd?.tier.statistics().pinCount == 2)
            // More than there is room for.
            try await client.putDurably(100..<400)
            try await world.until("chunks are evicted") {
                ($0.ssd?.tier.statistics().evictionCount ?? 0) > 0
            }
            #expect(try await client.found([0, 2]) == [0, 2])
            client.close()
        }
    }

    @Test(arguments: WorldOptions.all)
    func `has them on SSD once they are pinned, wherever they were`(
        options: WorldOptions
    ) async throws {
        try await withNode(options.withSSD { $0.admission = .secondUse }) { world in
            let client = world.client()
            try await client.put(0..<8)
            #expect(!(0..<8).contains { world.isOnSSD($0) })
            let pins = try await client.pin(
                (0..<8).map { key($0) }, milliseconds: 600_000, deadline: client.soon)
            #expect(pins == Array(repeating: .ok, count: 8))
            #expect((0..<8).allSatisfy { world.isOnSSD($0) })
            client.close()
        }
    }
}

@Suite struct `Admission to SSD` {
    @Test(arguments: WorldOptions.local)
    func `is given to all chunks, or to those that are used again`(
        options: WorldOptions
    ) async throws {
        try await withNode(options.withSSD()) { world in
            let client = world.client()
            try await client.put(0..<5)
            try await world.until("all are there") { world in
                (0..<5).allSatisfy { world.isOnSSD($0) }
            }
            client.close()
        }
        try await withNode(options.withSSD { $0.admission = .secondUse }) { world in
            let client = world.client()
            try await client.put(0..<5)
            #expect(try await client.found([1]) == [1])
            #expect(try await client.tiers(3..<4) == [LookupRecord.ramTier])
            try await world.until("two are there") { $0.isOnSSD(1) && $0.isOnSSD(3) }
            #expect([0, 2, 4].allSatisfy { !world.isOnSSD($0) })
            // Who wants it durable does not have to use it again.
            try await client.putDurably(7..<8)
            #expect(world.isOnSSD(7))
            client.close()
        }
    }

    @Test(arguments: WorldOptions.local)
    func `is given to chunks whose ancestors are there`(options: WorldOptions) async throws {
        let options = try options.withSSD { $0.admission = .secondUse }
            .with { $0.node.admitsPrefixesOnly = true }
        try await withNode(options) { world in
            let client = world.client()
            try await client.put(0..<3)
            try await client.put(4..<8)
            // 3 is missing.
            #expect(try await client.found(Array(0..<6)) == [0, 1, 2, 4, 5])
            _ = try await client.lookup(
                [key(3), key(6)], .everyKey, deadline: client.soon)
            let outcomes = try await client.lease([key(3), key(7)], deadline: client.soon)
            guard case .leased(let leased) = outcomes[1] else {
                Issue.record("no lease")
                return
            }
            #expect(try await client.release([leased.id], deadline: client.soon) == 1)
            try await client.putDurably(8..<9)
            try await world.until("a prefix is there") { world in
                (0..<3).allSatisfy { world.isOnSSD($0) }
            }
            #expect((4..<8).allSatisfy { !world.isOnSSD($0) })
            client.close()
        }
    }

    @Test(arguments: [SSDReader<RingReactor>.Promotion.always, .secondUse])
    func `back to memory is for good at once, or at the second use`(
        promotion: SSDReader<RingReactor>.Promotion
    ) async throws {
        try await withNode(WorldOptions().withSSD { $0.promotion = promotion }) { world in
            let client = world.client()
            try await client.putDurably(0..<2)
            world.forget(0..<2)
            // As much as memory holds, and a little more in the end.
            let count = UInt64(world.node.tier.chunkByteCountMax / byteCount)
            try await client.put(100..<100 + count / 2)
            #expect(try await client.found([0, 1]) == [0, 1])
            #expect(try await client.found([1]) == [1])
            var number = 100 + count / 2
            while world.node.tier.statistics().evictionCount < 2 {
                try await client.put(number..<number + 1)
                number += 1
            }
            let tiers = try await client.tiers(0..<2)
            #expect(tiers[1] == LookupRecord.ramTier)
            #expect(
                tiers[0]
                    == (promotion == .always ? LookupRecord.ramTier : LookupRecord.ssdTier))
            client.close()
        }
    }
}

@Suite struct `An operator's request` {
    private func facts(_ client: Client<RingReactor>) async throws -> [String: String] {
        let facts = try await client.control(.ssdStatus, deadline: client.soon)
        return Dictionary(uniqueKeysWithValues: facts.map { ($0.name, $0.text) })
    }

    @Test(arguments: WorldOptions.local)
    func `tells of the SSD tier, and has it scrubbed`(options: WorldOptions) async throws {
        let options = try options.withSSD()
        try await withNode(options) { world in
            let client = world.client()
            try await client.putDurably(0..<40)
            let before = try await facts(client)
            #expect(before["directory_0_path"] == options.ssd?.folder.path)
            #expect(before["directory_0_state"] == "ok")
            #expect(before["chunks"] == "40" && before["namespace_default_chunks"] == "40")
            #expect(before["namespace_default_chunk_bytes"] == "\(40 * byteCount)")
            #expect(
                try await client.control(
                    .ssdScrub, argument: "1000000000", deadline: client.soon
                ).isEmpty)
            let end = client.soon
            while try await facts(client)["scrub"]?.contains("1 passes ended") != true {
                guard world.reactor.now() < end else {
                    Issue.record("the scrub does not end")
                    break
                }
                try await world.pause(milliseconds: 5)
            }
            #expect((world.ssd?.tier.statistics().scrubbedByteCount ?? 0) > 0)
            client.close()
        }
    }

    @Test(arguments: WorldOptions.local)
    func `is refused when it makes no sense`(options: WorldOptions) async throws {
        let options = try options.withSSD()
        let path = try #require(options.ssd?.folder.path)
        try await withNode(options) { world in
            let client = world.client()
            let cases: [(ControlRequest.Operation, String, Status)] = [
                (.ssdScrub, "0", .unsupported), (.ssdScrub, "fast", .unsupported),
                (.ssdEvacuate, "/nowhere", .notFound), (.ssdEvacuate, path, .unsupported),
            ]
            for (operation, argument, status) in cases {
                let error = await clientError {
                    _ = try await client.control(
                        operation, argument: argument, deadline: client.soon)
                }
                #expect(error?.kind == .refused && error?.status == status, "\(argument)")
            }
            try await client.ping(deadline: client.soon)
            client.close()
        }
    }

    @Test func `is for the operator alone`() async throws {
        let remote = try WorldOptions(.ioUring, isLocal: false).withSSD()
        let stranger = try WorldOptions().withSSD().with { $0.node.userID = 1 }
        for options in [remote, stranger] {
            // Root may over the Unix socket, whoever the node's user is.
            if options.isLocal, getuid() == 0 { continue }
            try await withNode(options) { world in
                let client = world.client()
                let error = await clientError {
                    _ = try await client.control(.ssdStatus, deadline: client.soon)
                }
                #expect(error?.status == .unauthorized)
                client.close()
            }
        }
    }
}
