// SPDX-License-Identifier: Apache-2.0
import KVCore
import Kernels
import Wire

/// The fuzzer's input in memory that ends where it ends, so that the address sanitizer sees a byte
/// too many.
func pinned(_ start: UnsafePointer<UInt8>?, _ count: Int) -> OwnedBytes {
    let memory = OwnedBytes(count: count)
    guard let start = unsafe start else { return memory }
    // SAFETY: the fuzzer gives `count` readable bytes, and the memory has room for them.
    unsafe memory.bytes.start.copyMemory(from: start, byteCount: count)
    return memory
}

extension PinnedBytes {
    /// Whether both runs hold the same bytes.
    func holdsTheSame(as other: PinnedBytes) -> Bool {
        count == other.count && (0..<count).allSatisfy { self[$0] == other[$0] }
    }

    /// Puts a little-endian number at `offset`.
    func put(_ number: UInt32, at offset: Int) {
        var writer = FieldWriter(dropFirst(offset))
        writer.append(number)
    }

    /// Makes a frame's checksums right, as far as its bytes are there: no mutation would find them.
    func fixChecksums() {
        guard count >= FrameHeader.byteCount else { return }
        let bodyByteCount = (0..<4).reduce(0) { $0 | Int(self[24 + $1]) << (8 * $1) }
        if bodyByteCount <= count - FrameHeader.byteCount {
            let body = slice(offset: FrameHeader.byteCount, count: bodyByteCount)
            put(body.withBytes { Checksum.short($0) }, at: 28)
        }
        put(prefix(44).withBytes { Checksum.short($0) }, at: 44)
    }
}

/// The verbs in the order of their numbers; a seed's first byte picks one.
let verbs = Verb.allCases

extension KeyList {
    /// Touches every key.
    func readAll() -> [ChunkKey] { (0..<count).map { self[$0] } }
}

extension LeaseIDList {
    func readAll() -> [UInt64] { (0..<count).map { self[$0] } }
}

/// Faults are what most inputs end in; their texts must stay within an answer's limit.
func check(_ fault: WireFault) {
    precondition(fault.message.utf8.count <= Limits.messageByteCountMax)
    precondition(fault.status != .ok)
}
