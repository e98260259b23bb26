// SPDX-License-Identifier: Apache-2.0
internal import Glibc

/// Eigenvalues, largest first, and eigenvectors of a symmetric matrix.
///
/// By Householder's reflections to a matrix of three diagonals, then by the QL method with implicit
/// shifts (Wilkinson and Reinsch, Handbook for Automatic Computation II, 1971, tred2 and tql2), in
/// an order in which rows are read and written side by side. Some 6 n^3 multiplications; confined
/// to its owner.
struct SymmetricEigen {
    let values: [Double]
    /// Row i is the eigenvector of value i: of length 1, its largest number positive.
    let vectors: Matrix

    /// Nil for a matrix with numbers that are not finite.
    init?(_ matrix: Matrix) {
        precondition(matrix.rowCount == matrix.columnCount, "a symmetric matrix")
        let count = matrix.rowCount
        guard (0..<count).allSatisfy({ matrix.row($0).isFinite }) else { return nil }
        var threeDiagonals = ThreeDiagonals(matrix)
        guard threeDiagonals.diagonalise() else { return nil }
        let found = threeDiagonals
        let order = (0..<count).sorted {
            (found.diagonal[$1], $0) < (found.diagonal[$0], $1)
        }
        values = order.map { found.diagonal[$0] }
        vectors = Matrix(rowCount: count, columnCount: count)
        for (place, source) in order.enumerated() {
            let vector = vectors.row(place)
            vector.copy(from: found.turned.row(source))
            var largest = 0.0
            for index in 0..<count where abs(vector[index]) > abs(largest) {
                largest = vector[index]
            }
            if largest < 0 { vector.scale(by: -1) }
        }
    }
}

/// A symmetric matrix as Q × T × Q transposed, T with three diagonals.
private struct ThreeDiagonals {
    var diagonal: [Double]
    /// Number i stands beside the diagonal in rows i and i + 1; the last is 0.
    var beside: [Double]
    /// Q transposed: row by row what becomes the eigenvectors.
    let turned: Matrix

    init(_ matrix: Matrix) {
        let count = matrix.rowCount
        let work = matrix.copy()
        diagonal = Array(repeating: 0, count: count)
        beside = Array(repeating: 0, count: count)
        turned = Matrix(unit: count)
        // Row i of `mirrors` holds the vector v of the reflection that clears row i.
        let mirrors = Matrix(rowCount: count, columnCount: count)
        var weights = [Double](repeating: 0, count: count)
        let images = DoubleRun(count: count)
        for row in stride(from: count - 1, to: 0, by: -1) {
            let mirror = mirrors.row(row).prefix(row)
            mirror.copy(from: work.row(row).prefix(row))
            (beside[row - 1], weights[row]) = Self.reflection(mirror)
            guard weights[row] != 0 else { continue }
            // A - v q' - q v' with p = w A v and q = p - (w v'p / 2) v.
            let image = images.prefix(row)
            for index in 0..<row {
                image[index] = weights[row] * work.row(index).prefix(row).dot(mirror)
            }
            image.add(-weights[row] * image.dot(mirror) / 2, times: mirror)
            for index in 0..<row {
                let line = work.row(index).prefix(row)
                line.add(-mirror[index], times: image)
                line.add(-image[index], times: mirror)
            }
        }
        for row in 0..<count { diagonal[row] = work[row, row] }
        for row in 1..<max(1, count) where weights[row] != 0 {
            let mirror = mirrors.row(row).prefix(row)
            for index in 0..<row {
                let line = turned.row(index).prefix(row)
                line.add(-weights[row] * line.dot(mirror), times: mirror)
            }
        }
    }

    /// Makes of x the v of a reflection 1 - w v v' that maps x to (0, …, 0, e). Returns e and w; w
    /// is 0 where nothing has to be done.
    private static func reflection(_ vector: DoubleRun) -> (image: Double, weight: Double) {
        let last = vector.count - 1
        let corner = vector[last]
        let largest = (0..<last).reduce(0) { max($0, abs(vector[$1])) }
        guard largest > 0 else { return (corner, 0) }
        // Scaled, so that squares stay within the range of doubles.
        let scale = max(largest, abs(corner))
        vector.scale(by: 1 / scale)
        let length = vector.dot(vector).squareRoot()
        let image = vector[last] > 0 ? -length : length
        vector[last] -= image
        return (image * scale, 2 / vector.dot(vector))
    }

    /// Turns T into a diagonal. False when that does not come to an end, which sound numbers never
    /// make it do.
    mutating func diagonalise() -> Bool {
        let count = diagonal.count
        for start in 0..<count {
            var rounds = 0
            while true {
                var end = start
                while end < count - 1, !isNegligible(end) { end += 1 }
                if end == start { break }
                rounds += 1
                guard rounds <= 60 else { return false }
                sweep(start, end)
            }
        }
        return true
    }

    private func isNegligible(_ index: Int) -> Bool {
        let size = abs(diagonal[index]) + abs(diagonal[index + 1])
        return abs(beside[index]) <= size * 0x1p-53
    }

    /// One QL step with an implicit shift on rows `start` to `end`.
    private mutating func sweep(_ start: Int, _ end: Int) {
        let difference = (diagonal[start + 1] - diagonal[start]) / (2 * beside[start])
        let length = hypot(difference, 1)
        let divisor = difference + (difference >= 0 ? length : -length)
        var shifted = diagonal[end] - diagonal[start] + beside[start] / divisor
        var (cosine, sine, carried) = (1.0, 1.0, 0.0)
        for index in stride(from: end - 1, through: start, by: -1) {
            let across = sine * beside[index]
            let along = cosine * beside[index]
            let radius = hypot(across, shifted)
            beside[index + 1] = radius
            if radius == 0 {
                diagonal[index + 1] -= carried
                beside[end] = 0
                return
            }
            sine = across / radius
            cosine = shifted / radius
            shifted = diagonal[index + 1] - carried
            let sum = (diagonal[index] - shifted) * sine + 2 * cosine * along
            carried = sine * sum
            diagonal[index + 1] = shifted + carried
            shifted = cosine * sum - along
            turned.row(index).turn(with: turned.row(index + 1), cosine: cosine, sine: sine)
        }
        diagonal[start] -= carried
        beside[start] = shifted
        beside[end] = 0
    }
}

extension DoubleRun {
    fileprivate var isFinite: Bool { (0..<count).allSatisfy { self[$0].isFinite } }
}
