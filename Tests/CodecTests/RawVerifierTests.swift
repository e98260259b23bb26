// SPDX-License-Identifier: Apache-2.0

import Codec
import KVCore
import Testing

@Suite struct `A raw chunk` {
    private func chunk(_ count: Int, flipping index: Int? = nil) -> OwnedBytes {
        let memory = OwnedBytes(count: count)
        memory.bytes.withMutableBytes { bytes in
            for offset in 0..<count {
                let byte = UInt8(truncatingIfNeeded: offset &* 31)
                bytes.storeBytes(of: byte, toByteOffset: offset, as: UInt8.self)
            }
            if let index {
                bytes.storeBytes(of: 0xee, toByteOffset: index, as: UInt8.self)
            }
        }
        return memory
    }

    /// XXH3-64 of the chunk of 1,000 bytes, from the reference implementation.
    private static let expected: UInt64 = 0x2a7a_65d1_3a14_50eb

    @Test(arguments: [1, 7, 256, 999, 1_000])
    func `is known by its checksum, in whatever pieces it comes`(pieceByteCount: Int) {
        let memory = chunk(1_000)
        let verifier = RawVerifier()
        for _ in 0..<2 {
            verifier.reset()
            for offset in stride(from: 0, to: 1_000, by: pieceByteCount) {
                let count = min(pieceByteCount, 1_000 - offset)
                verifier.add(memory.bytes.slice(offset: offset, count: count))
            }
            #expect(verifier.matches(Self.expected))
        }
    }

    @Test(arguments: [0, 500, 999])
    func `is refused when one byte is another`(index: Int) {
        let verifier = RawVerifier()
        verifier.reset()
        verifier.add(chunk(1_000, flipping: index).bytes)
        #expect(!verifier.matches(Self.expected))
    }
}
