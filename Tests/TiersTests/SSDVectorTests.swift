// SPDX-License-Identifier: Apache-2.0
import KVCore
import Testing

@testable import Tiers

/// What the text says of a block that is not sound.
private struct BadBlock: CustomTestStringConvertible {
    enum Kind {
        case identity, segment, trailer, table, record, checkpoint
    }

    let name: String
    let kind: Kind
    let block: Int
    let fault: SSDFormatFault

    init(_ name: String, _ kind: Kind, _ block: Int, _ fault: SSDFormatFault) {
        self.name = name
        self.kind = kind
        self.block = block
        self.fault = fault
    }

    var testDescription: String { name }
}

private let badBlocks = [
    BadBlock("identity-damaged", .identity, 0, .notOurs),
    BadBlock("identity-version", .identity, 0, .version(2)),
    BadBlock("identity-invalid", .identity, 0, .inconsistent),
    BadBlock("segment-magic", .segment, 0, .notOurs),
    BadBlock("segment-damaged", .segment, 0, .notOurs),
    BadBlock("segment-torn", .segment, 0, .notOurs),
    BadBlock("segment-blank", .segment, 0, .notOurs),
    BadBlock("segment-version", .segment, 0, .version(2)),
    BadBlock("segment-foreign", .segment, 0, .otherStore),
    BadBlock("segment-state", .segment, 0, .inconsistent),
    BadBlock("segment-slot", .segment, 0, .inconsistent),
    BadBlock("segment-block-count", .segment, 0, .inconsistent),
    BadBlock("segment-serial", .segment, 0, .inconsistent),
    BadBlock("segment-sequence", .segment, 0, .inconsistent),
    BadBlock("trailer-damaged", .trailer, 15, .notOurs),
    BadBlock("trailer-version", .trailer, 15, .version(2)),
    BadBlock("trailer-of-earlier-life", .trailer, 15, .inconsistent),
    BadBlock("trailer-serial", .trailer, 15, .inconsistent),
    BadBlock("trailer-entry-count", .trailer, 15, .inconsistent),
    BadBlock("trailer-sequence", .trailer, 15, .inconsistent),
    BadBlock("table-damaged", .table, 15, .notOurs),
    BadBlock("table-kind", .table, 15, .inconsistent),
    BadBlock("table-block", .table, 15, .inconsistent),
    BadBlock("table-byte-count", .table, 15, .inconsistent),
    BadBlock("table-sequence", .table, 15, .inconsistent),
    BadBlock("record-damaged", .record, 3, .notOurs),
    BadBlock("record-of-earlier-life", .record, 3, .notOurs),
    BadBlock("record-version", .record, 3, .version(2)),
    BadBlock("record-kind", .record, 3, .inconsistent),
    BadBlock("record-elsewhere", .record, 12, .inconsistent),
    BadBlock("record-block-count", .record, 3, .inconsistent),
    BadBlock("record-sequence", .record, 3, .inconsistent),
    BadBlock("record-byte-count", .record, 3, .inconsistent),
    BadBlock("record-stripes", .record, 3, .inconsistent),
    BadBlock("record-past-end", .record, 13, .inconsistent),
    BadBlock("notes-count", .record, 10, .inconsistent),
    BadBlock("notes-kind", .record, 10, .inconsistent),
    BadBlock("checkpoint-damaged", .checkpoint, 0, .notOurs),
    BadBlock("checkpoint-version", .checkpoint, 0, .version(2)),
    BadBlock("checkpoint-counts", .checkpoint, 0, .inconsistent),
    BadBlock("checkpoint-sequence", .checkpoint, 0, .inconsistent),
    BadBlock("checkpoint-number-limit", .checkpoint, 0, .inconsistent),
]

@Suite struct `The vectors of the SSD format` {
    private static let sound = [
        "examples", "good", "two-directories", "full-notes", "many-stripes", "pins",
        "empty-checkpoint",
    ]

    @Test(arguments: sound)
    func `hold for every block, in both directions`(name: String) throws {
        let store = try StoreVector(name)
        for path in store.paths where path.hasSuffix("/\(SSDFormat.identityName)") {
            let block = try store.bytes(path)
            let identity = try SSDIdentity.decode(block)
            let copy = SSDFormat.makeBlocks(1)
            identity.encode(into: copy.bytes)
            #expect(holdTheSame(copy.bytes, block), "\(path)")
            let directory = path.dropLast(SSDFormat.identityName.utf8.count)
            for path in store.paths where path.hasPrefix(directory) {
                let file = String(path.dropFirst(directory.utf8.count))
                if let slot = SSDFormat.segmentSlot(name: file) {
                    try checkSegment(store, path, slot, identity)
                } else if file == SSDFormat.checkpointName {
                    try checkCheckpoint(store, path, identity)
                }
            }
        }
    }

    private func checkSegment(
        _ store: StoreVector, _ path: String, _ slot: UInt32, _ identity: SSDIdentity
    ) throws {
        let block = try store.block(path, 0)
        let header = try SegmentHeader.decode(block, slot: slot, of: identity)
        let copy = SSDFormat.makeBlocks(1)
        header.encode(into: copy.bytes)
        #expect(holdTheSame(copy.bytes, block), "\(path)")
        guard header.state == .inUse else { return }
        guard let trailer = try? SegmentTrailer.decode(last(store, path), of: header) else {
            var number = 1
            while number < Int(header.blockCount) - 1 {
                let source = try store.block(path, number)
                guard let record = try? RecordHeader.decode(source, at: number, of: header) else {
                    number += 1
                    continue
                }
                checkRecord(record, source, path)
                number += record.blockCount
            }
            return
        }
        let bytes = try store.bytes(path)
        let tailByteCount =
            FooterTable.blockCount(entryCount: Int(trailer.entryCount)) * SSDFormat.blockByteCount
        let tail = bytes.dropFirst(bytes.count - tailByteCount)
        var entries: [FooterEntry] = []
        try FooterTable.decode(tail, trailer, of: header) { entries.append($0) }
        #expect(entries.count == Int(trailer.entryCount))
        let written = OwnedBytes(count: tailByteCount)
        FooterTable.encode(
            entries, of: header, nextSequence: trailer.nextSequence, into: written.bytes)
        #expect(holdTheSame(written.bytes, tail), "\(path)")
        for number in Set(entries.map(\.block)) {
            let source = try store.block(path, Int(number))
            let record = try RecordHeader.decode(source, at: Int(number), of: header)
            checkRecord(record, source, path)
            #expect(FooterEntry.entries(of: record) == entries.filter { $0.block == number })
        }
    }

    private func checkRecord(_ record: RecordHeader, _ source: PinnedBytes, _ path: String) {
        let copy = SSDFormat.makeBlocks(1)
        record.encode(into: copy.bytes) { RecordHeader.stripeChecksum(source, $0) }
        #expect(holdTheSame(copy.bytes, source), "\(path), block \(record.block)")
    }

    private func checkCheckpoint(
        _ store: StoreVector, _ path: String, _ identity: SSDIdentity
    ) throws {
        let block = try store.block(path, 0)
        let header = try CheckpointHeader.decode(block)
        #expect(header.store == identity.store)
        let copy = SSDFormat.makeBlocks(1)
        header.encode(into: copy.bytes)
        #expect(holdTheSame(copy.bytes, block))
        guard header.pageCount == 1 else {
            #expect(header.pageCount == 0)
            return
        }
        let page = try store.bytes(path).dropFirst(SSDFormat.blockByteCount)
        #expect(CheckpointLayout.isSealed(page))
        let again = OwnedBytes(count: CheckpointLayout.pageByteCount)
        again.bytes.copy(from: page)
        var offset = 0
        for _ in 0..<header.segmentCount {
            let row = again.bytes.slice(offset: offset, count: CheckpointLayout.segmentByteCount)
            let segment = CheckpointSegment(row)
            row.fill(0)
            segment.encode(into: row)
            offset += row.count
        }
        offset += Int(header.bindingCount) * CheckpointLayout.bindingByteCount
        for _ in 0..<header.chunkCount {
            let row = again.bytes.slice(offset: offset, count: CheckpointLayout.chunkByteCount)
            let chunk = CheckpointChunk(row)
            row.fill(0)
            chunk.encode(into: row)
            offset += row.count
        }
        CheckpointLayout.seal(again.bytes)
        #expect(holdTheSame(again.bytes, page))
    }

    @Test(arguments: badBlocks)
    private func `are refused for the reason that the text gives`(bad: BadBlock) throws {
        let store = try StoreVector(bad.name)
        #expect(throws: bad.fault) { try decode(bad, store) }
    }

    private func decode(_ bad: BadBlock, _ store: StoreVector) throws {
        let identityBlock = try store.block("0/\(SSDFormat.identityName)", 0)
        if bad.kind == .checkpoint {
            _ = try CheckpointHeader.decode(store.block("0/\(SSDFormat.checkpointName)", 0))
            return
        }
        let identity = try SSDIdentity.decode(identityBlock)
        guard bad.kind != .identity else { return }
        let path = "0/\(SSDFormat.segmentName(slot: 0))"
        let header = try SegmentHeader.decode(store.block(path, 0), slot: 0, of: identity)
        let block = try store.block(path, bad.block)
        switch bad.kind {
        case .record: _ = try RecordHeader.decode(block, at: bad.block, of: header)
        case .trailer: _ = try SegmentTrailer.decode(block, of: header)
        case .table:
            let trailer = try SegmentTrailer.decode(block, of: header)
            let table = try store.block(path, bad.block - trailer.tableBlockCount)
            try FooterTable.decode(table, trailer, of: header) { _ in }
        case .identity, .segment, .checkpoint: break
        }
    }

    @Test func `tell a header that a crash cut short from somebody else's file`() throws {
        for (name, isFree) in [
            ("segment-blank", true), ("segment-torn", true), ("segment-damaged", false),
            ("segment-magic", false), ("segment-foreign", false), ("segment-version", false),
        ] {
            let store = try StoreVector(name)
            let identity = try SSDIdentity.decode(store.bytes("0/\(SSDFormat.identityName)"))
            let block = try store.block("0/\(SSDFormat.segmentName(slot: 0))", 0)
            #expect(SegmentHeader.isBlankOrTorn(block, of: identity) == isFree, "\(name)")
        }
    }

    /// Not the arrays themselves, which a failure would print.
    private func holdTheSame(_ one: PinnedBytes, _ other: PinnedBytes) -> Bool {
        one.array == other.array
    }

    private func last(_ store: StoreVector, _ path: String) throws -> PinnedBytes {
        try store.block(path, store.bytes(path).count / SSDFormat.blockByteCount - 1)
    }
}
