package import KVCore
// SPDX-License-Identifier: Apache-2.0
internal import Kernels

/// The header block of `checkpoint.kvs`. A value.
package struct CheckpointHeader: Hashable, Sendable {
    package var store: SSDTag
    package var pageCount: UInt32
    /// All effects of smaller sequence numbers are in the checkpoint.
    package var sequence: UInt64
    /// Wall time, milliseconds since 1970.
    package var written: UInt64
    package var chunkCount: UInt64
    package var segmentCount: UInt32
    package var bindingCount: UInt32
    package var pinCount: UInt32

    static let magic: UInt64 = 0x3154_504b_4353_564b

    package init(store: SSDTag, sequence: UInt64, written: UInt64) {
        self.store = store
        self.sequence = sequence
        self.written = written
        pageCount = 0
        chunkCount = 0
        segmentCount = 0
        bindingCount = 0
        pinCount = 0
    }

    /// Writes it into `block`, all of it.
    package func encode(into block: PinnedBytes) {
        block.fill(0)
        block.store(Self.magic, at: 0)
        block.store(SSDFormat.version, at: 8)
        block.store(pageCount, at: 12)
        block.store(store, at: 16)
        block.store(sequence, at: 32)
        block.store(written, at: 40)
        block.store(chunkCount, at: 48)
        block.store(segmentCount, at: 56)
        block.store(bindingCount, at: 60)
        block.store(pinCount, at: 64)
        block.sealBlock()
    }

    package static func decode(_ block: PinnedBytes) throws(SSDFormatFault) -> CheckpointHeader {
        try block.check(magic: magic)
        var header = CheckpointHeader(
            store: block.loadTag(at: 16), sequence: block.load(UInt64.self, at: 32),
            written: block.load(UInt64.self, at: 40))
        header.pageCount = block.load(UInt32.self, at: 12)
        header.chunkCount = block.load(UInt64.self, at: 48)
        header.segmentCount = block.load(UInt32.self, at: 56)
        header.bindingCount = block.load(UInt32.self, at: 60)
        header.pinCount = block.load(UInt32.self, at: 64)
        guard header.chunkCount <= UInt64(UInt32.max), header.sequence > 0,
            header.sequence <= SSDFormat.numberMax,
            CheckpointLayout.pageCount(of: header) == Int(header.pageCount)
        else { throw .inconsistent }
        return header
    }
}

/// How a checkpoint's stream of rows lies in pages.
package enum CheckpointLayout {
    package static let pageByteCount = 1 << 20
    /// What a page carries of the stream; the rest is its checksum.
    package static let runByteCount = pageByteCount - 8
    package static let segmentByteCount = 32
    package static let bindingByteCount = 40
    package static let chunkByteCount = 64
    package static let pinByteCount = 64

    package static func pageCount(of header: CheckpointHeader) -> Int {
        let stream =
            Int(header.segmentCount) * segmentByteCount
            + Int(header.bindingCount) * bindingByteCount
            + Int(header.chunkCount) * chunkByteCount + Int(header.pinCount) * pinByteCount
        return (stream + runByteCount - 1) / runByteCount
    }

    /// Bindings and pins that the room for a checkpoint allows for.
    package static let smallRowCountMax = 4_096

    /// What a checkpoint of so many chunks takes, with that many bindings and pins.
    package static func byteCount(entryCount: Int, segmentCount: Int) -> Int {
        let stream =
            segmentCount * segmentByteCount + smallRowCountMax * (bindingByteCount + pinByteCount)
            + entryCount * chunkByteCount
        return SSDFormat.blockByteCount + (stream / runByteCount + 1) * pageByteCount
    }

    /// Completes a page whose run is filled.
    package static func seal(_ page: PinnedBytes) {
        page.store(Checksum.of(page.prefix(runByteCount)), at: runByteCount)
    }

    package static func isSealed(_ page: PinnedBytes) -> Bool {
        page.load(UInt64.self, at: runByteCount) == Checksum.of(page.prefix(runByteCount))
    }
}

/// One segment of a checkpoint. A value.
package struct CheckpointSegment: Hashable, Sendable {
    package var directory: SSDTag
    package var slot: UInt32
    /// Whether it was complete, so that the checkpoint lists its chunks.
    package var isSealed: Bool
    /// Whether it must be read all the same, for its notes (`SSDSegment.coverage`).
    package var hasLateNotes: Bool
    package var serial: UInt64

    package init(
        directory: SSDTag, slot: UInt32, isSealed: Bool, hasLateNotes: Bool = false, serial: UInt64
    ) {
        self.directory = directory
        self.slot = slot
        self.isSealed = isSealed
        self.hasLateNotes = isSealed && hasLateNotes
        self.serial = serial
    }

    package func encode(into row: PinnedBytes) {
        row.store(directory, at: 0)
        row.store(slot, at: 16)
        row.store(UInt32(isSealed ? hasLateNotes ? 2 : 1 : 0), at: 20)
        row.store(serial, at: 24)
    }

    package init(_ row: PinnedBytes) {
        directory = row.loadTag(at: 0)
        slot = row.load(UInt32.self, at: 16)
        let coverage = row.load(UInt32.self, at: 20)
        isSealed = coverage == 1 || coverage == 2
        hasLateNotes = coverage == 2
        serial = row.load(UInt64.self, at: 24)
    }
}

/// One chunk of a checkpoint. A value.
package struct CheckpointChunk: Hashable, Sendable {
    package var key: ChunkKey
    package var checksum: UInt64
    /// Place in the checkpoint's list of segments.
    package var segment: UInt32
    package var block: UInt32
    package var byteCount: UInt32
    /// Place in the checkpoint's list of bindings.
    package var binding: UInt32
    /// Wall time; 0: never.
    package var expiry: UInt64

    package init(
        key: ChunkKey, checksum: UInt64, segment: UInt32, block: UInt32, byteCount: UInt32,
        binding: UInt32, expiry: UInt64
    ) {
        self.key = key
        self.checksum = checksum
        self.segment = segment
        self.block = block
        self.byteCount = byteCount
        self.binding = binding
        self.expiry = expiry
    }

    package func encode(into row: PinnedBytes) {
        row.store(key, at: 0)
        row.store(checksum, at: 32)
        row.store(segment, at: 40)
        row.store(block, at: 44)
        row.store(byteCount, at: 48)
        row.store(binding, at: 52)
        row.store(expiry, at: 56)
    }

    package init(_ row: PinnedBytes) {
        key = row.loadKey(at: 0)
        checksum = row.load(UInt64.self, at: 32)
        segment = row.load(UInt32.self, at: 40)
        block = row.load(UInt32.self, at: 44)
        byteCount = row.load(UInt32.self, at: 48)
        binding = row.load(UInt32.self, at: 52)
        expiry = row.load(UInt64.self, at: 56)
    }
}
