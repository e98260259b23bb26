// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Kernels

/// Reads the records of one segment: by its footer, or block by block. Confined to the store.
final class SegmentScanner<R: Reactor> {
    /// Blocks that are read at once.
    private static var windowBlockCount: Int { 256 }
    /// Blocks of a trailer and the table of a thousand chunks, which are few in most segments.
    private static var footerBlockCountExpected: Int { 32 }

    private let file: R.File
    private let blockCount: Int
    private let window: OwnedBytes
    private var windowBlocks = 0..<0

    /// `window` is memory that many scanners use one after another; fresh unless it is given.
    init(file: R.File, blockCount: Int, window: OwnedBytes? = nil) {
        self.file = file
        self.blockCount = blockCount
        self.window = window ?? Self.makeWindow(blockCount: blockCount)
    }

    /// Memory for scanners of segments of that size.
    static func makeWindow(blockCount: Int) -> OwnedBytes {
        SSDFormat.makeBlocks(min(windowBlockCount, blockCount))
    }

    /// The bytes of `blocks`, which are at most a window; good until the next call.
    nonisolated(nonsending) func read(_ blocks: Range<Int>) async throws(IOFault) -> PinnedBytes {
        if blocks.lowerBound < windowBlocks.lowerBound
            || blocks.upperBound > windowBlocks.upperBound
        {
            let end = min(blocks.lowerBound + Self.windowBlockCount, blockCount)
            windowBlocks = 0..<0
            try await file.readPersistently(
                into: window.bytes.prefix(
                    (end - blocks.lowerBound) * SSDFormat.blockByteCount),
                at: UInt64(blocks.lowerBound * SSDFormat.blockByteCount))
            windowBlocks = blocks.lowerBound..<end
        }
        return window.bytes.slice(
            offset: (blocks.lowerBound - windowBlocks.lowerBound) * SSDFormat.blockByteCount,
            count: blocks.count * SSDFormat.blockByteCount)
    }

    /// The segment's header block.
    nonisolated(nonsending) func readHeaderBlock() async throws(IOFault) -> PinnedBytes {
        try await read(0..<1)
    }

    /// The entries of the footer; nil when there is none that counts.
    nonisolated(nonsending) func readFooter(
        of header: SegmentHeader
    ) async throws(IOFault) -> [FooterEntry]? {
        // The end of the segment in one read: trailer, and the whole table as a rule.
        let first = max(1, blockCount - Self.footerBlockCountExpected)
        let tail = try await read(first..<blockCount)
        let trailerBlock = tail.dropFirst(tail.count - SSDFormat.blockByteCount)
        let trailer: SegmentTrailer
        do throws(SSDFormatFault) {
            trailer = try SegmentTrailer.decode(trailerBlock, of: header)
        } catch {
            return nil
        }
        let tableFirst = blockCount - 1 - trailer.tableBlockCount
        if tableFirst >= first {
            let offset = (tableFirst - first) * SSDFormat.blockByteCount
            return decode(
                tail.slice(offset: offset, count: tail.count - offset), trailer, header)
        }
        let table = SSDFormat.makeBlocks(trailer.tableBlockCount)
        try await file.readPersistently(
            into: table.bytes, at: UInt64(tableFirst * SSDFormat.blockByteCount))
        return withExtendedLifetime(table) { decode(table.bytes, trailer, header) }
    }

    private func decode(
        _ table: PinnedBytes, _ trailer: SegmentTrailer, _ header: SegmentHeader
    ) -> [FooterEntry]? {
        var entries: [FooterEntry] = []
        entries.reserveCapacity(Int(trailer.entryCount))
        do throws(SSDFormatFault) {
            try FooterTable.decode(table, trailer, of: header) { entries.append($0) }
            return entries
        } catch {
            return nil
        }
    }

    /// The entries of all valid records, found by looking at every block; with `verifying`, of
    /// those whose payload matches its checksum.
    nonisolated(nonsending) func scan(
        _ header: SegmentHeader, verifying: Bool
    ) async throws(IOFault) -> [FooterEntry] {
        var entries: [FooterEntry] = []
        var block = 1
        while block < blockCount - 1 {
            let record: RecordHeader
            let source = try await read(block..<block + 1)
            do throws(SSDFormatFault) {
                record = try RecordHeader.decode(source, at: block, of: header)
            } catch {
                block += 1
                continue
            }
            var isGood = true
            if verifying, case .chunk(let chunk) = record.content {
                isGood =
                    try await checksum(ofPayloadAt: block, byteCount: chunk.byteCount)
                    == chunk.checksum
            }
            if isGood {
                entries.append(contentsOf: FooterEntry.entries(of: record))
                block += record.blockCount
            } else {
                // What follows a torn record may lie where its payload should: look there too.
                block += 1
            }
        }
        return entries
    }

    /// The checksum of the payload of the record at `block`.
    nonisolated(nonsending) func checksum(
        ofPayloadAt block: Int, byteCount: Int
    ) async throws(IOFault) -> UInt64 {
        let checksum = StreamingChecksum()
        var done = 0
        while done < byteCount {
            let first = block + 1 + done / SSDFormat.blockByteCount
            let count = min(byteCount - done, Self.windowBlockCount * SSDFormat.blockByteCount)
            let piece = try await read(first..<first + SSDFormat.blockCount(count))
            checksum.add(piece.prefix(count))
            done += count
        }
        return checksum.value
    }
}

extension BlockFile {
    /// Fills all of `target` from `offset`; tries three times.
    nonisolated(nonsending) func readPersistently(
        into target: PinnedBytes, at offset: UInt64
    ) async throws(IOFault) {
        var attempt = 1
        while true {
            do throws(IOFault) {
                try await read(into: target, at: offset)
                return
            } catch {
                guard attempt < 3, error != .cancelled else { throw error }
                attempt += 1
            }
        }
    }
}
