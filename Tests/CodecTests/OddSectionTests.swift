// SPDX-License-Identifier: Apache-2.0
import KVCore
import Kernels
import Testing

@testable import Codec

/// Payloads that are hard on mode scalar, embedded or not, with codes of rows or without.
@Suite struct `An odd section with a profile` {
    private let workspace = CodecWorkspace(valueCountMax: 1 << 13)

    struct Form: CustomTestStringConvertible {
        let rowCodes: Set<KVKind>
        let isEmbedded: Bool
        var testDescription: String { "codes of \(rowCodes.count) kinds, \(isEmbedded)" }
    }

    static let forms = [
        Form(rowCodes: [], isEmbedded: false), Form(rowCodes: [.values], isEmbedded: true),
    ]

    private func layout() throws -> KVLayout {
        try CodecTests.layout(
            "layer,kv,token,head,channel", type: "float32",
            ["rope_theta": .real(10_000), "head_dim": .whole(24), "value_dim": .whole(24)])
    }

    private func profile(_ form: Form) throws -> Profile {
        let layout = try layout()
        let learnt = payload(of: layout, tokenCount: 64, seed: 3)
        defer { withExtendedLifetime(learnt) {} }
        return try ProfileSample(
            layout, learntFrom: learnt.bytes, tokenCount: 64, rowCodes: form.rowCodes,
            isEmbedded: form.isEmbedded
        ).profile()
    }

    /// The methods of all sections, and the values that come back.
    private func trip(
        _ payload: OwnedBytes, _ profile: Profile, first: UInt32
    ) throws -> (methods: Set<SectionMethod>, back: OwnedBytes) {
        let layout = try layout()
        let plan = EncodingPlan(
            level: .standard, layout: layout, firstPosition: first, profile: profile)
        let (container, mode) = try encoded(payload.bytes, plan, workspace)
        #expect(mode == .scalar)
        let reader = try ContainerReader(container.bytes)
        let start = reader.index(layer: 0, .keys)
        let methods = Set((start..<start + 6).map { reader[$0].method })
        let back = try decoded(container, workspace, profile)
        withExtendedLifetime((container, payload)) {}
        return (methods, back)
    }

    @Test(arguments: forms, [1, 2, 3, 5, 7])
    func `of few tokens keeps those that may be the first`(form: Form, tokenCount: Int) throws {
        let (layout, profile) = (try layout(), try profile(form))
        for first in [UInt32(0), 3, 70] {
            let payload = payload(of: layout, tokenCount: tokenCount, seed: 3)
            let (_, back) = try trip(payload, profile, first: first)
            for layer in 0..<layout.layerCount {
                for kind in layout.kinds {
                    let before = values(
                        layer: layer, kind, of: layout, tokenCount, in: payload.bytes)
                    let after = values(layer: layer, kind, of: layout, tokenCount, in: back.bytes)
                    let exact = max(0, 4 - Int(first)) * layout.columnCount(kind)
                    #expect(before.prefix(exact) == after.prefix(exact))
                    for (one, other) in zip(before, after) {
                        // The largest step of both modes; cachegen's follow the values.
                        #expect(abs(one - other) < 2 + abs(one) / 8)
                    }
                }
            }
        }
    }

    @Test(arguments: forms)
    func `of constants keeps them within half a step`(form: Form) throws {
        let (layout, profile) = (try layout(), try profile(form))
        let payload = payload(of: layout, tokenCount: 64, seed: 3) { values, kind, _ in
            guard kind == .values else { return }
            // Every row as the first.
            for index in values.indices { values[index] = values[index % 48] }
        }
        let (methods, back) = try trip(payload, profile, first: 70)
        #expect(methods == [.scalar])
        let before = values(layer: 1, .values, of: layout, 64, in: payload.bytes)
        let after = values(layer: 1, .values, of: layout, 64, in: back.bytes)
        for index in before.indices {
            // All rows are alike, and so their factors are 1.
            let half = ProfileSample.step * (1 + Float(index % 48 % 3)) / 2
            #expect(abs(before[index] - after[index]) <= half + 0x1p-17)
        }
    }

    @Test(arguments: forms, [Float.nan, .infinity, 3e38])
    func `with what has no cell is stored by another method`(form: Form, odd: Float) throws {
        let (layout, profile) = (try layout(), try profile(form))
        let payload = payload(of: layout, tokenCount: 64, seed: 3) { values, kind, layer in
            if kind == .values, layer == 1 { values[100] = odd }
        }
        let (methods, back) = try trip(payload, profile, first: 70)
        #expect(methods.count == 2 && methods.contains(.scalar))
        let bits = { (memory: OwnedBytes) in
            values(layer: 1, .values, of: layout, 64, in: memory.bytes).map(\.bitPattern)
        }
        if !odd.isFinite { #expect(bits(back) == bits(payload)) }
    }

    @Test(arguments: forms)
    func `with too many outliers is stored by another method`(form: Form) throws {
        let (layout, profile) = (try layout(), try profile(form))
        let payload = payload(of: layout, tokenCount: 64, seed: 3) { values, kind, layer in
            guard kind == .values, layer == 2 else { return }
            for index in values.indices where index % 5 == 0 { values[index] *= 3_000 }
        }
        let (methods, back) = try trip(payload, profile, first: 70)
        #expect(methods.count == 2 && methods.contains(.scalar))
        let before = values(layer: 2, .values, of: layout, 64, in: payload.bytes)
        let after = values(layer: 2, .values, of: layout, 64, in: back.bytes)
        // Whatever the method is, a value is not further off than half of its row's deviation.
        for (one, other) in zip(before, after) { #expect(abs(one - other) < 4_000) }
    }
}
