// SPDX-License-Identifier: Apache-2.0
package import KVCore
internal import Kernels

/// The header block of a record. A value.
package struct RecordHeader: Hashable, Sendable {
    package enum Content: Hashable, Sendable {
        case chunk(ChunkRecord)
        case notes([NoteRecord])
    }

    package var nonce: UInt64
    package var sequence: UInt64
    /// Its own place within the segment.
    package var block: UInt32
    package var content: Content

    static let magic: UInt32 = 0x4352_564b
    private static let version: UInt16 = 1
    private static let chunkKind: UInt16 = 1
    private static let notesKind: UInt16 = 2
    private static let stripesOffset = 256
    private static let notesOffset = 64
    /// Notes that fit one record.
    package static let noteCountMax = 62

    package init(nonce: UInt64, sequence: UInt64, block: UInt32, content: Content) {
        self.nonce = nonce
        self.sequence = sequence
        self.block = block
        self.content = content
    }

    /// Blocks of the record, this one included.
    package var blockCount: Int {
        switch content {
        case .chunk(let chunk): 1 + SSDFormat.blockCount(chunk.byteCount)
        case .notes: 1
        }
    }

    /// Writes it into `block`, all of it. For a chunk, `stripe(i)` gives the checksum of stripe i.
    package func encode(into target: PinnedBytes, stripe: (Int) -> UInt64) {
        target.fill(0)
        target.store(Self.magic, at: 0)
        target.store(Self.version, at: 6)
        target.store(nonce, at: 8)
        target.store(sequence, at: 16)
        target.store(UInt32(blockCount), at: 24)
        target.store(block, at: 28)
        switch content {
        case .chunk(let chunk):
            target.store(Self.chunkKind, at: 4)
            chunk.encode(into: target)
            for index in 0..<chunk.stripeCount {
                target.store(stripe(index), at: Self.stripesOffset + 8 * index)
            }
        case .notes(let notes):
            target.store(Self.notesKind, at: 4)
            target.store(UInt32(notes.count), at: 32)
            for (index, note) in notes.enumerated() {
                note.encode(
                    into: target.slice(
                        offset: Self.notesOffset + NoteRecord.byteCount * index,
                        count: NoteRecord.byteCount))
            }
        }
        target.sealBlock()
    }

    /// Reads the block at `place` of the segment whose present life has `header`.
    package static func decode(
        _ source: PinnedBytes, at place: Int, of header: SegmentHeader
    ) throws(SSDFormatFault) -> RecordHeader {
        guard source.load(UInt32.self, at: 0) == magic,
            source.load(UInt64.self, at: 8) == header.nonce, source.isSealedBlock
        else { throw .notOurs }
        let version = source.load(UInt16.self, at: 6)
        guard version == Self.version else { throw .version(UInt32(version)) }
        let content: Content =
            switch source.load(UInt16.self, at: 4) {
            case chunkKind: .chunk(try ChunkRecord.decode(source))
            case notesKind: .notes(try decodeNotes(source))
            default: throw .inconsistent
            }
        let record = RecordHeader(
            nonce: header.nonce, sequence: source.load(UInt64.self, at: 16),
            block: source.load(UInt32.self, at: 28), content: content)
        guard Int(record.block) == place,
            record.blockCount == Int(source.load(UInt32.self, at: 24)),
            place >= 1, place + record.blockCount < Int(header.blockCount),
            record.sequence <= SSDFormat.numberMax - UInt64(noteCountMax)
        else { throw .inconsistent }
        return record
    }

    /// Whether a block says that it is a record of `header`'s present life, be it sound or not.
    package static func isClaimed(by source: PinnedBytes, of header: SegmentHeader) -> Bool {
        source.load(UInt32.self, at: 0) == magic
            && source.load(UInt64.self, at: 8) == header.nonce
    }

    /// The checksum of stripe `index`, from the header block of a chunk's record.
    package static func stripeChecksum(_ source: PinnedBytes, _ index: Int) -> UInt64 {
        source.load(UInt64.self, at: stripesOffset + 8 * index)
    }

    private static func decodeNotes(_ source: PinnedBytes) throws(SSDFormatFault) -> [NoteRecord] {
        let count = Int(source.load(UInt32.self, at: 32))
        guard (1...noteCountMax).contains(count) else { throw .inconsistent }
        var notes: [NoteRecord] = []
        for index in 0..<count {
            notes.append(
                try NoteRecord.decode(
                    source.slice(
                        offset: notesOffset + NoteRecord.byteCount * index,
                        count: NoteRecord.byteCount)))
        }
        return notes
    }
}

/// What a record says of its chunk. A value.
package struct ChunkRecord: Hashable, Sendable {
    package var key: ChunkKey
    package var namespace: SSDTag
    package var layout: LayoutID
    package var byteCount: Int
    package var checksum: UInt64
    /// Wall time in milliseconds since 1970; 0: never.
    package var expiry: UInt64
    /// Wall time of its writing.
    package var stored: UInt64
    package var level: UInt8
    package var position: CompactPosition

    package init(
        key: ChunkKey, namespace: SSDTag, layout: LayoutID, byteCount: Int, checksum: UInt64,
        expiry: UInt64, stored: UInt64, level: UInt8, position: CompactPosition = .unknown
    ) {
        self.key = key
        self.namespace = namespace
        self.layout = layout
        self.byteCount = byteCount
        self.checksum = checksum
        self.expiry = expiry
        self.stored = stored
        self.level = level
        self.position = position
    }

    /// Bytes of a stripe, the unit of partial reads: at most 256 of them a chunk.
    package var stripeByteCount: Int { Self.stripeByteCount(of: byteCount) }

    package var stripeCount: Int { (byteCount + stripeByteCount - 1) / stripeByteCount }

    package static func stripeByteCount(of byteCount: Int) -> Int {
        var stripe = 64 << 10
        while stripe * 256 < byteCount { stripe *= 2 }
        return stripe
    }

    fileprivate func encode(into target: PinnedBytes) {
        target.store(key, at: 32)
        target.store(namespace, at: 64)
        target.store(layout, at: 80)
        target.store(UInt64(byteCount), at: 96)
        target.store(checksum, at: 104)
        target.store(expiry, at: 112)
        target.store(stored, at: 120)
        target.store(level, at: 128)
        target.store(position.rawValue, at: 130)
        target.store(UInt32(stripeByteCount), at: 132)
        target.store(UInt32(stripeCount), at: 136)
    }

    fileprivate static func decode(_ source: PinnedBytes) throws(SSDFormatFault) -> ChunkRecord {
        let byteCount = source.load(UInt64.self, at: 96)
        guard (1...UInt64(Limits.chunkByteCountMax)).contains(byteCount) else {
            throw .inconsistent
        }
        let record = ChunkRecord(
            key: source.loadKey(at: 32), namespace: source.loadTag(at: 64),
            layout: source.loadLayout(at: 80), byteCount: Int(byteCount),
            checksum: source.load(UInt64.self, at: 104), expiry: source.load(UInt64.self, at: 112),
            stored: source.load(UInt64.self, at: 120), level: source.load(UInt8.self, at: 128),
            position: CompactPosition(rawValue: source.load(UInt16.self, at: 130)))
        guard Int(source.load(UInt32.self, at: 132)) == record.stripeByteCount,
            Int(source.load(UInt32.self, at: 136)) == record.stripeCount
        else { throw .inconsistent }
        return record
    }
}

/// One line of a notes record. A value.
package struct NoteRecord: Hashable, Sendable {
    package enum Kind: UInt8, Sendable {
        /// No record of the key with a smaller sequence number counts.
        case delete = 1
        /// The chunk is to be kept until a time.
        case pin = 2
    }

    package static let byteCount = 64

    package var kind: Kind
    /// Wall time in milliseconds since 1970; of a pin: its end, 0: no longer pinned.
    package var until: UInt64
    package var namespace: SSDTag
    package var key: ChunkKey

    package init(kind: Kind, until: UInt64, namespace: SSDTag, key: ChunkKey) {
        self.kind = kind
        self.until = until
        self.namespace = namespace
        self.key = key
    }

    fileprivate func encode(into target: PinnedBytes) {
        target.store(kind.rawValue, at: 0)
        target.store(until, at: 8)
        target.store(namespace, at: 16)
        target.store(key, at: 32)
    }

    fileprivate static func decode(_ source: PinnedBytes) throws(SSDFormatFault) -> NoteRecord {
        guard let kind = Kind(rawValue: source.load(UInt8.self, at: 0)) else {
            throw .inconsistent
        }
        return NoteRecord(
            kind: kind, until: source.load(UInt64.self, at: 8), namespace: source.loadTag(at: 16),
            key: source.loadKey(at: 32))
    }
}
