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
/// Some 14 bytes for each value of the largest section, and 2 MiB; with profiles 12 bytes more.
package final class CodecWorkspace {
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
        switch shape.type.byteCount {
        case 1: gather(UInt8.self, shape, from: payload, at: places)
        case 2: gather(UInt16.self, shape, from: payload, at: places)
        default: gather(UInt32.self, shape, from: payload, at: places)
        }
    }

    private func gather<Bits: FixedWidthInteger & BitwiseCopyable>(
        _ type: Bits.Type, _ shape: SectionShape, from payload: PinnedBytes,
        at places: TensorPlaces
    ) {
        let bits = bits
        var index = 0
        for row in 0..<shape.rowCount {
            let start = places.row(layer: shape.layer, token: row)
            for head in 0..<shape.headCount {
                var place = start + head * places.headStride
                for _ in 0..<shape.channelCount {
                    bits[index] = UInt32(truncatingIfNeeded: payload.load(Bits.self, at: place))
                    index += 1
                    place += places.channelStride
                }
            }
        }
    }

    /// Puts the bits of a layer's K or V into a payload.
    func scatter(_ shape: SectionShape, into payload: PinnedBytes, at places: TensorPlaces) {
        switch shape.type.byteCount {
        case 1: scatter(UInt8.self, shape, into: payload, at: places)
        case 2: scatter(UInt16.self, shape, into: payload, at: places)
        default: scatter(UInt32.self, shape, into: payload, at: places)
        }
    }

    private func scatter<Bits: FixedWidthInteger & BitwiseCopyable>(
        _ type: Bits.Type, _ shape: SectionShape, into payload: PinnedBytes,
        at places: TensorPlaces
    ) {
        let bits = bits
        var index = 0
        for row in 0..<shape.rowCount {
            let start = places.row(layer: shape.layer, token: row)
            for head in 0..<shape.headCount {
                var place = start + head * places.headStride
                for _ in 0..<shape.channelCount {
                    payload.store(Bits(truncatingIfNeeded: bits[index]), at: place)
                    index += 1
                    place += places.channelStride
                }
            }
        }
    }

    /// Writes the bits of rows `rows`, as method raw has them.
    func store(rows: Range<Int>, _ shape: SectionShape, into target: PinnedBytes) {
        let width = shape.type.byteCount
        let first = rows.lowerBound * shape.columnCount
        let bits = bits
        for index in 0..<rows.count * shape.columnCount {
            let value = bits[first + index]
            switch width {
            case 1: target.store(UInt8(truncatingIfNeeded: value), at: index)
            case 2: target.store(UInt16(truncatingIfNeeded: value), at: 2 * index)
            default: target.store(value, at: 4 * index)
            }
        }
    }

    /// Reads what `store` wrote; `source` has exactly those bytes.
    func load(rows: Range<Int>, _ shape: SectionShape, from source: PinnedBytes) {
        let width = shape.type.byteCount
        let first = rows.lowerBound * shape.columnCount
        let bits = bits
        for index in 0..<rows.count * shape.columnCount {
            switch width {
            case 1: bits[first + index] = UInt32(source.load(UInt8.self, at: index))
            case 2: bits[first + index] = UInt32(source.load(UInt16.self, at: 2 * index))
            default: bits[first + index] = source.load(UInt32.self, at: 4 * index)
            }
        }
    }
}
