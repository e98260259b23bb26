// SPDX-License-Identifier: Apache-2.0
internal import Codec
internal import KVCore
internal import Telemetry
internal import Tiers
internal import Wire

/// LEASE, RELEASE, RESERVE, COMMIT, ABORT: reading and writing by shared memory (docs/protocol.md,
/// section 6).
extension Connection {
    // MARK: Reading in place

    nonisolated(nonsending) func serveLease(
        _ request: Request, _ body: PinnedBytes
    ) async throws(ConnectionEnd) -> Next {
        guard sharesMemory else { return try await refuse(request, .unsupported, notSharedText) }
        let lease: LeaseRequest
        do throws(WireFault) {
            lease = try LeaseRequest.decode(body)
        } catch {
            return try await refuse(request, error)
        }
        shard.noteSmallRequest(at: request.arrival)
        _ = release(lease.released)
        let expiry = leaseExpiry(lease.milliseconds, from: request.arrival)
        var loaded = await load(lease.keys, request)
        if node.tier.mayHoldEncodedChunks { await decode(lease.keys, &loaded, request) }
        // Those that were not granted, because there was no memory for the answer.
        defer {
            for chunk in loaded.values { if let hold = chunk.hold { node.tier.release(hold) } }
        }
        return try await answerLarge(
            request,
            bodyByteCount: LeaseAnswer.fixedByteCount + lease.keys.count * LeaseRecord.byteCount
        ) { writer in
            LeaseAnswer.encode(&writer, recordCount: lease.keys.count, expiry: expiry)
            var isPrefix = true
            for index in 0..<lease.keys.count {
                let record = grant(
                    lease.keys[index], loaded.removeValue(forKey: index), until: expiry,
                    now: request.arrival, asUse: use(isPrefix))
                isPrefix = isPrefix && record.status == .ok
                record.encode(&writer)
            }
        }
    }

    /// A chunk that is held for the answer, or why there is none.
    private enum Loaded {
        case fromMemory(Hold)
        case fromSSD(Result<Hold, Status>)

        var hold: Hold? {
            switch self {
            case .fromMemory(let hold), .fromSSD(.success(let hold)): hold
            case .fromSSD(.failure): nil
            }
        }
    }

    /// Takes hold of all that is in memory, and reads what is not, many at a time; memory may not
    /// have room for all. What is read evicts what nobody holds.
    private nonisolated(nonsending) func load(
        _ keys: KeyList, _ request: Request
    ) async -> [Int: Loaded] {
        guard let ssd else { return [:] }
        var loaded: [Int: Loaded] = [:]
        var ahead = ReadAhead(
            ssd, memory: node.tier, namespace: namespace, deadline: request.deadline)
        for index in 0..<keys.count {
            ahead.prepare(from: index, keyCount: keys.count) { keys[$0] }
            if let read = await ahead.take(index) {
                loaded[index] = .fromSSD(read)
            } else if let held = node.tier.hold(
                namespace, keys[index], now: request.arrival, asUse: .doesNotCount)
            {
                loaded[index] = .fromMemory(held.escape())
            } else {
                // It was there when others were begun to be read.
                loaded[index] = .fromSSD(
                    await ssd.reader.obtain(
                        ChunkName(namespace, keys[index]), deadline: request.deadline))
            }
        }
        return loaded
    }

    /// Has raw forms made of those that are encoded, in memory that ends with the lease.
    private nonisolated(nonsending) func decode(
        _ keys: KeyList, _ loaded: inout [Int: Loaded], _ request: Request
    ) async {
        for index in 0..<keys.count {
            let hold: Hold
            if let known = loaded[index] {
                guard let held = known.hold else { continue }
                hold = held
            } else {
                guard
                    let held = node.tier.hold(
                        namespace, keys[index], now: request.arrival, asUse: .doesNotCount)
                else { continue }
                hold = held.escape()
                loaded[index] = .fromMemory(hold)
            }
            guard node.tier.description(of: hold).level != .raw else { continue }
            loaded[index] = nil
            switch await decoded(hold, keys[index], request) {
            case .success(let form): loaded[index] = .fromMemory(form)
            case .failure(let status): loaded[index] = .fromSSD(.failure(status))
            }
        }
    }

    private func grant(
        _ key: ChunkKey, _ loaded: Loaded?, until expiry: Instant, now: Instant,
        asUse use: RAMTier.Use
    ) -> LeaseRecord {
        var found: HeldChunk?
        var missing = Status.notFound
        switch loaded {
        case .fromMemory(let hold)?:
            _ = node.tier.describe(namespace, key, now: now, asUse: use)
            found = node.tier.lend(hold)
        case .fromSSD(.success(let hold))?:
            node.metrics.add(.ssdHits)
            found = node.tier.lend(hold)
        case .fromSSD(.failure(let status))?: missing = status
        case nil: found = node.tier.hold(namespace, key, now: now, asUse: use)
        }
        guard let held = found.take() else {
            if missing == .notFound { node.metrics.add(.misses) }
            return LeaseRecord(status: missing)
        }
        guard leases.count < Limits.leaseCountPerConnectionMax, node.leaseBegan() else {
            return LeaseRecord(status: .busy)
        }
        node.metrics.add(.hits)
        node.metrics.add(.leasesGranted)
        var record = LeaseRecord(status: .ok)
        record.level = held.description.level.rawValue
        record.arenaOffset = UInt64(node.tier.arenaOffset(of: held.bytes))
        record.chunkByteCount = UInt64(held.description.byteCount)
        record.checksum = held.description.checksum
        record.timeToLiveMilliseconds = held.description.timeToLive(at: now)
        record.leaseID = leases.grant(held.escape(), until: expiry)
        return record
    }

    nonisolated(nonsending) func serveRelease(
        _ request: Request, _ body: PinnedBytes
    ) async throws(ConnectionEnd) -> Next {
        guard sharesMemory else { return try await refuse(request, .unsupported, notSharedText) }
        let released: Int
        do throws(WireFault) {
            released = release(try ReleaseRequest.decode(body).leaseIDs)
        } catch {
            return try await refuse(request, error)
        }
        shard.noteSmallRequest(at: request.arrival)
        try await answer(request) { ReleaseAnswer(releasedCount: UInt32(released)).encode(&$0) }
        return .goOn
    }

    private func release(_ leaseIDs: LeaseIDList) -> Int {
        var releasedCount = 0
        for index in 0..<leaseIDs.count {
            guard let hold = leases.end(leaseIDs[index]) else { continue }
            releaseLease(hold)
            releasedCount += 1
        }
        node.metrics.add(.leasesReleased, releasedCount)
        return releasedCount
    }

    private func leaseExpiry(_ milliseconds: UInt32, from now: Instant) -> Instant {
        let limit = node.configuration.leaseMillisecondsMax
        let granted = milliseconds == 0 ? limit : min(milliseconds, limit)
        return now.adding(milliseconds: UInt64(granted))
    }

    // MARK: Writing through staging

    nonisolated(nonsending) func serveReserve(
        _ request: Request, _ body: PinnedBytes
    ) async throws(ConnectionEnd) -> Next {
        guard sharesMemory else { return try await refuse(request, .unsupported, notSharedText) }
        let put: PutRequest
        do throws(WireFault) {
            put = try PutRequest.decode(body)
        } catch {
            return try await refuse(request, error)
        }
        guard put.chunkByteCount <= node.stagedChunkByteCountMax else {
            return try await refuse(
                request, .tooLarge, "larger than HELLO's staging limit: use PUT or smaller chunks")
        }
        let present = describe(put.key, now: request.arrival, asUse: .counts)
        guard present == nil else {
            try await answerPublished(request, put, .exists)
            return .goOn
        }
        let expiry = leaseExpiry(0, from: request.arrival)
        guard let reserved = staging.reserve(put, until: expiry, node) else {
            return try await refuse(request, .busy, "no staging room: use PUT, or try again later")
        }
        let reply = ReserveAnswer(
            reservationID: reserved.id, stagingOffset: UInt64(reserved.offset),
            stagingByteCount: UInt64(staging.byteCount), expiry: expiry)
        guard let descriptor = reserved.newDescriptor else {
            try await answer(request) { reply.encode(&$0) }
            return .goOn
        }
        var header = answerHeader(request, .ok)
        let frame = header.encode(into: outbox.bytes) { reply.encode(&$0) }
        try await send(frame, descriptor: descriptor, deadline: request.deadline)
        return .goOn
    }

    nonisolated(nonsending) func serveCommit(
        _ request: Request, _ body: PinnedBytes
    ) async throws(ConnectionEnd) -> Next {
        guard sharesMemory else { return try await refuse(request, .unsupported, notSharedText) }
        let commit: CommitRequest
        do throws(WireFault) {
            commit = try CommitRequest.decode(body)
        } catch {
            return try await refuse(request, error)
        }
        guard let pending = staging.take(commit.reservationID, now: request.arrival) else {
            return try await refuse(request, .noLease, noReservationText)
        }
        defer { staging.giveBack(pending) }
        switch try await reserve(request, pending.put) {
        case .reserved(let reservation):
            guard await copy(pending.bytes, into: reservation.bytes, checksum: commit.checksum)
            else {
                _ = consume reservation
                return try await refuse(
                    request, .checksumMismatch, "the staged bytes do not match their checksum")
            }
            if let refusal = refusal(of: pending.put, reservation.bytes) {
                _ = consume reservation
                return try await refuse(request, .unsupported, refusal)
            }
            let status = reservation.commit(checksum: commit.checksum)
            try await answerPublished(request, pending.put, status)
            return .goOn
        case .refused(.exists):
            try await answerPublished(request, pending.put, .exists)
            return .goOn
        case .refused(let status):
            return try await refuse(request, status, noRoomText)
        case .callAgain:
            return try await refuse(request, .deadlineExceeded, "no room was made in time")
        }
    }

    /// Copies piece by piece, so that other connections run in between.
    /// - Returns: whether the copy has the checksum. The client may still scribble over `source`.
    private nonisolated(nonsending) func copy(
        _ source: PinnedBytes, into target: PinnedBytes, checksum: UInt64
    ) async -> Bool {
        let verifier = self.verifier ?? RawVerifier()
        self.verifier = verifier
        verifier.reset()
        var copied = 0
        while copied < source.count {
            let count = min(Limits.pieceByteCountShared, source.count - copied)
            let piece = target.slice(offset: copied, count: count)
            piece.copy(from: source.slice(offset: copied, count: count))
            verifier.add(piece)
            copied += count
            if copied < source.count { await reactor.yield() }
        }
        return verifier.matches(checksum)
    }

    nonisolated(nonsending) func serveAbort(
        _ request: Request, _ body: PinnedBytes
    ) async throws(ConnectionEnd) -> Next {
        guard sharesMemory else { return try await refuse(request, .unsupported, notSharedText) }
        let abort: AbortRequest
        do throws(WireFault) {
            abort = try AbortRequest.decode(body)
        } catch {
            return try await refuse(request, error)
        }
        guard let pending = staging.take(abort.reservationID, now: request.arrival) else {
            return try await refuse(request, .noLease, noReservationText)
        }
        staging.giveBack(pending)
        try await answer(request)
        return .goOn
    }
}

private let notSharedText = "shared memory was not granted in HELLO: use GET and PUT"
private let noReservationText = "no such reservation: it expired, or was committed already"
