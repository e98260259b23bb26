// SPDX-License-Identifier: Apache-2.0
package import KVCore
import Kernels
import Wire

/// A PUT between its first and its last part.
struct OpenPut {
    let checksum: StreamingChecksum
    var remaining: UInt64
    let deadline: Instant
    /// Header and body, until they are sent together with the first part.
    var head: PinnedBytes?
}

extension Client {
    /// Stores `bytes` under `label` unless its key is there already.
    ///
    /// Throws `refused` with `busy`, `tooLarge`, `deadlineExceeded`, …: nothing is stored then;
    /// with `notDurable`, and perhaps `deadlineExceeded`, where the label asks for stable storage:
    /// the chunk is in memory then. One pass over the bytes for the checksum, no copy beyond 4 KiB.
    package func put(
        _ label: ChunkLabel, _ bytes: PinnedBytes, deadline: Instant
    ) async throws(ClientError) -> PutOutcome {
        let link = try await begin(deadline)
        defer { end() }
        let frame = try preparePut(
            label, UInt64(bytes.count), on: link, deadline: deadline)
        try await link.send(frame, payload: bytes, deadline: deadline)
        return try await putAnswer(on: link, deadline: deadline)
    }

    /// Begins to store `byteCount` bytes that are not all there yet. Then `addPart` until all are
    /// sent, then `finishPut`; the deadline holds for all of it. No other call meanwhile.
    package func beginPut(
        _ label: ChunkLabel, byteCount: UInt64, deadline: Instant
    ) async throws(ClientError) {
        let link = try await begin(deadline)
        defer { end() }
        let head = try preparePut(label, byteCount, on: link, deadline: deadline)
        openPut = OpenPut(
            checksum: StreamingChecksum(), remaining: byteCount, deadline: deadline, head: head)
    }

    /// Sends the next bytes of the PUT that `beginPut` began. The memory is free on return.
    package func addPart(_ part: PinnedBytes) async throws(ClientError) {
        guard var put = openPut, let link = currentLink else {
            throw .unusable(.malformed, "no PUT has begun")
        }
        guard UInt64(part.count) <= put.remaining else {
            abandonPut()
            throw .unusable(.malformed, "the parts have more bytes than was announced")
        }
        let head = put.head
        put.head = nil
        put.remaining -= UInt64(part.count)
        openPut = put
        put.checksum.add(part)
        do throws(ClientError) {
            try await link.sendPart(after: head, part, deadline: put.deadline)
        } catch {
            openPut = nil
            throw error
        }
    }

    /// Sends the checksum of all parts and returns what became of the chunk; errors as for `put`.
    package func finishPut() async throws(ClientError) -> PutOutcome {
        guard let put = openPut, let link = currentLink else {
            throw .unusable(.malformed, "no PUT has begun")
        }
        guard put.remaining == 0, put.head == nil else {
            abandonPut()
            throw .unusable(.malformed, "\(put.remaining) bytes of the chunk are missing")
        }
        defer { openPut = nil }
        try await link.sendTrailer(put.checksum.value, deadline: put.deadline)
        return try await putAnswer(on: link, deadline: put.deadline)
    }

    /// Gives up the PUT that `beginPut` began; the connection ends, and nothing is stored.
    package func abandonPut() {
        guard openPut != nil else { return }
        close()
    }

    private func preparePut(
        _ label: ChunkLabel, _ byteCount: UInt64, on link: Link<R>, deadline: Instant
    ) throws(ClientError) -> PinnedBytes {
        try checkChunk(byteCount)
        return try link.prepare(
            .put, deadlineMilliseconds: milliseconds(until: deadline),
            payloadByteCount: byteCount + UInt64(PutRequest.checksumByteCount),
            fill: putRequest(label, byteCount).encode)
    }

    private func putAnswer(
        on link: Link<R>, deadline: Instant
    ) async throws(ClientError) -> PutOutcome {
        try putOutcome(try await link.receiveAnswer(deadline: deadline), on: link)
    }

    /// What an answer to PUT or COMMIT says.
    func putOutcome(_ answer: Answer, on link: Link<R>) throws(ClientError) -> PutOutcome {
        if answer.status == .exists { return .exists }
        try accept(answer, on: link)
        return .stored
    }

    /// The body of PUT and RESERVE. The caller has checked `byteCount` against the session.
    func putRequest(_ label: ChunkLabel, _ byteCount: UInt64) -> PutRequest {
        PutRequest(
            key: label.key, layout: label.layout, chunkByteCount: Int(byteCount),
            timeToLiveMilliseconds: label.timeToLiveMilliseconds, level: label.level,
            acknowledge: label.acknowledge, firstPosition: label.firstPosition)
    }

    /// Throws `unusable` when a chunk cannot have `byteCount` bytes.
    func checkChunk(_ byteCount: UInt64) throws(ClientError) {
        guard byteCount > 0 else { throw .unusable(.malformed, "a chunk has at least one byte") }
        let most = min(session?.chunkByteCountMax ?? 0, UInt64(Limits.chunkByteCountMax))
        guard byteCount <= most else {
            throw .unusable(.tooLarge, "\(byteCount) bytes; the daemon takes up to \(most)")
        }
    }

    /// Throws `unusable` when `keys` is no batch that the daemon takes.
    func checkBatch(_ keys: [ChunkKey]) throws(ClientError) {
        let most = session?.batchKeyCountMax ?? Limits.batchKeyCountMax
        guard !keys.isEmpty, keys.count <= min(most, Limits.batchKeyCountMax) else {
            throw .unusable(.limitExceeded, "\(keys.count) keys; 1 to \(most) can be asked for")
        }
    }
}
