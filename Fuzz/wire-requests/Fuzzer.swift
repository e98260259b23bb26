// SPDX-License-Identifier: Apache-2.0
import KVCore
import Wire

/// Bodies of requests: the first byte picks the verb. A body that is accepted is written back the
/// same, so there is one way to say each thing.
@c(LLVMFuzzerTestOneInput) public func testOneInput(
    _ start: UnsafePointer<UInt8>?, _ count: Int
) -> CInt {
    guard count > 0, count <= Limits.bodyByteCountMax else { return 0 }
    // SAFETY: `start` and `count` are the fuzzer's.
    let memory = unsafe pinned(start, count)
    let verb = verbs[Int(memory.bytes[0]) % verbs.count]
    let body = memory.bytes.dropFirst(1)
    let copy = OwnedBytes(count: count)
    var writer = FieldWriter(copy.bytes)
    do throws(WireFault) {
        try readAndWrite(verb, body, &writer)
        precondition(copy.bytes.prefix(writer.count).holdsTheSame(as: body))
    } catch {
        check(error)
    }
    return 0
}

private func readAndWrite(
    _ verb: Verb, _ body: PinnedBytes, _ writer: inout FieldWriter
) throws(WireFault) {
    switch verb {
    case .hello: try HelloRequest.decode(body).encode(&writer)
    case .ping: if body.count > 0 { throw .bytesLeftOver(body.count) }
    case .put, .reserve:
        let put = try PutRequest.decode(body)
        precondition((1...Limits.chunkByteCountMax).contains(put.chunkByteCount))
        put.encode(&writer)
    case .get:
        let get = try GetRequest.decode(body)
        precondition((1...Limits.batchKeyCountMax).contains(get.keys.count))
        GetRequest.encode(
            &writer, keyCount: get.keys.count, layout: get.layout, level: get.level,
            range: get.range)
        for key in get.keys.readAll() { writer.append(key) }
    case .lookup:
        let lookup = try LookupRequest.decode(body)
        LookupRequest.encode(&writer, keyCount: lookup.keys.count, mode: lookup.mode)
        for key in lookup.keys.readAll() { writer.append(key) }
    case .delete, .unpin:
        let delete = try DeleteRequest.decode(body)
        DeleteRequest.encode(&writer, keyCount: delete.keys.count)
        for key in delete.keys.readAll() { writer.append(key) }
    case .pin:
        let pin = try PinRequest.decode(body)
        precondition((1...Limits.pinMillisecondsMax).contains(pin.milliseconds))
        PinRequest.encode(&writer, keyCount: pin.keys.count, milliseconds: pin.milliseconds)
        for key in pin.keys.readAll() { writer.append(key) }
    case .control: try ControlRequest.decode(body).encode(&writer)
    case .stat: try StatRequest.decode(body).encode(&writer)
    case .lease:
        let lease = try LeaseRequest.decode(body)
        LeaseRequest.encode(
            &writer, keyCount: lease.keys.count, releasedCount: lease.released.count,
            milliseconds: lease.milliseconds)
        for id in lease.released.readAll() { writer.append(id) }
        for key in lease.keys.readAll() { writer.append(key) }
    case .release:
        let release = try ReleaseRequest.decode(body)
        ReleaseRequest.encode(&writer, leaseCount: release.leaseIDs.count)
        for id in release.leaseIDs.readAll() { writer.append(id) }
    case .commit: try CommitRequest.decode(body).encode(&writer)
    case .abort: try AbortRequest.decode(body).encode(&writer)
    }
}
