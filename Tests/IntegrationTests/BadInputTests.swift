// SPDX-License-Identifier: Apache-2.0
import KVClient
import KVCore
import LinuxIO
import Testing
import Wire

/// Bytes that break the protocol, sent after HELLO.
struct BadFrame: Sendable, CustomTestStringConvertible {
    let testDescription: String
    let bytes: [UInt8]
    let status: Status
}

private let ping = request(.ping, id: 2)
private let lookup = request(.lookup, id: 2) {
    LookupRequest.encode(&$0, keyCount: 1, mode: .everyKey)
    $0.append(ChunkKey(words: (1, 2, 3, 4)))
}

private let badFrames = [
    BadFrame(
        testDescription: "garbage", bytes: [UInt8](repeating: 0x41, count: 200),
        status: .malformed),
    BadFrame(
        testDescription: "another protocol",
        bytes: Array("GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n".utf8),
        status: .malformed),
    BadFrame(
        testDescription: "a damaged header", bytes: damaged(ping, at: 9), status: .malformed),
    BadFrame(
        testDescription: "a damaged body", bytes: damaged(lookup, at: 60), status: .malformed),
    BadFrame(
        testDescription: "a reserved field that is not zero",
        bytes: forged(ping, at: 22, [1, 0]), status: .malformed),
    BadFrame(
        testDescription: "a body of 65,537 bytes",
        bytes: forged(ping, at: 24, [1, 0, 1, 0]), status: .malformed),
    BadFrame(
        testDescription: "a body of 4 GiB",
        bytes: forged(ping, at: 24, [255, 255, 255, 255]), status: .malformed),
    BadFrame(
        testDescription: "a payload where none belongs",
        bytes: forged(ping, at: 32, [1, 0, 0, 0, 0, 0, 0, 0]), status: .malformed),
    BadFrame(
        testDescription: "a wrong version", bytes: forged(ping, at: 4, [9]),
        status: .versionMismatch),
    BadFrame(
        testDescription: "a second HELLO", bytes: hello(), status: .malformed),
    BadFrame(
        testDescription: "a batch that is longer than its body",
        bytes: request(.lookup, id: 2) {
            LookupRequest.encode(&$0, keyCount: 900, mode: .everyKey)
        }, status: .malformed),
    BadFrame(
        testDescription: "a PUT whose payload is not its chunk",
        bytes: forged(
            putHead(ChunkKey(words: (1, 1, 1, 1)), byteCount: 100), at: 32,
            [7, 0, 0, 0, 0, 0, 0, 0]), status: .malformed),
    BadFrame(
        testDescription: "a PUT of an exbibyte",
        bytes: forged(
            putHead(ChunkKey(words: (1, 1, 1, 1)), byteCount: 100), at: 32,
            [0, 0, 0, 0, 0, 0, 0, 16]), status: .malformed),
]

@Suite struct `Bad input` {
    @Test func `that breaks the protocol is answered once, and the connection closed`()
        async throws
    {
        try await withDaemon { desk, daemon in
            for address in [daemon.unixAddress, daemon.tcpAddress] {
                for bad in badFrames {
                    let connection = try await desk.greetedConnection(address)
                    try await connection.sendWhatIsTaken(bad.bytes)
                    let answer = try await connection.receive()
                    #expect(answer?.header.status == bad.status, "\(bad.testDescription)")
                    #expect(
                        answer?.header.flags.contains(.finalBad) == true,
                        "\(bad.testDescription)")
                    #expect(try await connection.isClosedNext(), "\(bad.testDescription)")
                    connection.close()
                }
            }
        }
    }

    @Test func `before HELLO is answered once, and the connection closed`() async throws {
        try await withDaemon { desk, daemon in
            let cases: [([UInt8], Status)] = [
                ([UInt8](repeating: 0x5a, count: 64), .malformed),
                (request(.ping), .helloRequired),
                (putHead(desk.freshKey(), byteCount: 10), .helloRequired),
                (
                    hello {
                        $0.lowestVersion = 2
                        $0.highestVersion = 9
                    }, .versionMismatch
                ),
                (hello { $0.namespace = "nobody's" }, .unauthorized),
                (hello { $0.token = Array("wrong".utf8) }, .ok),
            ]
            for (bytes, status) in cases {
                let connection = try await desk.rawConnection(daemon.tcpAddress)
                try await connection.send(bytes)
                let answer = try await connection.receive()
                #expect(answer?.header.status == status)
                if status != .ok { #expect(try await connection.isClosedNext()) }
                connection.close()
            }
        }
    }

    @Test func `that is cut off is forgotten`() async throws {
        try await withDaemon { desk, daemon in
            let whole =
                putHead(desk.freshKey(), byteCount: 50_000)
                + putPayload([UInt8](repeating: 1, count: 50_000))
            for count in [1, 47, 48, 49, 119, 120, 121, 3_000, 50_127] {
                let connection = try await desk.greetedConnection(daemon.tcpAddress)
                try await connection.send(Array(whole.prefix(count)))
                connection.close()
            }
            for count in [1, 47, 48, 60] {
                let connection = try await desk.rawConnection(daemon.unixAddress)
                try await connection.send(Array(hello().prefix(count)))
                connection.close()
            }
        }
    }

    @Test func `that the daemon cannot serve leaves the connection usable`() async throws {
        try await withDaemon { desk, daemon in
            let connection = try await desk.greetedConnection(daemon.tcpAddress)
            let unknownVerb = forged(
                request(.lookup, id: 2, payloadByteCount: 1_000) { $0.append(zeros: 500) },
                at: 5, [0x77])
            let cases: [([UInt8], Status)] = [
                (unknownVerb + [UInt8](repeating: 9, count: 1_000), .unsupported),
                (forged(request(.ping, id: 2), at: 5, [0x40]), .unsupported),
                (forged(request(.ping, id: 2), at: 6, [0x80, 0]), .unsupported),
                (request(.lookup, id: 2) { $0.append(zeros: 8) }, .limitExceeded),
                (
                    request(.get, id: 2) {
                        GetRequest.encode(&$0, keyCount: 2_000, layout: nil)
                        $0.append(zeros: 32 * 2_000)
                    }, .limitExceeded
                ),
                (
                    request(
                        .reserve, id: 2,
                        body: PutRequest(
                            key: desk.freshKey(), chunkByteCount: 100
                        ).encode), .unsupported
                ),
                (
                    request(
                        .commit, id: 2,
                        body: CommitRequest(
                            reservationID: 1, checksum: 1
                        ).encode), .unsupported
                ),
            ]
            for (bytes, status) in cases {
                try await connection.send(bytes)
                let answer = try await connection.receive()
                #expect(answer?.header.status == status)
                try await connection.send(request(.ping, id: 77))
                let pong = try await connection.receive()
                #expect(pong?.header.requestID == 77)
                #expect(pong?.header.status == .ok)
            }
            connection.close()
        }
    }

    @Test func `in a payload stores nothing`() async throws {
        try await withDaemon { desk, daemon in
            let connection = try await desk.greetedConnection(daemon.tcpAddress)
            let key = desk.freshKey()
            let payload = putPayload([UInt8](repeating: 7, count: 20_000))
            try await connection.send(
                putHead(key, byteCount: 20_000) + damaged(payload, at: 11_000))
            #expect(try await connection.receive()?.header.status == .checksumMismatch)
            try await connection.send(request(.stat, id: 3, body: StatRequest.chunk(key).encode))
            #expect(try await connection.receive()?.header.status == .notFound)
            // The same key can be stored afterwards.
            try await connection.send(putHead(key, byteCount: 20_000, id: 4) + payload)
            #expect(try await connection.receive()?.header.status == .ok)
            connection.close()
        }
    }

    @Test func `that comes too slowly is cut off`() async throws {
        try await withDaemon { desk, daemon in
            let silent = try await desk.rawConnection(daemon.tcpAddress)
            let slowHello = try await desk.rawConnection(daemon.unixAddress)
            try await slowHello.send(Array(hello().prefix(50)))
            let slowHeader = try await desk.greetedConnection(daemon.tcpAddress)
            try await slowHeader.send(Array(ping.prefix(10)))
            let slowBody = try await desk.greetedConnection(daemon.unixAddress)
            try await slowBody.send(Array(lookup.prefix(60)))
            let slowPayload = try await desk.greetedConnection(daemon.tcpAddress)
            let head = putHead(
                desk.freshKey(), byteCount: 100_000, deadlineMilliseconds: 500)
            try await slowPayload.send(head + [UInt8](repeating: 1, count: 10_000))
            for connection in [silent, slowHello, slowHeader, slowBody, slowPayload] {
                // It may be told so first.
                if let answer = try await connection.receive() {
                    #expect(answer.header.status == .deadlineExceeded)
                    #expect(try await connection.isClosedNext())
                }
                connection.close()
            }
        }
    }

    @Test func `that a reader never takes holds nobody up`() async throws {
        try await withDaemon { desk, daemon in
            let client = desk.client(daemon.tcpAddress)
            let key = desk.freshKey()
            let value = OwnedBytes(count: 16 << 20)
            _ = try await client.put(ChunkLabel(key: key), value.bytes, deadline: desk.soon)
            client.close()
            let deaf = try await desk.greetedConnection(daemon.tcpAddress)
            try await deaf.send(
                request(.get, id: 2, deadlineMilliseconds: 500) {
                    GetRequest.encode(&$0, keyCount: 1, layout: nil)
                    $0.append(key)
                })
            // Nothing is read here; the daemon gives up, and with it the hold on the chunk.
            try await desk.expectNothingLeft(daemon.unixAddress, connections: 1)
            deaf.close()
        }
    }
}
