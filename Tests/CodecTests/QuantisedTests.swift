// SPDX-License-Identifier: Apache-2.0

import Codec
import Foundation
import KVCore
import Kernels
import Testing

/// Levels that lose something.
private let lossyLevels = Level.allCases.filter { !$0.isExact }

@Suite struct `A quantised chunk` {
    private let workspace = CodecWorkspace(valueCountMax: 1 << 14)

    /// Half a unit in the last place of values up to `magnitude`.
    private func rounding(_ type: ValueType, _ magnitude: Float) -> Float {
        switch type {
        case .float16: magnitude * 0x1p-11 + 0x1p-25
        case .bfloat16: magnitude * 0x1p-9
        case .float32: magnitude * 0x1p-24
        case .float8E4M3: magnitude * 0x1p-4 + 0x1p-10
        case .float8E5M2: magnitude * 0x1p-3 + 0x1p-17
        }
    }

    /// Checks that no value is further away than half its step: the section's base step times its
    /// row's and its column's factor. In a value that turns two errors meet; the columns of the
    /// pair are not looked up, but the largest factor of all columns.
    private func expectBound(
        _ payload: OwnedBytes, _ layout: KVLayout, _ plan: EncodingPlan, tokenCount: Int,
        _ note: String
    ) throws {
        let container = try encoded(payload.bytes, plan, workspace).container
        let result = try decoded(container, workspace)
        let reader = try ContainerReader(container.bytes)
        for kind in layout.kinds {
            for layer in 0..<layout.layerCount {
                let index = reader.index(layer: layer, kind)
                let before = values(layer: layer, kind, of: layout, tokenCount, in: payload.bytes)
                let after = values(layer: layer, kind, of: layout, tokenCount, in: result.bytes)
                guard reader[index].method == .quantised else {
                    #expect(before == after, "\(note)")
                    continue
                }
                let section = try reader.section(index)
                let base = Float(bitPattern: section.load(UInt32.self, at: 4))
                // Two errors meet in a value that turns.
                let turns = section.load(UInt8.self, at: 0) & 1 != 0
                let columnCount = layout.columnCount(kind)
                let exactCount = reader.header.exactRowCount * columnCount
                #expect(before.prefix(exactCount) == after.prefix(exactCount), "\(note)")
                let codes = 16 + exactCount * layout.type.byteCount + 2 * columnCount
                let slope = Double(section.load(UInt8.self, at: 1))
                let factors = (0..<columnCount).map { column in
                    Float(exp2(slope * (Double(section[codes + column]) - 128) / 64))
                }
                let largest = factors.reduce(0, max)
                let rowCodes = codes + columnCount
                let hasRowCodes = section.load(UInt8.self, at: 0) & 2 != 0
                for (index, (old, new)) in zip(before, after).dropFirst(exactCount).enumerated() {
                    let code = hasRowCodes ? section[rowCodes + index / columnCount] : 128
                    let step =
                        base * Float(exp2((Double(code) - 128) / 8))
                        * (turns ? largest : factors[index % columnCount])
                    let magnitude = 1.5 * max(old.magnitude, new.magnitude) + step
                    let bound =
                        (turns ? 0.7072 : 0.5) * step + magnitude * 0x1p-19
                        + rounding(layout.type, magnitude)
                    if !((old - new).magnitude <= bound) {
                        Issue.record("\(note), \(kind) of layer \(layer): \(old) became \(new)")
                        return
                    }
                }
            }
        }
        withExtendedLifetime((payload, container, result)) {}
    }

    @Test(arguments: lossyLevels)
    func `stays within half a step of every value`(level: Level) throws {
        for (seed, engine) in engineLayouts.enumerated() {
            for type in ValueType.allCases {
                var more = engine.more
                more["rope_theta"] = .real(10_000)
                let layout = try layout(engine.axes, type: type.name, more)
                let payload = payload(
                    of: layout, tokenCount: 12, seed: UInt64(seed), scale: 1 + Float(seed))
                try expectBound(
                    payload, layout,
                    EncodingPlan(level: level, layout: layout, firstPosition: UInt32(3 * seed)),
                    tokenCount: 12, "\(engine.name), \(type), seed \(seed)")
            }
        }
    }

    @Test(arguments: lossyLevels)
    func `stays within half a step with outliers, constants and zeros`(level: Level) throws {
        let layout = try layout(
            "layer,kv,token,head,channel", type: "float32", ["rope_theta": .real(500_000)])
        let payload = payload(of: layout, tokenCount: 40, seed: 21) { values, kind, layer in
            for row in 0..<40 {
                values[row * 16] = 3.14159
                values[row * 16 + 1] = 0
                values[row * 16 + 2] = layer == 0 ? 0 : -1e-30
            }
            if layer == 1 { values[20 * 16 + 5] = 1_000 }
            if layer == 2 { values = values.map { _ in kind == .keys ? 0 : 7 } }
        }
        for position in [nil, 0, 1, 4, 1_000_000] as [UInt32?] {
            try expectBound(
                payload, layout,
                EncodingPlan(level: level, layout: layout, firstPosition: position),
                tokenCount: 40, "position \(position.map(String.init) ?? "not known")")
        }
    }

    @Test func `keeps sections that are not finite, or too large, as they are`() throws {
        for bad in [Float.nan, .infinity, -.infinity, 0x1p90] {
            let layout = try layout("layer,kv,token,head,channel", type: "float32")
            let payload = payload(of: layout, tokenCount: 9, seed: 31) { values, kind, layer in
                if layer == 1, kind == .values { values[100] = bad }
            }
            let plan = EncodingPlan(level: .coarsest, layout: layout, firstPosition: 8)
            let container = try encoded(payload.bytes, plan, workspace).container
            let reader = try ContainerReader(container.bytes)
            #expect(reader[reader.index(layer: 1, .values)].method != .quantised)
            #expect(reader[reader.index(layer: 1, .keys)].method == .quantised)
            let result = try decoded(container, workspace)
            let places = layout.places(.values, tokenCount: 9)
            let first = places.row(layer: 1, token: 0)
            let byteCount = 9 * 16 * 4
            #expect(
                result.bytes.slice(offset: first, count: byteCount).holds(
                    sameAs: payload.bytes.slice(offset: first, count: byteCount)))
            withExtendedLifetime((payload, container, result)) {}
        }
    }

    @Test(arguments: [1, 2, 4, 5])
    func `of few tokens keeps those that may be the first`(tokenCount: Int) throws {
        let layout = try layout("layer,kv,token,head,channel")
        let payload = payload(of: layout, tokenCount: tokenCount, seed: 41)
        for position in [nil, 0, 3, 4] as [UInt32?] {
            let plan = EncodingPlan(level: .coarse, layout: layout, firstPosition: position)
            let result = try decoded(
                try encoded(payload.bytes, plan, workspace).container, workspace)
            let exactCount = 16 * min(tokenCount, max(0, 4 - Int(position ?? 0)))
            let before = values(layer: 2, .keys, of: layout, tokenCount, in: payload.bytes)
            let after = values(layer: 2, .keys, of: layout, tokenCount, in: result.bytes)
            #expect(before.prefix(exactCount) == after.prefix(exactCount))
            withExtendedLifetime((payload, result)) {}
        }
    }

    @Test func `is smaller and worse with each level`() throws {
        let layout = try layout(
            "layer,kv,token,head,channel", ["kv_heads": .whole(4), "head_dim": .whole(32)])
        let payload = payload(of: layout, tokenCount: 100, seed: 51)
        var last = payload.bytes.count
        for level in lossyLevels {
            let plan = EncodingPlan(level: level, layout: layout, firstPosition: 256)
            let (container, mode) = try encoded(payload.bytes, plan, workspace)
            #expect(mode == .cachegen)
            #expect(container.bytes.count < last)
            last = container.bytes.count
        }
        #expect(5 * last < payload.bytes.count)
    }

    @Test(arguments: [
        QuantisationRule(
            keyStep: 0.3, valueStep: 0.4, keySlope: 4, valueSlope: 8, valueRowExponent: 0),
        QuantisationRule(keyStep: 0.1, valueStep: 0.2, valueRowExponent: 0.5),
        QuantisationRule(keyStep: 0.5, valueStep: 3, layerFactors: [0.5, 1, 2]),
    ])
    func `is decoded with any steps`(rule: QuantisationRule) throws {
        let layout = try layout("layer,kv,token,head,channel", type: "float32")
        let payload = payload(of: layout, tokenCount: 30, seed: 61)
        var plan = EncodingPlan(level: .standard, layout: layout, firstPosition: 9)
        plan.quantisation = rule
        let container = try encoded(payload.bytes, plan, workspace).container
        let reader = try ContainerReader(container.bytes)
        #expect((2..<reader.sectionCount).contains { reader[$0].method == .quantised })
        let result = try decoded(container, workspace)
        for kind in layout.kinds {
            let before = values(layer: 0, kind, of: layout, 30, in: payload.bytes)
            let after = values(layer: 0, kind, of: layout, 30, in: result.bytes)
            let spread = before.reduce(0) { max($0, $1.magnitude) }
            let far = zip(before, after).filter { ($0 - $1).magnitude > spread / 2 }
            #expect(far.isEmpty)
        }
        withExtendedLifetime((payload, container, result)) {}
    }
}
