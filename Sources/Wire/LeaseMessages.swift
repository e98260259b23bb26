// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// Lease ids in the body of a request, read in place.
package struct LeaseIDList {
    private static let elementByteCount = 8
    private let bytes: PinnedBytes
    package let count: Int

    init(_ reader: inout FieldReader, count: Int) throws(WireFault) {
        bytes = try reader.readRun(count: count, elementByteCount: Self.elementByteCount)
        self.count = count
    }

    /// The id at `index`; traps outside `0..<count`.
    package subscript(index: Int) -> UInt64 {
        var reader = FieldReader(
            bytes.slice(offset: index * Self.elementByteCount, count: Self.elementByteCount))
        do {
            return try reader.read()
        } catch {
            preconditionFailure("8 bytes are an id")
        }
    }
}

/// The body of LEASE. Reads keys and ids in place.
package struct LeaseRequest {
    package static let fixedByteCount = 16

    package let milliseconds: UInt32
    package let released: LeaseIDList
    package let keys: KeyList

    /// Writes the fixed part; released ids, then keys follow.
    package static func encode(
        _ writer: inout FieldWriter, keyCount: Int, releasedCount: Int, milliseconds: UInt32
    ) {
        writer.append(UInt16(keyCount))
        writer.append(UInt16(releasedCount))
        writer.append(milliseconds)
        writer.append(zeros: 8)
    }

    package static func decode(_ body: PinnedBytes) throws(WireFault) -> LeaseRequest {
        var reader = FieldReader(body)
        let keyCount = try reader.readKeyCount(atLeast: 0)
        let releasedCount = try reader.readKeyCount(atLeast: 0)
        let milliseconds = try reader.read(UInt32.self)
        try reader.readReserved(8)
        let released = try LeaseIDList(&reader, count: releasedCount)
        let keys = try KeyList(&reader, count: keyCount)
        try reader.finish()
        return LeaseRequest(milliseconds: milliseconds, released: released, keys: keys)
    }
}

/// What LEASE tells of one key. A value.
package struct LeaseRecord: Hashable, Sendable {
    package static let byteCount = 48

    package var status: Status
    package var level: UInt8 = 0
    package var leaseID: UInt64 = 0
    package var arenaOffset: UInt64 = 0
    package var chunkByteCount: UInt64 = 0
    package var checksum: UInt64 = 0
    package var timeToLiveMilliseconds: UInt64 = 0

    package init(status: Status) {
        self.status = status
    }

    package func encode(_ writer: inout FieldWriter) {
        writer.append(status.rawValue)
        writer.append(level)
        writer.append(zeros: 5)
        writer.append(leaseID)
        writer.append(arenaOffset)
        writer.append(chunkByteCount)
        writer.append(checksum)
        writer.append(timeToLiveMilliseconds)
    }

    static func decode(_ reader: inout FieldReader) throws(WireFault) -> LeaseRecord {
        var record = LeaseRecord(status: try reader.readStatus())
        record.level = try reader.read()
        try reader.readReserved(5)
        record.leaseID = try reader.read()
        record.arenaOffset = try reader.read()
        record.chunkByteCount = try reader.read()
        record.checksum = try reader.read()
        record.timeToLiveMilliseconds = try reader.read()
        return record
    }
}

/// The body of LEASE's answer: the fixed part as the daemon writes it, all as a client reads it.
package struct LeaseAnswer: Sendable {
    package static let fixedByteCount = 16

    /// `CLOCK_MONOTONIC`.
    package var expiry: Instant
    package var records: [LeaseRecord]

    /// Writes the fixed part; the records follow.
    package static func encode(_ writer: inout FieldWriter, recordCount: Int, expiry: Instant) {
        writer.append(UInt32(recordCount))
        writer.append(zeros: 4)
        writer.append(expiry.nanoseconds)
    }

    package static func decode(_ body: PinnedBytes) throws(WireFault) -> LeaseAnswer {
        var reader = FieldReader(body)
        let recordCount = Int(try reader.read(UInt32.self))
        guard recordCount <= Limits.batchKeyCountMax else { throw .badCount(recordCount) }
        try reader.readReserved(4)
        let expiry = Instant(nanoseconds: try reader.read())
        var records: [LeaseRecord] = []
        for _ in 0..<recordCount { records.append(try LeaseRecord.decode(&reader)) }
        try reader.finish()
        return LeaseAnswer(expiry: expiry, records: records)
    }
}

/// The body of RELEASE. Reads its ids in place.
package struct ReleaseRequest {
    package let leaseIDs: LeaseIDList

    /// Writes the fixed part; the ids follow.
    package static func encode(_ writer: inout FieldWriter, leaseCount: Int) {
        writer.append(UInt16(leaseCount))
        writer.append(zeros: 6)
    }

    package static func decode(_ body: PinnedBytes) throws(WireFault) -> ReleaseRequest {
        var reader = FieldReader(body)
        let count = try reader.readKeyCount(atLeast: 1)
        try reader.readReserved(6)
        let leaseIDs = try LeaseIDList(&reader, count: count)
        try reader.finish()
        return ReleaseRequest(leaseIDs: leaseIDs)
    }
}

/// The body of RELEASE's answer. A value.
package struct ReleaseAnswer: Hashable, Sendable {
    package var releasedCount: UInt32

    package init(releasedCount: UInt32) {
        self.releasedCount = releasedCount
    }

    package func encode(_ writer: inout FieldWriter) {
        writer.append(releasedCount)
        writer.append(zeros: 4)
    }

    package static func decode(_ body: PinnedBytes) throws(WireFault) -> ReleaseAnswer {
        var reader = FieldReader(body)
        let answer = ReleaseAnswer(releasedCount: try reader.read())
        try reader.readReserved(4)
        try reader.finish()
        return answer
    }
}

/// The body of RESERVE's answer. A value.
package struct ReserveAnswer: Hashable, Sendable {
    package static let byteCount = 32

    package var reservationID: UInt64
    package var stagingOffset: UInt64
    package var stagingByteCount: UInt64
    /// `CLOCK_MONOTONIC`.
    package var expiry: Instant

    package init(
        reservationID: UInt64, stagingOffset: UInt64, stagingByteCount: UInt64, expiry: Instant
    ) {
        self.reservationID = reservationID
        self.stagingOffset = stagingOffset
        self.stagingByteCount = stagingByteCount
        self.expiry = expiry
    }

    package func encode(_ writer: inout FieldWriter) {
        writer.append(reservationID)
        writer.append(stagingOffset)
        writer.append(stagingByteCount)
        writer.append(expiry.nanoseconds)
    }

    package static func decode(_ body: PinnedBytes) throws(WireFault) -> ReserveAnswer {
        var reader = FieldReader(body)
        let answer = ReserveAnswer(
            reservationID: try reader.read(), stagingOffset: try reader.read(),
            stagingByteCount: try reader.read(), expiry: Instant(nanoseconds: try reader.read()))
        try reader.finish()
        return answer
    }
}

/// The body of COMMIT. A value.
package struct CommitRequest: Hashable, Sendable {
    package var reservationID: UInt64
    package var checksum: UInt64

    package init(reservationID: UInt64, checksum: UInt64) {
        self.reservationID = reservationID
        self.checksum = checksum
    }

    package func encode(_ writer: inout FieldWriter) {
        writer.append(reservationID)
        writer.append(checksum)
    }

    package static func decode(_ body: PinnedBytes) throws(WireFault) -> CommitRequest {
        var reader = FieldReader(body)
        let request = CommitRequest(
            reservationID: try reader.read(), checksum: try reader.read())
        try reader.finish()
        return request
    }
}

/// The body of ABORT. A value.
package struct AbortRequest: Hashable, Sendable {
    package var reservationID: UInt64

    package init(reservationID: UInt64) {
        self.reservationID = reservationID
    }

    package func encode(_ writer: inout FieldWriter) {
        writer.append(reservationID)
    }

    package static func decode(_ body: PinnedBytes) throws(WireFault) -> AbortRequest {
        var reader = FieldReader(body)
        let request = AbortRequest(reservationID: try reader.read())
        try reader.finish()
        return request
    }
}
