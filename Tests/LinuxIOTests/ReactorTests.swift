// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVCore
import Synchronization
import Testing

@testable import LinuxIO

@Suite struct `A reactor` {
    @Test(arguments: backends)
    func `ends sleeps in the order of their instants`(
        backend: ReactorOptions.Backend
    ) async throws {
        try await withShard(backend) { shard in
            let reactor = shard.reactor
            let start = reactor.now()
            let order = Log()
            var sleepers: [Task<Void, any Error>] = []
            for delay: UInt64 in [30, 5, 20, 10, 25, 15, 0, 5] {
                sleepers.append(
                    Task {
                        _ = shard
                        try await reactor.sleep(until: start.adding(milliseconds: delay))
                        order.entries.append(delay)
                        #expect(reactor.now() >= start.adding(milliseconds: delay))
                    })
            }
            for sleeper in sleepers { try await sleeper.value }
            #expect(order.entries == [0, 5, 5, 10, 15, 20, 25, 30])
        }
    }

    @Test(arguments: backends)
    func `lets other jobs run when one yields`(backend: ReactorOptions.Backend) async throws {
        try await withShard(backend) { shard in
            let reactor = shard.reactor
            let order = Log()
            let other = Task {
                _ = shard
                order.entries.append(2)
                await reactor.yield()
                order.entries.append(4)
            }
            order.entries.append(1)
            await reactor.yield()
            order.entries.append(3)
            await other.value
            await Task.yield()
            #expect(order.entries == [1, 2, 3, 4])
            #expect(reactor.executor.isCurrent)
        }
    }

    @Test(arguments: backends)
    func `cancels all that waits when it stops`(backend: ReactorOptions.Backend) async throws {
        var options = ReactorOptions()
        options.backend = backend
        let shard = Shard(try RingReactor(options))
        let started = shard.start { shard in
            let reactor = shard.reactor
            let (client, server) = try await connectedPair(reactor, Family.unix.address)
            let listener = try reactor.listen(on: Family.tcp4.address)
            let value = OwnedBytes(count: 32 << 20)
            let waiting = [
                Task {
                    _ = shard
                    return await fault {
                        try await reactor.sleep(until: reactor.now().adding(milliseconds: 60_000))
                    }
                },
                Task {
                    _ = shard
                    return await fault { _ = try await listener.accept() }
                },
                Task {
                    _ = shard
                    return await fault {
                        _ = try await client.receive(
                            into: value.bytes.prefix(1), minimum: 1, deadline: .distantFuture)
                    }
                },
                Task {
                    _ = shard
                    return await fault {
                        try await client.send(value.bytes, deadline: soon(reactor))
                    }
                },
            ]
            try await reactor.sleep(until: reactor.now().adding(milliseconds: 20))
            // The sender may stand between two operations.
            #expect(reactor.operationCount >= 3)
            reactor.stop()
            var faults: [IOFault?] = []
            for task in waiting { faults.append(await task.value) }
            faults.append(await fault { try await reactor.sleep(until: reactor.now()) })
            faults.append(
                await fault { try await server.send(value.bytes, deadline: soon(reactor)) })
            await reactor.yield()
            client.close()
            server.close()
            listener.close()
            return faults
        }
        #expect(try await started.value == Array(repeating: .cancelled, count: 6))
        shard.reactor.join()
    }

    @Test(arguments: backends)
    func `cancels a thousand operations at once`(
        backend: ReactorOptions.Backend
    ) async throws {
        _ = try ProcessLimits.raiseDescriptorCount()
        var options = ReactorOptions()
        options.backend = backend
        let shard = Shard(try RingReactor(options))
        let started = shard.start { shard in
            let reactor = shard.reactor
            let listener = try reactor.listen(on: Family.unix.address)
            var streams: [RingStream] = []
            let buffer = OwnedBytes(count: 1_000)
            var receivers: [Task<IOFault?, Never>] = []
            for index in 0..<1_000 {
                let client = try await reactor.connect(
                    to: listener.address, deadline: soon(reactor))
                let server = reactor.adopt(try await listener.accept())
                streams += [client, server]
                receivers.append(
                    Task {
                        _ = shard
                        return await fault {
                            _ = try await client.receive(
                                into: buffer.bytes.slice(offset: index, count: 1), minimum: 1,
                                deadline: .distantFuture)
                        }
                    })
            }
            await reactor.yield()
            #expect(reactor.operationCount == 1_000)
            reactor.stop()
            for receiver in receivers { #expect(await receiver.value == .cancelled) }
            for stream in streams { stream.close() }
            listener.close()
        }
        try await started.value
        shard.reactor.join()
    }

    @Test(arguments: backends)
    func `answers busy when all its slots are taken`(
        backend: ReactorOptions.Backend
    ) async throws {
        try await withShard(backend, operationCountMax: 4) { shard in
            let reactor = shard.reactor
            let (client, server) = try await connectedPair(reactor, Family.unix.address)
            let end = reactor.now().adding(milliseconds: 1_000)
            let sleepers = (0..<4).map { _ in
                Task {
                    _ = shard
                    try await reactor.sleep(until: end)
                }
            }
            await reactor.yield()
            #expect(reactor.operationCount == 4)
            let buffer = OwnedBytes(count: 1)
            #expect(await fault { try await reactor.sleep(until: end) } == .busy)
            #expect(
                await fault { try await client.send(buffer.bytes, deadline: end) } == .busy)
            for sleeper in sleepers { try await sleeper.value }
            try await client.send(buffer.bytes, deadline: soon(reactor))
            _ = try await server.receive(into: buffer.bytes, minimum: 1, deadline: soon(reactor))
            client.close()
            server.close()
        }
    }

    @Test(arguments: backends)
    func `takes jobs from many threads without losing one`(
        backend: ReactorOptions.Backend
    ) async throws {
        var options = ReactorOptions()
        options.backend = backend
        let counter = Counter(try RingReactor(options))
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<8 {
                group.addTask {
                    for _ in 0..<2_000 { await counter.increment() }
                }
            }
            for _ in 0..<2 {
                group.addTask {
                    // Keeps the ring busy meanwhile.
                    for _ in 0..<500 { await counter.pause() }
                }
            }
        }
        #expect(await counter.count == 16_000)
        counter.reactor.stop()
        counter.reactor.join()
    }

    @Test(arguments: backends)
    func `does not wake up while all is idle`(backend: ReactorOptions.Backend) async throws {
        var options = ReactorOptions()
        options.backend = backend
        let shard = Shard(try RingReactor(options))
        let isReady = Flag()
        let idle = shard.start { shard in
            let reactor = shard.reactor
            var streams: [RingStream] = []
            var receivers: [Task<IOFault?, Never>] = []
            for _ in 0..<50 {
                let (client, server) = try await connectedPair(reactor, Family.unix.address)
                streams += [client, server]
                receivers.append(
                    Task {
                        _ = shard
                        let buffer = OwnedBytes(count: 16)
                        return await fault {
                            _ = try await server.receive(
                                into: buffer.bytes, minimum: 1, deadline: .distantFuture)
                        }
                    })
            }
            await reactor.yield()
            isReady.value.store(true, ordering: .releasing)
            for receiver in receivers { #expect(await receiver.value == .cancelled) }
            for stream in streams { stream.close() }
        }
        while !isReady.value.load(ordering: .acquiring) {
            try await Task.sleep(for: .milliseconds(10))
        }
        // A machine that is busy takes its time; a wakeful reactor never comes to rest.
        var isAtRest = false
        for _ in 0..<50 where !isAtRest {
            let before = shard.reactor.roundCount.load(ordering: .relaxed)
            try await Task.sleep(for: .milliseconds(200))
            isAtRest = shard.reactor.roundCount.load(ordering: .relaxed) == before
        }
        #expect(isAtRest)
        shard.reactor.stop()
        try await idle.value
        shard.reactor.join()
    }

    @Test func `tells what carries its operations, and what is worse than it could be`() throws {
        var options = ReactorOptions()
        options.backend = .ioUring
        options.processor = 0
        let ring = try RingReactor(options)
        #expect(ring.backendDescription == "io_uring")
        #expect(ring.warnings.isEmpty)
        ring.join()
        options.backend = .poll
        let poll = try RingReactor(options)
        #expect(poll.backendDescription == "poll")
        #expect(poll.randomBits() != poll.randomBits())
        poll.join()
        options.backend = .olderIOUring
        let older = try RingReactor(options)
        #expect(older.backendDescription == "io_uring (as before Linux 6.1)")
        older.join()
    }

    @Test func `works without io_uring where that is forbidden`() async {
        await #expect(processExitsWith: .success) {
            forbidIOUring()
            var options = ReactorOptions()
            options.backend = .ioUring
            do throws(IOFault) {
                _ = try RingReactor(options)
                preconditionFailure("a ring, although that is forbidden")
            } catch {
                precondition(error == .system(EPERM))
            }
            options.backend = .automatic
            let reactor = try RingReactor(options)
            precondition(reactor.backendDescription == "poll")
            precondition(reactor.warnings.count == 1)
            precondition(reactor.warnings[0].contains("seccomp"))
            let shard = Shard(reactor)
            try await shard.run { shard in
                let (client, server) = try await connectedPair(reactor, Family.tcp4.address)
                let byte = OwnedBytes(count: 1)
                try await client.send(byte.bytes, deadline: soon(reactor))
                _ = try await server.receive(into: byte.bytes, minimum: 1, deadline: soon(reactor))
                client.close()
                server.close()
            }
            reactor.join()
        }
    }

    @Test func `traps when an operation is called outside its executor`() async {
        await #expect(processExitsWith: .failure) {
            let reactor = try RingReactor()
            try await reactor.sleep(until: reactor.now())
        }
    }

    @Test func `traps when a job comes after the end`() async {
        await #expect(processExitsWith: .failure) {
            let shard = Shard(try RingReactor())
            shard.reactor.join()
            await shard.run { _ in }
        }
    }

    @Test(arguments: backends, [false, true])
    func `keeps tasks on its thread, whatever executor they prefer`(
        backend: ReactorOptions.Backend, prefers: Bool
    ) async throws {
        var options = ReactorOptions()
        options.backend = backend
        let shard = Shard(try RingReactor(options))
        let task = Task(executorPreference: prefers ? shard.reactor.executor : nil) {
            try await shard.run { shard in
                let reactor = shard.reactor
                let (client, server) = try await connectedPair(reactor, Family.unix.address)
                let bytes = OwnedBytes(count: 64)
                let before = reactor.executor.foreignJobCount
                for _ in 0..<100 {
                    try await client.send(bytes.bytes, deadline: soon(reactor))
                    _ = try await server.receive(
                        into: bytes.bytes, minimum: 64, deadline: soon(reactor))
                    try await reactor.sleep(until: reactor.now())
                    await reactor.yield()
                }
                client.close()
                server.close()
                return reactor.executor.foreignJobCount - before
            }
        }
        #expect(try await task.value == 0)
        shard.reactor.join()
    }

    @Test(arguments: backends)
    func `is freed after its end`(backend: ReactorOptions.Backend) async throws {
        weak var weakly: RingReactor?
        var options = ReactorOptions()
        options.backend = backend
        do {
            let shard = Shard(try RingReactor(options))
            weakly = shard.reactor
            await shard.run { shard in await shard.reactor.yield() }
            shard.reactor.join()
        }
        #expect(weakly == nil)
    }
}

/// Makes io_uring_setup(2) fail with EPERM for this thread and those it starts, as containers do
/// (seccomp(2)).
private func forbidIOUring() {
    struct Instruction {
        var code: UInt16
        var jumpTrue: UInt8 = 0
        var jumpFalse: UInt8 = 0
        var operand: UInt32
    }
    @safe
    struct Program {
        var count: UInt16
        var start: UnsafeMutablePointer<Instruction>
    }
    // BPF: load the system call's number; 425 fails with EPERM, all others are allowed.
    var filter = [
        Instruction(code: 0x20, operand: 0),
        Instruction(code: 0x15, jumpFalse: 1, operand: 425),
        Instruction(code: 0x06, operand: 0x0005_0000 | UInt32(EPERM)),
        Instruction(code: 0x06, operand: 0x7fff_0000),
    ]
    // Swift does not import functions with a variable number of arguments.
    typealias Control = @convention(c) (CInt, UInt, UInt, UInt, UInt) -> CInt
    guard let symbol = unsafe dlsym(dlopen(nil, RTLD_NOW), "prctl") else {
        preconditionFailure("no prctl")
    }
    let control = unsafe unsafeBitCast(symbol, to: Control.self)
    let noNewPrivileges: CInt = 38
    let setSeccomp: CInt = 22
    precondition(control(noNewPrivileges, 1, 0, 0, 0) == 0)
    unsafe filter.withUnsafeMutableBufferPointer { filter in
        guard let start = filter.baseAddress else { return }
        var program = unsafe Program(count: UInt16(filter.count), start: start)
        unsafe withUnsafeMutablePointer(to: &program) { program in
            precondition(control(setSeccomp, 2, UInt(bitPattern: program), 0, 0) == 0)
        }
    }
}

/// What happened, in order; confined to one actor.
private final class Log {
    var entries: [UInt64] = []
}

private final class Flag: Sendable {
    let value = Atomic<Bool>(false)
}

private actor Counter {
    nonisolated let reactor: RingReactor
    nonisolated var unownedExecutor: UnownedSerialExecutor {
        unsafe reactor.executor.asUnownedSerialExecutor()
    }
    var count = 0

    init(_ reactor: RingReactor) { self.reactor = reactor }

    func increment() {
        reactor.executor.checkThread()
        count += 1
    }

    func pause() async {
        do {
            try await reactor.sleep(until: reactor.now())
        } catch {
            Issue.record(error)
        }
    }
}
