// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVCore
import Kernels

@testable import Codec

/// A profile of a layout, made from one payload: good enough to code others of its kind.
struct ProfileSample {
    /// Steps of level Q2; those of Q3 are twice as large.
    static let step: Float = 0.125

    let layout: KVLayout
    var entries: [(item: UInt8, layer: Int, kind: UInt8, content: [UInt8])] = []

    /// `rowCodes`: of which kinds rows have codes; `isEmbedded`: both levels are.
    init(
        _ layout: KVLayout, learntFrom payload: PinnedBytes, tokenCount: Int,
        rowCodes: Set<KVKind> = [], isEmbedded: Bool = false
    ) {
        self.layout = layout
        let turns = layout.rotation != nil
        let flags = rowCodes.reduce(UInt8((turns ? 1 : 0) | (isEmbedded ? 2 : 0))) {
            $0 | 4 << $1.rawValue
        }
        add(0, Array("kvstore_layout=1\nlayers=\(layout.layerCount)\n".utf8))
        if let rule = layout.rotation { add(1, Self.bytes(rule, layout)) }
        // Symbols of nine steps are some three powers of two smaller.
        let shift: Int8 = isEmbedded ? -3 : 0
        add(
            2,
            Self.level(4, flags, step: 1, shift: shift)
                + Self.level(5, flags, step: 2, shift: shift - 1))
        let tables = [0.5, 1, 2, 4, 8, 16, 32].map(Self.bell)
        add(3, tables.flatMap { Self.bytes($0) })
        add(4, tables.indices.flatMap { Self.bytes(Self.refinements($0)) })
        add(5, [2.0, 6, 20].flatMap { Self.bytes(Self.bell($0)) })
        add(6, Array("a test".utf8))
        for layer in 0..<layout.layerCount {
            for kind in layout.kinds {
                let found = values(layer: layer, kind, of: layout, tokenCount, in: payload)
                add(layer: layer, kind, found)
            }
        }
    }

    private mutating func add(_ item: UInt8, _ content: [UInt8], layer: Int = 0, kind: UInt8 = 0) {
        entries.append((item, layer, kind, content))
    }

    private mutating func add(layer: Int, _ kind: KVKind, _ values: [Float]) {
        let count = layout.columnCount(kind)
        let turns = layout.rotation != nil && kind == .keys
        var (order, means, steps) = ([UInt8](), [UInt8](), [UInt8]())
        var (classes, lossless) = ([UInt8](), [UInt8]())
        // What turns mixes the channels of a pair: no column is spread wider than all are.
        let widest = values.reduce(0) { max($0, $1.isFinite ? abs($1) : 0) }
        for column in 0..<count {
            let own = stride(from: column, to: values.count, by: count).map { values[$0] }
                .map { $0.isFinite ? $0 : 0 }
            let mean = own.reduce(0, +) / Float(own.count)
            let square = own.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Float(own.count)
            let step = Self.step * (1 + Float(column % 3))
            let spread = max(0.3, turns ? widest / 2 : square.squareRoot()) / step
            order += Self.bytes(UInt16((column * 7 + layer) % count))
            means += Self.bytes((turns ? 0 : mean).bitPattern)
            steps += Self.bytes(step.bitPattern)
            classes.append(UInt8(min(6, max(0, Int(log2(spread).rounded()) + 1))))
            let high = layout.type.rotated(layout.type.narrowed(abs(mean) + 1))
            let offset = high >> UInt32(8 * layout.type.byteCount - 8)
            lossless += [UInt8(truncatingIfNeeded: offset), UInt8(column % 3)]
        }
        // Seven and a count that it divides have no permutation of this form.
        if count.isMultiple(of: 7) { order = (0..<count).flatMap { Self.bytes(UInt16($0)) } }
        let contents = [(16, order), (17, means), (18, steps), (19, classes), (20, lossless)]
        for (item, content) in contents {
            add(UInt8(item), content, layer: layer, kind: kind.rawValue)
        }
    }

    /// The profile's bytes, with checksums.
    var bytes: OwnedBytes {
        let sorted = entries.sorted {
            ($0.item, $0.layer, $0.kind) < ($1.item, $1.layer, $1.kind)
        }
        var head: [UInt8] = Array("KVP1".utf8) + [0, 0, 0, 0, 1, 0]
        head += Self.bytes(UInt16(layout.layerCount)) + Self.bytes(UInt32(sorted.count))
        head += Self.bytes(UInt32(layout.columnCount(.keys)))
        head += Self.bytes(UInt32(layout.columnCount(.values)))
        let tableCount = entries.first { $0.item == 3 }.map { $0.content.count / 512 } ?? 0
        let losslessCount = entries.first { $0.item == 5 }.map { $0.content.count / 512 } ?? 0
        head += Self.bytes(UInt32(tableCount)) + Self.bytes(UInt32(losslessCount))
        head += Array(repeating: 0, count: 32)
        var body: [UInt8] = []
        let start = head.count + 16 * sorted.count
        for entry in sorted {
            body += Array(repeating: 0, count: (64 - (start + body.count) % 64) % 64)
            head += Self.bytes(UInt32(start + body.count))
            head += Self.bytes(UInt32(entry.content.count))
            head += Self.bytes(Self.checksum(entry.content))
            head += Self.bytes(UInt16(entry.layer)) + [entry.kind, entry.item]
            body += entry.content
        }
        head.replaceSubrange(4..<8, with: Self.bytes(Self.checksum(Array(head[8...]))))
        return owned(head + body)
    }

    func profile() throws -> Profile {
        let bytes = bytes
        defer { withExtendedLifetime(bytes) {} }
        return try Profile(bytes.bytes, for: layout)
    }

    static func checksum(_ bytes: [UInt8]) -> UInt32 {
        let memory = owned(bytes)
        defer { withExtendedLifetime(memory) {} }
        return memory.bytes.prefix(bytes.count).withBytes(Checksum.short)
    }

    private static func level(
        _ number: UInt8, _ flags: UInt8, step: Float, shift: Int8
    ) -> [UInt8] {
        [number, 4, flags, 0] + bytes(step.bitPattern)
            + [UInt8(bitPattern: shift)] + Array(repeating: 0, count: 23)
    }

    private static func bytes(_ rule: RotationRule, _ layout: KVLayout) -> [UInt8] {
        let rotation = Rotation(rule, layerCount: layout.layerCount)
        let memory = OwnedBytes(count: rotation.byteCount)
        rotation.encode(into: memory.bytes)
        return array(memory)
    }

    private static func bytes(_ frequencies: [UInt16]) -> [UInt8] {
        frequencies.flatMap { bytes($0) }
    }

    static func bytes(_ number: some FixedWidthInteger) -> [UInt8] {
        (0..<number.bitWidth / 8).map { UInt8(truncatingIfNeeded: number >> (8 * $0)) }
    }

    /// Frequencies of -1, 0 and 1 in four contexts: cells around the mean are hit in their middle.
    private static func refinements(_ table: Int) -> [UInt16] {
        let wide = UInt16(400 + 40 * table)
        return [wide, 2_048 - 2 * wide, wide, 900, 748, 400, 800, 700, 548, 720, 690, 638]
    }

    /// Frequencies of a bell of this deviation; symbols farther out are escapes.
    private static func bell(_ deviation: Double) -> [UInt16] {
        let radius = min(127, Int(3 * deviation) + 1)
        var weights = [Double](repeating: 0, count: 256)
        for symbol in -radius...radius {
            weights[symbol + 128] = exp(-pow(Double(symbol) / deviation, 2) / 2)
        }
        let scale = Double(2_047 - (2 * radius + 1)) / weights.reduce(0, +)
        var frequencies = weights.map { $0 > 0 ? UInt16(1 + $0 * scale) : 0 }
        frequencies[0] = 1
        frequencies[128] += 2_048 - frequencies.reduce(0, +)
        return frequencies
    }
}
