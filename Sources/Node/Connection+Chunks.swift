// SPDX-License-Identifier: Apache-2.0
internal import Codec
internal import KVCore
internal import Kernels
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
        guard put.chunkByteCount <= node.chunkByteCountMax else {
            return try await refuse(
                request, .tooLarge, "chunks have at most \(node.chunkByteCountMax) bytes here")
        }
        shard.noteRequest(at: request.arrival, byteCount: put.chunkByteCount)
        switch try await reserve(request, put) {
        case .reserved(let reservation):
            return try await receiveChunk(request, put, reservation)
        case .refused(.exists):
            try await discard(request.header.payloadByteCount, deadline: request.deadline)
            try await answerPublished(request, put, .exists)
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
            level: Level(rawValue: put.level) ?? .raw, byteCount: put.chunkByteCount,
            expiry: put.timeToLiveMilliseconds == 0
                ? .distantFuture
                : request.arrival.adding(milliseconds: UInt64(put.timeToLiveMilliseconds)),
            firstPosition: put.firstPosition)
        guard !isOnSSD(put.key, now: request.arrival) else { return .refused(.exists) }
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
        _ request: Request, _ put: PutRequest, _ reservation: consuming Reservation
    ) async throws(ConnectionEnd) -> Next {
        let verifier = self.verifier ?? RawVerifier()
        self.verifier = verifier
        verifier.reset()
        let bytes = reservation.bytes
        try await receivePieces(filling: bytes, deadline: request.deadline) { verifier.add($0) }
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
        if let refusal = refusal(of: put, bytes) {
            _ = consume reservation
            try await answerError(request, .unsupported, refusal)
            return .goOn
        }
        try await answerPublished(request, put, reservation.commit(checksum: checksum))
        return .goOn
    }

    /// Answers a PUT or COMMIT whose chunk was published (`ok`), or was there already (`exists`),
    /// once it is as durable as its writer wants.
    nonisolated(nonsending) func answerPublished(
        _ request: Request, _ put: PutRequest, _ status: Status
    ) async throws(ConnectionEnd) {
        if status == .ok {
            node.metrics.add(.putsStored)
            node.metrics.add(.putsStoredBytes, put.chunkByteCount)
        } else {
            node.metrics.add(.putsDuplicate)
        }
        switch await settle(request, put, status) {
        case .ok: try await answer(request)
        case .notDurable: try await answerError(request, .notDurable, notDurableText)
        case .deadlineExceeded:
            try await answerError(
                request, .deadlineExceeded, "in memory, and not on stable storage in time")
        case let status: try await answerError(request, status, existsText)
        }
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
        // Whether all keys so far were found: those that stand before a chunk.
        var isPrefix = true
        guard let ssd, get.range == nil, get.keys.count > 1 else {
            for index in 0..<get.keys.count {
                let found = try await find(request, get, index, asUse: use(isPrefix))
                let wasFound = try await sendChunk(request, get, index, found)
                isPrefix = isPrefix && wasFound
            }
            return .goOn
        }
        var ahead = ReadAhead(
            ssd, memory: node.tier, namespace: namespace, deadline: request.deadline)
        do throws(ConnectionEnd) {
            for index in 0..<get.keys.count {
                ahead.prepare(from: index, keyCount: get.keys.count) { get.keys[$0] }
                let read = await ahead.take(index)
                // What was read ahead may be what leaves no room for the chunk whose turn it is.
                if case .failure(.busy)? = read { await ahead.cancel() }
                let found = try await find(
                    request, get, index, readAhead: read, asUse: use(isPrefix))
                let wasFound = try await sendChunk(request, get, index, found)
                isPrefix = isPrefix && wasFound
            }
        } catch {
            await ahead.cancel()
            throw error
        }
        return .goOn
    }

    /// The chunk whose turn it is, or why it is not sent.
    private nonisolated(nonsending) func find(
        _ request: Request, _ get: GetRequest, _ index: Int,
        readAhead: Result<Hold, Status>? = nil, asUse use: RAMTier.Use
    ) async throws(ConnectionEnd) -> Found {
        if case .success(let hold)? = readAhead {
            node.metrics.add(.ssdHits)
            return .held(node.tier.lend(hold))
        }
        let now = index == 0 ? request.arrival : reactor.now()
        guard now < request.deadline else { return .missing(.deadlineExceeded) }
        if get.range != nil, let part = try await sendPart(request, get, index, now: now) {
            return .missing(part)
        }
        return await find(get.keys[index], now: now, deadline: request.deadline, asUse: use)
    }

    /// - Returns: whether it was there.
    private nonisolated(nonsending) func sendChunk(
        _ request: Request, _ get: GetRequest, _ index: Int, _ found: consuming Found
    ) async throws(ConnectionEnd) -> Bool {
        let flags: FrameFlags = index + 1 < get.keys.count ? .more : []
        switch consume found {
        case .missing(.ok): return true
        case .missing(let status):
            if status == .notFound { node.metrics.add(.misses) }
            // `busy` would be about the whole request.
            try await sendMiss(request, status == .busy ? .deadlineExceeded : status, flags, index)
            return false
        case .held(let held):
            if let layout = get.layout, layout != held.description.layout {
                node.metrics.add(.misses)
                try await sendMiss(request, .layoutMismatch, flags, index)
                return false
            }
            let form = await atLevel(held, request, get, index)
            return try await sendForm(request, get, flags, index, form)
        }
    }

    /// - Returns: whether it was there.
    private nonisolated(nonsending) func sendForm(
        _ request: Request, _ get: GetRequest, _ flags: FrameFlags, _ index: Int,
        _ form: consuming Found
    ) async throws(ConnectionEnd) -> Bool {
        switch consume form {
        case .missing(let status):
            if status == .notFound { node.metrics.add(.misses) }
            try await sendMiss(request, status, flags, index)
            return false
        case .held(let held):
            guard let bytes = get.part(of: held.bytes) else {
                try await sendMiss(request, .limitExceeded, flags, index)
                return true
            }
            node.metrics.add(.hits)
            shard.noteRequest(at: request.arrival, byteCount: bytes.count)
            try await send(request, flags, index, held.description, bytes, get.range != nil)
            return true
        }
    }

    /// Sends the part of a chunk that is on SSD alone, without reading the rest of it.
    /// - Returns: `ok` when it was sent, another status when it was refused; nil when the chunk is
    ///   in memory, or nowhere.
    private nonisolated(nonsending) func sendPart(
        _ request: Request, _ get: GetRequest, _ index: Int, now: Instant
    ) async throws(ConnectionEnd) -> Status? {
        let name = ChunkName(namespace, get.keys[index])
        guard let ssd, let range = get.range, !node.tier.isResident(name),
            let located = ssd.tier.locate(name.namespace, name.key, now: now, asUse: .counts),
            // Of another form there are no parts yet.
            get.wants(located.description.level)
        else { return nil }
        if let layout = get.layout, layout != located.description.layout { return .layoutMismatch }
        let byteCount = located.description.byteCount
        guard let wanted = range.within(chunkByteCount: UInt64(byteCount)) else {
            return .limitExceeded
        }
        switch await ssd.reader.readPart(
            name, located, Int(wanted.lowerBound)..<Int(wanted.upperBound),
            deadline: request.deadline)
        {
        case .refused(let status): return status
        case .read(let part):
            node.metrics.add(.hits)
            node.metrics.add(.ssdHits)
            let flags: FrameFlags = index + 1 < get.keys.count ? .more : []
            try await send(request, flags, index, located.description, part.bytes, true)
            return .ok
        }
    }

    /// Sends the frame of a chunk, and `bytes` of it; of a part the checksum is its own.
    private nonisolated(nonsending) func send(
        _ request: Request, _ flags: FrameFlags, _ index: Int, _ description: ChunkDescription,
        _ bytes: PinnedBytes, _ isPart: Bool
    ) async throws(ConnectionEnd) {
        var header = answerHeader(request, .ok, flags)
        header.payloadByteCount = UInt64(bytes.count)
        var answer = ChunkAnswer(index: UInt32(index), description, now: reactor.now())
        if isPart { answer.checksum = Checksum.of(bytes) }
        let frame = header.encode(into: outbox.bytes) { answer.encode(&$0) }
        guard bytes.count >= SendRate.byteCountMin else {
            return try await send(frame, thenChunk: bytes, deadline: request.deadline)
        }
        let began = reactor.now()
        try await send(frame, thenChunk: bytes, deadline: request.deadline)
        sendRate.note(
            byteCount: bytes.count, nanoseconds: reactor.now().nanoseconds - began.nanoseconds)
    }

    private nonisolated(nonsending) func sendMiss(
        _ request: Request, _ status: Status, _ flags: FrameFlags, _ index: Int
    ) async throws(ConnectionEnd) {
        let message =
            switch status {
            case .layoutMismatch: "the chunk has another layout: treat it as a miss"
            case .deadlineExceeded:
                "at this key's turn the deadline had passed, or no room or no codec thread was free"
            case .limitExceeded: "the range ends behind the chunk"
            default: "not stored: compute it"
            }
        let refusal = ChunkRefusal(index: UInt32(index), message: message)
        try await answer(request, status, flags) { refusal.encode(&$0) }
    }
}

extension GetRequest {
    /// Whether a chunk that is stored at `level` is to be sent as it is.
    fileprivate func wants(_ stored: Level) -> Bool {
        level == Self.asStored || level == stored.rawValue
    }

    /// What is wanted of a chunk; nil when it ends before.
    fileprivate func part(of chunk: PinnedBytes) -> PinnedBytes? {
        guard let range else { return chunk }
        return range.within(chunkByteCount: UInt64(chunk.count)).map {
            chunk.slice(offset: Int($0.lowerBound), count: $0.count)
        }
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

let notDurableText = "in memory, but not on stable storage: see kvctl ssd status and the log"
let existsText = "stored already: the new bytes were dropped"
let noRoomText = "no room: everything is being read or written; compute, or try again later"
