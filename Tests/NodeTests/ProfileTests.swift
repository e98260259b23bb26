// SPDX-License-Identifier: Apache-2.0
import Codec
import KVClient
import KVCore
import Kernels
import Telemetry
import Testing

@testable import Node

/// A model of one layer, a profile of it, and payloads whose values the profile's steps hit.
private enum Sample {
    static let layout = KVLayout(
        description: Array(
            """
            kvstore_layout=1
            axes=layer,kv,token,head,channel
            dtype=float16
            head_dim=32
            kv_heads=2
            layers=1

            """.utf8))
    private static let columnCount = 64

    /// Values from -9 to 9 halves, for 100 tokens.
    static func payload() -> OwnedBytes {
        var bytes: [UInt8] = []
        for number in 0..<2 * 100 * columnCount {
            let value = Float16(Double((number * 7 + number / 5) % 19 - 9) / 2)
            bytes += Self.bytes(value.bitPattern)
        }
        return memory(bytes)
    }

    /// Infinite when they have not as many values.
    static func largestError(of back: OwnedBytes, _ payload: OwnedBytes) -> Float16 {
        withExtendedLifetime((back, payload)) {
            guard back.bytes.count == payload.bytes.count else { return .infinity }
            func value(_ bytes: PinnedBytes, _ place: Int) -> Float16 {
                Float16(bitPattern: bytes.load(UInt16.self, at: place))
            }
            return stride(from: 0, to: back.bytes.count, by: 2).map {
                abs(value(back.bytes, $0) - value(payload.bytes, $0))
            }.max() ?? .infinity
        }
    }

    /// docs/container-format.md, section 11. An embedded one has Q1 in steps of a ninth too.
    static func profile(isEmbedded: Bool = false) -> OwnedBytes {
        // 19 symbols alike, the escape, and what is left for 0.
        var table = [UInt16](repeating: 0, count: 256)
        for symbol in -9...9 { table[symbol + 128] = symbol == 0 ? 247 : 100 }
        table[0] = 1
        var levels: [UInt8] = [4, 4, 0, 0] + bytes(Float(1).bitPattern) + zeros(24)
        if isEmbedded {
            levels = [3, 4, 2, 0] + bytes(Float(1.0 / 9).bitPattern) + zeros(24) + levels
        }
        let columns = 0..<columnCount
        let ofColumns: [(UInt8, [UInt8])] = [
            (16, columns.flatMap { bytes(UInt16($0)) }), (17, zeros(4 * columnCount)),
            (18, columns.flatMap { _ in bytes(Float(0.5).bitPattern) }), (19, zeros(columnCount)),
        ]
        var items: [(item: UInt8, kind: UInt8, content: [UInt8])] = [
            (0, 0, Array("kvstore_layout=1\nlayers=1\n".utf8)), (2, 0, levels),
            (3, 0, table.flatMap { bytes($0) }),
        ]
        if isEmbedded {
            let context: [UInt16] = [680, 688, 680]
            items.append((4, 0, (0..<4).flatMap { _ in context.flatMap { bytes($0) } }))
        }
        for (item, content) in ofColumns {
            for kind in 0...1 as ClosedRange<UInt8> { items.append((item, kind, content)) }
        }
        var head: [UInt8] = Array("KVP1".utf8) + zeros(4) + [1, 0] + bytes(UInt16(1))
        head += bytes(UInt32(items.count)) + bytes(UInt32(columnCount))
        head += bytes(UInt32(columnCount)) + bytes(UInt32(1)) + zeros(4 + 32)
        var body: [UInt8] = []
        let start = head.count + 16 * items.count
        for (item, kind, content) in items {
            body += zeros((64 - (start + body.count) % 64) % 64)
            head += bytes(UInt32(start + body.count)) + bytes(UInt32(content.count))
            head += bytes(checksum(content[...])) + [0, 0, kind, item]
            body += content
        }
        head.replaceSubrange(4..<8, with: bytes(checksum(head[8...])))
        return memory(head + body)
    }

    private static func checksum(_ bytes: ArraySlice<UInt8>) -> UInt32 {
        let memory = NodeTests.memory(Array(bytes))
        return withExtendedLifetime(memory) {
            UInt32(truncatingIfNeeded: Checksum.of(memory.bytes))
        }
    }

    private static func zeros(_ count: Int) -> [UInt8] { [UInt8](repeating: 0, count: count) }

    private static func bytes(_ number: some FixedWidthInteger) -> [UInt8] {
        (0..<number.bitWidth / 8).map { UInt8(truncatingIfNeeded: number >> (8 * $0)) }
    }
}

private func memory(_ bytes: [UInt8]) -> OwnedBytes {
    let memory = OwnedBytes(count: bytes.count)
    for (index, byte) in bytes.enumerated() { memory.bytes.store(byte, at: index) }
    return memory
}

extension Client {
    fileprivate func store(
        _ key: ChunkKey, _ bytes: OwnedBytes, _ layout: LayoutID = .opaque, level: UInt8 = 0,
        firstPosition: UInt32? = nil
    ) async throws {
        let label = ChunkLabel(
            key: key, layout: layout, level: level, firstPosition: firstPosition)
        let outcome = try await put(label, bytes.bytes, deadline: soon)
        withExtendedLifetime(bytes) {}
        #expect(outcome == .stored)
    }

    /// Puts what the codec needs into the namespace.
    fileprivate func install(
        _ profile: OwnedBytes, hash: ProfileHash, _ layout: KVLayout
    ) async throws {
        let keys = KeyDerivation(secret: try await connect(deadline: soon).secret)
        try await store(keys.descriptionKey(of: layout.id), memory(layout.description))
        try await store(keys.profileKey(hash: hash.bytes), profile)
        try await store(
            keys.profileChoiceKey(of: layout.id),
            memory(hash.bytes + [UInt8](repeating: 0, count: 16)))
    }
}

@Suite struct `A profile` {
    @Test func `is found in the namespace, and encodes and decodes its layout's chunks`()
        async throws
    {
        let layout = try #require(Sample.layout)
        let profile = Sample.profile()
        let hash = Profile.hash(of: profile.bytes)
        try await withNode { world in
            let client = world.client()
            defer { client.close() }
            try await client.install(profile, hash: hash, layout)
            let payload = Sample.payload()
            try await client.store(key(1), payload, layout.id, firstPosition: 256)
            let options = GetOptions(level: Level.standard.rawValue)
            let small = try #require(
                try await client.fetch(key(1), options, deadline: client.soon))
            let header = try ContainerReader(small.bytes).header
            #expect(header.mode == .scalar)
            #expect(header.profile == hash)
            #expect(small.bytes.count < payload.bytes.count / 2)
            #expect(world.count(.codecScalarIn) == payload.bytes.count)

            try await client.store(key(2), small, layout.id, level: Level.standard.rawValue)
            let back = try #require(try await client.fetch(key(2), deadline: client.soon))
            #expect(Sample.largestError(of: back, payload) == 0)
            #expect(world.count(.codecProfilesMissing) == 0)
        }
    }

    @Test func `with an embedded level lets a GET have the coarser part`() async throws {
        let layout = try #require(Sample.layout)
        let profile = Sample.profile(isEmbedded: true)
        try await withNode { world in
            let client = world.client()
            defer { client.close() }
            try await client.install(profile, hash: Profile.hash(of: profile.bytes), layout)
            let payload = Sample.payload()
            try await client.store(key(1), payload, layout.id, firstPosition: 256)
            func get(_ number: UInt64, _ level: Level) async throws -> OwnedBytes {
                let options = GetOptions(level: level.rawValue)
                return try #require(
                    try await client.fetch(key(number), options, deadline: client.soon))
            }
            let fine = try await get(1, .fine)
            #expect(try ContainerReader(fine.bytes).refinementCount == 2)
            try await client.store(key(2), fine, layout.id, level: Level.fine.rawValue)
            let coarse = try await get(2, .standard)
            #expect(world.count(.codecCuts) == 1)
            #expect(try ContainerReader(coarse.bytes).refinementCount == 0)
            #expect(coarse.bytes.count < fine.bytes.count)
            // It can be kept, and decoded, as what it is.
            try await client.store(key(3), coarse, layout.id, level: Level.fine.rawValue)
            let back = try await get(3, .raw)
            #expect(Sample.largestError(of: back, payload) == 0)
            #expect(Sample.largestError(of: try await get(2, .raw), payload) == 0)
        }
    }

    @Test func `that is larger than its memory is not used`() async throws {
        let layout = try #require(Sample.layout)
        let profile = Sample.profile()
        var options = WorldOptions()
        options.node.codec.profileByteCountMax = profile.bytes.count - 1
        try await withNode(options) { world in
            let client = world.client()
            defer { client.close() }
            try await client.install(profile, hash: Profile.hash(of: profile.bytes), layout)
            try await client.store(key(1), Sample.payload(), layout.id, firstPosition: 256)
            let options = GetOptions(level: Level.standard.rawValue)
            let small = try #require(
                try await client.fetch(key(1), options, deadline: client.soon))
            #expect(try ContainerReader(small.bytes).header.mode == .cachegen)
            #expect(world.count(.codecProfilesTooLarge) == 1)
        }
    }

    @Test func `is found by a client, which encodes and decodes by it as the daemon does`()
        async throws
    {
        let layout = try #require(Sample.layout)
        let profile = Sample.profile()
        let level = Level.standard
        try await withNode { world in
            let client = world.client()
            defer { client.close() }
            let blind = try await client.codec(for: layout.id, deadline: client.soon)
            #expect(blind.layout == nil && blind.profile == nil && blind.layoutID == layout.id)

            try await client.install(profile, hash: Profile.hash(of: profile.bytes), layout)
            let codec = try await client.codec(for: layout.id, deadline: client.soon)
            #expect(codec.profile?.hash == Profile.hash(of: profile.bytes))
            let payload = Sample.payload()
            let label = ChunkLabel(key: key(1), layout: layout.id, firstPosition: 256)
            let outcome = try await client.put(
                label, payload.bytes, at: level, by: codec, deadline: client.soon)
            #expect(outcome == .stored)
            let stored = try #require(
                try await client.chunkStatistics(key(1), deadline: client.soon))
            #expect(stored.level == level.rawValue && stored.byteCount < payload.bytes.count / 2)

            let raw = try #require(try await client.fetch(key(1), deadline: client.soon))
            let decoded = try #require(
                try await client.fetch(
                    key(1), at: level.rawValue, by: codec, deadline: client.soon))
            #expect(decoded.bytes.holds(sameAs: raw.bytes))
            #expect(Sample.largestError(of: decoded, payload) <= 0.69)
            withExtendedLifetime((raw, decoded)) {}

            // Not by `#expect(throws:)`, whose closure leaves the client's thread.
            do throws(ClientError) {
                _ = try await client.fetch(
                    key(1), at: level.rawValue, by: LayoutCodec(layout), deadline: client.soon)
                Issue.record("a container was decoded without its profile")
            } catch {
                #expect(error.kind == .damaged)
                #expect(error.message.contains("profile-missing"))
            }
        }
    }

    @Test func `is not needed for bytes that do not become smaller: they are stored raw`()
        async throws
    {
        try await withNode { world in
            let client = world.client()
            defer { client.close() }
            let codec = LayoutCodec(nil)
            for (number, text) in [(1, "x"), (2, "no repetition")] as [(UInt64, String)] {
                let bytes = memory(Array(text.utf8))
                let label = ChunkLabel(key: key(number), level: Level.zstd.rawValue)
                _ = try await client.put(
                    label, bytes.bytes, at: .zstd, by: codec, deadline: client.soon)
                let back = try #require(
                    try await client.fetch(
                        key(number), at: Level.zstd.rawValue, by: codec, deadline: client.soon))
                #expect(back.bytes.holds(sameAs: bytes.bytes))
                withExtendedLifetime((bytes, back)) {}
                let stored = try await client.chunkStatistics(key(number), deadline: client.soon)
                #expect(stored?.level == Level.raw.rawValue)
            }
        }
    }

    @Test func `that is not there makes its chunks misses, and does not delete them`()
        async throws
    {
        let layout = try #require(Sample.layout)
        let profile = Sample.profile()
        let container = try Self.container(profile, layout)
        try await withNode { world in
            let client = world.client()
            defer { client.close() }
            try await client.store(key(1), container, layout.id, level: Level.standard.rawValue)
            let missed = try await client.fetch([key(1)], deadline: client.soon)
            #expect(missed[0].outcome == .missed(.notFound))
            #expect(world.count(.codecProfilesMissing) == 1)
            #expect(world.count(.codecQuarantined) == 0)
            let stored = try await client.chunkStatistics(key(1), deadline: client.soon)
            #expect(stored?.level == Level.standard.rawValue)
        }
    }

    /// A container of mode scalar.
    private static func container(
        _ profile: OwnedBytes, _ layout: KVLayout
    ) throws -> OwnedBytes {
        let payload = Sample.payload()
        let made = try Profile(profile.bytes, for: layout)
        let room = OwnedBytes(count: payload.bytes.count)
        let encoded = try ChunkCodec.encode(
            payload.bytes,
            EncodingPlan(level: .standard, layout: layout, firstPosition: 256, profile: made),
            into: room.bytes, CodecWorkspace(valueCountMax: 1 << 14))
        #expect(encoded.mode == .scalar)
        let container = OwnedBytes(count: encoded.byteCount)
        container.bytes.copy(from: room.bytes.prefix(encoded.byteCount))
        withExtendedLifetime((payload, profile, room)) {}
        return container
    }
}
