// SPDX-License-Identifier: Apache-2.0

extension Matrix {
    /// The inverse, by Gauss and Jordan's elimination with the largest pivot of each column. Nil
    /// when there is none, or numbers are not finite. 2 n^3 multiplications.
    func inverse() -> Matrix? {
        precondition(rowCount == columnCount, "a square matrix")
        let (left, right) = (copy(), Matrix(unit: rowCount))
        // Row i of the work is this row of the matrices.
        var places = Array(0..<rowCount)
        for column in 0..<rowCount {
            let best = (column..<rowCount).max {
                abs(left[places[$0], column]) < abs(left[places[$1], column])
            }
            guard let best else { return nil }
            places.swapAt(column, best)
            let pivot = places[column]
            let corner = left[pivot, column]
            guard corner != 0, corner.isFinite else { return nil }
            left.row(pivot).scale(by: 1 / corner)
            right.row(pivot).scale(by: 1 / corner)
            for other in 0..<rowCount where other != pivot && left[other, column] != 0 {
                let factor = -left[other, column]
                left.row(other).add(factor, times: left.row(pivot))
                right.row(other).add(factor, times: right.row(pivot))
            }
        }
        let inverse = Matrix(rowCount: rowCount, columnCount: rowCount)
        for row in 0..<rowCount { inverse.row(row).copy(from: right.row(places[row])) }
        return inverse
    }
}
