// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVCore
import Kernels
import Testing

@testable import Codec

@Suite struct `An embedded container` {
    private let workspace = CodecWorkspace(valueCountMax: 1 << 13)
    private let tokenCount = 64

    private struct Sample {
        let layout: KVLayout
        let payload: OwnedBytes
        let container: OwnedBytes
        let profile: Profile
    }

    private func sample(
        _ engine: Int = 0, type: String = "float32", rowCodes: Set<KVKind> = [.values],
        isEmbedded: Bool = true, level: Level = .standard, first: UInt32 = 900,
        edit: (inout [Float], KVKind, Int) -> Void = { _, _, _ in }
    ) throws -> Sample {
        let engine = engineLayouts[engine]
        let layout = try layout(
            engine.axes, type: type,
            engine.more.merging([
                "rope_theta": .real(10_000), "head_dim": .whole(24), "value_dim": .whole(24),
            ]) { own, new in engine.name == "MLA" ? own : new })
        let learnt = payload(of: layout, tokenCount: tokenCount, seed: 3)
        let profile = try ProfileSample(
            layout, learntFrom: learnt.bytes, tokenCount: tokenCount, rowCodes: rowCodes,
            isEmbedded: isEmbedded
        ).profile()
        let payload = payload(of: layout, tokenCount: tokenCount, seed: 3, edit: edit)
        let plan = EncodingPlan(
            level: level, layout: layout, firstPosition: first, profile: profile)
        let (container, mode) = try encoded(payload.bytes, plan, workspace)
        #expect(mode == .scalar)
        return Sample(layout: layout, payload: payload, container: container, profile: profile)
    }

    private func decoded(
        _ sample: Sample, _ container: OwnedBytes? = nil, refinementCountMax: Int = 2
    ) throws -> OwnedBytes {
        let reader = try ContainerReader((container ?? sample.container).bytes)
        let payload = OwnedBytes(count: reader.header.payloadByteCount)
        try ChunkCodec.decode(
            reader, into: payload.bytes, workspace, profile: sample.profile,
            refinementCountMax: refinementCountMax)
        withExtendedLifetime((sample.container, container)) {}
        return payload
    }

    private func cut(_ sample: Sample, _ count: Int) throws -> OwnedBytes {
        let target = OwnedBytes(count: sample.container.bytes.count)
        let byteCount = try ContainerReader(sample.container.bytes)
            .coarser(refinementCount: count, into: target.bytes)
        let container = OwnedBytes(count: byteCount)
        container.bytes.copy(from: target.bytes.prefix(byteCount))
        withExtendedLifetime((target, sample.container)) {}
        return container
    }

    /// The largest error over half a step of the level, of all values that are not exact.
    private func worst(_ sample: Sample, _ back: OwnedBytes) -> Float {
        var worst: Float = 0
        for kind in sample.layout.kinds {
            let count = sample.layout.columnCount(kind)
            for layer in 0..<sample.layout.layerCount {
                let before = values(
                    layer: layer, kind, of: sample.layout, tokenCount, in: sample.payload.bytes)
                let after = values(
                    layer: layer, kind, of: sample.layout, tokenCount, in: back.bytes)
                for index in before.indices {
                    // Those that turn have the error of their pair.
                    let step =
                        ProfileSample.step
                        * (kind == .keys ? 3 * 1.4143 : 1 + Float(index % count % 3))
                    let rounding = 0x1p-18 + abs(before[index]) * 0x1p-20
                    let error = abs(before[index] - after[index]) - rounding
                    worst = max(worst, error / (step / 2))
                }
            }
        }
        withExtendedLifetime((sample.payload, back)) {}
        return worst
    }

    @Test(arguments: [0, 1, 4, 5, 8])
    func `has three, nine times the error without its refinements`(engine: Int) throws {
        let sample = try sample(engine, rowCodes: [])
        let reader = try ContainerReader(sample.container.bytes)
        #expect(reader.header.isEmbedded && reader.refinementCount == 2)
        for (count, bound) in [(2, Float(1)), (1, 3), (0, 9)] {
            let found = worst(sample, try decoded(sample, refinementCountMax: count))
            #expect(found <= bound && found > 0.5 * bound, "\(count) refinements: \(found)")
        }
        withExtendedLifetime(sample.container) {}
    }

    @Test(arguments: engineLayouts.indices)
    func `is what a plain one of its step is`(engine: Int) throws {
        let codes: Set<KVKind> = [.keys, .values]
        let type = ["float16", "bfloat16", "float32"][engine % 3]
        let embedded = try sample(engine, type: type, rowCodes: codes)
        let plain = try sample(engine, type: type, rowCodes: codes, isEmbedded: false)
        let back = try decoded(embedded)
        let expected = try CodecTests.decoded(plain.container, workspace, plain.profile)
        #expect(same(back, expected))
    }

    @Test(arguments: 0...2)
    func `is cut without being decoded`(count: Int) throws {
        let sample = try sample(1, type: "bfloat16", first: 0)
        let cut = try cut(sample, count)
        #expect((cut.bytes.count < sample.container.bytes.count) == (count < 2))
        let reader = try ContainerReader(cut.bytes)
        #expect(reader.refinementCount == count && reader.header.isEmbedded)
        let whole = try decoded(sample, refinementCountMax: count)
        #expect(same(try decoded(sample, cut), whole))
        // Cutting once more changes nothing of what stays.
        let target = OwnedBytes(count: cut.bytes.count)
        let again = try reader.coarser(refinementCount: count, into: target.bytes)
        #expect(again == cut.bytes.count && same(target, cut))
        let small = OwnedBytes(count: cut.bytes.count - 1)
        #expect(throws: CodecFault.targetTooSmall) {
            try reader.coarser(refinementCount: count, into: small.bytes)
        }
        withExtendedLifetime(cut) {}
    }

    @Test func `leaves sections without cells alone`() throws {
        let sample = try sample(2) { values, kind, layer in
            if layer == 1, kind == .values { values[7] = .infinity }
        }
        let reader = try ContainerReader(sample.container.bytes)
        #expect(reader[reader.index(layer: 1, .values)].method != .scalar)
        #expect(reader.refinementCount == 2)
        #expect(reader.sectionCount == 2 + 6 + 2 * 5)
        let back = try decoded(sample)
        let bits = { (memory: OwnedBytes) in
            values(layer: 1, .values, of: sample.layout, tokenCount, in: memory.bytes)
                .map(\.bitPattern)
        }
        #expect(bits(back) == bits(sample.payload))
        for count in 0...1 {
            let cut = try cut(sample, count)
            #expect(
                same(
                    try decoded(sample, cut), try decoded(sample, refinementCountMax: count)))
        }
        withExtendedLifetime(sample.container) {}
    }

    @Test func `keeps what is far from its mean at every refinement`() throws {
        let sample = try sample(0, rowCodes: []) { values, kind, _ in
            if kind == .values { values[5] = 3_000 }
        }
        for count in 0...2 {
            let back = try decoded(sample, refinementCountMax: count)
            let found = values(layer: 0, .values, of: sample.layout, tokenCount, in: back.bytes)
            #expect(abs(found[5] - 3_000) <= 1.5 * ProfileSample.step)
        }
    }

    @Test func `costs little more than a plain one`() throws {
        // The tables were not learnt from these values: this is no measurement.
        let embedded = try sample(0, type: "bfloat16").container.bytes.count
        let plain = try sample(0, type: "bfloat16", isEmbedded: false).container.bytes.count
        #expect(embedded < plain * 13 / 10)
    }

    @Test func `knows which refinements a coarser level needs`() throws {
        let profile = try sample().profile
        // Steps of 1 and 2; cut ones are 3 and 9, or 6 and 18.
        #expect(profile.refinementCount(of: .standard, for: .standard) == 2)
        #expect(profile.refinementCount(of: .standard, for: .coarse) == 2)
        #expect(profile.refinementCount(of: .coarse, for: .standard) == nil)
        #expect(profile.refinementCount(of: .standard, for: .fine) == nil)
        let plain = try sample(isEmbedded: false).profile
        #expect(plain.refinementCount(of: .standard, for: .coarse) == nil)
    }

    @Test(arguments: 0..<30 as Range<UInt64>)
    func `survives any damage`(seed: UInt64) throws {
        let sample = try sample(1, type: "bfloat16")
        var numbers = SeededNumbers(seed: seed)
        let bytes = sample.container.bytes
        let reader = try ContainerReader(bytes)
        let first = reader.index(layer: 0, .keys)
        let index = Int.random(in: first..<reader.sectionCount, using: &numbers)
        let entry = reader[index]
        for _ in 0..<Int.random(in: 1...4, using: &numbers) {
            // Half of the time in the fields and states.
            let end = Bool.random(using: &numbers) ? min(300, entry.byteCount) : entry.byteCount
            let place = entry.offset + Int.random(in: 0..<end, using: &numbers)
            bytes.store(UInt8.random(in: 0...255, using: &numbers), at: place)
        }
        let section = bytes.slice(offset: entry.offset, count: entry.byteCount)
        bytes.store(section.withBytes(Checksum.short), at: 64 + 16 * index + 8)
        let head = bytes.slice(offset: 8, count: 56 + 16 * reader.sectionCount)
        bytes.store(head.withBytes(Checksum.short), at: 4)
        for count in 0...2 {
            do {
                _ = try decoded(sample, refinementCountMax: count)
            } catch let fault as CodecFault {
                #expect([.section, .workspaceTooSmall].contains(fault), "seed \(seed): \(fault)")
            }
        }
        withExtendedLifetime(sample.container) {}
    }
}
