// SPDX-License-Identifier: Apache-2.0
package import KVCore
import Kernels

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
    /// Throws `refused` with `busy`, `tooLarge`, `deadlineExceeded`, …: nothing is stored then.
    /// One pass over the bytes for the checksum, no copy beyond 4 KiB.
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

    /// Forgets the chunks of `keys`; returns for each whether it was there.
    package func delete(
        _ keys: [ChunkKey], deadline: Instant
    ) async throws(ClientError) -> [Bool] {
        try checkBatch(keys)
        return try await call(.delete, deadline: deadline) { body in
            body.append(UInt16(keys.count))
            body.append(zeros: 6)
            for key in keys { body.append(key) }
        } decode: { body in
            guard body.read(UInt32.self) != nil, let count = body.read(UInt32.self),
                count == keys.count
            else { return nil }
            var deleted: [Bool] = []
            for _ in 0..<keys.count {
                guard let status = body.read(UInt16.self) else { return nil }
                deleted.append(status == Status.ok.rawValue)
            }
            return deleted
        }
    }

    private func preparePut(
        _ label: ChunkLabel, _ byteCount: UInt64, on link: Link<R>, deadline: Instant
    ) throws(ClientError) -> PinnedBytes {
        guard byteCount > 0 else { throw .unusable(.malformed, "a chunk has at least one byte") }
        guard byteCount <= session?.chunkByteCountMax ?? 0 else {
            throw .unusable(
                .tooLarge,
                "\(byteCount) bytes; the daemon takes \(session?.chunkByteCountMax ?? 0)")
        }
        return try link.prepare(
            .put, deadlineMilliseconds: milliseconds(until: deadline),
            payloadByteCount: byteCount + 8
        ) { body in
            appendPutBody(label, byteCount, to: &body)
        }
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

    /// The body of PUT and RESERVE.
    func appendPutBody(_ label: ChunkLabel, _ byteCount: UInt64, to body: inout FieldWriter) {
        body.append(label.key)
        body.append(label.layout)
        body.append(byteCount)
        body.append(label.timeToLiveMilliseconds)
        body.append(zeros: 12)
    }

    /// Throws `unusable` when `keys` is no batch that the daemon takes.
    func checkBatch(_ keys: [ChunkKey]) throws(ClientError) {
        let most = session?.batchKeyCountMax ?? Limits.batchKeyCountMax
        guard !keys.isEmpty, keys.count <= min(most, Limits.batchKeyCountMax) else {
            throw .unusable(.limitExceeded, "\(keys.count) keys; 1 to \(most) can be asked for")
        }
    }
}
