// SPDX-License-Identifier: Apache-2.0
internal import Glibc
internal import KVCore

/// What mode predictive needs to know of one layer's K or V (docs/container-format.md, section 10).
struct PredictorColumns {
    let referenceSteps: [Float]
    /// [reference][column]
    let prediction: [Int8]
    let predictionScales: [Float]
    /// [coefficient][column]
    let synthesis: [Int16]
    let synthesisScales: [Float]
    /// [column][coefficient]
    let analysis: [Float]
    var classes: [Int]
}

/// Learns predictors layer by layer, each from the references that a decoder of the layers before
/// it has at Q2. Confined to its owner.
///
/// For a section with C columns and K references of R rows: R × K × (K / 2 + 2 C) multiplications
/// and memory for 4 × R × C numbers of single precision.
struct PredictiveLearner {
    private let plan: PredictionPlan
    /// Of all sections of the plan.
    private let spreads: [SectionSpread]
    /// The steps of the levels; predictors are learnt for the second, Q2.
    private let steps: [Float]
    private let tableStride: Int
    /// By what every section's metric is multiplied, so that a level step of 1 is about one
    /// deviation in the geometric mean.
    private let metricScale: Double
    /// By section: whole numbers in reference steps, [row][column].
    private var references: [Int: [Int8]] = [:]

    private static let learningLevel = 1
    /// A reference's step is the deviation of its column over this many.
    private static let referenceScale = 28.0
    private static let ridge = 2e-3
    /// Coefficients below this part of a step above a whole number are rounded towards zero.
    private static let rounding: Float = 0.45
    /// Rows of a product at a time: what fits a core's second cache.
    private static let rowsAtOnce = 1_024

    init(_ plan: PredictionPlan, _ spreads: [SectionSpread], steps: [Float], tableStride: Int) {
        self.plan = plan
        self.spreads = spreads
        self.steps = steps
        self.tableStride = tableStride
        let logarithms = spreads.map { 2 * log($0.usualStep) }
        metricScale = exp(logarithms.reduce(0, +) / Double(max(1, logarithms.count)))
    }

    /// Learns the next section from its rows and their factors; all before it have been learnt.
    /// Throws `notLearnable`.
    mutating func learn(
        _ index: Int, _ rows: SectionRows, factors: [Float]
    ) throws(LearningFault) -> (columns: PredictorColumns, coded: CodedSection) {
        let section = plan.sections[index]
        let spread = spreads[index]
        let joined = joined(plan.sources(of: index), rows.rowCount)
        let (prediction, predictionScales) = try predictor(index, rows, factors, joined)
        let predicted = predictions(
            spread.means, rows.rowCount, prediction, predictionScales, joined)
        let count = rows.columnCount
        func residual(_ row: Int, _ column: Int) -> Float {
            (rows[row, column] - predicted[row * count + column]) / factors[row]
        }
        let covariance = Matrix(rowCount: count, columnCount: count)
        Self.forEachBlock(rows.rowCount) { block in
            let left = Panels(
                width: Panels.leftWidth, rowCount: block.count, columnCount: count)
            left.fill { residual(block.lowerBound + $0, $1) }
            let right = Panels(
                width: Panels.rightWidth, rowCount: block.count, columnCount: count)
            right.fill { residual(block.lowerBound + $0, $1) }
            covariance.addProduct(left, right, isSymmetric: true)
        }
        for row in 0..<count {
            for column in 0...row {
                covariance[row, column] /= Double(rows.rowCount)
                covariance[column, row] = covariance[row, column]
            }
        }
        let scale = metricScale / (spread.variance * pow(spread.usualStep, 2))
        guard let bases = Bases(covariance, metric: scale) else {
            throw .notLearnable(layer: section.layer, section.kind)
        }
        let coefficients = Self.coefficients(rows.rowCount, count, bases, residual)
        let coded = coded(coefficients, rows.rowCount, count)
        let referenceSteps = Self.referenceSteps(rows, spread.means)
        if plan.isReferredTo(index) {
            references[index] = Self.references(
                rows, predicted, coefficients, factors, bases, spread.means,
                referenceSteps, step: steps[Self.learningLevel])
        }
        if index + 1 < spreads.count {
            forget(before: plan.sections[index + 1].layer - plan.lookback)
        }
        return (
            PredictorColumns(
                referenceSteps: referenceSteps, prediction: prediction,
                predictionScales: predictionScales, synthesis: bases.synthesis,
                synthesisScales: bases.synthesisScales, analysis: bases.analysis,
                classes: coded.classes), coded
        )
    }

    /// Forgets references to layers that no later section looks back to.
    private mutating func forget(before layer: Int) {
        references = references.filter { plan.sections[$0.key].layer >= layer }
    }

    // MARK: Prediction

    /// Least squares of what rows are above their means, by references; then whole numbers with a
    /// scale for each column.
    private func predictor(
        _ index: Int, _ rows: SectionRows, _ factors: [Float], _ joined: Joined
    ) throws(LearningFault) -> (matrix: [Int8], scales: [Float]) {
        let count = rows.columnCount
        guard joined.count > 0 else { return ([], Array(repeating: 0, count: count)) }
        let means = spreads[index].means
        let gram = Matrix(rowCount: joined.count, columnCount: joined.count)
        let weights = Matrix(rowCount: joined.count, columnCount: count)
        Self.forEachBlock(rows.rowCount) { block in
            let first = block.lowerBound
            let left = Panels(
                width: Panels.leftWidth, rowCount: block.count, columnCount: joined.count)
            left.fill { joined[first + $0, $1] / factors[first + $0] }
            let right = Panels(
                width: Panels.rightWidth, rowCount: block.count, columnCount: joined.count)
            right.fill { joined[first + $0, $1] / factors[first + $0] }
            gram.addProduct(left, right, isSymmetric: true)
            let centred = Panels(
                width: Panels.rightWidth, rowCount: block.count, columnCount: count)
            centred.fill { (rows[first + $0, $1] - means[$1]) / factors[first + $0] }
            weights.addProduct(left, centred)
        }
        let trace = (0..<joined.count).reduce(0) { $0 + gram[$1, $1] }
        for place in 0..<joined.count {
            gram[place, place] += Self.ridge * trace / Double(joined.count)
        }
        guard let cholesky = Cholesky(gram) else {
            throw .notLearnable(layer: plan.sections[index].layer, plan.sections[index].kind)
        }
        cholesky.solve(weights)
        return Self.inBytes(weights)
    }

    /// Signed bytes and a scale for each column, so that sums with references stay below 2^24,
    /// which single precision still counts exactly.
    private static func inBytes(_ weights: Matrix) -> (matrix: [Int8], scales: [Float]) {
        var scales = [Float](repeating: 0, count: weights.columnCount)
        for column in 0..<weights.columnCount {
            var (largest, sum) = (0.0, 0.0)
            for row in 0..<weights.rowCount {
                largest = max(largest, abs(weights[row, column]))
                sum += abs(weights[row, column])
            }
            scales[column] = Float(max(largest / 127, sum * 127 / 0x1p23, 1e-12))
        }
        var matrix: [Int8] = []
        matrix.reserveCapacity(weights.rowCount * weights.columnCount)
        for row in 0..<weights.rowCount {
            for column in 0..<weights.columnCount {
                let whole = (weights[row, column] / Double(scales[column]))
                    .rounded(.toNearestOrEven)
                matrix.append(Int8(clamping: Int(whole)))
            }
        }
        return (matrix, scales)
    }

    /// What a decoder predicts, [row][column].
    private func predictions(
        _ means: [Float], _ rowCount: Int, _ matrix: [Int8], _ scales: [Float], _ joined: Joined
    ) -> Floats {
        let count = means.count
        let predicted = Floats(count: rowCount * count)
        let right = Panels(
            width: Panels.rightWidth, rowCount: joined.count, columnCount: count)
        right.fill { Float(matrix[$0 * count + $1]) }
        Self.forEachBlock(rowCount) { block in
            let left = Panels(
                width: Panels.leftWidth, rowCount: joined.count, columnCount: block.count)
            left.fill { joined[block.lowerBound + $1, $0] }
            let sums = Matrix(rowCount: block.count, columnCount: count)
            sums.addProduct(left, right)
            for row in block {
                for column in 0..<count {
                    let sum = Float(sums[row - block.lowerBound, column])
                    predicted[row * count + column] = means[column] + scales[column] * sum
                }
            }
        }
        return predicted
    }

    /// References of some sections, side by side.
    private struct Joined {
        let count: Int
        /// [row][reference]
        let numbers: [Int8]

        @inline(__always)
        subscript(row: Int, place: Int) -> Float { Float(numbers[row * count + place]) }
    }

    private func joined(_ sources: [Int], _ rowCount: Int) -> Joined {
        let count = sources.reduce(0) { $0 + plan.sections[$1].columnCount }
        var numbers = [Int8](repeating: 0, count: rowCount * count)
        var first = 0
        for source in sources {
            guard let own = references[source] else {
                preconditionFailure("sections are learnt in their order")
            }
            let width = plan.sections[source].columnCount
            for row in 0..<rowCount {
                for column in 0..<width {
                    numbers[row * count + first + column] = own[row * width + column]
                }
            }
            first += width
        }
        return Joined(count: count, numbers: numbers)
    }

    // MARK: Coefficients

    /// Of what is left of the rows, [row][coefficient], before the steps of levels.
    private static func coefficients(
        _ rowCount: Int, _ count: Int, _ bases: Bases, _ residual: (Int, Int) -> Float
    ) -> Floats {
        let coefficients = Floats(count: rowCount * count)
        let right = Panels(width: Panels.rightWidth, rowCount: count, columnCount: count)
        right.fill { bases.analysis[$0 * count + $1] }
        forEachBlock(rowCount) { block in
            let left = Panels(
                width: Panels.leftWidth, rowCount: count, columnCount: block.count)
            left.fill { residual(block.lowerBound + $1, $0) }
            let sums = Matrix(rowCount: block.count, columnCount: count)
            sums.addProduct(left, right)
            for row in block {
                for column in 0..<count {
                    coefficients[row * count + column] = Float(sums[row - block.lowerBound, column])
                }
            }
        }
        return coefficients
    }

    /// Classes from the coefficients' deviations, and how often each symbol occurs at each level.
    private func coded(_ coefficients: Floats, _ rowCount: Int, _ count: Int) -> CodedSection {
        var sums = [Double](repeating: 0, count: count)
        var squares = sums
        for row in 0..<rowCount {
            for column in 0..<count {
                let number = Double(coefficients[row * count + column])
                sums[column] += number
                squares[column] += number * number
            }
        }
        let classes = zip(sums, squares).map { sum, square in
            let mean = sum / Double(rowCount)
            return TableLearner.unitClass(
                ofScale: max(0, square / Double(rowCount) - mean * mean).squareRoot())
        }
        let levels = steps.map { step in
            var counts = SymbolCounts(columnCount: count)
            for row in stride(from: 0, to: rowCount, by: tableStride) {
                for column in 0..<count {
                    let symbol = Self.symbol(coefficients[row * count + column] / step)
                    counts.count(symbol, column: column)
                }
            }
            return counts
        }
        return CodedSection(classes: classes, levels: levels, steps: steps)
    }

    @inline(__always)
    private static func symbol(_ coefficient: Float) -> Float {
        let size = (coefficient.magnitude + rounding).rounded(.down)
        return coefficient < 0 ? -size : size
    }

    // MARK: References

    private static func referenceSteps(_ rows: SectionRows, _ means: [Float]) -> [Float] {
        var sums = [Double](repeating: 0, count: means.count)
        var squares = sums
        for row in 0..<rows.rowCount {
            for column in means.indices {
                let distance = Double(rows[row, column] - means[column])
                sums[column] += distance
                squares[column] += distance * distance
            }
        }
        return zip(sums, squares).map { sum, square in
            let mean = sum / Double(rows.rowCount)
            let deviation = max(0, square / Double(rows.rowCount) - mean * mean).squareRoot()
            return Float(max(deviation / referenceScale, 1e-6))
        }
    }

    /// What later sections refer to: the rows as a decoder has them at a level.
    private static func references(
        _ rows: SectionRows, _ predicted: Floats, _ coefficients: Floats, _ factors: [Float],
        _ bases: Bases, _ means: [Float], _ referenceSteps: [Float], step: Float
    ) -> [Int8] {
        let count = means.count
        var references = [Int8](repeating: 0, count: rows.rowCount * count)
        let right = Panels(width: Panels.rightWidth, rowCount: count, columnCount: count)
        right.fill { Float(bases.synthesis[$0 * count + $1]) }
        forEachBlock(rows.rowCount) { block in
            let left = Panels(
                width: Panels.leftWidth, rowCount: count, columnCount: block.count)
            left.fill { symbol(coefficients[(block.lowerBound + $1) * count + $0] / step) }
            let sums = Matrix(rowCount: block.count, columnCount: count)
            sums.addProduct(left, right)
            for row in block {
                for column in 0..<count {
                    let sum = Float(sums[row - block.lowerBound, column])
                    let scale = bases.synthesisScales[column] * step * factors[row]
                    let value = predicted[row * count + column] + scale * sum
                    let whole = ((value - means[column]) / referenceSteps[column])
                        .rounded(.toNearestOrEven)
                    references[row * count + column] = Int8(max(-127, min(127, whole)))
                }
            }
        }
        return references
    }

    private static func forEachBlock(_ rowCount: Int, _ body: (Range<Int>) -> Void) {
        for first in stride(from: 0, to: rowCount, by: rowsAtOnce) {
            body(first..<min(rowCount, first + rowsAtOnce))
        }
    }
}

/// Between what is left of a section's rows and coefficients that have nothing to do with each
/// other, in which an error of 1 costs the same in each.
private struct Bases {
    let synthesis: [Int16]
    let synthesisScales: [Float]
    let analysis: [Float]

    /// From the covariance of what is left and a metric that is `metric` times the unit matrix. Nil
    /// for numbers that are not finite, or when rounding leaves nothing to invert.
    init?(_ covariance: Matrix, metric: Double) {
        guard let eigen = SymmetricEigen(covariance) else { return nil }
        let count = covariance.rowCount
        let unit = 1 / metric.squareRoot()
        var scales = [Float](repeating: 0, count: count)
        for column in 0..<count {
            // Signed bytes: the format has room for more, kernels are faster with these.
            let largest = (0..<count).reduce(0) { max($0, abs(eigen.vectors[$1, column])) }
            scales[column] = Float(max(largest * unit / 127, 1e-30))
        }
        let rounded = Matrix(rowCount: count, columnCount: count)
        var synthesis: [Int16] = []
        synthesis.reserveCapacity(count * count)
        for row in 0..<count {
            for column in 0..<count {
                let scale = Double(scales[column])
                let whole = (eigen.vectors[row, column] * unit / scale).rounded(.toNearestOrEven)
                synthesis.append(Int16(max(-127, min(127, whole))))
                rounded[row, column] = whole * scale
            }
        }
        // The inverse of what a decoder really has, so that rounding costs nothing.
        guard let inverse = rounded.inverse() else { return nil }
        self.synthesis = synthesis
        synthesisScales = scales
        analysis = (0..<count * count).map { Float(inverse[$0 / count, $0 % count]) }
    }
}
