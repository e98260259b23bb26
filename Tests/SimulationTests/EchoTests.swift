// SPDX-License-Identifier: Apache-2.0

import KVCore
import SimulationKit
import Testing

@Suite struct `A simulated network` {
    @Test func `echoes every message when nothing goes wrong`() throws {
        let world = EchoWorld(seed: 1, faults: NetworkFaults())
        _ = try world.run()
        #expect(world.goodCount + world.faultCount == 36)
        // Client 1 and 2 are partitioned for up to one second, less than their deadline.
        #expect(world.faultCount == 0)
    }

    @Test(arguments: Seeds.fixed)
    func `echoes whole messages or fails in time under faults`(seed: UInt64) throws {
        _ = try EchoWorld(seed: seed, faults: NetworkFaults(seed: seed)).run()
    }

    @Test(arguments: Seeds.fresh(10))
    func `does so under fresh seeds`(seed: UInt64) throws {
        _ = try EchoWorld(seed: seed, faults: NetworkFaults(seed: seed)).run()
    }

    @Test func `drops connections under the plan`() throws {
        var faults = NetworkFaults()
        faults.dropPermille = 1_000
        let world = EchoWorld(seed: 3, faults: faults)
        _ = try world.run()
        #expect(world.world.network.dropCount > 0)
        #expect(world.faultCount > 0)
        #expect(world.goodCount > 0)
    }

    @Test func `lets a connection go on elsewhere after an interruption`() throws {
        let world = SimulatedWorld(seed: 1)
        let (server, client) = (world.makeReactor(on: "server"), world.makeReactor(on: "client"))
        let address = StreamAddress.tcp(host: "server", port: 1)
        let answer = Box<UInt8?>(nil)
        let faults = Box<[IOFault]>([])
        let served = Box<SimulatedStream?>(nil)
        server.start {
            let bytes = OwnedBytes(count: 8)
            defer { withExtendedLifetime(bytes) {} }
            do throws(IOFault) {
                let first = server.adopt(try await server.listen(on: address).accept())
                served.value = first
                server.start {
                    do throws(IOFault) {
                        try await server.sleep(until: server.now().adding(milliseconds: 100))
                    } catch {
                        faults.value.append(error)
                    }
                    served.value?.interrupt()
                }
                do throws(IOFault) {
                    _ = try await first.receive(
                        into: bytes.bytes, minimum: 1, deadline: .distantFuture)
                } catch {
                    faults.value.append(error)
                }
                guard let released = server.release(first) else { return }
                first.close()
                // The client's byte comes while nobody has the connection.
                try await server.sleep(until: server.now().adding(milliseconds: 1_000))
                let second = server.adopt(released)
                _ = try await second.receive(
                    into: bytes.bytes, minimum: 1, deadline: .distantFuture)
                try await second.send(bytes.bytes.prefix(1), deadline: .distantFuture)
                second.close()
            } catch {
                faults.value.append(error)
            }
        }
        client.start {
            let bytes = OwnedBytes(count: 1)
            defer { withExtendedLifetime(bytes) {} }
            bytes.bytes.store(42 as UInt8, at: 0)
            do throws(IOFault) {
                let stream = try await client.connect(to: address, deadline: .distantFuture)
                try await client.sleep(until: client.now().adding(milliseconds: 500))
                try await stream.send(bytes.bytes, deadline: .distantFuture)
                bytes.bytes.store(0 as UInt8, at: 0)
                _ = try await stream.receive(
                    into: bytes.bytes, minimum: 1, deadline: .distantFuture)
                answer.value = bytes.bytes[0]
                stream.close()
            } catch {
                faults.value.append(error)
            }
        }
        try world.scheduler.runUntilQuiescent()
        #expect(answer.value == 42)
        #expect(faults.value == [.cancelled])
        try world.end()
    }

    @Test func `refuses connections that nobody listens for`() throws {
        let world = SimulatedWorld(seed: 1)
        let reactor = world.makeReactor(on: "client")
        let outcome = Box<IOFault?>(nil)
        reactor.start {
            do throws(IOFault) {
                _ = try await reactor.connect(
                    to: .tcp(host: "nobody", port: 1), deadline: .distantFuture)
            } catch {
                outcome.value = error
            }
        }
        try world.scheduler.runUntilQuiescent()
        #expect(outcome.value == .system(111))
        try world.end()
    }

    @Test func `makes a sender wait for a receiver that does not read, until its deadline`() throws
    {
        let world = SimulatedWorld(seed: 1)
        let server = world.makeReactor(on: "server")
        let client = world.makeReactor(on: "client")
        let address = StreamAddress.tcp(host: "server", port: 1)
        let outcome = Box<IOFault?>(nil)
        server.start {
            do throws(IOFault) {
                let stream = server.adopt(try await server.listen(on: address).accept())
                try await server.sleep(until: .distantFuture)
                stream.close()
            } catch {
                // Stopped by the test.
            }
        }
        client.start {
            let bytes = OwnedBytes(count: 1 << 20)
            defer { withExtendedLifetime(bytes) {} }
            do throws(IOFault) {
                let stream = try await client.connect(to: address, deadline: .distantFuture)
                try await stream.send(
                    bytes.bytes, deadline: client.now().adding(milliseconds: 100))
                stream.close()
            } catch {
                outcome.value = error
            }
        }
        try world.scheduler.run { client.isIdle }
        #expect(outcome.value == .deadlineExceeded)
        try world.end()
    }

    @Test func `keeps a stream whole after a receive that timed out without a byte`() throws {
        let world = SimulatedWorld(seed: 1)
        let server = world.makeReactor(on: "server")
        let client = world.makeReactor(on: "client")
        let address = StreamAddress.tcp(host: "server", port: 1)
        let outcomes = Box<[String]>([])
        server.start {
            let bytes = OwnedBytes(count: 3)
            defer { withExtendedLifetime(bytes) {} }
            do throws(IOFault) {
                let stream = server.adopt(try await server.listen(on: address).accept())
                try await server.sleep(until: server.now().adding(milliseconds: 50))
                try await stream.send(bytes.bytes, deadline: .distantFuture)
                stream.close()
            } catch {
                outcomes.value.append("server: \(error)")
            }
        }
        client.start {
            let buffer = OwnedBytes(count: 8)
            defer { withExtendedLifetime(buffer) {} }
            do throws(IOFault) {
                let stream = try await client.connect(to: address, deadline: .distantFuture)
                for (minimum, milliseconds) in [(1, 10), (3, 1_000), (1, 1_000)] {
                    do throws(IOFault) {
                        let count = try await stream.receive(
                            into: buffer.bytes, minimum: minimum,
                            deadline: client.now().adding(milliseconds: UInt64(milliseconds)))
                        outcomes.value.append("\(count)")
                    } catch {
                        outcomes.value.append("\(error)")
                    }
                }
                stream.close()
            } catch {
                outcomes.value.append("client: \(error)")
            }
        }
        try world.scheduler.runUntilQuiescent()
        #expect(
            outcomes.value == ["\(IOFault.deadlineExceeded)", "3", "\(IOFault.closed)"])
        try world.end()
    }
}

/// A value that a simulated task leaves for its test.
final class Box<Value>: @unchecked Sendable {
    // SAFETY: a simulation and its test share one thread.
    var value: Value

    init(_ value: Value) {
        self.value = value
    }
}
