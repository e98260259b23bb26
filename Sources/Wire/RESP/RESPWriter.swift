// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// Writes replies one after another into memory; traps when there is no room, which its owner
/// makes sure of. A confined value; allocates nothing.
package struct RESPWriter {
    /// The protocol versions that a client may choose.
    package enum Version: Int, Sendable {
        case two = 2
        case three = 3
    }

    private let target: PinnedBytes
    /// Bytes written since `clear`.
    package private(set) var count = 0
    package var version = Version.two

    /// Writes from the start of `target`.
    package init(_ target: PinnedBytes) {
        self.target = target
    }

    /// Bytes that still fit.
    package var room: Int { target.count - count }

    /// What was written.
    package var bytes: PinnedBytes { target.prefix(count) }

    /// Begins again at the start.
    package mutating func clear() {
        count = 0
    }

    // MARK: Replies

    package mutating func simple(_ text: StaticString) {
        append(UInt8(ascii: "+"))
        append(text)
        lineEnd()
    }

    package mutating func error(_ text: StaticString) {
        append(UInt8(ascii: "-"))
        append(text)
        lineEnd()
    }

    /// An error with text that the client chose, of which unprintable bytes become `?`.
    package mutating func error(_ text: StaticString, naming name: PinnedBytes) {
        append(UInt8(ascii: "-"))
        append(text)
        append(UInt8(ascii: "'"))
        for index in 0..<min(name.count, 64) {
            let isPlain = (0x20..<0x7f).contains(name[index]) && name[index] != UInt8(ascii: "'")
            append(isPlain ? name[index] : UInt8(ascii: "?"))
        }
        append(UInt8(ascii: "'"))
        lineEnd()
    }

    package mutating func integer(_ value: Int) {
        append(UInt8(ascii: ":"))
        decimal(value)
        lineEnd()
    }

    package mutating func null() {
        append(version == .two ? "$-1\r\n" : "_\r\n")
    }

    /// The head of a bulk string whose bytes and line end follow.
    package mutating func bulkHead(_ byteCount: Int) {
        head(UInt8(ascii: "$"), byteCount)
    }

    package mutating func bulk(_ bytes: PinnedBytes) {
        bulkHead(bytes.count)
        append(bytes)
        lineEnd()
    }

    package mutating func bulk(_ text: String) {
        bulkHead(text.utf8.count)
        append(text)
        lineEnd()
    }

    /// Text for people: INFO's.
    package mutating func verbatim(_ text: String) {
        guard version == .three else { return bulk(text) }
        head(UInt8(ascii: "="), text.utf8.count + 4)
        append("txt:")
        append(text)
        lineEnd()
    }

    /// The head of an array of `count` replies.
    package mutating func array(_ count: Int) {
        head(UInt8(ascii: "*"), count)
    }

    /// The head of a map of `count` pairs, which RESP2 has as an array of both.
    package mutating func map(_ count: Int) {
        version == .two ? array(2 * count) : head(UInt8(ascii: "%"), count)
    }

    // MARK: Strict replies

    /// An error line of exactly `byteCount` (at least 4) bytes: `word`, cut or padded with blanks.
    package mutating func error(_ word: StaticString, ofByteCount byteCount: Int) {
        let room = byteCount - 3
        invariant(room >= 1, "an error line has a minus, a letter and a line end")
        append(UInt8(ascii: "-"))
        let start = count
        append(word)
        count = min(count, start + room)
        while count < start + room { append(UInt8(ascii: " ")) }
        lineEnd()
    }

    /// Bytes of the head of a bulk string of `byteCount` bytes.
    package static func bulkHeadByteCount(_ byteCount: Int) -> Int {
        var (digitCount, rest) = (1, byteCount / 10)
        while rest > 0 {
            digitCount += 1
            rest /= 10
        }
        return 3 + digitCount
    }

    // MARK: Parts

    private mutating func head(_ mark: UInt8, _ number: Int) {
        append(mark)
        decimal(number)
        lineEnd()
    }

    private mutating func decimal(_ number: Int) {
        if number < 0 { append(UInt8(ascii: "-")) }
        var rest = number.magnitude
        var digitCount = 1
        var scale: UInt = 1
        while rest / scale >= 10 {
            scale *= 10
            digitCount += 1
        }
        for _ in 0..<digitCount {
            append(UInt8(ascii: "0") + UInt8(rest / scale))
            rest %= scale
            scale /= 10
        }
    }

    private mutating func lineEnd() {
        append(UInt8(ascii: "\r"))
        append(UInt8(ascii: "\n"))
    }

    private mutating func append(_ byte: UInt8) {
        target.store(byte, at: count)
        count += 1
    }

    /// Appends bytes that are, or are part of, a reply.
    package mutating func append(_ bytes: PinnedBytes) {
        target.dropFirst(count).copy(from: bytes)
        count += bytes.count
    }

    private mutating func append(_ text: String) {
        for byte in text.utf8 { append(byte) }
    }

    private mutating func append(_ text: StaticString) {
        // SAFETY: static text is constant memory of that many bytes, and is only read.
        let bytes = unsafe PinnedBytes(
            start: UnsafeMutableRawPointer(mutating: text.utf8Start),
            count: text.utf8CodeUnitCount)
        append(bytes)
    }
}
