// SPDX-License-Identifier: Apache-2.0
import KVCore

// Bodies of answers (docs/protocol.md, section 4). Every initialiser is total: nil for a body
// that is not one.

extension Session {
    init?(helloBody body: inout FieldReader) {
        guard body.read(UInt8.self) == 1, body.skip(3), let features = body.read(UInt64.self),
            let secret = body.readBytes(32), let node = body.read(UInt64.self),
            body.read(UInt32.self) != nil, let batch = body.read(UInt32.self),
            let chunk = body.read(UInt64.self), body.read(UInt32.self) != nil,
            let lease = body.read(UInt32.self), let arena = body.read(UInt64.self),
            let staging = body.read(UInt64.self), body.skip(48),
            let nameByteCount = body.read(UInt8.self), let name = body.readText(Int(nameByteCount))
        else { return nil }
        self.init(
            secret: secret, nodeID: node, batchKeyCountMax: Int(batch), chunkByteCountMax: chunk,
            leaseMillisecondsMax: lease, arenaByteCount: features & 1 == 1 ? arena : 0,
            stagingByteCountMax: features & 1 == 1 ? staging : 0, daemonName: name)
    }
}

extension FoundChunk {
    /// The body of an `ok` answer to GET or STAT of a chunk.
    init?(body: inout FieldReader) {
        guard let index = body.read(UInt32.self), let level = body.read(UInt8.self), body.skip(3),
            let byteCount = body.read(UInt64.self), byteCount <= Limits.chunkByteCountMax,
            byteCount > 0, let checksum = body.read(UInt64.self), let layout = body.readLayout(),
            let remaining = body.read(UInt64.self)
        else { return nil }
        self.init(
            index: Int(index), level: level, byteCount: Int(byteCount), checksum: checksum,
            layout: layout, timeToLiveMilliseconds: timeToLive(remaining))
    }
}

extension LookupAnswer {
    /// The body of an `ok` answer to a LOOKUP of `keyCount` keys.
    init?(body: inout FieldReader, keyCount: Int, mode: LookupMode) {
        guard let prefixCount = body.read(UInt32.self), let count = body.read(UInt32.self),
            prefixCount <= keyCount, count == (mode == .each ? UInt32(keyCount) : prefixCount)
        else { return nil }
        var records: [LookupRecord] = []
        records.reserveCapacity(Int(count))
        for _ in 0..<count {
            guard let record = LookupRecord(body: &body) else { return nil }
            records.append(record)
        }
        self.init(prefixCount: Int(prefixCount), records: records)
    }
}

extension LookupRecord {
    init?(body: inout FieldReader) {
        guard let status = body.read(UInt16.self), let tier = body.read(UInt8.self),
            let level = body.read(UInt8.self), let load = body.read(UInt32.self),
            let byteCount = body.read(UInt64.self), let remaining = body.read(UInt64.self)
        else { return nil }
        let known = Status(rawValue: status) ?? .internal
        self.init(
            status: known, tier: TierName(rawValue: tier), level: level, loadMicroseconds: load,
            byteCount: byteCount,
            timeToLiveMilliseconds: known == .ok ? timeToLive(remaining) : nil)
    }
}

/// What LEASE says about one key, before its place is checked against the arena.
struct LeaseRecord {
    let status: Status
    let level: UInt8
    let lease: UInt64
    let offset: UInt64
    let byteCount: UInt64
    let checksum: UInt64
    let timeToLive: UInt64

    init?(body: inout FieldReader) {
        guard let status = body.read(UInt16.self), let level = body.read(UInt8.self), body.skip(5),
            let lease = body.read(UInt64.self), let offset = body.read(UInt64.self),
            let byteCount = body.read(UInt64.self), let checksum = body.read(UInt64.self),
            let remaining = body.read(UInt64.self)
        else { return nil }
        self.status = Status(rawValue: status) ?? .internal
        self.level = level
        self.lease = lease
        self.offset = offset
        self.byteCount = byteCount
        self.checksum = checksum
        self.timeToLive = remaining
    }
}
