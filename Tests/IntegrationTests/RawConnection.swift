// SPDX-License-Identifier: Apache-2.0
import KVCore
import Kernels
import LinuxIO
import Synchronization
import Wire

/// A connection to a daemon on which a test may say anything. Confined to its desk.
final class RawConnection {
    private let stream: RingReactor.Stream
    private let deadline: Instant

    /// Everything on it must be done by `deadline`.
    init(_ stream: RingReactor.Stream, _ deadline: Instant) {
        self.stream = stream
        self.deadline = deadline
    }

    func send(_ bytes: [UInt8]) async throws {
        try await stream.send(pinned(bytes), deadline: deadline)
    }

    /// Sends as much as the daemon takes: it may close at any byte.
    func sendWhatIsTaken(_ bytes: [UInt8]) async throws {
        do throws(IOFault) {
            try await stream.send(pinned(bytes), deadline: deadline)
        } catch {
            guard error == .closed else { throw error }
        }
    }

    /// The next answer without payload; nil when the daemon closed instead.
    func receive() async throws -> (header: FrameHeader, body: [UInt8])? {
        guard let head = try await receive(count: FrameHeader.byteCount) else { return nil }
        let header = try FrameHeader.decode(pinned(head))
        guard header.bodyByteCount > 0 else { return (header, []) }
        guard let body = try await receive(count: header.bodyByteCount) else { return nil }
        return (header, body)
    }

    /// Whether the daemon closes without saying more.
    func isClosedNext() async throws -> Bool {
        try await receive(count: 1) == nil
    }

    func close() {
        stream.close()
    }

    private func receive(count: Int) async throws -> [UInt8]? {
        let room = OwnedBytes(count: count)
        do throws(IOFault) {
            _ = try await stream.receive(into: room.bytes, minimum: count, deadline: deadline)
        } catch {
            guard error == .closed else { throw error }
            return nil
        }
        return (0..<count).map { room.bytes[$0] }
    }
}

/// Memory with these bytes, which stays for as long as the tests run.
func pinned(_ bytes: [UInt8]) -> PinnedBytes {
    let memory = OwnedBytes(count: max(bytes.count, 1))
    kept.withLock { $0.append(memory) }
    let room = memory.bytes.prefix(bytes.count)
    var writer = FieldWriter(room)
    writer.append(contentsOf: bytes)
    return room
}

private let kept = Mutex<[OwnedBytes]>([])

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

/// HELLO to the default namespace.
func hello(_ change: (inout HelloRequest) -> Void = { _ in }) -> [UInt8] {
    var hello = HelloRequest()
    change(&hello)
    return request(.hello, body: hello.encode)
}

/// A PUT without its payload.
func putHead(
    _ key: ChunkKey, byteCount: Int, id: UInt64 = 2, deadlineMilliseconds: UInt32 = 0
) -> [UInt8] {
    let put = PutRequest(key: key, chunkByteCount: byteCount)
    return request(
        .put, id: id, deadlineMilliseconds: deadlineMilliseconds,
        payloadByteCount: UInt64(byteCount + PutRequest.checksumByteCount), body: put.encode)
}

/// A PUT's payload.
func putPayload(_ bytes: [UInt8]) -> [UInt8] {
    let checksum = Checksum.of(pinned(bytes))
    return bytes + (0..<8).map { UInt8(truncatingIfNeeded: checksum >> (8 * UInt64($0))) }
}

/// `frame` with its header changed at `offset`, and the header's checksum made right again.
func forged(_ frame: [UInt8], at offset: Int, _ bytes: [UInt8]) -> [UInt8] {
    var frame = frame
    frame.replaceSubrange(offset..<offset + bytes.count, with: bytes)
    let checksum = UInt32(truncatingIfNeeded: Checksum.of(pinned(Array(frame.prefix(44)))))
    frame.replaceSubrange(
        44..<48, with: (0..<4).map { UInt8(truncatingIfNeeded: checksum >> (8 * UInt32($0))) })
    return frame
}

/// `frame` with one bit of the byte at `offset` turned over.
func damaged(_ frame: [UInt8], at offset: Int) -> [UInt8] {
    var frame = frame
    frame[offset] ^= 0x10
    return frame
}
