// SPDX-License-Identifier: Apache-2.0
import KVCore
import Wire

/// Bodies of answers, as the client reads them. The first byte picks the verb, the scope of a STAT,
/// and whether the answer is `ok`.
@c(LLVMFuzzerTestOneInput) public func testOneInput(
    _ start: UnsafePointer<UInt8>?, _ count: Int
) -> CInt {
    guard count > 0, count <= Limits.bodyByteCountMax else { return 0 }
    // SAFETY: `start` and `count` are the fuzzer's.
    let memory = unsafe pinned(start, count)
    let choice = memory.bytes[0]
    let verb = verbs[Int(choice & 15) % verbs.count]
    let body = memory.bytes.dropFirst(1)
    do throws(WireFault) {
        if choice & 32 != 0 {
            try readRefusal(verb, body)
        } else {
            try read(verb, isOfChunk: choice & 16 != 0, body)
        }
    } catch {
        check(error)
    }
    return 0
}

private func readRefusal(_ verb: Verb, _ body: PinnedBytes) throws(WireFault) {
    if verb == .get {
        _ = try ChunkRefusal.decode(body)
        return
    }
    var reader = FieldReader(body)
    _ = try reader.readErrorText()
    try reader.finish()
}

private func read(_ verb: Verb, isOfChunk: Bool, _ body: PinnedBytes) throws(WireFault) {
    // What is written back must be the same where the answer has no part that readers ignore.
    let copy = OwnedBytes(count: body.count + 1)
    var writer = FieldWriter(copy.bytes)
    switch verb {
    case .hello:
        let hello = try HelloAnswer.decode(body)
        precondition(hello.namespaceSecret.count == HelloAnswer.secretByteCount)
        return
    case .ping, .put, .commit, .abort: if body.count > 0 { throw .bytesLeftOver(body.count) }
    case .get: try readChunk(body).encode(&writer)
    case .stat where isOfChunk: try readChunk(body).encode(&writer)
    case .stat: try StatAnswer.decode(body).encode(&writer)
    case .lookup:
        let answer = try LookupAnswer.decode(body)
        precondition(answer.records.count <= Limits.batchKeyCountMax)
        precondition(answer.prefixCount <= answer.records.count)
        return
    case .delete, .pin, .unpin:
        let answer = try KeyStatusesAnswer.decode(body)
        precondition(answer.okCount <= answer.statuses.count)
        return
    case .control: try ControlAnswer.decode(body).encode(&writer)
    case .lease:
        let answer = try LeaseAnswer.decode(body)
        precondition(answer.records.count <= Limits.batchKeyCountMax)
        return
    case .release: try ReleaseAnswer.decode(body).encode(&writer)
    case .reserve: try ReserveAnswer.decode(body).encode(&writer)
    }
    precondition(copy.bytes.prefix(writer.count).holdsTheSame(as: body))
}

private func readChunk(_ body: PinnedBytes) throws(WireFault) -> ChunkAnswer {
    let chunk = try ChunkAnswer.decode(body)
    precondition((1...UInt64(Limits.chunkByteCountMax)).contains(chunk.chunkByteCount))
    return chunk
}
