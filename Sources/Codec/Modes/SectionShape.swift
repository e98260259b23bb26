// SPDX-License-Identifier: Apache-2.0
internal import KVCore

/// One layer's K or V: T rows of C columns, a column being a head and a channel. A value.
package struct SectionShape: Hashable, Sendable {
    package let kind: KVKind
    package let layer: Int
    /// T.
    package let rowCount: Int
    package let headCount: Int
    /// Channels of a head.
    package let channelCount: Int
    /// E: rows that are stored as they are.
    package let exactRowCount: Int
    package let type: ValueType

    package init(
        _ kind: KVKind, layer: Int, of layout: KVLayout, tokenCount: Int, exactRowCount: Int
    ) {
        self.kind = kind
        self.layer = layer
        rowCount = tokenCount
        headCount = layout.headCount
        channelCount = layout.channelCount(kind)
        self.exactRowCount = exactRowCount
        type = layout.type
    }

    /// C.
    package var columnCount: Int { headCount * channelCount }
    package var valueCount: Int { rowCount * columnCount }
    /// Bytes of the section as method raw has it.
    package var rawByteCount: Int { valueCount * type.byteCount }
    /// Bytes of the exact rows.
    package var exactByteCount: Int { exactRowCount * columnCount * type.byteCount }
}

/// What the codec needs to work with: arrays of the largest section, and a zstd context. Allocated
/// once; for one chunk at a time, on one thread at a time.
///
/// Some 14 bytes for each value of the largest section, and 2 MiB; with profiles 12 bytes more,
/// in mode predictive 16 more.
package final class CodecWorkspace {
    /// Memory that it takes at most, for each value and besides, once every mode was used.
    package static let byteCountPerValue = 62
    package static let byteCountBesides = 4 << 20

    /// Values of the largest section that can be encoded or decoded with it.
    package let valueCountMax: Int
    /// The values' bits, row by row.
    let bits: Words
    /// The values as numbers, row by row.
    let values: Floats
    /// A byte for each value.
    var symbols: PinnedBytes { symbolMemory.bytes }
    var angles: RotationAngles
    /// One number for each column, one for each row.
    var columns: ColumnStatistics
    var escapes: [Escape] = []
    let zstd: Zstd
    /// Made for the first section that is coded with a profile.
    private(set) lazy var kernels = KernelWorkspace(valueCountMax: valueCountMax)
    /// Made for the first section of mode predictive.
    private(set) lazy var predictive = PredictiveWorkspace(valueCountMax: valueCountMax)
    private let symbolMemory: OwnedBytes

    package init(valueCountMax: Int = 1 << 20) {
        let count = max(1, min(valueCountMax, KVLayout.sectionValueCountMax))
        self.valueCountMax = count
        bits = Words(count: count)
        values = Floats(count: count)
        symbolMemory = OwnedBytes(count: count)
        angles = RotationAngles(angleCountMax: (count + 1) / 2)
        columns = ColumnStatistics(countMax: min(count, KVLayout.columnCountMax))
        escapes.reserveCapacity(count / Escape.shareMax + 1)
        zstd = Zstd(byteCountMax: max(count, ContainerHeader.pieceByteCount))
    }

    /// Takes the bits of a layer's K or V out of a payload.
    func gather(_ shape: SectionShape, from payload: PinnedBytes, at places: TensorPlaces) {
        let (bits, width, stride) = (bits, shape.type.byteCount, places.channelStride)
        var index = 0
        for row in 0..<shape.rowCount {
            let start = places.row(layer: shape.layer, token: row)
            for head in 0..<shape.headCount {
                var place = start + head * places.headStride
                for _ in 0..<shape.channelCount {
                    bits[index] = payload.bits(width, at: place)
                    index += 1
                    place += stride
                }
            }
        }
    }

    /// Puts the bits of a layer's K or V into a payload.
    func scatter(_ shape: SectionShape, into payload: PinnedBytes, at places: TensorPlaces) {
        let (bits, width, stride) = (bits, shape.type.byteCount, places.channelStride)
        var index = 0
        for row in 0..<shape.rowCount {
            let start = places.row(layer: shape.layer, token: row)
            for head in 0..<shape.headCount {
                var place = start + head * places.headStride
                for _ in 0..<shape.channelCount {
                    payload.setBits(bits[index], width, at: place)
                    index += 1
                    place += stride
                }
            }
        }
    }

    /// Writes the bits of rows `rows`, as method raw has them.
    func store(rows: Range<Int>, _ shape: SectionShape, into target: PinnedBytes) {
        let (bits, width) = (bits, shape.type.byteCount)
        let first = rows.lowerBound * shape.columnCount
        for index in 0..<rows.count * shape.columnCount {
            target.setBits(bits[first + index], width, at: index * width)
        }
    }

    /// Reads what `store` wrote; `source` has exactly those bytes.
    func load(rows: Range<Int>, _ shape: SectionShape, from source: PinnedBytes) {
        let (bits, width) = (bits, shape.type.byteCount)
        let first = rows.lowerBound * shape.columnCount
        for index in 0..<rows.count * shape.columnCount {
            bits[first + index] = source.bits(width, at: index * width)
        }
    }
}
