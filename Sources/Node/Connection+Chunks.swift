// SPDX-License-Identifier: Apache-2.0
internal import Codec
internal import KVCore
internal import Telemetry
internal import Tiers
internal import Wire

/// PUT and GET: the verbs that carry chunks.
extension Connection {
    // MARK: PUT

    nonisolated(nonsending) func servePut(
        _ request: Request, _ body: PinnedBytes
    ) async throws(ConnectionEnd) -> Next {
        let put: PutRequest
        do throws(WireFault) {
            put = try PutRequest.decode(body)
            try put.check(payloadByteCount: request.header.payloadByteCount)
        } catch {
            return try await refuse(request, error)
        }
        guard put.acknowledge == .memory else {
            return try await refuse(request, .unsupported, noStableStorageText)
        }
        guard put.chunkByteCount <= node.chunkByteCountMax else {
            return try await refuse(
                request, .tooLarge, "chunks have at most \(node.chunkByteCountMax) bytes here")
        }
        noteSize(request, put.chunkByteCount)
        switch try await reserve(request, put) {
        case .reserved(let reservation):
            return try await receiveChunk(request, reservation)
        case .refused(.exists):
            node.metrics.add(.putsDuplicate)
            try await discard(request.header.payloadByteCount, deadline: request.deadline)
            try await answerError(request, .exists, existsText)
            return .goOn
        case .refused(let status):
            return try await refuse(request, status, noRoomText)
        case .callAgain:
            return try await refuse(request, .deadlineExceeded, "no room was made in time")
        }
    }

    /// Takes space, letting other connections run while much has to be evicted for it.
    nonisolated(nonsending) func reserve(
        _ request: Request, _ put: PutRequest
    ) async throws(ConnectionEnd) -> RAMTier.ReserveResult {
        let proposal = ChunkProposal(
            namespace: namespace, key: put.key, layout: put.layout,
            byteCount: put.chunkByteCount,
            expiry: put.timeToLiveMilliseconds == 0
                ? .distantFuture
                : request.arrival.adding(milliseconds: UInt64(put.timeToLiveMilliseconds)))
        while true {
            let now = reactor.now()
            switch node.tier.reserve(proposal, now: now) {
            case .reserved(let reservation): return .reserved(reservation)
            case .refused(let status): return .refused(status)
            case .callAgain where now >= request.deadline: return .callAgain
            case .callAgain: await reactor.yield()
            }
        }
    }

    private nonisolated(nonsending) func receiveChunk(
        _ request: Request, _ reservation: consuming Reservation
    ) async throws(ConnectionEnd) -> Next {
        let verifier = self.verifier ?? RawVerifier()
        self.verifier = verifier
        verifier.reset()
        let bytes = reservation.bytes
        var filled = inbox.drain(into: bytes)
        verifier.add(bytes.prefix(filled))
        while filled < bytes.count {
            // Small enough that the checksum finds the bytes in the processor's second-level cache.
            let count = min(Limits.pieceByteCountShared, bytes.count - filled)
            let piece = bytes.slice(offset: filled, count: count)
            try await receive(filling: piece, deadline: request.deadline)
            verifier.add(piece)
            filled += count
        }
        try await receive(atLeast: PutRequest.checksumByteCount, deadline: request.deadline)
        let trailer = inbox.bytes.prefix(PutRequest.checksumByteCount)
        inbox.consume(PutRequest.checksumByteCount)
        let checksum = trailer.littleEndianWord
        guard verifier.matches(checksum) else {
            _ = consume reservation
            try await answerError(
                request, .checksumMismatch, "the chunk does not match its checksum: send it again")
            return .goOn
        }
        let byteCount = bytes.count
        try await answerPublished(request, reservation.commit(checksum: checksum), byteCount)
        return .goOn
    }

    /// Answers a PUT or COMMIT whose chunk was published, or was there already.
    nonisolated(nonsending) func answerPublished(
        _ request: Request, _ status: Status, _ byteCount: Int
    ) async throws(ConnectionEnd) {
        guard status == .ok else {
            node.metrics.add(.putsDuplicate)
            return try await answerError(request, status, existsText)
        }
        node.metrics.add(.putsStored)
        node.metrics.add(.putsStoredBytes, byteCount)
        try await answer(request)
    }

    // MARK: GET

    nonisolated(nonsending) func serveGet(
        _ request: Request, _ body: PinnedBytes
    ) async throws(ConnectionEnd) -> Next {
        let get: GetRequest
        do throws(WireFault) {
            get = try GetRequest.decode(body)
        } catch {
            return try await refuse(request, error)
        }
        guard get.range == nil else { return try await refuse(request, WireFault.notOffered) }
        for index in 0..<get.keys.count {
            try await sendChunk(request, get, index)
        }
        return .goOn
    }

    private nonisolated(nonsending) func sendChunk(
        _ request: Request, _ get: GetRequest, _ index: Int
    ) async throws(ConnectionEnd) {
        let flags: FrameFlags = index + 1 < get.keys.count ? .more : []
        let now = index == 0 ? request.arrival : reactor.now()
        guard now < request.deadline else {
            return try await sendMiss(request, .deadlineExceeded, flags, index)
        }
        guard let held = node.tier.hold(namespace, get.keys[index], now: now) else {
            node.metrics.add(.misses)
            return try await sendMiss(request, .notFound, flags, index)
        }
        if let layout = get.layout, layout != held.description.layout {
            node.metrics.add(.misses)
            return try await sendMiss(request, .layoutMismatch, flags, index)
        }
        node.metrics.add(.hits)
        noteSize(request, held.bytes.count)
        var header = answerHeader(request, .ok, flags)
        header.payloadByteCount = UInt64(held.bytes.count)
        let answer = ChunkAnswer(index: UInt32(index), held.description, now: now)
        let frame = header.encode(into: outbox.bytes) { answer.encode(&$0) }
        try await send(frame, thenChunk: held.bytes, deadline: request.deadline)
    }

    /// Sends a frame and a chunk, the first piece of it with the frame.
    private nonisolated(nonsending) func send(
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

    private nonisolated(nonsending) func sendMiss(
        _ request: Request, _ status: Status, _ flags: FrameFlags, _ index: Int
    ) async throws(ConnectionEnd) {
        let message =
            switch status {
            case .layoutMismatch: "the chunk has another layout: treat it as a miss"
            case .deadlineExceeded: "the deadline passed before this key's turn"
            default: "not stored: compute it"
            }
        let refusal = ChunkRefusal(index: UInt32(index), message: message)
        try await answer(request, status, flags) { refusal.encode(&$0) }
    }

    /// Tells the shard when a request is small, so that large transfers make room for its like.
    private func noteSize(_ request: Request, _ byteCount: Int) {
        if byteCount <= smallByteCountMax { shard.noteSmallRequest(at: request.arrival) }
    }
}

extension ChunkAnswer {
    /// What the tier knows, as told to clients.
    init(index: UInt32, _ description: ChunkDescription, now: Instant) {
        self.init(
            index: index, level: description.level.rawValue,
            chunkByteCount: UInt64(description.byteCount), checksum: description.checksum,
            layout: description.layout, timeToLiveMilliseconds: description.timeToLive(at: now))
    }
}

extension ChunkDescription {
    /// Milliseconds that the chunk has left.
    func timeToLive(at now: Instant) -> UInt64 {
        expiry == .distantFuture ? timeToLiveForever : now.milliseconds(until: expiry)
    }
}

extension PinnedBytes {
    /// The first 8 bytes as a little-endian number.
    fileprivate var littleEndianWord: UInt64 {
        (0..<8).reduce(0) { $0 | UInt64(self[$1]) << (8 * UInt64($1)) }
    }
}

let noStableStorageText = "nothing is put on stable storage here: acknowledge memory"
let existsText = "stored already: the new bytes were dropped"
let noRoomText = "no room: everything is being read or written; compute, or try again later"
/// Transfers up to this size count as small.
private let smallByteCountMax = 64 << 10
