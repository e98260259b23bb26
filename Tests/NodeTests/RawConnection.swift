// SPDX-License-Identifier: Apache-2.0
import KVCore
import Kernels
import LinuxIO
import Wire

/// A connection to a node on which a test may say anything. Confined to its world.
final class RawConnection {
    private let stream: RingReactor.Stream
    private let deadline: Instant

    /// Everything on it must be done by `deadline`.
    init(_ stream: RingReactor.Stream, _ deadline: Instant) {
        self.stream = stream
        self.deadline = deadline
    }

    func send(_ bytes: [UInt8]) async throws {
        let memory = OwnedBytes(count: bytes.count)
        var writer = FieldWriter(memory.bytes)
        writer.append(contentsOf: bytes)
        try await stream.send(memory.bytes, deadline: deadline)
        withExtendedLifetime(memory) {}
    }

    /// The header of the next answer; its body and payload are read past. Nil when the node closed
    /// instead.
    func receive() async throws -> FrameHeader? {
        let head = OwnedBytes(count: FrameHeader.byteCount)
        guard try await receive(head) else { return nil }
        let header = try FrameHeader.decode(head.bytes)
        let rest = header.bodyByteCount + Int(header.payloadByteCount)
        guard rest > 0 else { return header }
        return try await receive(OwnedBytes(count: rest)) ? header : nil
    }

    /// Says HELLO and reads the answer.
    func greet(_ hello: HelloRequest = HelloRequest()) async throws -> Status? {
        try await send(request(.hello, body: hello.encode))
        return try await receive()?.status
    }

    func close() {
        stream.close()
    }

    private func receive(_ room: OwnedBytes) async throws -> Bool {
        do throws(IOFault) {
            _ = try await stream.receive(
                into: room.bytes, minimum: room.bytes.count, deadline: deadline)
        } catch {
            guard error == .closed else { throw error }
            return false
        }
        return true
    }
}

/// A request as bytes, header and body, whose payload is `payloadByteCount` bytes to be sent after.
func request(
    _ verb: Verb, id: UInt64 = 1, deadlineMilliseconds: UInt32 = 0, payloadByteCount: UInt64 = 0,
    body: (inout FieldWriter) -> Void = { _ in }
) -> [UInt8] {
    var header = FrameHeader(
        verbNumber: verb.rawValue, requestID: id, deadlineMilliseconds: deadlineMilliseconds)
    header.payloadByteCount = payloadByteCount
    let room = OwnedBytes(count: FrameHeader.byteCount + Limits.bodyByteCountMax)
    return withExtendedLifetime(room) {
        let frame = header.encode(into: room.bytes, body: body)
        return (0..<frame.count).map { frame[$0] }
    }
}

/// A GET of one chunk.
func getRequest(_ key: ChunkKey, id: UInt64 = 2, deadlineMilliseconds: UInt32 = 0) -> [UInt8] {
    request(.get, id: id, deadlineMilliseconds: deadlineMilliseconds) { body in
        GetRequest.encode(&body, keyCount: 1, layout: nil)
        body.append(key)
    }
}

/// A PUT without its payload.
func putHead(_ key: ChunkKey, byteCount: Int, id: UInt64 = 2) -> [UInt8] {
    let put = PutRequest(key: key, chunkByteCount: byteCount)
    return request(
        .put, id: id, payloadByteCount: UInt64(byteCount + PutRequest.checksumByteCount),
        body: put.encode)
}

/// A PUT's payload.
func putPayload(_ bytes: PinnedBytes) -> [UInt8] {
    let checksum = Checksum.of(bytes)
    return (0..<bytes.count).map { bytes[$0] }
        + (0..<8).map { UInt8(truncatingIfNeeded: checksum >> (8 * UInt64($0))) }
}
