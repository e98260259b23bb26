// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVCore
import Kernels
import Testing

@testable import Codec

/// Finishes the symbols of containers in plain arithmetic from a profile's items, as something
/// without the codec's kernels would (docs/container-format.md, sections 9 and 10).
private struct Finisher {
    let sample: ProfileSample
    let reader: ContainerReader
    let profile: Profile
    let workspace: CodecWorkspace
    private var references: [String: [[Int8]]] = [:]

    init(
        _ sample: ProfileSample, _ reader: ContainerReader, _ profile: Profile,
        _ workspace: CodecWorkspace
    ) {
        (self.sample, self.reader) = (sample, reader)
        (self.profile, self.workspace) = (profile, workspace)
    }

    private var layout: KVLayout { sample.layout }

    private func content(_ item: UInt8, _ layer: Int, _ kind: KVKind) -> [UInt8] {
        sample.entries.first { ($0.item, $0.layer, $0.kind) == (item, layer, kind.rawValue) }?
            .content ?? []
    }

    private func floats(_ bytes: [UInt8], _ count: Int) -> [Float] {
        (0..<count).map { index in
            Float(
                bitPattern: bytes[4 * index..<4 * index + 4].reversed().reduce(0) {
                    $0 << 8 | UInt32($1)
                })
        }
    }

    /// The bits of a section, row by row.
    mutating func section(_ layer: Int, _ kind: KVKind) throws -> [UInt32] {
        let count = layout.columnCount(kind)
        let symbols = OwnedBytes(count: reader.header.tokenCount * count)
        let coefficients = try #require(
            try ChunkCodec.coefficients(
                reader, layer: layer, kind, into: symbols.bytes, workspace, profile: profile))
        let mode: ContainerMode = coefficients.method == .scalar ? .scalar : .predictive
        let level = try #require(
            profile.levels.first { $0.level == reader.header.level && $0.mode == mode })
        var numbers = (0..<coefficients.rowCount * count).map {
            Int(symbols.bytes.load(Int8.self, at: $0))
        }
        for at in stride(from: 0, to: coefficients.escapes.count, by: 8) {
            let place = Int(coefficients.escapes.load(UInt32.self, at: at))
            #expect(numbers[place] == -128)
            numbers[place] = Int(coefficients.escapes.load(Int32.self, at: at + 4))
        }
        var rows: [[Float]] = []
        for row in 0..<coefficients.rowCount {
            let own = Array(numbers[row * count..<(row + 1) * count])
            let code =
                coefficients.rowCodes.count == 0
                ? nil : Int(coefficients.rowCodes[row / 2] >> UInt8(4 * (row % 2))) & 15
            let factor = code.map { Float(exp2(Double($0 - 8) / 4)) } ?? 1
            rows.append(values(own, row, layer, kind, level, factor: factor))
        }
        let width = layout.type.byteCount
        var bits = (0..<coefficients.exactRows.count / width).map {
            coefficients.exactRows.bits(width, at: width * $0)
        }
        for (row, values) in rows.enumerated() {
            let position = UInt64(reader.header.exactRowCount + row) + reader.header.origin
            let turned = kind == .keys ? turn(values, position: position) : values
            bits += turned.map { layout.type.narrowed($0) }
        }
        withExtendedLifetime(symbols) {}
        return bits
    }

    /// A row before RoPE. In mode predictive its references are kept for later sections.
    private mutating func values(
        _ symbols: [Int], _ row: Int, _ layer: Int, _ kind: KVKind, _ level: ProfileLevel,
        factor: Float
    ) -> [Float] {
        let count = symbols.count
        let means = floats(content(17, layer, kind), count)
        guard level.mode == .predictive else {
            let steps = floats(content(18, layer, kind), count)
            return symbols.indices.map { column in
                let step = steps[column] * level.step * factor
                let difference = Float(symbols[column]) * step
                return means[column] + difference
            }
        }
        let sources = level.references(layer: layer, kind, of: layout.kinds)
        let others = sources.flatMap { references["\($0.layer) \($0.kind)"]?[row] ?? [] }
        let (prediction, synthesis) = (content(33, layer, kind), content(34, layer, kind))
        let reference = KernelReference.Predicted(
            means: means, referenceSteps: floats(content(32, layer, kind), count),
            predictionScales: floats(prediction, count),
            prediction: others.indices.map { index in
                (0..<count).map { Int8(bitPattern: prediction[(4 + index) * count + $0]) }
            },
            synthesisScales: floats(synthesis, count),
            synthesis: (0..<count).map { index in
                (0..<count).map { column in
                    let at = 4 * count + 2 * (index * count + column)
                    return Int16(bitPattern: UInt16(synthesis[at]) | UInt16(synthesis[at + 1]) << 8)
                }
            })
        let values = reference.values(
            reference.predict(others), symbols, step: level.step, factor: factor)
        references["\(layer) \(kind)", default: []].append(reference.refer(values))
        return values
    }

    private func turn(_ values: [Float], position: UInt64) -> [Float] {
        guard let rotation = profile.rotation else { return values }
        var values = values
        let (step, distance) = rotation.isInterleaved ? (2, 1) : (1, rotation.pairCount)
        for head in 0..<layout.headCount {
            for pair in 0..<rotation.pairCount {
                let angle = Double((rotation.turns[0][pair] &* position) >> 11) * 0x1p-53 * 2 * .pi
                let (cosine, sine) = (Float(cos(angle)), Float(sin(angle)))
                let place = head * layout.keyChannelCount + rotation.firstChannel + step * pair
                let (x, y) = (values[place], values[place + distance])
                let (xc, ys, yc, xs) = (x * cosine, y * sine, y * cosine, x * sine)
                values[place] = xc - ys
                values[place + distance] = yc + xs
            }
        }
        return values
    }
}

@Suite struct `Coefficients of a container` {
    private let workspace = CodecWorkspace(valueCountMax: 1 << 12)

    /// Engines with pairs of either kind, in blocks, without V.
    @Test(arguments: [0, 5, 8], [ContainerMode.scalar, .predictive])
    func `are finished elsewhere to the same bytes`(engine: Int, mode: ContainerMode) throws {
        let own = engineLayouts[engine]
        let layout = try layout(
            own.axes, type: "float16",
            own.more.merging(["rope_theta": .real(10_000)]) { own, _ in own })
        let payload = payload(of: layout, tokenCount: 48, seed: 3) { values, _, layer in
            // No table knows that.
            if layer > 0 { values[values.count - 3] += 400 }
        }
        var sample = ProfileSample(
            layout, learntFrom: payload.bytes, tokenCount: 48, rowCodes: [.values])
        if mode == .predictive {
            sample = sample.predictive(group: 2, lookback: 1, rowCodes: [.values])
        }
        let profile = try sample.profile()
        let plan = EncodingPlan(
            level: .standard, layout: layout, firstPosition: 2, profile: profile)
        let (container, found) = try encoded(payload.bytes, plan, workspace)
        #expect(found == mode)
        let reader = try ContainerReader(container.bytes)
        var finisher = Finisher(sample, reader, profile, workspace)
        var escapeCount = 0
        for layer in 0..<layout.layerCount {
            for kind in layout.kinds {
                let count = 48 * layout.columnCount(kind)
                let width = layout.type.byteCount
                let target = OwnedBytes(count: width * count)
                try ChunkCodec.decode(
                    reader, layer: layer, kind, as: layout.type, into: target.bytes, workspace,
                    profile: profile)
                let expected = (0..<count).map { target.bytes.bits(width, at: width * $0) }
                #expect(try finisher.section(layer, kind) == expected, "\(layer) \(kind)")
                let symbols = OwnedBytes(count: count)
                let coefficients = try ChunkCodec.coefficients(
                    reader, layer: layer, kind, into: symbols.bytes, workspace, profile: profile)
                escapeCount += coefficients?.escapes.count ?? 0
                withExtendedLifetime((target, symbols)) {}
            }
        }
        #expect(escapeCount > 0)
        withExtendedLifetime((payload, container)) {}
    }

    @Test func `are none of other methods, and need the profile`() throws {
        let layout = try layout("kv,layer,token,head,channel", type: "float16")
        let payload = payload(of: layout, tokenCount: 48, seed: 3) { values, kind, layer in
            if layer == 1, kind == .values { values[values.count - 1] = .nan }
        }
        let profile = try ProfileSample(
            layout, learntFrom: payload.bytes, tokenCount: 48
        ).predictive(group: 3, lookback: 2).profile()
        let plan = EncodingPlan(
            level: .standard, layout: layout, firstPosition: 0, profile: profile)
        let (container, _) = try encoded(payload.bytes, plan, workspace)
        let reader = try ContainerReader(container.bytes)
        let symbols = OwnedBytes(count: 48 * 16)
        func found(_ layer: Int, _ kind: KVKind, _ profile: Profile?) throws -> Coefficients? {
            try ChunkCodec.coefficients(
                reader, layer: layer, kind, into: symbols.bytes, workspace, profile: profile)
        }
        #expect(try found(1, .values, profile) == nil)
        let coefficients = try #require(try found(2, .values, profile))
        #expect(coefficients.method == .predicted && coefficients.rowCount == 44)
        #expect(coefficients.exactRows.count == 4 * 16 * 2)
        #expect(coefficients.rowCodes.count == 0)
        #expect(throws: CodecFault.profileMissing) { try found(2, .values, nil) }
        #expect(throws: CodecFault.targetTooSmall) {
            try ChunkCodec.coefficients(
                reader, layer: 2, .keys, into: symbols.bytes.prefix(44 * 16 - 1), workspace,
                profile: profile)
        }
        withExtendedLifetime((payload, container, symbols)) {}
    }
}
