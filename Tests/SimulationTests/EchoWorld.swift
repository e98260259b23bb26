// SPDX-License-Identifier: Apache-2.0

import KVCore
import SimulationKit

/// Seeds for a test that runs on many: fixed ones, and fresh ones that are printed when they fail.
enum Seeds {
    static let fixed: [UInt64] = (1...50).map { $0 }

    static func fresh(_ count: Int) -> [UInt64] {
        var system = SystemRandomNumberGenerator()
        return (0..<count).map { _ in system.next() >> 16 }
    }
}

/// A server that sends back what it receives, message by message.
actor EchoServer {
    private let reactor: SimulatedReactor
    private(set) var connectionCount = 0

    init(reactor: SimulatedReactor) {
        self.reactor = reactor
    }

    nonisolated var unownedExecutor: UnownedSerialExecutor {
        // SAFETY: the reactor holds its executor, and this actor the reactor.
        unsafe reactor.executor.asUnownedSerialExecutor()
    }

    /// Serves until the listener closes; each connection is a task of this actor.
    func serve(_ address: StreamAddress) async {
        do throws(IOFault) {
            let listener = try reactor.listen(on: address)
            while true {
                let connection = try await listener.accept()
                connectionCount += 1
                Task(executorPreference: reactor.executor) {
                    await self.serveConnection(connection)
                }
            }
        } catch {
            // The world ended.
        }
    }

    private func serveConnection(_ connection: SimulatedConnection) async {
        let stream = reactor.adopt(connection)
        let buffer = OwnedBytes(count: 8 << 10)
        defer { withExtendedLifetime(buffer) {} }
        do throws(IOFault) {
            while true {
                let count = try await stream.receive(
                    into: buffer.bytes, minimum: 1,
                    deadline: reactor.now().adding(milliseconds: 60_000))
                try await stream.send(
                    buffer.bytes.prefix(count), deadline: reactor.now().adding(milliseconds: 5_000))
            }
        } catch {
            stream.close()
        }
    }
}

/// Sends messages and checks the answers: whole and equal, or a fault in time.
actor EchoClient {
    struct Tally: Equatable {
        var goodCount = 0
        var faultCount = 0
    }

    private let reactor: SimulatedReactor
    private(set) var tally = Tally()

    init(reactor: SimulatedReactor) {
        self.reactor = reactor
    }

    nonisolated var unownedExecutor: UnownedSerialExecutor {
        // SAFETY: the reactor holds its executor, and this actor the reactor.
        unsafe reactor.executor.asUnownedSerialExecutor()
    }

    func exchange(_ address: StreamAddress, messageCount: Int, in world: EchoWorld) async {
        var stream: SimulatedStream?
        for number in 0..<messageCount {
            let begin = reactor.now()
            let deadline = begin.adding(milliseconds: 2_000)
            do throws(IOFault) {
                let open: SimulatedStream
                if let stream {
                    open = stream
                } else {
                    open = try await reactor.connect(to: address, deadline: deadline)
                    stream = open
                }
                let isEqual = try await exchangeOne(open, number: number, deadline: deadline)
                if !isEqual { world.scheduler.fail("an echo differs from what was sent") }
                tally.goodCount += 1
            } catch {
                stream?.close()
                stream = nil
                tally.faultCount += 1
            }
            if reactor.now() > deadline.adding(milliseconds: 1) {
                world.scheduler.fail("an exchange went past its deadline")
            }
        }
        stream?.close()
    }

    private func exchangeOne(
        _ stream: SimulatedStream, number: Int, deadline: Instant
    ) async throws(IOFault) -> Bool {
        let bits = reactor.randomBits()
        let sent = OwnedBytes(count: 1 + Int(bits % 20_000))
        sent.bytes.fill(seed: bits &+ UInt64(number))
        let received = OwnedBytes(count: sent.bytes.count)
        // The echo comes back in pieces while this side still sends: two calls at once.
        let sending = Box((stream: stream, bytes: sent))
        let isSent = Task(executorPreference: reactor.executor) {
            await self.send(sending.value.stream, sending.value.bytes, deadline)
        }
        var count = 0
        var fault: IOFault?
        while count < received.bytes.count, fault == nil {
            do throws(IOFault) {
                count += try await stream.receive(
                    into: received.bytes.dropFirst(count), minimum: 1, deadline: deadline)
            } catch {
                fault = error
            }
        }
        if let sendFault = await isSent.value { throw sendFault }
        if let fault { throw fault }
        return sent.equals(received)
    }

    private func send(
        _ stream: SimulatedStream, _ bytes: OwnedBytes, _ deadline: Instant
    ) async -> IOFault? {
        defer { withExtendedLifetime(bytes) {} }
        let half = bytes.bytes.count / 2
        do throws(IOFault) {
            try await stream.send(
                bytes.bytes.prefix(half), bytes.bytes.dropFirst(half), deadline: deadline)
            return nil
        } catch {
            return error
        }
    }
}

extension OwnedBytes {
    /// A copy of the bytes.
    var array: [UInt8] { withExtendedLifetime(self) { bytes.array } }

    func equals(_ other: OwnedBytes) -> Bool { array == other.array }
}

extension PinnedBytes {
    /// Writes bytes that only `seed` gives.
    func fill(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        withMutableBytes { bytes in
            for offset in 0..<bytes.byteCount {
                bytes.storeBytes(
                    of: UInt8(truncatingIfNeeded: random.next()), toByteOffset: offset,
                    as: UInt8.self)
            }
        }
    }

    /// A copy of the bytes.
    var array: [UInt8] {
        // SAFETY: bytes have no invalid values, and the offsets lie in the span.
        withBytes { span in
            (0..<span.byteCount).map { unsafe span.unsafeLoad(fromByteOffset: $0, as: UInt8.self) }
        }
    }
}

/// A seed's world with an echo server and three clients.
final class EchoWorld: @unchecked Sendable {
    // SAFETY: confined to the test's thread, as all of a simulation is.
    let world: SimulatedWorld
    var scheduler: SimulatedScheduler { world.scheduler }
    private let serverReactor: SimulatedReactor
    private let clientReactors: [SimulatedReactor]
    private(set) var goodCount = 0
    private(set) var faultCount = 0

    init(seed: UInt64, faults: NetworkFaults) {
        world = SimulatedWorld(seed: seed, network: faults)
        serverReactor = world.makeReactor(on: "server")
        let world = world
        clientReactors = (0..<3).map { world.makeReactor(on: "client \($0)") }
    }

    /// Runs it to the end and gives the trace.
    func run(messageCount: Int = 12) throws(SimulationFailure) -> SimulationTrace {
        let address = StreamAddress.tcp(host: "10.0.0.1", port: 7)
        let server = EchoServer(reactor: serverReactor)
        serverReactor.start { await server.serve(address) }
        for (index, reactor) in clientReactors.enumerated() {
            let client = EchoClient(reactor: reactor)
            world.network.partition("server", "client \(index)", milliseconds: UInt64(index) * 500)
            reactor.start { [self] in
                await client.exchange(address, messageCount: messageCount, in: self)
                let tally = await client.tally
                goodCount += tally.goodCount
                faultCount += tally.faultCount
            }
        }
        try scheduler.run { clientReactors.allSatisfy(\.isIdle) }
        // The server's side of half-open connections ends by its own deadline.
        try scheduler.run(milliseconds: 90_000)
        for reactor in [serverReactor] + clientReactors where reactor.openStreamCount > 0 {
            throw scheduler.failure("\(reactor.openStreamCount) streams were left open")
        }
        try world.end()
        // Every task prefers its reactor's executor, so none passes through the global pool.
        if scheduler.poolJobCount > 0 {
            throw scheduler.failure("\(scheduler.poolJobCount) jobs ran on the global pool")
        }
        return scheduler.trace
    }
}
