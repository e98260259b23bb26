// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVCore
import Kernels
import Testing

@testable import Codec

/// Engines' layouts whose K turns, by place in `engineLayouts`.
private func turning(_ index: Int, type: String) throws -> KVLayout {
    let engine = engineLayouts[index]
    return try layout(
        engine.axes, type: type,
        engine.more.merging(["rope_theta": .real(10_000)]) { own, _ in own }
    )
}

@Suite struct `Mode scalar` {
    private let workspace = CodecWorkspace(valueCountMax: 1 << 12)

    @Test(arguments: engineLayouts.indices, ["float16", "bfloat16", "float32"])
    func `keeps every value within half its step`(engine: Int, type: String) throws {
        try keepsValues(engine: engine, type: type, rowCodes: [], from: [0, 1, 4_000])
        try keepsValues(engine: engine, type: type, rowCodes: [.keys, .values], from: [1])
    }

    private func keepsValues(
        engine: Int, type: String, rowCodes: Set<KVKind>, from positions: [UInt32]
    ) throws {
        let layout = try turning(engine, type: type)
        // A stream's states alone have 256 bytes: smaller sections are left to other methods.
        let tokenCount = 48
        let learnt = rows(of: layout, tokenCount: tokenCount, areUneven: !rowCodes.isEmpty)
        let profile = try ProfileSample(
            layout, learntFrom: learnt.bytes, tokenCount: tokenCount, rowCodes: rowCodes
        ).profile()
        for first in positions {
            let payload = rows(of: layout, tokenCount: tokenCount, areUneven: !rowCodes.isEmpty)
            for level in [Level.standard, .coarse] {
                let plan = EncodingPlan(
                    level: level, layout: layout, firstPosition: first, profile: profile)
                let (container, mode) = try encoded(payload.bytes, plan, workspace)
                #expect(mode == .scalar)
                let reader = try ContainerReader(container.bytes)
                for kind in layout.kinds {
                    for layer in 0..<layout.layerCount {
                        #expect(reader[reader.index(layer: layer, kind)].method == .scalar)
                    }
                }
                let back = try decoded(container, workspace, profile)
                let exact = first == 0 ? 4 : first == 1 ? 3 : 0
                let factors = try factors(reader, rowCodes, tokenCount - exact)
                check(layout, tokenCount, payload, back, level, factors)
            }
        }
        withExtendedLifetime(learnt) {}
    }

    /// Values whose rows are larger and smaller by turns, or all alike.
    private func rows(of layout: KVLayout, tokenCount: Int, areUneven: Bool) -> OwnedBytes {
        payload(of: layout, tokenCount: tokenCount, seed: 3) { values, kind, _ in
            guard areUneven else { return }
            for index in values.indices {
                values[index] *= exp2(Float(index / layout.columnCount(kind) % 5 - 3))
            }
        }
    }

    /// Of each kind, layer and coded row: what its code multiplies steps by.
    private func factors(
        _ reader: ContainerReader, _ kinds: Set<KVKind>, _ rowCount: Int
    ) throws -> [KVKind: [[Float]]] {
        let layout = try #require(reader.layout)
        let read = RowCodes()
        var found: [KVKind: [[Float]]] = [:]
        for kind in layout.kinds {
            found[kind] = try (0..<layout.layerCount).map { layer in
                guard kinds.contains(kind) else { return Array(repeating: 1, count: rowCount) }
                let section = try reader.section(reader.index(layer: layer, kind))
                let escapes = 8 * Int(section.load(UInt32.self, at: 4))
                let codes = section.dropFirst(section.count - escapes - (rowCount + 1) / 2)
                try read.read(codes.prefix((rowCount + 1) / 2), rowCount: rowCount)
                let factors = (0..<rowCount).map { read.factor($0) }
                // Rows of every size were given, so that steps of every size must be there.
                #expect((factors.max() ?? 0) >= 4 * (factors.min() ?? 1))
                return factors
            }
        }
        return found
    }

    /// Steps are those of `ProfileSample` times the row's factor; values that turn have the error
    /// of their pair.
    private func check(
        _ layout: KVLayout, _ tokenCount: Int, _ payload: OwnedBytes, _ back: OwnedBytes,
        _ level: Level, _ factors: [KVKind: [[Float]]]
    ) {
        let unit: Float =
            switch layout.type {
            case .float16: 0x1p-11
            case .bfloat16: 0x1p-8
            default: 0x1p-20
            }
        var worst: Float = 0
        for kind in layout.kinds {
            let count = layout.columnCount(kind)
            for layer in 0..<layout.layerCount {
                let factors = factors[kind]?[layer] ?? []
                let exactRowCount = tokenCount - factors.count
                let before = values(layer: layer, kind, of: layout, tokenCount, in: payload.bytes)
                let after = values(layer: layer, kind, of: layout, tokenCount, in: back.bytes)
                for index in before.indices {
                    let error = abs(before[index] - after[index])
                    if index / count < exactRowCount {
                        #expect(error == 0)
                        continue
                    }
                    // The largest step, for both of a pair.
                    let half =
                        ProfileSample.step * 3 / 2 * (level == .coarse ? 2 : 1)
                        * factors[index / count - exactRowCount]
                    let bound = half * (kind == .keys ? 1.4143 : 1)
                    let rounding = (abs(before[index]) + bound) * unit + 0x1p-18
                    #expect(error <= bound + rounding, "layer \(layer), value \(index)")
                    worst = max(worst, error / bound)
                }
            }
        }
        // Cells are used: a decoder that gave the values themselves would pass otherwise.
        #expect(worst > 0.2)
        withExtendedLifetime((payload, back)) {}
    }

    @Test func `is smaller where steps are larger`() throws {
        let layout = try turning(0, type: "float16")
        let learnt = payload(of: layout, tokenCount: 64, seed: 9)
        let profile = try ProfileSample(layout, learntFrom: learnt.bytes, tokenCount: 64).profile()
        let payload = payload(of: layout, tokenCount: 64, seed: 9)
        func byteCount(_ level: Level) throws -> Int {
            try encoded(
                payload.bytes,
                EncodingPlan(level: level, layout: layout, firstPosition: 64, profile: profile),
                workspace
            ).container.bytes.count
        }
        #expect(try byteCount(.coarse) < byteCount(.standard))
        #expect(try byteCount(.standard) * 4 < payload.bytes.count * 3)
        withExtendedLifetime((learnt, payload)) {}
    }

    @Test(arguments: [2, 4, 9])
    func `leaves what has no cell to other methods`(engine: Int) throws {
        let layout = try turning(engine, type: "bfloat16")
        let learnt = payload(of: layout, tokenCount: 48, seed: 1)
        let profile = try ProfileSample(layout, learntFrom: learnt.bytes, tokenCount: 48).profile()
        for odd in [Float.nan, .infinity, 3e38] {
            let payload = payload(of: layout, tokenCount: 48, seed: 1) { values, kind, layer in
                if kind == .keys && layer == 1 { values[values.count - 1] = odd }
            }
            let plan = EncodingPlan(
                level: .standard, layout: layout, firstPosition: 48, profile: profile)
            let (container, mode) = try encoded(payload.bytes, plan, workspace)
            #expect(mode == .scalar)
            let reader = try ContainerReader(container.bytes)
            #expect(reader[reader.index(layer: 0, .keys)].method == .scalar)
            #expect(reader[reader.index(layer: 1, .keys)].method != .scalar)
            let back = try decoded(container, workspace, profile)
            let bits = { (memory: OwnedBytes) in
                values(layer: 1, .keys, of: layout, 48, in: memory.bytes).map(\.bitPattern)
            }
            if odd.isFinite { continue }
            #expect(bits(back) == bits(payload))
        }
        withExtendedLifetime(learnt) {}
    }

    @Test func `needs a position, a level of the profile and a type that it knows`() throws {
        let layout = try turning(0, type: "float16")
        let learnt = payload(of: layout, tokenCount: 48, seed: 1)
        let profile = try ProfileSample(layout, learntFrom: learnt.bytes, tokenCount: 48).profile()
        func mode(_ plan: EncodingPlan) throws -> ContainerMode {
            try encoded(learnt.bytes, plan, workspace).mode
        }
        let unplaced = EncodingPlan(level: .standard, layout: layout, profile: profile)
        #expect(try mode(unplaced) == .cachegen)
        let unknown = EncodingPlan(
            level: .fine, layout: layout, firstPosition: 0, profile: profile)
        #expect(try mode(unknown) == .cachegen)
        let other = try turning(0, type: "bfloat16")
        let foreign = EncodingPlan(
            level: .standard, layout: other, firstPosition: 0, profile: profile)
        #expect(try mode(foreign) == .cachegen)
        withExtendedLifetime(learnt) {}
    }

    @Test func `is decoded by layer, and as another type`() throws {
        let layout = try turning(1, type: "float16")
        let learnt = payload(of: layout, tokenCount: 48, seed: 1)
        let profile = try ProfileSample(layout, learntFrom: learnt.bytes, tokenCount: 48).profile()
        let plan = EncodingPlan(
            level: .standard, layout: layout, firstPosition: 0, profile: profile)
        let (container, _) = try encoded(learnt.bytes, plan, workspace)
        let whole = try decoded(container, workspace, profile)
        let reader = try ContainerReader(container.bytes)
        let expected = values(layer: 1, .values, of: layout, 48, in: whole.bytes)
        let wide = OwnedBytes(count: 4 * expected.count)
        try ChunkCodec.decode(
            reader, layer: 1, .values, as: .float32, into: wide.bytes, workspace, profile: profile)
        let found = expected.indices.map {
            Float(bitPattern: wide.bytes.load(UInt32.self, at: 4 * $0))
        }
        #expect(found == expected)
        let part = OwnedBytes(count: whole.bytes.count)
        try ChunkCodec.decode(
            reader, layers: 2..<3, into: part.bytes, workspace, profile: profile)
        #expect(
            values(layer: 2, .keys, of: layout, 48, in: part.bytes)
                == values(layer: 2, .keys, of: layout, 48, in: whole.bytes))
        #expect(values(layer: 0, .keys, of: layout, 48, in: part.bytes).allSatisfy { $0 == 0 })
        withExtendedLifetime((container, whole, wide, part, learnt)) {}
    }
}

@Suite struct `Mode lossless with a profile` {
    private let workspace = CodecWorkspace(valueCountMax: 1 << 12)

    @Test(arguments: engineLayouts.indices, ["float16", "bfloat16", "float32", "float8_e4m3"])
    func `gives every byte back`(engine: Int, type: String) throws {
        let layout = try turning(engine, type: type)
        let learnt = payload(of: layout, tokenCount: 48, seed: 3)
        let profile = try ProfileSample(layout, learntFrom: learnt.bytes, tokenCount: 48).profile()
        let odd = payload(of: layout, tokenCount: 48, seed: 4) { values, kind, layer in
            if layer == 2 { values[1] = .nan }
        }
        let noise = OwnedBytes(count: learnt.bytes.count)
        var numbers = SeededNumbers(seed: 8)
        for offset in 0..<noise.bytes.count {
            noise.bytes.store(UInt8.random(in: 0...255, using: &numbers), at: offset)
        }
        for payload in [learnt, odd, noise] {
            let plan = EncodingPlan(level: .lossless, layout: layout, profile: profile)
            let (container, mode) = try encoded(payload.bytes, plan, workspace)
            #expect(mode == .lossless)
            #expect(same(try decoded(container, workspace, profile), payload))
        }
    }

    @Test func `codes exponents`() throws {
        let layout = try turning(0, type: "bfloat16")
        let learnt = payload(of: layout, tokenCount: 64, seed: 3)
        let profile = try ProfileSample(layout, learntFrom: learnt.bytes, tokenCount: 64).profile()
        let plan = EncodingPlan(level: .lossless, layout: layout, profile: profile)
        let (container, _) = try encoded(learnt.bytes, plan, workspace)
        let reader = try ContainerReader(container.bytes)
        #expect(reader[reader.index(layer: 0, .keys)].method == .exponent)
        #expect(reader.header.profile == profile.hash)
        withExtendedLifetime((learnt, container)) {}
    }
}

@Suite struct `A container with a profile` {
    private let workspace = CodecWorkspace(valueCountMax: 1 << 12)

    private func sample(
        _ level: Level
    ) throws -> (
        container: OwnedBytes, profile: Profile, sample: ProfileSample, payload: OwnedBytes
    ) {
        let layout = try turning(0, type: "bfloat16")
        let payload = payload(of: layout, tokenCount: 48, seed: 3)
        let sample = ProfileSample(layout, learntFrom: payload.bytes, tokenCount: 48)
        let profile = try sample.profile()
        let plan = EncodingPlan(level: level, layout: layout, firstPosition: 0, profile: profile)
        return (try encoded(payload.bytes, plan, workspace).container, profile, sample, payload)
    }

    @Test(arguments: [Level.lossless, .standard])
    func `is refused without it, and with another`(level: Level) throws {
        let (container, profile, sample, _) = try sample(level)
        #expect(throws: CodecFault.profileMissing) { try decoded(container, workspace, nil) }
        var changed = sample
        let note = try #require(changed.entries.firstIndex { $0.item == 6 })
        changed.entries[note].content = Array("another".utf8)
        let other = try changed.profile()
        #expect(other.hash != profile.hash)
        #expect(throws: CodecFault.profileMissing) { try decoded(container, workspace, other) }
        #expect(throws: Never.self) { try decoded(container, workspace, profile) }
    }

    /// Sections are damaged and their checksums made right again: nothing may crash or be read
    /// beyond a section, whatever comes out.
    @Test(arguments: [Level.lossless, .standard], 0..<60 as Range<UInt64>)
    func `survives any damage`(level: Level, seed: UInt64) throws {
        let (container, profile, _, _) = try sample(level)
        var numbers = SeededNumbers(seed: seed)
        let reader = try ContainerReader(container.bytes)
        let index = Int.random(
            in: reader.index(layer: 0, .keys)..<reader.sectionCount, using: &numbers)
        let entry = reader[index]
        for _ in 0..<Int.random(in: 1...4, using: &numbers) {
            // Half of the time in the fields and states.
            let end = Bool.random(using: &numbers) ? min(300, entry.byteCount) : entry.byteCount
            let place = entry.offset + Int.random(in: 0..<end, using: &numbers)
            container.bytes.store(UInt8.random(in: 0...255, using: &numbers), at: place)
        }
        let section = container.bytes.slice(offset: entry.offset, count: entry.byteCount)
        container.bytes.store(section.withBytes(Checksum.short), at: 64 + 16 * index + 8)
        let end = 64 + 16 * reader.sectionCount
        let head = container.bytes.slice(offset: 8, count: end - 8)
        container.bytes.store(head.withBytes(Checksum.short), at: 4)
        do {
            _ = try decoded(container, workspace, profile)
        } catch let fault as CodecFault {
            #expect([.section, .workspaceTooSmall].contains(fault), "seed \(seed): \(fault)")
        }
    }

    @Test func `has one that is checked in every byte`() throws {
        let (_, _, sample, _) = try sample(.standard)
        let bytes = array(sample.bytes)
        var numbers = SeededNumbers(seed: 5)
        for place in stride(from: 0, to: bytes.count, by: 61) {
            var damaged = bytes
            damaged[place] ^= UInt8.random(in: 1...255, using: &numbers)
            let memory = owned(damaged)
            let profile = try? Profile(memory.bytes, for: sample.layout)
            // Zeros between items belong to nobody but the hash.
            let original = try sample.profile()
            #expect(profile == nil || profile?.hash != original.hash, "byte \(place)")
        }
        for count in [0, 3, 63, 64, 200, bytes.count - 1] {
            let memory = owned(Array(bytes.prefix(count)))
            #expect(throws: CodecFault.self) {
                try Profile(memory.bytes.prefix(count), for: sample.layout)
            }
        }
    }

    @Test func `has one whose numbers make sense`() throws {
        let (_, _, sample, _) = try sample(.standard)
        func fault(_ item: UInt8, _ edit: (inout [UInt8]) -> Void) -> CodecFault? {
            var changed = sample
            guard let index = changed.entries.firstIndex(where: { $0.item == item }) else {
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
        #expect(fault(6) { $0 = [] } == nil)
        #expect(fault(0) { $0 = Array("kvstore_layout=1\nlayers=7\n".utf8) } == .profileUnsuitable)
        #expect(fault(0) { $0.removeLast() } == .profileDamaged)
        #expect(fault(2) { $0[0] = 1 } == .profileDamaged)
        #expect(fault(2) { $0[20] = 1 } == .profileDamaged)
        #expect(fault(3) { $0[0] = 0 } == .profileDamaged)
        #expect(fault(3) { $0.removeLast(2) } == .profileDamaged)
        #expect(fault(16) { $0[0] = $0[2] } == .profileDamaged)
        #expect(
            fault(17) {
                $0[3] = 0x7f; $0[2] = 0xc0
            } == .profileDamaged)
        #expect(fault(18) { $0[3] |= 0x80 } == .profileDamaged)
        #expect(fault(19) { $0.removeLast() } == .profileDamaged)
        #expect(fault(20) { $0[1] = 3 } == .profileDamaged)
    }

    @Test func `has levels with flags, a group and a lookback`() throws {
        let (_, _, sample, _) = try sample(.standard)
        func levels(_ edit: (inout [UInt8]) -> Void) throws -> [ProfileLevel]? {
            var changed = sample
            let index = try #require(changed.entries.firstIndex { $0.item == 2 })
            edit(&changed.entries[index].content)
            do {
                return try changed.profile().levels
            } catch CodecFault.profileDamaged {
                return nil
            }
        }
        func predictive(_ bytes: inout [UInt8], _ starts: [Int]) {
            for start in starts { (bytes[start + 1], bytes[start + 3]) = (5, 3) }
        }
        let plain = try #require(try levels { _ in }?.first)
        #expect(!plain.hasRowCodes(.keys) && !plain.hasRowCodes(.values))
        #expect(plain.group == 0 && plain.lookback == 0)
        let keys = try #require(try levels { $0[2] |= 4 }?.first)
        #expect(keys.hasRowCodes(.keys) && !keys.hasRowCodes(.values))
        let values = try #require(try levels { $0[2] |= 8 }?.first)
        #expect(!values.hasRowCodes(.keys) && values.hasRowCodes(.values))
        let far = try #require(try levels { predictive(&$0, [0, 32]) })
        #expect(far.allSatisfy { $0.mode == .predictive && $0.group == 3 && $0.lookback == 2 })
        let near = try levels {
            predictive(&$0, [0, 32])
            ($0[11], $0[43]) = (1, 1)
        }
        #expect(try #require(near).allSatisfy { $0.lookback == 1 })

        for bit: UInt8 in [16, 32, 64, 128] { #expect(try levels { $0[2] |= bit } == nil) }
        #expect(try levels { $0[11] = 1 } == nil)
        #expect(try levels { $0[3] = 1 } == nil)
        #expect(try levels { $0[12] = 1 } == nil)
        #expect(try levels { $0[32] = $0[0] } == nil)
        let faults: [(inout [UInt8]) -> Void] = [
            { $0[11] = 2 }, { $0[11] = 1 }, { $0[3] = 4 }, { $0[3] = 0 }, { $0[2] |= 2 },
        ]
        for fault in faults {
            let found = try levels {
                predictive(&$0, [0, 32])
                fault(&$0)
            }
            #expect(found == nil)
        }
    }
}
