// SPDX-License-Identifier: Apache-2.0
import KVCore
import LinuxIO
import Testing

/// Connections that send, receive, time out and are closed at random, a reactor that stops amid it
/// all. What can go wrong here traps in the reactor: a task resumed twice or never, a slot that
/// leaks, a descriptor used after its close.
@Suite struct `A reactor amid chaos` {
    @Test(arguments: backends, [UInt64.random(in: 0 ... .max), 1, 2])
    func `ends every operation once`(backend: ReactorOptions.Backend, seed: UInt64) async throws {
        _ = try ProcessLimits.raiseDescriptorCount()
        var options = ReactorOptions()
        options.backend = backend
        options.operationCountMax = 150
        let shard = Shard(try RingReactor(options))
        let chaos = shard.start { shard in
            let reactor = shard.reactor
            var random = SplitMix(state: seed)
            var tasks: [Task<Int, Never>] = []
            let listener = try reactor.listen(on: Family.unix.address)
            for index in 0..<60 {
                let client = try await reactor.connect(
                    to: listener.address, deadline: soon(reactor))
                let server = reactor.adopt(try await listener.accept())
                for (stream, receives) in [
                    (client, true), (client, false), (server, true), (server, false),
                ] {
                    var local = SplitMix(state: seed &+ UInt64(index) &* 4 &+ (receives ? 1 : 2))
                    tasks.append(
                        Task {
                            _ = shard
                            return await work(stream, receives, reactor, &local)
                        })
                }
                if random.next() % 4 == 0 { await reactor.yield() }
            }
            tasks.append(
                Task {
                    _ = shard
                    _ = await fault { _ = try await listener.accept() }
                    listener.close()
                    return 0
                })
            try await reactor.sleep(until: reactor.now().adding(milliseconds: 150))
            reactor.stop()
            var operations = 0
            for task in tasks { operations += await task.value }
            return (operations, reactor.operationCount, reactor.activeTransferCount)
        }
        let (operations, left, transfers) = try await chaos.value
        shard.reactor.join()
        #expect(operations > 100, "seed \(seed)")
        #expect(left == 0, "seed \(seed)")
        #expect(transfers == 0, "seed \(seed)")
    }
}

/// Sends or receives until the stream or the reactor has ended. Returns the operations.
private nonisolated(nonsending) func work(
    _ stream: RingStream, _ receives: Bool, _ reactor: RingReactor, _ random: inout SplitMix
) async -> Int {
    let buffer = OwnedBytes(count: 200_000)
    var count = 0
    while true {
        count += 1
        let size = 1 + Int(random.next() % (random.next() % 3 == 0 ? 200_000 : 100))
        let wait = random.next() % 40
        let deadline = wait < 5 ? Instant.distantFuture : reactor.now().adding(milliseconds: wait)
        let outcome = await fault {
            if receives {
                _ = try await stream.receive(
                    into: buffer.bytes.prefix(size), minimum: 1 + Int(random.next() % UInt64(size)),
                    deadline: deadline)
            } else if size > 1 {
                try await stream.send(
                    buffer.bytes.prefix(size / 2), buffer.bytes.prefix(size - size / 2),
                    deadline: deadline)
            } else {
                try await stream.send(buffer.bytes.prefix(1), descriptor: 0, deadline: deadline)
            }
        }
        switch outcome {
        case nil, .deadlineExceeded, .busy: break
        default:
            stream.close()
            return count
        }
        if random.next() % 200 == 0 {
            stream.close()
            return count
        }
        if outcome == .busy || random.next() % 8 == 0 { await reactor.yield() }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
private struct SplitMix {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }
}
