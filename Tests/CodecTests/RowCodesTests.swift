// SPDX-License-Identifier: Apache-2.0
import KVCore
import Testing

@testable import Codec

@Suite struct `Codes of rows` {
    /// Codes that are chosen for rows of these sums of squares, and one over their factors.
    private func chosen(_ squares: [Float]) throws -> (codes: [Int], inverse: [Float]) {
        let rows = RowCodes()
        rows.prepare(rowCount: squares.count)
        for (row, square) in squares.enumerated() {
            rows.numbers.store(square.bitPattern, at: 4 * row)
        }
        rows.choose()
        let inverse = squares.indices.map {
            Float(bitPattern: rows.numbers.load(UInt32.self, at: 4 * $0))
        }
        let read = RowCodes()
        try read.read(rows.bytes, rowCount: squares.count)
        #expect(squares.indices.allSatisfy { 1 / read.factor($0) == inverse[$0] })
        let bytes = (0..<rows.bytes.count).map { rows.bytes[$0] }
        return (squares.indices.map { Int(bytes[$0 / 2] >> (4 * ($0 % 2))) & 15 }, inverse)
    }

    @Test func `are quarters of an octave of the root mean square`() throws {
        // Squares, so that a factor of 2 is a quarter of an octave twice over.
        #expect(try chosen([1, 2, 4, 0.5, 0.25]).codes == [8, 10, 12, 6, 4])
        #expect(try chosen([1, 2, 4, 0.5, 0.25]).inverse[2] == 0.5)
        #expect(try chosen([9e9, 9e9, 9e9]).codes == [8, 8, 8])
        #expect(try chosen([7]).codes == [8])
        // As far as four bits go.
        #expect(try chosen([0x1p40, 0x1p-40]).codes == [15, 0])
    }

    @Test func `do not mind rows that say nothing`() throws {
        #expect(try chosen([4, 4, 0, 4]).codes == [8, 8, 0, 8])
        #expect(try chosen([0, 0]).codes == [0, 0])
        #expect(try chosen([4, .infinity, .nan, 8]).codes == [7, 8, 8, 9])
    }

    @Test func `have factors that are the format's`() {
        #expect(RowCodes.factors[8] == 1 && RowCodes.factors[0] == 0.25)
        #expect(RowCodes.factors[12] == 2 && RowCodes.factors[10] == Float(2).squareRoot())
        #expect(RowCodes.factors.allSatisfy { $0 < RowCodes.factorBound })
    }

    @Test func `leave no half a byte that is not zero`() throws {
        let rows = RowCodes()
        let (sound, damaged) = (owned([0x21, 0x03]), owned([0x21, 0x13]))
        defer { withExtendedLifetime((sound, damaged)) {} }
        #expect(throws: Never.self) { try rows.read(sound.bytes, rowCount: 3) }
        #expect((0..<3).map { rows.factor($0) } == [1, 2, 3].map { RowCodes.factors[$0] })
        #expect(throws: CodecFault.section) {
            try rows.read(damaged.bytes, rowCount: 3)
        }
    }
}
