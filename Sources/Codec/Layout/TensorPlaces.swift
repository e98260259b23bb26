// SPDX-License-Identifier: Apache-2.0

/// Where the values of one kind stand in a payload of a given number of tokens: a start and a
/// stride in bytes for each axis. A value; serves every order of axes alike.
package struct TensorPlaces: Hashable, Sendable {
    /// Place of layer 0, token 0, head 0, channel 0.
    package fileprivate(set) var start = 0
    package fileprivate(set) var layerStride = 0
    /// Tokens of a block, or all tokens.
    package let blockTokenCount: Int
    package fileprivate(set) var blockStride = 0
    package fileprivate(set) var tokenStride = 0
    package fileprivate(set) var headStride = 0
    package fileprivate(set) var channelStride = 0
    package let headCount: Int
    package let channelCount: Int

    /// One section alone, row by row.
    init(dense shape: SectionShape) {
        blockTokenCount = shape.rowCount
        headCount = shape.headCount
        channelCount = shape.channelCount
        channelStride = shape.type.byteCount
        headStride = channelStride * channelCount
        tokenStride = headStride * headCount
    }

    /// Of all layers, in a payload.
    fileprivate init(blockTokenCount: Int, headCount: Int, channelCount: Int) {
        self.blockTokenCount = blockTokenCount
        self.headCount = headCount
        self.channelCount = channelCount
    }

    /// Place of the first value of a token in a layer.
    @inline(__always)
    package func row(layer: Int, token: Int) -> Int {
        let (block, slot) = token.quotientAndRemainder(dividingBy: blockTokenCount)
        return start + layer * layerStride + block * blockStride + slot * tokenStride
    }

    /// From the first byte to the last of a layer, whose tokens may stand between those of others.
    func extent(layer: Int, tokenCount: Int, valueByteCount: Int) -> Range<Int> {
        let last =
            row(layer: layer, token: tokenCount - 1) + (headCount - 1) * headStride
            + (channelCount - 1) * channelStride
        return row(layer: layer, token: 0)..<last + valueByteCount
    }
}

extension KVLayout {
    /// Where K or V stands in a payload of `tokenCount` tokens, which fits `tokenCount(payload…)`.
    package func places(_ kind: KVKind, tokenCount: Int) -> TensorPlaces {
        var places = TensorPlaces(
            blockTokenCount: blockTokenCount == 0 ? tokenCount : blockTokenCount,
            headCount: headCount, channelCount: channelCount(kind))
        let order = kind == .keys ? axes.keys : axes.values
        // What stands inside the axes looked at so far, and where the kind's own values begin.
        var inside = type.byteCount
        for (depth, axis) in order.enumerated().reversed() {
            let sectionDepth = valueChannelCount == 0 ? 1 : 2
            if depth == sectionDepth - 1, sectionLeadByteCount > 0 {
                places.start += sectionLeadByteCount
                inside += sectionLeadByteCount
            }
            switch axis {
            case .channel: places.channelStride = inside
            case .head: places.headStride = inside
            case .token: places.tokenStride = inside
            case .block: places.blockStride = inside
            case .layer: places.layerStride = inside
            case .kv:
                let keys = innerByteCount(.keys, below: depth, tokenCount)
                let values = innerByteCount(.values, below: depth, tokenCount)
                if kind == .values { places.start += keys }
                inside = keys + values
                continue
            }
            inside *= count(of: axis, kind, tokenCount)
        }
        places.start += leadByteCount + leadByteCountPerToken * tokenCount
        return places
    }

    /// Bytes of what stands inside the axis at `depth`.
    private func innerByteCount(_ kind: KVKind, below depth: Int, _ tokenCount: Int) -> Int {
        let inner = (kind == .keys ? axes.keys : axes.values).dropFirst(depth + 1)
        let tensor = inner.reduce(type.byteCount) { $0 * count(of: $1, kind, tokenCount) }
        let hasLayers = inner.contains(.layer)
        return tensor + sectionLeadByteCount * (hasLayers ? layerCount : 1)
    }

    private func count(of axis: Axis, _ kind: KVKind, _ tokenCount: Int) -> Int {
        switch axis {
        case .layer: layerCount
        case .kv: 1
        case .block: tokenCount / blockTokenCount
        case .token: blockTokenCount == 0 ? tokenCount : blockTokenCount
        case .head: headCount
        case .channel: channelCount(kind)
        }
    }

    /// The runs of the payload that are not of the tensor, in order; at most one per section and
    /// one more.
    package func restRuns(tokenCount: Int) -> [Range<Int>] {
        let lead = leadByteCount + leadByteCountPerToken * tokenCount
        var runs = lead > 0 ? [0..<lead] : []
        guard sectionLeadByteCount > 0 else { return runs }
        for kind in kinds {
            let places = places(kind, tokenCount: tokenCount)
            for layer in 0..<layerCount {
                let end = places.start + layer * places.layerStride
                runs.append(end - sectionLeadByteCount..<end)
            }
        }
        return runs.sorted { $0.lowerBound < $1.lowerBound }
    }

    /// Bytes of a payload of so many tokens that are not of the tensor.
    func restByteCount(tokenCount: Int) -> Int {
        leadByteCount + leadByteCountPerToken * tokenCount
            + sectionLeadByteCount * layerCount * kinds.count
    }
}
