// SPDX-License-Identifier: Apache-2.0
internal import Glibc
internal import KVCore

/// The numbers of method quantised (docs/container-format.md, section 6).
enum Quantised {
    static let headerByteCount = 16
    static let escapeByteCount = 8
    /// Columns of a frame of ours: enough values for a Huffman table of their own.
    static let frameColumnCount = 64
    static let hasRotation: UInt8 = 1
    static let hasRowCodes: UInt8 = 2
    /// In a frame's field: two symbols in a byte.
    static let pairs: UInt32 = 1 << 31
    /// A code that stands for the usual spread.
    static let codeCentre: Float = 128
    /// Values and means beyond it are not quantised.
    static let magnitudeMax: Float = 0x1p80
    static let stepMin: Float = 0x1p-80
    static let stepMax: Float = 0x1p40
    /// A symbol times a step is exact up to here.
    static let symbolMax = 1 << 24

    /// Step of a column over the base step.
    static func columnFactor(slope: UInt8, code: UInt8) -> Float {
        Float(exp2(Double(slope) * (Double(code) - 128) / 64))
    }

    static func rowFactor(code: UInt8) -> Float {
        Float(exp2((Double(code) - 128) / 8))
    }

    /// How one section is to be quantised.
    struct LayerRule {
        /// The base step over the root mean square of the values without their means.
        let step: Float
        let slope: UInt8
        let rowExponent: Float
    }

    /// Where the parts of a section begin, from its header.
    struct Places {
        let means: Int
        let codes: Int
        let rowCodes: Int
        let frameFields: Int
        let frames: Int

        init(_ shape: SectionShape, hasRowCodes: Bool, frameCount: Int) {
            means = headerByteCount + shape.exactByteCount
            codes = means + 2 * shape.columnCount
            rowCodes = codes + shape.columnCount
            frameFields = rowCodes + (hasRowCodes ? shape.rowCount - shape.exactRowCount : 0)
            frames = frameFields + 4 * frameCount
        }
    }
}

/// A symbol that is none: its place among the quantised values, row by row, and what it stands for.
struct Escape {
    let place: UInt32
    let symbol: Int32

    /// A section with more than one escape in so many values is not quantised.
    static let shareMax = 64
}

/// What is known of a section's columns and rows while it is coded. Memory is taken once.
struct ColumnStatistics {
    var means: [Float]
    /// Sums of squares around the means.
    var squares: [Double]
    var steps: [Float]
    var codes: [UInt8]
    /// Columns sorted by code.
    var order: [UInt32]
    /// Of each row, the factor of its steps.
    var rowFactors: [Float] = []

    init(countMax: Int) {
        means = Array(repeating: 0, count: countMax)
        squares = Array(repeating: 0, count: countMax)
        steps = means
        codes = Array(repeating: 0, count: countMax)
        order = Array(repeating: 0, count: countMax)
    }

    /// Sorts the first `count` columns by their code, those of one code in their order.
    mutating func sort(count: Int) {
        var starts = [Int](repeating: 0, count: 257)
        for column in 0..<count { starts[Int(codes[column]) + 1] += 1 }
        for code in 1...256 { starts[code] += starts[code - 1] }
        for column in 0..<count {
            let code = Int(codes[column])
            order[starts[code]] = UInt32(column)
            starts[code] += 1
        }
    }

    /// Computes the steps of the first `count` columns from their codes.
    mutating func computeSteps(count: Int, base: Float, slope: UInt8) {
        for column in 0..<count {
            let factor = Quantised.columnFactor(slope: slope, code: codes[column])
            steps[column] = base * factor
        }
    }
}
