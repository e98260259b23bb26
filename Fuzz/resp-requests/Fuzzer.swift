// SPDX-License-Identifier: Apache-2.0
import KVCore
import Wire

/// All that one RESP client sends. The first byte says how: its low bit whether the client has
/// given the password, the rest the size of the pieces. In pieces and at once come to the same.
@c(LLVMFuzzerTestOneInput) public func testOneInput(
    _ start: UnsafePointer<UInt8>?, _ count: Int
) -> CInt {
    guard count > 0, count <= Limits.bodyByteCountMax else { return 0 }
    // SAFETY: `start` and `count` are the fuzzer's.
    let memory = unsafe pinned(start, count)
    let isAuthenticated = memory.bytes[0] & 1 == 1
    let bytes = memory.bytes.dropFirst(1)
    let whole = read(bytes, pieceByteCount: max(1, bytes.count), isAuthenticated)
    let pieces = read(bytes, pieceByteCount: Int(memory.bytes[0] >> 1) + 1, isAuthenticated)
    precondition(whole == pieces)
    return 0
}

/// What happened, in numbers that tell one reading from another.
private struct Reading: Equatable {
    var requestCount = 0
    var argumentCount = 0
    var byteSum = 0
    var fault: RESPFault?
}

private func read(
    _ bytes: PinnedBytes, pieceByteCount: Int, _ isAuthenticated: Bool
) -> Reading {
    var parser = RESPParser(isAuthenticated: isAuthenticated)
    var reading = Reading()
    var (first, end) = (0, 0)
    while true {
        // Memory that ends where the buffer ends.
        let buffer = OwnedBytes(count: end - first)
        buffer.bytes.copy(from: bytes.slice(offset: first, count: end - first))
        switch parser.advance(buffer.bytes) {
        case .incomplete:
            guard end < bytes.count else { return reading }
            end = min(end + pieceByteCount, bytes.count)
        case .fault(let fault):
            precondition(fault.message.utf8CodeUnitCount <= Limits.messageByteCountMax)
            reading.fault = fault
            return reading
        case .request:
            reading.requestCount += 1
            count(parser, buffer.bytes, &reading)
            precondition(parser.argumentCount <= Limits.respArgumentCountMax)
            first += parser.position
            parser.begin()
        case .value(let byteCount):
            precondition(byteCount <= Limits.respBulkByteCountMax)
            let next = first + parser.position + byteCount + 2
            guard next <= bytes.count else { return reading }
            count(parser, buffer.bytes, &reading)
            first = next
            end = max(end, first)
            if parser.passValue() {
                reading.requestCount += 1
                parser.begin()
            }
        }
    }
}

private func count(_ parser: RESPParser, _ buffer: PinnedBytes, _ reading: inout Reading) {
    precondition(parser.position <= buffer.count)
    for argument in parser.arguments {
        let bytes = buffer.slice(offset: argument.offset, count: argument.byteCount)
        precondition(bytes.count <= Limits.respArgumentByteCountMax)
        reading.argumentCount += 1
        reading.byteSum += (0..<bytes.count).reduce(0) { $0 + Int(bytes[$1]) }
        _ = bytes.decimal
        _ = bytes.isWord("match")
        if let first = parser.arguments.first, bytes.count < 64 {
            let pattern = buffer.slice(offset: first.offset, count: first.byteCount)
            _ = RESPPattern.matches(bytes, pattern)
        }
    }
}
