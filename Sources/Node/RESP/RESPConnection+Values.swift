// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Kernels
internal import Telemetry
internal import Tiers
internal import Wire

/// SET and GET: the commands that carry values.
extension RESPConnection {
    // MARK: SET

    /// Why a SET stores nothing.
    private enum SetRefusal {
        case unauthenticated
        case nameTooLong
        case tooLarge
        case noRoom
        case syntax
        case notANumber
        case badExpiry
    }

    /// Serves a SET whose name and key lie in the inbox; `byteCount` bytes of value, a line end and
    /// perhaps options follow.
    nonisolated(nonsending) func serveSet(
        _ byteCount: Int
    ) async throws(ConnectionEnd) -> Next {
        node.metrics.add(.requestsRESP)
        let name = argument(1)
        guard name.count <= Limits.respKeyByteCountMax else {
            return try await refuseSet(.nameTooLong, byteCount)
        }
        guard parser.isAuthenticated else {
            return try await refuseSet(.unauthenticated, byteCount)
        }
        let key = secureHash(name)
        let chunkByteCount = NamedValue.chunkByteCount(value: byteCount, name: name.count)
        switch await reserveToReplace(key, byteCount: chunkByteCount, deadline: tierDeadline) {
        case .reserved(let reservation):
            if settings.isStrict { node.valueSizes.learn(name, byteCount: byteCount) }
            let rest = NamedValue.finish(
                reservation.bytes, valueByteCount: byteCount, name: name)
            return try await fill(reservation, key, byteCount, rest)
        case .refused(let status):
            return try await refuseSet(status == .tooLarge ? .tooLarge : .noRoom, byteCount)
        case .callAgain:
            return try await refuseSet(.noRoom, byteCount)
        }
    }

    /// Stores a value that has arrived whole, at once; false when it takes more than that.
    func storeSmallValue(_ byteCount: Int) -> Bool {
        let name = argument(1)
        let end = parser.position + byteCount + 2
        guard parser.isAuthenticated, parser.argumentCount == 3, inbox.count >= end,
            name.count <= Limits.respKeyByteCountMax, replies.room >= replyRoom,
            inbox.bytes.isLineEnd(at: end - 2)
        else { return false }
        let key = secureHash(name)
        let proposal = ChunkProposal(
            namespace: namespace, key: key, layout: .opaque,
            byteCount: NamedValue.chunkByteCount(value: byteCount, name: name.count))
        guard proposal.byteCount <= node.chunkByteCountMax else { return false }
        switch node.tier.reserveToReplace(proposal) {
        case .callAgain: return false
        case .refused: return false
        case .reserved(let reservation):
            let bytes = reservation.bytes
            bytes.copy(from: inbox.bytes.slice(offset: parser.position, count: byteCount))
            NamedValue.finish(bytes, valueByteCount: byteCount, name: name)
            if settings.isStrict { node.valueSizes.learn(name, byteCount: byteCount) }
            let digest = ssd == nil ? 0 : Checksum.of(bytes)
            let status = publish(
                reservation, key, .any, checksum: digest, expiry: .distantFuture, now: arrival)
            invariant(status == .ok, "whatever is there is replaced")
        }
        node.metrics.add(.requestsRESP)
        shard.noteRequest(at: arrival, byteCount: byteCount)
        replies.simple("OK")
        inbox.consume(end)
        return true
    }

    /// Receives the value and what follows, and stores it. `rest` is what lies behind the value.
    private nonisolated(nonsending) func fill(
        _ reservation: consuming Reservation, _ key: ChunkKey, _ byteCount: Int, _ rest: PinnedBytes
    ) async throws(ConnectionEnd) -> Next {
        inbox.consume(parser.position)
        let bytes = reservation.bytes
        let value = bytes.prefix(byteCount + 2)
        if inbox.count < value.count { try await flush() }
        shard.noteRequest(at: arrival, byteCount: byteCount)
        // Nobody else can read the chunk from memory; on SSD its checksum guards it.
        var digest: UInt64 = 0
        let isSmall = bytes.count <= Limits.pieceByteCountShared
        if ssd == nil || isSmall {
            try await receivePieces(
                filling: value, inboxedByteCountMax: Limits.respBufferByteCount,
                deadline: transferDeadline
            ) { _ in }
            if ssd != nil { digest = Checksum.of(bytes) }
        } else {
            let checksum = self.checksum ?? StreamingChecksum()
            self.checksum = checksum
            checksum.reset()
            try await receivePieces(
                filling: value, inboxedByteCountMax: Limits.respBufferByteCount,
                deadline: transferDeadline
            ) { checksum.add($0) }
            checksum.add(rest.dropFirst(2))
            digest = checksum.value
        }
        guard rest.isLineEnd(at: 0) else { throw try await refuse(.noLineEnd) }
        if !parser.passValue() { try await receiveOptions() }
        defer { inbox.consume(parser.position) }
        try await makeRoom(replyRoom)
        switch setOptions() {
        case .failure(let refusal):
            reply(refusal.value)
        case .success(let options):
            let status = publish(
                reservation, key, options.isOnlyIfAbsent ? .nothing : .any, checksum: digest,
                expiry: options.expiry, now: reactor.now())
            switch status {
            case .ok: replies.simple("OK")
            case .exists where !settings.isStrict: replies.null()
            default: reply(.noRoom)
            }
        }
        return .goOn
    }

    /// Receives the arguments behind the value.
    private nonisolated(nonsending) func receiveOptions() async throws(ConnectionEnd) {
        while true {
            switch parser.advance(inbox.bytes) {
            case .request: return
            case .incomplete: try await receiveMore()
            case .value(let byteCount): if try await passBy(byteCount) { return }
            case .fault(let fault): throw try await refuse(fault)
            }
        }
    }

    private struct SetOptions {
        var expiry = Instant.distantFuture
        var isOnlyIfAbsent = false
    }

    private struct Refused: Error {
        let value: SetRefusal
    }

    /// The arguments behind the value.
    private func setOptions() -> Result<SetOptions, Refused> {
        var options = SetOptions()
        guard !parser.isCutShort else { return .failure(Refused(value: .syntax)) }
        var index = 0
        while index < parser.arguments.count {
            let word = argument(index)
            if word.isWord("nx") {
                options.isOnlyIfAbsent = true
                index += 1
                continue
            }
            let unit: Int? = word.isWord("ex") ? 1_000 : word.isWord("px") ? 1 : nil
            guard let unit, index + 1 < parser.arguments.count,
                options.expiry == .distantFuture
            else { return .failure(Refused(value: .syntax)) }
            guard let amount = argument(index + 1).decimal else {
                return .failure(Refused(value: .notANumber))
            }
            guard amount > 0, let expiry = expiry(after: amount, millisecondsPerUnit: unit) else {
                return .failure(Refused(value: .badExpiry))
            }
            options.expiry = expiry
            index += 2
        }
        return .success(options)
    }

    /// When `amount` (not negative) units from the request's arrival are over; nil when nobody
    /// lives to see it.
    func expiry(after amount: Int, millisecondsPerUnit unit: Int) -> Instant? {
        let (milliseconds, overflows) = amount.multipliedReportingOverflow(by: unit)
        guard !overflows, milliseconds <= Limits.pinMillisecondsMax else { return nil }
        return arrival.adding(milliseconds: UInt64(milliseconds))
    }

    /// Reads past the value and the rest of a SET, and replies why it stores nothing.
    private nonisolated(nonsending) func refuseSet(
        _ refusal: SetRefusal, _ byteCount: Int
    ) async throws(ConnectionEnd) -> Next {
        if try await !passBy(byteCount) { try await receiveOptions() }
        try await makeRoom(replyRoom)
        reply(refusal)
        inbox.consume(parser.position)
        return .goOn
    }

    private func reply(_ refusal: SetRefusal) {
        switch refusal {
        case .noRoom: node.metrics.add(.answersBusy)
        case .tooLarge: node.metrics.add(.answersTooLarge)
        case .unauthenticated: node.metrics.add(.answersUnauthorized)
        case .nameTooLong, .syntax, .notANumber, .badExpiry: break
        }
        guard !settings.isStrict else { return replies.error("NO") }
        switch refusal {
        case .unauthenticated: replies.error("NOAUTH Authentication required.")
        case .nameTooLong: replies.error("ERR key is longer than 1024 bytes")
        case .tooLarge: replies.error("ERR value is too large: see limits.chunk_bytes")
        case .noRoom: replies.error("BUSY no room: everything is being read or written")
        case .syntax: replies.error("ERR syntax error")
        case .notANumber: replies.error("ERR value is not an integer or out of range")
        case .badExpiry: replies.error("ERR invalid expire time in 'set' command")
        }
    }

    // MARK: GET

    /// Replies a small value that lies in memory, at once; false when it takes more than that.
    func replySmallValue() -> Bool {
        let name = argument(1)
        guard
            let held = node.tier.hold(namespace, secureHash(name), now: arrival),
            held.bytes.count <= copiedByteCountMax,
            let read = NamedValue.read(held.bytes, named: name)
        else { return false }
        let value = read.valueAndLineEnd
        guard replies.room >= value.count + headRoom else { return false }
        if settings.isStrict { node.valueSizes.learn(name, byteCount: value.count - 2) }
        node.metrics.add(.requestsRESP)
        node.metrics.add(.hits)
        shard.noteSmallRequest(at: arrival)
        replies.bulkHead(value.count - 2)
        replies.append(value)
        return true
    }

    nonisolated(nonsending) func serveGet() async throws(ConnectionEnd) {
        let name = argument(1)
        guard settings.isStrict else { return try await sendValue(name) { $0.null() } }
        let byteCount = headByteCountExpected(name)
        try await sendValue(name) { $0.error("MISS", ofByteCount: byteCount) }
    }

    nonisolated(nonsending) func serveMultipleGet() async throws(ConnectionEnd) {
        replies.array(parser.argumentCount - 1)
        let keyCount = parser.arguments.count - 1
        guard let ssd, keyCount > 1 else {
            for index in 0..<keyCount { try await sendValue(ofMultiple: index) }
            return
        }
        var ahead = ReadAhead(
            ssd, memory: node.tier, namespace: namespace, deadline: tierDeadline)
        do throws(ConnectionEnd) {
            for index in 0..<keyCount {
                ahead.prepare(from: index, keyCount: keyCount) { secureHash(argument(1 + $0)) }
                let read = await ahead.take(index)
                // What was read ahead may be what leaves no room for the value whose turn it is.
                if case .failure(.busy)? = read { await ahead.cancel() }
                try await sendValue(ofMultiple: index, readAhead: read)
            }
        } catch {
            await ahead.cancel()
            throw error
        }
    }

    private nonisolated(nonsending) func sendValue(
        ofMultiple index: Int, readAhead: Result<Hold, Status>? = nil
    ) async throws(ConnectionEnd) {
        let found: Found
        if case .success(let hold)? = readAhead {
            node.metrics.add(.ssdHits)
            found = .held(node.tier.lend(hold))
        } else {
            found = await find(
                secureHash(argument(1 + index)), now: arrival, deadline: tierDeadline)
        }
        try await makeRoom(replyRoom)
        try await sendValue(argument(1 + index), found) { $0.null() }
    }

    /// Replies a value; `miss` writes what is replied when it is absent.
    private nonisolated(nonsending) func sendValue(
        _ name: PinnedBytes, orElse miss: (inout RESPWriter) -> Void
    ) async throws(ConnectionEnd) {
        let found = await find(secureHash(name), now: arrival, deadline: tierDeadline)
        try await sendValue(name, found, orElse: miss)
    }

    /// Replies what was found. Large values are sent from where they lie, with the replies before
    /// them in one call.
    private nonisolated(nonsending) func sendValue(
        _ name: PinnedBytes, _ found: consuming Found, orElse miss: (inout RESPWriter) -> Void
    ) async throws(ConnectionEnd) {
        switch consume found {
        case .missing:
            node.metrics.add(.misses)
            miss(&replies)
        case .held(let held):
            guard let read = NamedValue.read(held.bytes, named: name) else {
                node.metrics.add(.misses)
                node.metrics.add(.namesMismatched)
                return miss(&replies)
            }
            node.metrics.add(.hits)
            let value = read.valueAndLineEnd
            shard.noteRequest(at: arrival, byteCount: value.count)
            if settings.isStrict { node.valueSizes.learn(name, byteCount: value.count - 2) }
            guard value.count > copiedByteCountMax else {
                try await makeRoom(value.count + headRoom)
                replies.bulkHead(value.count - 2)
                return replies.append(value)
            }
            try await makeRoom(headRoom)
            replies.bulkHead(value.count - 2)
            let front = replies.bytes
            replies.clear()
            try await send(front, thenChunk: value, deadline: sendDeadline)
        }
    }

    /// Bytes of the line that a strict client waits for: the head of a value that is likely for
    /// `name`.
    func headByteCountExpected(_ name: PinnedBytes) -> Int {
        RESPWriter.bulkHeadByteCount(node.valueSizes.byteCount(name))
    }
}

/// Values up to this size are copied into the replies: less work than a message of two parts.
private let copiedByteCountMax = 8 << 10
/// The head of a bulk string.
private let headRoom = 32
