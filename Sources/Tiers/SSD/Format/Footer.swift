// SPDX-License-Identifier: Apache-2.0
package import KVCore
internal import Kernels

/// What a sealed segment's footer says of one chunk or note. A value.
package struct FooterEntry: Hashable, Sendable {
    package enum Kind: UInt8, Sendable {
        case chunk = 1
        case delete = 17
        case pin = 18
    }

    package static let byteCount = 104

    package var kind: Kind
    package var level: UInt8
    package var block: UInt32
    package var blockCount: UInt32
    package var byteCount: UInt32
    package var sequence: UInt64
    package var checksum: UInt64
    /// Wall time: a chunk's expiry (0: never), or a pin's end.
    package var expiry: UInt64
    package var key: ChunkKey
    package var namespace: SSDTag
    package var layout: LayoutID
    /// Of a chunk.
    package var position = CompactPosition.unknown

    /// The entries of a record, in order.
    package static func entries(of record: RecordHeader) -> [FooterEntry] {
        switch record.content {
        case .chunk(let chunk):
            [
                FooterEntry(
                    kind: .chunk, level: chunk.level, block: record.block,
                    blockCount: UInt32(record.blockCount), byteCount: UInt32(chunk.byteCount),
                    sequence: record.sequence, checksum: chunk.checksum, expiry: chunk.expiry,
                    key: chunk.key, namespace: chunk.namespace, layout: chunk.layout,
                    position: chunk.position)
            ]
        case .notes(let notes):
            notes.enumerated().map { index, note in
                FooterEntry(
                    kind: note.kind == .delete ? .delete : .pin, level: 0, block: record.block,
                    blockCount: 1, byteCount: 0, sequence: record.sequence + UInt64(index),
                    checksum: 0, expiry: note.until, key: note.key, namespace: note.namespace,
                    layout: .opaque)
            }
        }
    }

    /// Whether both say the same, but for what is advice alone.
    package func agrees(with other: FooterEntry) -> Bool {
        var copy = other
        copy.position = position
        return self == copy
    }

    fileprivate func encode(into target: PinnedBytes) {
        target.store(kind.rawValue, at: 0)
        target.store(level, at: 1)
        target.store(position.rawValue, at: 2)
        target.store(block, at: 4)
        target.store(blockCount, at: 8)
        target.store(byteCount, at: 12)
        target.store(sequence, at: 16)
        target.store(checksum, at: 24)
        target.store(expiry, at: 32)
        target.store(key, at: 40)
        target.store(namespace, at: 72)
        target.store(layout, at: 88)
    }

    /// Reads the entry at the start of `source`.
    fileprivate static func decode(
        _ source: PinnedBytes, segmentBlockCount: Int
    ) throws(SSDFormatFault) -> FooterEntry {
        guard let kind = Kind(rawValue: source.load(UInt8.self, at: 0)) else {
            throw .inconsistent
        }
        let entry = FooterEntry(
            kind: kind, level: source.load(UInt8.self, at: 1),
            block: source.load(UInt32.self, at: 4), blockCount: source.load(UInt32.self, at: 8),
            byteCount: source.load(UInt32.self, at: 12),
            sequence: source.load(UInt64.self, at: 16), checksum: source.load(UInt64.self, at: 24),
            expiry: source.load(UInt64.self, at: 32), key: source.loadKey(at: 40),
            namespace: source.loadTag(at: 72), layout: source.loadLayout(at: 88),
            position: CompactPosition(
                rawValue: kind == .chunk ? source.load(UInt16.self, at: 2) : 0))
        let payloadBlockCount = kind == .chunk ? SSDFormat.blockCount(Int(entry.byteCount)) : 0
        guard entry.block >= 1, Int(entry.blockCount) == 1 + payloadBlockCount,
            Int(entry.block) + Int(entry.blockCount) < segmentBlockCount,
            kind != .chunk || (1...Limits.chunkByteCountMax).contains(Int(entry.byteCount)),
            entry.sequence <= SSDFormat.numberMax
        else { throw .inconsistent }
        return entry
    }
}

/// The table of a sealed segment as it lies on the disk, before the trailer.
package enum FooterTable {
    /// Writes `entries` and the trailer into `target`, whose size is that of `blockCount`.
    package static func encode(
        _ entries: [FooterEntry], of header: SegmentHeader, nextSequence: UInt64,
        into target: PinnedBytes
    ) {
        target.fill(0)
        for (index, entry) in entries.enumerated() {
            entry.encode(
                into: target.slice(
                    offset: index * FooterEntry.byteCount, count: FooterEntry.byteCount))
        }
        let trailer = SegmentTrailer(
            entryCount: UInt32(entries.count), nonce: header.nonce, serial: header.serial,
            tableChecksum: Checksum.of(target.prefix(entries.count * FooterEntry.byteCount)),
            nextSequence: nextSequence)
        trailer.encode(
            into: target.dropFirst(trailer.tableBlockCount * SSDFormat.blockByteCount))
    }

    /// Blocks of a table of `entryCount` entries and its trailer.
    package static func blockCount(entryCount: Int) -> Int {
        SSDFormat.blockCount(entryCount * FooterEntry.byteCount) + 1
    }

    /// Checks `table` against its trailer, and hands out its entries in order.
    package static func decode(
        _ table: PinnedBytes, _ trailer: SegmentTrailer, of header: SegmentHeader,
        _ body: (FooterEntry) -> Void
    ) throws(SSDFormatFault) {
        let count = Int(trailer.entryCount)
        guard count * FooterEntry.byteCount <= table.count,
            Checksum.of(table.prefix(count * FooterEntry.byteCount)) == trailer.tableChecksum
        else { throw .notOurs }
        for index in 0..<count {
            body(
                try FooterEntry.decode(
                    table.slice(
                        offset: index * FooterEntry.byteCount, count: FooterEntry.byteCount),
                    segmentBlockCount: Int(header.blockCount)))
        }
    }
}
