// SPDX-License-Identifier: Apache-2.0
import KVCore
import Wire

/// Headers of lm requests; and chunks that may hold named values, read under their own name.
@c(LLVMFuzzerTestOneInput) public func testOneInput(
    _ start: UnsafePointer<UInt8>?, _ count: Int
) -> CInt {
    guard count <= 4_096 else { return 0 }
    // SAFETY: `start` and `count` are the fuzzer's.
    let memory = unsafe pinned(start, count)
    if let request = LMRequest.decode(memory.bytes) {
        precondition(request.metadata.count == LMRequest.metadataByteCount)
        precondition(request.key.count <= LMRequest.byteCount - 36)
        precondition(request.command == .put || request.payloadByteCount == 0)
        let reply = OwnedBytes(count: LMReply.byteCount)
        LMReply.encode(
            into: reply.bytes, payloadByteCount: request.payloadByteCount,
            metadata: request.metadata)
    }
    if let name = NamedValue.name(inEndOf: memory.bytes) {
        let read = NamedValue.read(memory.bytes, named: name)
        precondition(read.map { $0.valueAndLineEnd.count >= 2 } ?? true)
    }
    return 0
}
