// SPDX-License-Identifier: Apache-2.0
import KVCore
import Testing

@testable import Kernels

@Suite struct `A checksum` {
    /// `count` bytes of the sequence that xxHash's own checks use.
    private func sample(_ count: Int) -> OwnedBytes {
        let memory = OwnedBytes(count: max(count, 1))
        var generator: UInt64 = 2_654_435_761
        memory.bytes.withMutableBytes { span in
            for offset in 0..<count {
                span.storeBytes(
                    of: UInt8(generator >> 56), toByteOffset: offset, as: UInt8.self)
                generator = generator &* 11_400_714_785_074_694_797
            }
        }
        return memory
    }

    /// Values of xxHash's `tests/sanity_test_vectors.h`, XXH3_64bits with seed 0.
    @Test(
        arguments: [
            (0, 0x2D06_8005_38D3_94C2), (1, 0xC44B_DFF4_074E_ECDB), (6, 0x27B5_6A84_CD2D_7325),
            (12, 0xA713_DAF0_DFBB_77E7), (24, 0xA3FE_70BF_9D35_10EB), (48, 0x397D_A259_ECBA_1F11),
            (80, 0xBCDE_FBBB_2C47_C90A), (195, 0xCD94_217E_E362_EC3A),
        ] as [(Int, UInt64)])
    func `is XXH3-64 of xxHash's own samples`(count: Int, expected: UInt64) {
        let memory = sample(count)
        #expect(Checksum.of(memory.bytes.prefix(count)) == expected)
    }

    @Test func `is the same in pieces`() {
        let count = 5_000
        let memory = sample(count)
        let whole = Checksum.of(memory.bytes)
        let streaming = StreamingChecksum()
        for pieceByteCount in [1, 7, 64, 255, 256, 257, 1_024, 4_999, 5_000] {
            streaming.reset()
            var offset = 0
            while offset < count {
                let piece = min(pieceByteCount, count - offset)
                streaming.add(memory.bytes.slice(offset: offset, count: piece))
                offset += piece
            }
            #expect(streaming.value == whole, "pieces of \(pieceByteCount)")
        }
    }

    @Test func `of a span is that of its bytes, and short is its low half`() {
        let memory = sample(300)
        memory.bytes.withBytes { span in
            #expect(Checksum.of(span) == Checksum.of(memory.bytes))
            #expect(Checksum.short(span) == UInt32(truncatingIfNeeded: Checksum.of(span)))
        }
    }
}

@Suite struct `A keyed hash` {
    /// RFC 4231, test cases 1, 2 and 6.
    @Test(arguments: [
        (
            String(repeating: "0b", count: 20), "4869205468657265",
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        ),
        (
            "4a656665", "7768617420646f2079612077616e7420666f72206e6f7468696e673f",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        ),
        (
            String(repeating: "aa", count: 131),
            "54657374205573696e67204c6172676572205468616e20426c6f636b2d53697a65204b6579202d20"
                + "48617368204b6579204669727374",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        ),
    ])
    func `is HMAC-SHA256 of RFC 4231`(key: String, message: String, expected: String) {
        let digest = keyedHash(
            key: bytesFromHexadecimal(key)!, message: bytesFromHexadecimal(message)!)
        #expect(hexadecimal(digest) == expected)
    }

    @Test func `of nothing under nothing is a hash too`() {
        #expect(
            hexadecimal(keyedHash(key: [], message: []))
                == "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad")
        #expect(
            hexadecimal(secureHash([]))
                == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    }

    @Test func `comparison tells equal from different`() {
        #expect(equalInConstantTime([1, 2, 3], [1, 2, 3]))
        #expect(!equalInConstantTime([1, 2, 3], [1, 2, 4]))
        #expect(!equalInConstantTime([1, 2, 3], [1, 2]))
        #expect(equalInConstantTime([], []))
    }
}
