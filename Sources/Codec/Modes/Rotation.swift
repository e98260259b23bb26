// SPDX-License-Identifier: Apache-2.0
internal import Glibc
package import KVCore
internal import Kernels

/// How each layer's K turns with its position (docs/container-format.md, section 5). A value.
///
/// Turns are fixed-point fractions of a full turn, so that the angle at any position is exact.
package struct Rotation: Hashable, Sendable {
    package let pairCount: Int
    /// The first channel of a head that turns.
    package let firstChannel: Int
    /// Whether channel 2i turns with 2i + 1; otherwise i turns with i + pairCount.
    package let isInterleaved: Bool
    /// Of each layer the set of turns; nil: it does not turn.
    package let setOfLayer: [Int?]
    /// [set][pair]: the turn per token in units of 2^-64 of a full turn.
    package let turns: [[UInt64]]

    /// One set of turns for all layers, from a description's base.
    package init(_ rule: RotationRule, layerCount: Int) {
        pairCount = rule.channelCount / 2
        firstChannel = rule.firstChannel
        isInterleaved = rule.isInterleaved
        setOfLayer = Array(repeating: 0, count: layerCount)
        turns = [
            (0..<pairCount).map { pair in
                let exponent = -2 * Double(pair) / Double(rule.channelCount)
                let turn = pow(rule.theta, exponent) / (2 * .pi)
                let fraction = (turn - turn.rounded(.down)) * 0x1p64
                // What rounds up to a full turn is none.
                return UInt64(exactly: fraction.rounded()) ?? 0
            }
        ]
    }

    /// The section `rotation`; nil when it breaks a rule, or is not for such a layout.
    package init?(_ section: PinnedBytes, of layout: KVLayout) {
        let setsEnd = 8 + (layout.layerCount + 7) & ~7
        guard section.count >= setsEnd else { return nil }
        let pairCount = Int(section.load(UInt16.self, at: 0))
        let setCount = Int(section.load(UInt8.self, at: 5))
        firstChannel = Int(section.load(UInt16.self, at: 2))
        guard pairCount > 0, firstChannel + 2 * pairCount <= layout.keyChannelCount,
            section.load(UInt8.self, at: 4) < 2, (1...254).contains(setCount),
            section.load(UInt16.self, at: 6) == 0,
            section.count == setsEnd + 8 * pairCount * setCount
        else { return nil }
        self.pairCount = pairCount
        isInterleaved = section.load(UInt8.self, at: 4) == 1
        let sets = (0..<layout.layerCount).map { Int(section[8 + $0]) }
        guard sets.allSatisfy({ $0 < setCount || $0 == 255 }),
            (8 + layout.layerCount..<setsEnd).allSatisfy({ section[$0] == 0 })
        else { return nil }
        setOfLayer = sets.map { $0 == 255 ? nil : $0 }
        turns = (0..<setCount).map { set in
            (0..<pairCount).map { pair in
                section.load(UInt64.self, at: setsEnd + 8 * (set * pairCount + pair))
            }
        }
    }

    /// The channels that turn, as kernels know them.
    var channels: RotatedChannels {
        RotatedChannels(first: firstChannel, pairCount: pairCount, isInterleaved: isInterleaved)
    }

    /// Bytes of the section.
    package var byteCount: Int {
        8 + (setOfLayer.count + 7) & ~7 + 8 * pairCount * turns.count
    }

    /// Writes the section.
    package func encode(into target: PinnedBytes) {
        target.prefix(byteCount).fill(0)
        target.store(UInt16(pairCount), at: 0)
        target.store(UInt16(firstChannel), at: 2)
        target.store(UInt8(isInterleaved ? 1 : 0), at: 4)
        target.store(UInt8(turns.count), at: 5)
        for (layer, set) in setOfLayer.enumerated() {
            target.store(UInt8(set ?? 255), at: 8 + layer)
        }
        var place = 8 + (setOfLayer.count + 7) & ~7
        for turn in turns.joined() {
            target.store(turn, at: place)
            place += 8
        }
    }
}

/// Cosines and sines of one set of turns, [row][pair]. Memory is taken once.
struct RotationAngles {
    private let cosines: Floats
    private let sines: Floats
    private var pairCount = 0
    private var made: Made?

    private struct Made: Equatable {
        let turns: [UInt64]
        let origin: UInt64
        let rowCount: Int
    }

    /// Room for `angleCountMax` angles.
    init(angleCountMax: Int) {
        cosines = Floats(count: angleCountMax)
        sines = Floats(count: angleCountMax)
    }

    /// The angles that `prepare` computed, as kernels read them.
    var forKernels: ScaledColumns.Angles { .init(cosines: cosines.bytes, sines: sines.bytes) }

    /// Computes the angles of rows from `origin` on, unless they are those of the last call.
    mutating func prepare(_ turns: [UInt64], origin: UInt64, rowCount: Int) {
        let wanted = Made(turns: turns, origin: origin, rowCount: rowCount)
        if made == wanted { return }
        made = wanted
        pairCount = turns.count
        var place = 0
        for row in 0..<rowCount {
            for turn in turns {
                let fraction = turn &* (origin &+ UInt64(row))
                let angle = Double(fraction >> 11) * 0x1p-53 * (2 * .pi)
                cosines[place] = Float(cos(angle))
                sines[place] = Float(sin(angle))
                place += 1
            }
        }
    }
}

/// Which way K is turned.
enum RotationDirection: Float {
    /// As the engine has it, from K before RoPE.
    case forward = 1
    /// Back to K before RoPE.
    case backward = -1
}

extension RotationAngles {
    /// Turns rows `rows` of values [row][head][channel], whose angles `prepare` computed.
    func turn(
        _ values: Floats, rows: Range<Int>, _ shape: SectionShape, _ rotation: Rotation,
        _ direction: RotationDirection
    ) {
        let pairs = rotation.pairCount
        let (step, distance) = rotation.isInterleaved ? (2, 1) : (1, pairs)
        for row in rows {
            for head in 0..<shape.headCount {
                var place = row * shape.columnCount + head * shape.channelCount
                place += rotation.firstChannel
                for pair in 0..<pairs {
                    let cosine = cosines[row * pairs + pair]
                    let sine = sines[row * pairs + pair] * direction.rawValue
                    let (x, y) = (values[place], values[place + distance])
                    values[place] = x * cosine - y * sine
                    values[place + distance] = y * cosine + x * sine
                    place += step
                }
            }
        }
    }
}
