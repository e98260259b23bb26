// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVCore
import LinuxIO
import Testing

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

    @Test(arguments: backends)
    func `that is interrupted and released goes on elsewhere`(
        backend: ReactorOptions.Backend
    ) async throws {
        try await withShard(backend) { shard in
            let reactor = shard.reactor
            let (client, server) = try await connectedPair(reactor, Family.tcp4.address)
            let buffer = OwnedBytes(count: 100)
            buffer.fill(7)
            // Nothing is under way, so there is nothing to interrupt.
            server.interrupt()
            var serving = server
            for _ in 0..<3 {
                let receiver = serving
                let receiving = Task {
                    _ = shard
                    return await fault {
                        _ = try await receiver.receive(
                            into: buffer.bytes, minimum: 1, deadline: .distantFuture)
                    }
                }
                await reactor.yield()
                #expect(reactor.release(receiver) == nil, "a receive is under way")
                receiver.interrupt()
                #expect(await receiving.value == .cancelled)
                let released = try #require(reactor.release(receiver))
                #expect(reactor.release(receiver) == nil, "it was released")
                let after = await fault {
                    try await receiver.send(buffer.bytes, deadline: soon(reactor))
                }
                #expect(after == .closed)
                receiver.close()
                // What is sent meanwhile waits for whoever adopts it.
                try await client.send(buffer.bytes, deadline: soon(reactor))
                serving = reactor.adopt(released)
                let count = try await serving.receive(
                    into: buffer.bytes, minimum: 100, deadline: soon(reactor))
                #expect(count == 100)
            }
            client.close()
            serving.close()
        }
    }

    @Test(arguments: backends, [Family.tcp4, .unix])
    func `carries large values in pieces, in two parts, without loss`(
        backend: ReactorOptions.Backend, family: Family
    ) async throws {
        try await withShard(backend) { shard in
            let reactor = shard.reactor
            let (client, server) = try await connectedPair(reactor, family.address)
            let value = OwnedBytes(count: 9 << 20)
            let arrived = OwnedBytes(count: 9 << 20)
            value.fill(3)
            let sender = Task {
                _ = shard
                // Larger than any socket buffer, so the sends are short and go on.
                try await client.send(
                    value.bytes.prefix(5 << 20),
                    value.bytes.slice(offset: 5 << 20, count: 3 << 20), deadline: soon(reactor))
                try await client.send(value.bytes.dropFirst(8 << 20), deadline: soon(reactor))
            }
            await reactor.yield()
            #expect(reactor.activeTransferCount == 1)
            var offset = 0
            while offset < value.bytes.count {
                let piece = arrived.bytes.slice(offset: offset, count: 256 << 10)
                offset += try await server.receive(
                    into: piece, minimum: piece.count, deadline: soon(reactor))
            }
            try await sender.value
            #expect(arrived.bytes.holds(sameAs: value.bytes))
            #expect(reactor.activeTransferCount == 0)
            client.close()
            server.close()
        }
    }

    @Test(arguments: backends)
    func `returns what is there once the minimum has come`(
        backend: ReactorOptions.Backend
    ) async throws {
        try await withShard(backend) { shard in
            let reactor = shard.reactor
            let (client, server) = try await connectedPair(reactor, Family.tcp4.address)
            let buffer = OwnedBytes(count: 1_000)
            try await client.send(buffer.bytes.prefix(10), deadline: soon(reactor))
            let first = try await server.receive(
                into: buffer.bytes, minimum: 4, deadline: soon(reactor))
            #expect(first == 10)
            let receiver = Task {
                _ = shard
                return try await server.receive(
                    into: buffer.bytes, minimum: 30, deadline: soon(reactor))
            }
            for _ in 0..<3 {
                try await client.send(buffer.bytes.prefix(15), deadline: soon(reactor))
                try await reactor.sleep(until: reactor.now().adding(milliseconds: 5))
            }
            #expect(try await receiver.value == 30)
            client.close()
            server.close()
        }
    }

    @Test(arguments: backends)
    func `gives up receiving at the deadline, with and without bytes`(
        backend: ReactorOptions.Backend
    ) async throws {
        try await withShard(backend) { shard in
            let reactor = shard.reactor
            let (client, server) = try await connectedPair(reactor, Family.tcp4.address)
            let buffer = OwnedBytes(count: 100)
            let start = reactor.now()
            let nothing = await fault {
                _ = try await server.receive(
                    into: buffer.bytes, minimum: 100, deadline: start.adding(milliseconds: 30))
            }
            #expect(nothing == .deadlineExceeded)
            #expect(start.milliseconds(until: reactor.now()) >= 30)
            // Nothing came, so the stream is as good as before.
            try await client.send(buffer.bytes.prefix(60), deadline: soon(reactor))
            let some = await fault {
                _ = try await server.receive(
                    into: buffer.bytes, minimum: 100,
                    deadline: reactor.now().adding(milliseconds: 30))
            }
            #expect(some == .deadlineExceeded)
            client.close()
            server.close()
        }
    }

    @Test(arguments: backends, [Family.tcp4, .unix])
    func `gives up sending at the deadline when the peer never reads`(
        backend: ReactorOptions.Backend, family: Family
    ) async throws {
        try await withShard(backend) { shard in
            let reactor = shard.reactor
            let (client, server) = try await connectedPair(reactor, family.address)
            let value = OwnedBytes(count: 32 << 20)
            let one = await fault {
                try await client.send(
                    value.bytes, deadline: reactor.now().adding(milliseconds: 50))
            }
            #expect(one == .deadlineExceeded)
            let two = await fault {
                try await client.send(
                    value.bytes.prefix(100), value.bytes,
                    deadline: reactor.now().adding(milliseconds: 50))
            }
            #expect(two == .deadlineExceeded)
            #expect(reactor.operationCount == 0)
            client.close()
            server.close()
        }
    }

    @Test(arguments: backends, [Family.tcp4, .unix])
    func `gives up connecting at the deadline`(
        backend: ReactorOptions.Backend, family: Family
    ) async throws {
        let (descriptor, address) = try fullListener(family.address)
        defer { _ = Glibc.close(descriptor) }
        try await withShard(backend) { shard in
            let reactor = shard.reactor
            var streams: [RingStream] = []
            var last: IOFault?
            // The backlog takes a few before the kernel stops to answer.
            for _ in 0..<4 where last == nil {
                last = await fault {
                    streams.append(
                        try await reactor.connect(
                            to: address, deadline: reactor.now().adding(milliseconds: 50)))
                }
            }
            #expect(last == .deadlineExceeded)
            for stream in streams { stream.close() }
        }
        if case .unix(let path) = address { #expect(unsafe unlink(path) == 0) }
    }

    @Test(arguments: backends)
    func `connects once there is room in the backlog`(
        backend: ReactorOptions.Backend
    ) async throws {
        let (descriptor, address) = try fullListener(Family.unix.address)
        try await withShard(backend) { shard in
            let reactor = shard.reactor
            let first = try await reactor.connect(to: address, deadline: soon(reactor))
            let second = Task {
                _ = shard
                try await reactor.connect(to: address, deadline: soon(reactor)).close()
            }
            try await reactor.sleep(until: reactor.now().adding(milliseconds: 20))
            #expect(reactor.operationCount == 1)
            _ = Glibc.close(Glibc.accept(descriptor, nil, nil))
            try await second.value
            first.close()
        }
        _ = Glibc.close(descriptor)
        if case .unix(let path) = address { #expect(unsafe unlink(path) == 0) }
    }

    @Test(arguments: backends)
    func `is refused where nobody listens`(backend: ReactorOptions.Backend) async throws {
        try await withShard(backend) { shard in
            let reactor = shard.reactor
            let listener = try reactor.listen(on: Family.tcp4.address)
            let address = listener.address
            listener.close()
            let tcp = await fault {
                _ = try await reactor.connect(to: address, deadline: soon(reactor))
            }
            #expect(tcp == .system(ECONNREFUSED))
            let unix = await fault {
                _ = try await reactor.connect(
                    to: .unix(path: temporaryPath("nobody")), deadline: soon(reactor))
            }
            #expect(unix == .system(ENOENT))
            let name = await fault {
                _ = try await reactor.connect(
                    to: .tcp(host: "localhost", port: 1), deadline: soon(reactor))
            }
            #expect(name == .system(EINVAL))
        }
    }

    @Test(arguments: backends, [Family.tcp4, .unix])
    func `wakes its receiver and its sender when it is closed`(
        backend: ReactorOptions.Backend, family: Family
    ) async throws {
        try await withShard(backend) { shard in
            let reactor = shard.reactor
            let (client, server) = try await connectedPair(reactor, family.address)
            let value = OwnedBytes(count: 32 << 20)
            let receiver = Task {
                _ = shard
                return await fault {
                    _ = try await client.receive(
                        into: value.bytes.prefix(10), minimum: 1, deadline: .distantFuture)
                }
            }
            let sender = Task {
                _ = shard
                return await fault {
                    try await client.send(value.bytes, deadline: .distantFuture)
                }
            }
            try await reactor.sleep(until: reactor.now().adding(milliseconds: 20))
            client.close()
            client.close()
            #expect(await receiver.value == .closed)
            #expect(await sender.value == .closed)
            let late = await fault { try await client.send(value.bytes, deadline: soon(reactor)) }
            #expect(late == .closed)
            #expect(reactor.operationCount == 0)
            server.close()
        }
    }

    @Test(arguments: backends)
    func `may be closed after its operation ended and before its task went on`(
        backend: ReactorOptions.Backend
    ) async throws {
        try await withShard(backend) { shard in
            let reactor = shard.reactor
            for _ in 0..<20 {
                let (client, server) = try await connectedPair(reactor, Family.unix.address)
                let buffer = OwnedBytes(count: 1)
                let receiver = Task {
                    _ = shard
                    return await fault {
                        _ = try await server.receive(
                            into: buffer.bytes, minimum: 1, deadline: .distantFuture)
                    }
                }
                await reactor.yield()
                // Both operations end in the same round; this task may go on first.
                try await client.send(buffer.bytes, deadline: soon(reactor))
                server.close()
                let outcome = await receiver.value
                #expect(outcome == nil || outcome == .closed)
                client.close()
            }
            #expect(reactor.operationCount == 0)
        }
    }

    @Test(arguments: backends)
    func `reports a peer that vanished as closed, without SIGPIPE`(
        backend: ReactorOptions.Backend
    ) async throws {
        try await withShard(backend) { shard in
            let reactor = shard.reactor
            let (client, server) = try await connectedPair(reactor, Family.tcp4.address)
            let value = OwnedBytes(count: 1 << 20)
            server.close()
            let result = await fault {
                for _ in 0..<20 { try await client.send(value.bytes, deadline: soon(reactor)) }
            }
            #expect(result == .closed)
            client.close()
        }
    }

    @Test(arguments: backends)
    func `passes descriptors to local peers only`(
        backend: ReactorOptions.Backend
    ) async throws {
        try await withShard(backend) { shard in
            let reactor = shard.reactor
            let (client, server) = try await connectedPair(reactor, Family.unix.address)
            let region = try StagingRegion(byteCount: .kibibytes(64))
            region.bytes.withMutableBytes {
                $0.storeBytes(of: 0x1234_5678, toByteOffset: 4_096, as: UInt32.self)
            }
            let buffer = OwnedBytes(count: 100)
            buffer.fill(1)
            try await server.send(
                buffer.bytes.prefix(40), descriptor: region.descriptor, deadline: soon(reactor))
            try await server.send(buffer.bytes.prefix(8), deadline: soon(reactor))
            let arrived = OwnedBytes(count: 40)
            let message = try await client.receiveWithDescriptor(
                into: arrived.bytes, deadline: soon(reactor))
            #expect(message.byteCount == 40)
            #expect(arrived.bytes.array == buffer.bytes.prefix(40).array)
            let descriptor = try #require(message.descriptor)
            let mapping = try SharedMapping(
                descriptor: descriptor, byteCount: .kibibytes(64), access: .readOnly)
            #expect(mapping.bytes.array == region.bytes.array)
            let plain = try await client.receiveWithDescriptor(
                into: arrived.bytes, deadline: soon(reactor))
            #expect(plain.byteCount == 8)
            #expect(plain.descriptor == nil)
            #expect(client.peerDescription == "unix:pid=\(getpid()),uid=\(getuid())")
            #expect(server.peerUser == getuid())
            client.close()
            #expect(client.peerUser == nil)
            server.close()

            let (near, far) = try await connectedPair(reactor, Family.tcp4.address)
            let refused = await fault {
                try await near.send(buffer.bytes, descriptor: 0, deadline: soon(reactor))
            }
            #expect(refused == .system(EOPNOTSUPP))
            #expect(near.peerDescription.hasPrefix("tcp:127.0.0.1:"))
            #expect(near.peerUser == nil)
            near.close()
            far.close()
        }
    }

    @Test(arguments: backends)
    func `is served by another reactor than the one that accepted it`(
        backend: ReactorOptions.Backend
    ) async throws {
        try await withShard(backend) { acceptor in
            let listener = try acceptor.reactor.listen(on: Family.tcp4.address)
            let address = listener.address
            let client = Task {
                try await withShard(backend) { shard in
                    let stream = try await shard.reactor.connect(
                        to: address, deadline: soon(shard.reactor))
                    let buffer = OwnedBytes(count: 5)
                    buffer.fill(9)
                    try await stream.send(buffer.bytes, deadline: soon(shard.reactor))
                    _ = try await stream.receive(
                        into: buffer.bytes, minimum: 5, deadline: soon(shard.reactor))
                    stream.close()
                    return buffer.bytes.array
                }
            }
            let accepted = try await listener.accept()
            listener.close()
            try await withShard(backend) { server in
                let stream = server.reactor.adopt(accepted)
                let buffer = OwnedBytes(count: 5)
                _ = try await stream.receive(
                    into: buffer.bytes, minimum: 5, deadline: soon(server.reactor))
                buffer.fill(buffer.bytes.array[0] + 1)
                try await stream.send(buffer.bytes, deadline: soon(server.reactor))
                stream.close()
            }
            #expect(try await client.value == [10, 41, 72, 103, 134])
        }
    }

    @Test(arguments: backends)
    func `serves a thousand connections at a time`(
        backend: ReactorOptions.Backend
    ) async throws {
        _ = try ProcessLimits.raiseDescriptorCount()
        try await withShard(backend) { shard in
            let reactor = shard.reactor
            let listener = try reactor.listen(on: Family.unix.address)
            let address = listener.address
            let echo = Task {
                _ = shard
                var servers: [Task<Void, any Error>] = []
                for _ in 0..<1_000 {
                    let stream = reactor.adopt(try await listener.accept())
                    servers.append(
                        Task {
                            _ = shard
                            let buffer = OwnedBytes(count: 64)
                            _ = try await stream.receive(
                                into: buffer.bytes, minimum: 64, deadline: .distantFuture)
                            try await stream.send(buffer.bytes, deadline: .distantFuture)
                            stream.close()
                        })
                }
                for server in servers { try await server.value }
            }
            var clients: [RingStream] = []
            for _ in 0..<1_000 {
                clients.append(try await reactor.connect(to: address, deadline: soon(reactor)))
            }
            for round in 0..<1_000 {
                // Not in the order of connecting.
                let client = clients[(round * 7) % 1_000]
                let buffer = OwnedBytes(count: 64)
                buffer.fill(UInt8(truncatingIfNeeded: round))
                let back = OwnedBytes(count: 64)
                try await client.send(buffer.bytes, deadline: soon(reactor))
                _ = try await client.receive(
                    into: back.bytes, minimum: 64, deadline: soon(reactor))
                #expect(back.bytes.holds(sameAs: buffer.bytes))
                client.close()
            }
            try await echo.value
            listener.close()
            #expect(reactor.operationCount == 0)
        }
    }
}

/// A socket that listens with the smallest backlog and accepts nobody.
private func fullListener(
    _ wanted: StreamAddress
) throws -> (descriptor: Int32, address: StreamAddress) {
    func listen(_ descriptor: Int32, _ address: UnsafeMutableRawPointer, _ byteCount: Int) {
        let name = unsafe address.assumingMemoryBound(to: sockaddr.self)
        var length = socklen_t(byteCount)
        #expect(unsafe bind(descriptor, name, length) == 0)
        #expect(Glibc.listen(descriptor, 0) == 0)
        #expect(unsafe getsockname(descriptor, name, &length) == 0)
    }
    if case .unix(let path) = wanted {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        unsafe withUnsafeMutableBytes(of: &address.sun_path) {
            unsafe $0.copyBytes(from: path.utf8)
        }
        unsafe listen(descriptor, &address, MemoryLayout<sockaddr_un>.size)
        return (descriptor, wanted)
    }
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
    unsafe listen(descriptor, &address, MemoryLayout<sockaddr_in>.size)
    return (descriptor, .tcp(host: "127.0.0.1", port: UInt16(bigEndian: address.sin_port)))
}
