// SPDX-License-Identifier: Apache-2.0

/// The lower triangle L with A = L × L transposed, of a symmetric, positive definite matrix A.
///
/// Confined to its owner. n^3 / 3 multiplications, and n^2 for each right-hand side.
struct Cholesky {
    /// L; above the diagonal it is zero.
    let lower: Matrix

    /// Rows that are worked on together, so that each finished row is read once for all of them.
    private static let rowsAtOnce = 8
    /// Right-hand sides that are worked on together: what stays in a core's cache.
    private static let columnsAtOnce = 128

    /// Reads the lower triangle of `matrix`. Nil when that is not positive definite.
    init?(_ matrix: Matrix) {
        precondition(matrix.rowCount == matrix.columnCount, "a symmetric matrix")
        let count = matrix.rowCount
        let lower = Matrix(rowCount: count, columnCount: count)
        for first in stride(from: 0, to: count, by: Self.rowsAtOnce) {
            let rows = first..<min(count, first + Self.rowsAtOnce)
            for column in 0..<rows.upperBound {
                let done = lower.row(column).prefix(column)
                for row in max(column, rows.lowerBound)..<rows.upperBound {
                    let sum = matrix[row, column] - lower.row(row).prefix(column).dot(done)
                    if row > column {
                        lower[row, column] = sum / lower[column, column]
                    } else {
                        // Also false for what is not a number.
                        guard sum > 0 else { return nil }
                        lower[row, row] = sum.squareRoot()
                    }
                }
            }
        }
        self.lower = lower
    }

    /// Turns B into the X of A × X = B.
    func solve(_ sides: Matrix) {
        precondition(sides.rowCount == lower.rowCount, "a right-hand side for each row")
        for first in stride(from: 0, to: sides.columnCount, by: Self.columnsAtOnce) {
            let width = min(Self.columnsAtOnce, sides.columnCount - first)
            func side(_ row: Int) -> DoubleRun { sides.row(row).slice(from: first, count: width) }
            for row in 0..<lower.rowCount {
                let own = side(row)
                for earlier in 0..<row { own.add(-lower[row, earlier], times: side(earlier)) }
                own.scale(by: 1 / lower[row, row])
            }
            for row in (0..<lower.rowCount).reversed() {
                let own = side(row)
                own.scale(by: 1 / lower[row, row])
                // Row by row of L, which stands side by side, rather than by its columns.
                for earlier in 0..<row { side(earlier).add(-lower[row, earlier], times: own) }
            }
        }
    }
}
