// SPDX-License-Identifier: Apache-2.0
import KVCore
import Testing

@testable import Kernels

@Suite struct `A kernel of embedded values` {
    typealias Scaled = `A kernel of scaled values`

    /// Three tables of refinements, one of which finds 0 in cells around the mean almost always.
    private let tables = [
        [300, 1_448, 300, 900, 900, 248, 1_000, 800, 248, 1_100, 748, 200],
        [1, 2_046, 1, 900, 748, 400, 800, 700, 548, 720, 690, 638],
        [682, 683, 683, 700, 700, 648, 2_000, 24, 24, 683, 683, 682],
    ].compactMap { RefinementTable(frequencies: $0.map { UInt16($0) }) }

    /// Columns with cells of the sample's steps, and of three and nine of them.
    private func columns(
        _ sample: Scaled.Sample, _ seed: UInt64
    ) -> (
        EmbeddedColumns, stops: [KernelReference.Cells]
    ) {
        var generator = SeededGenerator(seed)
        let own = sample.cells.columns
        let order = Array(own.indices).shuffled(using: &generator)
        let stops = [Float(9), 3, 1].map { factor in
            var cells = sample.cells
            cells.columns = own.map {
                .init(mean: $0.mean, step: factor * $0.step, table: $0.table)
            }
            return cells
        }
        let symbolTables = SymbolTables(bells)
        let scaled = stops.map { cells in
            ScaledColumns(
                cells.columns, order: order, tables: symbolTables, headWidth: cells.headWidth,
                rotated: cells.rotated)
        }
        let numbers = (0..<2).map { refinement in own.indices.map { ($0 + refinement) % 3 } }
        return (EmbeddedColumns(scaled, SymbolTables(tables), tableOfColumn: numbers), stops)
    }

    @Test(arguments: widths, Scaled.shapes)
    func `does what the reference does`(width: KernelWidth, shape: Scaled.Shape) throws {
        for (seed, element) in [TensorView.Element.float16, .bfloat16, .float32].enumerated() {
            var sample = Scaled.Sample(shape, element, seed: UInt64(seed) + 20)
            if element == .bfloat16 { sample.setFactors(seed: 12) }
            let (columns, stops) = columns(sample, UInt64(seed))
            let rows = sample.bits(sample.tensor.bytes).map { row in
                row.map { KernelReference.float($0, element) }
            }
            let expected = try #require(KernelReference.refine(rows, stops[2]))
            let stride = columns.stops[0].coded.packedByteCount(rowCount: shape.rowCount)
            let (packed, escapes) = (OwnedBytes(count: 3 * stride), OwnedBytes(count: 8 * 4_096))
            let escapeCount = try #require(
                columns.quantise(
                    sample.view, angles: sample.angleBytes,
                    inverseFactors: sample.factors?.inverse.bytes, into: packed.bytes,
                    stride: stride, escapes: escapes.bytes, width: width))
            #expect(
                sample.symbols(packed.bytes, escapes.bytes, count: escapeCount) == expected.base)
            for index in 0..<2 {
                let found = unpack(
                    packed.bytes.dropFirst((index + 1) * stride), rowCount: shape.rowCount,
                    positions: sample.workPositions, pitch: columns.stops[0].coded.pitch)
                for row in 0..<shape.rowCount {
                    let bytes = zip(
                        expected.contexts[index][row], expected.refinements[index][row])
                    #expect(found[row] == bytes.map { Int8($0 << 2 | Int($1 + 1)) })
                }
            }
            let coded = try decoded(columns, packed.bytes, stride, shape.rowCount, width)
            for count in 0...2 {
                sample.tensor.bytes.fill(0xA5)
                // What a call is given may come back in another order.
                let list = OwnedBytes(count: escapes.bytes.count)
                list.bytes.copy(from: escapes.bytes)
                #expect(
                    columns.restore(
                        coded.bytes, refinementCount: count, stride: stride,
                        angles: sample.angleBytes, factors: sample.factors?.own.bytes,
                        escapes: list.bytes, escapeCount: escapeCount, into: sample.view,
                        width: width))
                withExtendedLifetime(list) {}
                let values = KernelReference.restore(
                    expected, count: count, stops[count], finest: stops[2])
                #expect(
                    sample.bits(sample.tensor.bytes)
                        == values.map { $0.map { KernelReference.bits($0, element) } })
            }
            withExtendedLifetime((sample.tensor, sample.angles, sample.factors)) {}
        }
    }

    /// Encodes all three streams and decodes them again: symbols in coding order.
    private func decoded(
        _ columns: EmbeddedColumns, _ packed: PinnedBytes, _ stride: Int, _ rowCount: Int,
        _ width: KernelWidth
    ) throws -> OwnedBytes {
        let result = OwnedBytes(count: 3 * stride)
        let states = OwnedBytes(count: RANS.stateByteCount)
        for index in 0...2 {
            let coded = index == 0 ? columns.stops[0].coded : columns.refinements[index - 1]
            let area = OwnedBytes(count: coded.wordAreaByteCount(rowCount: rowCount))
            let words = RANS.encode(
                coded, rowCount: rowCount, packed: packed.dropFirst(index * stride),
                area: area.bytes, states: states.bytes, width: width)
            let target = result.bytes.dropFirst(index * stride)
            if index == 0 {
                _ = RANS.decode(
                    coded, rowCount: rowCount, states: states.bytes, words: words, into: target,
                    width: width)
            } else {
                let contexts = OwnedBytes(count: stride)
                RANS.fillContexts(
                    contexts.bytes, base: result.bytes.prefix(stride),
                    first: index == 1
                        ? nil : result.bytes.slice(offset: stride, count: stride))
                let found = RANS.decode(
                    coded, contexts: contexts.bytes, rowCount: rowCount, states: states.bytes,
                    words: words, into: target, width: width)
                #expect(found == 0)
                withExtendedLifetime(contexts) {}
            }
            withExtendedLifetime(area) {}
        }
        return result
    }

    @Test func `refuses tables that do not sum up`() {
        #expect(RefinementTable(frequencies: Array(repeating: 2_048, count: 12)) == nil)
        #expect(RefinementTable(frequencies: [2_048, 0, 0]) == nil)
        let sparse = RefinementTable(
            frequencies: [0, 2_048, 0, 1, 2_046, 1, 0, 0, 2_048, 5, 2_043, 0])
        #expect(sparse != nil && sparse?.isWhole == false)
        #expect(tables.count == 3 && tables.allSatisfy(\.isWhole))
    }
}
