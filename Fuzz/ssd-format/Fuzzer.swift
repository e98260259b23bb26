// SPDX-License-Identifier: Apache-2.0
import KVCore
import Kernels
import Tiers

/// What lies on a disk: the first byte picks a structure, the rest is its bytes. As they are, and
/// with right checksums. What is accepted is within the limits that later code relies on, and reads
/// the same after it was written again.
@c(LLVMFuzzerTestOneInput) public func testOneInput(
    _ start: UnsafePointer<UInt8>?, _ count: Int
) -> CInt {
    guard let start = unsafe start, count > 0 else { return 0 }
    // SAFETY: `start` and `count` are the fuzzer's.
    let (choice, memory) = unsafe (start[0], pinned(start + 1, count - 1))
    if choice % 8 == 7 {
        readTable(memory.bytes)
        return 0
    }
    // Without a tail: the address sanitizer sees a byte too many.
    let block = OwnedBytes(count: SSDFormat.blockByteCount)
    block.bytes.copy(from: memory.bytes.prefix(min(memory.bytes.count, block.bytes.count)))
    read(choice, block.bytes)
    seal(block.bytes)
    read(choice, block.bytes)
    return 0
}

private func seal(_ block: PinnedBytes) {
    block.store(
        Checksum.of(block.prefix(SSDFormat.blockByteCount - 8)), at: SSDFormat.blockByteCount - 8)
}

private func read(_ choice: UInt8, _ block: PinnedBytes) {
    do throws(SSDFormatFault) {
        switch choice % 8 {
        case 0: try readIdentity(block)
        case 1: try readHeader(block)
        case 2: try readTrailer(block)
        case 3, 4: try readRecord(block)
        case 5: try readCheckpoint(block)
        default: readRows(block)
        }
    } catch {
        precondition(!error.explanation.isEmpty)
    }
}

/// What is read from our own bytes, which must be sound.
private func again<Value>(_ decode: () throws(SSDFormatFault) -> Value) -> Value {
    do throws(SSDFormatFault) {
        return try decode()
    } catch {
        preconditionFailure("what we wrote is refused: \(error)")
    }
}

/// Writes a value and gives the block to read it from again.
private func written(_ encode: (PinnedBytes) -> Void) -> OwnedBytes {
    let copy = OwnedBytes(count: SSDFormat.blockByteCount)
    copy.bytes.fill(0xa5)
    encode(copy.bytes)
    return copy
}

private func readIdentity(_ block: PinnedBytes) throws(SSDFormatFault) {
    let identity = try SSDIdentity.decode(block)
    precondition(identity.segmentBlockCount >= UInt32(SSDFormat.segmentBlockCountMin))
    precondition(identity.segmentBlockCount <= UInt32(SSDFormat.segmentBlockCountMax))
    let copy = written { identity.encode(into: $0) }
    precondition(
        again { () throws(SSDFormatFault) in try SSDIdentity.decode(copy.bytes) } == identity)
}

private func readHeader(_ block: PinnedBytes) throws(SSDFormatFault) {
    let identity = SSDIdentity(
        store: block.loadTag(at: 16), directory: block.loadTag(at: 16),
        segmentBlockCount: block.load(UInt32.self, at: 36), created: 0)
    let slot = block.load(UInt32.self, at: 32)
    let isBlankOrTorn = SegmentHeader.isBlankOrTorn(block, of: identity)
    let header = try SegmentHeader.decode(block, slot: slot, of: identity)
    precondition(!isBlankOrTorn)
    precondition(max(header.serial, header.firstSequence) <= SSDFormat.numberMax)
    let copy = written { header.encode(into: $0) }
    precondition(
        again { () throws(SSDFormatFault) in try SegmentHeader.decode(copy.bytes) } == header)
}

/// A segment to which a block may belong: it says the nonce and the serial that the block says.
private func segment(nonce: UInt64, serial: UInt64, blockCount: UInt32) -> SegmentHeader {
    let tag = SSDTag(LayoutID.opaque)
    return SegmentHeader(
        state: .inUse, store: tag, slot: 0, blockCount: blockCount, serial: serial, nonce: nonce,
        firstSequence: 0, opened: 0)
}

private func readTrailer(_ block: PinnedBytes) throws(SSDFormatFault) {
    // A segment that just holds the table, or just does not.
    let tableByteCount = Int(block.load(UInt32.self, at: 12)) * FooterEntry.byteCount
    let blockCount = SSDFormat.blockCount(tableByteCount) + Int(block[60] % 4)
    let header = segment(
        nonce: block.load(UInt64.self, at: 16), serial: block.load(UInt64.self, at: 24),
        blockCount: UInt32(clamping: blockCount))
    precondition(SegmentTrailer.isClaimed(by: block, of: header))
    let trailer = try SegmentTrailer.decode(block, of: header)
    precondition(trailer.tableBlockCount + 2 <= Int(header.blockCount))
    precondition(trailer.nextSequence <= SSDFormat.numberMax)
    let copy = written { trailer.encode(into: $0) }
    precondition(
        again { () throws(SSDFormatFault) in try SegmentTrailer.decode(copy.bytes, of: header) }
            == trailer)
}

private func readRecord(_ block: PinnedBytes) throws(SSDFormatFault) {
    let header = segment(nonce: block.load(UInt64.self, at: 8), serial: 1, blockCount: 16_384)
    let place = Int(block.load(UInt32.self, at: 28))
    let record = try RecordHeader.decode(block, at: place, of: header)
    precondition(RecordHeader.isClaimed(by: block, of: header))
    precondition(record.blockCount >= 1)
    precondition(place >= 1 && place + record.blockCount < Int(header.blockCount))
    for entry in FooterEntry.entries(of: record) {
        precondition(entry.sequence <= SSDFormat.numberMax)
    }
    if case .chunk(let chunk) = record.content {
        precondition((1...Limits.chunkByteCountMax).contains(chunk.byteCount))
        // The last of them must lie within the block.
        _ = RecordHeader.stripeChecksum(block, chunk.stripeCount - 1)
    }
    let copy = written { target in
        record.encode(into: target) { RecordHeader.stripeChecksum(block, $0) }
    }
    precondition(
        again { () throws(SSDFormatFault) in
            try RecordHeader.decode(copy.bytes, at: place, of: header)
        } == record)
    readFooter(of: record, in: header)
}

/// A table of the record's entries is as good as the record.
private func readFooter(of record: RecordHeader, in header: SegmentHeader) {
    let entries = FooterEntry.entries(of: record)
    let table = OwnedBytes(
        count: FooterTable.blockCount(entryCount: entries.count) * SSDFormat.blockByteCount)
    FooterTable.encode(
        entries, of: header, nextSequence: SSDFormat.numberMax, into: table.bytes)
    var found: [FooterEntry] = []
    do throws(SSDFormatFault) {
        let trailer = try SegmentTrailer.decode(
            table.bytes.dropFirst(table.bytes.count - SSDFormat.blockByteCount), of: header)
        try FooterTable.decode(table.bytes, trailer, of: header) { found.append($0) }
    } catch {
        preconditionFailure("a footer of ours is refused: \(error)")
    }
    precondition(found == entries)
}

private func readTable(_ table: PinnedBytes) {
    let header = segment(nonce: 1, serial: 1, blockCount: 64)
    let count = table.count / FooterEntry.byteCount
    var trailer = SegmentTrailer(
        entryCount: UInt32(count), nonce: 1, serial: 1,
        tableChecksum: Checksum.of(table.prefix(count * FooterEntry.byteCount)), nextSequence: 1)
    do throws(SSDFormatFault) {
        try FooterTable.decode(table, trailer, of: header) { entry in
            precondition(entry.block >= 1 && entry.blockCount >= 1)
            precondition(Int(entry.block) + Int(entry.blockCount) < Int(header.blockCount))
            precondition(
                entry.kind != .chunk || Int(entry.byteCount) <= Limits.chunkByteCountMax)
            precondition(entry.sequence <= SSDFormat.numberMax)
        }
    } catch {
        precondition(error == .inconsistent)
    }
    // One entry more than there are bytes for is a wrong checksum, whatever it is.
    trailer.entryCount += 1
    do throws(SSDFormatFault) {
        try FooterTable.decode(table, trailer, of: header) { _ in }
        preconditionFailure("a table that is too short was accepted")
    } catch {
        precondition(error == .notOurs)
    }
}

private func readCheckpoint(_ block: PinnedBytes) throws(SSDFormatFault) {
    let header = try CheckpointHeader.decode(block)
    precondition(header.sequence >= 1 && header.sequence <= SSDFormat.numberMax)
    precondition(CheckpointLayout.pageCount(of: header) == Int(header.pageCount))
    let copy = written { header.encode(into: $0) }
    precondition(
        again { () throws(SSDFormatFault) in try CheckpointHeader.decode(copy.bytes) } == header)
}

private func readRows(_ block: PinnedBytes) {
    let row = OwnedBytes(count: 64)
    let segment = CheckpointSegment(block.prefix(CheckpointLayout.segmentByteCount))
    segment.encode(into: row.bytes.prefix(CheckpointLayout.segmentByteCount))
    precondition(CheckpointSegment(row.bytes) == segment)
    let chunk = CheckpointChunk(block.prefix(CheckpointLayout.chunkByteCount))
    chunk.encode(into: row.bytes)
    precondition(CheckpointChunk(row.bytes) == chunk)
}
