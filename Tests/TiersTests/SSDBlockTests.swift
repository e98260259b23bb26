// SPDX-License-Identifier: Apache-2.0
import KVCore
import Kernels
import Testing

@testable import Tiers

/// Random values of everything that the format knows.
struct RandomFormat {
    var random: SeededGenerator

    init(seed: UInt64) { random = SeededGenerator(seed: seed) }

    mutating func number() -> UInt64 { random.next() }

    /// Within the limit for sequence and serial numbers, with room for 62 more.
    mutating func limited() -> UInt64 { random.next() % (SSDFormat.numberMax - 62) + 1 }

    mutating func pick<Number: FixedWidthInteger>(_ range: ClosedRange<Number>) -> Number {
        Number.random(in: range, using: &random)
    }

    mutating func tag() -> SSDTag { SSDTag(layout()) }

    mutating func layout() -> LayoutID { LayoutID(words: (number(), number())) }

    mutating func chunkKey() -> ChunkKey {
        ChunkKey(words: (number(), number(), number(), number()))
    }

    mutating func identity() -> SSDIdentity {
        SSDIdentity(
            store: tag(), directory: tag(), segmentBlockCount: pick(5...65_536),
            created: number())
    }

    mutating func segmentHeader(blockCount: UInt32? = nil) -> SegmentHeader {
        SegmentHeader(
            state: pick(0...1) == 0 ? .inUse : .free, store: tag(), slot: pick(0...(.max)),
            blockCount: blockCount ?? pick(5...65_536), serial: limited(), nonce: number(),
            firstSequence: limited(), opened: number())
    }

    mutating func trailer(of header: SegmentHeader) -> SegmentTrailer {
        let entryCountMax = (header.blockCount - 2) * 4_096 / UInt32(FooterEntry.byteCount)
        return SegmentTrailer(
            entryCount: pick(0...entryCountMax), nonce: header.nonce, serial: header.serial,
            tableChecksum: number(), nextSequence: limited())
    }

    /// A chunk's record that begins at `place` of a segment of 65,536 blocks.
    mutating func chunkRecord(_ header: SegmentHeader, at place: Int) -> RecordHeader {
        let byteCount = pick(0...2) == 0 ? pick(1...5_000_000) : pick(1...200_000)
        return RecordHeader(
            nonce: header.nonce, sequence: limited(), block: UInt32(place),
            content: .chunk(
                ChunkRecord(
                    key: chunkKey(), namespace: tag(), layout: layout(), byteCount: byteCount,
                    checksum: number(), expiry: number(), stored: number(), level: pick(0...255)
                )))
    }

    mutating func notesRecord(_ header: SegmentHeader, at place: Int) -> RecordHeader {
        let notes = (0..<pick(1...62)).map { _ in
            NoteRecord(
                kind: pick(0...1) == 0 ? .delete : .pin, until: number(), namespace: tag(),
                key: chunkKey())
        }
        return RecordHeader(
            nonce: header.nonce, sequence: limited(), block: UInt32(place),
            content: .notes(notes))
    }

    mutating func checkpointHeader() -> CheckpointHeader {
        var header = CheckpointHeader(store: tag(), sequence: limited(), written: number())
        header.chunkCount = pick(0...1_000_000)
        header.segmentCount = pick(0...10_000)
        header.bindingCount = pick(0...10_000)
        header.pinCount = pick(0...10_000)
        header.pageCount = UInt32(CheckpointLayout.pageCount(of: header))
        return header
    }
}

/// The fault of decoding; nil when it succeeds.
func refusal(_ decode: () throws(SSDFormatFault) -> Void) -> SSDFormatFault? {
    do throws(SSDFormatFault) {
        try decode()
        return nil
    } catch {
        return error
    }
}

/// Tries `decode` with every bit of `bytes` flipped, one at a time: it must refuse.
func expectRefusalOfEveryFlip(
    _ bytes: PinnedBytes, _ comment: Comment,
    _ decode: () throws(SSDFormatFault) -> Void
) {
    var accepted: [Int] = []
    for bit in 0..<8 * bytes.count {
        let byte = bytes[bit / 8]
        bytes.store(byte ^ 1 << UInt8(bit % 8), at: bit / 8)
        if refusal(decode) == nil { accepted.append(bit) }
        bytes.store(byte, at: bit / 8)
    }
    #expect(accepted.isEmpty, comment)
    #expect(refusal(decode) == nil, comment)
}

@Suite struct `The SSD format` {
    private let block = SSDFormat.makeBlocks(1)

    /// Changes a field of the block, seals it again, and decodes.
    private func fault<Number: FixedWidthInteger & BitwiseCopyable>(
        with value: Number, at offset: Int, _ decode: () throws(SSDFormatFault) -> Void
    ) -> SSDFormatFault? {
        let old = block.bytes.load(Number.self, at: offset)
        defer {
            block.bytes.store(old, at: offset)
            block.bytes.sealBlock()
        }
        block.bytes.store(value, at: offset)
        block.bytes.sealBlock()
        return refusal(decode)
    }

    @Test func `names segments by their slots`() {
        #expect(SSDFormat.segmentName(slot: 0) == "segment-00000.kvs")
        #expect(SSDFormat.segmentName(slot: 123_456) == "segment-123456.kvs")
        for slot in [0, 7, 99_999, 100_000, .max] as [UInt32] {
            #expect(SSDFormat.segmentSlot(name: SSDFormat.segmentName(slot: slot)) == slot)
        }
        for name in [
            "segment-0.kvs", "segment-000000.kvs", "segment-00000", "segment-.kvs",
            "segment-00000.kvs.old", "segment-+0001.kvs", "segment-4294967296.kvs", "store.kvs",
        ] {
            #expect(SSDFormat.segmentSlot(name: name) == nil, "\(name)")
        }
    }

    @Test(arguments: [41, 42] as [UInt64])
    func `reads what it wrote`(seed: UInt64) throws {
        var values = RandomFormat(seed: seed)
        for _ in 0..<200 {
            let identity = values.identity()
            identity.encode(into: block.bytes)
            #expect(try SSDIdentity.decode(block.bytes) == identity, "seed \(seed)")
            let header = values.segmentHeader()
            header.encode(into: block.bytes)
            #expect(try SegmentHeader.decode(block.bytes) == header, "seed \(seed)")
            let trailer = values.trailer(of: header)
            trailer.encode(into: block.bytes)
            #expect(try SegmentTrailer.decode(block.bytes, of: header) == trailer, "seed \(seed)")
            let checkpoint = values.checkpointHeader()
            checkpoint.encode(into: block.bytes)
            #expect(try CheckpointHeader.decode(block.bytes) == checkpoint, "seed \(seed)")
            let large = values.segmentHeader(blockCount: 65_536)
            let place = values.pick(1...60_000)
            for record in [
                values.chunkRecord(large, at: place), values.notesRecord(large, at: place),
            ] {
                record.encode(into: block.bytes) { UInt64($0) ^ record.sequence }
                let read = try RecordHeader.decode(block.bytes, at: place, of: large)
                #expect(read == record, "seed \(seed)")
                guard case .chunk(let chunk) = record.content else { continue }
                for stripe in 0..<chunk.stripeCount {
                    let checksum = RecordHeader.stripeChecksum(block.bytes, stripe)
                    #expect(checksum == UInt64(stripe) ^ record.sequence, "seed \(seed)")
                }
            }
        }
    }

    @Test func `cuts chunks into at most 256 stripes`() {
        for byteCount in [1, 65_536, 65_537, 16 << 20, 16 << 20 + 1, Limits.chunkByteCountMax] {
            let stripe = ChunkRecord.stripeByteCount(of: byteCount)
            #expect((byteCount + stripe - 1) / stripe <= 256)
            #expect(stripe == 65_536 || (byteCount + stripe / 2 - 1) / (stripe / 2) > 256)
            #expect(stripe.nonzeroBitCount == 1)
        }
    }

    @Test func `refuses every flipped bit of a block`() throws {
        var values = RandomFormat(seed: 43)
        let bytes = block.bytes
        values.identity().encode(into: bytes)
        expectRefusalOfEveryFlip(bytes, "identity") { () throws(SSDFormatFault) in
            _ = try SSDIdentity.decode(bytes)
        }
        let header = values.segmentHeader(blockCount: 65_536)
        header.encode(into: bytes)
        expectRefusalOfEveryFlip(bytes, "segment header") { () throws(SSDFormatFault) in
            _ = try SegmentHeader.decode(bytes)
        }
        values.trailer(of: header).encode(into: bytes)
        expectRefusalOfEveryFlip(bytes, "trailer") { () throws(SSDFormatFault) in
            _ = try SegmentTrailer.decode(bytes, of: header)
        }
        values.checkpointHeader().encode(into: bytes)
        expectRefusalOfEveryFlip(bytes, "checkpoint header") { () throws(SSDFormatFault) in
            _ = try CheckpointHeader.decode(bytes)
        }
        for record in [values.chunkRecord(header, at: 9), values.notesRecord(header, at: 9)] {
            record.encode(into: bytes) { _ in values.number() }
            expectRefusalOfEveryFlip(bytes, "record") { () throws(SSDFormatFault) in
                _ = try RecordHeader.decode(bytes, at: 9, of: header)
            }
        }
    }

    @Test func `refuses another version of each block`() throws {
        var values = RandomFormat(seed: 44)
        let bytes = block.bytes
        let header = values.segmentHeader(blockCount: 65_536)
        values.identity().encode(into: bytes)
        #expect(
            fault(with: UInt32(2), at: 8) { () throws(SSDFormatFault) in
                _ = try SSDIdentity.decode(bytes)
            } == .version(2))
        header.encode(into: bytes)
        #expect(
            fault(with: UInt32(2), at: 8) { () throws(SSDFormatFault) in
                _ = try SegmentHeader.decode(bytes)
            } == .version(2))
        values.trailer(of: header).encode(into: bytes)
        #expect(
            fault(with: UInt32(0), at: 8) { () throws(SSDFormatFault) in
                _ = try SegmentTrailer.decode(bytes, of: header)
            } == .version(0))
        values.checkpointHeader().encode(into: bytes)
        #expect(
            fault(with: UInt32(2), at: 8) { () throws(SSDFormatFault) in
                _ = try CheckpointHeader.decode(bytes)
            } == .version(2))
        values.notesRecord(header, at: 3).encode(into: bytes) { _ in 0 }
        #expect(
            fault(with: UInt16(2), at: 6) { () throws(SSDFormatFault) in
                _ = try RecordHeader.decode(bytes, at: 3, of: header)
            } == .version(2))
    }

    @Test func `refuses sealed blocks that contradict themselves or their place`() throws {
        var values = RandomFormat(seed: 45)
        let bytes = block.bytes
        let identity = values.identity()
        identity.encode(into: bytes)
        for count in [0, 4, 65_537] as [UInt32] {
            let found = fault(with: count, at: 12) { () throws(SSDFormatFault) in
                _ = try SSDIdentity.decode(bytes)
            }
            #expect(found == .inconsistent)
        }
        var header = values.segmentHeader(blockCount: 100)
        header.encode(into: bytes)
        for state in [0, 3] as [UInt32] {
            let found = fault(with: state, at: 12) { () throws(SSDFormatFault) in
                _ = try SegmentHeader.decode(bytes)
            }
            #expect(found == .inconsistent)
        }
        for offset in [40, 56] {
            for (value, expected) in [(1 << 62, nil), (1 << 62 + 1, .inconsistent)]
                as [(UInt64, SSDFormatFault?)]
            {
                let found = fault(with: value, at: offset) { () throws(SSDFormatFault) in
                    _ = try SegmentHeader.decode(bytes)
                }
                #expect(found == expected, "\(offset)")
            }
        }
        header.store = identity.store
        header.blockCount = identity.segmentBlockCount
        header.encode(into: bytes)
        let decode = { (slot: UInt32, identity: SSDIdentity) -> SSDFormatFault? in
            refusal { () throws(SSDFormatFault) in
                _ = try SegmentHeader.decode(bytes, slot: slot, of: identity)
            }
        }
        #expect(decode(header.slot, identity) == nil)
        #expect(decode(header.slot ^ 1, identity) == .inconsistent)
        var other = identity
        other.store = values.tag()
        #expect(decode(header.slot, other) == .otherStore)
        other = identity
        other.segmentBlockCount ^= 64
        #expect(decode(header.slot, other) == .inconsistent)
    }

    @Test func `refuses records of another life, in another place, or over the end`() throws {
        var values = RandomFormat(seed: 46)
        let bytes = block.bytes
        let header = values.segmentHeader(blockCount: 20)
        let record = RecordHeader(
            nonce: header.nonce, sequence: 5, block: 4,
            content: .chunk(
                ChunkRecord(
                    key: key(1), namespace: values.tag(), layout: .opaque, byteCount: 40_961,
                    checksum: 0, expiry: 0, stored: 0, level: 0)))
        record.encode(into: bytes) { _ in 0 }
        let decode = { (place: Int, header: SegmentHeader) -> SSDFormatFault? in
            refusal { () throws(SSDFormatFault) in
                _ = try RecordHeader.decode(bytes, at: place, of: header)
            }
        }
        // 12 blocks from block 4 on: the trailer comes behind block 15 at least.
        #expect(decode(4, header) == nil)
        #expect(decode(5, header) == .inconsistent)
        for (count, expected) in [(17, nil), (16, .inconsistent)] as [(UInt32, SSDFormatFault?)] {
            var short = header
            short.blockCount = count
            #expect(decode(4, short) == expected, "\(count)")
        }
        var later = header
        later.nonce ^= 1
        #expect(decode(4, later) == .notOurs)
        let again = { () throws(SSDFormatFault) in
            _ = try RecordHeader.decode(bytes, at: 4, of: header)
        }
        #expect(fault(with: UInt16(3), at: 4, again) == .inconsistent)
        #expect(fault(with: UInt32(11), at: 24, again) == .inconsistent)
        #expect(fault(with: UInt64(0), at: 96, again) == .inconsistent)
        #expect(fault(with: UInt64(1) << 28 + 1, at: 96, again) == .inconsistent)
        #expect(fault(with: UInt32(131_072), at: 132, again) == .inconsistent)
        #expect(fault(with: UInt32(2), at: 136, again) == .inconsistent)
        values.notesRecord(header, at: 4).encode(into: bytes) { _ in 0 }
        #expect(decode(4, header) == nil)
        #expect(fault(with: UInt32(0), at: 32, again) == .inconsistent)
        #expect(fault(with: UInt32(63), at: 32, again) == .inconsistent)
        #expect(fault(with: UInt8(3), at: 64, again) == .inconsistent)
    }

    @Test func `knows a segment that was never opened, and one that was torn`() throws {
        var values = RandomFormat(seed: 47)
        let bytes = block.bytes
        let identity = values.identity()
        #expect(SegmentHeader.isBlankOrTorn(bytes, of: identity))
        var header = values.segmentHeader(blockCount: identity.segmentBlockCount)
        header.encode(into: bytes)
        #expect(!SegmentHeader.isBlankOrTorn(bytes, of: identity))
        header.store = identity.store
        header.encode(into: bytes)
        #expect(!SegmentHeader.isBlankOrTorn(bytes, of: identity))
        bytes.store(UInt8(1), at: 2_000)
        #expect(SegmentHeader.isBlankOrTorn(bytes, of: identity))
    }
}
