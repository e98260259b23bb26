// SPDX-License-Identifier: Apache-2.0

/// The type of a payload's values, with its number in a container. All conversions are those of
/// docs/container-format.md: exact to `Float`, and back to nearest even, never to an infinity.
package enum ValueType: UInt8, Hashable, Sendable, CaseIterable {
    case float16 = 1
    case bfloat16 = 2
    case float32 = 3
    /// The variant without infinities.
    case float8E4M3 = 4
    case float8E5M2 = 5

    /// From the name in a layout description; nil for a type that is none of these.
    package init?(name: some StringProtocol) {
        switch name {
        case "float16": self = .float16
        case "bfloat16": self = .bfloat16
        case "float32": self = .float32
        case "float8_e4m3", "float8_e4m3fn": self = .float8E4M3
        case "float8_e5m2": self = .float8E5M2
        default: return nil
        }
    }

    /// Bytes of a value.
    package var byteCount: Int {
        switch self {
        case .float16, .bfloat16: 2
        case .float32: 4
        case .float8E4M3, .float8E5M2: 1
        }
    }

    /// The number that `bits` stand for; infinite or NaN where they are.
    @inline(__always)
    package func widened(_ bits: UInt32) -> Float {
        switch self {
        case .float32: Float(bitPattern: bits)
        case .bfloat16: Float(bitPattern: bits << 16)
        case .float16: Minifloat.float16.widened(bits)
        case .float8E4M3: Minifloat.float8E4M3.widened(bits)
        case .float8E5M2: Minifloat.float8E5M2.widened(bits)
        }
    }

    /// The bits nearest to a finite `value`; the largest finite ones for what is larger.
    @inline(__always)
    package func narrowed(_ value: Float) -> UInt32 {
        switch self {
        case .float32: return value.bitPattern
        case .bfloat16:
            let magnitude = value.bitPattern & 0x7fff_ffff
            let rounded = (magnitude + 0x7fff + (magnitude >> 16 & 1)) >> 16
            return min(rounded, 0x7f7f) | (value.bitPattern >> 31) << 15
        case .float16: return Minifloat.float16.narrowed(value)
        case .float8E4M3: return Minifloat.float8E4M3.narrowed(value)
        case .float8E5M2: return Minifloat.float8E5M2.narrowed(value)
        }
    }

    /// Rotated to the left by one bit within the value's width, so that the sign comes last; a
    /// float8 as it is.
    @inline(__always)
    func rotated(_ bits: UInt32) -> UInt32 {
        switch byteCount {
        case 1: bits
        case 2: (bits << 1 | bits >> 15) & 0xffff
        default: bits << 1 | bits >> 31
        }
    }

    /// The inverse of `rotated`.
    @inline(__always)
    func unrotated(_ bits: UInt32) -> UInt32 {
        switch byteCount {
        case 1: bits
        case 2: (bits >> 1 | bits << 15) & 0xffff
        default: bits >> 1 | bits << 31
        }
    }
}

/// A binary floating-point format with fewer exponents than `Float`, as its numbers.
private struct Minifloat {
    let bitCount: UInt32
    let mantissaBitCount: UInt32
    /// Exponent of the smallest normal number.
    let exponentMin: Int32
    /// Bits of the largest finite number.
    let largest: UInt32
    /// Magnitudes from these bits on are NaN or, where `hasInfinity`, the infinity.
    let special: UInt32
    let hasInfinity: Bool

    static let float16 = Minifloat(
        bitCount: 16, mantissaBitCount: 10, exponentMin: -14, largest: 0x7bff, special: 0x7c00,
        hasInfinity: true)
    static let float8E4M3 = Minifloat(
        bitCount: 8, mantissaBitCount: 3, exponentMin: -6, largest: 0x7e, special: 0x7f,
        hasInfinity: false)
    static let float8E5M2 = Minifloat(
        bitCount: 8, mantissaBitCount: 2, exponentMin: -14, largest: 0x7b, special: 0x7c,
        hasInfinity: true)

    @inline(__always)
    func widened(_ bits: UInt32) -> Float {
        let sign = (bits >> (bitCount - 1)) << 31
        let magnitude = bits & ((1 << (bitCount - 1)) - 1)
        if magnitude >= special {
            let isInfinity = hasInfinity && magnitude == special
            return Float(bitPattern: sign | (isInfinity ? 0x7f80_0000 : 0x7fc0_0000))
        }
        // The exponent lands 2^(127 - bias) too low, for subnormal numbers too.
        let scale = Float(bitPattern: UInt32(254 - (1 - exponentMin)) << 23)
        let shifted = Float(bitPattern: magnitude << (23 - mantissaBitCount)) * scale
        return Float(bitPattern: shifted.bitPattern | sign)
    }

    @inline(__always)
    func narrowed(_ value: Float) -> UInt32 {
        let magnitude = value.bitPattern & 0x7fff_ffff
        let sign = (value.bitPattern >> 31) << (bitCount - 1)
        let exponent = max(Int32(magnitude >> 23) - 127, exponentMin)
        // From here on the largest number results, and scaling would overflow.
        if exponent > 16 { return largest | sign }
        let scale = Float(
            bitPattern: UInt32(127 + Int32(mantissaBitCount) - exponent) << 23)
        // Adding 1.5 × 2^23 rounds to a whole number, to nearest even.
        let units = Float(bitPattern: magnitude) * scale + 0x1.8p23
        let code =
            UInt32(exponent - exponentMin) << mantissaBitCount + (units.bitPattern & 0x3f_ffff)
        return min(code, largest) | sign
    }
}
