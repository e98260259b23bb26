// SPDX-License-Identifier: Apache-2.0
internal import KVCore

/// Doubles in rows, zero at first. A reference, whose copies name the same numbers; confined to its
/// owner.
struct Matrix {
    let rowCount: Int
    let columnCount: Int
    private let numbers: DoubleRun

    init(rowCount: Int, columnCount: Int) {
        self.rowCount = rowCount
        self.columnCount = columnCount
        numbers = DoubleRun(count: rowCount * columnCount)
    }

    /// The unit matrix.
    init(unit count: Int) {
        self.init(rowCount: count, columnCount: count)
        for place in 0..<count { self[place, place] = 1 }
    }

    @inline(__always)
    subscript(row: Int, column: Int) -> Double {
        get { numbers[row * columnCount + column] }
        nonmutating set { numbers[row * columnCount + column] = newValue }
    }

    /// The numbers of a row, to read and to write.
    @inline(__always)
    func row(_ row: Int) -> DoubleRun {
        numbers.slice(from: row * columnCount, count: columnCount)
    }

    /// Another matrix of the same numbers.
    func copy() -> Matrix {
        let copy = Matrix(rowCount: rowCount, columnCount: columnCount)
        copy.numbers.copy(from: numbers)
        return copy
    }
}

/// Doubles side by side, as a row of a matrix or a part of it. A reference that keeps its memory;
/// every access is checked.
///
/// Sums go over several numbers at a time, always in the same order, so that they come out the same
/// on every machine.
@safe
struct DoubleRun {
    let count: Int
    private let memory: OwnedBytes
    // SAFETY: `count` numbers of `memory`, which the run keeps.
    private let start: UnsafeMutablePointer<Double>

    /// Fresh numbers, all zero.
    init(count: Int) {
        self.count = count
        memory = OwnedBytes(count: count * 8)
        // SAFETY: fresh memory of that many bytes, aligned to 64, which nobody else binds.
        unsafe start = memory.bytes.start.bindMemory(to: Double.self, capacity: count)
    }

    private init(_ whole: DoubleRun, from first: Int, count: Int) {
        precondition(first >= 0 && count >= 0 && first + count <= whole.count, "a part of a run")
        self.count = count
        memory = whole.memory
        // SAFETY: the part was just checked to lie within the run.
        unsafe start = whole.start + first
    }

    @inline(__always)
    subscript(index: Int) -> Double {
        get {
            precondition(index >= 0 && index < count, "a number outside its run")
            // SAFETY: the index was just checked.
            return unsafe start[index]
        }
        nonmutating set {
            precondition(index >= 0 && index < count, "a number outside its run")
            // SAFETY: the index was just checked.
            unsafe start[index] = newValue
        }
    }

    func slice(from first: Int, count: Int) -> DoubleRun {
        DoubleRun(self, from: first, count: count)
    }

    func prefix(_ count: Int) -> DoubleRun { slice(from: 0, count: count) }

    func copy(from other: DoubleRun) {
        precondition(count == other.count, "runs of one length")
        // SAFETY: both have `count` numbers, and runs that overlap are copied as if they did not.
        unsafe start.update(from: other.start, count: count)
    }

    /// The sum of the products of numbers at the same place.
    func dot(_ other: DoubleRun) -> Double {
        precondition(count == other.count, "runs of one length")
        var sums = (SIMD4<Double>.zero, SIMD4<Double>.zero)
        var index = 0
        while index + 8 <= count {
            // SAFETY: eight numbers from here on lie within both runs.
            unsafe sums.0 += start.four(at: index) * other.start.four(at: index)
            unsafe sums.1 += start.four(at: index + 4) * other.start.four(at: index + 4)
            index += 8
        }
        var sum = (sums.0 + sums.1).sum()
        while index < count {
            // SAFETY: below the count of both.
            unsafe sum += start[index] * other.start[index]
            index += 1
        }
        return sum
    }

    /// Adds `factor` times `other`.
    func add(_ factor: Double, times other: DoubleRun) {
        precondition(count == other.count, "runs of one length")
        var index = 0
        while index + 4 <= count {
            // SAFETY: four numbers from here on lie within both runs.
            let sum = unsafe start.four(at: index) + other.start.four(at: index) * factor
            unsafe start.set(sum, at: index)
            index += 4
        }
        while index < count {
            // SAFETY: below the count of both.
            unsafe start[index] += other.start[index] * factor
            index += 1
        }
    }

    /// Multiplies every number by `factor`.
    func scale(by factor: Double) {
        for index in 0..<count { self[index] *= factor }
    }

    /// Turns the pairs of this run's x and another's y: x cos - y sin, x sin + y cos.
    func turn(with other: DoubleRun, cosine: Double, sine: Double) {
        precondition(count == other.count, "runs of one length")
        var index = 0
        while index + 4 <= count {
            // SAFETY: four numbers from here on lie within both runs.
            let (x, y) = unsafe (start.four(at: index), other.start.four(at: index))
            unsafe start.set(x * cosine - y * sine, at: index)
            unsafe other.start.set(x * sine + y * cosine, at: index)
            index += 4
        }
        while index < count {
            let (x, y) = (self[index], other[index])
            self[index] = x * cosine - y * sine
            other[index] = x * sine + y * cosine
            index += 1
        }
    }
}

extension UnsafeMutablePointer<Double> {
    // SAFETY: for both, the caller has checked that four numbers from `index` on are there.
    @inline(__always)
    @unsafe
    fileprivate func four(at index: Int) -> SIMD4<Double> {
        unsafe UnsafeRawPointer(self + index).loadUnaligned(as: SIMD4<Double>.self)
    }

    @inline(__always)
    @unsafe
    fileprivate func set(_ four: SIMD4<Double>, at index: Int) {
        unsafe UnsafeMutableRawPointer(self + index).storeBytes(of: four, as: SIMD4<Double>.self)
    }
}
