// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// What is known of a payload that is to be encoded. A value.
package struct EncodingPlan: Sendable {
    package var level: Level
    /// What the payload's bytes mean; nil: nobody knows.
    package var layout: KVLayout?
    /// Which layout the payload says it has, known or not.
    package var layoutID: LayoutID
    /// Of the first token in its sequence; nil: nobody knows.
    package var firstPosition: UInt32?
    /// What was learnt about the model, for this layout; nil: nothing.
    package var profile: Profile?
    /// Steps of mode cachegen, where they are not those of the level.
    package var quantisation: QuantisationRule?

    package init(
        level: Level, layout: KVLayout? = nil, layoutID: LayoutID = .opaque,
        firstPosition: UInt32? = nil, profile: Profile? = nil
    ) {
        self.level = level
        self.layout = layout
        self.layoutID = layout?.id ?? layoutID
        self.firstPosition = firstPosition
        self.profile = profile
    }
}

/// What `ChunkCodec.encode` made.
package struct EncodedChunk: Hashable, Sendable {
    package let mode: ContainerMode
    /// Of the container, at the start of the target.
    package let byteCount: Int
}

/// Payloads to containers and back (docs/container-format.md). No state: all memory is the
/// caller's and the workspace's. Any thread; a workspace serves one call at a time.
package enum ChunkCodec {
    /// The first tokens of a sequence stay as they are: attention rests on them.
    package static let exactTokenCount = 4

    /// What a container of a payload takes at most, whatever the level. An encoding that does not
    /// fit in less, the payload's own byte count for example, can also be left to fail.
    package static func containerByteCountMax(
        payloadByteCount: Int, layout: KVLayout? = nil
    ) -> Int {
        let pieces = payloadByteCount / ContainerHeader.pieceByteCount + 1
        // K and V, and two refinements of each.
        let sections = (layout?.layerCount ?? 0) * 6 + 3
        let rotation = 16 + (layout?.layerCount ?? 0) + 4 * (layout?.keyChannelCount ?? 0)
        let directory = max(pieces, sections) * (SectionEntry.byteCount + 63)
        return ContainerHeader.byteCount + directory + payloadByteCount + rotation
            + (layout?.description.count ?? 0)
    }

    /// Encodes `payload` at the plan's level, or by the next mode that what is known allows, into
    /// the start of `target`. Throws `targetTooSmall` alone.
    package static func encode(
        _ payload: PinnedBytes, _ plan: EncodingPlan, into target: PinnedBytes,
        _ workspace: CodecWorkspace
    ) throws(CodecFault) -> EncodedChunk {
        invariant(
            payload.count > 0 && payload.count <= Limits.chunkByteCountMax, "a chunk has bytes")
        guard plan.level >= .lossless, let layout = plan.layout,
            let tokenCount = layout.tokenCount(payloadByteCount: payload.count),
            tokenCount * layout.columnCount(.keys) <= workspace.valueCountMax,
            tokenCount * layout.columnCount(.values) <= workspace.valueCountMax
        else { return try OpaqueCodec.encode(payload, plan, into: target, workspace) }
        return try TensorEncoder(payload, plan, layout, tokenCount, workspace)
            .encode(into: target)
    }

    /// Decodes a container to exactly its payload; `payload` has the header's byte count.
    ///
    /// An embedded container's chunk gets as fine as the first `refinementCountMax` refinements
    /// make it. Throws `profileMissing` unless `profile` is the one that the container needs. The
    /// bytes in `payload` are undefined when it throws.
    package static func decode(
        _ reader: ContainerReader, into payload: PinnedBytes, _ workspace: CodecWorkspace,
        profile: Profile? = nil, refinementCountMax: Int = 2
    ) throws(CodecFault) {
        guard payload.count == reader.header.payloadByteCount else { throw .targetTooSmall }
        guard
            let decoder = try TensorDecoder(
                reader, workspace, profile, refinementCountMax: refinementCountMax)
        else {
            return try OpaqueCodec.decode(reader, into: payload, workspace)
        }
        try decoder.decodeRest(into: payload)
        try decoder.decode(layers: 0..<reader.header.layerCount, into: payload)
    }

    /// Decodes the K and V of some layers to their places in `payload`, and leaves the rest of it
    /// alone. Throws `layout` for a container that has no layers.
    package static func decode(
        _ reader: ContainerReader, layers: Range<Int>, into payload: PinnedBytes,
        _ workspace: CodecWorkspace, profile: Profile? = nil, refinementCountMax: Int = 2
    ) throws(CodecFault) {
        guard payload.count == reader.header.payloadByteCount else { throw .targetTooSmall }
        guard
            let decoder = try TensorDecoder(
                reader, workspace, profile, refinementCountMax: refinementCountMax)
        else { throw .layout }
        invariant(
            layers.lowerBound >= 0 && layers.upperBound <= reader.header.layerCount,
            "layers of the container")
        try decoder.decode(layers: layers, into: payload)
    }

    /// Decodes no more than a range of the payload needs: the layers that have bytes there. Other
    /// bytes of `payload` are undefined.
    package static func decode(
        _ reader: ContainerReader, bytes range: Range<Int>, into payload: PinnedBytes,
        _ workspace: CodecWorkspace, profile: Profile? = nil
    ) throws(CodecFault) {
        guard payload.count == reader.header.payloadByteCount,
            range.upperBound <= payload.count
        else { throw .targetTooSmall }
        guard
            let decoder = try TensorDecoder(
                reader, workspace, profile, refinementCountMax: 2)
        else {
            return try OpaqueCodec.decode(reader, into: payload, workspace)
        }
        // Nobody must see what was in this memory before, whatever a container says.
        payload.slice(offset: range.lowerBound, count: range.count).fill(0)
        try decoder.decodeRest(into: payload)
        try decoder.decode(layers: decoder.layers(meeting: range), into: payload)
    }

    /// Decodes one layer's K or V to `target`, row by row, columns in order, as `type`. `target`
    /// has their byte count. Throws `layout` for a container that has no layers.
    package static func decode(
        _ reader: ContainerReader, layer: Int, _ kind: KVKind, as type: ValueType,
        into target: PinnedBytes, _ workspace: CodecWorkspace, profile: Profile? = nil,
        refinementCountMax: Int = 2
    ) throws(CodecFault) {
        guard
            let decoder = try TensorDecoder(
                reader, workspace, profile, refinementCountMax: refinementCountMax)
        else { throw .layout }
        try decoder.decode(layer: layer, kind, as: type, into: target)
    }
}
