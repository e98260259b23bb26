// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVCore
import Testing

@testable import Kernels

@Suite struct `A kernel of scaled values` {
    struct Shape: CustomTestStringConvertible {
        let rowCount: Int
        let headCount: Int
        let headWidth: Int
        let rotated: RotatedChannels
        var testDescription: String {
            "\(rowCount) rows, \(headCount) heads of \(headWidth), \(rotated)"
        }

        init(_ rows: Int, _ heads: Int, _ width: Int, _ rotated: RotatedChannels = .none) {
            (rowCount, headCount, headWidth, self.rotated) = (rows, heads, width, rotated)
        }
    }

    static let shapes = [
        Shape(1, 1, 1), Shape(4, 2, 16), Shape(7, 3, 64), Shape(5, 1, 24), Shape(6, 2, 10),
        Shape(9, 2, 64, RotatedChannels(first: 0, pairCount: 32, isInterleaved: false)),
        Shape(9, 2, 64, RotatedChannels(first: 0, pairCount: 32, isInterleaved: true)),
        Shape(6, 1, 96, RotatedChannels(first: 32, pairCount: 16, isInterleaved: false)),
        Shape(6, 1, 96, RotatedChannels(first: 32, pairCount: 16, isInterleaved: true)),
        Shape(3, 2, 80, RotatedChannels(first: 0, pairCount: 40, isInterleaved: false)),
        Shape(3, 2, 14, RotatedChannels(first: 2, pairCount: 5, isInterleaved: true)),
    ]

    /// Random columns, and values around them with some far away.
    struct Sample {
        var cells: KernelReference.Cells
        let columns: ScaledColumns
        /// Of the rows, and one over them; nil: none.
        var factors: (own: OwnedBytes, inverse: OwnedBytes)?
        let tensor: OwnedBytes
        let view: TensorView
        let angles: (cosines: OwnedBytes, sines: OwnedBytes)

        init(_ shape: Shape, _ element: TensorView.Element, seed: UInt64, isSpaced: Bool = false) {
            var generator = SeededGenerator(seed)
            let count = shape.headCount * shape.headWidth
            let cellColumns = (0..<count).map { _ in
                ScaledColumns.Column(
                    mean: generator.normal(), step: 0.02 * exp(generator.normal()),
                    table: Int.random(in: bells.indices, using: &generator))
            }
            let order = Array(0..<count).shuffled(using: &generator)
            columns = ScaledColumns(
                cellColumns, order: order, tables: SymbolTables(bells),
                headWidth: shape.headWidth, rotated: shape.rotated)
            let turns = (0..<shape.rowCount).map { row in
                (0..<shape.rotated.pairCount).map { Double(row + 3) / Double($0 + 1) }
            }
            cells = KernelReference.Cells(
                cellColumns, tables: bells, headWidth: shape.headWidth, rotated: shape.rotated,
                cosines: turns.map { $0.map { Float(cos($0)) } },
                sines: turns.map { $0.map { Float(sin($0)) } })
            angles = (Self.floats(cells.cosines), Self.floats(cells.sines))
            let size = element.byteCount
            let headStride = (shape.headWidth + (isSpaced ? 3 : 0)) * size
            let rowStride = shape.headCount * headStride + (isSpaced ? 7 * size : 0)
            tensor = OwnedBytes(count: shape.rowCount * rowStride)
            view = TensorView(
                tensor.bytes,
                .init(
                    rowCount: shape.rowCount, headCount: shape.headCount,
                    headWidth: shape.headWidth, element: element),
                rowStride: rowStride, headStride: headStride)
            for row in 0..<shape.rowCount {
                for (column, cell) in cellColumns.enumerated() {
                    let isFar = UInt8.random(in: 0..<50, using: &generator) == 0
                    let spread = cell.step * (isFar ? 900 : 8)
                    store(cell.mean + spread * generator.normal(), row: row, column: column)
                }
            }
        }

        /// Gives rows factors between a quarter and four.
        mutating func setFactors(seed: UInt64) {
            var generator = SeededGenerator(seed)
            cells.factors = (0..<view.shape.rowCount).map { _ in
                exp2(Float.random(in: -2...2, using: &generator))
            }
            factors = (
                Self.floats([cells.factors]), Self.floats([cells.factors.map { 1 / $0 }])
            )
        }

        var angleBytes: ScaledColumns.Angles {
            .init(cosines: angles.cosines.bytes, sines: angles.sines.bytes)
        }

        func place(row: Int, column: Int) -> Int {
            let (head, channel) = column.quotientAndRemainder(dividingBy: view.shape.headWidth)
            return row * view.rowStride + head * view.headStride
                + channel * view.shape.element.byteCount
        }

        func store(_ value: Float, row: Int, column: Int) {
            let bits = KernelReference.bits(value, view.shape.element)
            if view.shape.element == .float32 {
                tensor.bytes.store(bits, at: place(row: row, column: column))
            } else {
                tensor.bytes.store(UInt16(bits), at: place(row: row, column: column))
            }
        }

        func bits(_ memory: PinnedBytes) -> [[UInt32]] {
            (0..<view.shape.rowCount).map { row in
                (0..<view.shape.columnCount).map { column in
                    let place = place(row: row, column: column)
                    return view.shape.element == .float32
                        ? memory.load(UInt32.self, at: place)
                        : UInt32(memory.load(UInt16.self, at: place))
                }
            }
        }

        private static func floats(_ rows: [[Float]]) -> OwnedBytes {
            let all = rows.flatMap { $0 }
            let memory = OwnedBytes(count: max(4, 4 * all.count))
            for (index, value) in all.enumerated() {
                memory.bytes.store(value.bitPattern, at: 4 * index)
            }
            return memory
        }

        /// Symbols and escapes as a kernel finds them; nil when it refuses.
        func quantised(
            _ width: KernelWidth, escapeCountMax: Int = 4_096
        ) -> (packed: OwnedBytes, escapes: OwnedBytes, escapeCount: Int)? {
            let packed = OwnedBytes(
                count: columns.coded.packedByteCount(rowCount: view.shape.rowCount))
            let escapes = OwnedBytes(count: 8 * escapeCountMax)
            let count = columns.quantise(
                view, angles: angleBytes, inverseFactors: factors?.inverse.bytes,
                into: packed.bytes, escapes: escapes.bytes, width: width)
            withExtendedLifetime((tensor, angles, factors)) {}
            return count.map { (packed, escapes, $0) }
        }

        /// In work order, as encoding takes them.
        var workPositions: [UInt32] {
            (0..<view.shape.columnCount).map { column in
                let (head, channel) = column.quotientAndRemainder(dividingBy: columns.headWidth)
                let work = columns.rotated.workChannel(of: channel)
                return UInt32(head * columns.headWidth + work)
            }
        }

        func symbols(
            _ packed: PinnedBytes, _ list: PinnedBytes, count: Int
        )
            -> KernelReference.Symbols
        {
            let rows = unpack(
                packed, rowCount: view.shape.rowCount, positions: workPositions,
                pitch: columns.coded.pitch)
            let escapes = (0..<count).map { index in
                (
                    Int(list.load(UInt32.self, at: 8 * index)),
                    Int(list.load(Int32.self, at: 8 * index + 4))
                )
            }
            return .init(rows: rows, escapes: Dictionary(uniqueKeysWithValues: escapes))
        }
    }

    @Test(arguments: widths, shapes)
    func `does what the reference does`(width: KernelWidth, shape: Shape) throws {
        for index in 0..<6 {
            let element = [TensorView.Element.float16, .bfloat16, .float32][index / 2]
            var sample = Sample(shape, element, seed: 11, isSpaced: element == .float16)
            if index % 2 == 1 { sample.setFactors(seed: 12) }
            let rows = sample.bits(sample.tensor.bytes).map { row in
                row.map { KernelReference.float($0, element) }
            }
            let expected = try #require(KernelReference.quantise(rows, sample.cells))
            let found = try #require(sample.quantised(width))
            #expect(
                sample.symbols(
                    found.packed.bytes, found.escapes.bytes, count: found.escapeCount) == expected)

            // Symbols in coding order, as a decoder finds them.
            let coded = sample.workPositions.map { sample.columns.coded.positions[Int($0)] }
            let packed = pack(
                expected.rows, positions: coded, pitch: sample.columns.coded.pitch)
            sample.tensor.bytes.fill(0xA5)
            #expect(
                sample.columns.restore(
                    packed.bytes, angles: sample.angleBytes,
                    factors: sample.factors?.own.bytes, escapes: found.escapes.bytes,
                    escapeCount: found.escapeCount, into: sample.view, width: width))
            let values = KernelReference.restore(expected, sample.cells)
            #expect(
                sample.bits(sample.tensor.bytes)
                    == values.map { $0.map { KernelReference.bits($0, element) } })
        }
    }

    @Test(arguments: widths, shapes)
    func `adds the squares of rows in one order`(width: KernelWidth, shape: Shape) {
        for element in [TensorView.Element.float16, .bfloat16, .float32] {
            let sample = Sample(shape, element, seed: 13, isSpaced: element == .float32)
            let rows = sample.bits(sample.tensor.bytes).map { row in
                row.map { KernelReference.float($0, element) }
            }
            let sums = OwnedBytes(count: 4 * shape.rowCount)
            sample.columns.squares(
                sample.view, angles: sample.angleBytes, into: sums.bytes, width: width)
            let found = (0..<shape.rowCount).map {
                Float(bitPattern: sums.bytes.load(UInt32.self, at: 4 * $0))
            }
            #expect(found == KernelReference.squares(rows, sample.cells))
            #expect(found.allSatisfy { $0 > 0 })
            withExtendedLifetime((sample.tensor, sample.angles)) {}
        }
    }

    @Test(arguments: widths)
    func `gives symbols as they are`(width: KernelWidth) throws {
        let shape = Self.shapes[8]
        let sample = Sample(shape, .float16, seed: 5)
        let found = try #require(sample.quantised(width))
        let symbols = sample.symbols(
            found.packed.bytes, found.escapes.bytes, count: found.escapeCount)
        let coded = sample.workPositions.map { sample.columns.coded.positions[Int($0)] }
        let packed = pack(symbols.rows, positions: coded, pitch: sample.columns.coded.pitch)
        let target = OwnedBytes(count: sample.view.shape.rowCount * sample.view.shape.columnCount)
        let view = TensorView(
            dense: target.bytes,
            .init(
                rowCount: shape.rowCount, headCount: shape.headCount, headWidth: shape.headWidth,
                element: .int8))
        #expect(
            sample.columns.restore(
                packed.bytes, angles: sample.angleBytes, escapes: found.escapes.bytes,
                escapeCount: found.escapeCount, into: view, width: width))
        for (index, symbol) in symbols.rows.joined().enumerated() {
            #expect(target.bytes.load(Int8.self, at: index) == symbol)
        }
    }

    @Test(arguments: widths, [Float.nan, .infinity, -.infinity, 3e38])
    func `refuses what is no cell's`(width: KernelWidth, value: Float) {
        for shape in [Self.shapes[0], Self.shapes[2], Self.shapes[6]] {
            let sample = Sample(shape, .float32, seed: 2)
            #expect(sample.quantised(width) != nil)
            sample.store(value, row: shape.rowCount - 1, column: sample.view.shape.headWidth / 2)
            #expect(sample.quantised(width) == nil)
        }
    }

    @Test(arguments: widths)
    func `refuses more escapes than there is room for`(width: KernelWidth) throws {
        let sample = Sample(Self.shapes[2], .float16, seed: 4)
        let count = try #require(sample.quantised(width)).escapeCount
        #expect(count > 1)
        #expect(sample.quantised(width, escapeCountMax: count)?.escapeCount == count)
        #expect(sample.quantised(width, escapeCountMax: count - 1) == nil)
    }

    @Test(arguments: widths, [2, 6])
    func `refuses a list that is not one of its escapes`(width: KernelWidth, shape: Int) throws {
        let sample = Sample(Self.shapes[shape], .float16, seed: 4)
        let found = try #require(sample.quantised(width))
        let symbols = sample.symbols(
            found.packed.bytes, found.escapes.bytes, count: found.escapeCount)
        let coded = sample.workPositions.map { sample.columns.coded.positions[Int($0)] }
        let packed = pack(symbols.rows, positions: coded, pitch: sample.columns.coded.pitch)
        let list = found.escapes.bytes
        func isTaken(_ count: Int = 2) -> Bool {
            sample.columns.restore(
                packed.bytes, angles: sample.angleBytes, escapes: list, escapeCount: count,
                into: sample.view, width: width)
        }
        let places = symbols.escapes.keys.sorted()
        func name(_ first: Int, _ second: Int) {
            list.store(UInt32(first), at: 0)
            list.store(UInt32(second), at: 8)
        }
        name(places[0], places[1])
        #expect(isTaken())
        name(places[1], places[0])
        #expect(!isTaken())
        name(places[0], places[0])
        #expect(!isTaken())
        name(places[0], sample.view.shape.rowCount * sample.view.shape.columnCount)
        #expect(!isTaken())
        let other = try #require((0...).first { !places.contains($0) })
        name(min(other, places[0]), max(other, places[0]))
        #expect(!isTaken())
        name(places[0], places[1])
        list.store(Int32.max, at: 4)
        #expect(!isTaken())
    }
}

@Suite struct `A kernel that loses nothing` {
    @Test(arguments: widths, [TensorView.Element.float16, .bfloat16, .float32, .float8])
    func `splits as the reference does, and joins again`(
        width: KernelWidth, element: TensorView.Element
    ) throws {
        for (rowCount, headCount, headWidth) in [(1, 1, 1), (6, 2, 64), (5, 1, 40), (3, 3, 7)] {
            var generator = SeededGenerator(9)
            let count = headCount * headWidth
            let columns = (0..<count).map { _ in
                SplitColumns.Column(
                    offset: .random(in: 0...255, using: &generator),
                    table: Int.random(in: bells.indices, using: &generator))
            }
            let size = element.byteCount
            let mask = UInt32(truncatingIfNeeded: UInt64(1) << UInt64(8 * size) - 1)
            let rows = (0..<rowCount).map { _ in
                (0..<count).map { _ in UInt32.random(in: 0...mask, using: &generator) }
            }
            let memory = OwnedBytes(count: rowCount * count * size)
            for (index, bits) in rows.joined().enumerated() {
                for byte in 0..<size {
                    memory.bytes.store(
                        UInt8(truncatingIfNeeded: bits >> UInt32(8 * byte)),
                        at: index * size + byte)
                }
            }
            let original = (0..<memory.bytes.count).map { memory.bytes[$0] }
            let view = TensorView(
                dense: memory.bytes,
                .init(
                    rowCount: rowCount, headCount: headCount, headWidth: headWidth,
                    element: element))
            let split = SplitColumns(columns, tables: SymbolTables(bells))
            let packed = OwnedBytes(count: split.coded.packedByteCount(rowCount: rowCount))
            let rests = OwnedBytes(count: max(1, SplitColumns.restByteCount(view.shape)))
            let escapes = OwnedBytes(count: 8 * rowCount * count)
            let escapeCount = try #require(
                split.split(
                    view, into: packed.bytes, rests: rests.bytes, escapes: escapes.bytes,
                    width: width))
            let expected = KernelReference.split(rows, columns, tables: bells, element)
            let found = unpack(
                packed.bytes, rowCount: rowCount, positions: split.coded.positions,
                pitch: split.coded.pitch)
            #expect(found == expected.symbols.rows)
            #expect(escapeCount == expected.symbols.escapes.count)
            #expect(expected.rests == (0..<expected.rests.count).map { rests.bytes[$0] })
            memory.bytes.fill(0)
            #expect(
                split.join(
                    packed.bytes, rests: rests.bytes, escapes: escapes.bytes,
                    escapeCount: escapeCount, into: view, width: width))
            #expect(original == (0..<memory.bytes.count).map { memory.bytes[$0] })
            if escapeCount > 0 {
                #expect(
                    split.split(
                        view, into: packed.bytes, rests: rests.bytes,
                        escapes: escapes.bytes.prefix(8 * (escapeCount - 1)), width: width) == nil)
            }
        }
    }
}
