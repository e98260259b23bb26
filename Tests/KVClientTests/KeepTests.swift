// SPDX-License-Identifier: Apache-2.0
import KVClient
import KVCore
import LinuxIO
import Testing
import Wire

/// An answer with a status for each key.
private func statuses(_ verb: Verb, id: UInt64 = 2, _ statuses: [Status]) -> [UInt8] {
    answer(verb, id: id) { body in
        body.append(UInt32(statuses.count { $0 == .ok }))
        body.append(UInt32(statuses.count))
        for status in statuses { body.append(status.rawValue) }
    }
}

@Suite struct `Keeping` {
    @Test func `tells of each key whether it was deleted`() async throws {
        let told: [Status] = [.ok, .notFound, .notDurable]
        try await withClient([
            greeted([.read, .send(statuses(.delete, told))])
        ]) { bench, client in
            let keys = [key(1), key(2), key(3)]
            #expect(try await client.delete(keys, deadline: client.soon) == told)
            let sent = try DeleteRequest.decode(pinned(bench.requests[1].body))
            #expect(sent.keys.count == 3)
            #expect(sent.keys[1] == key(2))
        }
    }

    @Test func `pins for a time, and unpins`() async throws {
        let told: [Status] = [.ok, .notFound, .busy, .notDurable]
        let script = greeted([
            .read, .send(statuses(.pin, told)), .read, .send(statuses(.unpin, id: 3, [.ok])),
        ])
        try await withClient([script]) { bench, client in
            let keys = (1...4).map { key($0) }
            let pinned = try await client.pin(
                keys, milliseconds: 600_000, deadline: client.soon)
            #expect(pinned == told)
            #expect(try await client.unpin([key(4)], deadline: client.soon) == [.ok])
            #expect(bench.requests[1].header.verb == .pin)
            let sent = try PinRequest.decode(bytes(of: bench.requests[1]))
            #expect(sent.milliseconds == 600_000)
            #expect(sent.keys.count == 4)
            #expect(sent.keys[3] == key(4))
            #expect(bench.requests[2].header.verb == .unpin)
            #expect(try DeleteRequest.decode(bytes(of: bench.requests[2])).keys[0] == key(4))
        }
    }

    @Test func `refuses a pin that no daemon takes, without sending it`() async throws {
        try await withClient([greeted([.read, .send(answer(.ping, id: 2))])]) { bench, client in
            for milliseconds in [0, Limits.pinMillisecondsMax + 1] {
                let error = await clientError {
                    _ = try await client.pin(
                        [key(1)], milliseconds: milliseconds, deadline: client.soon)
                }
                #expect(error?.kind == .unusable)
                #expect(error?.status == .limitExceeded)
            }
            try await client.ping(deadline: client.soon)
            #expect(bench.requests.count == 2)
        }
    }

    @Test func `ends when the answer is about other keys`() async throws {
        try await withClient([
            greeted([.read, .send(statuses(.pin, [.ok, .ok])), .awaitClose])
        ]) { _, client in
            let error = await clientError {
                _ = try await client.pin([key(1)], milliseconds: 1, deadline: client.soon)
            }
            #expect(error?.kind == .brokenAnswer)
        }
    }
}

@Suite struct `Controlling` {
    @Test func `reads what the daemon tells`() async throws {
        let facts = ControlAnswer(pairs: [("ssd_directory_count", "2"), ("later", "größer")])
        try await withClient([
            greeted([.read, .send(answer(.control, id: 2, body: facts.encode))])
        ]) { bench, client in
            let told = try await client.control(
                .ssdScrub, argument: "1000", deadline: client.soon)
            #expect(told.map(\.name) == ["ssd_directory_count", "later"])
            #expect(told.map(\.text) == ["2", "größer"])
            let sent = try ControlRequest.decode(bytes(of: bench.requests[1]))
            #expect(sent == ControlRequest(.ssdScrub, argument: "1000"))
        }
    }

    @Test func `is refused to others than the operator`() async throws {
        let script = greeted([
            .read, .send(refusal(.control, id: 2, .unauthorized, flags: .finalBad)), .close,
        ])
        try await withClient([script]) { _, client in
            let error = await clientError {
                _ = try await client.control(.ssdStatus, deadline: client.soon)
            }
            #expect(error?.kind == .refused)
            #expect(error?.status == .unauthorized)
        }
    }

    @Test func `does not send an argument that is too long`() async throws {
        try await withClient([greeted([.read, .send(answer(.ping, id: 2))])]) { bench, client in
            let error = await clientError {
                _ = try await client.control(
                    .ssdEvacuate, argument: String(repeating: "/", count: 4_097),
                    deadline: client.soon)
            }
            #expect(error?.status == .limitExceeded)
            try await client.ping(deadline: client.soon)
            #expect(bench.requests.count == 2)
        }
    }
}

/// The body of a request, in memory that stays.
private func bytes(of request: ReceivedRequest) -> PinnedBytes { pinned(request.body) }
