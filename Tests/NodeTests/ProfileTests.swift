// SPDX-License-Identifier: Apache-2.0
import Codec
import Foundation
import KVClient
import KVCore
import Kernels
import Telemetry
import Testing

@testable import Node

/// A container of mode scalar, its profile and its payload, of Tests/Vectors.
private struct ProfileVector: Decodable {
    let name: String
    let container: String
    let profile: String
    let payload: String

    static func load() throws -> ProfileVector {
        let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .deletingLastPathComponent().appendingPathComponent("Vectors/container")
        let all = try JSONDecoder().decode(
            [ProfileVector].self,
            from: Data(contentsOf: folder.appendingPathComponent("good-profile.json")))
        return try #require(all.first { $0.name == "scalar: exact rows, float16" })
    }
}

private func memory(_ bytes: [UInt8]) -> OwnedBytes {
    let memory = OwnedBytes(count: bytes.count)
    for (index, byte) in bytes.enumerated() { memory.bytes.store(byte, at: index) }
    return memory
}

private func memory(hexadecimal text: String) throws -> OwnedBytes {
    memory(try #require(bytesFromHexadecimal(text)))
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
    @Test func `is found in the namespace, and chunks that need it come back`() async throws {
        let vector = try ProfileVector.load()
        let container = try memory(hexadecimal: vector.container)
        let payload = try memory(hexadecimal: vector.payload)
        let reader = try ContainerReader(container.bytes)
        let layout = try #require(reader.layout)
        let profile = try memory(hexadecimal: vector.profile)
        try await withNode { world in
            let client = world.client()
            defer { client.close() }
            try await client.install(profile, hash: reader.header.profile, layout)
            try await client.store(
                key(1), container, layout.id, level: reader.header.level.rawValue)
            let fetched = try await client.fetch(key(1), deadline: client.soon)
            let found = try #require(fetched)
            #expect(
                withExtendedLifetime((found, payload)) {
                    found.bytes.holds(sameAs: payload.bytes)
                })
            #expect(world.count(.codecProfilesMissing) == 0)

            // Rows that the profile knows, many of them, are encoded by it.
            let long = Self.repeated(payload, layout, count: 200)
            try await client.store(key(2), long, layout.id, firstPosition: 0)
            let options = GetOptions(level: Level.standard.rawValue)
            let small = try #require(
                try await client.fetch(key(2), options, deadline: client.soon))
            let made = try ContainerReader(small.bytes)
            #expect(made.header.mode == .scalar)
            #expect(made.header.profile == reader.header.profile)
            #expect(small.bytes.count < long.bytes.count / 2)
            withExtendedLifetime(small) {}
            #expect(world.count(.codecScalarIn) == long.bytes.count)

            // Without a position it goes without the profile.
            try await client.store(key(3), long, layout.id)
            _ = try await client.fetch(key(3), options, deadline: client.soon)
            #expect(world.count(.codecPositionsUnknown) == 1)
        }
        withExtendedLifetime(container) {}
    }

    @Test func `that is not there makes its chunks misses, and does not delete them`()
        async throws
    {
        let vector = try ProfileVector.load()
        let container = try memory(hexadecimal: vector.container)
        let header = try ContainerReader(container.bytes).header
        try await withNode { world in
            let client = world.client()
            defer { client.close() }
            try await client.store(
                key(1), container, header.layout, level: header.level.rawValue)
            let missed = try await client.fetch([key(1)], deadline: client.soon)
            #expect(missed[0].outcome == .missed(.notFound))
            #expect(world.count(.codecProfilesMissing) == 1)
            #expect(world.count(.codecQuarantined) == 0)
            let stored = try await client.chunkStatistics(key(1), deadline: client.soon)
            #expect(stored?.level == header.level.rawValue)
        }
    }

    /// The payload with its rows from the fourth on `count` times; its axes are layer, kv, token, …
    private static func repeated(
        _ payload: OwnedBytes, _ layout: KVLayout, count: Int
    ) -> OwnedBytes {
        let bytes = (0..<payload.bytes.count).map { payload.bytes[$0] }
        let sectionByteCount = bytes.count / layout.kinds.count / layout.layerCount
        let rowByteCount = layout.columnCount(.keys) * layout.type.byteCount
        var long: [UInt8] = []
        for start in stride(from: 0, to: bytes.count, by: sectionByteCount) {
            let section = bytes[start..<start + sectionByteCount]
            long += section.prefix(4 * rowByteCount)
            for _ in 0..<count { long += section.dropFirst(4 * rowByteCount) }
        }
        return memory(long)
    }
}
