// SPDX-License-Identifier: Apache-2.0
internal import CKernels
package import KVCore

/// How one layer's K or V is predicted and put together from coefficients (mode predictive;
/// docs/container-format.md, section 10). Immutable; any thread.
///
/// Values stand row by row, columns in natural order, `pitch` numbers to a row.
package final class PredictedColumns: Sendable {
    /// Memory of kernels, for as many rows and coefficients as a section has.
    package struct Scratch {
        let rowSums: PinnedBytes
        let places: PinnedBytes

        /// Bytes of a scratch for matrices of `wordCount` words.
        package static func byteCount(rowCount: Int, columnCount: Int) -> Int {
            (4 * rowCount + 63) & ~63 + placeByteCount(rowCount, columnCount)
        }

        package init(_ bytes: PinnedBytes, rowCount: Int) {
            rowSums = bytes.prefix(4 * rowCount)
            places = bytes.dropFirst((4 * rowCount + 63) & ~63)
        }

        static func placeByteCount(_ rowCount: Int, _ columnCount: Int) -> Int {
            // CKERNELS_PLACE_COUNT, which Swift does not see.
            2 * (rowCount / 4 + 6) * (WholeMatrix.wordCount(columnCount) + 1)
        }
    }

    package let prediction: WholeMatrix
    package let synthesis: WholeMatrix
    /// Numbers of a row of values, and bytes of a row of references or symbols.
    package let pitch: Int
    package var columnCount: Int { synthesis.columnCount }
    /// `Float`, a panel's worth and more.
    private let means: OwnedBytes
    private let referenceSteps: [Float]
    private let weights: [Float]
    private let predictionScales: [Float]
    private let synthesisScales: [Float]
    /// [panel][column][64], `Float`; nil: nobody can encode with it.
    private let analysis: OwnedBytes?

    /// Means, steps of references, and what makes the sizes of columns comparable, if it is known;
    /// matrices with the scales of their columns, of as many columns each; and the matrix that a
    /// writer looks through, [column][coefficient], if it is known.
    package init(
        means: [Float], referenceSteps: [Float], weights: [Float],
        prediction: (WholeMatrix, scales: [Float]),
        synthesis: (WholeMatrix, scales: [Float]), analysis: PinnedBytes?
    ) {
        let count = means.count
        invariant(
            prediction.0.columnCount == count && synthesis.0.columnCount == count
                && synthesis.0.sourceRowCounts == [count] && referenceSteps.count == count
                && prediction.scales.count == count && synthesis.scales.count == count,
            "everything is of the same columns")
        self.prediction = prediction.0
        self.synthesis = synthesis.0
        pitch = synthesis.0.pitch
        func filled(_ numbers: [Float], _ number: Float) -> [Float] {
            numbers + Array(repeating: number, count: synthesis.0.pitch - count)
        }
        self.means = OwnedBytes(count: 4 * synthesis.0.pitch)
        for (column, mean) in means.enumerated() {
            self.means.bytes.store(mean.bitPattern, at: 4 * column)
        }
        // What is nobody's refers as 0.
        self.referenceSteps = filled(referenceSteps, .infinity)
        self.weights = weights
        predictionScales = filled(prediction.scales, 0)
        synthesisScales = filled(synthesis.scales, 0)
        self.analysis = analysis.map { Self.panels($0, columnCount: count) }
    }

    /// Whether a writer can use it.
    package var isForEncoding: Bool { analysis != nil }

    /// The scales of coefficients at a level's step, as kernels want them.
    package func scales(step: Float) -> [Float] { synthesisScales.map { $0 * step } }

    private static func panels(_ matrix: PinnedBytes, columnCount: Int) -> OwnedBytes {
        invariant(matrix.count == 4 * columnCount * columnCount, "a number for each")
        let panelCount = WholeMatrix.panelCount(columnCount)
        let memory = OwnedBytes(count: 4 * panelCount * columnCount * WholeMatrix.panelWidth)
        for panel in 0..<panelCount {
            let first = panel * WholeMatrix.panelWidth
            let width = min(WholeMatrix.panelWidth, columnCount - first)
            for column in 0..<columnCount {
                let place = 4 * (panel * columnCount + column) * WholeMatrix.panelWidth
                memory.bytes.slice(offset: place, count: 4 * width).copy(
                    from: matrix.slice(
                        offset: 4 * (column * columnCount + first), count: 4 * width))
            }
        }
        return memory
    }

    // MARK: - Sums of products

    /// What the references of `rowCount` rows predict, into `values`.
    package func predict(
        _ sources: [WholeRows], rowCount: Int, into values: PinnedBytes, _ scratch: Scratch,
        width: KernelWidth = .widest
    ) {
        invariant(
            sources.map(\.count) == prediction.sourceRowCounts, "the references of the matrix")
        check(values, rowCount)
        multiply(
            prediction, sources, rowCount, predictionScales, Bases(numbers: means.bytes, pitch: 0),
            factors: nil, into: Target(values: values), isSparse: false, scratch, width)
    }

    /// Adds what `symbols`, without escapes, stand for to `predictions`, into `values`: other
    /// memory. Factors are of the rows; nil: 1.
    package func synthesise(
        _ symbols: PinnedBytes, rowCount: Int, scales: [Float], factors: PinnedBytes?,
        predictions: PinnedBytes, into values: PinnedBytes, _ scratch: Scratch,
        width: KernelWidth = .widest
    ) {
        check(values, rowCount)
        check(predictions, rowCount)
        invariant(scales.count == pitch, "a scale for each column")
        multiply(
            synthesis, [WholeRows(symbols, pitch: pitch, count: columnCount)], rowCount, scales,
            Bases(numbers: predictions, pitch: pitch), factors: factors,
            into: Target(values: values), isSparse: true, scratch, width)
    }

    /// Writes the values of rows with escapes once more. The places of `escapes` rise, and their
    /// symbols are 0. `sums` has room for a row.
    package func patch(
        _ symbols: PinnedBytes, escapes: PinnedBytes, escapeCount: Int, scales: [Float],
        factors: PinnedBytes?, predictions: PinnedBytes, into values: PinnedBytes,
        sums: PinnedBytes, _ scratch: Scratch, width: KernelWidth = .widest
    ) {
        var index = 0
        while index < escapeCount {
            let place = Int(escapes.load(UInt32.self, at: 8 * index))
            let row = place / columnCount
            var end = index + 1
            while end < escapeCount,
                Int(escapes.load(UInt32.self, at: 8 * end)) / columnCount == row
            {
                end += 1
            }
            let rows = WholeRows(symbols.dropFirst(row * pitch), pitch: pitch, count: columnCount)
            multiply(
                synthesis, [rows], 1, scales, Bases(numbers: means.bytes, pitch: 0),
                factors: nil, into: Target(sums: sums), isSparse: false, scratch, width)
            let factor = factors.map { Float(bitPattern: $0.load(UInt32.self, at: 4 * row)) } ?? 1
            for column in 0..<columnCount {
                var sum = Int64(sums.load(Int32.self, at: 4 * column))
                for entry in index..<end {
                    let escape = Int(escapes.load(UInt32.self, at: 8 * entry)) % columnCount
                    let value = Int(escapes.load(Int32.self, at: 8 * entry + 4))
                    sum += Int64(value * synthesis.number(row: escape, column: column))
                }
                let at = 4 * (row * pitch + column)
                let base = Float(bitPattern: predictions.load(UInt32.self, at: at))
                let difference = scales[column] * factor * Float(sum)
                values.store((base + difference).bitPattern, at: at)
            }
            index = end
        }
    }

    /// What a product starts from.
    private struct Bases {
        let numbers: PinnedBytes
        /// 0: all rows have the same.
        let pitch: Int
    }

    /// Where a product goes to.
    private struct Target {
        var values: PinnedBytes?
        var sums: PinnedBytes?
    }

    private func check(_ values: PinnedBytes, _ rowCount: Int) {
        invariant(values.count >= 4 * rowCount * pitch, "values of all rows")
    }

    private func multiply(
        _ matrix: WholeMatrix, _ segments: [WholeRows], _ rowCount: Int, _ scales: [Float],
        _ bases: Bases, factors: PinnedBytes?, into target: Target, isSparse: Bool,
        _ scratch: Scratch, _ width: KernelWidth
    ) {
        invariant(segments.count <= Int(CKERNELS_SEGMENT_COUNT_MAX), "few sources")
        for rows in segments {
            let count = max(rowCount - 1, 0) * rows.pitch + (rows.count + 3) & ~3
            invariant(rows.bytes.count >= count, "numbers of all rows")
        }
        invariant(factors.map { $0.count >= 4 * rowCount } ?? true, "a factor for each row")
        invariant(scratch.rowSums.count >= 4 * rowCount, "a sum for each row")
        invariant(
            !isSparse || scratch.places.count >= Scratch.placeByteCount(rowCount, columnCount),
            "room for places")
        unsafe matrix.withMatrix { matrix in
            unsafe scales.withUnsafeBufferPointer { scales in
                // SAFETY: all counts were checked here and by the caller; kernels keep no pointer.
                var product = unsafe ckernels_product()
                unsafe product.matrix = matrix
                unsafe product.scales = scales.baseAddress
                unsafe withUnsafeMutableBytes(of: &product.segments) { memory in
                    let entries = unsafe memory.bindMemory(to: ckernels_rows.self)
                    for (index, rows) in segments.enumerated() {
                        unsafe entries[index] = ckernels_rows(
                            start: rows.bytes.start.assumingMemoryBound(to: UInt8.self),
                            row_pitch: rows.pitch,
                            word_count: UInt32(WholeMatrix.wordCount(rows.count)))
                    }
                }
                unsafe product.segment_count = UInt32(segments.count)
                unsafe product.row_count = UInt32(rowCount)
                unsafe product.is_sparse = isSparse ? 1 : 0
                unsafe product.bases = UnsafePointer(
                    bases.numbers.start.assumingMemoryBound(to: Float.self))
                unsafe product.base_pitch = bases.pitch
                unsafe product.factors = UnsafePointer(
                    factors?.start.assumingMemoryBound(to: Float.self))
                unsafe product.values = target.values?.start.assumingMemoryBound(to: Float.self)
                unsafe product.sums = target.sums?.start.assumingMemoryBound(to: Int32.self)
                unsafe product.row_sums = scratch.rowSums.start.assumingMemoryBound(to: Int32.self)
                unsafe product.places = scratch.places.start.assumingMemoryBound(to: UInt16.self)
                unsafe ckernels_multiply(width.rawValue, &product)
            }
        }
    }
}

extension PredictedColumns {
    /// How other sections refer to `values`: bytes [row][pitch].
    package func refer(
        _ values: PinnedBytes, rowCount: Int, into references: PinnedBytes,
        width: KernelWidth = .widest
    ) {
        check(values, rowCount)
        invariant(references.count >= rowCount * pitch, "references of all rows")
        unsafe referenceSteps.withUnsafeBufferPointer { steps in
            // SAFETY: the counts were just checked; means and steps fill panels.
            unsafe ckernels_refer(
                width.rawValue, values.start.assumingMemoryBound(to: Float.self),
                UInt32(rowCount), UInt32(synthesis.panelCount),
                means.bytes.start.assumingMemoryBound(to: Float.self), steps.baseAddress,
                references.start.assumingMemoryBound(to: UInt8.self))
        }
    }

    /// Of each row the sum of the squares of its values, less their means and times their weights;
    /// 1 without weights.
    package func squares(_ values: PinnedBytes, rowCount: Int, into sums: PinnedBytes) {
        check(values, rowCount)
        invariant(sums.count >= 4 * rowCount, "a sum for each row")
        for row in 0..<rowCount {
            var sum: Float = weights.isEmpty ? 1 : 0
            for (column, weight) in weights.enumerated() {
                let value = Float(
                    bitPattern: values.load(UInt32.self, at: 4 * (row * pitch + column)))
                let mean = Float(bitPattern: means.bytes.load(UInt32.self, at: 4 * column))
                let size = (value - mean) * weight
                sum += size * size
            }
            sums.store(sum.bitPattern, at: 4 * row)
        }
    }

    /// The symbols of `values` less `predictions` into packed symbols, and escapes by place, as
    /// many as have room; `values` become the differences. One over the step of each row stands in
    /// `scales`.
    ///
    /// The number of escapes; nil when there are too many, or a coefficient has 2^24 steps or more.
    package func analyse(
        _ values: PinnedBytes, less predictions: PinnedBytes, rowCount: Int, scales: PinnedBytes,
        _ symbols: [SymbolRange], into packed: PinnedBytes, escapes: PinnedBytes,
        width: KernelWidth = .widest
    ) -> Int? {
        guard let analysis else { return nil }
        check(values, rowCount)
        check(predictions, rowCount)
        invariant(scales.count >= 4 * rowCount, "a scale for each row")
        invariant(symbols.count == pitch, "symbols of each coefficient")
        invariant(packed.count >= (rowCount + 3) / 4 * pitch * 4, "room for symbols")
        // SAFETY: both were just checked to have as many numbers.
        unsafe ckernels_subtract(
            values.start.assumingMemoryBound(to: Float.self),
            predictions.start.assumingMemoryBound(to: Float.self), rowCount * pitch)
        let limit = escapes.count / EscapeList.entryByteCount
        let lowest = symbols.map(\.lowest)
        let highest = symbols.map(\.highest)
        let count = unsafe lowest.withUnsafeBufferPointer { lowest in
            unsafe highest.withUnsafeBufferPointer { highest in
                // SAFETY: the counts were just checked; kernels keep no pointer.
                var looks = unsafe ckernels_analysis(
                    matrix: analysis.bytes.start.assumingMemoryBound(to: Float.self),
                    column_count: UInt32(columnCount), panel_count: UInt32(synthesis.panelCount),
                    differences: values.start.assumingMemoryBound(to: Float.self),
                    scales: scales.start.assumingMemoryBound(to: Float.self),
                    lowest: lowest.baseAddress, highest: highest.baseAddress)
                return unsafe ckernels_analyse(
                    width.rawValue, &looks, UInt32(rowCount),
                    packed.start.assumingMemoryBound(to: UInt32.self),
                    escapes.start.assumingMemoryBound(to: ckernels_escape.self), limit)
            }
        }
        guard count >= 0 else { return nil }
        EscapeList.sort(escapes, count: Int(count))
        return Int(count)
    }
}

/// The symbols of a coefficient that need no escape. A value.
package struct SymbolRange: Hashable, Sendable {
    let lowest: Int32
    let highest: Int32

    /// Those that a table knows; nil: those of a coefficient that nobody has.
    package init(_ table: SymbolTable?) {
        // Without a known symbol everything is outside.
        lowest = Int32(table.map { $0.symbols?.lowerBound ?? 1 } ?? 0)
        highest = Int32(table.map { $0.symbols?.upperBound ?? 0 } ?? 0)
    }
}
