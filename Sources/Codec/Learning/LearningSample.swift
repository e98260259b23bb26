// SPDX-License-Identifier: Apache-2.0
internal import Glibc
package import KVCore

/// Why nothing could be learnt. A value.
package enum LearningFault: Error, Hashable, Sendable {
    /// The payload's byte count is not one of the layout.
    case payloadDoesNotFit
    /// Where in its sequence the chunk stands is not known, and K is to be learnt before RoPE.
    case positionMissing
    /// Values of a byte are never quantised.
    case typeTooNarrow
    /// So many tokens were found; what was asked for takes at least so many.
    case tooFewTokens(found: Int, needed: Int)
    /// The room is for so many bytes, and what was asked for takes at least so many.
    case tooLittleMemory(needed: Int)
    /// The profile would have so many bytes, more than a chunk may have.
    case profileTooLarge(byteCount: Int)
    /// The numbers do not come from a model: a section is constant or what is left of it has no
    /// covariance.
    case notLearnable(layer: Int, KVKind)
}

/// Tokens of chunks to learn a profile from. Confined to its owner.
///
/// Chunks go by once; what is kept of them has a bound: when it is reached, every other token is
/// forgotten, and from then on only every second, fourth, … token of those that come is kept. The
/// same chunks in the same order leave the same tokens.
package final class LearningSample {
    package let layout: KVLayout
    /// How K turns with its position; nil: it is learnt as it is stored.
    package let rotation: Rotation?
    /// What the kept tokens may take, in bytes.
    package let byteCountMax: Int
    /// Chunks that were looked into.
    package private(set) var chunkCount = 0
    /// Tokens that could have been kept.
    package private(set) var seenTokenCount = 0
    /// Tokens with values that no lossy mode takes: infinite, not a number, or huge.
    package private(set) var unusableTokenCount = 0
    /// Every how many tokens one is kept.
    package private(set) var stride = 1
    private(set) var rows: [Row] = []
    private var angles: Angles?

    /// One token of all layers.
    struct Row {
        /// Values as they are stored: layer after layer, K before V, column after column.
        let bytes: OwnedBytes
        /// 0 where nobody needs it.
        let position: UInt32
        /// Which chunk it was in.
        let chunk: Int
    }

    /// Cosines and sines of every row's position, [row][pair].
    private struct Angles {
        let rowCount: Int
        let cosines: Floats
        let sines: Floats
    }

    /// `turnsKeysBack`: K is learnt before RoPE, as far as the layout says how it turns. Throws
    /// `typeTooNarrow`, and `tooLittleMemory` when there is no room for two tokens.
    package init(
        _ layout: KVLayout, turnsKeysBack: Bool, byteCountMax: Int
    ) throws(LearningFault) {
        guard layout.type.byteCount > 1 else { throw .typeTooNarrow }
        self.layout = layout
        self.byteCountMax = byteCountMax
        rotation =
            turnsKeysBack
            ? layout.rotation.map { Rotation($0, layerCount: layout.layerCount) } : nil
        guard byteCountMax >= 2 * tokenByteCount else {
            throw .tooLittleMemory(needed: 2 * tokenByteCount)
        }
    }

    /// Tokens that are kept.
    package var tokenCount: Int { rows.count }

    /// Bytes of a token's values.
    package var tokenByteCount: Int {
        let columns = layout.columnCount(.keys) + layout.columnCount(.values)
        return layout.layerCount * columns * layout.type.byteCount
    }

    /// Takes tokens of a chunk. `firstPosition` is that of its first token in its sequence; nil:
    /// nobody knows. The tokens that every lossy mode keeps exactly are left out. Allocates.
    package func add(
        _ payload: PinnedBytes, firstPosition: UInt32?
    ) throws(LearningFault) {
        guard let tokenCount = layout.tokenCount(payloadByteCount: payload.count) else {
            throw .payloadDoesNotFit
        }
        guard firstPosition != nil || rotation == nil else { throw .positionMissing }
        let exactCount = max(0, ChunkCodec.exactTokenCount - Int(firstPosition ?? 0))
        for token in min(exactCount, tokenCount)..<tokenCount {
            defer { seenTokenCount += 1 }
            guard seenTokenCount.isMultiple(of: stride) else { continue }
            let bytes = OwnedBytes(count: tokenByteCount)
            guard gather(payload, token, tokenCount, into: bytes.bytes) else {
                unusableTokenCount += 1
                continue
            }
            let position = (firstPosition ?? 0) &+ UInt32(token)
            rows.append(Row(bytes: bytes, position: position, chunk: chunkCount))
            if rows.count * tokenByteCount > byteCountMax { forgetEveryOther() }
        }
        chunkCount += 1
        angles = nil
    }

    private func forgetEveryOther() {
        rows = rows.indices.filter { $0.isMultiple(of: 2) }.map { rows[$0] }
        stride *= 2
    }

    /// Copies a token's values side by side; false when one of them is not a number to quantise.
    private func gather(
        _ payload: PinnedBytes, _ token: Int, _ tokenCount: Int, into target: PinnedBytes
    ) -> Bool {
        let type = layout.type
        let width = type.byteCount
        for kind in layout.kinds {
            let places = layout.places(kind, tokenCount: tokenCount)
            for layer in 0..<layout.layerCount {
                var end = sectionStart(layer: layer, kind)
                let row = places.row(layer: layer, token: token)
                for head in 0..<layout.headCount {
                    var place = row + head * places.headStride
                    for _ in 0..<layout.channelCount(kind) {
                        let bits = payload.bits(width, at: place)
                        // False for what is not a number, too.
                        guard type.widened(bits).magnitude <= Profile.magnitudeMax else {
                            return false
                        }
                        target.setBits(bits, width, at: end)
                        end += width
                        place += places.channelStride
                    }
                }
            }
        }
        return true
    }

    /// Where a section's values begin within a row.
    private func sectionStart(layer: Int, _ kind: KVKind) -> Int {
        let columns = layout.columnCount(.keys) + layout.columnCount(.values)
        let before = layer * columns + (kind == .values ? layout.columnCount(.keys) : 0)
        return before * layout.type.byteCount
    }

    // MARK: Sections

    /// The bits of one value as it is stored.
    func bits(row: Int, layer: Int, _ kind: KVKind, column: Int) -> UInt32 {
        let width = layout.type.byteCount
        return rows[row].bytes.bytes.bits(
            width, at: sectionStart(layer: layer, kind) + column * width)
    }

    /// The values of all kept tokens in one layer's K or V, K turned back if it is learnt so.
    /// Allocates; 4 bytes a value.
    func section(layer: Int, _ kind: KVKind) -> SectionRows {
        let columnCount = layout.columnCount(kind)
        let (type, width) = (layout.type, layout.type.byteCount)
        let start = sectionStart(layer: layer, kind)
        let values = Floats(count: rows.count * columnCount)
        var place = 0
        for row in rows {
            let bytes = row.bytes.bytes
            for column in 0..<columnCount {
                values[place] = type.widened(bytes.bits(width, at: start + column * width))
                place += 1
            }
        }
        if kind == .keys, let rotation, let set = rotation.setOfLayer[layer] {
            turnBack(values, rotation, rotation.turns[set])
        }
        return SectionRows(
            columnCount: columnCount, values: values, chunks: rows.map(\.chunk))
    }

    private func turnBack(_ values: Floats, _ rotation: Rotation, _ turns: [UInt64]) {
        let angles = angles(turns)
        let (step, distance) = rotation.isInterleaved ? (2, 1) : (1, turns.count)
        let columnCount = layout.columnCount(.keys)
        for row in rows.indices {
            for head in 0..<layout.headCount {
                var place = row * columnCount + head * layout.keyChannelCount
                place += rotation.firstChannel
                for pair in turns.indices {
                    let cosine = angles.cosines[row * turns.count + pair]
                    let sine = angles.sines[row * turns.count + pair]
                    let (x, y) = (values[place], values[place + distance])
                    values[place] = x * cosine + y * sine
                    values[place + distance] = y * cosine - x * sine
                    place += step
                }
            }
        }
    }

    /// Of all rows; all layers of a described rotation turn alike.
    private func angles(_ turns: [UInt64]) -> Angles {
        if let angles, angles.rowCount == rows.count { return angles }
        let made = Angles(
            rowCount: rows.count, cosines: Floats(count: rows.count * turns.count),
            sines: Floats(count: rows.count * turns.count))
        var place = 0
        for row in rows {
            for turn in turns {
                let fraction = turn &* UInt64(row.position)
                let angle = Double(fraction >> 11) * 0x1p-53 * (2 * .pi)
                made.cosines[place] = Float(cos(angle))
                made.sines[place] = Float(sin(angle))
                place += 1
            }
        }
        angles = made
        return made
    }
}

/// Values of one layer's K or V, row by row.
struct SectionRows {
    let columnCount: Int
    let values: Floats
    /// Of each row: which chunk it was in. Rows of a chunk follow each other.
    let chunks: [Int]

    var rowCount: Int { chunks.count }

    @inline(__always)
    subscript(row: Int, column: Int) -> Float { values[row * columnCount + column] }

    /// Every `stride`-th row, in memory of their own.
    func every(_ stride: Int) -> SectionRows {
        guard stride > 1 else { return self }
        let chosen = Array(Swift.stride(from: 0, to: rowCount, by: stride))
        let kept = Floats(count: chosen.count * columnCount)
        for (index, row) in chosen.enumerated() {
            for column in 0..<columnCount { kept[index * columnCount + column] = self[row, column] }
        }
        return SectionRows(
            columnCount: columnCount, values: kept, chunks: chosen.map { chunks[$0] })
    }
}
