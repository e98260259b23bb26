// SPDX-License-Identifier: Apache-2.0

extension KernelReference {
    /// Symbols by row and column, and the values of those that are escapes, by place.
    package struct Symbols: Hashable, Sendable {
        package var rows: [[Int8]]
        package var escapes: [Int: Int]

        package init(rows: [[Int8]], escapes: [Int: Int]) {
            self.rows = rows
            self.escapes = escapes
        }
    }

    /// How values are coded in cells.
    package struct Cells {
        package var columns: [ScaledColumns.Column]
        package let tables: [SymbolTable]
        package let headWidth: Int
        package let rotated: RotatedChannels
        /// [row][pair]
        package let cosines: [[Float]]
        package let sines: [[Float]]
        /// [row]: what multiplies its steps; empty: 1.
        package var factors: [Float] = []

        package init(
            _ columns: [ScaledColumns.Column], tables: [SymbolTable], headWidth: Int,
            rotated: RotatedChannels, cosines: [[Float]], sines: [[Float]]
        ) {
            self.columns = columns
            self.tables = tables
            self.headWidth = headWidth
            self.rotated = rotated
            self.cosines = cosines
            self.sines = sines
        }

        /// Each pair of columns that turn together: the first, the second, and the pair's number.
        fileprivate var pairs: [(Int, Int, Int)] {
            let (step, distance) =
                rotated.isInterleaved ? (2, 1) : (1, rotated.pairCount)
            return stride(from: rotated.first, to: columns.count, by: headWidth).flatMap { head in
                (0..<rotated.pairCount).map { pair in
                    (head + step * pair, head + step * pair + distance, pair)
                }
            }
        }

        /// Turns a row as the engine has it.
        fileprivate func turn(_ values: inout [Float], row index: Int) {
            for (left, right, pair) in pairs {
                let (x, y) = (values[left], values[right])
                let (cosine, sine) = (cosines[index][pair], sines[index][pair])
                let (xc, ys, yc, xs) = (x * cosine, y * sine, y * cosine, x * sine)
                values[left] = xc - ys
                values[right] = yc + xs
            }
        }

        /// A row as it was before it turned.
        fileprivate func turnedBack(_ row: [Float], row index: Int) -> [Float] {
            var values = row
            for (left, right, pair) in pairs {
                let (x, y) = (values[left], values[right])
                let (cosine, sine) = (cosines[index][pair], sines[index][pair])
                let (xc, ys, yc, xs) = (x * cosine, y * sine, y * cosine, x * sine)
                values[left] = xc + ys
                values[right] = yc - xs
            }
            return values
        }

        /// The columns in the order in which squares are added, and to which of sixteen sums: head
        /// by head those before the channels that turn, the pairs, and those behind.
        fileprivate func summingOrder(_ columnCount: Int) -> [(column: Int, sum: Int)] {
            let (low, high) = (rotated.first, rotated.first + 2 * rotated.pairCount)
            let (step, distance) = rotated.isInterleaved ? (2, 1) : (1, rotated.pairCount)
            var order: [(column: Int, sum: Int)] = []
            for head in stride(from: 0, to: columnCount, by: headWidth) {
                order += (0..<low).map { (head + $0, $0 % 16) }
                for pair in 0..<rotated.pairCount {
                    let left = head + low + step * pair
                    order += [(left, pair % 16), (left + distance, pair % 16)]
                }
                order += (high..<headWidth).map { (head + $0, ($0 - high) % 16) }
            }
            return order
        }

        fileprivate func knows(_ symbol: Int, _ column: Int) -> Bool {
            tables[columns[column].table].symbols?.contains(symbol) ?? false
        }
    }

    /// Turns rows of floats back and quantises them; nil when one is not finite or 2^24 steps or
    /// more from its mean.
    package static func quantise(_ rows: [[Float]], _ cells: Cells) -> Symbols? {
        var found = Symbols(rows: [], escapes: [:])
        for (row, values) in rows.enumerated() {
            let values = cells.turnedBack(values, row: row)
            var symbols: [Int8] = []
            for (column, cell) in cells.columns.enumerated() {
                var scaled = (values[column] - cell.mean) * (1 / cell.step)
                if !cells.factors.isEmpty { scaled *= 1 / cells.factors[row] }
                guard scaled.magnitude < 0x1p24 else { return nil }
                let symbol = Int(scaled.rounded(.toNearestOrEven))
                if cells.knows(symbol, column) {
                    symbols.append(Int8(symbol))
                } else {
                    symbols.append(SymbolTable.escape)
                    found.escapes[row * values.count + column] = symbol
                }
            }
            found.rows.append(symbols)
        }
        return found
    }

    /// Of each row the sum of the squares of its values, in steps from their means and turned back:
    /// sixteen sums by place, one after the other.
    package static func squares(_ rows: [[Float]], _ cells: Cells) -> [Float] {
        rows.enumerated().map { row, values in
            let values = cells.turnedBack(values, row: row)
            var sums = [Float](repeating: 0, count: 16)
            for place in cells.summingOrder(values.count) {
                let cell = cells.columns[place.column]
                let steps = (values[place.column] - cell.mean) * (1 / cell.step)
                let square = steps * steps
                sums[place.sum] += square
            }
            return sums.reduce(0, +)
        }
    }

    /// The floats that symbols stand for, before they are rounded to a type of 16 bits.
    package static func restore(_ symbols: Symbols, _ cells: Cells) -> [[Float]] {
        symbols.rows.enumerated().map { row, coded in
            var values = coded.enumerated().map { column, symbol in
                let listed = symbols.escapes[row * coded.count + column]
                let whole = symbol == SymbolTable.escape ? listed ?? Int(symbol) : Int(symbol)
                var step = cells.columns[column].step
                if !cells.factors.isEmpty { step *= cells.factors[row] }
                let product = Float(whole) * step
                return product + cells.columns[column].mean
            }
            cells.turn(&values, row: row)
            return values
        }
    }

    /// A section's symbols of nine steps, and what cuts their cells in three, twice.
    package struct Refined: Hashable, Sendable {
        package var base: Symbols
        /// Of each refinement, by row and column: t, as it is coded.
        package var refinements: [[[Int8]]]
        /// The same: the context that it is coded in.
        package var contexts: [[[Int]]]
    }

    /// Quantises rows for an embedded section; `cells` have its finest steps. As `quantise`.
    package static func refine(_ rows: [[Float]], _ cells: Cells) -> Refined? {
        let none = rows.map { $0.map { _ in 0 } }
        var found = Refined(
            base: Symbols(rows: [], escapes: [:]),
            refinements: Array(repeating: none.map { $0.map { Int8($0) } }, count: 2),
            contexts: [none, none])
        for (row, values) in rows.enumerated() {
            var symbols: [Int8] = []
            for (column, value) in cells.turnedBack(values, row: row).enumerated() {
                let cell = cells.columns[column]
                var scaled = (value - cell.mean) * (1 / cell.step)
                if !cells.factors.isEmpty { scaled *= 1 / cells.factors[row] }
                guard scaled.magnitude < 0x1p24 else { return nil }
                var chain = [Int(scaled.rounded(.toNearestOrEven))]
                for _ in 0..<2 { chain.insert(Int((Double(chain[0]) / 3).rounded()), at: 0) }
                guard cells.knows(chain[0], column) else {
                    symbols.append(SymbolTable.escape)
                    found.base.escapes[row * values.count + column] = chain[2]
                    continue
                }
                symbols.append(Int8(chain[0]))
                for refinement in 0..<2 {
                    let (coarser, t) = (
                        chain[refinement], chain[refinement + 1] - 3 * chain[refinement]
                    )
                    found.refinements[refinement][row][column] = Int8(coarser < 0 ? -t : t)
                    found.contexts[refinement][row][column] = min(abs(coarser), 3)
                }
            }
            found.base.rows.append(symbols)
        }
        return found
    }

    /// The floats of an embedded section behind `count` refinements, whose steps `cells` have.
    /// `finest`: the steps of escapes.
    package static func restore(
        _ refined: Refined, count: Int, _ cells: Cells, finest: Cells
    ) -> [[Float]] {
        refined.base.rows.enumerated().map { row, coded in
            var values = coded.enumerated().map { column, symbol in
                let listed = refined.base.escapes[row * coded.count + column]
                var whole = listed ?? Int(symbol)
                if listed == nil {
                    for refinement in refined.refinements.prefix(count) {
                        let t = Int(refinement[row][column])
                        whole = 3 * whole + (whole < 0 ? -t : t)
                    }
                }
                var step = (listed == nil ? cells : finest).columns[column].step
                if !cells.factors.isEmpty { step *= cells.factors[row] }
                let product = Float(whole) * step
                return product + cells.columns[column].mean
            }
            cells.turn(&values, row: row)
            return values
        }
    }

    /// The bits of a 16- or 32-bit float: to nearest even, never infinite.
    package static func bits(_ value: Float, _ element: TensorView.Element) -> UInt32 {
        switch element {
        case .float16:
            let largest = Float(Float16.greatestFiniteMagnitude)
            return UInt32(Float16(min(max(value, -largest), largest)).bitPattern)
        case .bfloat16:
            let bits = value.bitPattern
            return (bits + 0x7fff + (bits >> 16 & 1)) >> 16
        case .float32: return value.bitPattern
        case .int8, .float8: preconditionFailure("no type of a float's kernels")
        }
    }

    /// The float of such bits.
    package static func float(_ bits: UInt32, _ element: TensorView.Element) -> Float {
        switch element {
        case .float16: Float(Float16(bitPattern: UInt16(bits)))
        case .bfloat16: Float(bitPattern: bits << 16)
        case .float32: Float(bitPattern: bits)
        case .int8, .float8: preconditionFailure("no type of a float's kernels")
        }
    }

    /// Splits rows of elements into symbols and rests, [row][column][byte].
    package static func split(
        _ rows: [[UInt32]], _ columns: [SplitColumns.Column], tables: [SymbolTable],
        _ element: TensorView.Element
    ) -> (symbols: Symbols, rests: [UInt8]) {
        var found = Symbols(rows: [], escapes: [:])
        var rests: [UInt8] = []
        let width = UInt32(8 * element.byteCount)
        for (row, elements) in rows.enumerated() {
            var symbols: [Int8] = []
            for (column, bits) in elements.enumerated() {
                let mask = UInt32(truncatingIfNeeded: UInt64(1) << width - 1)
                let turned = width == 8 ? bits : (bits << 1 | bits >> (width - 1)) & mask
                for byte in 0..<element.byteCount - 1 {
                    rests.append(UInt8(truncatingIfNeeded: turned >> UInt32(8 * byte)))
                }
                let high = UInt8(truncatingIfNeeded: turned >> (width - 8))
                let symbol = Int8(bitPattern: high &- columns[column].offset)
                let known = tables[columns[column].table].symbols
                if known?.contains(Int(symbol)) ?? false {
                    symbols.append(symbol)
                } else {
                    symbols.append(SymbolTable.escape)
                    found.escapes[row * elements.count + column] = Int(high)
                }
            }
            found.rows.append(symbols)
        }
        return (found, rests)
    }
}
