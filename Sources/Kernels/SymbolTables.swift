// SPDX-License-Identifier: Apache-2.0
internal import CKernels
internal import KVCore

/// How often each symbol occurs, as rANS wants it: frequencies of 2,048 (docs/container-format.md,
/// section 7). A value.
package struct SymbolTable: Hashable, Sendable {
    /// What all frequencies sum up to, as a power of two.
    package static let frequencyBits = 11
    /// The symbol that stands for a value of the escape list.
    package static let escape: Int8 = -128

    /// F(-128) … F(127).
    package let frequencies: [UInt16]
    /// The symbols that are coded without an escape: the run of known ones around the likeliest.
    package let symbols: ClosedRange<Int>?

    /// Nil unless there are 256 frequencies that sum up to 2,048, and escapes can be coded.
    package init?(frequencies: [UInt16]) {
        guard frequencies.count == 256, frequencies[0] > 0,
            frequencies.reduce(0, { $0 + Int($1) }) == 1 << Self.frequencyBits
        else { return nil }
        self.frequencies = frequencies
        let known = frequencies.indices.dropFirst().filter { frequencies[$0] > 0 }
        guard var low = known.max(by: { frequencies[$0] < frequencies[$1] }) else {
            symbols = nil
            return
        }
        var high = low
        while low > 1, frequencies[low - 1] > 0 { low -= 1 }
        while high < 255, frequencies[high + 1] > 0 { high += 1 }
        symbols = low - 128...high - 128
    }
}

/// Symbol tables in the forms that kernels read. Immutable; any thread.
///
/// 9 KiB for each table.
package final class SymbolTables: Sendable {
    /// Empty for tables of refinements.
    package let tables: [SymbolTable]
    /// Of tables that follow each other for one column.
    let contextCount: Int
    /// The place of the table that costs nothing: it fills groups of fewer than 64 columns.
    let blankIndex: Int
    let decoding: [UInt32]
    let encoding: [UInt32]

    package init(_ tables: [SymbolTable]) {
        self.tables = tables
        contextCount = 1
        blankIndex = tables.count
        var decoding: [UInt32] = []
        var encoding: [UInt32] = []
        decoding.reserveCapacity((tables.count + 1) * Int(CKERNELS_SLOT_COUNT))
        encoding.reserveCapacity((tables.count + 1) * Int(CKERNELS_SYMBOL_COUNT))
        for table in tables { Self.append(table.frequencies, &decoding, &encoding) }
        // A blank column has one symbol, 0, which every slot means.
        decoding += (0..<2_048).map { $0 << 12 | 2_048 }
        encoding += (0..<256).map { _ in 2_048 << 16 }
        self.decoding = decoding
        self.encoding = encoding
    }

    /// Tables of refinements. To encode, a byte says context and symbol: context << 2 | (t + 1).
    package init(_ refinements: [RefinementTable]) {
        tables = []
        contextCount = RefinementTable.contextCount
        blankIndex = refinements.count
        var decoding: [UInt32] = []
        var encoding: [UInt32] = []
        for table in refinements {
            var entries = [UInt32](repeating: 0, count: Int(CKERNELS_SYMBOL_COUNT))
            for context in 0..<RefinementTable.contextCount {
                var cumulative: UInt32 = 0
                for place in 0..<RefinementTable.symbolCount {
                    let index = context * RefinementTable.symbolCount + place
                    let frequency = UInt32(table.frequencies[index])
                    let symbol = UInt32(UInt8(truncatingIfNeeded: place - 1))
                    entries[context << 2 | place] = frequency << 16 | cumulative
                    for slot in 0..<frequency {
                        decoding.append(symbol << 24 | slot << 12 | frequency)
                    }
                    cumulative += frequency
                }
            }
            encoding += entries
        }
        for _ in 0..<contextCount { decoding += (0..<2_048).map { $0 << 12 | 2_048 } }
        encoding += (0..<256).map { _ in 2_048 << 16 }
        self.decoding = decoding
        self.encoding = encoding
    }

    /// Adds a table in both forms.
    private static func append(
        _ frequencies: [UInt16], _ decoding: inout [UInt32], _ encoding: inout [UInt32]
    ) {
        var entries = [UInt32](repeating: 0, count: 256)
        var cumulative: UInt32 = 0
        for (index, frequency) in frequencies.enumerated() {
            let symbol = UInt8(truncatingIfNeeded: index - 128)
            let frequency = UInt32(frequency)
            entries[Int(symbol)] = frequency << 16 | cumulative
            for slot in 0..<frequency {
                decoding.append(UInt32(symbol) << 24 | slot << 12 | frequency)
            }
            cumulative += frequency
        }
        encoding += entries
    }
}

/// Columns in the order in which rANS codes them, each with its table. Immutable; any thread.
package final class CodedColumns: Sendable {
    package let columnCount: Int
    /// Of 64 columns each, the last with blank ones.
    package let groupCount: Int
    let tables: SymbolTables
    let decodingStarts: [UInt32]
    let encodingStarts: [UInt32]
    /// Of each column its place in coding order.
    let positions: [UInt32]
    /// Of each place its column; 0 for blank ones.
    let columnAt: [UInt32]

    /// Columns 0 and up, whose tables are `tableOfColumn`, coded in `order`, a permutation of them.
    package init(_ tables: SymbolTables, tableOfColumn: [Int], order: [Int]) {
        invariant(order.count == tableOfColumn.count, "every column has a place")
        let groups = (order.count + 63) / 64
        var positions = [UInt32](repeating: .max, count: order.count)
        var columnAt = [UInt32](repeating: 0, count: groups * 64)
        var chosen = [Int](repeating: tables.blankIndex, count: groups * 64)
        for (place, column) in order.enumerated() {
            invariant(positions[column] == .max, "no column has two places")
            invariant(tableOfColumn[column] < tables.blankIndex, "the table is there")
            positions[column] = UInt32(place)
            columnAt[place] = UInt32(column)
            chosen[place] = tableOfColumn[column]
        }
        columnCount = order.count
        groupCount = groups
        self.tables = tables
        self.positions = positions
        self.columnAt = columnAt
        decodingStarts = chosen.map {
            UInt32($0 * tables.contextCount) * UInt32(CKERNELS_SLOT_COUNT)
        }
        encodingStarts = chosen.map { UInt32($0) * UInt32(CKERNELS_SYMBOL_COUNT) }
    }

    /// Bytes of the packed symbols of so many rows: four rows of a column in a word.
    package func packedByteCount(rowCount: Int) -> Int {
        (rowCount + 3) / 4 * pitch * 4
    }

    /// Bytes that `RANS.encode` needs to put words in, whatever the symbols.
    package func wordAreaByteCount(rowCount: Int) -> Int {
        // CKERNELS_AREA_WORD_COUNT, which Swift does not see.
        2 * (rowCount * groupCount * 64 + 32)
    }

    /// The place of a column's table.
    func table(of column: Int) -> Int {
        Int(decodingStarts[Int(positions[column])])
            / (tables.contextCount * Int(CKERNELS_SLOT_COUNT))
    }

    /// Words of four rows of packed symbols.
    var pitch: Int { groupCount * 64 }
}
