// SPDX-License-Identifier: Apache-2.0
package import KVCore

extension Client {
    /// Brings the chunks of `keys` to where `place` says, in the order of the keys, and verifies
    /// their checksums.
    ///
    /// `place` returns memory of exactly the chunk's size, or nil to drop its bytes. Misses and
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
            appendGetBody(keys, options, to: &$0)
        }
        try await link.send(frame, deadline: deadline)
        var outcomes: [GetOutcome] = []
        outcomes.reserveCapacity(keys.count)
        while outcomes.count < keys.count {
            let answer = try await link.receiveAnswer(deadline: deadline)
            if outcomes.isEmpty, !answer.header.hasMore, answer.status != .ok,
                !isPerKey(answer, on: link, keyCount: keys.count)
            {
                throw refusing(answer, on: link)
            }
            let outcome = try await receiveChunk(
                answer, index: outcomes.count, on: link, deadline: deadline, place: place)
            outcomes.append(outcome)
            guard answer.header.hasMore == (outcomes.count < keys.count) else {
                throw link.failing(.broken("an answer to GET has a wrong \"more\" flag"))
            }
        }
        return outcomes
    }

    /// Brings the chunk of `key` into `target` and returns what it is; nil for a miss.
    ///
    /// Throws `damaged` when the bytes do not match their checksum, and `unusable` with
    /// `tooLarge` when they do not fit.
    package func get(
        _ key: ChunkKey, _ options: GetOptions = GetOptions(), into target: PinnedBytes,
        deadline: Instant
    ) async throws(ClientError) -> FoundChunk? {
        let outcomes = try await get([key], options, deadline: deadline) { chunk in
            chunk.byteCount <= target.count ? target.prefix(chunk.byteCount) : nil
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
            guard chunk.byteCount <= room else { return nil }
            room -= chunk.byteCount
            let fresh = OwnedBytes(count: chunk.byteCount, alignment: 4_096)
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
        _ keys: [ChunkKey], _ mode: LookupMode, deadline: Instant
    ) async throws(ClientError) -> LookupAnswer {
        try checkBatch(keys)
        return try await call(.lookup, deadline: deadline) { body in
            body.append(UInt16(keys.count))
            body.append(mode.rawValue)
            body.append(zeros: 5)
            for key in keys { body.append(key) }
        } decode: { body in
            LookupAnswer(body: &body, keyCount: keys.count, mode: mode)
        }
    }

    /// The daemon's numbers about itself and this namespace.
    package func nodeStatistics(deadline: Instant) async throws(ClientError) -> [NodeStatistic] {
        try await call(.stat, deadline: deadline) { body in
            body.append(zeros: 8)
        } decode: { body in
            guard let count = body.read(UInt32.self) else { return nil }
            var statistics: [NodeStatistic] = []
            for _ in 0..<count {
                guard let size = body.read(UInt8.self), let name = body.readText(Int(size)),
                    let value = body.read(UInt64.self)
                else { return nil }
                statistics.append(NodeStatistic(name: name, value: value))
            }
            return statistics
        }
    }

    /// What the daemon knows about the chunk of `key`; nil when it is not there. No use of it.
    package func chunkStatistics(
        _ key: ChunkKey, deadline: Instant
    ) async throws(ClientError) -> FoundChunk? {
        do throws(ClientError) {
            return try await call(.stat, deadline: deadline) { body in
                body.append(UInt8(1))
                body.append(zeros: 7)
                body.append(key)
            } decode: { body in
                FoundChunk(body: &body)
            }
        } catch {
            guard error.kind == .refused, error.status == .notFound else { throw error }
            return nil
        }
    }

    private func found(_ outcome: GetOutcome) throws(ClientError) -> FoundChunk? {
        switch outcome {
        case .found(let chunk): return chunk
        case .missed(.deadlineExceeded):
            throw ClientError(
                .refused, status: .deadlineExceeded, message: "the daemon was too slow")
        case .missed: return nil
        case .damaged(let chunk):
            throw ClientError(
                .damaged, status: .checksumMismatch,
                message: "\(chunk.byteCount) bytes arrived damaged; try again, or compute them")
        case .skipped(let chunk):
            throw .unusable(.tooLarge, "\(chunk.byteCount) bytes do not fit the memory given")
        }
    }

    private func appendGetBody(
        _ keys: [ChunkKey], _ options: GetOptions, to body: inout FieldWriter
    ) {
        body.append(UInt16(keys.count))
        body.append(UInt8(options.decodes ? 0 : 255))
        body.append(UInt8(options.layout == nil ? 0 : 1))
        body.append(zeros: 4)
        body.append(options.layout ?? .opaque)
        for key in keys { body.append(key) }
    }

    /// Whether an answer that is not `ok` and stands alone is about the only key of the request;
    /// otherwise it refuses the request as a whole. Only these statuses are about one key.
    private func isPerKey(_ answer: Answer, on link: Link<R>, keyCount: Int) -> Bool {
        guard keyCount == 1 else { return false }
        switch answer.status {
        case .notFound, .layoutMismatch, .deadlineExceeded: return true
        default: return false
        }
    }

    private func receiveChunk(
        _ answer: Answer, index: Int, on link: Link<R>, deadline: Instant,
        place: (FoundChunk) -> PinnedBytes?
    ) async throws(ClientError) -> GetOutcome {
        var body = link.body(of: answer)
        guard answer.status == .ok else {
            guard let told = body.read(UInt32.self), told == index,
                answer.header.payloadByteCount == 0
            else { throw link.failing(.broken("a miss of GET has a wrong index or a payload")) }
            if answer.closesConnection {
                throw link.failing(link.refusal(answer, textOffset: 4))
            }
            return .missed(answer.status ?? .internal)
        }
        guard let chunk = FoundChunk(body: &body), chunk.index == index,
            UInt64(chunk.byteCount) == answer.header.payloadByteCount
        else { throw link.failing(.broken("a chunk of GET has a wrong index or size")) }
        guard let target = place(chunk) else {
            try await link.skipPayload(UInt64(chunk.byteCount), deadline: deadline)
            return .skipped(chunk)
        }
        invariant(target.count == chunk.byteCount, "memory for a chunk has the chunk's size")
        let checksum = try await link.receivePayload(into: target, deadline: deadline)
        return checksum == chunk.checksum ? .found(chunk) : .damaged(chunk)
    }
}
