// SPDX-License-Identifier: Apache-2.0
import KVCore
import Tiers

/// Checkpoints: docs/ssd-format.md, section 8.
extension StoreInspection {
    /// Says what is in the checkpoint at `path`.
    func inspectCheckpoint(_ path: String, _ directory: Int) {
        do throws(StoreFileFault) {
            let file = try StoreFile(path)
            if let header = try checkpointHeader(file, directory) {
                say(.checkpoint(header, directory: directory))
                if try checkPages(file, header, directory) {
                    try inspectRows(CheckpointRows(file), header, directory)
                }
            }
        } catch {
            say(.fault("checkpoint-unreadable", directory: directory))
        }
    }

    /// The header; nil, with the fault said, where the checkpoint does not count.
    private func checkpointHeader(
        _ file: StoreFile, _ directory: Int
    ) throws(StoreFileFault) -> CheckpointHeader? {
        let block = SSDFormat.makeBlocks(1)
        guard let byteCount = file.read(into: block.bytes, at: 0) else { throw .unreadable }
        do throws(SSDFormatFault) {
            guard byteCount == block.bytes.count else { throw .notOurs }
            let header = try CheckpointHeader.decode(block.bytes)
            guard file.byteCount >= pageOffset(Int(header.pageCount)) else { throw .inconsistent }
            guard header.store == store else { throw .otherStore }
            return header
        } catch {
            say(.fault("checkpoint-\(Self.word(error))", directory: directory))
            return nil
        }
    }

    private func checkPages(
        _ file: StoreFile, _ header: CheckpointHeader, _ directory: Int
    ) throws(StoreFileFault) -> Bool {
        let page = OwnedBytes(count: CheckpointLayout.pageByteCount)
        var isWhole = true
        for number in 0..<Int(header.pageCount) {
            guard let byteCount = file.read(into: page.bytes, at: pageOffset(number)) else {
                throw .unreadable
            }
            if byteCount < page.bytes.count || !CheckpointLayout.isSealed(page.bytes) {
                isWhole = false
                say(.fault("checkpoint-page", directory: directory, index: number))
            }
        }
        return isWhole
    }

    private func inspectRows(
        _ rows: CheckpointRows, _ header: CheckpointHeader, _ directory: Int
    ) throws(StoreFileFault) {
        for index in 0..<Int(header.segmentCount) {
            let segment = CheckpointSegment(try rows.next(CheckpointLayout.segmentByteCount))
            sayRow(
                "segment", index, directory,
                [
                    ("directory_id", .name(segment.directory)), ("segment", .count(segment.slot)),
                    ("coverage", .text(Self.coverage(segment))),
                    ("serial", .integer(segment.serial)),
                ])
        }
        for index in 0..<Int(header.bindingCount) {
            let row = try rows.next(CheckpointLayout.bindingByteCount)
            sayRow(
                "binding", index, directory,
                [
                    ("namespace", .name(row.loadTag(at: 0))),
                    ("layout", .name(row.loadLayout(at: 16))),
                    ("level", .count(row.load(UInt32.self, at: 32))),
                ])
        }
        for index in 0..<Int(header.chunkCount) {
            let chunk = CheckpointChunk(try rows.next(CheckpointLayout.chunkByteCount))
            sayRow("chunk", index, directory, Self.fields(chunk))
            if !isInRange(chunk, header) {
                say(.fault("checkpoint-entry", directory: directory, index: index))
            }
        }
        for index in 0..<Int(header.pinCount) {
            let row = try rows.next(CheckpointLayout.pinByteCount)
            sayRow(
                "pin", index, directory,
                [
                    ("namespace", .name(row.loadTag(at: 0))), ("key", .name(row.loadKey(at: 16))),
                    ("until_ms", .integer(row.load(UInt64.self, at: 48))),
                ])
        }
    }

    private static func coverage(_ segment: CheckpointSegment) -> String {
        segment.isSealed ? segment.hasLateNotes ? "chunks" : "all" : "none"
    }

    private func isInRange(_ chunk: CheckpointChunk, _ header: CheckpointHeader) -> Bool {
        chunk.segment < header.segmentCount && chunk.binding < header.bindingCount
            && (1...Limits.chunkByteCountMax).contains(Int(chunk.byteCount))
            && (1..<SSDFormat.segmentBlockCountMax).contains(Int(chunk.block))
    }

    private static func fields(_ chunk: CheckpointChunk) -> [(String, JSONValue)] {
        [
            ("key", .name(chunk.key)), ("checksum", .digits(chunk.checksum)),
            ("segment_index", .count(chunk.segment)), ("block", .count(chunk.block)),
            ("byte_count", .count(chunk.byteCount)), ("binding_index", .count(chunk.binding)),
            ("expiry_ms", .integer(chunk.expiry)),
        ]
    }

    private func sayRow(
        _ list: String, _ index: Int, _ directory: Int, _ fields: [(String, JSONValue)]
    ) {
        say(
            InspectionLine(
                "checkpoint-\(list)",
                [("directory", .count(directory)), ("index", .count(index))] + fields))
    }
}

extension InspectionLine {
    fileprivate static func checkpoint(
        _ header: CheckpointHeader, directory: Int
    ) -> InspectionLine {
        InspectionLine(
            "checkpoint",
            [
                ("directory", .count(directory)), ("sequence", .integer(header.sequence)),
                ("written_ms", .integer(header.written)), ("page_count", .count(header.pageCount)),
                ("segment_count", .count(header.segmentCount)),
                ("binding_count", .count(header.bindingCount)),
                ("chunk_count", .integer(header.chunkCount)),
                ("pin_count", .count(header.pinCount)),
            ])
    }
}

/// Where page `number` of a checkpoint begins.
private func pageOffset(_ number: Int) -> Int {
    SSDFormat.blockByteCount + number * CheckpointLayout.pageByteCount
}

/// The rows of a checkpoint whose pages are sound, one after the other. Confined to its owner.
private final class CheckpointRows {
    private let file: StoreFile
    private let page = OwnedBytes(count: CheckpointLayout.pageByteCount)
    private let row = OwnedBytes(count: CheckpointLayout.chunkByteCount)
    private var nextPage = 0
    private var taken = CheckpointLayout.runByteCount

    init(_ file: StoreFile) { self.file = file }

    /// The next `byteCount` bytes of the stream, good until the next call. A row may lie across two
    /// pages.
    func next(_ byteCount: Int) throws(StoreFileFault) -> PinnedBytes {
        var filled = 0
        while filled < byteCount {
            if taken == CheckpointLayout.runByteCount { try readPage() }
            let count = min(byteCount - filled, CheckpointLayout.runByteCount - taken)
            row.bytes.dropFirst(filled).copy(from: page.bytes.slice(offset: taken, count: count))
            filled += count
            taken += count
        }
        return row.bytes.prefix(byteCount)
    }

    private func readPage() throws(StoreFileFault) {
        guard file.read(into: page.bytes, at: pageOffset(nextPage)) == page.bytes.count else {
            throw .unreadable
        }
        nextPage += 1
        taken = 0
    }
}
