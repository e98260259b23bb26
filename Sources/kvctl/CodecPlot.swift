// SPDX-License-Identifier: Apache-2.0

/// A curve in plain text: points with names, the smallest rate left, the smallest error on top.
struct CodecPlot {
    struct Point {
        let name: String
        /// Bits of a value.
        let rate: Double
        /// Decibels that the values stand above their error.
        let quality: Double
    }

    let points: [Point]
    private static let (columnCount, rowCount) = (60, 14)

    /// The plot; empty when there is nothing to draw.
    var text: String {
        guard let most = points.map(\.rate).max(), let best = points.map(\.quality).max(),
            most > 0
        else { return "" }
        let rateEnd = most.rounded(.up)
        let worst = min(0, points.map(\.quality).min() ?? 0)
        let span = max(best - worst, 1)
        var rows = [[Character]](
            repeating: [Character](repeating: " ", count: Self.columnCount + 12),
            count: Self.rowCount)
        for point in points {
            let column = Int(point.rate / rateEnd * Double(Self.columnCount - 1))
            let height = (point.quality - worst) / span
            let row = Self.rowCount - 1 - Int(height * Double(Self.rowCount - 1))
            rows[row][column] = "*"
            for (place, letter) in (" " + point.name).enumerated()
            where column + 1 + place < rows[row].count {
                rows[row][column + 1 + place] = letter
            }
        }
        var lines = ["dB above the error"]
        for (number, row) in rows.enumerated() {
            let value = best - span * Double(number) / Double(Self.rowCount - 1)
            let label = number.isMultiple(of: 3) ? fixed(value, 0) : ""
            let padding = String(repeating: " ", count: max(0, 5 - label.count))
            var line = padding + label + " |" + String(row)
            while line.last == " " { line.removeLast() }
            lines.append(line)
        }
        lines.append("      +" + String(repeating: "-", count: Self.columnCount))
        var scale = [Character](repeating: " ", count: Self.columnCount + 16)
        for quarter in 0...4 {
            let column = 7 + quarter * (Self.columnCount - 1) / 4
            for (place, letter) in fixed(rateEnd * Double(quarter) / 4, 1).enumerated() {
                scale[column + place] = letter
            }
        }
        var line = String(scale)
        while line.last == " " { line.removeLast() }
        lines.append(line + " bits a value")
        return lines.joined(separator: "\n") + "\n"
    }
}
