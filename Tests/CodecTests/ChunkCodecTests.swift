// SPDX-License-Identifier: Apache-2.0

import Codec
import KVCore
import Kernels
import Testing

@Suite struct `A container` {
    private let workspace = CodecWorkspace(valueCountMax: 1 << 14)

    private func bytes(_ count: Int, seed: UInt64) -> OwnedBytes {
        var numbers = SeededNumbers(seed: seed)
        let memory = OwnedBytes(count: count)
        for offset in 0..<count {
            memory.bytes.store(UInt8.random(in: 0...15, using: &numbers), at: offset)
        }
        return memory
    }

    @Test(arguments: [1, 2, 63, 4_096, 1 << 20, 1 << 20 + 1])
    func `of opaque bytes gives them back`(count: Int) throws {
        let payload = bytes(count, seed: 1)
        for level in Level.allCases {
            let (container, mode) = try encoded(
                payload.bytes, EncodingPlan(level: level), workspace)
            #expect(mode == (level == .raw ? .raw : .zstd))
            #expect(same(try decoded(container, workspace), payload))
            if level != .raw, count >= 4_096 {
                #expect(container.bytes.count < count * 6 / 10)
            }
        }
    }

    @Test(arguments: engineLayouts.indices)
    func `without loss gives back a tensor in any order of axes`(index: Int) throws {
        let engine = engineLayouts[index]
        for type in ValueType.allCases {
            let layout = try layout(engine.axes, type: type.name, engine.more)
            let payload = payload(of: layout, tokenCount: 12, seed: 7) { values, _, layer in
                if layer == 1 { values[3] = .nan }
            }
            let (container, mode) = try encoded(
                payload.bytes, EncodingPlan(level: .lossless, layout: layout), workspace)
            #expect(mode == .lossless)
            #expect(
                same(try decoded(container, workspace), payload), "\(engine.name), \(type)")
        }
    }

    @Test func `of bfloat16 without loss is smaller than zstd makes it`() throws {
        let layout = try layout(
            "layer,kv,token,head,channel", ["head_dim": .whole(32), "kv_heads": .whole(4)])
        let payload = payload(of: layout, tokenCount: 64, seed: 2)
        let lossless = try encoded(
            payload.bytes, EncodingPlan(level: .lossless, layout: layout), workspace)
        let zstd = try encoded(
            payload.bytes, EncodingPlan(level: .zstd, layout: layout), workspace)
        #expect(lossless.container.bytes.count < zstd.container.bytes.count)
        #expect(14 * lossless.container.bytes.count < 10 * payload.bytes.count)
    }

    @Test func `says what it holds`() throws {
        let layout = try layout("layer,kv,token,head,channel", ["rope_theta": .real(10_000)])
        let payload = payload(of: layout, tokenCount: 6, seed: 3)
        let plan = EncodingPlan(level: .coarse, layout: layout, firstPosition: 2)
        let container = try encoded(payload.bytes, plan, workspace).container
        let reader = try ContainerReader(container.bytes)
        #expect(reader.header.mode == .cachegen)
        #expect(reader.header.level == .coarse)
        #expect(reader.header.type == .bfloat16)
        #expect(reader.header.layout == layout.id)
        #expect(reader.header.firstPosition == 2)
        #expect(reader.header.exactRowCount == 2)
        #expect(reader.header.tokenCount == 6)
        #expect(reader.layout == layout)
        #expect(reader.sectionCount == 2 + 3 * 2)
        #expect(reader[0].part == .layout)
        #expect(reader[1].part == .rotation)
        #expect(reader[reader.index(layer: 2, .values)].number == 2)
        withExtendedLifetime(container) {}
    }

    @Test func `of a layout that does not fit the payload is opaque`() throws {
        let layout = try layout("layer,kv,token,head,channel")
        let payload = bytes(1_001, seed: 4)
        let plan = EncodingPlan(level: .standard, layout: layout)
        let (container, mode) = try encoded(payload.bytes, plan, workspace)
        #expect(mode == .zstd)
        #expect(try ContainerReader(container.bytes).header.layout == layout.id)
        withExtendedLifetime(container) {}
        #expect(same(try decoded(container, workspace), payload))
    }

    @Test func `that does not fit the target is not made`() throws {
        let layout = try layout("layer,kv,token,head,channel", ["rope_theta": .real(10_000)])
        let payload = payload(of: layout, tokenCount: 9, seed: 5)
        for level in [Level.raw, .zstd, .lossless, .standard] {
            let plan = EncodingPlan(level: level, layout: layout)
            let whole = try encoded(payload.bytes, plan, workspace).container
            let target = OwnedBytes(count: whole.bytes.count)
            for count in stride(from: 0, to: whole.bytes.count, by: 17) {
                // Where one method has no room, a smaller one may have; but nothing is written
                // behind the room.
                do throws(CodecFault) {
                    let result = try ChunkCodec.encode(
                        payload.bytes, plan, into: target.bytes.prefix(count), workspace)
                    #expect(result.byteCount <= count && !level.isExact)
                } catch {
                    #expect(error == .targetTooSmall)
                }
            }
        }
    }

    @Test func `gives single layers, and single sections as another type`() throws {
        let layout = try layout("kv,layer,token,head,channel")
        let payload = payload(of: layout, tokenCount: 5, seed: 6)
        let container = try encoded(
            payload.bytes, EncodingPlan(level: .lossless, layout: layout), workspace
        ).container
        let reader = try ContainerReader(container.bytes)
        let target = OwnedBytes(count: payload.bytes.count)
        try ChunkCodec.decode(reader, layers: 1..<2, into: target.bytes, workspace)
        for kind in layout.kinds {
            for layer in 0..<3 {
                let got = values(layer: layer, kind, of: layout, 5, in: target.bytes)
                let all = values(layer: layer, kind, of: layout, 5, in: payload.bytes)
                #expect(got == (layer == 1 ? all : all.map { _ in 0 }))
            }
        }
        let section = OwnedBytes(count: 5 * 16 * 4)
        try ChunkCodec.decode(
            reader, layer: 2, .values, as: .float32, into: section.bytes, workspace)
        let expected = values(layer: 2, .values, of: layout, 5, in: payload.bytes)
        for (index, value) in expected.enumerated() {
            #expect(section.bytes.load(UInt32.self, at: 4 * index) == value.bitPattern)
        }
        withExtendedLifetime((container, payload)) {}
    }

    @Test(arguments: engineLayouts.indices)
    func `gives any range of its bytes, and decodes no more layers than that takes`(
        engine: Int
    ) throws {
        let layout = try layout(engineLayouts[engine].axes, engineLayouts[engine].more)
        let payload = payload(of: layout, tokenCount: 8, seed: 9)
        let container = try encoded(
            payload.bytes, EncodingPlan(level: .lossless, layout: layout), workspace
        ).container
        let reader = try ContainerReader(container.bytes)
        let byteCount = payload.bytes.count
        var numbers = SeededNumbers(seed: UInt64(engine))
        for _ in 0..<60 {
            let first = Int.random(in: 0..<byteCount, using: &numbers)
            let longest = min(byteCount - first, 1 << Int.random(in: 0..<12, using: &numbers))
            let range = first..<first + Int.random(in: 1...longest, using: &numbers)
            let target = OwnedBytes(count: byteCount)
            target.bytes.fill(0xee)
            try ChunkCodec.decode(reader, bytes: range, into: target.bytes, workspace)
            let (found, all) = (array(target), array(payload))
            #expect(found[range] == all[range], "\(range)")
        }
        if engineLayouts[engine].axes.hasPrefix("layer,kv") {
            let target = OwnedBytes(count: byteCount)
            target.bytes.fill(0xee)
            try ChunkCodec.decode(
                reader, bytes: byteCount - 1..<byteCount, into: target.bytes, workspace)
            // Within K of the first layer.
            let other = byteCount / 12
            #expect(target.bytes[other] == 0xee && target.bytes[other + 1] == 0xee)
        }
        withExtendedLifetime((container, payload)) {}
    }

    @Test func `larger than the workspace is opaque, and not decoded`() throws {
        let layout = try layout("layer,kv,token,head,channel")
        let payload = payload(of: layout, tokenCount: 9, seed: 8)
        let plan = EncodingPlan(level: .lossless, layout: layout)
        let small = CodecWorkspace(valueCountMax: 9 * 16 - 1)
        #expect(try encoded(payload.bytes, plan, small).mode == .zstd)
        let container = try encoded(payload.bytes, plan, workspace).container
        #expect(throws: CodecFault.workspaceTooSmall) { try decoded(container, small) }
    }
}
