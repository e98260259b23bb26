// SPDX-License-Identifier: Apache-2.0
internal import KVCore

/// Decodes the sections of a container whose layout is known.
struct TensorDecoder {
    let reader: ContainerReader
    let layout: KVLayout
    private let tokenCount: Int
    let rotation: Rotation?
    let workspace: CodecWorkspace
    /// The one that the container names; nil: it names none, or another.
    let profile: Profile?
    /// How many refinements of an embedded container are looked at.
    private let refinementCount: Int

    /// Nil for a container of opaque pieces. `refinementCountMax`: of an embedded container.
    init?(
        _ reader: ContainerReader, _ workspace: CodecWorkspace, _ profile: Profile?,
        refinementCountMax: Int
    ) throws(CodecFault) {
        guard let layout = reader.layout else { return nil }
        self.reader = reader
        self.layout = layout
        self.workspace = workspace
        refinementCount = min(refinementCountMax, reader.refinementCount)
        let isNamed =
            profile?.hash == reader.header.profile && profile?.layout == reader.header.layout
        self.profile = isNamed ? profile : nil
        tokenCount = reader.header.tokenCount
        guard
            tokenCount * max(layout.columnCount(.keys), layout.columnCount(.values))
                <= workspace.valueCountMax
        else { throw .workspaceTooSmall }
        if let index = reader.index(of: .rotation) {
            guard let rotation = Rotation(try reader.section(index), of: layout) else {
                throw .section
            }
            self.rotation = rotation
        } else {
            rotation = nil
        }
    }

    /// Puts the bytes that are not of the tensor to their places.
    func decodeRest(into payload: PinnedBytes) throws(CodecFault) {
        guard let index = reader.index(of: .rest) else { return }
        let rest = OwnedBytes(count: layout.restByteCount(tokenCount: tokenCount))
        try workspace.unpack(try reader.section(index), reader[index].method, into: rest.bytes)
        var offset = 0
        for run in layout.restRuns(tokenCount: tokenCount) {
            payload.slice(offset: run.lowerBound, count: run.count)
                .copy(from: rest.bytes.slice(offset: offset, count: run.count))
            offset += run.count
        }
        // An owner may be let go after its last mention, though its bytes are still in use.
        withExtendedLifetime(rest) {}
    }

    func decode(layers: Range<Int>, into payload: PinnedBytes) throws(CodecFault) {
        guard !layers.isEmpty else { return }
        if reader.header.mode == .predictive {
            let end = (layer: layers.upperBound - 1, kind: layout.kinds.last ?? .keys)
            return try decodeGroups(layers: layers, through: end) { kind in
                (payload, layout.places(kind, tokenCount: tokenCount))
            }
        }
        for kind in layout.kinds {
            let places = layout.places(kind, tokenCount: tokenCount)
            for layer in layers {
                try decode(layer: layer, kind, into: payload, at: places)
            }
        }
    }

    /// The layers that have bytes in a range of the payload, and what is between them.
    func layers(meeting range: Range<Int>) -> Range<Int> {
        var met: [Int] = []
        for kind in layout.kinds {
            let places = layout.places(kind, tokenCount: tokenCount)
            met += (0..<layout.layerCount).filter {
                places.extent(
                    layer: $0, tokenCount: tokenCount, valueByteCount: layout.type.byteCount
                ).overlaps(range)
            }
        }
        guard let first = met.min(), let last = met.max() else { return 0..<0 }
        return first..<last + 1
    }

    func decode(
        layer: Int, _ kind: KVKind, as type: ValueType, into target: PinnedBytes
    ) throws(CodecFault) {
        let shape = shape(layer: layer, kind)
        guard target.count == shape.valueCount * type.byteCount else { throw .targetTooSmall }
        let dense = TensorPlaces(dense: shape)
        if type == shape.type {
            return try decode(layer: layer, kind, alone: target, at: dense)
        }
        let values = workspace.kernels.converted.prefix(shape.rawByteCount)
        try decode(layer: layer, kind, alone: values, at: dense)
        workspace.load(rows: 0..<shape.rowCount, shape, from: values)
        workspace.store(shape, as: type, into: target)
    }

    /// Decodes one section, and no more of others than it needs.
    private func decode(
        layer: Int, _ kind: KVKind, alone target: PinnedBytes, at places: TensorPlaces
    ) throws(CodecFault) {
        guard reader.header.mode == .predictive else {
            return try decode(layer: layer, kind, into: target, at: places)
        }
        try decodeGroups(layers: layer..<layer + 1, through: (layer, kind)) { which in
            which == kind ? (target, places) : nil
        }
    }

    func shape(layer: Int, _ kind: KVKind) -> SectionShape {
        SectionShape(
            kind, layer: layer, of: layout, tokenCount: tokenCount,
            exactRowCount: reader.header.exactRowCount)
    }

    /// Decodes one section to its places in `payload`; not one of method predicted.
    func decode(
        layer: Int, _ kind: KVKind, into payload: PinnedBytes, at places: TensorPlaces
    ) throws(CodecFault) {
        let shape = shape(layer: layer, kind)
        let index = reader.index(layer: layer, kind)
        let section = try reader.section(index)
        switch reader[index].method {
        case .exponent:
            guard let profile else { throw .profileMissing }
            guard let columns = profile.splitColumns(layer: layer, kind) else {
                throw .profileUnsuitable
            }
            try Exponent(shape: shape, columns: columns, memory: workspace.kernels)
                .decode(section, into: payload, at: places)
        case .scalar:
            var refinements: [PinnedBytes] = []
            for number in 0..<refinementCount {
                let index = reader.index(layer: layer, kind, refinement: number + 1)
                refinements.append(try reader.section(index))
            }
            try scalar(shape).decode(
                section, refinements: refinements, into: payload, at: places)
        default:
            try decode(section, reader[index].method, shape)
            workspace.scatter(shape, into: payload, at: places)
        }
    }

    /// What decodes a section of method scalar.
    private func scalar(_ shape: SectionShape) throws(CodecFault) -> Scalar {
        guard let profile else { throw .profileMissing }
        guard let level = profile.index(ofScalar: reader.header.level) else {
            throw .profileUnsuitable
        }
        // Means before RoPE say nothing about keys at an unknown position.
        guard reader.header.firstPosition != nil || !profile.levels[level].isBeforeRotation else {
            throw .section
        }
        return try Scalar(
            shape, profile, level: level, isEmbedded: reader.header.isEmbedded,
            rotation: rotation, origin: reader.header.origin, workspace)
    }

    /// Decodes a section that needs no profile into the bits of the workspace.
    private func decode(
        _ section: PinnedBytes, _ method: SectionMethod, _ shape: SectionShape
    ) throws(CodecFault) {
        switch method {
        case .raw:
            guard section.count == shape.rawByteCount else { throw .section }
            workspace.load(rows: 0..<tokenCount, shape, from: section)
        case .planes:
            try Planes.decode(shape, from: section, workspace)
        case .quantised:
            try Quantised.decode(
                shape, from: section, rotation: rotation, origin: reader.header.origin, workspace)
        // Other sections are needed for it: `decodeGroups` decodes it in mode predictive.
        case .zstd, .exponent, .scalar, .predicted: throw .section
        }
    }
}

extension CodecWorkspace {
    /// Writes the values row by row as another type: rounded where it is narrower. What is too
    /// large for it, or not finite, becomes its largest number; as float32 it stays what it is.
    func store(_ shape: SectionShape, as type: ValueType, into target: PinnedBytes) {
        for index in 0..<shape.valueCount {
            let bits = type.narrowed(shape.type.widened(bits[index]))
            target.setBits(bits, type.byteCount, at: index * type.byteCount)
        }
    }
}
