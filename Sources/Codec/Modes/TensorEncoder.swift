// SPDX-License-Identifier: Apache-2.0
internal import KVCore

/// Encodes a payload whose layout is known, section by section.
struct TensorEncoder {
    private let payload: PinnedBytes
    private let layout: KVLayout
    private let tokenCount: Int
    private let workspace: CodecWorkspace
    private let rule: QuantisationRule?
    private let rotation: Rotation?
    private var header: ContainerHeader

    init(
        _ payload: PinnedBytes, _ plan: EncodingPlan, _ layout: KVLayout, _ tokenCount: Int,
        _ workspace: CodecWorkspace
    ) {
        self.payload = payload
        self.layout = layout
        self.tokenCount = tokenCount
        self.workspace = workspace
        rule = plan.level.isExact ? nil : plan.quantisation ?? QuantisationRule(plan.level)
        rotation =
            rule == nil
            ? nil : layout.rotation.map { Rotation($0, layerCount: layout.layerCount) }
        header = ContainerHeader(
            mode: rule == nil ? .lossless : .cachegen, level: plan.level,
            payloadByteCount: payload.count)
        header.type = layout.type
        header.layout = layout.id
        header.firstPosition = plan.firstPosition
        header.tokenCount = tokenCount
        header.layerCount = layout.layerCount
        if rule != nil { header.exactRowCount = exactRowCount }
    }

    /// Rows at the first positions of a sequence, or that may be.
    private var exactRowCount: Int {
        let first = Int(header.firstPosition ?? 0)
        return min(tokenCount, max(0, ChunkCodec.exactTokenCount - first))
    }

    func encode(into target: PinnedBytes) throws(CodecFault) -> EncodedChunk {
        let restByteCount = layout.restByteCount(tokenCount: tokenCount)
        let sectionCount =
            1 + (rotation == nil ? 0 : 1) + (restByteCount > 0 ? 1 : 0)
            + layout.layerCount * layout.kinds.count
        var writer = try ContainerWriter(target, sectionCount: sectionCount)
        try append(layout.description, to: &writer)
        if let rotation {
            guard writer.room.count >= rotation.byteCount else { throw .targetTooSmall }
            rotation.encode(into: writer.room)
            writer.append(.rotation, .raw, byteCount: rotation.byteCount)
        }
        if restByteCount > 0 { try appendRest(restByteCount, to: &writer) }
        for layer in 0..<layout.layerCount {
            for kind in layout.kinds { try append(layer: layer, kind, to: &writer) }
        }
        return EncodedChunk(mode: header.mode, byteCount: writer.finish(header))
    }

    private func append(
        _ description: [UInt8], to writer: inout ContainerWriter
    ) throws(CodecFault) {
        let room = writer.room
        guard room.count >= description.count else { throw .targetTooSmall }
        for (offset, byte) in description.enumerated() { room.store(byte, at: offset) }
        writer.append(.layout, .raw, byteCount: description.count)
    }

    /// What is not of the tensor: collected, and then packed.
    private func appendRest(
        _ byteCount: Int, to writer: inout ContainerWriter
    ) throws(CodecFault) {
        let rest = OwnedBytes(count: byteCount)
        var offset = 0
        for run in layout.restRuns(tokenCount: tokenCount) {
            rest.bytes.dropFirst(offset).copy(
                from: payload.slice(offset: run.lowerBound, count: run.count))
            offset += run.count
        }
        let packs = byteCount <= ContainerHeader.pieceByteCount
        try workspace.append(rest.bytes, to: &writer, .rest, packs: packs)
        // An owner may be let go after its last mention, though its bytes are still in use.
        withExtendedLifetime(rest) {}
    }

    private func append(
        layer: Int, _ kind: KVKind, to writer: inout ContainerWriter
    ) throws(CodecFault) {
        let shape = SectionShape(
            kind, layer: layer, of: layout, tokenCount: tokenCount,
            exactRowCount: header.exactRowCount)
        workspace.gather(shape, from: payload, at: layout.places(kind, tokenCount: tokenCount))
        let part = SectionPart(kind)
        let room = writer.room
        if let rule, room.count > 0 {
            // A quantised section larger than a raw one would be no use.
            let byteCount = Quantised.encode(
                shape, into: room.prefix(min(room.count, shape.rawByteCount)),
                rule.layerRule(kind, layer: layer, of: layout.layerCount), rotation: rotation,
                origin: header.origin, workspace)
            if let byteCount {
                return writer.append(part, number: layer, .quantised, byteCount: byteCount)
            }
        }
        let (method, byteCount) = try Planes.encode(shape, into: room, workspace)
        writer.append(part, number: layer, method, byteCount: byteCount)
    }
}
