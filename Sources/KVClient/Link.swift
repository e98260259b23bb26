// SPDX-License-Identifier: Apache-2.0
import KVCore
import Kernels
import Wire

/// Payloads up to this are sent in one piece with header, body and checksum.
let coalescedByteCountMax = 4 << 10
/// Bytes that a receive may take beyond the frame it wants, to save a system call.
private let readAheadByteCount = 4 << 10
private let outboxByteCount =
    FrameHeader.byteCount + Limits.bodyByteCountMax + coalescedByteCountMax + 8
private let inboxByteCount =
    FrameHeader.byteCount + Limits.bodyByteCountMax + readAheadByteCount

/// One connection as frames: sends requests, receives answers, and is never used again after an
/// answer that is incomplete or breaks the protocol.
///
/// Confined to its reactor's executor; one request at a time. Its two buffers are all it
/// allocates. Every method that throws has closed the link, except where it says otherwise.
final class Link<R: Reactor> {
    private let stream: R.Stream
    /// Header and body of the request being sent, and room to coalesce a small payload.
    private let outbox = OwnedBytes(count: outboxByteCount)
    /// Received bytes, of which `inboxStart ..< inboxEnd` are not consumed yet.
    private let inbox = OwnedBytes(count: inboxByteCount)
    private var inboxStart = 0
    private var inboxEnd = 0
    private var requestID: UInt64 = 0
    private var verb = Verb.hello
    private(set) var isOpen = true

    /// A link over `stream`, which it owns from now on.
    init(stream: R.Stream) {
        self.stream = stream
    }

    /// Whether the other side is on this host, so that memory can be shared.
    var isLocal: Bool { stream.isLocal }

    /// Closes the connection; what it held at the daemon is released there. May be called twice.
    func close() {
        isOpen = false
        stream.close()
    }

    /// Closes the link and returns `error`, to be thrown.
    func failing(_ error: ClientError) -> ClientError {
        close()
        return error
    }

    // MARK: Sending

    /// Writes the body with `fill` and the header before it, and returns both, ready to be sent
    /// and valid until the next call. Nothing is sent yet.
    func prepare(
        _ verb: Verb, deadlineMilliseconds: UInt32, payloadByteCount: UInt64 = 0,
        fill: (inout FieldWriter) -> Void
    ) throws(ClientError) -> PinnedBytes {
        guard inboxStart == inboxEnd else {
            throw failing(.broken("bytes came that no request had asked for"))
        }
        requestID &+= 1
        var header = FrameHeader(
            verbNumber: verb.rawValue, requestID: requestID,
            deadlineMilliseconds: deadlineMilliseconds)
        header.payloadByteCount = payloadByteCount
        self.verb = verb
        return header.encode(into: outbox.bytes, body: fill)
    }

    /// Sends `frame` as `prepare` returned it.
    func send(_ frame: PinnedBytes, deadline: Instant) async throws(ClientError) {
        do throws(IOFault) {
            try await stream.send(frame, deadline: deadline)
        } catch {
            throw failing(.connection(error, "while a request was sent"))
        }
    }

    /// Sends `frame` with `payload` and the payload's checksum behind it, in one piece when it is
    /// small. Costs one pass over the payload for the checksum, piece by piece as it is sent.
    func send(
        _ frame: PinnedBytes, payload: PinnedBytes, deadline: Instant
    ) async throws(ClientError) {
        guard payload.count > coalescedByteCountMax else {
            let whole = outbox.bytes.prefix(frame.count + payload.count + 8)
            whole.dropFirst(frame.count).copy(from: payload)
            var trailer = FieldWriter(whole.dropFirst(frame.count + payload.count))
            trailer.append(Checksum.of(payload))
            return try await send(whole, deadline: deadline)
        }
        let checksum = StreamingChecksum()
        var head: PinnedBytes? = frame
        var offset = 0
        while offset < payload.count {
            let piece = payload.slice(
                offset: offset, count: min(Limits.pieceByteCountAlone, payload.count - offset))
            checksum.add(piece)
            try await sendPart(after: head, piece, deadline: deadline)
            head = nil
            offset += piece.count
        }
        try await sendTrailer(checksum.value, deadline: deadline)
    }

    /// Sends `part`, behind `head` when there is one.
    func sendPart(
        after head: PinnedBytes?, _ part: PinnedBytes, deadline: Instant
    ) async throws(ClientError) {
        do throws(IOFault) {
            if let head {
                try await stream.send(head, part, deadline: deadline)
            } else {
                try await stream.send(part, deadline: deadline)
            }
        } catch {
            throw await answerInsteadOf(error, deadline: deadline)
        }
    }

    /// Sends the eight bytes that end a PUT's payload.
    func sendTrailer(_ checksum: UInt64, deadline: Instant) async throws(ClientError) {
        // The request's own bytes have been sent, so their room is free.
        let room = outbox.bytes.prefix(8)
        var writer = FieldWriter(room)
        writer.append(checksum)
        try await sendPart(after: nil, room, deadline: deadline)
    }

    /// The daemon may answer and close in the middle of a payload: its answer says more than the
    /// failed send. Closes the link.
    private func answerInsteadOf(_ fault: IOFault, deadline: Instant) async -> ClientError {
        let lost = ClientError.connection(fault, "while a payload was sent")
        guard fault == .closed || fault == .system(32) || fault == .system(104) else {
            return failing(lost)
        }
        do throws(ClientError) {
            let answer = try await receiveAnswer(deadline: deadline)
            guard answer.status != .ok else { return failing(lost) }
            return failing(refusal(answer))
        } catch {
            return error.kind == .refused ? error : failing(lost)
        }
    }

    // MARK: Receiving

    /// Receives the header and the body of the next answer to the current request. The body is
    /// valid until the next call.
    ///
    /// Throws `refused` when the daemon speaks up on its own account (request id 0) and closes.
    func receiveAnswer(deadline: Instant) async throws(ClientError) -> Answer {
        let size = FrameHeader.byteCount
        try await fill(size, deadline: deadline)
        return try await finishAnswer(deadline: deadline)
    }

    /// As `receiveAnswer`; also returns the descriptor that came with the first byte, if any,
    /// which belongs to the caller. When the rest of the answer fails, `mapper` discards it.
    func receiveAnswerWithDescriptor(
        mapper: MemoryMapper, deadline: Instant
    ) async throws(ClientError) -> (answer: Answer, descriptor: Int32?) {
        invariant(inboxStart == inboxEnd, "a descriptor comes with a frame's first byte")
        inboxStart = 0
        inboxEnd = 0
        let received: (byteCount: Int, descriptor: Int32?)
        do throws(IOFault) {
            received = try await stream.receiveWithDescriptor(
                into: inbox.bytes.prefix(readAheadByteCount), deadline: deadline)
        } catch {
            throw failing(.connection(error, "while an answer was awaited"))
        }
        inboxEnd = received.byteCount
        do throws(ClientError) {
            return (try await receiveAnswer(deadline: deadline), received.descriptor)
        } catch {
            if let descriptor = received.descriptor { mapper.discard(descriptor) }
            throw error
        }
    }

    /// Receives `target.count` payload bytes into `target` and returns their checksum.
    func receivePayload(
        into target: PinnedBytes, deadline: Instant
    ) async throws(ClientError) -> UInt64 {
        let early = min(inboxEnd - inboxStart, target.count)
        target.copy(from: inbox.bytes.slice(offset: inboxStart, count: early))
        inboxStart += early
        guard early < target.count else { return Checksum.of(target) }
        let checksum = StreamingChecksum()
        checksum.add(target.prefix(early))
        var offset = early
        while offset < target.count {
            let piece = target.slice(
                offset: offset, count: min(Limits.pieceByteCountAlone, target.count - offset))
            try await receive(into: piece, minimum: piece.count, deadline: deadline)
            checksum.add(piece)
            offset += piece.count
        }
        return checksum.value
    }

    /// Reads past `byteCount` payload bytes.
    func skipPayload(_ byteCount: UInt64, deadline: Instant) async throws(ClientError) {
        let early = min(UInt64(inboxEnd - inboxStart), byteCount)
        inboxStart += Int(early)
        var remaining = byteCount - early
        while remaining > 0 {
            inboxStart = 0
            inboxEnd = 0
            let piece = inbox.bytes.prefix(Int(min(remaining, UInt64(inbox.bytes.count))))
            try await receive(into: piece, minimum: piece.count, deadline: deadline)
            remaining -= UInt64(piece.count)
        }
    }

    /// The error that an answer with a status other than `ok` stands for. Does not close.
    func refusal(_ answer: Answer) -> ClientError {
        var reader = FieldReader(body(of: answer))
        var message = ""
        do throws(WireFault) {
            message = try reader.readErrorText()
        } catch {
            // A refusal without a text is a refusal all the same.
            message = ""
        }
        return ClientError(.refused, status: answer.status, message: message)
    }

    /// The answer's body.
    func body(of answer: Answer) -> PinnedBytes {
        inbox.bytes.slice(offset: answer.bodyOffset, count: answer.header.bodyByteCount)
    }

    private func finishAnswer(deadline: Instant) async throws(ClientError) -> Answer {
        let size = FrameHeader.byteCount
        let header: FrameHeader
        do throws(WireFault) {
            header = try FrameHeader.decode(inbox.bytes.slice(offset: inboxStart, count: size))
            try header.checkAnswer()
        } catch {
            throw failing(.broken(error.message))
        }
        try await fill(size + header.bodyByteCount, deadline: deadline)
        let answer = Answer(header: header, bodyOffset: inboxStart + size)
        do throws(WireFault) {
            try header.verify(body: body(of: answer))
        } catch {
            throw failing(.broken(error.message))
        }
        inboxStart += size + header.bodyByteCount
        if header.requestID == 0, answer.status != .ok {
            throw failing(refusal(answer))
        }
        guard header.requestID == requestID, header.verbNumber == verb.rawValue else {
            throw failing(
                .broken("an answer is for request \(header.requestID), not \(requestID)"))
        }
        return answer
    }

    /// Receives until the inbox holds `count` unconsumed bytes.
    private func fill(_ count: Int, deadline: Instant) async throws(ClientError) {
        let held = inboxEnd - inboxStart
        guard held < count else { return }
        if held == 0 {
            inboxStart = 0
            inboxEnd = 0
        } else if inboxStart + count > inbox.bytes.count {
            inbox.bytes.copy(from: inbox.bytes.slice(offset: inboxStart, count: held))
            inboxStart = 0
            inboxEnd = held
        }
        let room = min(inbox.bytes.count - inboxEnd, count - held + readAheadByteCount)
        let target = inbox.bytes.slice(offset: inboxEnd, count: room)
        inboxEnd += try await receive(into: target, minimum: count - held, deadline: deadline)
    }

    @discardableResult
    private func receive(
        into target: PinnedBytes, minimum: Int, deadline: Instant
    ) async throws(ClientError) -> Int {
        do throws(IOFault) {
            return try await stream.receive(into: target, minimum: minimum, deadline: deadline)
        } catch {
            throw failing(.connection(error, "while an answer was awaited"))
        }
    }
}

/// An answer's header, and where in the link's inbox its body lies.
struct Answer {
    let header: FrameHeader
    let bodyOffset: Int

    /// The status; a number that this version of the protocol does not know is `internal`.
    var status: Status { header.status }

    /// Whether another answer to the same request follows.
    var hasMore: Bool { header.flags.contains(.more) }

    /// Whether the daemon closes the connection after this answer.
    var closesConnection: Bool { header.closesConnection }
}
