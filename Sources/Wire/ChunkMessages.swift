// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// The remaining time to live of a chunk that never ends.
package let timeToLiveForever = UInt64.max

/// What a PUT or COMMIT is answered after.
package enum Acknowledge: UInt8, Sendable {
    /// The chunk can be read.
    case memory = 0
    /// The chunk is on stable storage; else the answer is `notDurable`.
    case ssd = 1
}

/// The body of PUT, and of RESERVE. A value.
package struct PutRequest: Hashable, Sendable {
    package static let byteCount = 72
    /// What follows a chunk in a PUT's payload.
    package static let checksumByteCount = 8

    package var key: ChunkKey
    package var layout: LayoutID
    package var chunkByteCount: Int
    /// Milliseconds; 0: for ever.
    package var timeToLiveMilliseconds: UInt32
    /// Of the payload: 0 (raw), or that of a container, at most `levelMax`.
    package var level: UInt8
    package var acknowledge: Acknowledge
    /// Place of the chunk's first token in its sequence, below 2^32 - 1; nil when nobody knows.
    package var firstPosition: UInt32?

    package init(
        key: ChunkKey, layout: LayoutID = .opaque, chunkByteCount: Int,
        timeToLiveMilliseconds: UInt32 = 0, level: UInt8 = 0, acknowledge: Acknowledge = .memory,
        firstPosition: UInt32? = nil
    ) {
        self.key = key
        self.layout = layout
        self.chunkByteCount = chunkByteCount
        self.timeToLiveMilliseconds = timeToLiveMilliseconds
        self.level = level
        self.acknowledge = acknowledge
        self.firstPosition = firstPosition
    }

    package func encode(_ writer: inout FieldWriter) {
        writer.append(key)
        writer.append(layout)
        writer.append(UInt64(chunkByteCount))
        writer.append(timeToLiveMilliseconds)
        writer.append(level)
        writer.append(acknowledge.rawValue)
        writer.append(zeros: 4)
        // The last position of all counts as not known.
        writer.append(firstPosition.map { $0 &+ 1 } ?? 0)
        writer.append(zeros: 2)
    }

    /// Checks that a PUT's payload is the chunk and its checksum.
    package func check(payloadByteCount: UInt64) throws(WireFault) {
        guard payloadByteCount == UInt64(chunkByteCount + Self.checksumByteCount) else {
            throw .bodySizeMismatch
        }
    }

    package static func decode(_ body: PinnedBytes) throws(WireFault) -> PutRequest {
        var reader = FieldReader(body)
        let key = try reader.readKey()
        let layout = try reader.readLayout()
        let chunkByteCount = try reader.read(UInt64.self)
        let timeToLive = try reader.read(UInt32.self)
        let level = try reader.read(UInt8.self)
        let acknowledge = Acknowledge(rawValue: try reader.read())
        try reader.readReserved(4)
        let positionPlusOne = try reader.read(UInt32.self)
        try reader.readReserved(2)
        try reader.finish()
        guard level <= levelMax, let acknowledge else { throw .notOffered }
        guard chunkByteCount > 0 else { throw .badValue(offset: 56) }
        guard chunkByteCount <= Limits.chunkByteCountMax else {
            throw .badChunkByteCount(chunkByteCount)
        }
        return PutRequest(
            key: key, layout: layout, chunkByteCount: Int(chunkByteCount),
            timeToLiveMilliseconds: timeToLive, level: level, acknowledge: acknowledge,
            firstPosition: positionPlusOne == 0 ? nil : positionPlusOne - 1)
    }
}

/// The highest level that a payload has.
package let levelMax: UInt8 = 6

/// A run of a chunk's bytes, as a client asks for it; it need not lie within the chunk. A value.
package struct ByteRange: Hashable, Sendable {
    package let offset: UInt64
    /// At least 1.
    package let byteCount: UInt64

    /// Traps for a range without bytes: the protocol has none.
    package init(offset: UInt64, byteCount: UInt64) {
        invariant(byteCount > 0, "a range has at least one byte")
        self.offset = offset
        self.byteCount = byteCount
    }

    /// The same bytes of a chunk of `chunkByteCount`, or nil when some of them lie behind its end.
    package func within(chunkByteCount: UInt64) -> Range<UInt64>? {
        let (end, overflows) = offset.addingReportingOverflow(byteCount)
        return overflows || end > chunkByteCount ? nil : offset..<end
    }
}

/// The body of GET. Reads its keys in place.
package struct GetRequest {
    package static let fixedByteCount = 24
    /// A level: whichever the chunk has.
    package static let asStored: UInt8 = 255
    /// A level: whichever the daemon finds right for the deadline.
    package static let adaptive: UInt8 = 254
    private static let layoutOption: UInt8 = 1
    private static let rangeOption: UInt8 = 2

    package let keys: KeyList
    /// The level that the payload shall have: 0 (raw) to `levelMax`, `adaptive`, or `asStored`.
    package let level: UInt8
    /// The layout that every chunk must have; nil: any.
    package let layout: LayoutID?
    /// The part of every chunk that is wanted; nil: all of it.
    package let range: ByteRange?

    /// Writes what stands before the keys, which follow: `fixedByteCount` bytes, and a range.
    package static func encode(
        _ writer: inout FieldWriter, keyCount: Int, layout: LayoutID?,
        level: UInt8 = 0, range: ByteRange? = nil
    ) {
        writer.append(UInt16(keyCount))
        writer.append(level)
        writer.append((layout == nil ? 0 : layoutOption) | (range == nil ? 0 : rangeOption))
        writer.append(zeros: 4)
        writer.append(layout ?? .opaque)
        if let range {
            writer.append(range.offset)
            writer.append(range.byteCount)
        }
    }

    package static func decode(_ body: PinnedBytes) throws(WireFault) -> GetRequest {
        var reader = FieldReader(body)
        let keyCount = try reader.readKeyCount(atLeast: 1)
        let level = try reader.read(UInt8.self)
        let options = try reader.read(UInt8.self)
        try reader.readReserved(4)
        let layout = try reader.readLayout()
        guard level <= levelMax || level >= adaptive,
            options & ~(layoutOption | rangeOption) == 0
        else { throw .notOffered }
        let range = options & rangeOption == 0 ? nil : try ByteRange.decode(&reader)
        let keys = try KeyList(&reader, count: keyCount)
        try reader.finish()
        let checksLayout = options & layoutOption != 0
        guard checksLayout || layout == .opaque else { throw .reservedNotZero(offset: 8) }
        return GetRequest(
            keys: keys, level: level, layout: checksLayout ? layout : nil, range: range)
    }
}

extension ByteRange {
    fileprivate static func decode(_ reader: inout FieldReader) throws(WireFault) -> ByteRange {
        let offset = try reader.read(UInt64.self)
        let byteCount = try reader.read(UInt64.self)
        guard byteCount > 0 else { throw .badValue(offset: reader.offset) }
        return ByteRange(offset: offset, byteCount: byteCount)
    }
}

/// What is told of a chunk: the body of GET's `ok` frames and of STAT for a chunk. A value.
///
/// In the answer to a GET with a range, `chunkByteCount` is still the whole chunk's, and `checksum`
/// that of the payload: of the range's bytes.
package struct ChunkAnswer: Hashable, Sendable {
    package static let byteCount = 48

    package var index: UInt32
    package var level: UInt8
    package var chunkByteCount: UInt64
    package var checksum: UInt64
    package var layout: LayoutID
    /// Milliseconds, or `timeToLiveForever`.
    package var timeToLiveMilliseconds: UInt64

    package init(
        index: UInt32, level: UInt8 = 0, chunkByteCount: UInt64, checksum: UInt64,
        layout: LayoutID, timeToLiveMilliseconds: UInt64
    ) {
        self.index = index
        self.level = level
        self.chunkByteCount = chunkByteCount
        self.checksum = checksum
        self.layout = layout
        self.timeToLiveMilliseconds = timeToLiveMilliseconds
    }

    package func encode(_ writer: inout FieldWriter) {
        writer.append(index)
        writer.append(level)
        writer.append(zeros: 3)
        writer.append(chunkByteCount)
        writer.append(checksum)
        writer.append(layout)
        writer.append(timeToLiveMilliseconds)
    }

    package static func decode(_ body: PinnedBytes) throws(WireFault) -> ChunkAnswer {
        var reader = FieldReader(body)
        let index = try reader.read(UInt32.self)
        let level = try reader.read(UInt8.self)
        try reader.readReserved(3)
        let answer = ChunkAnswer(
            index: index, level: level, chunkByteCount: try reader.read(),
            checksum: try reader.read(), layout: try reader.readLayout(),
            timeToLiveMilliseconds: try reader.read())
        try reader.finish()
        guard (1...UInt64(Limits.chunkByteCountMax)).contains(answer.chunkByteCount) else {
            throw .badChunkByteCount(answer.chunkByteCount)
        }
        return answer
    }
}

/// The body of GET's frames that are not `ok`: which key, and why.
package struct ChunkRefusal: Hashable, Sendable {
    package var index: UInt32
    package var message: String

    package init(index: UInt32, message: String) {
        self.index = index
        self.message = message
    }

    package func encode(_ writer: inout FieldWriter) {
        writer.append(index)
        writer.append(errorText: message)
    }

    package static func decode(_ body: PinnedBytes) throws(WireFault) -> ChunkRefusal {
        var reader = FieldReader(body)
        let refusal = ChunkRefusal(
            index: try reader.read(), message: try reader.readErrorText())
        try reader.finish()
        return refusal
    }
}

/// The body of a `STAT` request. A value.
package enum StatRequest: Hashable, Sendable {
    case node
    case chunk(ChunkKey)

    package func encode(_ writer: inout FieldWriter) {
        switch self {
        case .node:
            writer.append(zeros: 8)
        case .chunk(let key):
            writer.append(UInt8(1))
            writer.append(zeros: 7)
            writer.append(key)
        }
    }

    package static func decode(_ body: PinnedBytes) throws(WireFault) -> StatRequest {
        var reader = FieldReader(body)
        let scope = try reader.read(UInt8.self)
        try reader.readReserved(7)
        guard scope <= 1 else { throw .notOffered }
        let request: StatRequest = scope == 0 ? .node : .chunk(try reader.readKey())
        try reader.finish()
        return request
    }
}

/// The body of STAT's answer about the node. A value; cold, so it may allocate.
package struct StatAnswer: Sendable {
    package var pairs: [(name: String, value: UInt64)]

    package init(pairs: [(name: String, value: UInt64)]) {
        self.pairs = pairs
    }

    package func encode(_ writer: inout FieldWriter) {
        writer.append(UInt32(pairs.count))
        for pair in pairs {
            writer.append(shortText: pair.name)
            writer.append(pair.value)
        }
    }

    package static func decode(_ body: PinnedBytes) throws(WireFault) -> StatAnswer {
        var reader = FieldReader(body)
        let count = try reader.read(UInt32.self)
        var pairs: [(name: String, value: UInt64)] = []
        for _ in 0..<count {
            pairs.append((try reader.readShortText(), try reader.read()))
        }
        try reader.finish()
        return StatAnswer(pairs: pairs)
    }
}
