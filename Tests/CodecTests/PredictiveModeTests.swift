// SPDX-License-Identifier: Apache-2.0
import KVCore
import Kernels
import Testing

@testable import Codec

/// A layout of an engine whose K turns, a payload, and a profile learnt from it.
private struct PredictiveSample {
    let layout: KVLayout
    let tokenCount: Int
    let payload: OwnedBytes
    let sample: ProfileSample
    let profile: Profile

    init(
        engine index: Int = 0, type: String = "bfloat16", layers: Int = 3, tokenCount: Int = 48,
        group: Int = 3, lookback: Int = 2, rowCodes: Set<KVKind> = [],
        edit: (inout [Float], KVKind, Int) -> Void = { _, _, _ in }
    ) throws {
        let engine = engineLayouts[index]
        layout = try CodecTests.layout(
            engine.axes, type: type,
            engine.more.merging(["rope_theta": .real(10_000), "layers": .whole(layers)]) {
                own, _ in own
            })
        self.tokenCount = tokenCount
        payload = CodecTests.payload(of: layout, tokenCount: tokenCount, seed: 3, edit: edit)
        let learnt = CodecTests.payload(of: layout, tokenCount: 48, seed: 3)
        sample = ProfileSample(layout, learntFrom: learnt.bytes, tokenCount: 48)
            .predictive(group: group, lookback: lookback, rowCodes: rowCodes)
        profile = try sample.profile()
        withExtendedLifetime(learnt) {}
    }

    func container(
        _ workspace: CodecWorkspace, _ level: Level = .standard, first: UInt32? = 4_000
    ) throws -> OwnedBytes {
        let plan = EncodingPlan(
            level: level, layout: layout, firstPosition: first, profile: profile)
        let (container, mode) = try encoded(payload.bytes, plan, workspace)
        #expect(mode == .predictive)
        return container
    }

    func values(_ layer: Int, _ kind: KVKind, in bytes: OwnedBytes) -> [Float] {
        CodecTests.values(layer: layer, kind, of: layout, tokenCount, in: bytes.bytes)
    }
}

@Suite struct `Mode predictive` {
    private let workspace = CodecWorkspace(valueCountMax: 1 << 12)

    @Test(arguments: engineLayouts.indices, ["float16", "bfloat16", "float32"])
    func `keeps every value within what its coefficients allow`(engine: Int, type: String) throws {
        for (group, lookback) in [(2, 1), (3, 2)] {
            let sample = try PredictiveSample(
                engine: engine, type: type, group: group, lookback: lookback)
            for (first, level) in [(UInt32(0), Level.standard), (4_000, .coarse)] {
                let container = try sample.container(workspace, level, first: first)
                let reader = try ContainerReader(container.bytes)
                #expect(reader.header.groupLayerCount == group)
                for kind in sample.layout.kinds {
                    for layer in 0..<3 {
                        let index = reader.index(layer: layer, kind)
                        #expect(reader[index].method == .predicted, "\(layer) \(kind)")
                    }
                }
                let back = try decoded(container, workspace, sample.profile)
                check(sample, back, level, exactRowCount: first == 0 ? 4 : 0)
            }
        }
    }

    /// Steps are those of `ProfileSample`; values that turn have the error of their pair.
    private func check(
        _ sample: PredictiveSample, _ back: OwnedBytes, _ level: Level, exactRowCount: Int,
        factor: Float = 1
    ) {
        let unit: Float =
            switch sample.layout.type {
            case .float16: 0x1p-11
            case .bfloat16: 0x1p-8
            default: 0x1p-18
            }
        var worst: Float = 0
        for kind in sample.layout.kinds {
            let count = sample.layout.columnCount(kind)
            for layer in 0..<sample.layout.layerCount {
                let before = sample.values(layer, kind, in: sample.payload)
                let after = sample.values(layer, kind, in: back)
                for index in before.indices {
                    let error = abs(before[index] - after[index])
                    if index / count < exactRowCount {
                        #expect(error == 0)
                        continue
                    }
                    // The largest step, for both of a pair.
                    var bound = ProfileSample.step * 3 * (level == .coarse ? 2 : 1) * factor
                    bound *= ProfileSample.predictiveErrorMax * (kind == .keys ? 1.4143 : 1)
                    let rounding = (abs(before[index]) + bound) * unit + 0x1p-16
                    #expect(error <= bound + rounding, "layer \(layer) \(kind), value \(index)")
                    worst = max(worst, error / bound)
                }
            }
        }
        // Coefficients are rounded: a decoder that gave the values themselves would pass otherwise.
        #expect(worst > 0.2)
    }

    @Test(arguments: [Set<KVKind>([.values]), [.keys, .values]])
    func `follows the size of rows with codes`(rowCodes: Set<KVKind>) throws {
        let sample = try PredictiveSample(rowCodes: rowCodes) { values, kind, _ in
            for index in values.indices where index / 16 % 3 == 0 { values[index] *= 0.4 }
        }
        let container = try sample.container(workspace)
        let back = try decoded(container, workspace, sample.profile)
        check(sample, back, .standard, exactRowCount: 0, factor: RowCodes.factorBound)
        let plain = try PredictiveSample { values, _, _ in
            for index in values.indices where index / 16 % 3 == 0 { values[index] *= 0.4 }
        }
        let other = try decoded(try plain.container(workspace), workspace, plain.profile)
        /// The mean square error of small and of large rows of V.
        func errors(_ bytes: OwnedBytes) -> (small: Float, large: Float) {
            var sums = (small: Float(0), large: Float(0))
            for layer in 0..<3 {
                let before = sample.values(layer, .values, in: sample.payload)
                let after = sample.values(layer, .values, in: bytes)
                for index in before.indices {
                    let square = (before[index] - after[index]) * (before[index] - after[index])
                    if index / 16 % 3 == 0 { sums.small += square } else { sums.large += square }
                }
            }
            return (sums.small, sums.large / 2)
        }
        let (coded, uncoded) = (errors(back), errors(other))
        #expect(coded.small / coded.large < uncoded.small / uncoded.large)
    }

    @Test func `is smaller where layers are alike and the profile knows it`() throws {
        // Every layer is the first one: V of it is predicted by V before it, column by column.
        var first: [KVKind: [Float]] = [:]
        let alike = try PredictiveSample(layers: 6, group: 6, lookback: 1) { values, kind, layer in
            if layer == 0 { first[kind] = values } else { values = first[kind] ?? values }
        }
        var changed = alike.sample
        for index in changed.entries.indices
        where changed.entries[index].item == 36 && changed.entries[index].kind == 1
            && changed.entries[index].layer > 0
        {
            changed.entries[index].content = changed.entries[index].content.map { _ in 1 }
        }
        for index in changed.entries.indices
        where changed.entries[index].item == 33 && changed.entries[index].kind == 1
            && changed.entries[index].layer > 0
        {
            let count = alike.layout.columnCount(.values)
            for place in 4 * count..<changed.entries[index].content.count {
                let (row, column) = (place - 4 * count).quotientAndRemainder(dividingBy: count)
                // K of its own layer, K and V of the one before: a step of theirs is one of ours.
                let isSame = row - 2 * count == column
                changed.entries[index].content[place] = isSame ? 100 : 0
            }
        }
        let profile = try changed.profile()
        let plan = EncodingPlan(
            level: .standard, layout: alike.layout, firstPosition: 4_000, profile: profile)
        let (container, _) = try encoded(alike.payload.bytes, plan, workspace)
        let reader = try ContainerReader(container.bytes)
        let sizes = (0..<6).map { reader[reader.index(layer: $0, .values)].byteCount - 272 }
        #expect(sizes[1...].allSatisfy { $0 * 2 < sizes[0] }, "\(sizes)")
        let back = try decoded(container, workspace, profile)
        check(alike, back, .standard, exactRowCount: 0)
    }

    @Test(arguments: [(1, 3), (2, 3), (2, 2), (1, 1)])
    func `is decoded by layers, each with those before it in its group`(
        lookback: Int, group: Int
    ) throws {
        let sample = try PredictiveSample(layers: 7, group: group, lookback: lookback)
        let container = try sample.container(workspace)
        let whole = try decoded(container, workspace, sample.profile)
        let reader = try ContainerReader(container.bytes)
        for layers in [0..<1, 2..<3, 1..<6, 5..<7, 3..<3] {
            let part = OwnedBytes(count: whole.bytes.count)
            try ChunkCodec.decode(
                reader, layers: layers, into: part.bytes, workspace, profile: sample.profile)
            for layer in 0..<7 {
                for kind in sample.layout.kinds {
                    let expected = sample.values(layer, kind, in: whole)
                    let found = sample.values(layer, kind, in: part)
                    let isThere = layers.contains(layer)
                    #expect(found == (isThere ? expected : expected.map { _ in 0 }), "\(layers)")
                }
            }
        }
        for (layer, kind) in [(6, KVKind.values), (4, .keys), (0, .keys), (0, .values)] {
            let expected = sample.values(layer, kind, in: whole)
            let wide = OwnedBytes(count: 4 * expected.count)
            try ChunkCodec.decode(
                reader, layer: layer, kind, as: .float32, into: wide.bytes, workspace,
                profile: sample.profile)
            let found = expected.indices.map {
                Float(bitPattern: wide.bytes.load(UInt32.self, at: 4 * $0))
            }
            #expect(found == expected)
        }
        withExtendedLifetime((container, whole)) {}
    }

    @Test(arguments: [0, 2, 4, 9])
    func `stores whole what is not finite, and refers to it`(engine: Int) throws {
        for odd in [Float.nan, .infinity, 3e38] {
            let sample = try PredictiveSample(engine: engine) { values, kind, layer in
                if kind == .keys && layer == 1 { values[values.count - 1] = odd }
                // The first of many that no table knows.
                if kind == .values && layer == 1 {
                    for index in values.indices { values[index] *= 1e4 }
                }
            }
            let container = try sample.container(workspace)
            let reader = try ContainerReader(container.bytes)
            #expect(reader[reader.index(layer: 1, .keys)].method != .predicted)
            #expect(reader[reader.index(layer: 1, .values)].method == .quantised)
            #expect(reader[reader.index(layer: 0, .keys)].method == .predicted)
            let back = try decoded(container, workspace, sample.profile)
            for kind in sample.layout.kinds {
                let before = sample.values(2, kind, in: sample.payload)
                let after = sample.values(2, kind, in: back)
                // Another method's section predicts wildly, and is made good.
                #expect(reader[reader.index(layer: 2, kind)].method == .predicted || odd == 3e38)
                for (one, other) in zip(before, after) { #expect(abs(one - other) < 1) }
            }
            let bits = { (bytes: OwnedBytes) in
                sample.values(1, .keys, in: bytes).map(\.bitPattern)
            }
            if !odd.isFinite { #expect(bits(back) == bits(sample.payload)) }
            withExtendedLifetime(container) {}
        }
    }

    @Test func `codes chunks of one token, and of constant channels`() throws {
        let short = try PredictiveSample(engine: 0, tokenCount: 1)
        let back = try decoded(
            try short.container(workspace), workspace, short.profile)
        for layer in 0..<3 {
            let before = short.values(layer, .values, in: short.payload)
            for (one, other) in zip(before, short.values(layer, .values, in: back)) {
                #expect(abs(one - other) < 1)
            }
        }
        let constant = try PredictiveSample(type: "float32") { values, kind, _ in
            if kind == .values { for index in values.indices { values[index] = 0.375 } }
        }
        let whole = try decoded(
            try constant.container(workspace), workspace, constant.profile)
        check(constant, whole, .standard, exactRowCount: 0)
    }

    @Test func `needs a position, what a writer needs and a type that it knows`() throws {
        let sample = try PredictiveSample(type: "float16")
        func mode(_ plan: EncodingPlan) throws -> ContainerMode {
            try encoded(sample.payload.bytes, plan, workspace).mode
        }
        let unplaced = EncodingPlan(
            level: .standard, layout: sample.layout, profile: sample.profile)
        #expect(try mode(unplaced) == .cachegen)
        let plain = ProfileSample(
            sample.layout, learntFrom: sample.payload.bytes, tokenCount: sample.tokenCount)
        let reading = try plain.predictive(group: 3, lookback: 2, isForEncoding: false).profile()
        let known = EncodingPlan(
            level: .standard, layout: sample.layout, firstPosition: 4_000, profile: reading)
        #expect(try mode(known) == .scalar)
        var partial = sample.sample
        partial.entries.removeAll { $0.item == 34 && $0.layer == 2 }
        let lacking = try partial.profile()
        let other = EncodingPlan(
            level: .standard, layout: sample.layout, firstPosition: 4_000, profile: lacking)
        #expect(try mode(other) == .scalar)
    }

    @Test func `is refused with another group, and by a profile that lacks it`() throws {
        let sample = try PredictiveSample()
        let container = try sample.container(workspace)
        #expect(throws: CodecFault.profileMissing) { try decoded(container, workspace, nil) }
        container.bytes.store(UInt8(2), at: 62)
        reseal(container)
        #expect(throws: CodecFault.profileUnsuitable) {
            try decoded(container, workspace, sample.profile)
        }
        var partial = sample.sample
        partial.entries.removeAll { $0.item == 36 && $0.layer == 0 }
        let lacking = try partial.profile()
        container.bytes.store(UInt8(3), at: 62)
        container.bytes.store(lacking.hash.words.0, at: 32)
        container.bytes.store(lacking.hash.words.1, at: 40)
        reseal(container)
        #expect(throws: CodecFault.profileUnsuitable) {
            try decoded(container, workspace, lacking)
        }
    }

    /// Makes the checksum of header and directory right again.
    private func reseal(_ container: OwnedBytes) {
        let end = 64 + 16 * Int(container.bytes.load(UInt16.self, at: 10))
        let head = container.bytes.slice(offset: 8, count: end - 8)
        container.bytes.store(head.withBytes(Checksum.short), at: 4)
    }

    /// Sections are damaged and their checksums made right again: nothing may crash or be read
    /// beyond a section, whatever comes out.
    @Test(arguments: 0..<100 as Range<UInt64>)
    func `survives any damage`(seed: UInt64) throws {
        let sample = try PredictiveSample(rowCodes: [.values])
        let container = try sample.container(workspace, first: seed % 2 == 0 ? 0 : 4_000)
        var numbers = SeededNumbers(seed: seed)
        let reader = try ContainerReader(container.bytes)
        let index = Int.random(
            in: reader.index(layer: 0, .keys)..<reader.sectionCount, using: &numbers)
        let entry = reader[index]
        for _ in 0..<Int.random(in: 1...4, using: &numbers) {
            // Half of the time in the fields and states, or at the end, where escapes are.
            let end = Bool.random(using: &numbers) ? min(300, entry.byteCount) : entry.byteCount
            let low = seed % 3 == 0 ? max(0, end - 40) : 0
            let place = entry.offset + Int.random(in: low..<end, using: &numbers)
            container.bytes.store(UInt8.random(in: 0...255, using: &numbers), at: place)
        }
        let section = container.bytes.slice(offset: entry.offset, count: entry.byteCount)
        container.bytes.store(section.withBytes(Checksum.short), at: 64 + 16 * index + 8)
        reseal(container)
        do {
            _ = try decoded(container, workspace, sample.profile)
        } catch let fault as CodecFault {
            #expect([.section, .workspaceTooSmall].contains(fault), "seed \(seed): \(fault)")
        }
    }

    @Test func `has a profile whose matrices make sense`() throws {
        let sample = try PredictiveSample().sample
        func fault(_ item: UInt8, _ edit: (inout [UInt8]) -> Void) -> CodecFault? {
            var changed = sample
            guard let index = changed.entries.lastIndex(where: { $0.item == item }) else {
                return nil
            }
            edit(&changed.entries[index].content)
            do {
                _ = try changed.profile()
                return nil
            } catch {
                return error as? CodecFault
            }
        }
        let infinity: [UInt8] = [0, 0, 0x80, 0x7f]
        #expect(fault(36) { $0[0] = 5 } == nil)
        #expect(fault(32) { $0.replaceSubrange(0..<4, with: infinity) } == .profileDamaged)
        #expect(fault(32) { $0.removeLast(4) } == .profileDamaged)
        #expect(fault(33) { $0.replaceSubrange(0..<4, with: infinity) } == .profileDamaged)
        #expect(fault(33) { $0.removeLast() } == .profileDamaged)
        #expect(fault(33) { $0.append(0) } == .profileDamaged)
        #expect(fault(34) { $0.replaceSubrange(0..<4, with: infinity) } == .profileDamaged)
        #expect(fault(34) { $0.removeLast(2) } == .profileDamaged)
        #expect(fault(35) { $0.removeLast(4) } == .profileDamaged)
        #expect(fault(36) { $0.removeLast() } == .profileDamaged)
    }
}
