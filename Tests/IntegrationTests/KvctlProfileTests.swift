// SPDX-License-Identifier: Apache-2.0
import Foundation
import KVClient
import KVCore
import Kernels
import LinuxIO
import Testing
import Wire

/// Chunks of a made-up model: 2 layers, 2 heads of 16 channels, bfloat16, K turned by RoPE. Columns
/// differ in their spread; those that turn together have the same, around zero, so that K looks
/// alike before and after.
private enum MadeUpChunks {
    static let fields = """
        dtype=bfloat16
        layers=2
        kv_heads=2
        head_dim=16
        axes=layer,kv,token,head,channel
        rope_theta=10000.0
        """
    static let tokenByteCount = 2 * 2 * 32 * 2

    static var description: LayoutDescription {
        get throws {
            var description = LayoutDescription()
            try description.set("dtype", .text("bfloat16"))
            try description.set("layers", .whole(2))
            try description.set("kv_heads", .whole(2))
            try description.set("head_dim", .whole(16))
            try description.set("axes", .text("layer,kv,token,head,channel"))
            try description.set("rope_theta", .real(10_000))
            return description
        }
    }

    static func payload(tokenCount: Int, seed: UInt64) -> [UInt8] {
        var state = seed
        func uniform() -> Float {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Float(state >> 40) * 0x1p-24
        }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(tokenCount * tokenByteCount)
        for _ in 0..<4 {
            for index in 0..<tokenCount * 32 {
                let sum = uniform() + uniform() + uniform() + uniform() - 2
                let bits = (sum * Float(1 + index % 8)).bitPattern >> 16
                bytes += [UInt8(truncatingIfNeeded: bits), UInt8(truncatingIfNeeded: bits >> 8)]
            }
        }
        return bytes
    }
}

/// A folder with the layout's description, and kvctl in it.
private struct Learning {
    let folder: TemporaryFolder
    let environment: [String: String]

    init(_ address: StreamAddress = .unix(path: "/nonexistent/kvstored.sock")) throws {
        folder = try TemporaryFolder()
        environment = ["KVSTORE_ADDRESS": "\(address)"]
        try MadeUpChunks.fields.write(
            toFile: folder.path("layout"), atomically: false, encoding: .utf8)
    }

    func callAsFunction(_ arguments: [String], input: String? = nil) throws -> CommandResult {
        try runProduct(
            .kvctl, ["codec", "profile"] + arguments, input: input, environment: environment)
    }

    func file(_ name: String, _ bytes: [UInt8]) throws -> String {
        let path = folder.path(name)
        try Data(bytes).write(to: URL(filePath: path))
        return path
    }

    var learn: [String] {
        ["learn", "--layout", folder.path("layout"), "-o", folder.path("profile")]
    }
}

@Suite struct `kvctl codec profile learn` {
    @Test func `learns from the daemon's chunks, and the daemon encodes by it`() async throws {
        try await withDaemon { desk, daemon in
            let client = desk.client(daemon.unixAddress)
            let layout = try MadeUpChunks.description.id
            var lines: [String] = []
            let tokenCount = 512
            for index in 0..<10 {
                let key = desk.freshKey()
                let label = ChunkLabel(
                    key: key, layout: layout,
                    // The last one's is in the list alone.
                    firstPosition: index < 9 ? UInt32(index * tokenCount) : nil)
                let bytes = MadeUpChunks.payload(tokenCount: tokenCount, seed: UInt64(index))
                try await desk.put(client, label, bytes)
                lines.append("\(key)" + (index < 9 ? "" : " 4096"))
            }
            let secret = client.session?.secret ?? []
            let descriptionKey = KeyDerivation(secret: secret).descriptionKey(of: layout)
            let canonical = Array(try MadeUpChunks.description.canonicalForm.utf8)
            try await desk.put(client, ChunkLabel(key: descriptionKey), canonical)
            client.close()

            let kvctl = try Learning(daemon.unixAddress)
            let profile = kvctl.folder.path("profile")
            let learnt = try kvctl(
                ["learn", "--list", "-", "-o", profile, "--no-predictors", "--json"],
                input: lines.joined(separator: "\n"))
            #expect(learnt.exitCode == 0, "\(learnt.errors)")
            let facts = try #require(
                try JSONSerialization.jsonObject(with: Data(learnt.output.utf8)) as? [String: Any])
            // All but the four at the beginning of the sequence.
            #expect(facts["tokens"] as? Int == 10 * tokenCount - 4)
            #expect(facts["chunks_left_out"] as? Int == 0)
            let layoutFile = kvctl.folder.path("layout")
            let shown = try kvctl(["show", profile, "--layout", layoutFile])
            #expect(shown.output.contains("q2 scalar, K before RoPE"))
            #expect(try kvctl(["install", profile, "--layout", layoutFile]).exitCode == 0)
            let key = desk.freshKey()
            try await desk.expectScalar(
                daemon.unixAddress,
                ChunkLabel(key: key, layout: layout, firstPosition: 9_000),
                MadeUpChunks.payload(tokenCount: tokenCount, seed: 99))
        }
    }

    @Test func `learns from files, the same from the same`() throws {
        let kvctl = try Learning()
        let files = try (0..<3).map {
            try kvctl.file(
                "chunk\($0)", MadeUpChunks.payload(tokenCount: 1_500, seed: UInt64($0)))
        }
        let list = try kvctl.file(
            "list", Array("\(files[0]) 0\n\n\(files[1]) 1500\n\(files[2])\n".utf8))
        var profiles: [Data] = []
        for _ in 0..<2 {
            let learnt = try kvctl(
                kvctl.learn + ["--list", list, "--position", "3000", "--no-predictors"])
            #expect(learnt.exitCode == 0, "\(learnt.errors)")
            #expect(learnt.errors.contains("4496 of 4496 tokens"))
            profiles.append(try Data(contentsOf: URL(filePath: kvctl.folder.path("profile"))))
        }
        #expect(profiles[0] == profiles[1])
        let stored = try kvctl(
            kvctl.learn + files + ["--keys-as-stored", "--note", "a test", "--memory", "1200000"])
        #expect(stored.exitCode == 0, "\(stored.errors)")
        #expect(stored.errors.contains("4488 of 4488 tokens"))
        let shown = try kvctl(
            ["show", kvctl.folder.path("profile"), "--layout", kvctl.folder.path("layout")])
        #expect(shown.output.contains("a test"))
        #expect(shown.output.contains("q2 predictive"))
        #expect(!shown.output.contains("K before RoPE"))
    }

    @Test func `says what to do when it cannot`() throws {
        let kvctl = try Learning()
        let small = try kvctl.file("small", MadeUpChunks.payload(tokenCount: 100, seed: 1))
        let torn = try kvctl.file("torn", [UInt8](repeating: 0, count: 777))
        let zeros = try kvctl.file(
            "zeros", [UInt8](repeating: 0, count: 5_000 * MadeUpChunks.tokenByteCount))
        let cases: [(arguments: [String], exitCode: Int32, cure: String)] = [
            (["learn", "-o", "x"], 2, "--stored-in"),
            (["learn", "-o", "x", small], 2, "--layout"),
            (kvctl.learn + [small, "--position", "0"], 2, "give more chunks"),
            (kvctl.learn + [small], 2, "--keys-as-stored"),
            (kvctl.learn + [torn, "--position", "0"], 2, "kvctl get"),
            (kvctl.learn + [zeros, "--position", "0"], 5, "is the same in all tokens"),
            (kvctl.learn + [small, "--memory", "much"], 2, "--memory"),
            (kvctl.learn + [small, "--memory", "10"], 2, "--memory is too small"),
            (kvctl.learn + [small, "--steps", "1,2,3"], 2, "steps"),
            (kvctl.learn + [small, "--steps", "2,1,3,4"], 2, "steps"),
            (kvctl.learn + [small, "--group", "0"], 2, "--group"),
            (kvctl.learn + [small, "--lookback", "3"], 2, "--lookback"),
            (kvctl.learn + ["/nonexistent/chunk"], 7, "is no file"),
            (kvctl.learn + ["--list", torn], 7, "is no file"),
            (kvctl.learn + [String(repeating: "ab", count: 32)], 3, "KVSTORE_ADDRESS"),
        ]
        for (arguments, exitCode, cure) in cases {
            let result = try kvctl(arguments)
            #expect(result.exitCode == exitCode, "\(arguments): \(result.errors)")
            #expect(result.errors.contains(cure), "\(arguments): \(result.errors)")
            #expect(result.output.isEmpty)
        }
        #expect(!FileManager.default.fileExists(atPath: kvctl.folder.path("profile")))
    }
}

extension Desk {
    fileprivate func put(
        _ client: Client<RingReactor>, _ label: ChunkLabel, _ bytes: [UInt8]
    ) async throws {
        let outcome = try await client.put(label, pinned(bytes), deadline: soon)
        #expect(outcome == .stored)
    }

    /// Stores a chunk and asks for it at Q2 until it comes in mode scalar, for up to 30 seconds:
    /// the daemon looks for new profiles every ten.
    fileprivate func expectScalar(
        _ address: StreamAddress, _ label: ChunkLabel, _ bytes: [UInt8]
    ) async throws {
        let client = client(address)
        defer { client.close() }
        try await put(client, label, bytes)
        var mode: UInt8 = 0
        for _ in 0..<300 where mode != 4 {
            let found = try #require(
                try await client.fetch(label.key, GetOptions(level: 4), deadline: soon))
            mode = found.bytes[9]
            withExtendedLifetime(found) {}
            if mode != 4 { try await pause(milliseconds: 100) }
        }
        #expect(mode == 4)
    }
}
