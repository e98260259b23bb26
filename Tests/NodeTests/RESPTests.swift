// SPDX-License-Identifier: Apache-2.0
import KVCore
import Kernels
import LinuxIO
import Node
import Telemetry
import Testing
import Tiers

extension WorldOptions {
    /// The same node with a RESP listener, whose values lie in a second namespace.
    func speakingRESP(_ change: (inout RESPConfiguration) -> Void = { _ in }) -> WorldOptions {
        with { options in
            var resp = RESPConfiguration(namespace: NamespaceID(number: 1))
            change(&resp)
            options.node.resp = resp
            options.node.namespaces.append(
                NamespaceConfiguration(name: "resp", sharesMemory: false, isOpenable: false))
        }
    }
}

extension NamespaceID {
    fileprivate static let resp = NamespaceID(number: 1)
}

extension World {
    /// Whether a value can be read from SSD.
    fileprivate nonisolated func isOnSSD(_ key: ChunkKey) -> Bool {
        let now = door.reactor.now()
        return ssd?.tier.locate(.resp, key, now: now, asUse: .doesNotCount) != nil
    }

    /// Takes a value out of memory alone.
    fileprivate nonisolated func forget(_ key: ChunkKey) {
        _ = node.tier.remove(.resp, key, now: door.reactor.now())
    }
}

/// The bytes of a request.
private func request(_ words: [UInt8]...) -> [UInt8] {
    words.reduce(Array("*\(words.count)\r\n".utf8)) {
        $0 + Array("$\($1.count)\r\n".utf8) + $1 + Array("\r\n".utf8)
    }
}

private func bulk(_ bytes: [UInt8]) -> [UInt8] {
    Array("$\(bytes.count)\r\n".utf8) + bytes + Array("\r\n".utf8)
}

private func words(_ text: String) -> [UInt8] { Array(text.utf8) }

/// Requests of every kind that moves bytes, and the replies to them when nothing fails.
private struct Conversation {
    let bytes: [UInt8]
    let replies: [UInt8]

    init(_ number: UInt8) {
        let small = [UInt8](repeating: number, count: 100)
        let large = (0..<300_000).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ Int(number)) }
        let (first, second) = (words("small-\(number)"), words("large-\(number)"))
        let steps: [(request: [UInt8], reply: [UInt8])] = [
            (request(words("SET"), first, small), words("+OK\r\n")),
            (request(words("SET"), second, large, words("PX"), words("60000")), words("+OK\r\n")),
            (request(words("GET"), first), bulk(small)),
            (request(words("GET"), second), bulk(large)),
            (request(words("SET"), second, small), words("+OK\r\n")),
            (
                request(words("MGET"), second, words("absent"), first),
                words("*3\r\n") + bulk(small) + words("$-1\r\n") + bulk(small)
            ),
            (request(words("EXISTS"), first, second, words("absent")), words(":2\r\n")),
            (request(words("EXPIRE"), first, words("100")), words(":1\r\n")),
            (request(words("PERSIST"), first), words(":1\r\n")),
            (request(words("SET"), first, large, words("NX")), words("$-1\r\n")),
            (request(words("DEL"), first, second), words(":2\r\n")),
            (request(words("STRLEN"), first), words(":0\r\n")),
        ]
        bytes = steps.flatMap(\.request)
        replies = steps.flatMap(\.reply)
    }
}

extension World {
    fileprivate func respConnection() async throws -> RingReactor.Stream {
        try await reactor.connect(to: try #require(respAddress), deadline: soon)
    }

    /// Sends all in pieces of that size.
    fileprivate func send(
        _ bytes: [UInt8], to stream: RingReactor.Stream, pieceByteCount: Int = .max
    ) async throws {
        let memory = OwnedBytes(count: bytes.count)
        for (offset, byte) in bytes.enumerated() { memory.bytes.store(byte, at: offset) }
        var sent = 0
        while sent < bytes.count {
            let count = min(pieceByteCount, bytes.count - sent)
            try await stream.send(
                memory.bytes.slice(offset: sent, count: count), deadline: soon)
            sent += count
        }
        withExtendedLifetime(memory) {}
    }

    /// Sends until the node closes.
    fileprivate func sendToTheEnd(
        _ bytes: [UInt8], to stream: RingReactor.Stream, _ pieceByteCount: Int
    ) async {
        do {
            try await send(bytes, to: stream, pieceByteCount: pieceByteCount)
        } catch {
            // The node has closed, as it should after some faults.
        }
    }

    /// Says all on a connection of its own, and listens at the same time.
    /// - Returns: the replies, until all have come or the node has closed.
    fileprivate func hold(
        _ conversation: Conversation, pieceByteCount: Int = .max
    ) async throws -> [UInt8] {
        let stream = try await respConnection()
        let sending = Task {
            await self.sendToTheEnd(conversation.bytes, to: stream, pieceByteCount)
        }
        let replies = try await receive(conversation.replies.count, from: stream)
        await sending.value
        stream.close()
        return replies
    }

    /// What comes until `count` bytes are there, or the node closes.
    fileprivate func receive(
        _ count: Int, from stream: RingReactor.Stream
    ) async throws -> [UInt8] {
        let memory = OwnedBytes(count: count)
        var received = 0
        do throws(IOFault) {
            while received < count {
                received += try await stream.receive(
                    into: memory.bytes.dropFirst(received), minimum: 1, deadline: soon)
            }
        } catch {
            guard error == .closed else { throw error }
        }
        return withExtendedLifetime(memory) { (0..<received).map { memory.bytes[$0] } }
    }
}

@Suite struct `The RESP listener` {
    @Test func `reads the values of an MGET from SSD ahead of their turn`() async throws {
        let (count, byteCount) = (12, 300_000)
        let ssd = try SSDOptions()
        let options = WorldOptions().speakingRESP().with {
            $0.budget = .mebibytes(80)
            $0.ssd = ssd
        }
        let names = (0..<count).map { words("value-\($0)") }
        let keys = try names.map { try #require(ChunkKey(bytes: secureHash($0))) }
        let values = (0..<count).map { [UInt8](repeating: UInt8($0), count: byteCount) }
        try await withNode(options) { world in
            let stream = try await world.respConnection()
            for (name, value) in zip(names, values) {
                try await world.send(request(words("SET"), name, value), to: stream)
                #expect(try await world.receive(5, from: stream) == words("+OK\r\n"))
            }
            try await world.until("all are on SSD") { world in
                keys.allSatisfy { world.isOnSSD($0) }
            }
            for key in keys { world.forget(key) }
            let wanted = names + [words("absent")]
            try await world.send(
                words("*\(wanted.count + 1)\r\n") + bulk(words("MGET")) + wanted.flatMap(bulk),
                to: stream)
            // The client reads nothing, so not even the first has gone out; the others are there.
            try await world.until("the others are in memory") { world in
                keys.allSatisfy { world.node.tier.isResident(ChunkName(.resp, $0)) }
            }
            // The first is counted before it is sent, perhaps not yet.
            #expect(world.count(.hits) <= 1)
            let expected = words("*13\r\n") + values.flatMap(bulk) + words("$-1\r\n")
            let replies = try await world.receive(expected.count, from: stream)
            let isRight = replies == expected
            #expect(isRight)
            #expect(world.count(.ssdHits) == count)
            // A client that goes away leaves nothing of what was read for it.
            for key in keys { world.forget(key) }
            try await world.send(
                words("*\(count + 1)\r\n") + bulk(words("MGET")) + names.flatMap(bulk),
                to: stream)
            try await world.until("they are read again") { world in
                keys.allSatisfy { world.node.tier.isResident(ChunkName(.resp, $0)) }
            }
            stream.close()
        }
    }

    @Test(arguments: WorldOptions.all)
    func `serves all that moves bytes, in whatever pieces it comes`(
        options: WorldOptions
    ) async throws {
        try await withNode(options.speakingRESP()) { world in
            for (number, pieceByteCount) in [Int.max, 1_000, 16_384, 100_001].enumerated() {
                let conversation = Conversation(UInt8(number))
                let replies = try await world.hold(
                    conversation, pieceByteCount: pieceByteCount)
                let isRight = replies == conversation.replies
                #expect(isRight, "\(pieceByteCount)")
            }
        }
    }

    @Test(arguments: WorldOptions.all, [OperationKind.receive, .send, .sendMessage])
    func `holds nothing after any operation has failed, and goes on after a short one`(
        options: WorldOptions, kind: OperationKind
    ) async throws {
        // The short ones first: a failure that no operation met waits for the next conversation.
        let faults: [InjectedFault] = [.short(byteCount: 3), .failure(errorNumber: 5)]
        try await withNode(options.speakingRESP()) { world in
            for number in 0..<16 {
                let (fault, skipCount) = (faults[number / 8], number % 8)
                await world.door.inject(fault, into: kind, skipCount: skipCount)
                let conversation = Conversation(UInt8(number))
                let replies = try await world.hold(conversation)
                let isRight = conversation.replies.starts(with: replies)
                #expect(isRight, "\(fault), \(skipCount)")
                let isWhole = replies.count == conversation.replies.count
                #expect(isWhole || number >= 8, "\(fault), \(skipCount)")
                try await world.until("connections are closed") {
                    $0.node.openConnectionCount == 0
                }
                world.expectNothingHeld("\(fault), \(skipCount)")
            }
        }
    }

    @Test func `gives nothing back for a value that never came`() async throws {
        let options = WorldOptions(isLocal: false).speakingRESP()
        try await withNode(options) { world in
            let stream = try await world.respConnection()
            try await world.send(words("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\nabc"), to: stream)
            try await world.until("the value has its place") {
                $0.node.tier.statistics().openReservationCount == 1
            }
            stream.close()
            try await world.until("the place is free again") {
                $0.node.tier.statistics().usedByteCount == 0
            }
        }
    }

    @Test(arguments: [100, 3_600_000] as [UInt32])
    func `keeps what EXISTS found, and lets go of it in time`(
        leaseMilliseconds: UInt32
    ) async throws {
        let options = WorldOptions().speakingRESP {
            $0.isStrict = true
            $0.leaseMilliseconds = leaseMilliseconds
        }
        try await withNode(options) { world in
            let stream = try await world.respConnection()
            try await world.send(
                request(words("SET"), words("k"), words("v"))
                    + request(words("EXISTS"), words("k")) + request(words("EXISTS"), words("k")),
                to: stream)
            #expect(try await world.receive(13, from: stream) == words("+OK\r\n:1\r\n:1\r\n"))
            stream.close()
            if leaseMilliseconds > 1_000 {
                #expect(world.node.openLeaseCount == 1)
            } else {
                try await world.until("the lease is over") { $0.node.openLeaseCount == 0 }
                #expect(world.node.tier.statistics().holdCount == 0)
            }
        }
    }
}
