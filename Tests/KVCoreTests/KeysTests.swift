// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import KVCore

@Suite struct `A chunk key` {
    private let bytes = [UInt8](0..<32)

    @Test func `keeps its bytes in order`() throws {
        let key = try #require(ChunkKey(bytes: bytes))
        #expect(key.words.0 == 0x0706_0504_0302_0100)
        #expect(key.words.3 == 0x1F1E_1D1C_1B1A_1918)
        #expect(key.bytes == bytes)
        #expect(ChunkKey(hexadecimal: key.description) == key)
        #expect(
            key.description
                == "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
    }

    @Test func `has exactly 32 bytes`() {
        #expect(ChunkKey(bytes: []) == nil)
        #expect(ChunkKey(bytes: Array(bytes.dropLast())) == nil)
        #expect(ChunkKey(bytes: bytes + [0]) == nil)
        #expect(ChunkKey(hexadecimal: "00") == nil)
    }

    @Test func `differs in any byte`() throws {
        let key = try #require(ChunkKey(bytes: bytes))
        for index in bytes.indices {
            var other = bytes
            other[index] ^= 0x80
            #expect(ChunkKey(bytes: other) != key)
        }
    }
}

@Suite struct `A layout id` {
    @Test func `keeps its bytes in order, and zero is opaque`() throws {
        let bytes = [UInt8](1...16)
        let layout = try #require(LayoutID(bytes: bytes))
        #expect(layout.bytes == bytes)
        #expect(layout.description == "0102030405060708090a0b0c0d0e0f10")
        #expect(LayoutID(bytes: [UInt8](repeating: 0, count: 16)) == .opaque)
        #expect(LayoutID(bytes: [1]) == nil)
        for index in bytes.indices {
            var other = bytes
            other[index] ^= 1
            #expect(LayoutID(bytes: other) != layout)
        }
    }
}

@Suite struct `Hexadecimal text` {
    @Test func `reads back all bytes`() {
        let bytes = [UInt8](0...255)
        #expect(bytesFromHexadecimal(hexadecimal(bytes)) == bytes)
        #expect(bytesFromHexadecimal(hexadecimal(bytes).uppercased()) == bytes)
        #expect(bytesFromHexadecimal("") == [])
    }

    @Test(arguments: ["0", "0g", " 00", "0x00", "00 ", "é0", "+1"])
    func `is refused when it is none`(text: String) {
        #expect(bytesFromHexadecimal(text) == nil)
    }
}
