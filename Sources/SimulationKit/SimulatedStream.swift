// SPDX-License-Identifier: Apache-2.0

internal import Glibc
package import KVCore

/// One end of a simulated connection. Confined to its reactor.
package final class SimulatedStream: ByteStream {
    package let peerDescription: String
    /// Bytes cross hosts here, always: regions cannot be shared.
    package let isLocal = false
    /// The node's operator may be anybody here.
    package let peerUser: UInt32? = 0

    private let incoming: SimulatedPipe
    private let outgoing: SimulatedPipe
    private var reactor: SimulatedReactor?
    private(set) var isClosed = false
    /// A call ended in the middle of the stream's bytes, so that only `close` is left.
    private var isSpent = false

    init(incoming: SimulatedPipe, outgoing: SimulatedPipe, peerDescription: String) {
        self.incoming = incoming
        self.outgoing = outgoing
        self.peerDescription = peerDescription
        outgoing.noticeSender = { [weak self] in self?.notice() }
    }

    /// From now on the stream belongs to `reactor`.
    func attach(to reactor: SimulatedReactor) {
        guard !isClosed else { return }
        self.reactor = reactor
        reactor.streams.append(self)
        if reactor.isStopped { close() }
    }

    // MARK: The seam

    package nonisolated(nonsending) func receive(
        into buffer: PinnedBytes, minimum: Int, deadline: Instant
    ) async throws(IOFault) -> Int {
        invariant(minimum >= 1 && minimum <= buffer.count, "a receive's minimum lies in 1...count")
        let reactor = try reactorForCall()
        if incoming.receiving != nil { reactor.scheduler.fail("two receives on one stream") }
        var operationOfCall: SimulatedOperation?
        let result = await reactor.suspend(.receive, deadline: deadline) { operation in
            operationOfCall = operation
            operation.byteCountMax = buffer.count
            incoming.receive(
                SimulatedPipe.Receiving(operation: operation, buffer: buffer, minimum: minimum))
        }
        if case .failure(let fault) = result {
            // After a timeout or an interruption without a byte the stream is whole; after any
            // other fault it is not.
            let isWhole =
                (fault == .deadlineExceeded || fault == .cancelled)
                && operationOfCall?.transferredByteCount == 0
            if !isWhole { isSpent = true }
        }
        return try result.get()
    }

    package nonisolated(nonsending) func send(
        _ bytes: PinnedBytes, deadline: Instant
    ) async throws(IOFault) {
        try await send([bytes], deadline: deadline)
    }

    package nonisolated(nonsending) func send(
        _ first: PinnedBytes, _ second: PinnedBytes, deadline: Instant
    ) async throws(IOFault) {
        try await send([first, second], deadline: deadline)
    }

    package nonisolated(nonsending) func send(
        _ bytes: PinnedBytes, descriptor: Int32, deadline: Instant
    ) async throws(IOFault) {
        throw .system(EOPNOTSUPP)
    }

    package nonisolated(nonsending) func receiveWithDescriptor(
        into buffer: PinnedBytes, deadline: Instant
    ) async throws(IOFault) -> (byteCount: Int, descriptor: Int32?) {
        throw .system(EOPNOTSUPP)
    }

    package func interrupt() {
        guard let operation = incoming.receiving?.operation,
            operation.transferredByteCount == 0
        else { return }
        operation.end(.failure(.cancelled))
    }

    /// Closes this end, but not the connection, which goes on with the stream that is returned; nil
    /// when that cannot be.
    func detach() -> SimulatedStream? {
        guard !isClosed, !isSpent, incoming.receiving == nil, outgoing.sending == nil else {
            return nil
        }
        isClosed = true
        leaveReactor()
        let successor = SimulatedStream(
            incoming: incoming, outgoing: outgoing, peerDescription: peerDescription)
        incoming.link.replace(self, by: successor)
        return successor
    }

    package func close() {
        guard !isClosed else { return }
        isClosed = true
        reactor?.scheduler.record(.closed, reactor: reactor?.index ?? 0)
        leaveReactor()
        incoming.abandon()
        outgoing.finish()
    }

    // MARK: Faults

    /// This side learns that the connection broke.
    func notice() {
        guard !isClosed else { return }
        reactor?.scheduler.record(.noticed, reactor: reactor?.index ?? 0)
        outgoing.isBroken = true
        outgoing.sending?.operation.end(.failure(.closed))
        incoming.reset()
    }

    /// This side lost its power: nothing is said to the other.
    func vanish() {
        guard !isClosed else { return }
        isClosed = true
        leaveReactor()
        outgoing.cut()
    }

    private func send(_ parts: [PinnedBytes], deadline: Instant) async throws(IOFault) {
        let reactor = try reactorForCall()
        if outgoing.sending != nil { reactor.scheduler.fail("two sends on one stream") }
        let parts = parts.filter { $0.count > 0 }
        let byteCount = parts.reduce(0) { $0 + $1.count }
        let result = await reactor.suspend(.send, deadline: deadline) { operation in
            operation.byteCountMax = byteCount
            guard byteCount > 0 else { return operation.end(.success(0)) }
            outgoing.send(
                SimulatedPipe.Sending(operation: operation, parts: parts, byteCount: byteCount))
        }
        if case .failure(let fault) = result {
            isSpent = true
            throw fault
        }
    }

    private func reactorForCall() throws(IOFault) -> SimulatedReactor {
        guard let reactor else { preconditionFailure("a stream was used before its adoption") }
        reactor.assertHere()
        guard !isClosed, !isSpent else { throw .closed }
        return reactor
    }

    private func leaveReactor() {
        reactor?.streams.removeAll { $0 === self }
    }
}
