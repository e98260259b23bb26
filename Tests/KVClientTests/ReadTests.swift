// SPDX-License-Identifier: Apache-2.0
import KVClient
import KVCore
import Kernels
import LinuxIO
import Testing
import Wire

/// A frame of GET with a chunk.
private func chunk(
    _ bytes: [UInt8], index: UInt32 = 0, more: Bool = false, checksum: UInt64? = nil,
    claiming byteCount: UInt64? = nil
) -> [UInt8] {
    let body = ChunkAnswer(
        index: index, chunkByteCount: byteCount ?? UInt64(bytes.count),
        checksum: checksum ?? Checksum.of(pinned(bytes)), layout: .opaque,
        timeToLiveMilliseconds: timeToLiveForever)
    return answer(
        .get, id: 2, flags: more ? .more : [], payload: bytes, body: body.encode)
}

/// A frame of GET about a key without a chunk.
private func miss(
    _ status: Status, index: UInt32 = 0, more: Bool = false
) -> [UInt8] {
    answer(
        .get, id: 2, status, flags: more ? .more : [],
        body: ChunkRefusal(index: index, message: "not here").encode)
}

/// Three bytes from the third on.
private let middle = ByteRange(offset: 2, byteCount: 3)

@Suite struct `Fetching a range` {
    @Test func `brings its bytes and verifies them`() async throws {
        try await withClient([
            greeted([.read, .send(chunk([3, 4, 5], claiming: 100_000))])
        ]) { bench, client in
            let room = OwnedBytes(count: 3)
            let options = GetOptions(layout: .opaque, range: middle)
            let found = try await client.get(
                key(1), options, into: room.bytes, deadline: client.soon)
            #expect(found?.byteCount == 100_000)
            #expect(found?.payloadByteCount == 3)
            #expect(room.bytes.array == [3, 4, 5])
            let sent = try GetRequest.decode(pinned(bench.requests[1].body))
            #expect(sent.range == middle)
            #expect(sent.layout == .opaque)
            #expect(sent.keys[0] == key(1))
        }
    }

    @Test func `tells which chunks do not have it`() async throws {
        let frames =
            miss(.limitExceeded, index: 0, more: true)
            + chunk([3, 4, 5], index: 1, more: true, claiming: 5)
            + chunk([3, 4, 5], index: 2, more: true, checksum: 1, claiming: 9)
            + miss(.limitExceeded, index: 3)
        try await withClient([greeted([.read, .send(frames)])]) { _, client in
            let fetched = try await client.fetch(
                (0..<4).map { key($0) }, GetOptions(range: middle), deadline: client.soon)
            guard case .missed(.limitExceeded) = fetched[0].outcome,
                case .found = fetched[1].outcome, case .damaged = fetched[2].outcome,
                case .missed(.limitExceeded) = fetched[3].outcome
            else {
                Issue.record("\(fetched.map(\.outcome))")
                return
            }
            #expect(fetched[1].memory?.bytes.array == [3, 4, 5])
        }
    }

    @Test func `is refused for a single chunk that does not have it`() async throws {
        let script = greeted([
            .read, .send(miss(.limitExceeded)), .read, .send(answer(.ping, id: 3)),
        ])
        try await withClient([script]) { bench, client in
            let error = await clientError {
                _ = try await client.fetch(
                    key(1), GetOptions(range: middle), deadline: client.soon)
            }
            #expect(error?.kind == .refused)
            #expect(error?.status == .limitExceeded)
            try await client.ping(deadline: client.soon)
            #expect(bench.connectionCount == 1)
        }
    }

    @Test(arguments: [
        BrokenAnswer(name: "the whole chunk", bytes: chunk([1, 2, 3, 4, 5])),
        BrokenAnswer(name: "too few bytes", bytes: chunk([3, 4], claiming: 9)),
        BrokenAnswer(name: "a chunk that ends before", bytes: chunk([3, 4, 5], claiming: 4)),
    ])
    func `ends when the frame does not fit it`(broken: BrokenAnswer) async throws {
        try await withClient([greeted([.read, .send(broken.bytes), .awaitClose])]) { _, client in
            let error = await clientError {
                _ = try await client.fetch(
                    key(1), GetOptions(range: middle), deadline: client.soon)
            }
            #expect(error?.kind == .brokenAnswer, "\(broken.name): \(error as Any)")
        }
    }
}

@Suite struct `Fetching` {
    @Test(arguments: [1, 4_000, 4_096, 5_000, (1 << 20) + 17])
    func `brings the bytes and verifies them`(byteCount: Int) async throws {
        let bytes = (0..<byteCount).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        try await withClient([greeted([.read, .send(chunk(bytes))])]) { _, client in
            let room = OwnedBytes(count: byteCount + 10)
            let found = try await client.get(key(1), into: room.bytes, deadline: client.soon)
            #expect(found?.byteCount == byteCount)
            #expect(found?.timeToLiveMilliseconds == nil)
            #expect(room.bytes.prefix(byteCount).array == bytes)
        }
    }

    @Test func `tells of each key what became of it`() async throws {
        let first = [UInt8](repeating: 1, count: 6_000)
        let frames =
            chunk(first, index: 0, more: true) + miss(.notFound, index: 1, more: true)
            + chunk([9, 9, 9], index: 2, more: true, checksum: 5)
            + chunk([UInt8](repeating: 4, count: 90_000), index: 3, more: true)
            + miss(.layoutMismatch, index: 4, more: true) + chunk([5], index: 5)
        let script = greeted([.read, .send(frames), .read, .send(answer(.ping, id: 3))])
        try await withClient([script]) { bench, client in
            let rooms = [6_000, 1, 3, 1, 1, 1].map { OwnedBytes(count: $0) }
            let outcomes = try await client.get(
                (0..<6).map { key($0) }, deadline: client.soon
            ) { found in
                found.byteCount == rooms[found.index].bytes.count
                    ? rooms[found.index].bytes : nil
            }
            guard case .found = outcomes[0], case .missed(.notFound) = outcomes[1],
                case .damaged = outcomes[2], case .skipped = outcomes[3],
                case .missed(.layoutMismatch) = outcomes[4], case .found = outcomes[5]
            else {
                Issue.record("\(outcomes)")
                return
            }
            #expect(rooms[0].bytes.array == first)
            #expect(rooms[5].bytes.array == [5])
            // All of it was taken from the stream, so that the connection goes on.
            try await client.ping(deadline: client.soon)
            #expect(bench.connectionCount == 1)
        }
    }

    @Test func `is an error when the bytes are damaged`() async throws {
        try await withClient([
            greeted([.read, .send(chunk([1, 2, 3], checksum: 77))])
        ]) { _, client in
            let error = await clientError {
                _ = try await client.fetch(key(1), deadline: client.soon)
            }
            #expect(error?.kind == .damaged)
            #expect(error?.status == .checksumMismatch)
        }
    }

    @Test func `gives nothing for a miss`() async throws {
        try await withClient([greeted([.read, .send(miss(.notFound))])]) { _, client in
            let memory = try await client.fetch(key(1), deadline: client.soon)
            #expect(memory == nil)
        }
    }

    @Test func `fails as a whole when the request is refused`() async throws {
        try await withClient([
            greeted([.read, .send(refusal(.get, id: 2, .unsupported, "no such level"))])
        ]) { _, client in
            let error = await clientError {
                _ = try await client.fetch([key(1), key(2)], deadline: client.soon)
            }
            #expect(error?.kind == .refused)
            #expect(error?.message == "no such level")
        }
    }

    @Test(arguments: [
        BrokenAnswer(name: "a wrong index", bytes: chunk([1], index: 1, more: true)),
        BrokenAnswer(
            name: "a miss with a wrong index", bytes: miss(.notFound, index: 1, more: true)),
        BrokenAnswer(name: "an end too early", bytes: chunk([1], index: 0)),
        BrokenAnswer(
            name: "more than was asked for",
            bytes: chunk([1], index: 0, more: true) + chunk([1], index: 1, more: true)),
        BrokenAnswer(name: "a wrong size", bytes: chunk([1, 2], more: true, claiming: 3)),
        BrokenAnswer(name: "an impossible size", bytes: chunk([1], more: true, claiming: 1 << 60)),
        BrokenAnswer(name: "no bytes", bytes: chunk([1], more: true, claiming: 0)),
    ])
    func `ends when the frames do not fit the request`(broken: BrokenAnswer) async throws {
        try await withClient([greeted([.read, .send(broken.bytes), .awaitClose])]) { _, client in
            let error = await clientError {
                _ = try await client.fetch([key(1), key(2)], deadline: client.soon)
            }
            #expect(error?.kind == .brokenAnswer, "\(broken.name): \(error as Any)")
        }
    }

    @Test func `is lost when the payload is cut short`() async throws {
        let frame = chunk([UInt8](repeating: 3, count: 100_000))
        try await withClient([
            greeted([.read, .send(Array(frame.prefix(50_000))), .close])
        ]) { _, client in
            let error = await clientError {
                _ = try await client.fetch(key(1), deadline: client.soon)
            }
            #expect(error?.kind == .connectionLost)
        }
    }

    @Test func `reads LOOKUP's records`() async throws {
        let record = LookupRecord(
            status: .ok, tier: 1, level: 0, loadMicroseconds: 50, chunkByteCount: 10,
            timeToLiveMilliseconds: 5)
        let reply = answer(.lookup, id: 2) {
            $0.append(UInt32(1))
            $0.append(UInt32(2))
            record.encode(&$0)
            LookupRecord.absent.encode(&$0)
        }
        try await withClient([greeted([.read, .send(reply)])]) { _, client in
            let found = try await client.lookup(
                [key(1), key(2)], .everyKey, deadline: client.soon)
            #expect(found.prefixCount == 1)
            #expect(found.records == [record, .absent])
        }
    }

    @Test func `reads STAT's pairs`() async throws {
        let stat = StatAnswer(pairs: [("memory_budget_bytes", 5), ("from_the_future", 6)])
        try await withClient([
            greeted([.read, .send(answer(.stat, id: 2, body: stat.encode))])
        ]) { _, client in
            let statistics = try await client.nodeStatistics(deadline: client.soon)
            #expect(statistics.map(\.name) == ["memory_budget_bytes", "from_the_future"])
            #expect(statistics.map(\.value) == [5, 6])
        }
    }
}
