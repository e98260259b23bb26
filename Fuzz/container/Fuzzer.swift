// SPDX-License-Identifier: Apache-2.0
import Codec
import KVCore
import Kernels

/// Containers from anywhere: as they are, and with right checksums, so that the fuzzer gets behind
/// them. What is accepted decodes to a payload of the size that it names, or to a fault.
@c(LLVMFuzzerTestOneInput) public func testOneInput(
    _ start: UnsafePointer<UInt8>?, _ count: Int
) -> CInt {
    guard let start = unsafe start, count > 0 else { return 0 }
    // SAFETY: `start` and `count` are the fuzzer's.
    let (choice, memory) = unsafe (start[0], pinned(start + 1, count - 1))
    let bytes = memory.bytes
    // SAFETY: the fuzzer runs one input at a time.
    let workspace = unsafe sharedWorkspace
    if choice % 4 == 3 {
        encode(bytes, seed: choice, workspace)
        withExtendedLifetime(memory) {}
        return 0
    }
    if choice % 4 != 0 { seal(bytes) }
    decode(bytes, workspace)
    withExtendedLifetime(memory) {}
    return 0
}

// SAFETY: as above.
nonisolated(unsafe) private let sharedWorkspace = CodecWorkspace(valueCountMax: 1 << 14)

/// Makes the checksums of sections, directory and header right.
private func seal(_ bytes: PinnedBytes) {
    guard bytes.count >= 64 else { return }
    let end = min(bytes.count, 64 + 16 * Int(bytes.load(UInt16.self, at: 10)))
    for entry in stride(from: 64, through: end - 16, by: 16) {
        let offset = Int(bytes.load(UInt32.self, at: entry))
        let byteCount = Int(bytes.load(UInt32.self, at: entry + 4))
        guard offset <= bytes.count, byteCount <= bytes.count - offset else { continue }
        // A section may overlap the directory: what it says then is wrong, and stays so.
        bytes.store(
            bytes.slice(offset: offset, count: byteCount).withBytes(Checksum.short),
            at: entry + 8)
    }
    bytes.store(bytes.slice(offset: 8, count: end - 8).withBytes(Checksum.short), at: 4)
}

private func decode(_ bytes: PinnedBytes, _ workspace: CodecWorkspace) {
    do throws(CodecFault) {
        let reader = try ContainerReader(bytes)
        precondition(reader.header.payloadByteCount <= Limits.chunkByteCountMax)
        // Larger ones teach nothing, and make the fuzzer slow.
        guard reader.header.payloadByteCount <= 1 << 16 else { return }
        let payload = OwnedBytes(count: reader.header.payloadByteCount)
        try ChunkCodec.decode(reader, into: payload.bytes, workspace)
        withExtendedLifetime(payload) {}
    } catch {
        precondition(error != .targetTooSmall)
    }
}

/// Any bytes as a payload: what is made of them decodes, and without loss to the same bytes.
private func encode(_ payload: PinnedBytes, seed: UInt8, _ workspace: CodecWorkspace) {
    guard payload.count > 0, payload.count <= 1 << 14 else { return }
    let level = Level(rawValue: seed / 4 % 7) ?? .raw
    let types = ["float16", "bfloat16", "float32", "float8_e4m3", "float8_e5m2"]
    let text = """
        kvstore_layout=1
        axes=layer,kv,token,head,channel
        dtype=\(types[Int(seed / 28) % types.count])
        head_dim=4
        kv_heads=2
        layers=1
        lead_bytes=\(payload.count % 64)
        rope_theta=10000.0

        """
    let layout = KVLayout(description: Array(text.utf8))
    precondition(layout != nil)
    let target = OwnedBytes(
        count: ChunkCodec.containerByteCountMax(payloadByteCount: payload.count, layout: layout))
    let result = OwnedBytes(count: payload.count)
    do throws(CodecFault) {
        let plan = EncodingPlan(level: level, layout: layout, firstPosition: UInt32(seed))
        let encoded = try ChunkCodec.encode(payload, plan, into: target.bytes, workspace)
        let reader = try ContainerReader(target.bytes.prefix(encoded.byteCount))
        try ChunkCodec.decode(reader, into: result.bytes, workspace)
    } catch {
        preconditionFailure("what we wrote is refused: \(error)")
    }
    precondition(!level.isExact || result.bytes.holds(sameAs: payload))
    withExtendedLifetime((target, result)) {}
}
