// SPDX-License-Identifier: Apache-2.0
internal import CLinux
package import KVCore
internal import Synchronization

/// A connection that was accepted and not adopted yet. Owns its descriptor; any thread.
package final class AcceptedSocket: Sendable {
    private let descriptor: Atomic<Int32>

    init(descriptor: Int32) {
        self.descriptor = Atomic(descriptor)
    }

    deinit {
        let left = descriptor.load(ordering: .relaxed)
        if left >= 0 { clinux_close(left) }
    }

    /// Calls `body` with the descriptor, which stays this object's.
    package func withDescriptor<Failure: Error>(
        _ body: (Int32) throws(Failure) -> Void
    ) throws(Failure) {
        try body(descriptor.load(ordering: .relaxed))
    }

    /// Ends both directions, for whoever else has the socket, too.
    package func shutDown() {
        clinux_socket_shutdown(descriptor.load(ordering: .relaxed))
    }

    /// Hands the descriptor over, once.
    func take() -> Int32 {
        let taken = descriptor.exchange(-1, ordering: .relaxed)
        invariant(taken >= 0, "a connection was adopted twice")
        return taken
    }
}

/// A listening socket, confined to its reactor's executor.
package final class RingListener: StreamListener {
    package let address: StreamAddress
    private let reactor: RingReactor
    private let descriptor: Int32
    /// The accept under way.
    private var acceptID: UInt64?
    private var isClosed = false
    private var isDescriptorClosed = false

    init(reactor: RingReactor, descriptor: Int32, requested: StreamAddress) {
        self.reactor = reactor
        self.descriptor = descriptor
        if case .tcp = requested, let name = endpoint(of: descriptor, peer: false) {
            address = .tcp(host: name.host, port: name.port)
        } else {
            address = requested
        }
    }

    deinit {
        if !isDescriptorClosed { clinux_close(descriptor) }
    }

    /// The next connection. One accept at a time.
    package nonisolated(nonsending) func accept() async throws(IOFault) -> AcceptedSocket {
        reactor.executor.checkThread()
        invariant(acceptID == nil, "two accepts on one listener")
        while true {
            guard !isClosed else { throw .closed }
            let operation = Operation(.accept, descriptor: descriptor)
            let result = await reactor.perform(operation) { acceptID = $0 }
            acceptID = nil
            if isClosed {
                if result >= 0 { clinux_close(result) }
                closeDescriptor()
                throw .closed
            }
            switch result {
            case 0...: return AcceptedSocket(descriptor: result)
            // The peer gave up while it waited in the backlog.
            case -ErrorNumber.connectionAborted, -ErrorNumber.interrupted: continue
            default: throw Outcome.fault(result)
            }
        }
    }

    package func close() {
        reactor.executor.checkThread()
        guard !isClosed else { return }
        isClosed = true
        if case .unix(let path) = address {
            // Gone already if somebody else removed it: then there is nothing left to do.
            // SAFETY: the text lives during the call.
            _ = unsafe path.withCString { unsafe clinux_file_remove($0) }
        }
        if let id = acceptID { reactor.cancel(id) } else { closeDescriptor() }
    }

    private func closeDescriptor() {
        guard !isDescriptorClosed else { return }
        isDescriptorClosed = true
        clinux_close(descriptor)
    }
}
