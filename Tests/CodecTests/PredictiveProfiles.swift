// SPDX-License-Identifier: Apache-2.0
import KVCore

@testable import Codec

extension ProfileSample {
    /// Values stand this many of their column's steps away at most, for each step of the level:
    /// two coefficients of half an octave, each wrong by 0.55 at most.
    static let predictiveErrorMax: Float = 0.55 * 1.4143

    /// The same profile with levels Q2 and Q3 of mode predictive, of steps 1 and 2. Coefficients
    /// are sums and differences of neighbouring columns.
    func predictive(
        group: Int, lookback: Int, rowCodes: Set<KVKind> = [], isForEncoding: Bool = true
    ) -> ProfileSample {
        var changed = self
        guard let levels = entries.firstIndex(where: { $0.item == 2 }) else { return self }
        let flags = rowCodes.reduce(entries[levels].content[2] & 1) { $0 | 4 << $1.rawValue }
        for (number, step, shift) in [(UInt8(4), Float(1), Int8(0)), (5, 2, -1)] {
            changed.entries[levels].content +=
                [number, 5, flags, UInt8(group)] + Self.bytes(step.bitPattern)
                + [UInt8(bitPattern: shift), 0, 0, lookback == 1 ? 1 : 0]
                + Array(repeating: 0, count: 20)
        }
        for layer in 0..<layout.layerCount {
            for kind in layout.kinds {
                let first = layer / group * group
                let back = (1...lookback).map { layer - $0 }.filter { $0 >= first }
                let earlier = back.count * layout.kinds.reduce(0) { $0 + layout.columnCount($1) }
                let own = kind == .values ? layout.columnCount(.keys) : 0
                changed.addPredictive(
                    layer: layer, kind, rowCount: own + earlier, isForEncoding: isForEncoding)
            }
        }
        return changed
    }

    private mutating func addPredictive(
        layer: Int, _ kind: KVKind, rowCount: Int, isForEncoding: Bool
    ) {
        func content(_ item: UInt8) -> [UInt8] {
            entries.first { ($0.item, $0.layer, $0.kind) == (item, layer, kind.rawValue) }?
                .content ?? []
        }
        let count = layout.columnCount(kind)
        let steps = content(18)
        let widths = (0..<count).map { column in
            Float(
                bitPattern: steps[4 * column..<4 * column + 4].reversed().reduce(0) {
                    $0 << 8 | UInt32($1)
                })
        }
        var numbers = SeededNumbers(seed: UInt64(layer * 2 + Int(kind.rawValue)))
        let scales = widths.flatMap { Self.bytes(($0 / 100).bitPattern) }
        var prediction = scales
        for row in 0..<rowCount {
            for column in 0..<count {
                let isUsed = row % 5 == column % 5
                prediction.append(
                    UInt8(bitPattern: isUsed ? Int8.random(in: -3...3, using: &numbers) : 0))
            }
        }
        var synthesis = widths.flatMap {
            Self.bytes(($0 / 100 * Float(0.5).squareRoot()).bitPattern)
        }
        var analysis: [UInt8] = []
        for one in 0..<count {
            for other in 0..<count {
                let sign = Self.sign(one, other, count)
                let isAlone = one == count - 1 && count % 2 == 1
                // A column without a neighbour is a coefficient itself.
                let whole = sign * (isAlone ? 141 : 100)
                synthesis += Self.bytes(UInt16(truncatingIfNeeded: whole))
                let inverse = isAlone ? 1 / 1.41 * Float(2).squareRoot() : Float(0.5).squareRoot()
                analysis += Self.bytes((Float(sign) * inverse / widths[one]).bitPattern)
            }
        }
        let classes = content(19)
        let coefficients = (0..<count).map {
            min(6, 1 + max(classes[$0], classes[min($0 ^ 1, count - 1)]))
        }
        var items = [
            (UInt8(32), steps), (33, prediction), (34, synthesis), (36, coefficients),
        ]
        if isForEncoding { items.append((35, analysis)) }
        for (item, content) in items {
            entries.append((item, layer, kind.rawValue, content))
        }
    }

    /// How a column counts in a coefficient, and the other way round.
    private static func sign(_ one: Int, _ other: Int, _ count: Int) -> Int {
        guard one / 2 == other / 2 else { return 0 }
        return one % 2 == 1 && other % 2 == 1 ? -1 : 1
    }
}
