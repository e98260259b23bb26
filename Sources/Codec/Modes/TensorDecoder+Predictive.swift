// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Kernels

/// Containers in mode predictive: sections refer to those before them in their group, so that these
/// are decoded too.
extension TensorDecoder {
    /// A section's place in the order of decoding.
    typealias SectionName = (layer: Int, kind: KVKind)

    /// Decodes the K and V of `layers` to where `target` says, nil: nowhere, and of the layers in
    /// front of them in their group what they refer to. The last section is `last`.
    ///
    /// Cost: that of all sections from the group's first layer on.
    func decodeGroups(
        layers: Range<Int>, through last: SectionName,
        _ target: (KVKind) -> (PinnedBytes, TensorPlaces)?
    ) throws(CodecFault) {
        guard !layers.isEmpty else { return }
        let group = reader.header.groupLayerCount
        let first = layers.lowerBound / group * group
        let level = try predictiveLevel()
        for layer in first...last.layer {
            for kind in layout.kinds {
                let isInGroup = (layer + 1) % group != 0 && layer < last.layer
                let isReferredTo = isInGroup || (kind == .keys && last.kind == .values)
                try decodeOne(
                    layer: layer, kind, level: level, isReferredTo: isReferredTo,
                    into: layers.contains(layer) ? target(kind) : nil)
                if (layer, kind) == last { return }
            }
        }
    }

    /// The profile's level; nil without a profile, which is no fault before it is needed.
    private func predictiveLevel() throws(CodecFault) -> Int? {
        guard let profile else { return nil }
        let header = reader.header
        guard let index = profile.index(ofPredictive: header.level),
            profile.levels[index].group == header.groupLayerCount
        else { throw .profileUnsuitable }
        // Means before RoPE say nothing about keys at an unknown position.
        guard header.firstPosition != nil || !profile.levels[index].isBeforeRotation else {
            throw .section
        }
        return index
    }

    private func decodeOne(
        layer: Int, _ kind: KVKind, level: Int?, isReferredTo: Bool,
        into target: (payload: PinnedBytes, places: TensorPlaces)?
    ) throws(CodecFault) {
        let shape = shape(layer: layer, kind)
        let index = reader.index(layer: layer, kind)
        if reader[index].method == .predicted {
            let predictive = try predictive(shape, level: level)
            let exactRows = try predictive.decode(try reader.section(index))
            if isReferredTo { predictive.refer() }
            guard let target else { return }
            predictive.put(into: target.payload, at: target.places)
            return shape.copy(
                rows: 0..<shape.exactRowCount, .in, payload: target.payload, at: target.places,
                dense: exactRows)
        }
        if target == nil, !isReferredTo { return }
        // `converted` is not in use: a section that is to be converted has a target.
        let (payload, places) =
            target ?? (
                workspace.kernels.converted.prefix(shape.rawByteCount), TensorPlaces(dense: shape)
            )
        try decode(layer: layer, kind, into: payload, at: places)
        guard isReferredTo, level != nil, shape.element != .float8 else { return }
        try predictive(shape, level: level).refer(to: payload, at: places)
    }

    private func predictive(
        _ shape: SectionShape, level: Int?
    ) throws(CodecFault) -> Predictive {
        guard let profile, let level else { throw .profileMissing }
        return try Predictive(
            shape, of: layout, profile, level: level, rotation: rotation,
            origin: reader.header.origin, workspace)
    }
}
