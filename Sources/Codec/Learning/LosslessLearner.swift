// SPDX-License-Identifier: Apache-2.0
internal import Glibc

/// Tables for mode lossless: of each column an offset of its exponents, and one of a few tables
/// (docs/container-format.md, section 8).
struct LosslessLearner {
    /// Few, so that they stay in a core's first cache.
    private static let tableCount = 4
    private static let priorCount = 64.0
    private static let roundCount = 12

    /// [column][symbol + 128], over all columns of all sections in the order of `add`.
    private var counts: [[Double]] = []
    /// Of each column: the median of its exponents.
    private var offsets: [UInt8] = []

    /// Adds the columns of a section; `exponent` is the high byte of a value that is split.
    mutating func add(
        columnCount: Int, rowCount: Int, exponent: (_ row: Int, _ column: Int) -> UInt8
    ) {
        for column in 0..<columnCount {
            var found = [Int](repeating: 0, count: 256)
            for row in 0..<rowCount { found[Int(exponent(row, column))] += 1 }
            let offset = Self.median(found, rowCount)
            offsets.append(UInt8(offset))
            counts.append(
                (0..<256).map { symbol in
                    // The symbol of place p is p - 128, and the exponent that plus the offset.
                    Double(found[(symbol + 128 + offset) & 255])
                })
        }
    }

    /// The lower one of the two in the middle and the higher one, their mean rounded down.
    private static func median(_ counts: [Int], _ total: Int) -> Int {
        func value(_ rank: Int) -> Int {
            var seen = 0
            return counts.firstIndex { count in
                seen += count
                return seen > rank
            } ?? 0
        }
        return (value((total - 1) / 2) + value(total / 2)) / 2
    }

    /// Tables of columns that are alike, and of each column its offset and table.
    func tables() -> (frequencies: [[UInt16]], columns: [(offset: UInt8, table: UInt8)]) {
        var tableOfColumn = grouped()
        var frequencies: [[UInt16]] = []
        for _ in 0..<Self.roundCount {
            var pooled = [[Double]](
                repeating: Array(repeating: 0, count: 256), count: Self.tableCount)
            for (column, table) in tableOfColumn.enumerated() {
                for symbol in 0..<256 { pooled[table][symbol] += counts[column][symbol] }
            }
            frequencies = pooled.map(Self.frequencies)
            let lengths = TableLearner.codeLengths(frequencies)
            let nearest = counts.map { Self.shortest($0, lengths) }
            if nearest == tableOfColumn { break }
            tableOfColumn = nearest
        }
        let columns = zip(offsets, tableOfColumn).map { (offset: $0, table: UInt8($1)) }
        return (frequencies, columns)
    }

    /// By how many bits a symbol of the column has: a quarter of the columns in each group.
    private func grouped() -> [Int] {
        let entropies = counts.map { column -> Double in
            let sum = column.reduce(0, +)
            return column.reduce(0) { $1 > 0 ? $0 - $1 / sum * log2($1 / sum) : $0 }
        }
        let sorted = entropies.sorted()
        let edges = (1..<Self.tableCount).map { part -> Double in
            let place = Double(part) / Double(Self.tableCount) * Double(sorted.count - 1)
            let low = Int(place)
            let high = min(low + 1, sorted.count - 1)
            return sorted[low] + (sorted[high] - sorted[low]) * (place - Double(low))
        }
        return entropies.map { entropy in edges.count { $0 < entropy } }
    }

    private static func shortest(_ counts: [Double], _ lengths: [[Double]]) -> Int {
        var (best, bestCost) = (0, Double.infinity)
        for (table, bits) in lengths.enumerated() {
            var cost = 0.0
            for symbol in 0..<256 where counts[symbol] > 0 { cost += counts[symbol] * bits[symbol] }
            if cost < bestCost { (best, bestCost) = (table, cost) }
        }
        return best
    }

    /// A run around the offset, and the escape.
    private static func frequencies(_ counts: [Double]) -> [UInt16] {
        var share = counts.enumerated().map { place, count in
            let distance = abs(place - 128)
            return count + (distance < 20 ? priorCount * exp2(-Double(distance)) : 0)
        }
        let sum = share.reduce(0, +)
        share = share.map { $0 / sum }
        let low = min(share.firstIndex { $0 >= 1e-5 } ?? 128, 128)
        let high = max(share.lastIndex { $0 >= 1e-5 } ?? 128, 128)
        share[0] = 0
        return TableLearner.apportioned(share) { $0 == 0 || (low...high).contains($0) }
    }
}
