// SPDX-License-Identifier: Apache-2.0
internal import KVCore

/// What a connection has received and not yet used: a small buffer that every connection owns.
///
/// One receive usually brings a whole small request. Payloads do not pass through here, except for
/// the few bytes that came along with their header. Confined to its connection.
///
/// Not generic over the stream: each access to it would look its metadata up, several times a
/// request.
struct Inbox: ~Copyable {
    private var buffer: OwnedBytes
    private var begin = 0
    private var end = 0

    /// An empty one, over a buffer of its own.
    init(byteCount: Int) {
        buffer = OwnedBytes(count: byteCount)
    }

    /// Bytes that the buffer has room for.
    var capacity: Int { buffer.bytes.count }

    /// Bytes received and not used yet.
    var count: Int { end - begin }

    /// The unused bytes; good until the next `fill`.
    var bytes: PinnedBytes { buffer.bytes.slice(offset: begin, count: end - begin) }

    /// Marks the first `count` bytes as used.
    mutating func consume(_ count: Int) {
        invariant(count <= end - begin, "only received bytes can be used")
        begin += count
    }

    /// Moves up to `target.count` bytes into `target`.
    /// - Returns: how many.
    mutating func drain(into target: PinnedBytes) -> Int {
        let count = min(self.count, target.count)
        target.copy(from: bytes.prefix(count))
        consume(count)
        return count
    }

    /// Goes on with another buffer, in which the unused bytes find room.
    /// - Returns: the one before.
    mutating func move(to other: OwnedBytes) -> OwnedBytes {
        other.bytes.copy(from: bytes)
        end -= begin
        begin = 0
        defer { buffer = other }
        return buffer
    }

    /// Receives until at least `count` bytes (at most the buffer's size) are unused.
    nonisolated(nonsending) mutating func fill<Stream: ByteStream>(
        atLeast count: Int, from stream: Stream, deadline: Instant
    ) async throws(IOFault) {
        guard self.count < count else { return }
        invariant(count <= buffer.bytes.count, "the inbox is for headers and small bodies")
        if begin == end {
            begin = 0
            end = 0
        } else if begin + count > buffer.bytes.count {
            buffer.bytes.copy(from: bytes)
            end -= begin
            begin = 0
        }
        end += try await stream.receive(
            into: buffer.bytes.dropFirst(end), minimum: count - self.count, deadline: deadline)
    }
}
