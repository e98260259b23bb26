// SPDX-License-Identifier: Apache-2.0

import Codec
import Testing

@Suite struct `A value` {
    @Test(arguments: [ValueType.float16, .bfloat16, .float8E4M3, .float8E5M2])
    func `of any type comes back from a float`(type: ValueType) {
        for bits in UInt32(0)..<1 << UInt32(8 * type.byteCount) {
            let value = type.widened(bits)
            if value.isFinite, type.narrowed(value) != bits {
                Issue.record("\(type) \(bits): \(value) becomes \(type.narrowed(value))")
            }
        }
    }

    @Test func `of 16 bits is what the processor says`() {
        for bits in UInt16(0)...UInt16.max {
            let expected = Float(Float16(bitPattern: bits))
            let value = ValueType.float16.widened(UInt32(bits))
            if value != expected && !(value.isNaN && expected.isNaN) {
                Issue.record("\(bits): \(value), not \(expected)")
            }
        }
    }

    @Test func `is rounded to the nearest half, ties to even`() {
        var numbers = SeededNumbers(seed: 5)
        for round in 0..<50_000 {
            let value = Float(bitPattern: UInt32.random(in: 0...UInt32.max, using: &numbers))
            guard value.isFinite else { continue }
            let expected = Float16(value)
            let bits = ValueType.float16.narrowed(value)
            let largest = UInt32(value.sign == .minus ? 0xfbff : 0x7bff)
            if bits != (expected.isFinite ? UInt32(expected.bitPattern) : largest) {
                Issue.record("round \(round) of seed 5: \(value) becomes \(bits)")
            }
        }
    }

    @Test(arguments: [
        (ValueType.bfloat16, Float(1.00390625), UInt32(0x3f80)), (.bfloat16, 1.01171875, 0x3f82),
        (.bfloat16, .greatestFiniteMagnitude, 0x7f7f), (.bfloat16, -.leastNonzeroMagnitude, 0x8000),
        (.float8E4M3, 448, 0x7e), (.float8E4M3, 1e9, 0x7e), (.float8E4M3, 464, 0x7e),
        (.float8E4M3, 0.0009765625, 0), (.float8E4M3, 0.0029296875, 0x02),
        (.float8E4M3, 1.0625, 0x38), (.float8E4M3, 1.1875, 0x3a), (.float8E4M3, -0.5, 0xb0),
        (.float8E5M2, 60_000, 0x7b), (.float8E5M2, -1.125, 0xbc), (.float8E5M2, 1.375, 0x3e),
        (.float32, .greatestFiniteMagnitude, 0x7f7f_ffff),
    ])
    func `is rounded to the nearest, and never to an infinity`(
        type: ValueType, value: Float, bits: UInt32
    ) {
        #expect(type.narrowed(value) == bits)
    }
}
