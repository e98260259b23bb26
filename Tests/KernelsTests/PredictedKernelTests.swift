// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVCore
import Testing

@testable import Kernels

/// Random matrices, and the same as a reference and as kernels have them.
private struct PredictedSample {
    let reference: KernelReference.Predicted
    let columns: PredictedColumns
    let sourceCounts: [Int]

    /// `largest`: of the numbers that values are put together from.
    init(columnCount count: Int, sources: [Int], largest: Int16, seed: UInt64) {
        var generator = SeededGenerator(seed)
        func floats(_ scale: Float) -> [Float] {
            (0..<count).map { _ in scale * exp(generator.normal()) }
        }
        let rowCount = sources.reduce(0, +)
        let prediction = (0..<rowCount).map { _ in
            (0..<count).map { _ in Int8.random(in: -128...127, using: &generator) }
        }
        let synthesis = (0..<count).map { _ in
            (0..<count).map { _ in Int16.random(in: -largest...largest - 1, using: &generator) }
        }
        let (steps, scales) = (floats(0.05), (floats(0.0003), floats(0.001)))
        let means = (0..<count).map { _ in generator.normal() }
        let analysis = (0..<count * count).map { _ in generator.normal() }
        sourceCounts = sources
        reference = KernelReference.Predicted(
            means: means, referenceSteps: steps, predictionScales: scales.0,
            prediction: prediction, synthesisScales: scales.1, synthesis: synthesis)
        let bytes = Self.bytes(prediction.joined().map { UInt8(bitPattern: $0) })
        let shorts = Self.bytes(
            synthesis.joined().flatMap { number in
                [UInt8(truncatingIfNeeded: number), UInt8(truncatingIfNeeded: number >> 8)]
            })
        let looks = Self.floats(analysis)
        defer { withExtendedLifetime((bytes, shorts, looks)) {} }
        columns = PredictedColumns(
            means: means, referenceSteps: steps, weights: [],
            prediction: (
                WholeMatrix(
                    bytes: bytes.bytes.prefix(rowCount * count), sourceRowCounts: sources,
                    columnCount: count, sumLimit: .max)!, scales.0
            ),
            synthesis: (
                WholeMatrix(
                    shorts: shorts.bytes, rowCount: count, columnCount: count, sumLimit: .max)!,
                scales.1
            ),
            analysis: looks.bytes)
    }

    static func bytes(_ content: [UInt8]) -> OwnedBytes {
        let memory = OwnedBytes(count: max(1, content.count))
        for (offset, byte) in content.enumerated() { memory.bytes.store(byte, at: offset) }
        return memory
    }

    static func floats(_ content: [Float]) -> OwnedBytes {
        let memory = OwnedBytes(count: 4 * max(1, content.count))
        for (index, number) in content.enumerated() {
            memory.bytes.store(number.bitPattern, at: 4 * index)
        }
        return memory
    }

    /// Memory of values, and what they are.
    func memory(rowCount: Int) -> OwnedBytes { OwnedBytes(count: 4 * rowCount * columns.pitch) }

    func rows(_ memory: OwnedBytes, _ rowCount: Int) -> [[UInt32]] {
        (0..<rowCount).map { row in
            (0..<columns.columnCount).map {
                memory.bytes.load(UInt32.self, at: 4 * (row * columns.pitch + $0))
            }
        }
    }

    func scratch(rowCount: Int) -> OwnedBytes {
        OwnedBytes(
            count: PredictedColumns.Scratch.byteCount(
                rowCount: rowCount, columnCount: columns.columnCount))
    }
}

@Suite struct `A kernel of predicted values` {
    static let columnCounts = [1, 5, 64, 80, 192]
    static let rowCounts = [1, 3, 6, 7, 26]

    @Test(arguments: columnCounts, rowCounts)
    func `predicts what the reference predicts`(columnCount: Int, rowCount: Int) {
        for sources in [[], [columnCount], [7, columnCount, 64, 3, 130]] {
            let sample = PredictedSample(
                columnCount: columnCount, sources: sources, largest: 100, seed: 1)
            var generator = SeededGenerator(2)
            let references = (0..<rowCount).map { _ in
                sources.map { count in
                    (0..<count).map { _ in Int8.random(in: -127...127, using: &generator) }
                }
            }
            let memories = sources.enumerated().map { index, count in
                let pitch = WholeMatrix.panelCount(count) * 64
                let memory = OwnedBytes(count: rowCount * pitch)
                for row in 0..<rowCount {
                    for (place, number) in references[row][index].enumerated() {
                        memory.bytes.store(number, at: row * pitch + place)
                    }
                }
                return (memory, WholeRows(memory.bytes, pitch: pitch, count: count))
            }
            let expected = references.map {
                sample.reference.predict(Array($0.joined())).map(\.bitPattern)
            }
            let scratch = sample.scratch(rowCount: rowCount)
            for width in widths {
                let values = sample.memory(rowCount: rowCount)
                sample.columns.predict(
                    memories.map(\.1), rowCount: rowCount, into: values.bytes,
                    PredictedColumns.Scratch(scratch.bytes, rowCount: rowCount), width: width)
                #expect(sample.rows(values, rowCount) == expected, "\(width), \(sources)")
            }
            withExtendedLifetime((memories, scratch)) {}
        }
    }

    /// Numbers of a byte and of two; symbols that are mostly zero; escapes whose sums pass 32 bits.
    @Test(arguments: columnCounts, rowCounts)
    func `puts together what the reference does`(columnCount: Int, rowCount: Int) {
        for (largest, hasFactors) in [(Int16(127), false), (32_767, true), (128, true)] {
            let sample = PredictedSample(
                columnCount: columnCount, sources: [], largest: largest, seed: 3)
            var generator = SeededGenerator(4)
            let pitch = sample.columns.pitch
            let symbols = OwnedBytes(count: rowCount * pitch)
            var whole: [[Int]] = []
            var escapes: [(Int, Int32)] = []
            for row in 0..<rowCount {
                var numbers: [Int] = []
                for column in 0..<columnCount {
                    let isKnown = Int.random(in: 0...column / 4, using: &generator) == 0
                    let symbol = isKnown ? Int8.random(in: -127...127, using: &generator) : 0
                    symbols.bytes.store(symbol, at: row * pitch + column)
                    numbers.append(Int(symbol))
                    if row % 3 == 1, column % 3 == 0 {
                        let escape = Int32.random(in: -(1 << 24)...1 << 24, using: &generator)
                        symbols.bytes.store(Int8(0), at: row * pitch + column)
                        escapes.append((row * columnCount + column, escape))
                        numbers[column] = Int(escape)
                    }
                }
                whole.append(numbers)
            }
            let list = OwnedBytes(count: 8 * max(1, escapes.count))
            for (index, escape) in escapes.enumerated() {
                list.bytes.store(UInt32(escape.0), at: 8 * index)
                list.bytes.store(escape.1, at: 8 * index + 4)
            }
            let predictions = (0..<rowCount * pitch).map { _ in generator.normal() }
            let factors = (0..<rowCount).map { _ in hasFactors ? exp(generator.normal()) : 1 }
            let expected = (0..<rowCount).map { row in
                sample.reference.values(
                    Array(predictions[row * pitch..<row * pitch + columnCount]), whole[row],
                    step: 0.4, factor: factors[row]
                ).map(\.bitPattern)
            }
            let bases = PredictedSample.floats(predictions)
            let ofRows = PredictedSample.floats(factors)
            let scratch = sample.scratch(rowCount: rowCount)
            let sums = OwnedBytes(count: 4 * pitch)
            let scales = sample.columns.scales(step: 0.4)
            for width in widths {
                let values = sample.memory(rowCount: rowCount)
                let working = PredictedColumns.Scratch(scratch.bytes, rowCount: rowCount)
                sample.columns.synthesise(
                    symbols.bytes, rowCount: rowCount, scales: scales,
                    factors: hasFactors ? ofRows.bytes : nil, predictions: bases.bytes,
                    into: values.bytes, working, width: width)
                sample.columns.patch(
                    symbols.bytes, escapes: list.bytes, escapeCount: escapes.count,
                    scales: scales, factors: hasFactors ? ofRows.bytes : nil,
                    predictions: bases.bytes, into: values.bytes, sums: sums.bytes, working,
                    width: width)
                #expect(sample.rows(values, rowCount) == expected, "\(width), \(largest)")
            }
            withExtendedLifetime((symbols, list, bases, ofRows, scratch, sums)) {}
        }
    }

    @Test(arguments: columnCounts)
    func `refers as the reference does`(columnCount: Int) {
        let sample = PredictedSample(columnCount: columnCount, sources: [], largest: 9, seed: 5)
        var generator = SeededGenerator(6)
        let pitch = sample.columns.pitch
        let odd: [Float] = [.nan, .infinity, -.infinity, 1e30, -1e30, 0]
        let values = (0..<9 * pitch).map { place in
            place % 7 == 0 ? odd[place / 7 % odd.count] : 3 * generator.normal()
        }
        let expected = (0..<9).map { row in
            sample.reference.refer(Array(values[row * pitch..<row * pitch + columnCount]))
                + Array(repeating: 0, count: pitch - columnCount)
        }
        let memory = PredictedSample.floats(values)
        for width in widths {
            let references = OwnedBytes(count: 9 * pitch)
            sample.columns.refer(memory.bytes, rowCount: 9, into: references.bytes, width: width)
            let found = (0..<9).map { row in
                (0..<pitch).map { references.bytes.load(Int8.self, at: row * pitch + $0) }
            }
            #expect(found == expected, "\(width)")
        }
        withExtendedLifetime(memory) {}
    }

    /// Every width rounds the same way, and lists what its tables do not know.
    @Test(arguments: columnCounts, rowCounts)
    func `finds the same coefficients at every width`(columnCount: Int, rowCount: Int) {
        let sample = PredictedSample(columnCount: columnCount, sources: [], largest: 9, seed: 7)
        var generator = SeededGenerator(8)
        let pitch = sample.columns.pitch
        let values = (0..<rowCount * pitch).map { _ in generator.normal() }
        let bases = PredictedSample.floats((0..<rowCount * pitch).map { _ in generator.normal() })
        let scales = PredictedSample.floats((0..<rowCount).map { 0.4 + Float($0) / 8 })
        let ranges =
            (0..<columnCount).map { SymbolRange(bells[$0 % bells.count]) }
            + Array(repeating: SymbolRange(nil), count: pitch - columnCount)
        func found(_ width: KernelWidth) -> ([UInt8], [UInt64])? {
            let memory = PredictedSample.floats(values)
            let packed = OwnedBytes(count: (rowCount + 3) / 4 * 4 * pitch)
            let escapes = OwnedBytes(count: 8 * rowCount * columnCount)
            let count = sample.columns.analyse(
                memory.bytes, less: bases.bytes, rowCount: rowCount, scales: scales.bytes, ranges,
                into: packed.bytes, escapes: escapes.bytes, width: width)
            return count.map { count in
                (
                    (0..<packed.bytes.count).map { packed.bytes[$0] },
                    (0..<count).map { escapes.bytes.load(UInt64.self, at: 8 * $0) }
                )
            }
        }
        let plain = found(.scalar)
        #expect(plain.map { $0.0.contains { $0 != 0 } } == true || rowCount * columnCount < 5)
        for width in widths {
            let other = found(width)
            #expect(other?.0 == plain?.0 && other?.1 == plain?.1, "\(width)")
        }
        withExtendedLifetime((bases, scales)) {}
    }

    @Test func `gives values back that it has turned, at every width`() {
        for shape in `A kernel of scaled values`.shapes {
            for element in [TensorView.Element.float16, .bfloat16, .float32] {
                let sample = `A kernel of scaled values`.Sample(
                    shape, element, seed: 9, isSpaced: true)
                let turned = TurnedValues(shape.rotated, sample.angleBytes)
                let count = sample.tensor.bytes.count
                let pitch = WholeMatrix.panelCount(shape.headCount * shape.headWidth) * 64
                var found: [[UInt8]] = []
                var numbers: [[UInt8]] = []
                for width in widths {
                    let values = OwnedBytes(count: 4 * shape.rowCount * pitch)
                    #expect(turned.load(sample.view, into: values.bytes, width: width))
                    numbers.append((0..<values.bytes.count).map { values.bytes[$0] })
                    let back = OwnedBytes(count: count)
                    back.bytes.copy(from: sample.tensor.bytes)
                    let view = TensorView(
                        back.bytes, sample.view.shape, rowStride: sample.view.rowStride,
                        headStride: sample.view.headStride)
                    turned.store(values.bytes, into: view, width: width)
                    found.append((0..<count).map { back.bytes[$0] })
                }
                #expect(Set(found).count == 1 && Set(numbers).count == 1, "\(shape) \(element)")
                if shape.rotated.pairCount == 0 {
                    #expect(found[0] == (0..<count).map { sample.tensor.bytes[$0] })
                }
            }
        }
    }

    @Test(arguments: [Float.nan, .infinity, 0x1.2p80])
    func `tells of a value that is not finite, or too large`(odd: Float) {
        for width in widths {
            let tensor = PredictedSample.floats([1, 2, odd, 4])
            let view = TensorView(
                dense: tensor.bytes,
                .init(rowCount: 2, headCount: 1, headWidth: 2, element: .float32))
            let values = OwnedBytes(count: 4 * 2 * 64)
            let turned = TurnedValues(.none, nil)
            #expect(!turned.load(view, into: values.bytes, width: width))
            tensor.bytes.store((-Float(0x1p80)).bitPattern, at: 8)
            #expect(turned.load(view, into: values.bytes, width: width))
            withExtendedLifetime(tensor) {}
        }
    }

    @Test func `takes symbols apart at every width`() {
        for (rowCount, columnCount) in [(1, 1), (6, 65), (9, 192)] {
            var generator = SeededGenerator(11)
            let pitch = WholeMatrix.panelCount(columnCount) * 64
            let rows = (0..<rowCount).map { _ in
                (0..<pitch).map { _ in Int8.random(in: -128...127, using: &generator) }
            }
            let packed = pack(rows, positions: Array(0..<UInt32(pitch)), pitch: pitch)
            for width in widths {
                let symbols = OwnedBytes(count: rowCount * pitch)
                PackedSymbols.unpack(
                    packed.bytes, rowCount: rowCount, columnCount: columnCount,
                    into: symbols.bytes, width: width)
                let found = (0..<rowCount).map { row in
                    (0..<pitch).map { symbols.bytes.load(Int8.self, at: row * pitch + $0) }
                }
                #expect(found == rows, "\(width)")
            }
        }
    }
}
