// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVCore
import Kernels
import Testing

@testable import Codec

/// A made-up model: each column of each section has a mean and a spread of its own, before RoPE.
struct MadeUpModel {
    let layout: KVLayout
    /// Of a value's distance from its mean with that of the layer before in the same column.
    var correlation: Float = 0
    /// [layer][kind][column]
    let means: [[[Float]]]
    let spreads: [[[Float]]]

    init(_ layout: KVLayout, seed: UInt64 = 0x0de1) {
        var numbers = SeededNumbers(seed: seed)
        func columns(_ number: (inout SeededNumbers) -> Float) -> [[[Float]]] {
            (0..<layout.layerCount).map { _ in
                layout.kinds.map { kind in
                    (0..<layout.columnCount(kind)).map { _ in number(&numbers) }
                }
            }
        }
        self.layout = layout
        means = columns { 2 * $0.normal() }
        spreads = columns { 0.05 + $0.normal().magnitude }
    }

    /// A chunk as an engine would store it, its first token at `first`.
    func chunk(tokenCount: Int, first: Int, seed: UInt64) -> OwnedBytes {
        var numbers = SeededNumbers(seed: seed)
        let memory = OwnedBytes(count: payloadByteCount(layout, tokenCount))
        let rotation = layout.rotation.map { Rotation($0, layerCount: layout.layerCount) }
        let fresh = (1 - correlation * correlation).squareRoot()
        // [kind][token and column], in spreads.
        var distances = layout.kinds.map { kind in
            (0..<tokenCount * layout.columnCount(kind)).map { _ in numbers.normal() }
        }
        for layer in 0..<layout.layerCount {
            for kind in layout.kinds {
                let means = means[layer][Int(kind.rawValue)]
                let spreads = spreads[layer][Int(kind.rawValue)]
                let count = tokenCount * means.count
                let values = Floats(count: count)
                for index in 0..<count {
                    let column = index % means.count
                    let place = Int(kind.rawValue)
                    distances[place][index] *= correlation
                    distances[place][index] += fresh * numbers.normal()
                    values[index] = means[column] + spreads[column] * distances[place][index]
                }
                if kind == .keys, let rotation {
                    var angles = RotationAngles(angleCountMax: count)
                    angles.prepare(
                        rotation.turns[0], origin: UInt64(first), rowCount: tokenCount)
                    let shape = SectionShape(
                        kind, layer: layer, of: layout, tokenCount: tokenCount, exactRowCount: 0)
                    angles.turn(values, rows: 0..<tokenCount, shape, rotation, .forward)
                }
                store(
                    (0..<count).map { values[$0] }, layer: layer, kind, of: layout,
                    tokenCount, into: memory.bytes)
            }
        }
        return memory
    }

    /// A sample of chunks that follow each other in one sequence.
    func sample(
        tokenCount: Int, chunks: Int, turnsKeysBack: Bool = true, byteCountMax: Int = 1 << 26
    ) throws -> LearningSample {
        let sample = try LearningSample(
            layout, turnsKeysBack: turnsKeysBack, byteCountMax: byteCountMax)
        for index in 0..<chunks {
            let first = index * tokenCount
            let chunk = chunk(tokenCount: tokenCount, first: first, seed: UInt64(index))
            try sample.add(chunk.bytes, firstPosition: UInt32(first))
            withExtendedLifetime(chunk) {}
        }
        return sample
    }
}

extension LearningOptions {
    /// For samples of a test's size.
    static var small: LearningOptions {
        var options = LearningOptions()
        options.tokenCountMin = 500
        options.predictiveSteps = nil
        return options
    }

    static var smallPredictive: LearningOptions {
        var options = small
        options.predictiveSteps = LearningOptions().predictiveSteps
        return options
    }
}

extension LearningSample {
    func profile(_ options: LearningOptions = .small) throws -> Profile {
        let bytes = try ProfileLearner(self, options).learn()
        defer { withExtendedLifetime(bytes) {} }
        return try Profile(bytes.bytes, for: layout)
    }
}

private func turningLayout(
    _ axes: String = "layer,kv,token,head,channel", layers: Int = 3,
    more: [String: LayoutDescription.Value] = [:]
) throws -> KVLayout {
    try layout(
        axes, type: "float32",
        ["rope_theta": .real(10_000), "layers": .whole(layers)].merging(more) { $1 })
}

@Suite struct `Learning profiles` {
    private let workspace = CodecWorkspace(valueCountMax: 1 << 15)

    @Test(arguments: ["half", "interleaved"])
    func `finds means and steps of K before RoPE`(pairing: String) throws {
        let model = MadeUpModel(try turningLayout(more: ["rope_pairing": .text(pairing)]))
        let sample = try model.sample(tokenCount: 300, chunks: 3)
        let bytes = try ProfileLearner(sample, .small).learn()
        let profile = try Profile(bytes.bytes, for: model.layout)
        let items = try ProfileItems(bytes.bytes)
        #expect(profile.levels.map(\.level) == [.fine, .standard, .coarse, .coarsest])
        #expect(profile.levels.allSatisfy { $0.isBeforeRotation && $0.mode == .scalar })
        var (logarithms, keySteps) = ([Float](), Set<Float>())
        for layer in 0..<3 {
            for kind in KVKind.allCases {
                let means = try #require(
                    try items.content(.means, layer: layer, kind, count: 64))
                let steps = try #require(
                    try items.content(.steps, layer: layer, kind, count: 64))
                for column in 0..<16 {
                    let found = Float(bitPattern: means.load(UInt32.self, at: 4 * column))
                    let step = Float(bitPattern: steps.load(UInt32.self, at: 4 * column))
                    let mean = model.means[layer][Int(kind.rawValue)][column]
                    let spread = model.spreads[layer][Int(kind.rawValue)][column]
                    // Five deviations of a mean of 896 numbers.
                    #expect(abs(found - mean) < spread / 6)
                    logarithms.append(log(spread / step))
                    if kind == .keys { keySteps.insert(step) }
                }
            }
        }
        // One deviation at a level step of 1, in the geometric mean.
        let mean = logarithms.reduce(0, +) / Float(logarithms.count)
        #expect(abs(mean) < 0.02)
        #expect(keySteps.count == 3)
        withExtendedLifetime(bytes) {}
    }

    @Test(arguments: engineLayouts.indices)
    func `reads every engine's layout alike`(engine: Int) throws {
        let own = engineLayouts[engine]
        let layout = try layout(
            own.axes, type: "bfloat16", own.more.merging(["rope_theta": .real(500)]) { $1 })
        let model = MadeUpModel(layout)
        let profile = try model.sample(tokenCount: 264, chunks: 2).profile()
        let held = model.chunk(tokenCount: 48, first: 1_000, seed: 77)
        let plan = EncodingPlan(
            level: .standard, layout: layout, firstPosition: 1_000, profile: profile)
        let (container, mode) = try encoded(held.bytes, plan, workspace)
        #expect(mode == .scalar)
        let reader = try ContainerReader(container.bytes)
        #expect(reader.header.profile == profile.hash)
        _ = try decoded(container, workspace, profile)
        withExtendedLifetime((held, container)) {}
    }

    @Test func `makes new chunks smaller than mode cachegen, at the same error`() throws {
        let layout = try turningLayout(
            "layer,token,head,channel", more: ["head_dim": .whole(16), "value_dim": .whole(16)])
        let model = MadeUpModel(layout)
        let profile = try model.sample(tokenCount: 512, chunks: 2).profile()
        let held = model.chunk(tokenCount: 512, first: 2_048, seed: 99)
        var plan = EncodingPlan(
            level: .standard, layout: layout, firstPosition: 2_048, profile: profile)
        let scalar = try trial(held, plan)
        #expect(scalar.mode == .scalar)
        // Steps of one size, as the profile has them; scaled until the error is the same.
        plan.profile = nil
        func cachegen(_ step: Float) throws -> Trial {
            plan.quantisation = QuantisationRule(
                keyStep: step, valueStep: step, layerFactors: [1, 1, 1], keySlope: 0)
            return try trial(held, plan)
        }
        let first = try cachegen(0.4)
        let same = try cachegen(0.4 * Float(scalar.error / first.error))
        #expect(same.mode == .cachegen)
        #expect(abs(same.error / scalar.error - 1) < 0.02)
        #expect(Double(scalar.byteCount) < 0.96 * Double(same.byteCount))
        withExtendedLifetime(held) {}
    }

    private typealias Trial = (mode: ContainerMode, byteCount: Int, error: Double)

    private func trial(_ chunk: OwnedBytes, _ plan: EncodingPlan) throws -> Trial {
        let (container, mode) = try encoded(chunk.bytes, plan, workspace)
        let back = try decoded(container, workspace, plan.profile)
        let layout = try #require(plan.layout)
        let tokenCount = try #require(layout.tokenCount(payloadByteCount: chunk.bytes.count))
        var square = 0.0
        for layer in 0..<layout.layerCount {
            for kind in layout.kinds {
                let exact = values(layer: layer, kind, of: layout, tokenCount, in: chunk.bytes)
                let near = values(layer: layer, kind, of: layout, tokenCount, in: back.bytes)
                square += zip(exact, near).reduce(0) { $0 + Double(($1.0 - $1.1) * ($1.0 - $1.1)) }
            }
        }
        withExtendedLifetime(back) {}
        return (mode, container.bytes.count, square.squareRoot())
    }

    @Test func `embeds coarser levels at hardly any cost`() throws {
        let layout = try turningLayout(
            "layer,token,head,channel", more: ["head_dim": .whole(32), "value_dim": .whole(32)])
        let model = MadeUpModel(layout)
        let sample = try model.sample(tokenCount: 512, chunks: 2)
        var options = LearningOptions.small
        let plain = try sample.profile(options)
        options.isEmbedded = true
        let embedded = try sample.profile(options)
        let held = model.chunk(tokenCount: 512, first: 2_048, seed: 99)
        func encode(_ profile: Profile) throws -> OwnedBytes {
            let plan = EncodingPlan(
                level: .fine, layout: layout, firstPosition: 2_048, profile: profile)
            let (container, mode) = try encoded(held.bytes, plan, workspace)
            #expect(mode == .scalar)
            return container
        }
        let (one, three) = (try encode(plain), try encode(embedded))
        let reader = try ContainerReader(three.bytes)
        #expect(reader.refinementCount == 2)
        #expect(same(try decoded(one, workspace, plain), try decoded(three, workspace, embedded)))
        // Two more streams a section have 64 states each.
        let stateByteCount = 2 * 272 * layout.layerCount
        let cost = Double(three.bytes.count - stateByteCount) / Double(one.bytes.count)
        #expect(cost < 1.01, "\(cost)")
        let target = OwnedBytes(count: three.bytes.count)
        let sizes = try (0...1).map {
            try reader.coarser(refinementCount: $0, into: target.bytes)
        }
        #expect(sizes[0] < sizes[1] && sizes[1] < three.bytes.count)
        withExtendedLifetime((held, one, three, target)) {}
    }

    @Test func `makes chunks smaller without loss`() throws {
        let model = MadeUpModel(try layout("layer,kv,token,head,channel"))
        let profile = try model.sample(tokenCount: 512, chunks: 2).profile()
        let held = model.chunk(tokenCount: 512, first: 0, seed: 5)
        var plan = EncodingPlan(level: .lossless, layout: model.layout, profile: profile)
        let learnt = try encoded(held.bytes, plan, workspace)
        #expect(same(try decoded(learnt.container, workspace, profile), held))
        plan.profile = nil
        let alone = try encoded(held.bytes, plan, workspace)
        #expect(learnt.container.bytes.count < alone.container.bytes.count)
        withExtendedLifetime(held) {}
    }

    @Test(arguments: [(15, 1, 0.85), (15, 2, 0.85), (2, 2, 0.95)])
    func `predicts what layers have in common`(
        group: Int, lookback: Int, shareMax: Double
    ) throws {
        var model = MadeUpModel(
            try layout(
                "layer,kv,token,head,channel", type: "float32",
                ["rope_theta": .real(10_000), "value_dim": .whole(12)]))
        model.correlation = 0.95
        var options = LearningOptions.smallPredictive
        options.group = group
        options.lookback = lookback
        // Columns differ so much here that a step is more than with real keys and values.
        options.predictiveSteps = [0.1, 0.28, 0.5, 1]
        let sample = try model.sample(tokenCount: 400, chunks: 2)
        let held = model.chunk(tokenCount: 400, first: 2_048, seed: 99)
        var plan = EncodingPlan(
            level: .standard, layout: model.layout, firstPosition: 2_048,
            profile: try sample.profile(options))
        let predictive = try trial(held, plan)
        plan.profile = try sample.profile()
        let scalar = try trial(held, plan)
        #expect(predictive.mode == .predictive && scalar.mode == .scalar)
        #expect(predictive.error < scalar.error)
        #expect(Double(predictive.byteCount) < shareMax * Double(scalar.byteCount))
        withExtendedLifetime(held) {}
    }

    @Test func `asks for tokens and room that predictors need`() throws {
        let sample = try MadeUpModel(try turningLayout()).sample(tokenCount: 94, chunks: 1)
        var options = LearningOptions.smallPredictive
        options.tokenCountMin = 10
        options.lookback = 1
        // Own K, K and V of the layer before: two tokens for each column.
        #expect(throws: LearningFault.tooFewTokens(found: 90, needed: 96)) {
            try ProfileLearner(sample, options).learn()
        }
        let large = try layout(
            "layer,kv,token,head,channel",
            ["layers": .whole(32), "kv_heads": .whole(8), "head_dim": .whole(128)])
        let chunk = OwnedBytes(count: 6 * 32 * 2_048 * 2)
        let few = try LearningSample(large, turnsKeysBack: true, byteCountMax: 1 << 22)
        try few.add(chunk.bytes, firstPosition: 0)
        options.tokenCountMin = 2
        let references = 2 * 1_024 + 29 * 2 * 2_048 + 30 * 1_024
        let byteCount = 1_024 * (64 * 13 + references + 64 * 6 * 1_024)
        #expect(throws: LearningFault.profileTooLarge(byteCount: byteCount)) {
            try ProfileLearner(few, options).learn()
        }
        withExtendedLifetime(chunk) {}
    }

    @Test func `gives the same bytes for the same tokens`() throws {
        let model = MadeUpModel(try turningLayout(layers: 2))
        let profiles = try (0..<2).map { _ in
            let sample = try model.sample(tokenCount: 300, chunks: 2)
            return array(try ProfileLearner(sample, .smallPredictive).learn())
        }
        #expect(profiles[0] == profiles[1])
    }

    @Test func `learns K as it is stored where nobody knows positions`() throws {
        let model = MadeUpModel(try turningLayout())
        let sample = try LearningSample(model.layout, turnsKeysBack: false, byteCountMax: 1 << 26)
        let chunk = model.chunk(tokenCount: 600, first: 64, seed: 1)
        try sample.add(chunk.bytes, firstPosition: nil)
        #expect(sample.tokenCount == 596)
        let profile = try sample.profile()
        #expect(profile.levels.allSatisfy { !$0.isBeforeRotation })
        let plan = EncodingPlan(level: .standard, layout: model.layout, profile: profile)
        #expect(try encoded(chunk.bytes, plan, workspace).mode == .scalar)
        withExtendedLifetime(chunk) {}
    }
}

@Suite struct `Samples of tokens` {
    @Test func `stay within their bound, and keep tokens at even distances`() throws {
        let model = MadeUpModel(try turningLayout(layers: 1))
        let tokenByteCount = 128
        let sample = try model.sample(
            tokenCount: 100, chunks: 5, byteCountMax: 150 * tokenByteCount)
        #expect(sample.tokenByteCount == tokenByteCount)
        #expect(sample.seenTokenCount == 496 && sample.stride == 4)
        #expect(sample.tokenCount == 124)
        #expect(sample.rows.map(\.position) == (0..<124).map { 4 + 4 * $0 })
    }

    @Test func `leave out what no lossy mode takes`() throws {
        let layout = try layout("layer,kv,token,head,channel", type: "float32")
        let chunk = payload(of: layout, tokenCount: 20, seed: 4) { values, kind, layer in
            if kind == .values, layer == 1 {
                values[10 * 16 + 3] = .nan
                values[12 * 16] = 0x1p90
            }
        }
        let sample = try LearningSample(layout, turnsKeysBack: true, byteCountMax: 1 << 20)
        try sample.add(chunk.bytes, firstPosition: 2)
        #expect(sample.unusableTokenCount == 2 && sample.tokenCount == 16)
        withExtendedLifetime(chunk) {}
    }

    @Test func `say what is wrong`() throws {
        let layout = try turningLayout()
        #expect(throws: LearningFault.tooLittleMemory(needed: 768)) {
            try LearningSample(layout, turnsKeysBack: true, byteCountMax: 767)
        }
        let sample = try LearningSample(layout, turnsKeysBack: true, byteCountMax: 1 << 20)
        let chunk = OwnedBytes(count: payloadByteCount(layout, 10))
        #expect(throws: LearningFault.payloadDoesNotFit) {
            try sample.add(chunk.bytes.dropFirst(1), firstPosition: 0)
        }
        #expect(throws: LearningFault.positionMissing) {
            try sample.add(chunk.bytes, firstPosition: nil)
        }
        try sample.add(chunk.bytes, firstPosition: 4)
        #expect(throws: LearningFault.tooFewTokens(found: 10, needed: 4_096)) {
            try ProfileLearner(sample, LearningOptions()).learn()
        }
        // Ten tokens of zeros.
        var options = LearningOptions.small
        options.tokenCountMin = 10
        #expect(throws: LearningFault.notLearnable(layer: 0, .keys)) {
            try ProfileLearner(sample, options).learn()
        }
        let narrow = try self.narrowLayout()
        #expect(throws: LearningFault.typeTooNarrow) {
            try LearningSample(narrow, turnsKeysBack: true, byteCountMax: 1 << 20)
        }
        withExtendedLifetime(chunk) {}
    }

    private func narrowLayout() throws -> KVLayout {
        try layout("layer,kv,token,head,channel", type: "float8_e4m3")
    }
}
