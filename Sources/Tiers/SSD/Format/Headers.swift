// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// The one block of `store.kvs`: whose directory it is. A value.
package struct SSDIdentity: Hashable, Sendable {
    package var store: SSDTag
    package var directory: SSDTag
    /// Blocks of each segment.
    package var segmentBlockCount: UInt32
    /// Wall time of its making, milliseconds since 1970.
    package var created: UInt64

    static let magic: UInt64 = 0x3145_524f_5453_564b

    package init(store: SSDTag, directory: SSDTag, segmentBlockCount: UInt32, created: UInt64) {
        self.store = store
        self.directory = directory
        self.segmentBlockCount = segmentBlockCount
        self.created = created
    }

    /// Writes it into `block`, all of it.
    package func encode(into block: PinnedBytes) {
        block.fill(0)
        block.store(Self.magic, at: 0)
        block.store(SSDFormat.version, at: 8)
        block.store(segmentBlockCount, at: 12)
        block.store(store, at: 16)
        block.store(directory, at: 32)
        block.store(created, at: 48)
        block.sealBlock()
    }

    package static func decode(_ block: PinnedBytes) throws(SSDFormatFault) -> SSDIdentity {
        try block.check(magic: magic)
        let identity = SSDIdentity(
            store: block.loadTag(at: 16), directory: block.loadTag(at: 32),
            segmentBlockCount: block.load(UInt32.self, at: 12),
            created: block.load(UInt64.self, at: 48))
        let range = SSDFormat.segmentBlockCountMin...SSDFormat.segmentBlockCountMax
        guard range.contains(Int(identity.segmentBlockCount)) else { throw .inconsistent }
        return identity
    }
}

/// The first block of a segment. A value.
package struct SegmentHeader: Hashable, Sendable {
    package enum State: UInt32, Sendable {
        case inUse = 1
        case free = 2
    }

    package var state: State
    package var store: SSDTag
    package var slot: UInt32
    package var blockCount: UInt32
    /// Rises by one with every segment that the store opens.
    package var serial: UInt64
    /// Random for every opening: what a record must carry to belong here.
    package var nonce: UInt64
    /// No record of this segment has a smaller sequence number, except delete notes and pins that
    /// waited.
    package var firstSequence: UInt64
    /// Wall time, milliseconds since 1970.
    package var opened: UInt64

    static let magic: UInt64 = 0x544d_4745_5353_564b

    package init(
        state: State, store: SSDTag, slot: UInt32, blockCount: UInt32, serial: UInt64,
        nonce: UInt64, firstSequence: UInt64, opened: UInt64
    ) {
        self.state = state
        self.store = store
        self.slot = slot
        self.blockCount = blockCount
        self.serial = serial
        self.nonce = nonce
        self.firstSequence = firstSequence
        self.opened = opened
    }

    /// Writes it into `block`, all of it.
    package func encode(into block: PinnedBytes) {
        block.fill(0)
        block.store(Self.magic, at: 0)
        block.store(SSDFormat.version, at: 8)
        block.store(state.rawValue, at: 12)
        block.store(store, at: 16)
        block.store(slot, at: 32)
        block.store(blockCount, at: 36)
        block.store(serial, at: 40)
        block.store(nonce, at: 48)
        block.store(firstSequence, at: 56)
        block.store(opened, at: 64)
        block.sealBlock()
    }

    /// Reads the header of any store's segment.
    package static func decode(_ block: PinnedBytes) throws(SSDFormatFault) -> SegmentHeader {
        try block.check(magic: magic)
        guard let state = State(rawValue: block.load(UInt32.self, at: 12)) else {
            throw .inconsistent
        }
        let header = SegmentHeader(
            state: state, store: block.loadTag(at: 16), slot: block.load(UInt32.self, at: 32),
            blockCount: block.load(UInt32.self, at: 36), serial: block.load(UInt64.self, at: 40),
            nonce: block.load(UInt64.self, at: 48), firstSequence: block.load(UInt64.self, at: 56),
            opened: block.load(UInt64.self, at: 64))
        let range = SSDFormat.segmentBlockCountMin...SSDFormat.segmentBlockCountMax
        guard range.contains(Int(header.blockCount)), header.serial <= SSDFormat.numberMax,
            header.firstSequence <= SSDFormat.numberMax
        else { throw .inconsistent }
        return header
    }

    /// Reads the header of the segment in `slot` of `identity`'s directory.
    package static func decode(
        _ block: PinnedBytes, slot: UInt32, of identity: SSDIdentity
    ) throws(SSDFormatFault) -> SegmentHeader {
        let header = try decode(block)
        guard header.store == identity.store else { throw .otherStore }
        guard header.slot == slot, header.blockCount == identity.segmentBlockCount else {
            throw .inconsistent
        }
        return header
    }

    /// Whether an invalid header block is one of ours that was never written, or was torn while
    /// the segment was opened or erased.
    package static func isBlankOrTorn(_ block: PinnedBytes, of identity: SSDIdentity) -> Bool {
        let isBlank = (0..<9).allSatisfy { block.load(UInt64.self, at: 8 * $0) == 0 }
        return isBlank
            || block.load(UInt64.self, at: 0) == magic && !block.isSealedBlock
                && block.loadTag(at: 16) == identity.store
    }
}

/// The last block of a sealed segment. A value.
package struct SegmentTrailer: Hashable, Sendable {
    package var entryCount: UInt32
    package var nonce: UInt64
    package var serial: UInt64
    package var tableChecksum: UInt64
    /// Greater than every sequence number in the segment.
    package var nextSequence: UInt64

    static let magic: UInt64 = 0x4c49_4152_5453_564b

    package init(
        entryCount: UInt32, nonce: UInt64, serial: UInt64, tableChecksum: UInt64,
        nextSequence: UInt64
    ) {
        self.entryCount = entryCount
        self.nonce = nonce
        self.serial = serial
        self.tableChecksum = tableChecksum
        self.nextSequence = nextSequence
    }

    /// Writes it into `block`, all of it.
    package func encode(into block: PinnedBytes) {
        block.fill(0)
        block.store(Self.magic, at: 0)
        block.store(SSDFormat.version, at: 8)
        block.store(entryCount, at: 12)
        block.store(nonce, at: 16)
        block.store(serial, at: 24)
        block.store(tableChecksum, at: 32)
        block.store(nextSequence, at: 40)
        block.sealBlock()
    }

    /// Reads the trailer that belongs to `header`'s present life.
    package static func decode(
        _ block: PinnedBytes, of header: SegmentHeader
    ) throws(SSDFormatFault) -> SegmentTrailer {
        try block.check(magic: magic)
        let trailer = SegmentTrailer(
            entryCount: block.load(UInt32.self, at: 12), nonce: block.load(UInt64.self, at: 16),
            serial: block.load(UInt64.self, at: 24),
            tableChecksum: block.load(UInt64.self, at: 32),
            nextSequence: block.load(UInt64.self, at: 40))
        guard trailer.nonce == header.nonce, trailer.serial == header.serial,
            trailer.tableBlockCount + 2 <= Int(header.blockCount),
            trailer.nextSequence <= SSDFormat.numberMax
        else { throw .inconsistent }
        return trailer
    }

    /// Whether a block says that it is the trailer of `header`'s present life, be it sound or not.
    package static func isClaimed(by block: PinnedBytes, of header: SegmentHeader) -> Bool {
        block.load(UInt64.self, at: 16) == header.nonce
    }

    /// Blocks of the footer table.
    package var tableBlockCount: Int {
        SSDFormat.blockCount(Int(entryCount) * FooterEntry.byteCount)
    }
}

extension PinnedBytes {
    /// Checks magic, checksum and version of a block of metadata.
    func check(magic: UInt64) throws(SSDFormatFault) {
        guard load(UInt64.self, at: 0) == magic, isSealedBlock else { throw .notOurs }
        let version = load(UInt32.self, at: 8)
        guard version == SSDFormat.version else { throw .version(version) }
    }
}
