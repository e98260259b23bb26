// SPDX-License-Identifier: Apache-2.0

/// The 32-byte name of a chunk, computed by the client (docs/key-derivation.md). A value.
///
/// The bytes are a hash already, so the table index takes eight of them as they are.
package struct ChunkKey: Hashable, Sendable, BitwiseCopyable, CustomStringConvertible {
    /// The key's bytes, as four little-endian words in order.
    package var words: (UInt64, UInt64, UInt64, UInt64)

    package static let byteCount = 32

    @inlinable
    package init(words: (UInt64, UInt64, UInt64, UInt64)) {
        self.words = words
    }

    @inlinable
    package static func == (left: ChunkKey, right: ChunkKey) -> Bool {
        left.words.0 == right.words.0 && left.words.1 == right.words.1
            && left.words.2 == right.words.2 && left.words.3 == right.words.3
    }

    @inlinable
    package func hash(into hasher: inout Hasher) {
        hasher.combine(words.0)
        hasher.combine(words.1)
    }

    /// The 32 bytes in order.
    package var bytes: [UInt8] {
        [words.0, words.1, words.2, words.3].flatMap { word in
            (0..<8).map { UInt8(truncatingIfNeeded: word >> (8 * UInt64($0))) }
        }
    }

    /// From exactly 32 bytes; nil for another count.
    package init?(bytes: [UInt8]) {
        guard bytes.count == Self.byteCount else { return nil }
        func word(_ index: Int) -> UInt64 {
            (0..<8).reduce(0) { $0 | UInt64(bytes[index * 8 + $1]) << (8 * UInt64($1)) }
        }
        self.init(words: (word(0), word(1), word(2), word(3)))
    }

    /// Lower-case hexadecimal, 64 digits.
    package var description: String { hexadecimal(bytes) }

    /// From 64 hexadecimal digits; nil for anything else.
    package init?(hexadecimal text: String) {
        guard let bytes = bytesFromHexadecimal(text) else { return nil }
        self.init(bytes: bytes)
    }
}

/// The 16-byte hash of a layout description (what a chunk's bytes mean); all zero is `opaque`.
package struct LayoutID: Hashable, Sendable, CustomStringConvertible {
    package var words: (UInt64, UInt64)

    package static let byteCount = 16
    /// Bytes without a KV layout: hidden states, encoder output, values of other protocols.
    package static var opaque: LayoutID { LayoutID(words: (0, 0)) }

    @inlinable
    package init(words: (UInt64, UInt64)) {
        self.words = words
    }

    @inlinable
    package static func == (left: LayoutID, right: LayoutID) -> Bool {
        left.words.0 == right.words.0 && left.words.1 == right.words.1
    }

    @inlinable
    package func hash(into hasher: inout Hasher) {
        hasher.combine(words.0)
    }

    /// The 16 bytes in order.
    package var bytes: [UInt8] {
        [words.0, words.1].flatMap { word in
            (0..<8).map { UInt8(truncatingIfNeeded: word >> (8 * UInt64($0))) }
        }
    }

    /// From exactly 16 bytes; nil for another count.
    package init?(bytes: [UInt8]) {
        guard bytes.count == Self.byteCount else { return nil }
        func word(_ index: Int) -> UInt64 {
            (0..<8).reduce(0) { $0 | UInt64(bytes[index * 8 + $1]) << (8 * UInt64($1)) }
        }
        self.init(words: (word(0), word(1)))
    }

    package var description: String { hexadecimal(bytes) }
}

/// A tenant, numbered by the daemon that serves it; 0 is the default namespace.
package struct NamespaceID: Hashable, Sendable {
    package let number: UInt16

    @inlinable
    package init(number: UInt16) {
        self.number = number
    }

    @inlinable
    package static var `default`: NamespaceID { NamespaceID(number: 0) }
}

/// Lower-case hexadecimal digits of `bytes`.
package func hexadecimal(_ bytes: some Sequence<UInt8>) -> String {
    let digits = Array("0123456789abcdef".utf8)
    var text: [UInt8] = []
    for byte in bytes {
        text.append(digits[Int(byte >> 4)])
        text.append(digits[Int(byte & 15)])
    }
    return String(decoding: text, as: UTF8.self)
}

/// The bytes that hexadecimal `text` spells; nil when a character is no digit or one is missing.
package func bytesFromHexadecimal(_ text: String) -> [UInt8]? {
    let digits = Array(text.utf8)
    guard digits.count.isMultiple(of: 2) else { return nil }
    var bytes: [UInt8] = []
    bytes.reserveCapacity(digits.count / 2)
    for index in stride(from: 0, to: digits.count, by: 2) {
        guard let high = nibble(digits[index]), let low = nibble(digits[index + 1]) else {
            return nil
        }
        bytes.append(high << 4 | low)
    }
    return bytes
}

private func nibble(_ digit: UInt8) -> UInt8? {
    switch digit {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): digit - UInt8(ascii: "0")
    case UInt8(ascii: "a")...UInt8(ascii: "f"): digit - UInt8(ascii: "a") + 10
    case UInt8(ascii: "A")...UInt8(ascii: "F"): digit - UInt8(ascii: "A") + 10
    default: nil
    }
}
