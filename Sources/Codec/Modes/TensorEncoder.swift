// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Kernels

/// Encodes a payload whose layout is known, section by section.
struct TensorEncoder {
    private let payload: PinnedBytes
    private let layout: KVLayout
    private let tokenCount: Int
    private let workspace: CodecWorkspace
    private let rule: QuantisationRule?
    private let profile: Profile?
    /// The profile's level in mode predictive.
    private let predictiveLevel: Int?
    /// The same in mode scalar, where there is none in mode predictive.
    private let scalarLevel: Int?
    private let rotation: Rotation?
    private let refinements = RefinementList()
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
        let turns = plan.firstPosition != nil && known != nil
        predictiveLevel = profile?.index(ofPredictive: plan.level, turns: turns).flatMap {
            Self.canPredict(layout, tokenCount, workspace) ? $0 : nil
        }
        scalarLevel =
            predictiveLevel == nil ? profile?.index(ofScalar: plan.level, turns: turns) : nil
        let isCoded = predictiveLevel != nil || scalarLevel != nil
        let isOfUse = rule == nil ? profile?.hasLosslessColumns ?? false : isCoded
        self.profile = isOfUse ? profile : nil
        rotation = rule == nil ? nil : isCoded ? known : described
        let lossy: ContainerMode =
            predictiveLevel != nil ? .predictive : scalarLevel != nil ? .scalar : .cachegen
        header = ContainerHeader(
            mode: rule == nil ? .lossless : lossy, level: plan.level,
            payloadByteCount: payload.count)
        header.profile = self.profile?.hash ?? .none
        header.type = layout.type
        header.layout = layout.id
        header.firstPosition = plan.firstPosition
        header.tokenCount = tokenCount
        header.layerCount = layout.layerCount
        if let profile, let predictiveLevel {
            header.groupLayerCount = profile.levels[predictiveLevel].group
        }
        if rule != nil { header.exactRowCount = exactRowCount }
        header.isEmbedded = scalarLevel.map { profile?.levels[$0].isEmbedded ?? false } ?? false
    }

    /// Whether mode predictive has kernels for the values, and room.
    private static func canPredict(
        _ layout: KVLayout, _ tokenCount: Int, _ workspace: CodecWorkspace
    ) -> Bool {
        layout.type.byteCount > 1
            && layout.kinds.allSatisfy {
                workspace.predictive.fits(
                    rowCount: tokenCount, columnCount: layout.columnCount($0))
            }
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
            * (header.isEmbedded ? 1 + EmbeddedColumns.refinementCountMax : 1)
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
        try refinements.append(to: &writer)
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
        if let predictive = try predictive(shape) {
            let limit = min(room.count, shape.rawByteCount)
            if let byteCount = predictive.encode(payload, at: places, into: room.prefix(limit)) {
                predictive.refer()
                return writer.append(part, number: layer, .predicted, byteCount: byteCount)
            }
        }
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
                try referToQuantised(room.prefix(byteCount), shape)
                return writer.append(part, number: layer, .quantised, byteCount: byteCount)
            }
        }
        let (method, byteCount) = try Planes.encode(shape, into: room, workspace)
        try predictive(shape)?.refer(to: payload, at: places)
        writer.append(part, number: layer, method, byteCount: byteCount)
    }

    /// What encodes a section in mode predictive; nil in another.
    private func predictive(_ shape: SectionShape) throws(CodecFault) -> Predictive? {
        guard let profile, let predictiveLevel else { return nil }
        return try Predictive(
            shape, of: layout, profile, level: predictiveLevel, rotation: rotation,
            origin: header.origin, workspace)
    }

    /// Lets later sections refer to what a reader decodes from a quantised one.
    private func referToQuantised(
        _ section: PinnedBytes, _ shape: SectionShape
    ) throws(CodecFault) {
        guard predictiveLevel != nil else { return }
        try Quantised.decode(
            shape, from: section, rotation: rotation, origin: header.origin, workspace)
        let decoded = workspace.kernels.converted.prefix(shape.rawByteCount)
        let places = TensorPlaces(dense: shape)
        workspace.scatter(shape, into: decoded, at: places)
        try predictive(shape)?.refer(to: decoded, at: places)
    }

    /// Encodes a section by what the profile says; nil when that does not win.
    private func encodeByProfile(
        _ shape: SectionShape, at places: TensorPlaces, into room: PinnedBytes
    ) throws(CodecFault) -> (SectionMethod, Int)? {
        guard let profile, predictiveLevel == nil else { return nil }
        let room = room.prefix(min(room.count, shape.rawByteCount))
        if let scalarLevel {
            let scalar = try Scalar(
                shape, profile, level: scalarLevel, isEmbedded: header.isEmbedded,
                rotation: rotation, origin: header.origin, workspace)
            guard let byteCount = scalar.encode(payload, at: places, into: room),
                scalar.encodeRefinements(into: refinements, byteCountMax: room.count - byteCount)
            else { return nil }
            return (.scalar, byteCount)
        }
        guard let columns = profile.splitColumns(layer: shape.layer, shape.kind) else {
            return nil
        }
        return Exponent(shape: shape, columns: columns, memory: workspace.kernels)
            .encode(payload, at: places, into: room).map { (.exponent, $0) }
    }
}
