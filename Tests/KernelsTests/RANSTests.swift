// SPDX-License-Identifier: Apache-2.0
import KVCore
import Testing

@testable import Kernels

@Suite struct `A rANS stream` {
    struct Sample {
        let coding: KernelReference.Coding
        let columns: CodedColumns
        let rows: [[Int8]]
        let tables: SymbolTables

        init(rowCount: Int, columnCount: Int, seed: UInt64) {
            var generator = SeededGenerator(seed)
            let chosen = (0..<columnCount).map { _ in
                Int.random(in: bells.indices, using: &generator)
            }
            let order = Array(0..<columnCount).shuffled(using: &generator)
            coding = KernelReference.Coding(tables: bells, tableOfColumn: chosen, order: order)
            tables = SymbolTables(bells)
            columns = CodedColumns(tables, tableOfColumn: chosen, order: order)
            rows = (0..<rowCount).map { _ in
                chosen.map { table in
                    guard let symbols = bells[table].symbols,
                        UInt8.random(in: 0..<40, using: &generator) > 0
                    else { return SymbolTable.escape }
                    return Int8(Int.random(in: symbols, using: &generator))
                }
            }
        }

        func encoded(_ width: KernelWidth) -> KernelReference.Stream {
            let packed = pack(
                rows, positions: (0..<UInt32(columns.columnCount)).map { $0 },
                pitch: columns.pitch)
            let area = OwnedBytes(count: columns.wordAreaByteCount(rowCount: rows.count))
            let states = OwnedBytes(count: RANS.stateByteCount)
            let words = RANS.encode(
                columns, rowCount: rows.count, packed: packed.bytes, area: area.bytes,
                states: states.bytes, width: width)
            let stream = KernelReference.Stream(
                states: (0..<64).map { states.bytes.load(UInt32.self, at: 4 * $0) },
                words: (0..<words.count / 2).map { words.load(UInt16.self, at: 2 * $0) })
            withExtendedLifetime((packed, area, states)) {}
            return stream
        }

        /// Decodes words that stand in front of a page that cannot be read.
        func decoded(
            _ stream: KernelReference.Stream, _ width: KernelWidth
        ) -> (rows: [[Int8]], escapeCount: Int)? {
            let states = OwnedBytes(count: RANS.stateByteCount)
            for (lane, state) in stream.states.enumerated() {
                states.bytes.store(state, at: 4 * lane)
            }
            let words = GuardedBytes(
                copyOf: stream.words.flatMap { [UInt8($0 & 255), UInt8($0 >> 8)] })
            let packed = OwnedBytes(
                count: max(4, columns.packedByteCount(rowCount: rows.count)))
            let escapeCount = RANS.decode(
                columns, rowCount: rows.count, states: states.bytes, words: words.bytes,
                into: packed.bytes, width: width)
            return withExtendedLifetime((states, words, packed)) {
                escapeCount.map {
                    (
                        unpack(
                            packed.bytes, rowCount: rows.count, positions: columns.positions,
                            pitch: columns.pitch), $0
                    )
                }
            }
        }
    }

    @Test(arguments: widths, [(1, 1), (2, 64), (3, 63), (4, 65), (5, 130), (30, 192), (64, 7)])
    func `is the reference's, and comes back`(width: KernelWidth, size: (Int, Int)) {
        let sample = Sample(rowCount: size.0, columnCount: size.1, seed: 7)
        let stream = sample.encoded(width)
        #expect(stream == KernelReference.encode(sample.rows, sample.coding))
        let found = sample.decoded(stream, width)
        #expect(found?.rows == sample.rows)
        #expect(found?.escapeCount == sample.rows.joined().count { $0 == SymbolTable.escape })
        let reference = KernelReference.decode(stream, rowCount: size.0, sample.coding)
        #expect(reference == sample.rows)
    }

    @Test(arguments: widths)
    func `of certain symbols takes few words`(width: KernelWidth) {
        let sample = Sample(rowCount: 64, columnCount: 64, seed: 1)
        let table = bell(0.1)
        let columns = CodedColumns(
            SymbolTables([table]), tableOfColumn: Array(repeating: 0, count: 64),
            order: Array(0..<64))
        let packed = OwnedBytes(count: columns.packedByteCount(rowCount: 64))
        let area = OwnedBytes(count: columns.wordAreaByteCount(rowCount: 64))
        let states = OwnedBytes(count: RANS.stateByteCount)
        let words = RANS.encode(
            columns, rowCount: 64, packed: packed.bytes, area: area.bytes, states: states.bytes,
            width: width)
        #expect(words.count < sample.encoded(width).words.count)
        #expect(words.count <= 128)
        withExtendedLifetime((packed, area, states)) {}
    }

    @Test(arguments: widths)
    func `is refused when a word is missing or left over`(width: KernelWidth) {
        let sample = Sample(rowCount: 9, columnCount: 100, seed: 3)
        let stream = sample.encoded(width)
        for count in [0, 1, stream.words.count / 2, stream.words.count - 1] {
            var short = stream
            short.words.removeLast(stream.words.count - count)
            #expect(sample.decoded(short, width) == nil, "\(count) words")
        }
        var long = stream
        long.words.append(0)
        #expect(sample.decoded(long, width) == nil)
        var other = stream
        other.states[63] ^= 1
        #expect(sample.decoded(other, width) == nil)
    }

    @Test(arguments: widths, 0..<40 as Range<UInt64>)
    func `that is damaged gives what the reference gives`(width: KernelWidth, seed: UInt64) {
        var generator = SeededGenerator(seed)
        let rowCount = Int.random(in: 1...12, using: &generator)
        let columnCount = Int.random(in: 1...140, using: &generator)
        let sample = Sample(rowCount: rowCount, columnCount: columnCount, seed: seed)
        var stream = sample.encoded(.scalar)
        if seed.isMultiple(of: 2) {
            stream.states = stream.states.map { _ in
                .random(in: 0...UInt32.max, using: &generator)
            }
            stream.words = stream.words.map { _ in
                .random(in: 0...UInt16.max, using: &generator)
            }
        } else {
            stream.states[Int.random(in: 0..<64, using: &generator)] ^= 1 << 7
        }
        let found = sample.decoded(stream, width)
        let expected = KernelReference.decode(stream, rowCount: rowCount, sample.coding)
        #expect(found?.rows == expected, "seed \(seed)")
    }

    @Test func `has tables that are checked`() {
        var frequencies = bells[3].frequencies
        #expect(SymbolTable(frequencies: frequencies) != nil)
        #expect(SymbolTable(frequencies: Array(frequencies.dropLast())) == nil)
        frequencies[128] += 1
        #expect(SymbolTable(frequencies: frequencies) == nil)
        var only = [UInt16](repeating: 0, count: 256)
        only[0] = 2_048
        #expect(SymbolTable(frequencies: only)?.symbols == nil)
        only[128] = 2_048
        only[0] = 0
        #expect(SymbolTable(frequencies: only) == nil)
    }

    @Test func `codes the run of known symbols around the likeliest`() {
        var frequencies = [UInt16](repeating: 0, count: 256)
        frequencies[0] = 8
        frequencies[128 - 5] = 40
        for symbol in -2...3 { frequencies[128 + symbol] = 100 }
        frequencies[128] = 1_500
        #expect(SymbolTable(frequencies: frequencies)?.symbols == -2...3)
    }
}
