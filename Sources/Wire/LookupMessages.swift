// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// The body of LOOKUP. Reads its keys in place.
package struct LookupRequest {
    /// Which keys are looked at.
    package enum Mode: UInt8, Sendable {
        case everyKey = 0
        /// Stop at the first key that is absent.
        case longestPrefix = 1
    }

    package static let fixedByteCount = 8

    package let mode: Mode
    package let keys: KeyList

    /// Writes the fixed part; the keys follow.
    package static func encode(_ writer: inout FieldWriter, keyCount: Int, mode: Mode) {
        writer.append(UInt16(keyCount))
        writer.append(mode.rawValue)
        writer.append(zeros: 5)
    }

    package static func decode(_ body: PinnedBytes) throws(WireFault) -> LookupRequest {
        var reader = FieldReader(body)
        let keyCount = try reader.readKeyCount(atLeast: 1)
        guard let mode = Mode(rawValue: try reader.read()) else { throw .notOffered }
        try reader.readReserved(5)
        let keys = try KeyList(&reader, count: keyCount)
        try reader.finish()
        return LookupRequest(mode: mode, keys: keys)
    }
}

/// What LOOKUP tells of one key. A value.
package struct LookupRecord: Hashable, Sendable {
    package static let byteCount = 24
    /// The RAM tier's number.
    package static let ramTier: UInt8 = 1
    /// The SSD tier's number: of a chunk that is not in RAM.
    package static let ssdTier: UInt8 = 2

    package var status: Status
    package var tier: UInt8
    package var level: UInt8
    package var loadMicroseconds: UInt32
    package var chunkByteCount: UInt64
    package var timeToLiveMilliseconds: UInt64

    /// A key that is absent.
    package static let absent = LookupRecord(
        status: .notFound, tier: 0, level: 0, loadMicroseconds: 0, chunkByteCount: 0,
        timeToLiveMilliseconds: 0)

    package init(
        status: Status, tier: UInt8, level: UInt8, loadMicroseconds: UInt32,
        chunkByteCount: UInt64, timeToLiveMilliseconds: UInt64
    ) {
        self.status = status
        self.tier = tier
        self.level = level
        self.loadMicroseconds = loadMicroseconds
        self.chunkByteCount = chunkByteCount
        self.timeToLiveMilliseconds = timeToLiveMilliseconds
    }

    package func encode(_ writer: inout FieldWriter) {
        writer.append(status.rawValue)
        writer.append(tier)
        writer.append(level)
        writer.append(loadMicroseconds)
        writer.append(chunkByteCount)
        writer.append(timeToLiveMilliseconds)
    }

    static func decode(_ reader: inout FieldReader) throws(WireFault) -> LookupRecord {
        let status = try reader.readStatus()
        return LookupRecord(
            status: status, tier: try reader.read(), level: try reader.read(),
            loadMicroseconds: try reader.read(), chunkByteCount: try reader.read(),
            timeToLiveMilliseconds: try reader.read())
    }
}

/// The body of LOOKUP's answer, as a client reads it. A value.
package struct LookupAnswer: Sendable {
    package static let fixedByteCount = 8

    package var prefixCount: Int
    package var records: [LookupRecord]

    package static func decode(_ body: PinnedBytes) throws(WireFault) -> LookupAnswer {
        var reader = FieldReader(body)
        let prefixCount = Int(try reader.read(UInt32.self))
        let recordCount = Int(try reader.read(UInt32.self))
        guard recordCount <= Limits.batchKeyCountMax, prefixCount <= recordCount else {
            throw .badCount(recordCount)
        }
        var records: [LookupRecord] = []
        for _ in 0..<recordCount { records.append(try LookupRecord.decode(&reader)) }
        try reader.finish()
        return LookupAnswer(prefixCount: prefixCount, records: records)
    }
}

/// The body of DELETE, and of UNPIN. Reads its keys in place.
package struct DeleteRequest {
    package static let fixedByteCount = 8

    package let keys: KeyList

    /// Writes the fixed part; the keys follow.
    package static func encode(_ writer: inout FieldWriter, keyCount: Int) {
        writer.append(UInt16(keyCount))
        writer.append(zeros: 6)
    }

    package static func decode(_ body: PinnedBytes) throws(WireFault) -> DeleteRequest {
        var reader = FieldReader(body)
        let keyCount = try reader.readKeyCount(atLeast: 1)
        try reader.readReserved(6)
        let keys = try KeyList(&reader, count: keyCount)
        try reader.finish()
        return DeleteRequest(keys: keys)
    }
}

/// The body of PIN. Reads its keys in place.
package struct PinRequest {
    package static let fixedByteCount = 16

    /// How long the chunks are to be kept, from now: 1 to `Limits.pinMillisecondsMax`.
    package let milliseconds: UInt64
    package let keys: KeyList

    /// Writes the fixed part; the keys follow.
    package static func encode(
        _ writer: inout FieldWriter, keyCount: Int, milliseconds: UInt64
    ) {
        writer.append(UInt16(keyCount))
        writer.append(zeros: 6)
        writer.append(milliseconds)
    }

    package static func decode(_ body: PinnedBytes) throws(WireFault) -> PinRequest {
        var reader = FieldReader(body)
        let keyCount = try reader.readKeyCount(atLeast: 1)
        try reader.readReserved(6)
        let milliseconds = try reader.read(UInt64.self)
        let keys = try KeyList(&reader, count: keyCount)
        try reader.finish()
        guard (1...Limits.pinMillisecondsMax).contains(milliseconds) else {
            throw .badPinMilliseconds(milliseconds)
        }
        return PinRequest(milliseconds: milliseconds, keys: keys)
    }
}

/// The body of the answers to DELETE, PIN and UNPIN, as a client reads it. A value.
package struct KeyStatusesAnswer: Sendable {
    /// How many of the keys have the status `ok`; no more is made sure here than that there are so
    /// many keys.
    package var okCount: Int
    /// In the order of the request's keys.
    package var statuses: [Status]

    package static func decode(_ body: PinnedBytes) throws(WireFault) -> KeyStatusesAnswer {
        var reader = FieldReader(body)
        let okCount = Int(try reader.read(UInt32.self))
        let keyCount = Int(try reader.read(UInt32.self))
        guard keyCount <= Limits.batchKeyCountMax, okCount <= keyCount else {
            throw .badCount(keyCount)
        }
        var statuses: [Status] = []
        for _ in 0..<keyCount { statuses.append(try reader.readStatus()) }
        try reader.finish()
        return KeyStatusesAnswer(okCount: okCount, statuses: statuses)
    }
}

extension FieldReader {
    /// Reads a u16 count of keys or leases within the batch limit.
    mutating func readKeyCount(atLeast minimum: Int) throws(WireFault) -> Int {
        let count = Int(try read(UInt16.self))
        guard count >= minimum, count <= Limits.batchKeyCountMax else { throw .badCount(count) }
        return count
    }

    /// Reads a status; numbers that we do not know count as `internal`.
    mutating func readStatus() throws(WireFault) -> Status {
        Status(rawValue: try read()) ?? .internal
    }
}
