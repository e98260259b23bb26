// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// Writes little-endian fields one after another into memory that has room for them; traps when
/// it has not, since every writer knows its sizes. Allocates nothing.
package struct FieldWriter {
    @usableFromInline
    let target: PinnedBytes
    /// Bytes written so far.
    @usableFromInline
    package private(set) var count = 0

    /// Writes from the start of `target`.
    package init(_ target: PinnedBytes) {
        self.target = target
    }

    /// Appends `number` in its own width.
    @inlinable
    package mutating func append<Number: FixedWidthInteger & BitwiseCopyable>(_ number: Number) {
        let size = MemoryLayout<Number>.size
        target.slice(offset: count, count: size).withMutableBytes { bytes in
            bytes.storeBytes(of: number.littleEndian, toByteOffset: 0, as: Number.self)
        }
        advance(size)
    }

    @usableFromInline
    mutating func advance(_ byteCount: Int) {
        count += byteCount
    }

    /// Appends a key's 32 bytes.
    package mutating func append(_ key: ChunkKey) {
        append(key.words.0)
        append(key.words.1)
        append(key.words.2)
        append(key.words.3)
    }

    /// Appends a layout id's 16 bytes.
    package mutating func append(_ layout: LayoutID) {
        append(layout.words.0)
        append(layout.words.1)
    }

    /// Appends `byteCount` zero bytes: reserved fields.
    package mutating func append(zeros byteCount: Int) {
        target.slice(offset: count, count: byteCount).fill(0)
        count += byteCount
    }

    /// Leaves `byteCount` bytes as they are: they were written in place before.
    package mutating func skip(_ byteCount: Int) {
        invariant(byteCount <= target.count - count, "skip outside the target")
        count += byteCount
    }

    /// Appends bytes as they are.
    package mutating func append(contentsOf bytes: some Sequence<UInt8>) {
        for byte in bytes { append(byte) }
    }

    /// Appends `u8 byte count ‖ text`, cut between characters to `byteCountMax` (at most 255)
    /// bytes.
    package mutating func append(shortText text: String, byteCountMax: Int = 255) {
        let byteCount = text.utf8Count(atMost: byteCountMax)
        append(UInt8(byteCount))
        append(contentsOf: text.utf8.prefix(byteCount))
    }

    /// Appends `u16 byte count ‖ text`; traps when the text has more than 65,535 bytes.
    package mutating func append(longText text: String) {
        append(UInt16(text.utf8.count))
        append(contentsOf: text.utf8)
    }

    /// Appends an error text (docs/protocol.md, section 2), cut to its limit between characters.
    package mutating func append(errorText text: String) {
        let byteCount = text.utf8Count(atMost: Limits.messageByteCountMax)
        append(UInt16(byteCount))
        append(contentsOf: text.utf8.prefix(byteCount))
    }
}

/// Reads little-endian fields one after another; every read past the end throws, so that a decoder
/// is total. Allocates nothing, except for texts and byte arrays.
package struct FieldReader {
    private let source: PinnedBytes
    /// Bytes read so far.
    package private(set) var offset = 0

    /// Reads from the start of `source`.
    package init(_ source: PinnedBytes) {
        self.source = source
    }

    /// Bytes not read yet.
    package var remainingCount: Int { source.count - offset }

    /// Reads a number in its own width.
    @inlinable
    package mutating func read<Number: FixedWidthInteger & BitwiseCopyable>(
        _ type: Number.Type = Number.self
    ) throws(WireFault) -> Number {
        let size = MemoryLayout<Number>.size
        let field = try take(size)
        // SAFETY: every bit pattern is an integer, and `take` made sure of the bytes.
        return field.withBytes { unsafe Number(littleEndian: $0.unsafeLoadUnaligned(as: type)) }
    }

    /// Reads a key.
    package mutating func readKey() throws(WireFault) -> ChunkKey {
        ChunkKey(words: (try read(), try read(), try read(), try read()))
    }

    /// Reads a layout id.
    package mutating func readLayout() throws(WireFault) -> LayoutID {
        LayoutID(words: (try read(), try read()))
    }

    /// Reads `byteCount` bytes that must be zero.
    package mutating func readReserved(_ byteCount: Int) throws(WireFault) {
        for _ in 0..<byteCount {
            guard try read(UInt8.self) == 0 else { throw .reservedNotZero(offset: offset - 1) }
        }
    }

    /// Reads `byteCount` bytes.
    package mutating func readBytes(_ byteCount: Int) throws(WireFault) -> [UInt8] {
        let field = try take(byteCount)
        return (0..<byteCount).map { field[$0] }
    }

    /// Reads `u8 byte count ‖ text` of at most `byteCountMax` bytes; bad UTF-8 is refused.
    package mutating func readShortText(
        byteCountMax: Int = 255
    ) throws(WireFault) -> String {
        let count = Int(try read(UInt8.self))
        guard count <= byteCountMax else { throw .fieldTooLong(offset: offset) }
        guard let text = String(validating: try readBytes(count), as: UTF8.self) else {
            throw .notText(offset: offset)
        }
        return text
    }

    /// Reads `u16 byte count ‖ text` of at most `byteCountMax` bytes; bad UTF-8 is refused.
    package mutating func readLongText(
        byteCountMax: Int = Int(UInt16.max)
    ) throws(WireFault) -> String {
        let count = Int(try read(UInt16.self))
        guard count <= byteCountMax else { throw .fieldTooLong(offset: offset) }
        guard let text = String(validating: try readBytes(count), as: UTF8.self) else {
            throw .notText(offset: offset)
        }
        return text
    }

    /// Reads an error text; bad UTF-8 is repaired, since it is only shown to people.
    package mutating func readErrorText() throws(WireFault) -> String {
        let count = Int(try read(UInt16.self))
        guard count <= Limits.messageByteCountMax else { throw .fieldTooLong(offset: offset) }
        return String(decoding: try readBytes(count), as: UTF8.self)
    }

    /// Reads `count` runs of `elementByteCount` bytes, without copying them.
    package mutating func readRun(
        count: Int, elementByteCount: Int
    ) throws(WireFault) -> PinnedBytes {
        try take(count * elementByteCount)
    }

    /// Nothing may follow.
    package func finish() throws(WireFault) {
        guard remainingCount == 0 else { throw .bytesLeftOver(remainingCount) }
    }

    @usableFromInline
    mutating func take(_ byteCount: Int) throws(WireFault) -> PinnedBytes {
        guard byteCount <= remainingCount else {
            throw .bodyEndsEarly(offset: offset, needed: byteCount)
        }
        defer { offset += byteCount }
        return source.slice(offset: offset, count: byteCount)
    }
}

extension String {
    /// How many bytes of UTF-8 to keep when at most `limit` fit, so that no character is cut.
    fileprivate func utf8Count(atMost limit: Int) -> Int {
        guard utf8.count > limit else { return utf8.count }
        var end = utf8.index(utf8.startIndex, offsetBy: limit)
        while end.samePosition(in: unicodeScalars) == nil { end = utf8.index(before: end) }
        return utf8.distance(from: utf8.startIndex, to: end)
    }
}

/// Keys in the body of a request, read in place. Good for as long as the body's memory is.
package struct KeyList {
    private let bytes: PinnedBytes
    package let count: Int

    init(_ reader: inout FieldReader, count: Int) throws(WireFault) {
        bytes = try reader.readRun(count: count, elementByteCount: ChunkKey.byteCount)
        self.count = count
    }

    /// The key at `index`; traps outside `0..<count`.
    package subscript(index: Int) -> ChunkKey {
        var reader = FieldReader(
            bytes.slice(offset: index * ChunkKey.byteCount, count: ChunkKey.byteCount))
        do {
            return try reader.readKey()
        } catch {
            preconditionFailure("32 bytes are a key")
        }
    }
}
