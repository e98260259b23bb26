// SPDX-License-Identifier: Apache-2.0
internal import CKernels
package import KVCore

/// A matrix of whole numbers as kernels multiply with it: in panels of 64 columns, four rows to a
/// word (mode predictive). Immutable; any thread.
///
/// As many bytes as the numbers have, when rows and columns fill words and panels.
package final class WholeMatrix: Sendable {
    /// Columns of a panel.
    package static let panelWidth = 64

    package let columnCount: Int
    /// Of the rows that stand for each source, in their order.
    package let sourceRowCounts: [Int]
    let panelCount: Int
    /// Of four rows each; a source begins with a word.
    let wordCount: Int
    private let high: OwnedBytes
    /// Nil: numbers have one byte.
    private let low: OwnedBytes?

    /// Signed bytes, row by row, for rows of the sources one after the other. Nil when there are
    /// not so many of them, or the magnitudes of a column sum up to `sumLimit` or more.
    package init?(
        bytes numbers: PinnedBytes, sourceRowCounts: [Int], columnCount: Int, sumLimit: Int64
    ) {
        let rowCount = sourceRowCounts.reduce(0, +)
        guard numbers.count == rowCount * columnCount,
            Self.columnSumMax(numbers, isShort: false, rowCount, columnCount) < sumLimit
        else { return nil }
        self.columnCount = columnCount
        self.sourceRowCounts = sourceRowCounts
        panelCount = Self.panelCount(columnCount)
        wordCount = sourceRowCounts.reduce(0) { $0 + Self.wordCount($1) }
        high = Self.panels(wordCount, panelCount)
        low = nil
        var (row, word) = (0, 0)
        for count in sourceRowCounts {
            let source = numbers.slice(offset: row * columnCount, count: count * columnCount)
            // SAFETY: the source has as many numbers, and the panels room for all words.
            unsafe ckernels_pack_bytes(
                source.start, UInt32(count), UInt32(columnCount), UInt32(word), UInt32(wordCount),
                high.bytes.start.assumingMemoryBound(to: UInt32.self))
            row += count
            word += Self.wordCount(count)
        }
    }

    /// The same of signed 16-bit numbers, little-endian, for one source of `rowCount` rows.
    package init?(shorts numbers: PinnedBytes, rowCount: Int, columnCount: Int, sumLimit: Int64) {
        guard numbers.count == 2 * rowCount * columnCount,
            Self.columnSumMax(numbers, isShort: true, rowCount, columnCount) < sumLimit
        else { return nil }
        self.columnCount = columnCount
        sourceRowCounts = [rowCount]
        panelCount = Self.panelCount(columnCount)
        wordCount = Self.wordCount(rowCount)
        // SAFETY: the count was just checked.
        let isByte = unsafe ckernels_shorts_fit_bytes(numbers.start, rowCount * columnCount) != 0
        let high = Self.panels(wordCount, panelCount)
        let low = isByte ? nil : Self.panels(wordCount, panelCount)
        // SAFETY: as above; the panels have room for all words.
        unsafe ckernels_pack_shorts(
            numbers.start, UInt32(rowCount), UInt32(columnCount), UInt32(wordCount),
            high.bytes.start.assumingMemoryBound(to: UInt32.self),
            low?.bytes.start.assumingMemoryBound(to: UInt32.self))
        self.high = high
        self.low = low
    }

    package static func panelCount(_ columnCount: Int) -> Int {
        (columnCount + panelWidth - 1) / panelWidth
    }

    static func wordCount(_ rowCount: Int) -> Int { (rowCount + 3) / 4 }

    /// Numbers of a row of values.
    package var pitch: Int { panelCount * Self.panelWidth }

    /// The number at a row of the one source and a column.
    func number(row: Int, column: Int) -> Int {
        invariant(sourceRowCounts.count == 1 && row < sourceRowCounts[0], "a row of it")
        let (panel, lane) = column.quotientAndRemainder(dividingBy: Self.panelWidth)
        let word = (panel * wordCount + row / 4) * Self.panelWidth + lane
        let above = Int(high.bytes[4 * word + row % 4]) - 128
        guard let low else { return above }
        return 256 * above + Int(low.bytes[4 * word + row % 4])
    }

    /// Runs `body` with the matrix as C knows it.
    func withMatrix<Result>(_ body: (ckernels_matrix) -> Result) -> Result {
        // SAFETY: the panels outlive the call, and kernels keep no pointer.
        let matrix = unsafe ckernels_matrix(
            high: high.bytes.start.assumingMemoryBound(to: UInt32.self),
            low: low?.bytes.start.assumingMemoryBound(to: UInt32.self),
            word_count: UInt32(wordCount), panel_count: UInt32(panelCount))
        return withExtendedLifetime((high, low)) { unsafe body(matrix) }
    }

    /// Panels whose numbers are all 0, but for columns and rows that nobody reads.
    private static func panels(_ wordCount: Int, _ panelCount: Int) -> OwnedBytes {
        OwnedBytes(count: max(1, wordCount * panelCount) * 4 * panelWidth)
    }

    private static func columnSumMax(
        _ numbers: PinnedBytes, isShort: Bool, _ rowCount: Int, _ columnCount: Int
    ) -> Int64 {
        var sums = [Int64](repeating: 0, count: columnCount)
        return unsafe sums.withUnsafeMutableBufferPointer { sums in
            // SAFETY: there are as many numbers, and a sum for each column.
            unsafe ckernels_column_sum_max(
                numbers.start, isShort ? 1 : 0, UInt32(rowCount), UInt32(columnCount),
                sums.baseAddress)
        }
    }
}

/// Signed bytes [row][number] that a part of a matrix is multiplied with. A value; the owner keeps
/// the bytes.
package struct WholeRows {
    package let bytes: PinnedBytes
    /// Bytes from row to row.
    package let pitch: Int
    /// Numbers of a row; behind them zeros to a multiple of four.
    package let count: Int

    package init(_ bytes: PinnedBytes, pitch: Int, count: Int) {
        invariant(pitch >= (count + 3) & ~3, "rows are whole words")
        self.bytes = bytes
        self.pitch = pitch
        self.count = count
    }
}
