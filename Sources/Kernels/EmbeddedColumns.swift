// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// How often -1, 0 and 1 refine a symbol, in each of four contexts (docs/container-format.md,
/// section 9). A value.
package struct RefinementTable: Hashable, Sendable {
    package static let contextCount = 4
    static let symbolCount = 3

    /// F(-1), F(0), F(1) of each context.
    package let frequencies: [UInt16]

    /// Nil unless there are four times three frequencies, each three of which sum up to 2,048.
    package init?(frequencies: [UInt16]) {
        guard frequencies.count == Self.contextCount * Self.symbolCount else { return nil }
        for first in stride(from: 0, to: frequencies.count, by: Self.symbolCount) {
            let sum = frequencies[first..<first + Self.symbolCount].reduce(0) { $0 + Int($1) }
            guard sum == 1 << SymbolTable.frequencyBits else { return nil }
        }
        self.frequencies = frequencies
    }

    /// Whether every symbol can be coded in every context: what a writer needs.
    package var isWhole: Bool { frequencies.allSatisfy { $0 > 0 } }
}

/// How one layer's K or V is coded so that a reader may stop early: cells of nine steps, and two
/// refinements, each of which cuts a cell in three (mode scalar, embedded). Immutable; any thread.
///
/// Some 250 bytes for each column.
package final class EmbeddedColumns: Sendable {
    package static let refinementCountMax = 2

    /// By the number of refinements that a reader takes, 0 to 2: cells of 9, 3 or 1 steps.
    package let stops: [ScaledColumns]
    /// How the first and the second refinement are coded.
    package let refinements: [CodedColumns]
    private let tables: SymbolTables
    /// Of each refinement, of each column, head after head: the place of its table.
    private let tableOfColumn: [[Int]]

    /// `stops` have the same columns, tables and order; `tables` those of the refinements.
    package init(_ stops: [ScaledColumns], _ tables: SymbolTables, tableOfColumn: [[Int]]) {
        invariant(stops.count == Self.refinementCountMax + 1, "a reader may stop at three places")
        invariant(tableOfColumn.count == Self.refinementCountMax, "two refinements")
        self.stops = stops
        self.tables = tables
        self.tableOfColumn = tableOfColumn
        refinements = tableOfColumn.map { stops[0].coded(tables, tableOfColumn: $0) }
    }

    /// The same columns with other channels turning. Allocates: to be kept if that happens often.
    package func turning(_ rotated: RotatedChannels) -> EmbeddedColumns {
        EmbeddedColumns(
            stops.map { $0.turning(rotated) }, tables, tableOfColumn: tableOfColumn)
    }

    package var rotated: RotatedChannels { stops[0].rotated }

    /// Bytes of the packed symbols of so many rows, and of both refinements.
    package func packedByteCount(rowCount: Int) -> Int {
        (1 + Self.refinementCountMax) * stops[0].coded.packedByteCount(rowCount: rowCount)
    }

    /// As `ScaledColumns.quantise`. `packed` gets the symbols and, `stride` bytes behind them and
    /// behind those, what `RANS.encode` takes as the refinements' symbols.
    package func quantise(
        _ tensor: TensorView, angles: ScaledColumns.Angles? = nil,
        inverseFactors: PinnedBytes? = nil, into packed: PinnedBytes, stride: Int,
        escapes: PinnedBytes, width: KernelWidth = .widest
    ) -> Int? {
        stops[Self.refinementCountMax].quantise(
            tensor, angles: angles, inverseFactors: inverseFactors, into: packed,
            refinements: .init(stride: stride), escapes: escapes, width: width)
    }

    /// As `ScaledColumns.restore`, with the first `refinementCount` refinements, which stand as in
    /// `quantise`, but for their symbols being -1, 0 and 1.
    package func restore(
        _ packed: PinnedBytes, refinementCount: Int, stride: Int,
        angles: ScaledColumns.Angles? = nil, factors: PinnedBytes? = nil, escapes: PinnedBytes,
        escapeCount: Int, into tensor: TensorView, width: KernelWidth = .widest
    ) -> Bool {
        stops[refinementCount].restore(
            packed,
            refinements: .init(
                stride: stride, count: refinementCount,
                escapeColumns: stops[Self.refinementCountMax]),
            angles: angles, factors: factors, escapes: escapes, escapeCount: escapeCount,
            into: tensor, width: width)
    }
}
