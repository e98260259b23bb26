// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Telemetry
internal import Tiers

/// Why a connection ends.
enum ConnectionEnd: Error {
    /// The client closed, or the node does, in order.
    case closed
    /// The client sent or read too slowly.
    case tooSlow
    /// The client broke the protocol, or was refused; it has been told.
    case refused
}

/// Why a client is not served at all.
enum Unwelcome {
    case stopping
    case tooMany
}

/// One client's connection, whatever it speaks: its socket, and its way to the tiers. What is
/// spoken is a subclass's business.
///
/// Confined to its shard. Whatever happens, `run` returns, and by then everything the connection
/// held is released.
class ServedConnection<R: Reactor> {
    /// Whether the connection serves another request.
    enum Next {
        case goOn
        case close
        /// The node stops, and the connection stands between two requests.
        case leave
    }

    final let stream: R.Stream
    final let reactor: R
    final let node: Node
    final let shard: ShardContext
    final let ssd: SSDAccess<R>?
    final let codec: CodecDesk<R>

    final var inbox: Inbox
    final var namespace = NamespaceID.default
    /// Whether the connection waits for a request.
    final var isIdle = true
    /// What outlives the node.
    private(set) final var kept: KeptConnection<R>?

    init(_ seat: Seat<R>, inboxByteCount: Int) {
        stream = seat.stream
        reactor = seat.reactor
        node = seat.node
        shard = seat.shard
        ssd = seat.ssd
        codec = seat.codec
        inbox = Inbox(byteCount: inboxByteCount)
    }

    /// Serves the client to the end.
    nonisolated(nonsending) func run() async {
        preconditionFailure("a connection speaks something")
    }

    /// Tells the client why it is not served, where its protocol has words for it, and closes.
    nonisolated(nonsending) func refuse(_ reason: Unwelcome) async {
        preconditionFailure("a connection speaks something")
    }

    /// Ends what its client kept for too long.
    func endExpiredLeases(by now: Instant) {}

    /// Ends the connection; operations under way fail.
    final func close() {
        stream.close()
    }

    // MARK: The next daemon

    /// What the next daemon must know to go on with the connection, which waits for a request; nil
    /// when it cannot.
    var sessionToKeep: KeptSession? { nil }

    /// Goes on as the daemon before would have.
    func resume(_ session: ResumedSession) {}

    /// Ends what waits for a request, since the node stops: at once, or by way of `leave`.
    final func endIdle() {
        if node.keepsConnections, sessionToKeep != nil { stream.interrupt() } else { close() }
    }

    /// Lets go of the connection, where the next daemon can go on with it.
    final func leave() {
        guard node.keepsConnections, let session = sessionToKeep, node.connectionIsKept(),
            let connection = reactor.release(stream)
        else { return }
        kept = KeptConnection(connection: connection, name: session.name)
    }

    /// Waits for the first bytes of a request, where there are none yet; false when the node stops.
    final nonisolated(nonsending) func waitForRequest() async throws(ConnectionEnd) -> Bool {
        isIdle = true
        // Nobody ends a connection that becomes idle while the node stops.
        guard !node.isStopping else { return false }
        do throws(IOFault) {
            try await inbox.fill(atLeast: 1, from: stream, deadline: .distantFuture)
        } catch {
            guard error == .cancelled, node.isStopping else { throw ConnectionEnd(error) }
            return false
        }
        isIdle = false
        node.metrics.add(.bytesReceived, inbox.count)
        return true
    }

    // MARK: Receiving

    /// Receives until `count` unused bytes are in the inbox.
    final nonisolated(nonsending) func receive(
        atLeast count: Int, deadline: Instant
    ) async throws(ConnectionEnd) {
        let before = inbox.count
        guard before < count else { return }
        do throws(IOFault) {
            try await inbox.fill(atLeast: count, from: stream, deadline: deadline)
        } catch {
            throw ConnectionEnd(error)
        }
        node.metrics.add(.bytesReceived, inbox.count - before)
    }

    /// Receives until `target` is full.
    final nonisolated(nonsending) func receive(
        filling target: PinnedBytes, deadline: Instant
    ) async throws(ConnectionEnd) {
        guard target.count > 0 else { return }
        do throws(IOFault) {
            _ = try await stream.receive(
                into: target, minimum: target.count, deadline: deadline)
        } catch {
            throw ConnectionEnd(error)
        }
        node.metrics.add(.bytesReceived, target.count)
    }

    /// Receives until `target` is full: what is in the inbox, then the rest in pieces, each of
    /// which `visit` gets while the processor has it in its cache. A rest of at most
    /// `inboxedByteCountMax` bytes comes by way of the inbox, with what follows it.
    final nonisolated(nonsending) func receivePieces(
        filling target: PinnedBytes, inboxedByteCountMax: Int = 0, deadline: Instant,
        _ visit: (PinnedBytes) -> Void
    ) async throws(ConnectionEnd) {
        var filled = inbox.drain(into: target)
        visit(target.prefix(filled))
        while filled < target.count {
            // Small enough that the checksum finds the bytes in the second-level cache.
            let count = min(Limits.pieceByteCountShared, target.count - filled)
            let piece = target.slice(offset: filled, count: count)
            if count <= inboxedByteCountMax {
                try await receive(atLeast: count, deadline: deadline)
                _ = inbox.drain(into: piece)
            } else {
                try await receive(filling: piece, deadline: deadline)
            }
            visit(piece)
            filled += count
        }
    }

    /// Receives and drops `byteCount` bytes.
    final nonisolated(nonsending) func discard(
        _ byteCount: UInt64, deadline: Instant
    ) async throws(ConnectionEnd) {
        let inboxed = Int(min(byteCount, UInt64(inbox.count)))
        inbox.consume(inboxed)
        var rest = byteCount - UInt64(inboxed)
        let target = shard.discard.bytes
        while rest > 0 {
            let count = Int(min(rest, UInt64(target.count)))
            try await receive(filling: target.prefix(count), deadline: deadline)
            rest -= UInt64(count)
        }
    }

    // MARK: Sending

    /// Sends all of `bytes`.
    final nonisolated(nonsending) func send(
        _ bytes: PinnedBytes, deadline: Instant
    ) async throws(ConnectionEnd) {
        do throws(IOFault) {
            try await stream.send(bytes, deadline: deadline)
        } catch {
            throw ConnectionEnd(error)
        }
        node.metrics.add(.bytesSent, bytes.count)
    }

    /// Sends a frame and a chunk, the first piece of it with the frame.
    final nonisolated(nonsending) func send(
        _ frame: PinnedBytes, thenChunk chunk: PinnedBytes, deadline: Instant
    ) async throws(ConnectionEnd) {
        let first = min(shard.pieceByteCount(at: reactor.now()), chunk.count)
        do throws(IOFault) {
            try await stream.send(frame, chunk.prefix(first), deadline: deadline)
        } catch {
            throw ConnectionEnd(error)
        }
        node.metrics.add(.bytesSent, frame.count + first)
        var sent = first
        while sent < chunk.count {
            let count = min(shard.pieceByteCount(at: reactor.now()), chunk.count - sent)
            try await send(chunk.slice(offset: sent, count: count), deadline: deadline)
            sent += count
        }
    }

    /// Waits a little; false when the reactor stops before.
    final nonisolated(nonsending) func pause(milliseconds: UInt64) async -> Bool {
        do throws(IOFault) {
            try await reactor.sleep(until: reactor.now().adding(milliseconds: milliseconds))
            return true
        } catch {
            return false
        }
    }
}

/// What a shard gives to a new connection. A value.
struct Seat<R: Reactor> {
    let stream: R.Stream
    let reactor: R
    let node: Node
    let shard: ShardContext
    let ssd: SSDAccess<R>?
    let codec: CodecDesk<R>
}

extension ConnectionEnd {
    init(_ fault: IOFault) {
        switch fault {
        case .deadlineExceeded: self = .tooSlow
        case .closed, .cancelled, .busy, .system: self = .closed
        }
    }
}
