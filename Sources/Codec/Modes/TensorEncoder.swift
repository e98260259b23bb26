// SPDX-License-Identifier: Apache-2.0
internal import KVCore

/// Encodes a payload whose layout is known, section by section.
struct TensorEncoder {
    private let payload: PinnedBytes
    private let layout: KVLayout
    private let tokenCount: Int
    private let workspace: CodecWorkspace
    private let rule: QuantisationRule?
    private let profile: Profile?
    /// The profile's level in mode scalar.
    private let scalarLevel: Int?
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
        let profile = plan.profile?.layout == layout.id ? plan.profile : nil
        let described = layout.rotation.map { Rotation($0, layerCount: layout.layerCount) }
        let known = profile?.rotation ?? described
        // What is stored before RoPE needs its position, and how it turns.
        scalarLevel = profile?.index(
            ofScalar: plan.level, turns: plan.firstPosition != nil && known != nil)
        let isOfUse = rule == nil ? profile?.hasLosslessColumns ?? false : scalarLevel != nil
        self.profile = isOfUse ? profile : nil
        rotation = rule == nil ? nil : scalarLevel == nil ? described : known
        let lossy: ContainerMode = scalarLevel == nil ? .cachegen : .scalar
        header = ContainerHeader(
            mode: rule == nil ? .lossless : lossy, level: plan.level,
            payloadByteCount: payload.count)
        header.profile = self.profile?.hash ?? .none
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
        let places = layout.places(kind, tokenCount: tokenCount)
        let part = SectionPart(kind)
        let room = writer.room
        if let (method, byteCount) = try encodeByProfile(shape, at: places, into: room) {
            return writer.append(part, number: layer, method, byteCount: byteCount)
        }
        workspace.gather(shape, from: payload, at: places)
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

    /// Encodes a section by what the profile says; nil when that does not win.
    private func encodeByProfile(
        _ shape: SectionShape, at places: TensorPlaces, into room: PinnedBytes
    ) throws(CodecFault) -> (SectionMethod, Int)? {
        guard let profile else { return nil }
        let room = room.prefix(min(room.count, shape.rawByteCount))
        if let scalarLevel {
            let scalar = try Scalar(
                shape, profile, level: scalarLevel, rotation: rotation, origin: header.origin,
                workspace)
            return scalar.encode(payload, at: places, into: room).map { (.scalar, $0) }
        }
        guard let columns = profile.splitColumns(layer: shape.layer, shape.kind) else {
            return nil
        }
        return Exponent(shape: shape, columns: columns, memory: workspace.kernels)
            .encode(payload, at: places, into: room).map { (.exponent, $0) }
    }
}
