// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// What a client may ask for in HELLO.
package struct Features: OptionSet, Hashable, Sendable {
    package let rawValue: UInt64

    package init(rawValue: UInt64) {
        self.rawValue = rawValue
    }

    /// Reading and writing by shared memory.
    package static let sharedMemory = Features(rawValue: 1)
}

/// The body of a HELLO request. A value; cold, so it may allocate.
package struct HelloRequest: Hashable, Sendable {
    private static let clientNameByteCountMax = 64

    package var lowestVersion: UInt8 = FrameHeader.version
    package var highestVersion: UInt8 = FrameHeader.version
    package var wanted: Features = []
    package var namespace = ""
    package var token: [UInt8] = []
    package var clientName = ""

    package init() {}

    /// Traps when the namespace or the token is over its limit; a longer client name is cut.
    package func encode(_ writer: inout FieldWriter) {
        invariant(
            namespace.utf8.count <= Limits.namespaceByteCountMax
                && token.count <= Limits.tokenByteCountMax,
            "namespace and token keep their limits: cut, they would name another")
        writer.append(lowestVersion)
        writer.append(highestVersion)
        writer.append(zeros: 2)
        writer.append(wanted.rawValue)
        writer.append(shortText: namespace, byteCountMax: Limits.namespaceByteCountMax)
        writer.append(UInt16(token.count))
        writer.append(contentsOf: token)
        writer.append(shortText: clientName, byteCountMax: Self.clientNameByteCountMax)
    }

    package static func decode(_ body: PinnedBytes) throws(WireFault) -> HelloRequest {
        var reader = FieldReader(body)
        var hello = HelloRequest()
        hello.lowestVersion = try reader.read()
        hello.highestVersion = try reader.read()
        guard hello.lowestVersion <= hello.highestVersion else { throw .badValue(offset: 2) }
        try reader.readReserved(2)
        hello.wanted = Features(rawValue: try reader.read())
        hello.namespace = try reader.readShortText(byteCountMax: Limits.namespaceByteCountMax)
        let tokenByteCount = Int(try reader.read(UInt16.self))
        guard tokenByteCount <= Limits.tokenByteCountMax else {
            throw .fieldTooLong(offset: reader.offset)
        }
        hello.token = try reader.readBytes(tokenByteCount)
        hello.clientName = try reader.readShortText(byteCountMax: clientNameByteCountMax)
        try reader.finish()
        guard (hello.lowestVersion...hello.highestVersion).contains(FrameHeader.version) else {
            throw .badVersion(hello.lowestVersion)
        }
        return hello
    }
}

/// The body of HELLO's `ok` answer. A value; cold, so it may allocate.
package struct HelloAnswer: Hashable, Sendable {
    package static let secretByteCount = 32

    package var version: UInt8 = FrameHeader.version
    package var granted: Features = []
    package var namespaceSecret = [UInt8](repeating: 0, count: secretByteCount)
    package var nodeID: UInt64 = 0
    package var bodyByteCountMax = UInt32(Limits.bodyByteCountMax)
    package var batchKeyCountMax = UInt32(Limits.batchKeyCountMax)
    package var chunkByteCountMax: UInt64 = 0
    package var requestCountMax = UInt32(Limits.requestCountInFlightMax)
    package var leaseMillisecondsMax: UInt32 = 0
    package var arenaByteCount: UInt64 = 0
    package var stagingByteCountMax: UInt64 = 0
    package var daemonName = ""

    package init() {}

    package func encode(_ writer: inout FieldWriter) {
        writer.append(version)
        writer.append(zeros: 3)
        writer.append(granted.rawValue)
        writer.append(contentsOf: namespaceSecret)
        writer.append(nodeID)
        writer.append(bodyByteCountMax)
        writer.append(batchKeyCountMax)
        writer.append(chunkByteCountMax)
        writer.append(requestCountMax)
        writer.append(leaseMillisecondsMax)
        writer.append(arenaByteCount)
        writer.append(stagingByteCountMax)
        writer.append(zeros: 48)
        writer.append(shortText: daemonName)
    }

    package static func decode(_ body: PinnedBytes) throws(WireFault) -> HelloAnswer {
        var reader = FieldReader(body)
        var hello = HelloAnswer()
        hello.version = try reader.read()
        try reader.readReserved(3)
        hello.granted = Features(rawValue: try reader.read())
        hello.namespaceSecret = try reader.readBytes(secretByteCount)
        hello.nodeID = try reader.read()
        hello.bodyByteCountMax = try reader.read()
        hello.batchKeyCountMax = try reader.read()
        hello.chunkByteCountMax = try reader.read()
        hello.requestCountMax = try reader.read()
        hello.leaseMillisecondsMax = try reader.read()
        hello.arenaByteCount = try reader.read()
        hello.stagingByteCountMax = try reader.read()
        // A later daemon of this version may say more here.
        _ = try reader.readRun(count: 48, elementByteCount: 1)
        hello.daemonName = try reader.readShortText()
        try reader.finish()
        return hello
    }
}
