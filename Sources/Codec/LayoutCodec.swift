// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// Encodes and decodes chunks of one layout, one after another: a layout, the profiles that are at
/// hand, and a workspace that is made when it is needed. What clients work with. One call at a
/// time.
package final class LayoutCodec {
    /// Nil: nobody said where values stand, and chunks are encoded as opaque bytes.
    package let layout: KVLayout?
    package let layoutID: LayoutID
    /// Payloads with more bytes are refused.
    package let payloadByteCountMax: Int
    /// What chunks are encoded with: the profile that was added last.
    package private(set) var profile: Profile?
    private var profiles: [ProfileHash: Profile] = [:]
    private var workspace: CodecWorkspace?

    package init(
        _ layout: KVLayout?, id: LayoutID = .opaque,
        payloadByteCountMax: Int = Limits.chunkByteCountMax
    ) {
        self.layout = layout
        layoutID = layout?.id ?? id
        self.payloadByteCountMax = payloadByteCountMax
    }

    /// Reads a profile, to encode with it from now on. Chunks that were encoded with this one, or
    /// with those before, can be decoded.
    package func addProfile(_ bytes: PinnedBytes) throws(CodecFault) -> ProfileHash {
        guard let layout else { throw .profileUnsuitable }
        let profile = try Profile(bytes, for: layout)
        profiles[profile.hash] = profile
        self.profile = profile
        return profile.hash
    }

    package func containerByteCountMax(payloadByteCount: Int) -> Int {
        ChunkCodec.containerByteCountMax(payloadByteCount: payloadByteCount, layout: layout)
    }

    /// Encodes `payload` into the start of `target`; as `ChunkCodec.encode`, and
    /// `workspaceTooSmall` for a payload of too many bytes.
    package func encode(
        _ payload: PinnedBytes, _ level: Level, firstPosition: UInt32?, into target: PinnedBytes
    ) throws(CodecFault) -> EncodedChunk {
        let workspace = try workspace(for: layout, payload.count)
        let plan = EncodingPlan(
            level: level, layout: layout, layoutID: layoutID, firstPosition: firstPosition,
            profile: profile)
        return try ChunkCodec.encode(payload, plan, into: target, workspace)
    }

    package func read(_ container: PinnedBytes) throws(CodecFault) -> ContainerReader {
        try ContainerReader(container, known: layout)
    }

    /// Decodes a container to its payload, which `payload` has exactly room for.
    package func decode(
        _ reader: ContainerReader, into payload: PinnedBytes
    ) throws(CodecFault) {
        try ChunkCodec.decode(
            reader, into: payload, try workspace(of: reader), profile: try profile(of: reader))
    }

    /// Decodes some layers' K and V to their places; false when the container has not all of them.
    package func decode(
        _ reader: ContainerReader, layers: Range<Int>, into payload: PinnedBytes
    ) throws(CodecFault) -> Bool {
        guard reader.layout != nil else { throw .layout }
        guard !layers.isEmpty, layers.upperBound <= reader.header.layerCount else { return false }
        try ChunkCodec.decode(
            reader, layers: layers, into: payload, try workspace(of: reader),
            profile: try profile(of: reader))
        return true
    }

    /// Decodes one layer's K or V to values; false when the container has it not, or `target` has
    /// another byte count.
    package func decode(
        _ reader: ContainerReader, layer: Int, _ kind: KVKind, as type: ValueType,
        into target: PinnedBytes
    ) throws(CodecFault) -> Bool {
        guard let layout = reader.layout else { throw .layout }
        let valueCount = reader.header.tokenCount * layout.columnCount(kind)
        guard layer < reader.header.layerCount, layout.kinds.contains(kind),
            target.count == valueCount * type.byteCount
        else { return false }
        try ChunkCodec.decode(
            reader, layer: layer, kind, as: type, into: target, try workspace(of: reader),
            profile: try profile(of: reader))
        return true
    }

    /// The symbols of one layer's K or V, as `ChunkCodec.coefficients`: nil when the container does
    /// not have them by a method with symbols. The container has the section.
    package func coefficients(
        _ reader: ContainerReader, layer: Int, _ kind: KVKind, into symbols: PinnedBytes?
    ) throws(CodecFault) -> Coefficients? {
        try ChunkCodec.coefficients(
            reader, layer: layer, kind, into: symbols, try workspace(of: reader),
            profile: try profile(of: reader))
    }

    /// The profile that a container names.
    private func profile(of reader: ContainerReader) throws(CodecFault) -> Profile? {
        guard reader.header.profile != .none else { return nil }
        guard let profile = profiles[reader.header.profile] else { throw .profileMissing }
        return profile
    }

    private func workspace(of reader: ContainerReader) throws(CodecFault) -> CodecWorkspace {
        try workspace(for: reader.layout, reader.header.payloadByteCount)
    }

    /// A workspace for payloads of that layout, made anew when the one at hand is too small.
    private func workspace(
        for layout: KVLayout?, _ payloadByteCount: Int
    ) throws(CodecFault) -> CodecWorkspace {
        guard payloadByteCount <= payloadByteCountMax else { throw .workspaceTooSmall }
        let tokenCount = layout?.tokenCount(payloadByteCount: payloadByteCount) ?? 0
        let columnCount = layout.map { max($0.columnCount(.keys), $0.columnCount(.values)) } ?? 0
        let wanted = max(1, tokenCount * columnCount)
        if let workspace, workspace.valueCountMax >= wanted { return workspace }
        workspace = nil
        let made = CodecWorkspace(valueCountMax: wanted)
        workspace = made
        return made
    }
}
