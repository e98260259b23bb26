// SPDX-License-Identifier: Apache-2.0
import KVClient
import KVCore
import Kernels
import LinuxIO
import Testing
import Wire

@Suite struct `Storing` {
    /// The example of docs/protocol.md, section 9.
    @Test func `sends the bytes of the specification`() async throws {
        try await withClient([greeted([.read, .send(answer(.put, id: 2))])]) { bench, client in
            let key = try #require(ChunkKey(bytes: (0..<32).map { UInt8($0) }))
            let value = pinned(Array("hello, chunk".utf8))
            let outcome = try await client.put(
                ChunkLabel(key: key), value, deadline: client.soon)
            #expect(outcome == .stored)
            let request = bench.requests[1]
            #expect(request.header.payloadByteCount == 20)
            #expect(
                hexadecimal(request.body)
                    == "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
                    + "00000000000000000000000000000000"
                    + "0c0000000000000000000000000000000000000000000000")
            #expect(request.header.bodyChecksum == 0x5c61_d2ff)
            #expect(hexadecimal(request.payload) == "68656c6c6f2c206368756e6ba16621b61a3199bf")
        }
    }

    @Test(arguments: [1, 4_096, 4_097, 1 << 20, (1 << 20) + 1, 3_000_001])
    func `sends a value of any size with its checksum`(byteCount: Int) async throws {
        try await withClient([greeted([.read, .send(answer(.put, id: 2))])]) { bench, client in
            let value = OwnedBytes(count: byteCount)
            value.bytes.fill(0x5a)
            _ = try await client.put(
                ChunkLabel(key: key(1), timeToLiveMilliseconds: 9), value.bytes,
                deadline: client.soon)
            let payload = bench.requests[1].payload
            #expect(payload.count == byteCount + 8)
            #expect(payload.prefix(byteCount).allSatisfy { $0 == 0x5a })
            #expect(Array(payload.suffix(8)) == littleEndian(Checksum.of(value.bytes)))
            let body = try PutRequest.decode(pinned(bench.requests[1].body))
            #expect(body.timeToLiveMilliseconds == 9)
        }
    }

    @Test func `sends parts as they come`() async throws {
        try await withClient([
            greeted([.read, .send(answer(.put, id: 2, .exists))])
        ]) { bench, client in
            let whole = Array("one, two and three".utf8)
            try await client.beginPut(
                ChunkLabel(key: key(1)), byteCount: UInt64(whole.count), deadline: client.soon)
            try await client.addPart(pinned(Array(whole[..<5])))
            try await client.addPart(pinned(Array(whole[5..<6])))
            try await client.addPart(pinned(Array(whole[6...])))
            let outcome = try await client.finishPut()
            #expect(outcome == .exists)
            #expect(
                bench.requests[1].payload == whole
                    + littleEndian(Checksum.of(pinned(whole))))
        }
    }

    @Test func `ends the connection when parts are missing`() async throws {
        try await withClient([
            greeted([.awaitClose]), greeted([.read, .send(answer(.ping, id: 2))]),
        ]) { bench, client in
            try await client.beginPut(
                ChunkLabel(key: key(1)), byteCount: 10, deadline: client.soon)
            try await client.addPart(pinned([1, 2, 3]))
            let error = await clientError { _ = try await client.finishPut() }
            #expect(error?.kind == .unusable)
            try await client.ping(deadline: client.soon)
            #expect(bench.connectionCount == 2)
        }
    }

    @Test func `refuses what the daemon would not take, without sending it`() async throws {
        try await withClient([greeted([.read, .send(answer(.ping, id: 2))])]) { bench, client in
            let big = OwnedBytes(count: (64 << 20) + 1)
            let error = await clientError {
                _ = try await client.put(
                    ChunkLabel(key: key(1)), big.bytes, deadline: client.soon)
            }
            #expect(error?.kind == .unusable)
            #expect(error?.status == .tooLarge)
            let keys = [ChunkKey](repeating: key(1), count: 1_025)
            let second = await clientError {
                _ = try await client.delete(keys, deadline: client.soon)
            }
            #expect(second?.status == .limitExceeded)
            try await client.ping(deadline: client.soon)
            #expect(bench.requests.count == 2)
        }
    }

    @Test func `tells why the daemon closed in the middle of a payload`() async throws {
        try await withClient([
            greeted([.send(refusal(.put, id: 2, .tooLarge, flags: .finalBad)), .close])
        ]) { _, client in
            let big = OwnedBytes(count: 32 << 20)
            let error = await clientError {
                _ = try await client.put(
                    ChunkLabel(key: key(1)), big.bytes, deadline: client.soon)
            }
            #expect(error?.kind == .refused)
            #expect(error?.status == .tooLarge)
        }
    }

    @Test func `asks for stable storage where the label does`() async throws {
        let script = greeted([
            .read, .send(answer(.put, id: 2)), .read,
            .send(refusal(.put, id: 3, .notDurable, "there is no SSD tier")), .read,
            .send(answer(.put, id: 4)),
        ])
        try await withClient([script]) { bench, client in
            let label = ChunkLabel(key: key(1), acknowledge: .ssd)
            let value = pinned([1, 2, 3])
            #expect(try await client.put(label, value, deadline: client.soon) == .stored)
            let error = await clientError {
                _ = try await client.put(label, value, deadline: client.soon)
            }
            #expect(error?.kind == .refused)
            #expect(error?.status == .notDurable)
            #expect(error?.message == "there is no SSD tier")
            // The connection goes on, and other labels ask for nothing.
            _ = try await client.put(ChunkLabel(key: key(1)), value, deadline: client.soon)
            let asked = try bench.requests.dropFirst().map {
                try PutRequest.decode(pinned($0.body)).acknowledge
            }
            #expect(asked == [.ssd, .ssd, .memory])
            #expect(bench.connectionCount == 1)
        }
    }
}

func littleEndian(_ number: UInt64) -> [UInt8] {
    (0..<8).map { UInt8(truncatingIfNeeded: number >> (8 * UInt64($0))) }
}
