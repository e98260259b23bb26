// SPDX-License-Identifier: Apache-2.0
package import KVCore

extension CodedColumns {
    /// Writes packed symbols in coding order as bytes [row][column]; `number` tells which of these
    /// columns is which of the caller's.
    package func spread(
        _ packed: PinnedBytes, rowCount: Int, into symbols: PinnedBytes,
        _ number: (Int) -> Int
    ) {
        invariant(packed.count >= packedByteCount(rowCount: rowCount), "symbols of all rows")
        invariant(symbols.count >= rowCount * columnCount, "room for symbols")
        for column in 0..<columnCount {
            var place = 4 * Int(positions[column])
            var target = number(column)
            for first in stride(from: 0, to: rowCount, by: 4) {
                var four = packed.load(UInt32.self, at: place)
                for _ in first..<min(first + 4, rowCount) {
                    symbols.store(UInt8(truncatingIfNeeded: four), at: target)
                    four >>= 8
                    target += columnCount
                }
                place += 4 * pitch
            }
        }
    }
}

extension ScaledColumns {
    /// The same of these columns, in their natural order.
    package func spread(_ packed: PinnedBytes, rowCount: Int, into symbols: PinnedBytes) {
        coded.spread(packed, rowCount: rowCount, into: symbols) { column in
            let (head, channel) = column.quotientAndRemainder(dividingBy: headWidth)
            return head * headWidth + rotated.channel(ofWork: channel)
        }
    }
}
