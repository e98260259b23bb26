// SPDX-License-Identifier: Apache-2.0
import KVCore
import Wire

/// All that one client sends, frame after frame, as a connection of the daemon reads it: header,
/// body, then the payload is read past. Bit 0 of the first byte: checksums are made right first.
@c(LLVMFuzzerTestOneInput) public func testOneInput(
    _ start: UnsafePointer<UInt8>?, _ count: Int
) -> CInt {
    guard count > 0 else { return 0 }
    // SAFETY: `start` and `count` are the fuzzer's.
    let memory = unsafe pinned(start, count)
    let fixes = memory.bytes[0] & 1 == 1
    var rest = memory.bytes.dropFirst(1)
    var isGreeted = false
    while rest.count >= FrameHeader.byteCount {
        if fixes { rest.fixChecksums() }
        do throws(WireFault) {
            guard let next = try readFrame(rest, &isGreeted) else { return 0 }
            precondition(next.count <= rest.count - FrameHeader.byteCount, "no progress")
            rest = next
        } catch {
            check(error)
            return 0
        }
    }
    return 0
}

/// Reads a frame from the start of `bytes`.
/// - Returns: the bytes behind it; nil when it is not whole, or the connection closes.
private func readFrame(
    _ bytes: PinnedBytes, _ isGreeted: inout Bool
) throws(WireFault) -> PinnedBytes? {
    let header = try FrameHeader.decode(bytes)
    let behind = bytes.dropFirst(FrameHeader.byteCount)
    guard isGreeted || header.verb == .hello else { return nil }
    guard header.bodyByteCount <= behind.count else { return nil }
    let body = behind.prefix(header.bodyByteCount)
    try header.verify(body: body)
    let afterBody = behind.dropFirst(body.count)
    let isWhole = header.payloadByteCount <= UInt64(afterBody.count)
    let next = isWhole ? afterBody.dropFirst(Int(header.payloadByteCount)) : nil
    do throws(WireFault) {
        let verb = try header.checkRequest()
        guard verb != .hello || !isGreeted else { return nil }
        try readBody(verb, body, header.payloadByteCount)
        isGreeted = true
    } catch {
        guard isGreeted, !error.endsConnection else { throw error }
        check(error)
    }
    return next
}

private func readBody(
    _ verb: Verb, _ body: PinnedBytes, _ payloadByteCount: UInt64
) throws(WireFault) {
    switch verb {
    case .hello: _ = try HelloRequest.decode(body)
    case .ping: if body.count > 0 { throw .bodySizeMismatch }
    case .put: try PutRequest.decode(body).check(payloadByteCount: payloadByteCount)
    case .get: _ = try GetRequest.decode(body).keys.readAll()
    case .lookup: _ = try LookupRequest.decode(body).keys.readAll()
    case .delete, .unpin: _ = try DeleteRequest.decode(body).keys.readAll()
    case .pin: _ = try PinRequest.decode(body).keys.readAll()
    case .control: _ = try ControlRequest.decode(body)
    case .stat: _ = try StatRequest.decode(body)
    case .lease:
        let lease = try LeaseRequest.decode(body)
        _ = (lease.keys.readAll(), lease.released.readAll())
    case .release: _ = try ReleaseRequest.decode(body).leaseIDs.readAll()
    case .reserve: _ = try PutRequest.decode(body)
    case .commit: _ = try CommitRequest.decode(body)
    case .abort: _ = try AbortRequest.decode(body)
    }
}
