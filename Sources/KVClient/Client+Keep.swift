// SPDX-License-Identifier: Apache-2.0
package import KVCore
package import Wire

/// How long chunks are kept, and what the node's operator may ask for.
extension Client {
    /// Forgets the chunks of `keys`; tells of each whether it was there: `ok`, `notFound`, or
    /// `notDurable` when it is gone but may come back after a restart of the daemon.
    package func delete(
        _ keys: [ChunkKey], deadline: Instant
    ) async throws(ClientError) -> [Status] {
        try await keyStatuses(.delete, of: keys, deadline: deadline) {
            DeleteRequest.encode(&$0, keyCount: keys.count)
        }
    }

    /// Keeps the chunks of `keys` from being evicted for `milliseconds` (1 to
    /// `Limits.pinMillisecondsMax`); tells of each whether that was done: `ok`, `notFound`, `busy`
    /// when more is pinned than the node allows, or `notDurable` when a restart of the daemon
    /// would forget it.
    package func pin(
        _ keys: [ChunkKey], milliseconds: UInt64, deadline: Instant
    ) async throws(ClientError) -> [Status] {
        guard (1...Limits.pinMillisecondsMax).contains(milliseconds) else {
            throw .unusable(
                .limitExceeded, "a pin lasts 1 to \(Limits.pinMillisecondsMax) milliseconds")
        }
        return try await keyStatuses(.pin, of: keys, deadline: deadline) {
            PinRequest.encode(&$0, keyCount: keys.count, milliseconds: milliseconds)
        }
    }

    /// Lets the chunks of `keys` be evicted again; tells of each `ok`, `notFound`, or `notDurable`
    /// when it may be pinned again after a restart of the daemon.
    package func unpin(
        _ keys: [ChunkKey], deadline: Instant
    ) async throws(ClientError) -> [Status] {
        try await keyStatuses(.unpin, of: keys, deadline: deadline) {
            DeleteRequest.encode(&$0, keyCount: keys.count)
        }
    }

    /// Asks for something that only the node's operator may: over a Unix socket, as root or as the
    /// daemon's own user. Throws `refused` with `unauthorized` otherwise, and with `unsupported`
    /// where there is nothing to be done. Allocates the facts.
    package func control(
        _ operation: ControlRequest.Operation, argument: String = "", deadline: Instant
    ) async throws(ClientError) -> [ControlFact] {
        guard argument.utf8.count <= Limits.argumentByteCountMax else {
            throw .unusable(
                .limitExceeded, "an argument has at most \(Limits.argumentByteCountMax) bytes")
        }
        return try await call(
            .control, deadline: deadline,
            fill: ControlRequest(operation, argument: argument).encode
        ) { body throws(WireFault) in
            try ControlAnswer.decode(body).pairs.map { ControlFact(name: $0.name, text: $0.text) }
        }
    }

    /// A request about keys whose answer tells a status of each; `encodeHead` writes what stands
    /// before the keys.
    private func keyStatuses(
        _ verb: Verb, of keys: [ChunkKey], deadline: Instant,
        encodeHead: (inout FieldWriter) -> Void
    ) async throws(ClientError) -> [Status] {
        try checkBatch(keys)
        return try await call(verb, deadline: deadline) { body in
            encodeHead(&body)
            for key in keys { body.append(key) }
        } decode: { body throws(WireFault) in
            let answer = try KeyStatusesAnswer.decode(body)
            guard answer.statuses.count == keys.count else {
                throw .badCount(answer.statuses.count)
            }
            return answer.statuses
        }
    }
}
