// SPDX-License-Identifier: Apache-2.0
internal import Glibc

/// How often each symbol occurs in each column of a section at one level. A value.
struct SymbolCounts {
    let columnCount: Int
    /// [column][symbol + 128]
    private var counts: [UInt16]

    /// Rows that can be counted.
    static let rowCountMax = Int(UInt16.max)

    init(columnCount: Int) {
        self.columnCount = columnCount
        counts = Array(repeating: 0, count: 256 * columnCount)
    }

    /// Counts a value in steps from its mean; what is beyond a byte is an escape.
    @inline(__always)
    mutating func count(_ steps: Float, column: Int) {
        let symbol = Int(max(-128, min(127, steps)))
        counts[256 * column + symbol + 128] += 1
    }

    func column(_ column: Int) -> ArraySlice<UInt16> { counts[256 * column..<256 * column + 256] }
}

/// What tables are learnt from: one section's columns, or its coefficients.
struct CodedSection {
    /// Of each column; from the scale of its values, and then the one whose table codes it best.
    var classes: [Int]
    /// By level, in the order of the steps.
    let levels: [SymbolCounts]
    let steps: [Float]
}

/// Symbol tables of the rANS stream, one for each class (docs/container-format.md, sections 7 and
/// 11). A class is the scale of a column, its deviation over its step, in quarter octaves.
enum TableLearner {
    static let tableCount = 80
    /// The class of scale 1.
    static let unitClass = 44
    static let slotCount = 1 << 11
    /// A symbol rarer than this is not worth a slot of its own.
    private static let rarest = 1e-5
    private static let priorCount = 400.0
    /// How far a class may be from the one that the scale gives.
    private static let reach = 6
    /// The place of the level by which classes are chosen: Q2.
    private static let chosenLevel = 1

    static func unitClass(ofScale scale: Double) -> Int {
        Int((4 * log2(max(scale, 1e-12))).rounded(.toNearestOrEven)) + unitClass
    }

    /// What a level's step adds to every class.
    static func shift(ofStep step: Float) -> Int {
        Int((-4 * log2(Double(step))).rounded(.toNearestOrEven))
    }

    static func table(_ wanted: Int) -> Int { min(max(wanted, 0), tableCount - 1) }

    /// Tables from the classes, then the classes that the tables code best, twice; then the tables
    /// of these.
    static func learn(_ sections: inout [CodedSection]) -> [[UInt16]] {
        for _ in 0..<2 {
            let lengths = codeLengths(tables(of: sections))
            for index in sections.indices { chooseClasses(&sections[index], lengths) }
        }
        return tables(of: sections)
    }

    private static func tables(of sections: [CodedSection]) -> [[UInt16]] {
        var counts = [[Double]](
            repeating: Array(repeating: 0, count: 256), count: tableCount)
        for section in sections {
            for (level, step) in zip(section.levels, section.steps) {
                let shift = shift(ofStep: step)
                for (column, unit) in section.classes.enumerated() {
                    let table = table(unit + shift)
                    for (symbol, count) in level.column(column).enumerated() where count > 0 {
                        counts[table][symbol] += Double(count)
                    }
                }
            }
        }
        return counts.enumerated().map { frequencies($1, unit: $0) }
    }

    /// Frequencies of one table: a run around zero in which every symbol can be coded, and the
    /// escape.
    private static func frequencies(_ counts: [Double], unit: Int) -> [UInt16] {
        let prior = bell(scale: exp2(Double(unit - unitClass) / 4))
        var share = zip(counts, prior).map { $0 + priorCount * $1 }
        let sum = share.reduce(0, +)
        share = share.map { $0 / sum }
        share[0] = 0
        let low = min(share.firstIndex { $0 >= rarest } ?? 128, 128)
        let high = max(share.lastIndex { $0 >= rarest } ?? 128, 128)
        return apportioned(share) { $0 == 0 || (low...high).contains($0) }
    }

    /// Probabilities of symbols of a logistic distribution of this deviation.
    static func bell(scale: Double) -> [Double] {
        let width = max(scale * 3.0.squareRoot() / .pi, 1e-9)
        let edges = (-128...128).map { edge in
            1 / (1 + exp(-max(-700, min(700, (Double(edge) - 0.5) / width))))
        }
        return zip(edges.dropFirst(), edges).map { $0 - $1 }
    }

    /// Whole frequencies, at least 1 where `isCoded`, that sum up to all slots, with the least code
    /// length for `shares`.
    static func apportioned(_ shares: [Double], isCoded: (Int) -> Bool) -> [UInt16] {
        let inside = shares.indices.map(isCoded)
        let shares = zip(shares, inside).map { $1 ? $0 : 0 }
        let sum = shares.reduce(0, +)
        var slots = zip(shares, inside).map {
            $1 ? max(1, ($0 / sum * Double(slotCount)).rounded(.down)) : 0
        }
        var excess = Int(slots.reduce(0, +)) - slotCount
        while excess != 0 {
            let takes = excess > 0
            var (best, bestCost) = (0, Double.infinity)
            for index in slots.indices where inside[index] && !(takes && slots[index] <= 1) {
                // What taking a slot costs, or what giving one does not gain.
                let ratio = takes ? slots[index] / (slots[index] - 1) : slots[index] + 1
                let cost =
                    takes
                    ? shares[index] * log(ratio)
                    : -shares[index] * log(ratio / max(slots[index], 1))
                if cost < bestCost { (best, bestCost) = (index, cost) }
            }
            slots[best] += takes ? -1 : 1
            excess += takes ? -1 : 1
        }
        return slots.map { UInt16($0) }
    }

    /// Bits of each symbol; what has no slots of its own is an escape, with 64 bits in the list.
    static func codeLengths(_ tables: [[UInt16]]) -> [[Double]] {
        tables.map { frequencies in
            let escape = log2(Double(slotCount) / Double(frequencies[0])) + 64
            return frequencies.enumerated().map { symbol, frequency in
                symbol == 0 || frequency == 0
                    ? escape : log2(Double(slotCount) / Double(frequency))
            }
        }
    }

    /// Gives every column the class whose table codes it shortest.
    private static func chooseClasses(_ section: inout CodedSection, _ lengths: [[Double]]) {
        let level = section.levels[chosenLevel]
        let shift = shift(ofStep: section.steps[chosenLevel])
        for column in section.classes.indices {
            let counts = level.column(column)
            func cost(_ unit: Int) -> Double {
                zip(lengths[table(unit + shift)], counts).reduce(0) {
                    $0 + $1.0 * Double($1.1)
                }
            }
            let own = section.classes[column]
            var (best, bestCost) = (own, cost(own))
            let candidates = own - reach...own + reach
            for candidate in candidates {
                let cost = cost(candidate)
                if cost < bestCost { (best, bestCost) = (candidate, cost) }
            }
            section.classes[column] = best
        }
    }
}
