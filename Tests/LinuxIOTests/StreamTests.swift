// SPDX-License-Identifier: Apache-2.0
import KVCore
import LinuxIO
import Testing

/// Both ends of a connection over `address`.
func connectedPair(
    _ reactor: RingReactor, _ address: StreamAddress
) async throws -> (RingStream, RingStream) {
    let listener = try reactor.listen(on: address)
    let client = try await reactor.connect(to: listener.address, deadline: soon(reactor))
    let server = reactor.adopt(try await listener.accept())
    listener.close()
    return (client, server)
}

func soon(_ reactor: RingReactor) -> Instant { reactor.now().adding(milliseconds: 5_000) }

enum Family: CaseIterable {
    case tcp4, tcp6, unix

    var address: StreamAddress {
        switch self {
        case .tcp4: .tcp(host: "127.0.0.1", port: 0)
        case .tcp6: .tcp(host: "::1", port: 0)
        case .unix: .unix(path: temporaryPath("socket"))
        }
    }
}

@Suite struct `A stream` {
    @Test(arguments: backends, Family.allCases)
    func `carries bytes both ways`(
        backend: ReactorOptions.Backend, family: Family
    ) async throws {
        try await withShard(backend) { shard in
            let reactor = shard.reactor
            let (client, server) = try await connectedPair(reactor, family.address)
            let request = OwnedBytes(count: 100)
            let response = OwnedBytes(count: 100)
            request.fill(7)
            for _ in 0..<10 {
                try await client.send(request.bytes, deadline: soon(reactor))
                let count = try await server.receive(
                    into: response.bytes, minimum: 100, deadline: soon(reactor))
                #expect(count == 100)
                #expect(response.bytes.array == request.bytes.array)
                try await server.send(
                    response.bytes.prefix(40), response.bytes.dropFirst(40),
                    deadline: soon(reactor))
                let back = try await client.receive(
                    into: response.bytes, minimum: 100, deadline: .distantFuture)
                #expect(back == 100)
                #expect(response.bytes.array == request.bytes.array)
            }
            #expect(client.isLocal == (family == .unix))
            client.close()
            let end = await fault {
                _ = try await server.receive(
                    into: response.bytes, minimum: 1, deadline: soon(reactor))
            }
            #expect(end == .closed)
            server.close()
            #expect(reactor.activeTransferCount == 0)
            #expect(reactor.operationCount == 0)
        }
    }
}
