// SPDX-License-Identifier: Apache-2.0
package import KVCore
package import Wire

extension Client {
    /// Brings the chunks of `keys` to where `place` says, in the order of the keys, and verifies
    /// their checksums.
    ///
    /// `place` returns memory of exactly the payload's size, or nil to drop its bytes. Misses and
    /// damage are outcomes, one per key; throws `refused` when the request as a whole is, and
    /// connection errors, after which the memory's contents mean nothing. No copy, except of up to
    /// 4 KiB of each payload; allocates the outcomes.
    package func get(
        _ keys: [ChunkKey], _ options: GetOptions = GetOptions(), deadline: Instant,
        place: (FoundChunk) -> PinnedBytes?
    ) async throws(ClientError) -> [GetOutcome] {
        try checkBatch(keys)
        let link = try await begin(deadline)
        defer { end() }
        let frame = try link.prepare(.get, deadlineMilliseconds: milliseconds(until: deadline)) {
            GetRequest.encode(
                &$0, keyCount: keys.count, layout: options.layout, level: options.level,
                range: options.range)
            for key in keys { $0.append(key) }
        }
        try await link.send(frame, deadline: deadline)
        var outcomes: [GetOutcome] = []
        outcomes.reserveCapacity(keys.count)
        while outcomes.count < keys.count {
            let answer = try await link.receiveAnswer(deadline: deadline)
            if outcomes.isEmpty, !answer.hasMore, answer.status != .ok,
                keys.count > 1 || !answer.header.answersOneKey(ofRange: options.range != nil)
            {
                throw refusing(answer, on: link)
            }
            let outcome = try await receiveChunk(
                answer, index: outcomes.count, options.range, on: link, deadline: deadline,
                place: place)
            outcomes.append(outcome)
            guard answer.hasMore == (outcomes.count < keys.count) else {
                throw link.failing(.broken("an answer to GET has a wrong \"more\" flag"))
            }
        }
        return outcomes
    }

    /// Brings the chunk of `key` into `target` and returns what it is; nil for a miss.
    ///
    /// Throws `damaged` when the bytes do not match their checksum, `unusable` with `tooLarge` when
    /// they do not fit, and `refused` with `limitExceeded` when the chunk does not have the range.
    package func get(
        _ key: ChunkKey, _ options: GetOptions = GetOptions(), into target: PinnedBytes,
        deadline: Instant
    ) async throws(ClientError) -> FoundChunk? {
        let outcomes = try await get([key], options, deadline: deadline) { chunk in
            chunk.payloadByteCount <= target.count
                ? target.prefix(chunk.payloadByteCount) : nil
        }
        return try found(outcomes[0])
    }

    /// Brings the chunks of `keys` into fresh memory. Chunks that would make it more than
    /// `fetchByteCountMax` are `skipped`.
    package func fetch(
        _ keys: [ChunkKey], _ options: GetOptions = GetOptions(), deadline: Instant
    ) async throws(ClientError) -> [FetchedChunk] {
        var memory = [OwnedBytes?](repeating: nil, count: keys.count)
        var room = self.options.fetchByteCountMax
        let outcomes = try await get(keys, options, deadline: deadline) { chunk in
            guard chunk.payloadByteCount <= room else { return nil }
            room -= chunk.payloadByteCount
            let fresh = OwnedBytes(count: chunk.payloadByteCount, alignment: 4_096)
            memory[chunk.index] = fresh
            return fresh.bytes
        }
        return zip(outcomes, memory).map { outcome, memory in
            if case .found = outcome { return FetchedChunk(outcome: outcome, memory: memory) }
            return FetchedChunk(outcome: outcome, memory: nil)
        }
    }

    /// Brings the chunk of `key` into fresh memory; nil for a miss. Errors as for `get`.
    package func fetch(
        _ key: ChunkKey, _ options: GetOptions = GetOptions(), deadline: Instant
    ) async throws(ClientError) -> OwnedBytes? {
        let fetched = try await fetch([key], options, deadline: deadline)
        return try found(fetched[0].outcome) == nil ? nil : fetched[0].memory
    }

    /// Asks which of `keys` are there, without bringing their bytes. Counts as a use of them.
    package func lookup(
        _ keys: [ChunkKey], _ mode: LookupRequest.Mode, deadline: Instant
    ) async throws(ClientError) -> LookupAnswer {
        try checkBatch(keys)
        return try await call(.lookup, deadline: deadline) { body in
            LookupRequest.encode(&body, keyCount: keys.count, mode: mode)
            for key in keys { body.append(key) }
        } decode: { body throws(WireFault) in
            let answer = try LookupAnswer.decode(body)
            let count = mode == .everyKey ? keys.count : answer.prefixCount
            guard answer.records.count == count, answer.prefixCount <= keys.count else {
                throw .badCount(answer.records.count)
            }
            return answer
        }
    }

    /// The daemon's numbers about itself and this namespace.
    package func nodeStatistics(deadline: Instant) async throws(ClientError) -> [NodeStatistic] {
        try await call(
            .stat, deadline: deadline, fill: StatRequest.node.encode
        ) { body throws(WireFault) in
            try StatAnswer.decode(body).pairs.map {
                NodeStatistic(name: $0.name, value: $0.value)
            }
        }
    }

    /// What the daemon knows about the chunk of `key`; nil when it is not there. No use of it.
    package func chunkStatistics(
        _ key: ChunkKey, deadline: Instant
    ) async throws(ClientError) -> FoundChunk? {
        do throws(ClientError) {
            return try await call(
                .stat, deadline: deadline, fill: StatRequest.chunk(key).encode,
                decode: FoundChunk.decode)
        } catch {
            guard error.kind == .refused, error.status == .notFound else { throw error }
            return nil
        }
    }

    func found(_ outcome: GetOutcome) throws(ClientError) -> FoundChunk? {
        switch outcome {
        case .found(let chunk): return chunk
        case .missed(.deadlineExceeded):
            throw ClientError(
                .refused, status: .deadlineExceeded, message: "the daemon was too slow")
        case .missed(.limitExceeded):
            throw ClientError(
                .refused, status: .limitExceeded, message: "the range ends behind the chunk")
        case .missed: return nil
        case .damaged(let chunk):
            throw ClientError(
                .damaged, status: .checksumMismatch,
                message: "\(chunk.payloadByteCount) bytes arrived damaged; try again, or "
                    + "compute them")
        case .skipped(let chunk):
            throw .unusable(
                .tooLarge, "\(chunk.payloadByteCount) bytes do not fit the memory given")
        }
    }

    private func receiveChunk(
        _ answer: Answer, index: Int, _ range: ByteRange?, on link: Link<R>, deadline: Instant,
        place: (FoundChunk) -> PinnedBytes?
    ) async throws(ClientError) -> GetOutcome {
        guard answer.status == .ok else {
            let miss = try decode(answer, on: link, ChunkRefusal.decode)
            guard miss.index == index, answer.header.payloadByteCount == 0 else {
                throw link.failing(.broken("a miss of GET has a wrong index or a payload"))
            }
            if answer.closesConnection {
                throw link.failing(
                    ClientError(.refused, status: answer.status, message: miss.message))
            }
            return .missed(answer.status)
        }
        let chunk = try decode(answer, on: link) { body throws(WireFault) in
            try FoundChunk.decode(body, range: range)
        }
        guard chunk.index == index,
            UInt64(chunk.payloadByteCount) == answer.header.payloadByteCount
        else { throw link.failing(.broken("a chunk of GET has a wrong index or size")) }
        guard let target = place(chunk) else {
            try await link.skipPayload(UInt64(chunk.payloadByteCount), deadline: deadline)
            return .skipped(chunk)
        }
        invariant(
            target.count == chunk.payloadByteCount, "memory for a payload has the payload's size")
        let checksum = try await link.receivePayload(into: target, deadline: deadline)
        return checksum == chunk.checksum ? .found(chunk) : .damaged(chunk)
    }
}
