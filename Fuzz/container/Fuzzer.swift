// SPDX-License-Identifier: Apache-2.0
import Codec
import KVCore
import Kernels

/// Containers from anywhere: as they are, and with right checksums, so that the fuzzer gets behind
/// them, and with profiles from anywhere. What is accepted decodes to a payload of the size that it
/// names, or to a fault; and what was decoded with a profile is encoded with it again.
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
    if choice % 4 == 2 {
        decodeWithProfile(bytes, choice: choice, workspace)
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

/// Makes the checksums of sections, directory and header right: of a container, or of a profile,
/// whose directories are alike.
private func seal(_ bytes: PinnedBytes, isProfile: Bool = false) {
    guard bytes.count >= 64 else { return }
    let count =
        isProfile
        ? Int(min(bytes.load(UInt32.self, at: 12), 1 << 16))
        : Int(bytes.load(UInt16.self, at: 10))
    let end = min(bytes.count, 64 + 16 * count)
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

/// A profile behind its byte count, and a container that names it.
private func decodeWithProfile(
    _ bytes: PinnedBytes, choice: UInt8, _ workspace: CodecWorkspace
) {
    guard bytes.count > 4 else { return }
    let count = Int(bytes.load(UInt32.self, at: 0))
    guard count <= bytes.count - 4, bytes.count - 4 - count >= 64 else { return }
    // Both in memory of their own, which ends where they end.
    let (profileBytes, container) = (OwnedBytes(count: max(1, count)), bytes.count - 4 - count)
    profileBytes.bytes.prefix(count).copy(from: bytes.slice(offset: 4, count: count))
    let containerBytes = OwnedBytes(count: container)
    containerBytes.bytes.copy(from: bytes.dropFirst(4 + count))
    let known = profileBytes.bytes.prefix(count)
    seal(known, isProfile: true)
    let hash = Profile.hash(of: known)
    containerBytes.bytes.store(hash.words.0, at: 32)
    containerBytes.bytes.store(hash.words.1, at: 40)
    seal(containerBytes.bytes)
    do throws(CodecFault) {
        let reader = try ContainerReader(containerBytes.bytes)
        guard let layout = reader.layout, reader.header.payloadByteCount <= 1 << 16 else { return }
        let profile = try Profile(known, for: layout)
        let payload = try decoded(reader, profile, Int(choice / 4 % 3), workspace)
        encode(payload.bytes, as: reader.header, layout, profile, workspace)
        withExtendedLifetime(payload) {}
    } catch {
        precondition(error != .targetTooSmall)
    }
    withExtendedLifetime((profileBytes, containerBytes)) {}
}

/// What a container holds; one that is embedded gives the same when it is cut.
private func decoded(
    _ reader: ContainerReader, _ profile: Profile, _ refinementCount: Int,
    _ workspace: CodecWorkspace
) throws(CodecFault) -> OwnedBytes {
    let payload = OwnedBytes(count: reader.header.payloadByteCount)
    try ChunkCodec.decode(
        reader, into: payload.bytes, workspace, profile: profile,
        refinementCountMax: refinementCount)
    guard reader.header.isEmbedded else { return payload }
    // Never larger than what it is cut from: that has the input's byte count at most.
    let target = OwnedBytes(count: 1 << 20)
    let byteCount = try reader.coarser(refinementCount: refinementCount, into: target.bytes)
    let cut = try ContainerReader(target.bytes.prefix(byteCount))
    let again = OwnedBytes(count: payload.bytes.count)
    try ChunkCodec.decode(cut, into: again.bytes, workspace, profile: profile)
    precondition(again.bytes.holds(sameAs: payload.bytes))
    withExtendedLifetime((target, again)) {}
    return payload
}

/// Encodes what was decoded with the same profile: it is decoded again.
private func encode(
    _ payload: PinnedBytes, as header: ContainerHeader, _ layout: KVLayout, _ profile: Profile,
    _ workspace: CodecWorkspace
) {
    let target = OwnedBytes(
        count: ChunkCodec.containerByteCountMax(payloadByteCount: payload.count, layout: layout))
    let result = OwnedBytes(count: payload.count)
    do throws(CodecFault) {
        let plan = EncodingPlan(
            level: header.level, layout: layout, firstPosition: header.firstPosition,
            profile: profile)
        let encoded = try ChunkCodec.encode(payload, plan, into: target.bytes, workspace)
        let reader = try ContainerReader(target.bytes.prefix(encoded.byteCount))
        try ChunkCodec.decode(reader, into: result.bytes, workspace, profile: profile)
    } catch {
        preconditionFailure("what we wrote with a profile is refused: \(error)")
    }
    precondition(!header.level.isExact || result.bytes.holds(sameAs: payload))
    withExtendedLifetime((target, result)) {}
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
