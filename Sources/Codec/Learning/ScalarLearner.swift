// SPDX-License-Identifier: Apache-2.0
internal import Glibc

/// What mode scalar needs to know of a section's columns, all by column.
struct ScalarColumns {
    let means: [Float]
    /// Of a level step of 1.
    var steps: [Float]
    var classes: [Int]
}

/// Means and deviations of a section, and the one step that its columns get without gradients.
struct SectionSpread {
    let means: [Float]
    let deviations: [Double]
    /// The root of the columns' mean square deviation, times what V's third of the layers has.
    let usualStep: Double

    /// Steps of V beside those of K, by the third of the layers: what the sensitivities of the
    /// models that were measured have in common.
    private static let valueSteps = [0.7, 1.43, 2]
    private static let deviationMin = 1e-6

    /// Nil when all columns are constant.
    init?(_ rows: SectionRows, layer: Int, _ kind: KVKind, layerCount: Int) {
        let count = rows.columnCount
        var sums = [Double](repeating: 0, count: count)
        for row in 0..<rows.rowCount {
            for column in 0..<count { sums[column] += Double(rows[row, column]) }
        }
        let centres = sums.map { $0 / Double(rows.rowCount) }
        var squares = [Double](repeating: 0, count: count)
        for row in 0..<rows.rowCount {
            for column in 0..<count {
                let distance = Double(rows[row, column]) - centres[column]
                squares[column] += distance * distance
            }
        }
        guard squares.contains(where: { $0 > 0 }) else { return nil }
        means = centres.map { Float($0) }
        deviations = squares.map {
            max(($0 / Double(rows.rowCount)).squareRoot(), Self.deviationMin)
        }
        let variance = deviations.reduce(0) { $0 + $1 * $1 } / Double(count)
        let third = kind == .keys ? 1 : Self.valueSteps[3 * layer / layerCount]
        usualStep = variance.squareRoot() * third
    }
}

/// By how much the steps of a section's rows follow the rows' sizes (docs/container-format.md,
/// section 9): a writer's codes for rows, without which these factors are 1.
enum RowFactors {
    /// Of every row: its root mean square in steps over the geometric mean of those of its chunk,
    /// rounded as codes are.
    static func factors(_ rows: SectionRows, means: [Float], steps: [Float]) -> [Float] {
        var sizes: [Double] = []
        sizes.reserveCapacity(rows.rowCount)
        for row in 0..<rows.rowCount {
            var square = 0.0
            for column in 0..<rows.columnCount {
                let size = Double((rows[row, column] - means[column]) / steps[column])
                square += size * size
            }
            // A row of means has no size of its own; any small one will do.
            sizes.append(0.5 * log2(max(square / Double(rows.columnCount), 0x1p-60)))
        }
        var factors: [Float] = []
        factors.reserveCapacity(rows.rowCount)
        var first = 0
        while first < rows.rowCount {
            let end =
                rows.chunks[first...].firstIndex { $0 != rows.chunks[first] }
                ?? rows.rowCount
            let typical = sizes[first..<end].reduce(0, +) / Double(end - first)
            for size in sizes[first..<end] {
                let code = max(0, min(15, (8 + 4 * (size - typical)).rounded(.toNearestOrEven)))
                factors.append(Float(exp2((code - 8) / 4)))
            }
            first = end
        }
        return factors
    }
}

/// Means, steps and first classes of all sections for mode scalar (docs/container-format.md,
/// section 11), in the order of the layout.
struct ScalarLearner {
    private(set) var spreads: [SectionSpread] = []
    /// By how much every step is multiplied, so that a level step of 1 is one deviation in the
    /// geometric mean of all columns.
    private var scale: Double {
        let logarithms = spreads.flatMap { spread in
            spread.deviations.map { log($0 / spread.usualStep) }
        }
        return exp(logarithms.reduce(0, +) / Double(logarithms.count))
    }

    mutating func add(_ spread: SectionSpread) { spreads.append(spread) }

    func columns() -> [ScalarColumns] {
        let scale = scale
        return spreads.map { spread in
            let step = min(
                max(Float(spread.usualStep * scale), Profile.stepRange.lowerBound),
                Profile.stepRange.upperBound)
            return ScalarColumns(
                means: spread.means,
                steps: Array(repeating: step, count: spread.means.count),
                classes: spread.deviations.map {
                    TableLearner.unitClass(ofScale: $0 / Double(step))
                })
        }
    }

    /// How often each symbol occurs in a section at each of some steps.
    static func counts(
        _ rows: SectionRows, _ columns: ScalarColumns, factors: [Float]?, steps: [Float]
    ) -> [SymbolCounts] {
        steps.map { step in
            var counts = SymbolCounts(columnCount: rows.columnCount)
            let own = columns.steps.map { $0 * step }
            for row in 0..<rows.rowCount {
                let factor = factors?[row] ?? 1
                for column in 0..<rows.columnCount {
                    let value = (rows[row, column] - columns.means[column]) / (own[column] * factor)
                    counts.count(value.rounded(.toNearestOrEven), column: column)
                }
            }
            return counts
        }
    }
}
