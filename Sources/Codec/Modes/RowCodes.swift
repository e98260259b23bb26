// SPDX-License-Identifier: Apache-2.0
internal import Glibc
internal import KVCore

/// What multiplies the steps of each row of a section: codes of four bits, two to a byte
/// (docs/container-format.md, section 9). Modes scalar and predictive share it.
///
/// Memory grows with the longest section. Confined to its owner.
final class RowCodes {
    /// By code: f32(2^((code - 8) / 4)).
    static let factors: [Float] = (0..<16).map { Float(exp2(Double($0 - centre) / 4)) }
    /// The largest factor is smaller.
    static let factorBound: Float = 4
    /// The code of factor 1.
    private static let centre = 8

    /// Of the codes of so many rows.
    static func byteCount(rowCount: Int) -> Int { (rowCount + 1) / 2 }

    private(set) var rowCount = 0
    private var memory = OwnedBytes(count: 4_096)

    /// Of each row a `Float`: what the last of `prepare`, `choose` and `read` says.
    var numbers: PinnedBytes { memory.bytes.prefix(4 * rowCount) }
    /// The codes as they stand in a section.
    var bytes: PinnedBytes {
        memory.bytes.slice(offset: 4 * rowCount, count: Self.byteCount(rowCount: rowCount))
    }

    /// Makes room for so many rows; what `numbers` and `bytes` hold is undefined.
    func prepare(rowCount: Int) {
        self.rowCount = rowCount
        let byteCount = 4 * rowCount + Self.byteCount(rowCount: rowCount)
        if memory.bytes.count < byteCount { memory = OwnedBytes(count: 2 * byteCount) }
    }

    /// The factor that a row's code stands for.
    func factor(_ row: Int) -> Float { Self.factors[code(row)] }

    private func code(_ row: Int) -> Int { Int(bytes[row / 2] >> UInt8(4 * (row % 2))) & 15 }

    /// Chooses codes by `numbers`, the sum of squares of each row in steps of the columns: factors
    /// follow the root mean square, and their geometric mean is about 1, whatever the section's
    /// steps are. `numbers` becomes one over the factors.
    func choose() {
        var (sum, count) = (Float(0), Float(0))
        for row in 0..<rowCount {
            let square = number(row)
            guard square > 0, square.isFinite else { continue }
            sum += log2(square)
            count += 1
        }
        let typical = count > 0 ? sum / count : 0
        bytes.fill(0)
        for row in 0..<rowCount {
            let square = number(row)
            var code = Self.centre
            if square.isFinite {
                // A quarter of an octave of the root is half of one of the square.
                let quarters = 2 * (log2(max(square, .leastNormalMagnitude)) - typical)
                code += Int(max(-8, min(7, quarters)).rounded())
            }
            bytes.store(bytes[row / 2] | UInt8(code) << UInt8(4 * (row % 2)), at: row / 2)
            setNumber(1 / Self.factors[code], row)
        }
    }

    /// Takes the codes of `rowCount` rows from a section. `numbers` becomes the factors. Throws
    /// `section` when a half that is left over is not zero.
    func read(_ codes: PinnedBytes, rowCount: Int) throws(CodecFault) {
        prepare(rowCount: rowCount)
        bytes.copy(from: codes)
        guard rowCount.isMultiple(of: 2) || bytes[rowCount / 2] < 16 else { throw .section }
        for row in 0..<rowCount { setNumber(factor(row), row) }
    }

    private func number(_ row: Int) -> Float {
        Float(bitPattern: memory.bytes.bits(4, at: 4 * row))
    }

    private func setNumber(_ number: Float, _ row: Int) {
        memory.bytes.setBits(number.bitPattern, 4, at: 4 * row)
    }
}
