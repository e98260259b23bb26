// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing

@testable import Codec

private let seed: UInt64 = 0x5eed_0a19_eb2a

/// Numbers between -1 and 1.
private func random(_ rowCount: Int, _ columnCount: Int, _ numbers: inout SeededNumbers) -> Matrix {
    let matrix = Matrix(rowCount: rowCount, columnCount: columnCount)
    for row in 0..<rowCount {
        for column in 0..<columnCount {
            matrix[row, column] = Double(Float.random(in: -1...1, using: &numbers))
        }
    }
    return matrix
}

/// The one matrix times the other transposed.
private func product(_ left: Matrix, transposed right: Matrix) -> Matrix {
    let product = Matrix(rowCount: left.rowCount, columnCount: right.rowCount)
    for row in 0..<left.rowCount {
        for column in 0..<right.rowCount {
            product[row, column] = left.row(row).dot(right.row(column))
        }
    }
    return product
}

private func matrix(_ rows: [[Double]]) -> Matrix {
    let matrix = Matrix(rowCount: rows.count, columnCount: rows[0].count)
    for (row, numbers) in rows.enumerated() {
        for (column, number) in numbers.enumerated() { matrix[row, column] = number }
    }
    return matrix
}

private func distance(_ left: Matrix, _ right: Matrix) -> Double {
    var largest = 0.0
    for row in 0..<left.rowCount {
        for column in 0..<left.columnCount {
            largest = max(largest, abs(left[row, column] - right[row, column]))
        }
    }
    return largest
}

@Suite struct `Runs of doubles` {
    @Test(arguments: [0, 1, 3, 4, 7, 8, 9, 31])
    func `agree with sums one by one`(count: Int) {
        var numbers = SeededNumbers(seed: seed)
        let (left, right) = (random(1, count, &numbers).row(0), random(1, count, &numbers).row(0))
        let plain = (0..<count).reduce(0) { $0 + left[$1] * right[$1] }
        #expect(abs(left.dot(right) - plain) < 1e-14 * Double(count + 1))
        let wanted = (0..<count).map { left[$0] - 0.5 * right[$0] }
        left.add(-0.5, times: right)
        #expect((0..<count).map { left[$0] } == wanted)
        let turned = (0..<count).map {
            (wanted[$0] * 0.6 - right[$0] * 0.8, wanted[$0] * 0.8 + right[$0] * 0.6)
        }
        left.turn(with: right, cosine: 0.6, sine: 0.8)
        #expect((0..<count).allSatisfy { (left[$0], right[$0]) == turned[$0] })
    }
}

@Suite struct `Cholesky's triangle` {
    @Test func `is that of a small matrix`() throws {
        let lower = try #require(Cholesky(matrix([[4, 2], [2, 3]]))).lower
        #expect(distance(lower, matrix([[2, 0], [1, 2.0.squareRoot()]])) < 1e-15)
    }

    @Test(arguments: [1, 7, 8, 9, 21])
    func `gives the matrix back, and solves for it`(count: Int) throws {
        var numbers = SeededNumbers(seed: seed)
        let root = random(count, count + 3, &numbers)
        let whole = product(root, transposed: root)
        let cholesky = try #require(Cholesky(whole))
        #expect(distance(product(cholesky.lower, transposed: cholesky.lower), whole) < 1e-13)
        // More right-hand sides than are solved for at once.
        let wanted = random(count, 131, &numbers)
        let sides = Matrix(rowCount: count, columnCount: 131)
        for row in 0..<count {
            for other in 0..<count {
                sides.row(row).add(whole[row, other], times: wanted.row(other))
            }
        }
        cholesky.solve(sides)
        #expect(distance(sides, wanted) < 1e-6)
    }

    @Test(arguments: [[[1.0, 2], [2, 1]], [[0.0]], [[-1.0]], [[Double.nan]]])
    func `does not exist for what is not positive definite`(rows: [[Double]]) {
        #expect(Cholesky(matrix(rows)) == nil)
    }
}

@Suite struct `Eigenvectors of symmetric matrices` {
    private func check(_ whole: Matrix, _ comment: Comment? = nil) throws {
        let eigen = try #require(SymmetricEigen(whole))
        let count = whole.rowCount
        let isSorted = zip(eigen.values, eigen.values.dropFirst()).allSatisfy { $0 >= $1 }
        #expect(isSorted, comment)
        let unit = product(eigen.vectors, transposed: eigen.vectors)
        #expect(distance(unit, Matrix(unit: count)) < 1e-13, comment)
        let size = eigen.values.reduce(1) { max($0, abs($1)) }
        for (value, row) in zip(eigen.values, 0..<count) {
            let vector = eigen.vectors.row(row)
            for other in 0..<count {
                let image = whole.row(other).dot(vector)
                #expect(abs(image - value * vector[other]) < 1e-13 * size * Double(count), comment)
            }
        }
    }

    @Test func `are those of a small matrix`() throws {
        let eigen = try #require(SymmetricEigen(matrix([[2, 1], [1, 2]])))
        #expect(abs(eigen.values[0] - 3) < 1e-15 && abs(eigen.values[1] - 1) < 1e-15)
        let half = 0.5.squareRoot()
        #expect(abs(eigen.vectors[0, 0] - half) < 1e-15 && abs(eigen.vectors[0, 1] - half) < 1e-15)
        #expect(abs(abs(eigen.vectors[1, 0]) - half) < 1e-15)
    }

    @Test func `have the values of a string of masses`() throws {
        let count = 17
        let whole = Matrix(rowCount: count, columnCount: count)
        for row in 0..<count {
            whole[row, row] = 2
            if row > 0 { (whole[row, row - 1], whole[row - 1, row]) = (-1, -1) }
        }
        let eigen = try #require(SymmetricEigen(whole))
        for (place, value) in eigen.values.reversed().enumerated() {
            let angle = Double(place + 1) * .pi / Double(count + 1)
            #expect(abs(value - (2 - 2 * cos(angle))) < 1e-13)
        }
        try check(whole)
    }

    @Test(arguments: [1, 2, 3, 8, 23])
    func `stand at right angles and give the matrix back`(count: Int) throws {
        var numbers = SeededNumbers(seed: seed)
        let half = random(count, count, &numbers)
        let whole = half.copy()
        for row in 0..<count {
            for column in 0..<count { whole[row, column] += half[column, row] }
        }
        try check(whole, "seed \(seed)")
        // Values over twenty orders of magnitude.
        for row in 0..<count {
            for column in 0..<count {
                whole[row, column] *= exp2(-3 * Double(row + column))
            }
        }
        try check(whole, "seed \(seed), graded")
    }

    @Test func `exist where values are the same, and where most are zero`() throws {
        try check(Matrix(unit: 6))
        try check(Matrix(rowCount: 5, columnCount: 5))
        var numbers = SeededNumbers(seed: seed)
        let column = random(12, 2, &numbers)
        try check(product(column, transposed: column), "seed \(seed)")
    }

    @Test func `do not exist for what is not a number`() {
        #expect(SymmetricEigen(matrix([[1, .nan], [.nan, 1]])) == nil)
        #expect(SymmetricEigen(matrix([[.infinity]])) == nil)
    }
}

@Suite struct `The inverse of a matrix` {
    @Test(arguments: [1, 2, 9, 24])
    func `times the matrix is the unit matrix`(count: Int) throws {
        var numbers = SeededNumbers(seed: seed)
        let whole = random(count, count, &numbers)
        // A pivot that has to be looked for.
        if count > 1 { whole[0, 0] = 0 }
        let inverse = try #require(whole.inverse())
        let unit = Matrix(rowCount: count, columnCount: count)
        for row in 0..<count {
            for other in 0..<count {
                unit.row(row).add(inverse[row, other], times: whole.row(other))
            }
        }
        #expect(distance(unit, Matrix(unit: count)) < 1e-9, "seed \(seed)")
    }

    @Test(arguments: [[[1.0, 2], [2, 4]], [[0.0]], [[Double.nan]]])
    func `does not exist for what loses a direction`(rows: [[Double]]) {
        #expect(matrix(rows).inverse() == nil)
    }
}

@Suite struct `Products of panels` {
    @Test(arguments: [(1, 1, 1), (3, 9, 5), (8, 16, 40), (13, 5, 37), (21, 21, 6)])
    func `agree with sums one by one`(left: Int, right: Int, depth: Int) {
        var numbers = SeededNumbers(seed: seed)
        let one = (0..<depth * left).map { _ in Float(Int.random(in: -127...127, using: &numbers)) }
        let other = (0..<depth * right).map { _ in
            Float(Int.random(in: -127...127, using: &numbers))
        }
        let leftPanels = Panels(width: Panels.leftWidth, rowCount: depth, columnCount: left)
        leftPanels.fill { one[$0 * left + $1] }
        let rightPanels = Panels(width: Panels.rightWidth, rowCount: depth, columnCount: right)
        rightPanels.fill { other[$0 * right + $1] }
        let found = Matrix(rowCount: left, columnCount: right)
        found[0, 0] = 1
        found.addProduct(leftPanels, rightPanels)
        for row in 0..<left {
            for column in 0..<right {
                let sum = (0..<depth).reduce(0.0) {
                    $0 + Double(one[$1 * left + row]) * Double(other[$1 * right + column])
                }
                #expect(found[row, column] == sum + (row == 0 && column == 0 ? 1 : 0))
            }
        }
        guard left == right else { return }
        let half = Matrix(rowCount: left, columnCount: right)
        half.addProduct(leftPanels, rightPanels, isSymmetric: true)
        for row in 0..<left {
            for column in 0...row {
                #expect(half[row, column] == found[row, column] - (row == 0 ? 1 : 0))
            }
        }
    }
}
