// SPDX-License-Identifier: Apache-2.0
internal import Codec
internal import KVCore
internal import Telemetry
internal import Tiers
internal import Wire

/// A client of the native protocol (docs/protocol.md): reads requests, answers them in order, until
/// either side ends it.
///
/// Confined to its shard. Whatever happens, `run` returns, and by then everything the connection
/// held is released: leases, reservations, its staging region. What can go wrong:
/// - *a frame that breaks the protocol*: answered once, then closed;
/// - *a request that cannot be served*: answered with its status, and the connection goes on;
/// - *a client that is too slow*: closed, since nothing can be said inside a frame;
/// - *the client is gone*: closed.
final class Connection<R: Reactor>: ServedConnection<R> {
    /// Header and body of an answer that fits; a larger one takes a scratch buffer.
    let outbox = OwnedBytes(count: outboxByteCount)
    /// Set by HELLO.
    var sharesMemory = false
    var leases = LeaseTable()
    var staging = StagingArea()
    /// Checks what a PUT brings; made by the first one.
    var verifier: RawVerifier?
    /// How fast the client takes chunks.
    var sendRate = SendRate()

    init(_ seat: Seat<R>) {
        super.init(seat, inboxByteCount: Limits.inboxByteCount)
    }

    /// Serves the client to the end.
    override nonisolated(nonsending) func run() async {
        do throws(ConnectionEnd) {
            var next = try await serveHello()
            while next == .goOn { next = try await serveNextRequest() }
        } catch {
            if error != .closed { node.metrics.add(.connectionsDropped) }
        }
        close()
        leases.endAll { hold in releaseLease(hold) }
        staging.drop(node)
    }

    /// Tells the client why it is not served, and closes.
    ///
    /// Waits for the client's HELLO: closed before it could send that, the client would see a
    /// broken connection and no reason.
    override nonisolated(nonsending) func refuse(_ reason: Unwelcome) async {
        let (status, text): (Status, String) =
            switch reason {
            case .stopping: (.shuttingDown, "the daemon stops: compute, reconnect later")
            case .tooMany:
                (.busy, "too many connections: close some, or raise limits.connections")
            }
        do throws(ConnectionEnd) {
            try await receive(
                atLeast: FrameHeader.byteCount,
                deadline: reactor.now().adding(milliseconds: Limits.helloMillisecondsMax))
            _ = try await answerAndClose(unknownRequest(), status, text)
        } catch {
            // The client is gone already: nothing is left to tell.
        }
        close()
    }

    /// Ends the leases and reservations that their client kept for too long.
    override func endExpiredLeases(by now: Instant) {
        leases.endExpired(by: now) { hold in
            node.metrics.add(.leasesExpired)
            releaseLease(hold)
        }
        staging.endExpired(by: now)
    }

    /// Gives back what a lease held.
    func releaseLease(_ hold: Hold) {
        node.leaseEnded()
        node.tier.release(hold)
    }

    // MARK: Requests

    private nonisolated(nonsending) func serveNextRequest() async throws(ConnectionEnd) -> Next {
        isIdle = true
        // Nobody closes a connection that becomes idle while the node stops.
        guard !node.isStopping || inbox.count > 0 else { return .close }
        try await receive(atLeast: 1, deadline: .distantFuture)
        isIdle = false
        guard !node.isStopping else {
            return try await answerAndClose(
                unknownRequest(), .shuttingDown, "the daemon stops: compute, reconnect later")
        }
        let request = try await receiveHeader()
        let bodyByteCount = request.header.bodyByteCount
        if bodyByteCount <= Limits.inboxByteCount - FrameHeader.byteCount {
            try await receive(atLeast: bodyByteCount, deadline: request.frameDeadline)
            let body = inbox.bytes.prefix(bodyByteCount)
            inbox.consume(bodyByteCount)
            return try await serve(request, body)
        }
        guard let scratch = shard.scratch.take() else {
            try await discard(UInt64(bodyByteCount), deadline: request.frameDeadline)
            return try await refuse(request, .busy, "too many large requests: try again")
        }
        defer { shard.scratch.giveBack(scratch) }
        let body = scratch.bytes.prefix(bodyByteCount)
        let arrived = inbox.drain(into: body)
        try await receive(filling: body.dropFirst(arrived), deadline: request.frameDeadline)
        return try await serve(request, body)
    }

    /// Serves a request whose body has arrived; the payload, if any, has not.
    private nonisolated(nonsending) func serve(
        _ request: Request, _ body: PinnedBytes
    ) async throws(ConnectionEnd) -> Next {
        do throws(WireFault) {
            try request.header.verify(body: body)
        } catch {
            return try await answerAndClose(request, error.status, error.message)
        }
        let verb: Verb
        do throws(WireFault) {
            verb = try request.header.checkRequest()
        } catch {
            node.metrics.add(.requestsOther)
            return try await refuse(request, error)
        }
        node.metrics.add(verb.metric)
        return switch verb {
        case .hello:
            try await answerAndClose(request, .malformed, "HELLO comes once, at the beginning")
        case .ping: try await servePing(request, body)
        case .put: try await servePut(request, body)
        case .get: try await serveGet(request, body)
        case .lookup: try await serveLookup(request, body)
        case .delete: try await serveDelete(request, body)
        case .stat: try await serveStat(request, body)
        case .lease: try await serveLease(request, body)
        case .release: try await serveRelease(request, body)
        case .reserve: try await serveReserve(request, body)
        case .commit: try await serveCommit(request, body)
        case .abort: try await serveAbort(request, body)
        case .pin: try await servePin(request, body)
        case .unpin: try await serveUnpin(request, body)
        case .control: try await serveControl(request, body)
        }
    }

    private nonisolated(nonsending) func servePing(
        _ request: Request, _ body: PinnedBytes
    ) async throws(ConnectionEnd) -> Next {
        guard body.count == 0 else {
            let fault = WireFault.bodySizeMismatch
            return try await answerAndClose(request, fault.status, fault.message)
        }
        shard.noteSmallRequest(at: request.arrival)
        try await answer(request)
        return .goOn
    }
}

/// A header, a body, and an error text of the longest kind fit.
let outboxByteCount = 640

extension Verb {
    /// What counts its requests.
    fileprivate var metric: Metric {
        switch self {
        case .hello: .requestsHello
        case .ping: .requestsPing
        case .put: .requestsPut
        case .get: .requestsGet
        case .lookup: .requestsLookup
        case .delete: .requestsDelete
        case .stat: .requestsStat
        case .lease: .requestsLease
        case .release: .requestsRelease
        case .reserve: .requestsReserve
        case .commit: .requestsCommit
        case .abort: .requestsAbort
        case .pin, .unpin: .requestsPin
        case .control: .requestsControl
        }
    }
}
