// SPDX-License-Identifier: Apache-2.0
import KVClient
import KVCore
import LinuxIO
import Testing
import Wire

private let twoTenants = """
    namespaces:
      - name: default
      - name: team-a
        token: token-of-a
        secret: "\(String(repeating: "0a", count: 32))"
      - name: team-b
        token: token-of-b
    """

@Suite struct `Tenants` {
    @Test func `do not see each other's chunks`() async throws {
        try await withDaemon(configuration: twoTenants) { desk, daemon in
            let first = desk.client(
                daemon.tcpAddress, namespace: "team-a", token: "token-of-a")
            let second = desk.client(
                daemon.tcpAddress, namespace: "team-b", token: "token-of-b")
            let session = try await first.connect(deadline: desk.soon)
            #expect(session.secret == [UInt8](repeating: 0x0a, count: 32))
            let key = desk.freshKey()
            _ = try await first.put(
                ChunkLabel(key: key), pinned([1, 2, 3]), deadline: desk.soon)
            let fetched = try await second.fetch(key, deadline: desk.soon)
            #expect(fetched == nil)
            let facts = try await second.chunkStatistics(key, deadline: desk.soon)
            #expect(facts == nil)
            let looked = try await second.lookup([key], .everyKey, deadline: desk.soon)
            #expect(looked.prefixCount == 0)
            let deleted = try await second.delete([key], deadline: desk.soon)
            #expect(deleted == [.notFound])
            // The same key is the other tenant's to store, with other bytes.
            let outcome = try await second.put(
                ChunkLabel(key: key), pinned([9]), deadline: desk.soon)
            #expect(outcome == .stored)
            let own = try await first.fetch(key, deadline: desk.soon)
            #expect(own?.bytes[2] == 3)
            first.close()
            second.close()
        }
    }

    @Test func `do not share memory with each other`() async throws {
        try await withDaemon(configuration: twoTenants) { desk, daemon in
            let client = desk.client(
                daemon.unixAddress, namespace: "team-a", token: "token-of-a", sharing: true)
            _ = try await client.connect(deadline: desk.soon)
            #expect(!client.sharesMemory)
            let error = await clientError {
                _ = try await client.lease([desk.freshKey()], deadline: desk.soon)
            }
            #expect(error?.status == .unsupported)
            client.close()
        }
    }

    @Test func `need their token, and the refusal tells nothing`() async throws {
        try await withDaemon(configuration: twoTenants) { desk, daemon in
            var texts: Set<String> = []
            for (namespace, token) in [
                ("team-a", "token-of-b"), ("team-a", ""), ("nobody", ""), ("nobody", "x"),
            ] {
                let client = desk.client(daemon.tcpAddress, namespace: namespace, token: token)
                let error = await clientError {
                    _ = try await client.connect(deadline: desk.soon)
                }
                #expect(error?.status == .unauthorized)
                texts.insert(error?.message ?? "")
                client.close()
            }
            #expect(texts.count == 1)
        }
    }
}
