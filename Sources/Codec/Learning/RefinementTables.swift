// SPDX-License-Identifier: Apache-2.0
internal import Glibc
internal import Kernels

/// Tables of refinements, which follow from the symbol tables (docs/container-format.md, section
/// 9): of a class, its table says how often the three finer symbols of a coarser one occur.
enum RefinementTables {
    /// Of each table, of each context, the frequencies of -1, 0 and 1.
    static func derived(from tables: [[UInt16]]) -> [UInt16] {
        tables.enumerated().flatMap { number, frequencies in
            contexts(shares(of: frequencies, number))
        }
    }

    /// How likely each symbol is, on both sides alike; index 128 is 0. What the table has no slot
    /// for is as likely as the bell of its class says.
    private static func shares(of frequencies: [UInt16], _ number: Int) -> [Double] {
        let scale = Double(number - TableLearner.unitClass) / 4
        let prior = TableLearner.bell(scale: exp2(scale))
        var shares = zip(frequencies, prior).map { Double($0) + $1 }
        // The escape says nothing of its symbol.
        shares[0] = prior[0]
        return shares
    }

    private static func contexts(_ shares: [Double]) -> [UInt16] {
        (0..<RefinementTable.contextCount).flatMap { context in
            // The last context is that of all coarser symbols from there on.
            let coarser = context < RefinementTable.contextCount - 1 ? context...context : 3...41
            let likely = (-1...1).map { ternary in
                coarser.reduce(1e-9) { sum, symbol in
                    let finer = 3 * symbol + ternary
                    return sum + shares[128 + finer] + shares[128 - finer]
                }
            }
            return TableLearner.apportioned(likely) { _ in true }
        }
    }
}
