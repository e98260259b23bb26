// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVCore
import LinuxIO
import Testing

@Suite struct `A listener` {
    @Test(arguments: backends)
    func `wakes its acceptor when it is closed`(backend: ReactorOptions.Backend) async throws {
        try await withShard(backend) { shard in
            let reactor = shard.reactor
            for family in Family.allCases {
                let listener = try reactor.listen(on: family.address)
                let acceptor = Task {
                    _ = shard
                    return await fault { _ = try await listener.accept() }
                }
                await reactor.yield()
                listener.close()
                listener.close()
                #expect(await acceptor.value == .closed)
                #expect(await fault { _ = try await listener.accept() } == .closed)
                // The port is free again, the path gone.
                try reactor.listen(on: listener.address).close()
            }
            #expect(reactor.operationCount == 0)
        }
    }

    @Test(arguments: backends)
    func `makes a Unix socket for its user alone and removes it`(
        backend: ReactorOptions.Backend
    ) async throws {
        let path = temporaryPath("listener")
        try await withShard(backend) { shard in
            let listener = try shard.reactor.listen(on: .unix(path: path))
            var status = stat()
            #expect(unsafe stat(path, &status) == 0)
            #expect(status.st_mode & 0o777 == 0o600)
            #expect(
                throws: IOFault.system(EADDRINUSE), "somebody answers, so the path is not stale"
            ) {
                _ = try shard.reactor.listen(on: .unix(path: path))
            }
            listener.close()
            #expect(unsafe access(path, F_OK) == -1)
        }
    }

    @Test(arguments: backends)
    func `takes over the path of a process that is gone`(
        backend: ReactorOptions.Backend
    ) async throws {
        let path = temporaryPath("stale")
        let left = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        unsafe withUnsafeMutableBytes(of: &address.sun_path) {
            unsafe $0.copyBytes(from: path.utf8)
        }
        unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
                let length = socklen_t(MemoryLayout<sockaddr_un>.size)
                #expect(unsafe bind(left, pointer, length) == 0)
            }
        }
        _ = Glibc.close(left)
        #expect(unsafe access(path, F_OK) == 0)
        try await withShard(backend) { shard in
            let reactor = shard.reactor
            let (client, server) = try await connectedPair(reactor, .unix(path: path))
            client.close()
            server.close()
        }
        #expect(unsafe access(path, F_OK) == -1)
    }

    @Test(arguments: backends)
    func `leaves a file that is no socket alone`(backend: ReactorOptions.Backend) async throws {
        let path = temporaryPath("file")
        try await withShard(backend) { shard in
            let file = try shard.reactor.openFile(path, .readWrite)
            file.close()
            #expect(throws: IOFault.system(EADDRINUSE)) {
                _ = try shard.reactor.listen(on: .unix(path: path))
            }
        }
        #expect(unsafe unlink(path) == 0)
    }

    @Test(arguments: backends)
    func `refuses what is no address`(backend: ReactorOptions.Backend) async throws {
        try await withShard(backend) { shard in
            let reactor = shard.reactor
            #expect(throws: IOFault.system(EINVAL)) {
                _ = try reactor.listen(on: .tcp(host: "example.org", port: 0))
            }
            #expect(throws: IOFault.system(EINVAL)) {
                _ = try reactor.listen(on: .unix(path: ""))
            }
            #expect(throws: IOFault.system(ENAMETOOLONG)) {
                _ = try reactor.listen(
                    on: .unix(path: "/tmp/" + String(repeating: "x", count: 103)))
            }
            #expect(throws: IOFault.system(EADDRINUSE)) {
                let first = try reactor.listen(on: Family.tcp4.address)
                defer { first.close() }
                _ = try reactor.listen(on: first.address)
            }
        }
    }

    @Test(arguments: backends)
    func `closes a connection that nobody adopted`(
        backend: ReactorOptions.Backend
    ) async throws {
        try await withShard(backend) { shard in
            let reactor = shard.reactor
            let listener = try reactor.listen(on: Family.unix.address)
            let client = try await reactor.connect(
                to: listener.address, deadline: soon(reactor))
            _ = try await listener.accept()
            let buffer = OwnedBytes(count: 1)
            let end = await fault {
                _ = try await client.receive(
                    into: buffer.bytes, minimum: 1, deadline: soon(reactor))
            }
            #expect(end == .closed)
            client.close()
            listener.close()
        }
    }
}
