// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Kernels

/// Memory of mode predictive: of the largest section, and how the two layers before are referred
/// to. Taken at its first use. Confined to its owner.
///
/// Some 16 bytes for each value, columns filled up to a multiple of 64.
final class PredictiveWorkspace {
    /// What the rows that are coded are predicted to be, `Float`.
    let predictions: PinnedBytes
    /// What they are before RoPE and before rounding, `Float`.
    let values: PinnedBytes
    /// Symbols, or coefficients without escapes, [row][pitch].
    let symbols: PinnedBytes
    /// One number for each row.
    let factors: PinnedBytes
    /// Sums of a row of the widest section.
    let sums: PinnedBytes
    private let scratch: PinnedBytes
    private let references: [PinnedBytes]
    private let capacity: Int
    private let memory: OwnedBytes

    init(valueCountMax: Int) {
        // A chunk with few columns fills panels badly; larger ones are coded in another way.
        capacity = valueCountMax + 1 << 16
        let rowCountMax = capacity / WholeMatrix.panelWidth
        let columnCountMax = min(capacity, KVLayout.columnCountMax)
        let scratchByteCount =
            4 * rowCountMax + capacity / 8 + rowCountMax / 2 + 3 * columnCountMax + 256
        let counts =
            [4 * capacity, 4 * capacity, capacity, 4 * rowCountMax, 4 * columnCountMax]
            + [scratchByteCount] + Array(repeating: capacity, count: 6)
        memory = OwnedBytes(count: counts.reduce(0) { $0 + ($1 + 63) & ~63 })
        var rest = memory.bytes
        let taken = counts.map { count in
            defer { rest = rest.dropFirst((count + 63) & ~63) }
            return rest.prefix(count)
        }
        (predictions, values, symbols) = (taken[0], taken[1], taken[2])
        (factors, sums, scratch) = (taken[3], taken[4], taken[5])
        references = Array(taken[6...])
    }

    /// Whether a section of so many coded rows has room.
    func fits(rowCount: Int, columnCount: Int) -> Bool {
        let pitch = WholeMatrix.panelCount(columnCount) * WholeMatrix.panelWidth
        return rowCount * pitch <= capacity
    }

    /// How a section is referred to: bytes [row][pitch]. Those of three layers are kept.
    func references(layer: Int, _ kind: KVKind) -> PinnedBytes {
        references[layer % 3 * 2 + Int(kind.rawValue)]
    }

    func scratch(rowCount: Int) -> PredictedColumns.Scratch {
        PredictedColumns.Scratch(scratch, rowCount: rowCount)
    }
}
