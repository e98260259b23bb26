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
    /// Of each row: what its steps are multiplied by; nil: 1.
    let factors: [Float]?
    /// Of each column, in units of the rows' factors.
    let deviations: [Double]
    /// What V's third of the layers has beside K; K has 1.
    let usualStep: Double

    /// Steps of V beside those of K, by the third of the layers: what the sensitivities of the
    /// models that were measured have in common.
    private static let valueSteps = [0.7, 1.43, 2]
    private static let deviationMin = 1e-6

    /// Nil when all columns are constant. `hasRowCodes`: rows have factors.
    init?(
        _ rows: SectionRows, layer: Int, _ kind: KVKind, layerCount: Int, hasRowCodes: Bool
    ) {
        let count = rows.columnCount
        var sums = [Double](repeating: 0, count: count)
        for row in 0..<rows.rowCount {
            for column in 0..<count { sums[column] += Double(rows[row, column]) }
        }
        let means = sums.map { Float($0 / Double(rows.rowCount)) }
        let factors = hasRowCodes ? RowFactors.factors(rows, means: means) : nil
        func distance(_ row: Int, _ column: Int) -> Double {
            Double((rows[row, column] - means[column]) / (factors?[row] ?? 1))
        }
        // What is left of means: rounding, and what factors change.
        var rests = [Double](repeating: 0, count: count)
        var squares = rests
        for row in 0..<rows.rowCount {
            for column in 0..<count {
                let distance = distance(row, column)
                rests[column] += distance
                squares[column] += distance * distance
            }
        }
        guard squares.contains(where: { $0 > 0 }) else { return nil }
        let rowCount = Double(rows.rowCount)
        deviations = zip(rests, squares).map { rest, square in
            let variance = square / rowCount - rest / rowCount * (rest / rowCount)
            return max(max(variance, 0).squareRoot(), Self.deviationMin)
        }
        self.means = means
        self.factors = factors
        usualStep = kind == .keys ? 1 : Self.valueSteps[3 * layer / layerCount]
    }

    /// The mean of the columns' squared deviations.
    var variance: Double {
        deviations.reduce(0) { $0 + $1 * $1 } / Double(deviations.count)
    }
}

/// How the steps of a section's rows follow the rows' sizes (docs/container-format.md, section 9),
/// by the writer's rule.
enum RowFactors {
    /// Of every row: its root mean square over the geometric mean of those of its chunk, rounded as
    /// codes are. All columns have the same step, so that it does not matter which.
    static func factors(_ rows: SectionRows, means: [Float]) -> [Float] {
        var sizes: [Double] = []
        sizes.reserveCapacity(rows.rowCount)
        for row in 0..<rows.rowCount {
            var square = 0.0
            for column in 0..<rows.columnCount {
                let distance = Double(rows[row, column] - means[column])
                square += distance * distance
            }
            // A row of means has no size of its own; any small one will do.
            sizes.append(0.5 * log2(max(square / Double(rows.columnCount), 0x1p-100)))
        }
        var factors: [Float] = []
        factors.reserveCapacity(rows.rowCount)
        var first = 0
        while first < rows.rowCount {
            let own = rows.chunks[first]
            let end = rows.chunks[first...].firstIndex { $0 != own } ?? rows.rowCount
            let typical = sizes[first..<end].reduce(0, +) / Double(end - first)
            for size in sizes[first..<end] {
                let code = (8 + 4 * (size - typical)).rounded(.toNearestOrEven)
                factors.append(RowCodes.factors[Int(max(0, min(15, code)))])
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
            spread.deviations.map { log($0 / step(spread)) }
        }
        return exp(logarithms.reduce(0, +) / Double(logarithms.count))
    }

    private func step(_ spread: SectionSpread) -> Double {
        spread.variance.squareRoot() * spread.usualStep
    }

    mutating func add(_ spread: SectionSpread) { spreads.append(spread) }

    func columns() -> [ScalarColumns] {
        let scale = scale
        return spreads.map { spread in
            let step = min(
                max(Float(step(spread) * scale), Profile.stepRange.lowerBound),
                Profile.stepRange.upperBound)
            return ScalarColumns(
                means: spread.means,
                steps: Array(repeating: step, count: spread.means.count),
                classes: spread.deviations.map {
                    TableLearner.unitClass(ofScale: $0 / Double(step))
                })
        }
    }

    /// How often each symbol occurs in every `stride`-th row of a section, at each of some steps.
    static func counts(
        _ rows: SectionRows, every stride: Int, _ columns: ScalarColumns, factors: [Float]?,
        steps: [Float]
    ) -> [SymbolCounts] {
        steps.map { step in
            var counts = SymbolCounts(columnCount: rows.columnCount)
            let own = columns.steps.map { $0 * step }
            for row in Swift.stride(from: 0, to: rows.rowCount, by: stride) {
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
