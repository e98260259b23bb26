// SPDX-License-Identifier: Apache-2.0
import KVClient
import KVCore
import LinuxIO
import Node
import Telemetry
import Testing
import Tiers
import Wire

@Suite struct `A node` {
    @Test(arguments: WorldOptions.all)
    func `keeps what is put, and forgets what is deleted`(options: WorldOptions) async throws {
        try await withNode(options) { world in
            let client = world.client()
            for (number, count) in [1, 4_096, 5_000, 300_000, (1 << 20) + 17].enumerated() {
                let key = key(UInt64(number))
                let bytes = chunk(UInt64(number), count: count)
                #expect(try await client.fetch(key, deadline: client.soon) == nil)
                let label = ChunkLabel(key: key, layout: LayoutID(words: (5, UInt64(number))))
                #expect(
                    try await client.put(label, bytes.bytes, deadline: client.soon) == .stored)
                #expect(
                    try await client.put(label, bytes.bytes, deadline: client.soon) == .exists)
                let fetched = try await client.fetch(key, deadline: client.soon)
                #expect(fetched?.bytes.holds(sameAs: bytes.bytes) == true)
                let facts = try await client.chunkStatistics(key, deadline: client.soon)
                #expect(facts?.byteCount == count)
                #expect(facts?.layout == label.layout)
            }
            let keys = (0..<6).map { key($0) }
            let prefix = try await client.lookup(keys, .longestPrefix, deadline: client.soon)
            #expect(prefix.prefixCount == 5)
            let deleted = try await client.delete([key(1), key(5)], deadline: client.soon)
            #expect(deleted == [.ok, .notFound])
            let rest = try await client.lookup(keys, .everyKey, deadline: client.soon)
            #expect(rest.prefixCount == 1)
            #expect(
                rest.records.map(\.status) == [.ok, .notFound, .ok, .ok, .ok, .notFound])
            client.close()
        }
    }

    @Test(arguments: WorldOptions.all)
    func `keeps namespaces apart`(options: WorldOptions) async throws {
        let options = options.with {
            $0.node.namespaces = [
                NamespaceConfiguration(name: "a", tokens: [[1]], sharesMemory: false), nil,
                NamespaceConfiguration(name: "b", tokens: [[2]], sharesMemory: false),
            ]
        }
        try await withNode(options) { world in
            let first = world.client { ($0.namespace, $0.token) = ("a", [1]) }
            let second = world.client { ($0.namespace, $0.token) = ("b", [2]) }
            let bytes = chunk(1, count: 1_000)
            let other = chunk(2, count: 1_000)
            let label = ChunkLabel(key: key(1))
            _ = try await first.put(label, bytes.bytes, deadline: first.soon)
            #expect(try await second.fetch(key(1), deadline: second.soon) == nil)
            #expect(try await second.delete([key(1)], deadline: second.soon) == [.notFound])
            let looked = try await second.lookup([key(1)], .everyKey, deadline: second.soon)
            #expect(looked.prefixCount == 0)
            #expect(try await second.chunkStatistics(key(1), deadline: second.soon) == nil)
            // The same key may name other bytes there.
            #expect(
                try await second.put(label, other.bytes, deadline: second.soon) == .stored)
            let own = try await first.fetch(key(1), deadline: first.soon)
            #expect(own?.bytes.holds(sameAs: bytes.bytes) == true)
            #expect(!first.sharesMemory)
            for (namespace, token) in [("a", [2]), ("b", []), ("", []), ("c", [1])]
                as [(String, [UInt8])]
            {
                let stranger = world.client { ($0.namespace, $0.token) = (namespace, token) }
                let error = await clientError {
                    _ = try await stranger.connect(deadline: stranger.soon)
                }
                #expect(error?.status == .unauthorized, "\(namespace) \(token)")
            }
            first.close()
            second.close()
        }
    }

    @Test(arguments: WorldOptions.all)
    func `tells a client too many that it is busy, and serves it later`(
        options: WorldOptions
    ) async throws {
        try await withNode(options.with { $0.node.connectionCountMax = 1 }) { world in
            let first = world.client()
            try await first.ping(deadline: first.soon)
            for _ in 0..<10 {
                let second = world.client()
                let error = await clientError { try await second.ping(deadline: second.soon) }
                #expect(error?.status == .busy, "\(String(describing: error))")
                second.close()
            }
            first.close()
            try await world.until("the place is free") { $0.node.openConnectionCount == 0 }
            let third = world.client()
            try await third.ping(deadline: third.soon)
            third.close()
        }
    }

    @Test(arguments: WorldOptions.all)
    func `refuses a HELLO with a payload`(options: WorldOptions) async throws {
        try await withNode(options) { world in
            let raw = try await world.rawConnection()
            let hello = HelloRequest()
            try await raw.send(request(.hello, payloadByteCount: 8, body: hello.encode))
            #expect(try await raw.receive()?.status == .malformed)
            #expect(try await raw.receive() == nil)
            raw.close()
        }
    }

    @Test(arguments: WorldOptions.all)
    func `forgets the chunk of a client that dies while it sends`(
        options: WorldOptions
    ) async throws {
        try await withNode(options) { world in
            let bytes = chunk(1, count: 1 << 20)
            for sent in [0, 1, 4_000, 300_000, (1 << 20) - 1] {
                let client = world.client()
                try await client.ping(deadline: client.soon)
                try await client.beginPut(
                    ChunkLabel(key: key(1)), byteCount: 1 << 20, deadline: client.soon)
                if sent > 0 { try await client.addPart(bytes.bytes.prefix(sent)) }
                if sent > 4_000 {
                    try await world.until("the reservation is open") {
                        $0.node.tier.statistics().openReservationCount == 1
                    }
                }
                client.close()
                try await world.until("the connection ends") { $0.node.openConnectionCount == 0 }
                world.expectNothingHeld("after \(sent) bytes")
                #expect(world.node.tier.statistics().chunkCount == 0)
            }
            withExtendedLifetime(bytes) {}
        }
    }

    @Test(arguments: WorldOptions.all)
    func `cuts off a slow reader at its deadline, and others do not wait`(
        options: WorldOptions
    ) async throws {
        try await withNode(options.with { $0.budget = .mebibytes(40) }) { world in
            let client = world.client()
            let bytes = chunk(1, count: 16 << 20)
            _ = try await client.put(
                ChunkLabel(key: key(1)), bytes.bytes, deadline: client.soon)
            let slow = try await world.rawConnection()
            #expect(try await slow.greet() == .ok)
            try await slow.send(getRequest(key(1), deadlineMilliseconds: 300))
            try await world.until("the chunk is held") {
                $0.node.tier.statistics().holdCount == 1
            }
            // Deleted now, it is freed when the slow reader is cut off.
            #expect(try await client.delete([key(1)], deadline: client.soon) == [.ok])
            try await client.ping(deadline: client.soon)
            try await world.until("the hold ends") { $0.node.tier.statistics().holdCount == 0 }
            #expect(world.node.tier.statistics().usedByteCount == 0)
            try await world.until("it is counted") { $0.count(.connectionsDropped) == 1 }
            slow.close()
            client.close()
        }
    }

    @Test(arguments: WorldOptions.all)
    func `is busy when all its memory is being written, and goes on serving`(
        options: WorldOptions
    ) async throws {
        try await withNode(options.with { $0.budget = .mebibytes(16) }) { world in
            let reader = world.client()
            let small = chunk(9, count: 100)
            // Half of the arena each: two at once fill it.
            let half = world.node.tier.chunkByteCountMax / 2 / 4_096 * 4_096
            let writers = [world.client(), world.client()]
            let bytes = chunk(1, count: half)
            for (number, writer) in writers.enumerated() {
                try await writer.ping(deadline: writer.soon)
                try await writer.beginPut(
                    ChunkLabel(key: key(UInt64(number))), byteCount: UInt64(half),
                    deadline: writer.soon)
                try await writer.addPart(bytes.bytes.prefix(half - 1))
            }
            try await world.until("both are being written") {
                $0.node.tier.statistics().openReservationCount == 2
            }
            let error = await clientError {
                _ = try await reader.put(
                    ChunkLabel(key: key(9)), bytes.bytes, deadline: reader.soon)
            }
            #expect(error?.status == .busy)
            try await reader.ping(deadline: reader.soon)
            for writer in writers {
                try await writer.addPart(bytes.bytes.dropFirst(half - 1))
                #expect(try await writer.finishPut() == .stored)
            }
            #expect(
                try await reader.put(
                    ChunkLabel(key: key(9)), small.bytes, deadline: reader.soon) == .stored)
            for client in writers + [reader] { client.close() }
            withExtendedLifetime(bytes) {}
        }
    }
}

@Suite struct `A node that stops` {
    @Test(arguments: WorldOptions.all)
    func `closes idle connections at once`(options: WorldOptions) async throws {
        try await withNode(options) { world in
            let client = world.client()
            try await client.ping(deadline: client.soon)
            await world.beginStop()
            try await world.until("the connection ends") { $0.node.openConnectionCount == 0 }
            let error = await clientError { try await client.ping(deadline: client.soon) }
            #expect(error?.kind == .connectionLost)
            client.close()
        }
    }

    @Test(arguments: WorldOptions.all)
    func `finishes a PUT that has begun, and closes then`(options: WorldOptions) async throws {
        try await withNode(options) { world in
            let client = world.client()
            let bytes = chunk(1, count: 1 << 20)
            try await client.ping(deadline: client.soon)
            try await client.beginPut(
                ChunkLabel(key: key(1)), byteCount: 1 << 20, deadline: client.soon)
            try await client.addPart(bytes.bytes.prefix(500_000))
            try await world.until("the reservation is open") {
                $0.node.tier.statistics().openReservationCount == 1
            }
            await world.beginStop()
            try await client.addPart(bytes.bytes.dropFirst(500_000))
            #expect(try await client.finishPut() == .stored)
            // Nothing more is asked, so nothing but the node itself can end the connection.
            try await world.until("the connection ends") { $0.node.openConnectionCount == 0 }
            #expect(world.node.tier.statistics().chunkCount == 1)
            client.close()
            withExtendedLifetime(bytes) {}
        }
    }

    @Test(arguments: WorldOptions.all)
    func `finishes a GET that has begun, and refuses the request behind it`(
        options: WorldOptions
    ) async throws {
        try await withNode(options.with { $0.budget = .mebibytes(40) }) { world in
            let client = world.client()
            let bytes = chunk(1, count: 16 << 20)
            _ = try await client.put(
                ChunkLabel(key: key(1)), bytes.bytes, deadline: client.soon)
            let raw = try await world.rawConnection()
            #expect(try await raw.greet() == .ok)
            // The second request arrives together with the first, so the node has seen it.
            try await raw.send(getRequest(key(1)) + request(.ping, id: 3))
            try await world.until("the chunk is held") {
                $0.node.tier.statistics().holdCount == 1
            }
            await world.beginStop()
            let answer = try await raw.receive()
            #expect(answer?.status == .ok)
            #expect(answer?.payloadByteCount == 16 << 20)
            #expect(try await raw.receive()?.status == .shuttingDown)
            #expect(try await raw.receive() == nil)
            try await world.until("the connection ends") { $0.node.openConnectionCount == 0 }
            raw.close()
            client.close()
        }
    }

    @Test(arguments: WorldOptions.all)
    func `ends the connection of a client that does not finish in time`(
        options: WorldOptions
    ) async throws {
        try await withNode(options) { world in
            let client = world.client()
            try await client.ping(deadline: client.soon)
            try await client.beginPut(
                ChunkLabel(key: key(1)), byteCount: 1 << 20, deadline: client.soon)
            let part = chunk(1, count: 100_000)
            try await client.addPart(part.bytes)
            try await world.until("the reservation is open") {
                $0.node.tier.statistics().openReservationCount == 1
            }
            await world.beginStop()
            await world.shard.stop(by: world.reactor.now())
            world.expectNothingHeld()
            #expect(world.node.openConnectionCount == 0)
            client.close()
            withExtendedLifetime(part) {}
        }
    }
}
