// SPDX-License-Identifier: Apache-2.0
import KVClient
import KVCore
import LinuxIO
import Testing
import Wire

@Suite struct `What clients hold` {
    @Test func `is given back when they die between reserve and commit`() async throws {
        try await withDaemon { desk, daemon in
            for _ in 0..<20 {
                let client = desk.client(daemon.unixAddress, sharing: true)
                let reservation = try await client.reserve(
                    ChunkLabel(key: desk.freshKey()), byteCount: 1 << 20, deadline: desk.soon)
                let bytes = try #require(reservation?.bytes)
                bytes.fill(7)
                let staged = try await desk.counters(client)["staging_bytes"] ?? 0
                #expect(staged >= 1 << 20)
                client.close()
            }
        }
    }

    @Test func `is given back when they die with leases`() async throws {
        try await withDaemon { desk, daemon in
            let writer = desk.client(daemon.unixAddress, sharing: true)
            let key = desk.freshKey()
            let value = OwnedBytes(count: 100_000)
            let outcome = try await writer.putInPlace(
                ChunkLabel(key: key), value.bytes, deadline: desk.soon)
            #expect(outcome == .stored)
            for _ in 0..<20 {
                let reader = desk.client(daemon.unixAddress, sharing: true)
                let leases = try await reader.lease([key, key, key], deadline: desk.soon)
                #expect(leases.count == 3)
                reader.close()
            }
            writer.close()
        }
    }

    @Test func `ends by itself: a lease that is never given back`() async throws {
        try await withDaemon(["--limits-lease", "300ms"]) { desk, daemon in
            let client = desk.client(daemon.unixAddress, sharing: true)
            let key = desk.freshKey()
            _ = try await client.putInPlace(
                ChunkLabel(key: key), pinned([1, 2, 3]), deadline: desk.soon)
            let reserved = try await client.reserve(
                ChunkLabel(key: desk.freshKey()), byteCount: 1_000, deadline: desk.soon)
            let reservation = try #require(reserved)
            let leases = try await client.lease([key], milliseconds: 0, deadline: desk.soon)
            guard case .leased(let chunk) = leases.first else {
                Issue.record("no lease")
                return
            }
            #expect(chunk.expiry <= desk.reactor.now().adding(milliseconds: 300))
            // The client stays connected; both end all the same, the older reservation first.
            var counters = try await desk.counters(client)
            for _ in 0..<2_000 where counters["leases_open"] != 0 {
                try await desk.pause(milliseconds: 10)
                counters = try await desk.counters(client)
            }
            #expect(counters["leases_open"] == 0)
            #expect(counters["leases_expired"] == 1)
            let released = try await client.release([chunk.id], deadline: desk.soon)
            #expect(released == 0)
            let error = await clientError {
                _ = try await client.commit(reservation, deadline: desk.soon)
            }
            #expect(error?.status == .noLease)
            client.close()
        }
    }

    @Test func `is nobody else's to give back or commit`() async throws {
        try await withDaemon { desk, daemon in
            let owner = desk.client(daemon.unixAddress, sharing: true)
            let other = desk.client(daemon.unixAddress, sharing: true)
            let key = desk.freshKey()
            _ = try await owner.putInPlace(
                ChunkLabel(key: key), pinned([1, 2, 3]), deadline: desk.soon)
            let leases = try await owner.lease([key], deadline: desk.soon)
            guard case .leased(let chunk) = leases.first else {
                Issue.record("no lease")
                return
            }
            let reserved = try await owner.reserve(
                ChunkLabel(key: desk.freshKey()), byteCount: 3, deadline: desk.soon)
            let reservation = try #require(reserved)
            reservation.bytes.fill(1)
            _ = try await other.connect(deadline: desk.soon)
            let released = try await other.release([chunk.id], deadline: desk.soon)
            #expect(released == 0)
            let error = await clientError {
                _ = try await other.commit(reservation, deadline: desk.soon)
            }
            #expect(error?.status == .noLease)
            let outcome = try await owner.commit(reservation, deadline: desk.soon)
            #expect(outcome == .stored)
            owner.close()
            other.close()
        }
    }

    @Test func `stays as it was while it is leased, whatever others do`() async throws {
        try await withDaemon { desk, daemon in
            let reader = desk.client(daemon.unixAddress, sharing: true)
            let writer = desk.client(daemon.tcpAddress)
            let key = desk.freshKey()
            _ = try await writer.put(
                ChunkLabel(key: key), pinned([UInt8](repeating: 42, count: 50_000)),
                deadline: desk.soon)
            let leases = try await reader.lease([key], deadline: desk.soon)
            guard case .leased(let chunk) = leases.first else {
                Issue.record("no lease")
                return
            }
            let deleted = try await writer.delete([key], deadline: desk.soon)
            #expect(deleted == [.ok])
            // Twice the memory that the daemon has passes through it.
            let value = OwnedBytes(count: 1 << 20)
            for _ in 0..<128 {
                _ = try await writer.put(
                    ChunkLabel(key: desk.freshKey()), value.bytes, deadline: desk.soon)
            }
            #expect((0..<50_000).allSatisfy { chunk.bytes[$0] == 42 })
            #expect(reader.isGood(chunk))
            let missed = try await reader.fetch(key, deadline: desk.soon)
            #expect(missed == nil)
            reader.close()
            writer.close()
        }
    }

    @Test func `fills the arena: writers are told so at once, and readers go on`() async throws {
        try await withDaemon(
            ["--memory-budget", "4MiB"], bystander: false
        ) { desk, daemon in
            let client = desk.client(daemon.unixAddress, sharing: true)
            let value = OwnedBytes(count: 256 << 10)
            var held: [LeasedChunk] = []
            var refused: ClientError?
            for _ in 0..<100 where refused == nil {
                let key = desk.freshKey()
                refused = await clientError {
                    _ = try await client.put(
                        ChunkLabel(key: key), value.bytes, deadline: desk.soon)
                }
                guard refused == nil else { break }
                let leases = try await client.lease([key], deadline: desk.soon)
                if case .leased(let chunk) = leases.first { held.append(chunk) }
            }
            #expect(refused?.status == .busy)
            #expect(refused?.kind == .refused)
            #expect(held.count >= 4)
            let reader = desk.client(daemon.tcpAddress)
            try await reader.ping(deadline: desk.soon)
            let used = try await desk.counters(reader)
            #expect((used["memory_used_bytes"] ?? .max) <= used["memory_budget_bytes"] ?? 0)
            // With the leases gone there is room again.
            let released = try await client.release(held.map(\.id), deadline: desk.soon)
            #expect(released == held.count)
            let outcome = try await client.put(
                ChunkLabel(key: desk.freshKey()), value.bytes, deadline: desk.soon)
            #expect(outcome == .stored)
            reader.close()
            client.close()
        }
    }
}

/// The error of a call that may fail.
func clientError(_ body: () async throws -> Void) async -> ClientError? {
    do {
        try await body()
        return nil
    } catch {
        return error as? ClientError
    }
}
