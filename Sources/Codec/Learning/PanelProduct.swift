// SPDX-License-Identifier: Apache-2.0
internal import KVCore

/// Columns of a matrix of single precision, packed so that a product reads them side by side: some
/// columns to a panel, and in a panel row by row. A reference; every access is checked.
@safe
struct Panels {
    /// Columns of a panel.
    let width: Int
    let rowCount: Int
    let columnCount: Int
    private let memory: OwnedBytes
    // SAFETY: `panelCount × rowCount × width` numbers of `memory`, which the panels keep.
    fileprivate let start: UnsafeMutablePointer<Float>

    /// For the left and the right side of `addProduct`.
    static let leftWidth = 4
    static let rightWidth = 8

    /// Zeros.
    init(width: Int, rowCount: Int, columnCount: Int) {
        self.width = width
        self.rowCount = rowCount
        self.columnCount = columnCount
        let count = (columnCount + width - 1) / width * width * rowCount
        memory = OwnedBytes(count: 4 * max(1, count))
        // SAFETY: fresh memory of that many bytes, aligned to 64, which nobody else binds.
        unsafe start = memory.bytes.start.bindMemory(to: Float.self, capacity: count)
    }

    fileprivate var panelCount: Int { (columnCount + width - 1) / width }

    /// Sets every number.
    @inline(__always)
    func fill(_ number: (_ row: Int, _ column: Int) -> Float) {
        for panel in 0..<panelCount {
            let columns = panel * width..<min(columnCount, (panel + 1) * width)
            var place = panel * rowCount * width
            for row in 0..<rowCount {
                for column in columns {
                    // SAFETY: within this panel, which lies within the memory.
                    unsafe start[place + column - columns.lowerBound] = number(row, column)
                }
                place += width
            }
        }
        withExtendedLifetime(memory) {}
    }

    fileprivate func keep() { withExtendedLifetime(memory) {} }
}

extension Matrix {
    /// Adds the product of `left` transposed and `right`, both of as many rows. `isSymmetric`: only
    /// what stands in panels that touch the lower triangle.
    ///
    /// A sum over the rows is one of single precision, always in the same order: exact for whole
    /// numbers as long as it stays below 2^24. Some 4 multiplications a clock and core.
    func addProduct(_ left: Panels, _ right: Panels, isSymmetric: Bool = false) {
        precondition(
            left.rowCount == right.rowCount && left.columnCount == rowCount
                && right.columnCount == columnCount && left.width == Panels.leftWidth
                && right.width == Panels.rightWidth, "matrices that fit")
        for rightPanel in 0..<right.panelCount {
            let first = isSymmetric ? rightPanel * right.width / left.width : 0
            for leftPanel in min(first, left.panelCount)..<left.panelCount {
                addTile(left, leftPanel, right, rightPanel)
            }
        }
        left.keep()
        right.keep()
    }

    private func addTile(_ left: Panels, _ leftPanel: Int, _ right: Panels, _ rightPanel: Int) {
        let depth = left.rowCount
        // SAFETY: panels of `depth` rows of their width, which the callers keep.
        let leftStart = unsafe left.start + leftPanel * depth * 4
        let rightStart = unsafe UnsafeRawPointer(right.start + rightPanel * depth * 8)
        var sums = (
            SIMD8<Float>.zero, SIMD8<Float>.zero, SIMD8<Float>.zero, SIMD8<Float>.zero
        )
        for row in 0..<depth {
            // SAFETY: the row lies within both panels.
            let line = unsafe rightStart.loadUnaligned(
                fromByteOffset: row * 32, as: SIMD8<Float>.self)
            unsafe sums.0 += line * leftStart[4 * row]
            unsafe sums.1 += line * leftStart[4 * row + 1]
            unsafe sums.2 += line * leftStart[4 * row + 2]
            unsafe sums.3 += line * leftStart[4 * row + 3]
        }
        let columns = rightPanel * 8..<min(columnCount, rightPanel * 8 + 8)
        for (offset, sum) in [sums.0, sums.1, sums.2, sums.3].enumerated()
        where leftPanel * 4 + offset < rowCount {
            let target = row(leftPanel * 4 + offset)
            for column in columns { target[column] += Double(sum[column - columns.lowerBound]) }
        }
    }
}
