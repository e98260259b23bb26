// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVClient
import KVCore
import LinuxIO
import Testing
import Wire

/// Where a test's side of the connections lives: one reactor.
actor Desk {
    nonisolated let reactor: RingReactor
    private var bystanderMayGoOn = true
    private var bystanderRounds = 0

    nonisolated var unownedExecutor: UnownedSerialExecutor {
        unsafe reactor.executor.asUnownedSerialExecutor()
    }

    init() throws {
        reactor = try RingReactor()
    }

    /// Far enough for anything that ends at all.
    var soon: Instant { reactor.now().adding(milliseconds: 30_000) }

    func pause(milliseconds: UInt64) async throws {
        try await reactor.sleep(until: reactor.now().adding(milliseconds: milliseconds))
    }

    func client(
        _ address: StreamAddress, namespace: String = "", token: String = "",
        sharing: Bool = false
    ) -> Client<RingReactor> {
        var options = ClientOptions(
            address: address, namespace: namespace, token: Array(token.utf8), name: "test")
        if sharing { options.mapper = .system }
        return Client(reactor: reactor, options: options)
    }

    /// A connection without any client's manners.
    func rawConnection(_ address: StreamAddress) async throws -> RawConnection {
        RawConnection(try await reactor.connect(to: address, deadline: soon), self.soon)
    }

    /// One after HELLO.
    func greetedConnection(_ address: StreamAddress) async throws -> RawConnection {
        let connection = try await rawConnection(address)
        try await connection.send(hello())
        let answer = try await connection.receive()
        #expect(answer?.header.status == .ok)
        return connection
    }

    // MARK: The bystander

    /// Stores, fetches and deletes, over and over, until told to stop. Returns the rounds, and the
    /// first thing that went wrong.
    func standBy(_ address: StreamAddress) async -> (rounds: Int, trouble: String?) {
        let client = client(address)
        defer { client.close() }
        let value = OwnedBytes(count: 10_000)
        do {
            while bystanderMayGoOn {
                let key = freshKey()
                value.bytes.fill(UInt8(truncatingIfNeeded: bystanderRounds))
                let outcome = try await client.put(
                    ChunkLabel(key: key), value.bytes, deadline: soon)
                let found = try await client.fetch(key, deadline: soon)
                let isRight = found.map { $0.bytes[9_999] == value.bytes[9_999] } ?? false
                guard outcome == .stored, isRight else {
                    return (bystanderRounds, "a chunk was not there: \(outcome)")
                }
                _ = try await client.delete([key], deadline: soon)
                bystanderRounds += 1
                try await pause(milliseconds: 2)
            }
            return (bystanderRounds, nil)
        } catch {
            return (bystanderRounds, "\(error)")
        }
    }

    func dismissBystander() {
        bystanderMayGoOn = false
    }

    func freshKey() -> ChunkKey {
        ChunkKey(
            words: (
                reactor.randomBits(), reactor.randomBits(), reactor.randomBits(),
                reactor.randomBits()
            ))
    }

    // MARK: Counters

    func counters(_ client: Client<RingReactor>) async throws -> [String: UInt64] {
        let statistics = try await client.nodeStatistics(deadline: soon)
        return Dictionary(uniqueKeysWithValues: statistics.map { ($0.name, $0.value) })
    }

    /// Waits until the daemon holds nothing for anybody but the caller and the bystander, for up
    /// to 20 seconds.
    func expectNothingLeft(_ address: StreamAddress, connections: UInt64) async throws {
        let client = client(address)
        defer { client.close() }
        var last: [String: UInt64] = [:]
        for _ in 0..<2_000 {
            last = try await counters(client)
            let isClean =
                last["leases_open"] == 0 && last["reservations_open"] == 0
                && last["holds_open"] == 0 && last["staging_bytes"] == 0
                && (last["connections_open"] ?? .max) <= connections + 1
            if isClean { return }
            try await pause(milliseconds: 10)
        }
        let open = last.filter { $0.key.hasSuffix("_open") || $0.key == "staging_bytes" }
        Issue.record("the daemon still holds: \(open)")
    }
}

extension MemoryMapper {
    /// Maps as kvctl does.
    static let system = MemoryMapper(
        map: { descriptor, byteCount, access throws(IOFault) in
            let mapping = try SharedMapping(
                descriptor: descriptor, byteCount: ByteCount(byteCount),
                access: access == .readOnly ? .readOnly : .readWrite)
            return MappedMemory(bytes: mapping.bytes, owner: mapping)
        },
        discard: { descriptor in Glibc.close(descriptor) })
}

/// Runs `body` against a fresh daemon, with a bystander whose requests must all succeed; then
/// nothing may be left at the daemon, which must end in order.
func withDaemon(
    _ arguments: [String] = [], configuration: String? = nil, bystander: Bool = true,
    _ body: (isolated Desk, DaemonProcess) async throws -> Void
) async throws {
    let daemon = try DaemonProcess(arguments, configuration: configuration)
    let desk = try Desk()
    defer {
        desk.reactor.stop()
        desk.reactor.join()
    }
    let unixAddress = daemon.unixAddress
    let witness = bystander ? Task { await desk.standBy(unixAddress) } : nil
    do {
        try await body(desk, daemon)
        try await desk.expectNothingLeft(unixAddress, connections: bystander ? 1 : 0)
    } catch {
        Issue.record(error)
    }
    await desk.dismissBystander()
    if let witness {
        let (rounds, trouble) = await witness.value
        #expect(trouble == nil)
        #expect(rounds > 0)
    }
    daemon.terminate()
    #expect(daemon.ends(within: 30), "the daemon did not end after SIGTERM")
    #expect(daemon.exitStatus == 0)
}
