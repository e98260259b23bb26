// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Telemetry
internal import Wire

/// A request whose header has arrived. A value.
struct Request {
    let header: FrameHeader
    /// When the header arrived.
    let arrival: Instant
    /// When the client stops waiting.
    let deadline: Instant

    /// `defaultMilliseconds` is the deadline of a request that names none.
    init(header: FrameHeader, arrival: Instant, defaultMilliseconds: UInt32) {
        self.header = header
        self.arrival = arrival
        let named = header.deadlineMilliseconds
        let milliseconds =
            named == 0 ? defaultMilliseconds : min(named, Limits.requestMillisecondsMax)
        deadline = arrival.adding(milliseconds: UInt64(milliseconds))
    }

    /// When the body must be here.
    var frameDeadline: Instant { arrival.adding(milliseconds: Limits.frameMillisecondsMax) }
}

/// Rows of an answer, and the two counts before them. A value.
struct Rows {
    static let countsByteCount = 8

    let firstCount: UInt32
    let secondCount: UInt32
    let byteCount: Int
}

/// Receiving frames, and answering them.
extension Connection {
    // MARK: Receiving

    /// Receives a header and takes it out of the inbox; answers one that is malformed.
    nonisolated(nonsending) func receiveHeader() async throws(ConnectionEnd) -> Request {
        let arrival = reactor.now()
        try await receive(
            atLeast: FrameHeader.byteCount,
            deadline: arrival.adding(milliseconds: Limits.frameMillisecondsMax))
        let header: FrameHeader
        do throws(WireFault) {
            header = try FrameHeader.decode(inbox.bytes)
        } catch {
            _ = try await answerAndClose(unknownRequest(), error.status, error.message)
            throw .refused
        }
        inbox.consume(FrameHeader.byteCount)
        return Request(
            header: header, arrival: arrival,
            defaultMilliseconds: node.configuration.requestMillisecondsDefault)
    }

    // MARK: Answering

    /// Stands for a request that could not be read: answers to it carry request id 0.
    func unknownRequest() -> Request {
        Request(
            header: FrameHeader(verbNumber: 0, requestID: 0), arrival: reactor.now(),
            defaultMilliseconds: refusalMilliseconds)
    }

    /// The header of an answer to `request`.
    func answerHeader(
        _ request: Request, _ status: Status, _ flags: FrameFlags = []
    ) -> FrameHeader {
        FrameHeader(
            verbNumber: request.header.verbNumber, flags: flags.union(.response),
            requestID: request.header.requestID, statusNumber: status.rawValue)
    }

    /// Answers with a body that fits the outbox.
    nonisolated(nonsending) func answer(
        _ request: Request, _ status: Status = .ok, _ flags: FrameFlags = [],
        body: (inout FieldWriter) -> Void = { _ in }
    ) async throws(ConnectionEnd) {
        var header = answerHeader(request, status, flags)
        try await send(header.encode(into: outbox.bytes, body: body), deadline: request.deadline)
    }

    /// Answers with a body that may need a scratch buffer; `busy` when there is none.
    nonisolated(nonsending) func answerLarge(
        _ request: Request, bodyByteCount: Int, body: (inout FieldWriter) -> Void
    ) async throws(ConnectionEnd) -> Next {
        guard bodyByteCount > outboxByteCount - FrameHeader.byteCount else {
            try await answer(request, body: body)
            return .goOn
        }
        guard let scratch = shard.scratch.take() else {
            return try await refuse(request, .busy, "too many large requests: try again")
        }
        defer { shard.scratch.giveBack(scratch) }
        var header = answerHeader(request, .ok)
        try await send(header.encode(into: scratch.bytes, body: body), deadline: request.deadline)
        return .goOn
    }

    /// Answers with two counts and rows that `write` puts into memory for at most
    /// `rowByteCountMax` bytes; `busy` when there is none.
    nonisolated(nonsending) func answerRows(
        _ request: Request, rowByteCountMax: Int,
        _ write: nonisolated(nonsending) (PinnedBytes) async -> Rows
    ) async throws(ConnectionEnd) -> Next {
        let headByteCount = FrameHeader.byteCount + Rows.countsByteCount
        let fitsOutbox = headByteCount + rowByteCountMax <= outboxByteCount
        let scratch = fitsOutbox ? nil : shard.scratch.take()
        guard fitsOutbox || scratch != nil else {
            return try await refuse(request, .busy, "too many large requests: try again")
        }
        defer { if let scratch { shard.scratch.giveBack(scratch) } }
        let room = scratch?.bytes ?? outbox.bytes
        // Rows first, since what they add up to stands before them.
        let rows = await write(room.dropFirst(headByteCount))
        var header = answerHeader(request, .ok)
        let frame = header.encode(into: room) { writer in
            writer.append(rows.firstCount)
            writer.append(rows.secondCount)
            writer.skip(rows.byteCount)
        }
        try await send(frame, deadline: request.deadline)
        return .goOn
    }

    /// Answers with an error text; the request's payload has been received.
    nonisolated(nonsending) func answerError(
        _ request: Request, _ status: Status, _ message: String, _ flags: FrameFlags = []
    ) async throws(ConnectionEnd) {
        count(status)
        try await answer(request, status, flags) { $0.append(errorText: message) }
    }

    /// Receives and drops the payload, answers with an error text, and goes on.
    nonisolated(nonsending) func refuse(
        _ request: Request, _ status: Status, _ message: String
    ) async throws(ConnectionEnd) -> Next {
        let payloadByteCount = request.header.payloadByteCount
        guard payloadByteCount <= payloadByteCountMax else {
            return try await answerAndClose(request, status, message)
        }
        try await discard(payloadByteCount, deadline: request.deadline)
        try await answerError(request, status, message)
        return .goOn
    }

    /// Answers with an error text, and closes. What the client still sends is not read.
    nonisolated(nonsending) func answerAndClose(
        _ request: Request, _ status: Status, _ message: String
    ) async throws(ConnectionEnd) -> Next {
        try await answerError(request, status, message, .finalBad)
        throw .refused
    }

    /// Answers a body that could not be decoded.
    nonisolated(nonsending) func refuse(
        _ request: Request, _ fault: WireFault
    ) async throws(ConnectionEnd) -> Next {
        fault.endsConnection
            ? try await answerAndClose(request, fault.status, fault.message)
            : try await refuse(request, fault.status, fault.message)
    }

    private func count(_ status: Status) {
        switch status {
        case .busy: node.metrics.add(.answersBusy)
        case .tooLarge: node.metrics.add(.answersTooLarge)
        case .malformed: node.metrics.add(.answersMalformed)
        case .unauthorized: node.metrics.add(.answersUnauthorized)
        case .deadlineExceeded: node.metrics.add(.answersDeadline)
        case .internal: node.metrics.add(.answersInternal)
        case .checksumMismatch: node.metrics.add(.checksumMismatches)
        default: break
        }
    }
}

/// A client that is told why it is not served reads the answer in this time, or not at all.
private let refusalMilliseconds: UInt32 = 1_000
/// A refused payload of more is not worth reading to its end.
private let payloadByteCountMax = UInt64(Limits.chunkByteCountMax + PutRequest.checksumByteCount)
