// SPDX-License-Identifier: Apache-2.0

internal import Glibc
package import KVCore

/// The addresses of a world and what lies between its hosts. Confined to the scheduler's thread.
package final class SimulatedNetwork {
    /// No bytes pass between two hosts until then; connections survive, as TCP's do.
    private struct Partition {
        let hosts: (String, String)
        let until: Instant

        func separates(_ first: String, _ second: String) -> Bool {
            hosts == (first, second) || hosts == (second, first)
        }
    }

    /// Connections that wait to be accepted, at most, per listener.
    static let backlogCountMax = 128
    /// A connect that nobody answers ends here without a deadline, as after Linux's SYN retries.
    private static let connectNanosecondsMax: UInt64 = 127_000_000_000

    package var faults: NetworkFaults
    let scheduler: SimulatedScheduler
    var random: SeededRandom
    private var listeners: [StreamAddress: SimulatedListener] = [:]
    private var partitions: [Partition] = []
    private var portNext: UInt16 = 49_152
    /// Connections that the plan cut, so that a test can tell that it tested something.
    package internal(set) var dropCount = 0
    package private(set) var connectCount = 0

    init(scheduler: SimulatedScheduler, faults: NetworkFaults) {
        self.scheduler = scheduler
        self.faults = faults
        random = scheduler.forkRandom()
    }

    /// Separates two hosts for `milliseconds` from now.
    package func partition(_ first: String, _ second: String, milliseconds: UInt64) {
        partitions.removeAll { $0.until <= scheduler.now }
        partitions.append(
            Partition(
                hosts: (first, second), until: scheduler.now.adding(milliseconds: milliseconds)))
    }

    /// When bytes may pass between two hosts again; nil when they pass now.
    func partitionEnd(_ first: String, _ second: String) -> Instant? {
        partitions.filter { $0.until > scheduler.now && $0.separates(first, second) }
            .map(\.until).max()
    }

    func latency() -> UInt64 {
        1 + random.below(UInt64(faults.latencyMicrosecondsMax) * 1_000)
    }

    // MARK: Listening and connecting

    func listen(
        on address: StreamAddress, by reactor: SimulatedReactor
    ) throws(IOFault) -> SimulatedListener {
        var address = address
        if case .tcp(let host, 0) = address {
            repeat {
                portNext = portNext == .max ? 49_152 : portNext + 1
                address = .tcp(host: host, port: portNext)
            } while listeners[address] != nil
        }
        guard listeners[address] == nil else { throw .system(EADDRINUSE) }
        let listener = SimulatedListener(address: address, reactor: reactor)
        listeners[address] = listener
        reactor.listeners.append(listener)
        scheduler.record(.listened, reactor: reactor.index)
        return listener
    }

    func forget(_ listener: SimulatedListener) {
        listeners[listener.address] = nil
    }

    /// Sends the connect on its way; ends `operation` when it is answered.
    func begin(_ handshake: SimulatedHandshake, _ operation: SimulatedOperation) {
        scheduler.after(nanoseconds: Self.connectNanosecondsMax) {
            operation.end(.failure(.system(ETIMEDOUT)))
        }
        scheduler.after(nanoseconds: latency()) { [self] in arrive(handshake, operation) }
    }

    private func arrive(_ handshake: SimulatedHandshake, _ operation: SimulatedOperation) {
        guard operation.isUnderWay else { return }
        let refuses = random.happens(permille: faults.refusePermille)
        guard let listener = listeners[handshake.address], !refuses else {
            scheduler.record(.refused, reactor: handshake.client.index)
            // Its deadline may pass before the client hears of it.
            scheduler.after(nanoseconds: latency()) {
                operation.end(.failure(.system(ECONNREFUSED)))
            }
            return
        }
        if let end = partitionEnd(handshake.client.host, listener.reactor.host) {
            scheduler.at(Instant(nanoseconds: end.nanoseconds + latency())) { [self] in
                arrive(handshake, operation)
            }
            return
        }
        guard listener.hasRoom else {
            // The SYN is dropped, and sent again a second later (tcp(7)).
            scheduler.after(nanoseconds: 1_000_000_000) { [self] in arrive(handshake, operation) }
            return
        }
        connectCount += 1
        let link = SimulatedLink(
            network: self, hosts: (handshake.client.host, listener.reactor.host))
        let (near, far) = link.makeStreams(number: connectCount, address: handshake.address)
        listener.offer(SimulatedConnection(far))
        scheduler.after(nanoseconds: latency()) { [self] in
            scheduler.record(.connected, reactor: handshake.client.index)
            guard operation.isUnderWay else {
                near.attach(to: handshake.client)
                return near.close()
            }
            handshake.stream = near
            operation.end(.success(0))
        }
    }
}

/// A connect on its way. Confined to the scheduler's thread.
final class SimulatedHandshake {
    let address: StreamAddress
    let client: SimulatedReactor
    var stream: SimulatedStream?

    init(address: StreamAddress, client: SimulatedReactor) {
        self.address = address
        self.client = client
    }

    /// The stream of a connect that succeeded.
    func takeStream() -> SimulatedStream {
        guard let stream else { preconditionFailure("a connect without a stream succeeded") }
        stream.attach(to: client)
        return stream
    }
}

/// Accepts simulated connections. Confined to its reactor.
package final class SimulatedListener: StreamListener {
    package let address: StreamAddress
    let reactor: SimulatedReactor
    private var backlog: [SimulatedConnection] = []
    private var acceptor: SimulatedOperation?
    private var isOpen = true

    init(address: StreamAddress, reactor: SimulatedReactor) {
        self.address = address
        self.reactor = reactor
    }

    var hasRoom: Bool { backlog.count < SimulatedNetwork.backlogCountMax }

    package nonisolated(nonsending) func accept() async throws(IOFault) -> SimulatedConnection {
        guard isOpen else { throw .closed }
        while backlog.isEmpty {
            _ = try await reactor.suspend(.accept, deadline: .distantFuture) { operation in
                if acceptor != nil { reactor.scheduler.fail("two accepts on one listener") }
                acceptor = operation
                operation.onEnd = { [self] in acceptor = nil }
            }.get()
        }
        reactor.scheduler.record(.accepted, reactor: reactor.index)
        return backlog.removeFirst()
    }

    package func close() {
        guard isOpen else { return }
        isOpen = false
        reactor.network.forget(self)
        reactor.listeners.removeAll { $0 === self }
        acceptor?.end(.failure(.closed))
        for connection in backlog { connection.refuse() }
        backlog.removeAll()
    }

    func offer(_ connection: SimulatedConnection) {
        backlog.append(connection)
        acceptor?.end(.success(0))
    }
}

/// An accepted connection on its way to the reactor that will serve it.
// SAFETY: carried from one reactor to another of the same scheduler, hence of the same thread.
package final class SimulatedConnection: @unchecked Sendable {
    private var stream: SimulatedStream?

    init(_ stream: SimulatedStream) {
        self.stream = stream
    }

    func take(by reactor: SimulatedReactor) -> SimulatedStream {
        guard let stream else { preconditionFailure("a connection was adopted twice") }
        self.stream = nil
        stream.attach(to: reactor)
        return stream
    }

    /// Resets the connection: nobody will adopt it.
    func refuse() {
        stream?.close()
        stream = nil
    }

    deinit {
        // An accepted connection that nobody adopted is closed, as its descriptor would be.
        stream?.close()
    }
}
