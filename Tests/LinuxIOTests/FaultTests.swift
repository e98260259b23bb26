// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVCore
import LinuxIO
import Testing

@Suite struct `An injected fault` {
    @Test(arguments: backends)
    func `fails each kind of operation once, with nothing left under way`(
        backend: ReactorOptions.Backend
    ) async throws {
        let path = "/var" + temporaryPath("faults")
        try await withShard(backend) { shard in
            let reactor = shard.reactor
            let listener = try reactor.listen(on: Family.unix.address)
            let (client, server) = try await connectedPair(reactor, Family.unix.address)
            let file = try reactor.openFile(path, .readWrite)
            let bytes = OwnedBytes(count: 64)
            let deadline = soon(reactor)
            let cases: [(OperationKind, () async throws -> Void)] = [
                (
                    .connect,
                    {
                        let stream = try await reactor.connect(
                            to: listener.address, deadline: deadline)
                        stream.close()
                    }
                ),
                (.accept, { _ = try await listener.accept() }),
                (.send, { try await client.send(bytes.bytes, deadline: deadline) }),
                (
                    .receive,
                    {
                        _ = try await server.receive(
                            into: bytes.bytes, minimum: 64, deadline: deadline)
                    }
                ),
                (
                    .sendMessage,
                    { try await client.send(bytes.bytes, bytes.bytes, deadline: deadline) }
                ),
                (
                    .receiveMessage,
                    {
                        _ = try await server.receiveWithDescriptor(
                            into: bytes.bytes, deadline: deadline)
                    }
                ),
                (.write, { try await file.write(bytes.bytes, at: 0) }),
                (.synchronize, { try await file.synchronize() }),
                (.read, { try await file.read(into: bytes.bytes, at: 0) }),
            ]
            #expect(cases.count == OperationKind.allCases.count - 1)
            for (kind, operation) in cases {
                reactor.inject(.failure(errorNumber: EIO), into: kind)
                #expect(await fault(operation) == .system(EIO), "\(kind)")
                #expect(await fault(operation) == nil, "\(kind)")
                #expect(reactor.operationCount == 0, "\(kind)")
            }
            client.close()
            server.close()
            listener.close()
            file.close()
        }
        #expect(unsafe unlink(path) == 0)
    }

    @Test(arguments: backends)
    func `cuts transfers short, which nobody notices`(
        backend: ReactorOptions.Backend
    ) async throws {
        let path = "/var" + temporaryPath("short")
        try await withShard(backend) { shard in
            let reactor = shard.reactor
            let (client, server) = try await connectedPair(reactor, Family.tcp4.address)
            let file = try reactor.openFile(path, .readWrite)
            let source = OwnedBytes(count: 1_000)
            let target = OwnedBytes(count: 1_000)
            source.fill(2)
            for kind: OperationKind in [.send, .receive, .write, .read] {
                for byteCount: UInt32 in [1, 500] {
                    reactor.inject(.short(byteCount: byteCount), into: kind)
                }
            }
            // Interrupted system calls are repeated as well.
            for kind: OperationKind in [.send, .receive, .write, .read, .synchronize] {
                reactor.inject(.failure(errorNumber: EINTR), into: kind, skipCount: 1)
            }
            try await client.send(source.bytes, deadline: soon(reactor))
            _ = try await server.receive(
                into: target.bytes, minimum: 1_000, deadline: soon(reactor))
            #expect(target.bytes.holds(sameAs: source.bytes))
            target.fill(0)
            try await file.write(source.bytes, at: 0)
            try await file.synchronize()
            try await file.synchronize()
            try await file.read(into: target.bytes, at: 0)
            #expect(target.bytes.holds(sameAs: source.bytes))
            client.close()
            server.close()
            file.close()
        }
        #expect(unsafe unlink(path) == 0)
    }

    @Test(arguments: backends)
    func `tells an acceptor that descriptors ran out, and it goes on later`(
        backend: ReactorOptions.Backend
    ) async throws {
        try await withShard(backend) { shard in
            let reactor = shard.reactor
            let listener = try reactor.listen(on: Family.tcp4.address)
            reactor.inject(.failure(errorNumber: EMFILE), into: .accept)
            reactor.inject(.failure(errorNumber: ECONNABORTED), into: .accept)
            let client = try await reactor.connect(
                to: listener.address, deadline: soon(reactor))
            #expect(await fault { _ = try await listener.accept() } == .system(EMFILE))
            let server = reactor.adopt(try await listener.accept())
            client.close()
            server.close()
            listener.close()
        }
    }
}
