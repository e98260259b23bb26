// SPDX-License-Identifier: Apache-2.0
import Foundation
import KVCore
import Testing

@testable import Kernels

/// Reads Tests/Vectors/key/`name`.
private func vectors<Vector: Decodable>(_ name: String, of type: Vector.Type) throws -> [Vector] {
    let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .deletingLastPathComponent().appendingPathComponent("Vectors/key")
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    return try decoder.decode(
        [Vector].self, from: Data(contentsOf: folder.appendingPathComponent(name)))
}

private struct LayoutVector: Decodable {
    struct Field: Decodable {
        let name: String
        let text: String?
        let whole: Int?
        let doubleBits: UInt64?

        var value: LayoutDescription.Value {
            if let text { return .text(text) }
            if let whole { return .whole(whole) }
            return .real(Double(bitPattern: doubleBits!))
        }
    }

    let name: String
    let fields: [Field]
    let canonical: String
    let id: String
}

private struct PrefixVector: Decodable {
    let name: String
    let secret: String
    let layout: String
    let tokens: [UInt32]
    let tokensPerChunk: Int
    let keys: [String]
}

private struct SingleVector: Decodable {
    let name: String
    let secret: String
    let layout: String?
    let tokens: [UInt32]?
    let opaqueName: String?
    let key: String
}

private func derivation(_ secret: String) -> KeyDerivation {
    KeyDerivation(secret: bytesFromHexadecimal(secret)!)
}

private func layout(_ text: String) -> LayoutID {
    LayoutID(bytes: bytesFromHexadecimal(text)!)!
}

@Suite struct `The vectors of keys` {
    @Test func `hold for layout descriptions`() throws {
        let all = try vectors("layouts.json", of: LayoutVector.self)
        #expect(!all.isEmpty)
        for vector in all {
            var description = LayoutDescription()
            for field in vector.fields.shuffled() {
                try description.set(field.name, field.value)
            }
            #expect(description.canonicalForm == vector.canonical, "\(vector.name)")
            #expect(description.id.description == vector.id, "\(vector.name)")
        }
    }

    @Test func `hold for prefixes`() throws {
        let all = try vectors("prefixes.json", of: PrefixVector.self)
        #expect(all.contains { $0.keys.count > 2 })
        for vector in all {
            let keys = derivation(vector.secret).prefixKeys(
                layout: layout(vector.layout), tokens: vector.tokens,
                chunkTokenCount: vector.tokensPerChunk)
            #expect(keys.map(\.description) == vector.keys, "\(vector.name)")
        }
    }

    @Test func `hold for position-independent chunks and opaque values`() throws {
        let all = try vectors("singles.json", of: SingleVector.self)
        #expect(!all.isEmpty)
        for vector in all {
            let keys = derivation(vector.secret)
            let key =
                if let name = vector.opaqueName {
                    keys.opaqueKey(name: bytesFromHexadecimal(name)!)
                } else {
                    keys.positionIndependentKey(
                        layout: layout(vector.layout!), tokens: vector.tokens!)
                }
            #expect(key.description == vector.key, "\(vector.name)")
        }
    }
}

@Suite struct `A key derivation` {
    private let keys = KeyDerivation(secret: [UInt8](repeating: 7, count: 32))

    @Test func `gives a longer prompt the keys of its prefix`() {
        let tokens = (0..<100).map { UInt32($0) }
        let long = keys.prefixKeys(layout: .opaque, tokens: tokens, chunkTokenCount: 10)
        let short = keys.prefixKeys(
            layout: .opaque, tokens: Array(tokens.prefix(55)), chunkTokenCount: 10)
        #expect(long.count == 10)
        #expect(short == Array(long.prefix(5)))
        #expect(Set(long).count == long.count)
    }

    @Test func `keeps namespaces, layouts and kinds apart`() {
        let tokens: [UInt32] = [1, 2, 3, 4]
        let other = KeyDerivation(secret: [UInt8](repeating: 8, count: 32))
        let layouts = [LayoutID.opaque, LayoutID(words: (1, 0)), LayoutID(words: (0, 1))]
        var all: [ChunkKey] = []
        for derivation in [keys, other] {
            for layout in layouts {
                all += derivation.prefixKeys(layout: layout, tokens: tokens, chunkTokenCount: 4)
                all.append(derivation.positionIndependentKey(layout: layout, tokens: tokens))
            }
            all.append(derivation.opaqueKey(name: Array("name".utf8)))
        }
        #expect(Set(all).count == 14)
    }

    @Test func `does not take a secret of another size`() async {
        await #expect(processExitsWith: .failure) {
            _ = KeyDerivation(secret: [1, 2, 3])
        }
    }
}

@Suite struct `A layout description` {
    @Test(arguments: ["", "Upper", "with space", "dash-ed", "kvstore_layout", "ö", "a=b", "a\nb"])
    func `refuses a name that the text does not allow`(name: String) {
        #expect(throws: LayoutFault.badName(name)) {
            var description = LayoutDescription()
            try description.set(name, .whole(1))
        }
    }

    @Test(
        arguments: [
            .text("two\nlines"), .text("carriage\rreturn"), .text("both\r\n"), .real(.infinity),
            .real(.nan),
        ] as [LayoutDescription.Value])
    func `refuses a value that is no line`(value: LayoutDescription.Value) {
        #expect(throws: LayoutFault.badValue(name: "a")) {
            var description = LayoutDescription()
            try description.set("a", value)
        }
    }

    @Test func `says the last value of a name`() throws {
        var description = LayoutDescription()
        try description.set("a", .whole(1))
        try description.set("a", .real(1))
        #expect(description.canonicalForm == "kvstore_layout=1\na=1.0\n")
    }
}
