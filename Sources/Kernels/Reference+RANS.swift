// SPDX-License-Identifier: Apache-2.0

/// The codec's kernels once more, as docs/container-format.md tells them and as slow as that makes
/// them: what tests compare every vector unit with, byte for byte. Any thread; allocates.
package enum KernelReference {
    /// A rANS stream: the states that a decoder starts with, and the words in reading order.
    package struct Stream: Hashable, Sendable {
        package var states: [UInt32]
        package var words: [UInt16]

        package init(states: [UInt32], words: [UInt16]) {
            self.states = states
            self.words = words
        }
    }

    /// A matrix of symbols and how its columns are coded.
    package struct Coding {
        package let tables: [SymbolTable]
        /// Of each column the place of its table.
        package let tableOfColumn: [Int]
        /// The columns in coding order.
        package let order: [Int]

        package init(tables: [SymbolTable], tableOfColumn: [Int], order: [Int]) {
            self.tables = tables
            self.tableOfColumn = tableOfColumn
            self.order = order
        }

        fileprivate func groups() -> [[Int]] {
            stride(from: 0, to: order.count, by: 64).map {
                Array(order[$0..<min($0 + 64, order.count)])
            }
        }

        fileprivate func frequencies(_ column: Int) -> [UInt16] {
            tables[tableOfColumn[column]].frequencies
        }
    }

    /// Encodes rows of symbols.
    package static func encode(_ rows: [[Int8]], _ coding: Coding) -> Stream {
        var states = [UInt64](repeating: 1 << 16, count: 64)
        var words: [UInt16] = []
        for group in coding.groups().reversed() {
            for row in rows.reversed() {
                for (lane, column) in group.enumerated().reversed() {
                    let frequencies = coding.frequencies(column)
                    let index = Int(row[column]) + 128
                    let frequency = UInt64(frequencies[index])
                    let below = frequencies[..<index].reduce(0) { $0 + UInt64($1) }
                    if states[lane] >= frequency << 21 {
                        words.append(UInt16(truncatingIfNeeded: states[lane]))
                        states[lane] >>= 16
                    }
                    let (quotient, rest) = states[lane].quotientAndRemainder(dividingBy: frequency)
                    states[lane] = quotient << 11 + below + rest
                }
            }
        }
        return Stream(states: states.map { UInt32($0) }, words: words.reversed())
    }

    /// Decodes so many rows; nil when the stream is not exactly theirs.
    package static func decode(_ stream: Stream, rowCount: Int, _ coding: Coding) -> [[Int8]]? {
        var states = stream.states
        var words = stream.words[...]
        let columnCount = coding.order.count
        var rows = [[Int8]](repeating: Array(repeating: 0, count: columnCount), count: rowCount)
        for group in coding.groups() {
            for row in 0..<rowCount {
                for (lane, column) in group.enumerated() {
                    let slot = states[lane] & 2_047
                    var (index, below) = (0, UInt32(0))
                    let frequencies = coding.frequencies(column)
                    while slot >= below + UInt32(frequencies[index]) {
                        below += UInt32(frequencies[index])
                        index += 1
                    }
                    rows[row][column] = Int8(index - 128)
                    states[lane] = UInt32(frequencies[index]) * (states[lane] >> 11) + slot - below
                }
                for lane in group.indices where states[lane] < 1 << 16 {
                    guard let word = words.popFirst() else { return nil }
                    states[lane] = states[lane] << 16 | UInt32(word)
                }
            }
        }
        return words.isEmpty && states.allSatisfy { $0 == 1 << 16 } ? rows : nil
    }
}
