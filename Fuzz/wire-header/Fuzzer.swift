// SPDX-License-Identifier: Apache-2.0
import KVCore
import Wire

/// Headers, as they are and with a right checksum. One that is accepted is written back the same.
@c(LLVMFuzzerTestOneInput) public func testOneInput(
    _ start: UnsafePointer<UInt8>?, _ count: Int
) -> CInt {
    // SAFETY: `start` and `count` are the fuzzer's.
    let memory = unsafe pinned(start, count)
    read(memory.bytes)
    memory.bytes.fixChecksums()
    read(memory.bytes)
    return 0
}

private func read(_ bytes: PinnedBytes) {
    let header: FrameHeader
    do throws(WireFault) {
        header = try FrameHeader.decode(bytes)
    } catch {
        return check(error)
    }
    precondition(header.bodyByteCount <= Limits.bodyByteCountMax)
    let copy = OwnedBytes(count: FrameHeader.byteCount)
    header.encode(into: copy.bytes)
    precondition(copy.bytes.holdsTheSame(as: bytes.prefix(FrameHeader.byteCount)))
    do throws(WireFault) {
        let verb = try header.checkRequest()
        precondition(header.flags.isEmpty && header.statusNumber == 0)
        precondition(verb == .put || header.payloadByteCount == 0)
    } catch {
        check(error)
    }
    do throws(WireFault) {
        try header.checkAnswer()
        precondition(header.payloadByteCount <= UInt64(Limits.chunkByteCountMax))
        _ = header.answersOneKey(ofRange: true)
        _ = header.closesConnection
    } catch {
        check(error)
    }
}
