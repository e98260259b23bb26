// SPDX-License-Identifier: Apache-2.0
package import KVCore
import Kernels
import Wire

/// The right to read a chunk in place until an instant. Confined to its client's executor.
package struct LeasedChunk {
    /// Names the lease for `release`.
    package let id: UInt64
    /// The chunk, in the arena. Its bytes are the chunk's until `expiry`; afterwards they are
    /// memory still, but of anything.
    package let bytes: PinnedBytes
    package let level: UInt8
    /// XXH3-64 of the bytes.
    package let checksum: UInt64
    /// Nil: for ever.
    package let timeToLiveMilliseconds: UInt64?
    /// The end of the lease. What was read before it is good; see also `Client.isGood`.
    package let expiry: Instant
    /// Keeps the arena mapped, even when the connection is gone.
    package let owner: AnyObject
}

/// What LEASE says about one key.
package enum LeaseOutcome {
    case leased(LeasedChunk)
    /// `notFound`, or `busy` when there are too many leases.
    case missed(Status)
}

/// Room in the staging region, to be filled and committed. Confined to its client's executor.
package struct Reservation {
    /// Names the reservation for `commit` and `abort`.
    package let id: UInt64
    /// Where the chunk's bytes go.
    package let bytes: PinnedBytes
    /// The daemon drops the reservation at this instant.
    package let expiry: Instant
    /// Keeps the region mapped, even when the connection is gone.
    package let owner: AnyObject
}

extension Client {
    /// Asks for the right to read the chunks of `keys` in place for up to `milliseconds` (0: as
    /// long as the daemon allows), and gives back the leases `releasing` on the way.
    ///
    /// Throws `unusable` where memory is not shared. Allocates the outcomes.
    package func lease(
        _ keys: [ChunkKey], milliseconds: UInt32 = 0, releasing: [UInt64] = [],
        deadline: Instant
    ) async throws(ClientError) -> [LeaseOutcome] {
        let arena = try await sharedArena(deadline)
        let most = session?.batchKeyCountMax ?? 0
        guard keys.count <= most, releasing.count <= Limits.batchKeyCountMax,
            LeaseRequest.fixedByteCount + 8 * releasing.count
                + ChunkKey.byteCount * keys.count <= Limits.bodyByteCountMax
        else {
            throw .unusable(
                .limitExceeded, "\(keys.count) keys and \(releasing.count) leases at once")
        }
        return try await call(.lease, deadline: deadline) { body in
            LeaseRequest.encode(
                &body, keyCount: keys.count, releasedCount: releasing.count,
                milliseconds: milliseconds)
            for lease in releasing { body.append(lease) }
            for key in keys { body.append(key) }
        } decode: { body throws(WireFault) in
            let answer = try LeaseAnswer.decode(body)
            guard answer.records.count == keys.count else {
                throw .badCount(answer.records.count)
            }
            var outcomes: [LeaseOutcome] = []
            outcomes.reserveCapacity(keys.count)
            for record in answer.records {
                outcomes.append(try outcome(record, answer.expiry, in: arena))
            }
            return outcomes
        }
    }

    /// Gives leases back; returns how many of them the daemon knew.
    @discardableResult
    package func release(
        _ leases: [UInt64], deadline: Instant
    ) async throws(ClientError) -> Int {
        guard !leases.isEmpty else { return 0 }
        guard leases.count <= Limits.batchKeyCountMax else {
            throw .unusable(.limitExceeded, "\(leases.count) leases at once")
        }
        return try await call(.release, deadline: deadline) { body in
            ReleaseRequest.encode(&body, leaseCount: leases.count)
            for lease in leases { body.append(lease) }
        } decode: { body throws(WireFault) in
            Int(try ReleaseAnswer.decode(body).releasedCount)
        }
    }

    /// Whether what was read in place from `chunk` up to now is the chunk: its lease has not ended,
    /// or else its checksum matches (one pass over the bytes, only then).
    package func isGood(_ chunk: LeasedChunk) -> Bool {
        reactor.now() < chunk.expiry || Checksum.of(chunk.bytes) == chunk.checksum
    }

    /// Asks for room to write a chunk of `byteCount` bytes in place; nil when its key is there.
    package func reserve(
        _ label: ChunkLabel, byteCount: UInt64, deadline: Instant
    ) async throws(ClientError) -> Reservation? {
        _ = try await sharedArena(deadline)
        let link = try await begin(deadline)
        defer { end() }
        guard arena != nil, let mapper = options.mapper else { throw Self.notShared }
        try checkChunk(byteCount)
        let frame = try link.prepare(
            .reserve, deadlineMilliseconds: milliseconds(until: deadline),
            fill: putRequest(label, byteCount).encode)
        try await link.send(frame, deadline: deadline)
        let (answer, descriptor) = try await link.receiveAnswerWithDescriptor(
            mapper: mapper, deadline: deadline)
        guard answer.status == .ok, answer.header.payloadByteCount == 0 else {
            if let descriptor { mapper.discard(descriptor) }
            if answer.status == .exists { return nil }
            try accept(answer, on: link)
            return nil
        }
        let place: ReserveAnswer
        do throws(ClientError) {
            place = try decode(answer, on: link, ReserveAnswer.decode)
        } catch {
            if let descriptor { mapper.discard(descriptor) }
            throw error
        }
        if let descriptor {
            staging = try map(
                descriptor, place.stagingByteCount, .readWrite, mapper: mapper, on: link)
        }
        guard let staging, let bytes = slice(of: staging.bytes, place.stagingOffset, byteCount)
        else { throw link.failing(.broken("a reservation lies outside the staging region")) }
        return Reservation(
            id: place.reservationID, bytes: bytes, expiry: place.expiry, owner: staging.owner)
    }

    /// Publishes what `reservation` was filled with. One pass over the bytes for the checksum.
    ///
    /// Errors as for `put`, and `refused` with `noLease` when the reservation has ended. Whatever
    /// happens, the reservation is gone.
    package func commit(
        _ reservation: Reservation, deadline: Instant
    ) async throws(ClientError) -> PutOutcome {
        let checksum = Checksum.of(reservation.bytes)
        let link = try await begin(deadline)
        defer { end() }
        let request = CommitRequest(reservationID: reservation.id, checksum: checksum)
        let frame = try link.prepare(
            .commit, deadlineMilliseconds: milliseconds(until: deadline), fill: request.encode)
        try await link.send(frame, deadline: deadline)
        return try putOutcome(try await link.receiveAnswer(deadline: deadline), on: link)
    }

    /// Gives `reservation` back without publishing anything.
    package func abort(_ reservation: Reservation, deadline: Instant) async throws(ClientError) {
        let request = AbortRequest(reservationID: reservation.id)
        try await call(.abort, deadline: deadline, fill: request.encode)
    }

    /// Stores `bytes` through shared memory: reserve, copy, commit. Errors as for these.
    package func putInPlace(
        _ label: ChunkLabel, _ bytes: PinnedBytes, deadline: Instant
    ) async throws(ClientError) -> PutOutcome {
        guard
            let reservation = try await reserve(
                label, byteCount: UInt64(bytes.count), deadline: deadline)
        else { return .exists }
        reservation.bytes.copy(from: bytes)
        return try await commit(reservation, deadline: deadline)
    }

    private static var notShared: ClientError {
        .unusable(
            .unsupported,
            "the daemon does not share memory on this connection; use put and get instead")
    }

    private func sharedArena(_ deadline: Instant) async throws(ClientError) -> MappedMemory {
        _ = try await connect(deadline: deadline)
        guard let arena else { throw Self.notShared }
        return arena
    }

    private func outcome(
        _ record: LeaseRecord, _ expiry: Instant, in arena: MappedMemory
    ) throws(WireFault) -> LeaseOutcome {
        guard record.status == .ok else { return .missed(record.status) }
        guard let bytes = slice(of: arena.bytes, record.arenaOffset, record.chunkByteCount) else {
            throw .rangeOutsideRegion(record.arenaOffset, byteCount: record.chunkByteCount)
        }
        return .leased(
            LeasedChunk(
                id: record.leaseID, bytes: bytes, level: record.level, checksum: record.checksum,
                timeToLiveMilliseconds: timeToLive(record.timeToLiveMilliseconds),
                expiry: expiry, owner: arena.owner))
    }

    private func slice(
        of region: PinnedBytes, _ offset: UInt64, _ byteCount: UInt64
    ) -> PinnedBytes? {
        let (end, overflow) = offset.addingReportingOverflow(byteCount)
        guard !overflow, end <= region.count else { return nil }
        return region.slice(offset: Int(offset), count: Int(byteCount))
    }
}
