// SPDX-License-Identifier: Apache-2.0
package import KVCore
internal import Kernels

/// What a frame asks for or answers; the numbers of docs/protocol.md, section 4.
package enum Verb: UInt8, CaseIterable, Sendable {
    case hello = 0x01
    case ping = 0x02
    case put = 0x10
    case get = 0x11
    case lookup = 0x12
    case delete = 0x13
    case stat = 0x14
    case lease = 0x20
    case release = 0x21
    case reserve = 0x22
    case commit = 0x23
    case abort = 0x24
    case pin = 0x30
    case unpin = 0x31
    case control = 0x60
}

/// The flags of a frame.
package struct FrameFlags: OptionSet, Hashable, Sendable {
    package let rawValue: UInt16

    package init(rawValue: UInt16) {
        self.rawValue = rawValue
    }

    /// From the daemon.
    package static let response = FrameFlags(rawValue: 1)
    /// Another frame answers the same request.
    package static let more = FrameFlags(rawValue: 2)
    /// The daemon closes after this frame.
    package static let finalBad = FrameFlags(rawValue: 4)
    /// All that this version defines.
    package static let defined: FrameFlags = [.response, .more, .finalBad]
}

extension Status {
    /// Whether the daemon closes the connection after an answer with this status
    /// (docs/protocol.md, section 5). After any other it may, and says so by *final-bad*.
    package var closesConnection: Bool {
        switch self {
        case .unauthorized, .malformed, .versionMismatch, .helloRequired, .shuttingDown, .internal:
            true
        case .ok, .notFound, .exists, .busy, .tooLarge, .deadlineExceeded, .checksumMismatch,
            .unsupported, .noLease, .limitExceeded, .layoutMismatch, .notDurable:
            false
        }
    }
}

/// The 48 bytes that begin every frame (docs/protocol.md, section 2). A value.
package struct FrameHeader: Hashable, Sendable {
    package static let byteCount = 48
    package static let magic: UInt32 = 0x3153_564b
    package static let version: UInt8 = 1
    private static let checkedByteCount = 44

    /// The verb's number; it may be one that we do not know.
    package var verbNumber: UInt8
    package var flags: FrameFlags
    package var requestID: UInt64
    /// As sent: 0 means the default.
    package var deadlineMilliseconds: UInt32
    /// As sent: the number of a `Status`, perhaps one that we do not know.
    package var statusNumber: UInt16
    package var bodyByteCount: Int
    package var bodyChecksum: UInt32
    package var payloadByteCount: UInt64

    /// A frame without body and payload.
    package init(
        verbNumber: UInt8, flags: FrameFlags = [], requestID: UInt64,
        deadlineMilliseconds: UInt32 = 0, statusNumber: UInt16 = 0
    ) {
        self.verbNumber = verbNumber
        self.flags = flags
        self.requestID = requestID
        self.deadlineMilliseconds = deadlineMilliseconds
        self.statusNumber = statusNumber
        bodyByteCount = 0
        bodyChecksum = 0
        payloadByteCount = 0
    }

    /// The verb, if it is one of this version.
    package var verb: Verb? { Verb(rawValue: verbNumber) }

    /// The status; numbers that we do not know count as `internal`.
    package var status: Status { Status(rawValue: statusNumber) ?? .internal }

    /// Reads a header from the first 48 bytes. Checked in the order of the specification.
    package static func decode(_ source: PinnedBytes) throws(WireFault) -> FrameHeader {
        guard source.count >= byteCount else {
            throw .headerIncomplete(byteCount: source.count)
        }
        var reader = FieldReader(source.prefix(byteCount))
        guard try reader.read(UInt32.self) == magic else { throw .badMagic }
        let version = try reader.read(UInt8.self)
        var header = FrameHeader(
            verbNumber: try reader.read(), flags: FrameFlags(rawValue: try reader.read()),
            requestID: try reader.read(), deadlineMilliseconds: try reader.read(),
            statusNumber: try reader.read())
        let firstReserved = try reader.read(UInt16.self)
        let bodyByteCount = try reader.read(UInt32.self)
        header.bodyChecksum = try reader.read()
        header.payloadByteCount = try reader.read()
        let secondReserved = try reader.read(UInt32.self)
        let checksum = try reader.read(UInt32.self)
        guard checksum == source.prefix(checkedByteCount).withBytes({ Checksum.short($0) })
        else { throw .headerDamaged }
        guard version == Self.version else { throw .badVersion(version) }
        guard firstReserved == 0 else { throw .reservedNotZero(offset: 22) }
        guard secondReserved == 0 else { throw .reservedNotZero(offset: 40) }
        guard bodyByteCount <= Limits.bodyByteCountMax else { throw .bodyTooLarge(bodyByteCount) }
        header.bodyByteCount = Int(bodyByteCount)
        return header
    }

    /// Writes the header's 48 bytes to the start of `target`.
    package func encode(into target: PinnedBytes) {
        var writer = FieldWriter(target.prefix(Self.byteCount))
        writer.append(Self.magic)
        writer.append(Self.version)
        writer.append(verbNumber)
        writer.append(flags.rawValue)
        writer.append(requestID)
        writer.append(deadlineMilliseconds)
        writer.append(statusNumber)
        writer.append(UInt16(0))
        writer.append(UInt32(bodyByteCount))
        writer.append(bodyChecksum)
        writer.append(payloadByteCount)
        writer.append(UInt32(0))
        writer.append(target.prefix(Self.checkedByteCount).withBytes { Checksum.short($0) })
    }

    /// Writes header and body to the start of `target`; `payloadByteCount` as set before.
    /// - Returns: the frame's bytes so far: header and body.
    package mutating func encode(
        into target: PinnedBytes, body: (inout FieldWriter) -> Void
    ) -> PinnedBytes {
        var writer = FieldWriter(target.dropFirst(Self.byteCount))
        body(&writer)
        invariant(writer.count <= Limits.bodyByteCountMax, "our own bodies keep the limit")
        bodyByteCount = writer.count
        bodyChecksum = target.slice(offset: Self.byteCount, count: writer.count)
            .withBytes { Checksum.short($0) }
        encode(into: target)
        return target.prefix(Self.byteCount + writer.count)
    }

    /// Checks a received body.
    package func verify(body: PinnedBytes) throws(WireFault) {
        guard body.count == bodyByteCount else { throw .bodySizeMismatch }
        guard body.withBytes({ Checksum.short($0) }) == bodyChecksum else { throw .bodyDamaged }
    }

    /// Checks what a daemon cannot serve, in a header that is well formed.
    package func checkRequest() throws(WireFault) -> Verb {
        guard flags.isEmpty else { throw .unknownFlags(flags.rawValue) }
        guard let verb else { throw .unknownVerb(verbNumber) }
        guard statusNumber == 0 else { throw .reservedNotZero(offset: 20) }
        guard verb == .put || payloadByteCount == 0 else { throw .bodySizeMismatch }
        return verb
    }

    /// Checks what a daemon never says, in a header that is well formed.
    package func checkAnswer() throws(WireFault) {
        guard flags.contains(.response), flags.isSubset(of: .defined),
            verbNumber == Verb.get.rawValue || !flags.contains(.more)
        else { throw .unknownFlags(flags.rawValue) }
        guard deadlineMilliseconds == 0 else { throw .reservedNotZero(offset: 16) }
        let isChunk = verb == .get && status == .ok
        guard payloadByteCount <= (isChunk ? UInt64(Limits.chunkByteCountMax) : 0) else {
            throw .bodySizeMismatch
        }
    }

    /// Tells whether the body of this answer to GET begins with the index of a key.
    ///
    /// - Parameter hasRange: whether the request asked for a range of each chunk (and for a sound
    ///   number of keys); only then can a single chunk fail with `limitExceeded`.
    /// - Returns: whether it is about one key of the batch; else the body is an error text about
    ///   the request as a whole.
    package func answersOneKey(ofRange hasRange: Bool) -> Bool {
        guard !flags.contains(.finalBad) else { return false }
        return switch status {
        case .ok, .notFound, .layoutMismatch, .deadlineExceeded: true
        case .limitExceeded: hasRange
        default: false
        }
    }

    /// Whether the daemon closes the connection after this answer.
    package var closesConnection: Bool {
        flags.contains(.finalBad) || status.closesConnection
    }
}
