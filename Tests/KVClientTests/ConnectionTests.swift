// SPDX-License-Identifier: Apache-2.0
import KVClient
import KVCore
import LinuxIO
import Testing
import Wire

@Suite struct `A client's connection` {
    @Test func `opens with the first call and says HELLO`() async throws {
        try await withClient([greeted([.read, .send(answer(.ping, id: 2))])]) { bench, client in
            #expect(client.session == nil)
            try await client.ping(deadline: client.soon)
            #expect(client.session?.nodeID == 7)
            #expect(client.session?.daemonName == "scripted 1")
            #expect(bench.requests.map(\.header.verb) == [.hello, .ping])
            let hello = try HelloRequest.decode(pinned(bench.requests[0].body))
            #expect(hello.namespace == "tests")
            #expect(hello.wanted == [])
        }
    }

    @Test func `understands an answer that comes byte by byte`() async throws {
        try await withClient([
            [.read, .trickle(welcome()), .read, .trickle(answer(.ping, id: 2))]
        ]) { _, client in
            try await client.ping(deadline: client.soon)
        }
    }

    @Test func `carries the time left in each request`() async throws {
        try await withClient([greeted([.read, .send(answer(.ping, id: 2))])]) { bench, client in
            try await client.ping(deadline: client.deadline(milliseconds: 5_000))
            let sent = bench.requests[1].header.deadlineMilliseconds
            #expect((1...5_000).contains(sent))
        }
    }

    @Test(arguments: [
        Status.busy, .tooLarge, .deadlineExceeded, .checksumMismatch, .unsupported, .noLease,
        .limitExceeded, .notFound, .layoutMismatch,
    ])
    func `stays after a refusal that is about one request`(status: Status) async throws {
        try await withClient([
            greeted([
                .read, .send(refusal(.ping, id: 2, status)), .read,
                .send(answer(.ping, id: 3)),
            ])
        ]) { bench, client in
            let error = await clientError { try await client.ping(deadline: client.soon) }
            #expect(error?.kind == .refused)
            #expect(error?.status == status)
            #expect(error?.message == "because")
            try await client.ping(deadline: client.soon)
            #expect(bench.connectionCount == 1)
        }
    }

    @Test(arguments: [
        Status.unauthorized, .malformed, .versionMismatch, .helloRequired, .shuttingDown,
        .internal,
    ])
    func `is opened anew after a refusal that ends it`(status: Status) async throws {
        try await withClient([
            greeted([.read, .send(refusal(.ping, id: 2, status)), .awaitClose]),
            greeted([.read, .send(answer(.ping, id: 2))]),
        ]) { bench, client in
            let error = await clientError { try await client.ping(deadline: client.soon) }
            #expect(error?.kind == .refused)
            #expect(error?.status == status)
            try await client.ping(deadline: client.soon)
            #expect(bench.connectionCount == 2)
        }
    }

    @Test(arguments: [Status.busy, .unauthorized, .versionMismatch])
    func `is not used when HELLO was refused`(status: Status) async throws {
        try await withClient([
            [.send(refusal(.hello, id: 0, status, flags: .finalBad)), .awaitClose],
            greeted([.read, .send(answer(.ping, id: 2))]),
        ]) { _, client in
            let error = await clientError { try await client.ping(deadline: client.soon) }
            #expect(error?.kind == .refused)
            #expect(error?.status == status)
            try await client.ping(deadline: client.soon)
        }
    }

    @Test(arguments: brokenAnswers)
    func `ends when the daemon breaks the protocol`(broken: BrokenAnswer) async throws {
        try await withClient([
            greeted([.read, .send(broken.bytes), .awaitClose]),
            greeted([.read, .send(answer(.ping, id: 2))]),
        ]) { bench, client in
            let error = await clientError { try await client.ping(deadline: client.soon) }
            #expect(error?.kind == .brokenAnswer, "\(broken.name): \(error as Any)")
            try await client.ping(deadline: client.soon)
            #expect(bench.connectionCount == 2)
        }
    }

    @Test(arguments: [1, 47, 48])
    func `is lost when the daemon closes in the middle of an answer`(count: Int) async throws {
        let bytes = refusal(.ping, id: 2, .busy)
        try await withClient([
            greeted([.read, .send(Array(bytes.prefix(count))), .close]),
            greeted([.read, .send(answer(.ping, id: 2))]),
        ]) { bench, client in
            let error = await clientError { try await client.ping(deadline: client.soon) }
            #expect(error?.kind == .connectionLost)
            #expect(error?.fault == .closed)
            try await client.ping(deadline: client.soon)
            #expect(bench.connectionCount == 2)
        }
    }

    @Test func `ends when bytes come that nobody asked for`() async throws {
        try await withClient([
            greeted([
                .read, .send(answer(.ping, id: 2) + answer(.ping, id: 3)), .awaitClose,
            ])
        ]) { _, client in
            try await client.ping(deadline: client.soon)
            let error = await clientError { try await client.ping(deadline: client.soon) }
            #expect(error?.kind == .brokenAnswer)
        }
    }

    @Test func `ends when the deadline passes without an answer`() async throws {
        try await withClient([
            greeted([.read, .awaitClose]), greeted([.read, .send(answer(.ping, id: 2))]),
        ]) { bench, client in
            _ = try await client.connect(deadline: client.soon)
            let error = await clientError {
                try await client.ping(deadline: client.deadline(milliseconds: 30))
            }
            #expect(error?.kind == .deadlineExceeded)
            try await client.ping(deadline: client.soon)
            #expect(bench.connectionCount == 2)
        }
    }

    @Test func `takes one call at a time`() async throws {
        try await withClient([greeted([.read, .send(answer(.ping, id: 2))])]) { bench, client in
            _ = try await client.connect(deadline: client.soon)
            try await client.beginPut(
                ChunkLabel(key: key(1)), byteCount: 10, deadline: client.soon)
            let error = await clientError { try await client.ping(deadline: client.soon) }
            #expect(error?.kind == .unusable)
            client.abandonPut()
        }
    }

    @Test func `is tried again after a while when nobody listens`() async throws {
        let bench = Bench(try RingReactor())
        defer {
            bench.reactor.stop()
            bench.reactor.join()
        }
        try await attemptWithoutDaemon(bench)
    }

    private func attemptWithoutDaemon(_ bench: isolated Bench) async throws {
        var options = ClientOptions(address: .unix(path: bench.path))
        options.backOffMillisecondsMin = 60_000
        options.backOffMillisecondsMax = 60_000
        let client = Client(reactor: bench.reactor, options: options)
        let first = await clientError { try await client.ping(deadline: client.soon) }
        #expect(first?.kind == .unreachable)
        #expect(first?.fault == .system(2))
        // The delay is longer than this call may take, so it fails without an attempt.
        let second = await clientError { try await client.ping(deadline: client.soon) }
        #expect(second?.kind == .unreachable)
        #expect(second?.fault == nil)
    }
}

/// Bytes that are no answer to PING with request id 2.
struct BrokenAnswer: Sendable, CustomTestStringConvertible {
    let name: String
    let bytes: [UInt8]

    var testDescription: String { name }
}

private func damaged(_ bytes: [UInt8], at offset: Int) -> [UInt8] {
    var bytes = bytes
    bytes[offset] ^= 0x10
    return bytes
}

let brokenAnswers = [
    BrokenAnswer(name: "a wrong magic", bytes: damaged(answer(.ping, id: 2), at: 0)),
    BrokenAnswer(name: "a damaged header", bytes: damaged(answer(.ping, id: 2), at: 20)),
    BrokenAnswer(
        name: "a damaged body", bytes: damaged(refusal(.ping, id: 2, .busy), at: 52)),
    BrokenAnswer(name: "another request's answer", bytes: answer(.ping, id: 9)),
    BrokenAnswer(name: "another verb's answer", bytes: answer(.put, id: 2)),
    BrokenAnswer(name: "a payload", bytes: answer(.ping, id: 2, payload: [1, 2, 3])),
    BrokenAnswer(name: "not an answer", bytes: request(.ping, id: 2)),
    BrokenAnswer(name: "garbage", bytes: [UInt8](repeating: 0x41, count: 100)),
]

private func request(_ verb: Verb, id: UInt64) -> [UInt8] {
    var header = FrameHeader(verbNumber: verb.rawValue, requestID: id)
    let room = OwnedBytes(count: FrameHeader.byteCount)
    return header.encode(into: room.bytes) { _ in }.array
}
