// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVCore
import Kernels
import LinuxIO
import Testing

@testable import Tiers

extension RandomFormat {
    /// An entry that fits a segment of `blockCount` blocks.
    mutating func entry(blockCount: UInt32) -> FooterEntry {
        let kind: FooterEntry.Kind = [.chunk, .delete, .pin][pick(0...2)]
        let payloadBlockCount = kind == .chunk ? pick(1...(blockCount - 4)) : 0
        return FooterEntry(
            kind: kind, level: kind == .chunk ? pick(0...255) : 0,
            block: pick(1...(blockCount - 3 - payloadBlockCount)),
            blockCount: 1 + payloadBlockCount,
            byteCount: kind == .chunk ? payloadBlockCount * 4_096 - pick(0...4_095) : 0,
            sequence: limited(), checksum: kind == .chunk ? number() : 0, expiry: number(),
            key: chunkKey(), namespace: tag(), layout: kind == .chunk ? layout() : .opaque)
    }

    mutating func checkpointChunk() -> CheckpointChunk {
        CheckpointChunk(
            key: chunkKey(), checksum: number(), segment: pick(0...(.max)),
            block: pick(0...(.max)), byteCount: pick(0...(.max)), binding: pick(0...(.max)),
            expiry: number())
    }
}

/// A table, its trailer, and the header of its segment.
private struct TestTable {
    let header: SegmentHeader
    let blocks: OwnedBytes
    let entryCount: Int

    init(_ entries: [FooterEntry], of header: SegmentHeader) {
        self.header = header
        entryCount = entries.count
        blocks = SSDFormat.makeBlocks(FooterTable.blockCount(entryCount: entries.count))
        FooterTable.encode(entries, of: header, nextSequence: 9, into: blocks.bytes)
    }

    var trailerBlock: PinnedBytes { blocks.bytes.dropFirst(blocks.bytes.count - 4_096) }

    func decode() throws(SSDFormatFault) -> [FooterEntry] {
        let trailer = try SegmentTrailer.decode(trailerBlock, of: header)
        var entries: [FooterEntry] = []
        try FooterTable.decode(blocks.bytes, trailer, of: header) { entries.append($0) }
        return entries
    }

    /// The fault after a field of an entry was changed, with a trailer that fits the change.
    func refusal<Number: FixedWidthInteger & BitwiseCopyable>(
        with value: Number, at offset: Int
    ) -> SSDFormatFault? {
        let old = blocks.bytes.load(Number.self, at: offset)
        blocks.bytes.store(value, at: offset)
        reseal()
        defer {
            blocks.bytes.store(old, at: offset)
            reseal()
        }
        return TiersTests.refusal { () throws(SSDFormatFault) in _ = try decode() }
    }

    private func reseal() {
        let checksum = Checksum.of(blocks.bytes.prefix(entryCount * FooterEntry.byteCount))
        trailerBlock.store(checksum, at: 32)
        trailerBlock.sealBlock()
    }
}

@Suite struct `A footer` {
    @Test(arguments: [0, 1, 39, 40, 1_000], [51, 52] as [UInt64])
    func `lists what was written into it`(count: Int, seed: UInt64) throws {
        var values = RandomFormat(seed: seed)
        let header = values.segmentHeader(blockCount: 5_000)
        let entries = (0..<count).map { _ in values.entry(blockCount: 5_000) }
        let table = TestTable(entries, of: header)
        #expect(try table.decode() == entries, "seed \(seed)")
        let trailer = try SegmentTrailer.decode(table.trailerBlock, of: header)
        #expect(trailer.nextSequence == 9 && Int(trailer.entryCount) == count)
        #expect(table.blocks.bytes.count == (trailer.tableBlockCount + 1) * 4_096)
    }

    @Test func `is refused with any bit flipped, all of it`() throws {
        var values = RandomFormat(seed: 53)
        let header = values.segmentHeader(blockCount: 100)
        let entries = (0..<40).map { _ in values.entry(blockCount: 100) }
        let table = TestTable(entries, of: header)
        let listed = table.blocks.bytes.prefix(40 * FooterEntry.byteCount)
        expectRefusalOfEveryFlip(listed, "table") { () throws(SSDFormatFault) in
            _ = try table.decode()
        }
        expectRefusalOfEveryFlip(table.trailerBlock, "trailer") { () throws(SSDFormatFault) in
            _ = try table.decode()
        }
    }

    @Test func `is refused with an entry that cannot be`() throws {
        var values = RandomFormat(seed: 54)
        let header = values.segmentHeader(blockCount: 20)
        let chunk = FooterEntry(
            kind: .chunk, level: 0, block: 3, blockCount: 4, byteCount: 10_000, sequence: 1,
            checksum: 2, expiry: 3, key: key(1), namespace: values.tag(), layout: .opaque)
        let table = TestTable([values.entry(blockCount: 20), chunk], of: header)
        let offset = FooterEntry.byteCount
        #expect(table.refusal(with: UInt8(1), at: offset) == nil)
        for kind in [0, 2, 16, 19] as [UInt8] {
            #expect(table.refusal(with: kind, at: offset) == .inconsistent, "\(kind)")
        }
        // Behind the last place: it would reach into the trailer.
        #expect(table.refusal(with: UInt32(15), at: offset + 4) == nil)
        for block in [0, 16, .max] as [UInt32] {
            #expect(table.refusal(with: block, at: offset + 4) == .inconsistent, "\(block)")
        }
        for count in [0, 3, 5, .max] as [UInt32] {
            #expect(table.refusal(with: count, at: offset + 8) == .inconsistent, "\(count)")
        }
        for count in [0, 4_096, .max] as [UInt32] {
            #expect(table.refusal(with: count, at: offset + 12) == .inconsistent, "\(count)")
        }
    }

    @Test func `is refused by another life of its segment`() throws {
        var values = RandomFormat(seed: 55)
        let header = values.segmentHeader(blockCount: 20)
        let table = TestTable([values.entry(blockCount: 20)], of: header)
        var later = header
        later.nonce ^= 1
        #expect(
            refusal { () throws(SSDFormatFault) in
                _ = try SegmentTrailer.decode(table.trailerBlock, of: later)
            } == .inconsistent)
        later = header
        later.serial += 1
        #expect(
            refusal { () throws(SSDFormatFault) in
                _ = try SegmentTrailer.decode(table.trailerBlock, of: later)
            } == .inconsistent)
    }
}

/// Runs `body` on a reactor with a file of its own.
private func withFile(
    _ body: @Sendable (isolated TestDoor, RingFile, String) async throws -> Void
) async throws {
    let path = "/tmp/tiers-tests-\(UInt64.random(in: 0 ... .max))"
    let door = TestDoor(try RingReactor(.small))
    try await door.run { door in
        let file = try door.reactor.openFile(path, .readWrite)
        try await body(door, file, path)
        file.close()
    }
    door.reactor.stop()
    door.reactor.join()
    #expect(unsafe unlink(path) == 0)
}

@Suite struct `A checkpoint's pages` {
    /// The rows of a checkpoint, as bytes.
    private struct Rows: Sendable {
        var segments: [CheckpointSegment] = []
        var bindings: [SSDTag] = []
        var chunks: [CheckpointChunk] = []
        var pins: [ChunkKey] = []

        init(_ counts: (Int, Int, Int, Int), seed: UInt64) {
            var values = RandomFormat(seed: seed)
            for index in 0..<counts.0 {
                segments.append(
                    CheckpointSegment(
                        directory: values.tag(), slot: UInt32(index),
                        isSealed: index.isMultiple(of: 2), serial: values.number()))
            }
            for _ in 0..<counts.1 { bindings.append(values.tag()) }
            for _ in 0..<counts.2 { chunks.append(values.checkpointChunk()) }
            for _ in 0..<counts.3 { pins.append(values.chunkKey()) }
        }

        var header: CheckpointHeader {
            var header = CheckpointHeader(
                store: SSDTag(namespace: "s"), sequence: 7, written: 8)
            header.segmentCount = UInt32(segments.count)
            header.bindingCount = UInt32(bindings.count)
            header.chunkCount = UInt64(chunks.count)
            header.pinCount = UInt32(pins.count)
            header.pageCount = UInt32(CheckpointLayout.pageCount(of: header))
            return header
        }

        nonisolated(nonsending) func write(to file: RingFile) async throws {
            let writer = CheckpointWriter<RingReactor>(file: file)
            for row in segments { try await writer.append(32) { row.encode(into: $0) } }
            for row in bindings { try await writer.append(40) { $0.store(row, at: 0) } }
            for row in chunks { try await writer.append(64) { row.encode(into: $0) } }
            for row in pins { try await writer.append(64) { $0.store(row, at: 16) } }
            let pageCount = try await writer.finish()
            #expect(pageCount == Int(header.pageCount))
            let block = SSDFormat.makeBlocks(1)
            header.encode(into: block.bytes)
            try await file.write(block.bytes, at: 0)
            #expect(writer.writtenByteCount == 4_096 + Int(header.pageCount) << 20)
        }

        /// Compares every row; throws what the reader does.
        nonisolated(nonsending) func check(
            _ file: RingFile, byteCount: Int? = nil
        ) async throws(IOFault) {
            let reader = CheckpointReader<RingReactor>(
                file: file, byteCount: byteCount ?? 4_096 + Int(header.pageCount) << 20)
            let found = try await reader.readHeader()
            guard let found else { throw .invalidArgument }
            #expect(found == header)
            for row in segments {
                let found = CheckpointSegment(try await reader.next(32))
                #expect(found == row)
            }
            for row in bindings {
                let found = try await reader.next(40).loadTag(at: 0)
                #expect(found == row)
            }
            for row in chunks {
                let found = CheckpointChunk(try await reader.next(64))
                #expect(found == row)
            }
            for row in pins {
                let found = try await reader.next(64).loadKey(at: 16)
                #expect(found == row)
            }
        }

        /// The fault of `check`.
        nonisolated(nonsending) func fault(
            _ file: RingFile, byteCount: Int? = nil
        ) async -> IOFault? {
            do throws(IOFault) {
                try await check(file, byteCount: byteCount)
                return nil
            } catch {
                return error
            }
        }
    }

    /// With three bindings and 16,382 chunks a page is full to the last byte.
    @Test(
        arguments: [
            (0, 0, 0, 0), (1, 0, 0, 0), (0, 3, 16_382, 0), (0, 3, 16_382, 1), (1, 3, 16_382, 0),
            (5, 7, 40_000, 3), (0, 1, 32_766, 2),
        ])
    func `carry rows over their borders`(
        segments: Int, bindings: Int, chunks: Int, pins: Int
    ) async throws {
        let rows = Rows((segments, bindings, chunks, pins), seed: 61)
        try await withFile { _, file, _ in
            try await rows.write(to: file)
            try await rows.check(file)
        }
    }

    @Test func `are refused when damaged, and when the file is short`() async throws {
        let rows = Rows((5, 7, 30_000, 3), seed: 62)
        try await withFile { _, file, _ in
            try await rows.write(to: file)
            let fault = await rows.fault(file, byteCount: 4_095 + 2 << 20)
            #expect(fault == .invalidArgument)
            var values = RandomFormat(seed: 63)
            let byte = OwnedBytes(count: 1)
            for _ in 0..<20 {
                let offset = values.pick(4_096...UInt64(4_096 + 2 << 20 - 1))
                try await file.read(into: byte.bytes, at: offset)
                byte.bytes.store(byte.bytes[0] ^ 1 << values.pick(0...7), at: 0)
                try await file.write(byte.bytes, at: offset)
                let fault = await rows.fault(file)
                #expect(fault == .closed, "\(offset)")
                try await rows.write(to: file)
            }
            try await rows.check(file)
        }
    }
}
