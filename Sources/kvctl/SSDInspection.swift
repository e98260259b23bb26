// SPDX-License-Identifier: Apache-2.0
import KVCore
import Kernels
import Tiers

/// Reads the directories of a store and says what is in them, line by line; writes nothing.
///
/// The first reader of docs/ssd-format.md, over the decoders that the daemon uses; dev/ssd-inspect
/// is the second. Whatever the bytes are, it comes to an end: damage is a line of its own.
/// Blocking; confined to its owner.
final class StoreInspection {
    struct Options {
        /// Only the segments of this slot, and no checkpoint.
        var segment: UInt32?
        /// Read all payloads and check them.
        var verifies = false
        /// Say at the end what a recovery finds.
        var recovers = false
        /// When that is: wall time, milliseconds since 1970.
        var now: UInt64 = 0
    }

    let options: Options
    private let emit: (InspectionLine) -> Void
    private var counts: [String: Int] = [:]
    private var verifiedPayloadCount = 0
    private(set) var store: SSDTag?
    private var directoryIDs: Set<SSDTag> = []
    private var recovered = RecoveredStore()
    private let block = SSDFormat.makeBlocks(1)
    private let payload = SSDFormat.makeBlocks(256)

    init(_ options: Options, emit: @escaping (InspectionLine) -> Void) {
        self.options = options
        self.emit = emit
    }

    /// Kinds of faults that were found, and how many of each.
    private(set) var faults: [String: Int] = [:]

    /// Reads everything; call once.
    func run(_ paths: [String]) {
        for (directory, path) in paths.enumerated() {
            inspectDirectory(directory, path)
        }
        if options.recovers {
            for line in recovered.lines(now: options.now) { say(line) }
        }
        emit(
            InspectionLine(
                "summary",
                [
                    ("directories", count("identity")), ("segments", count("segment")),
                    ("records", count("record")), ("notes", count("note")),
                    (
                        "verified_payloads",
                        options.verifies ? .count(verifiedPayloadCount) : .null
                    ),
                    ("recovered", options.recovers ? count("recovered") : .null),
                    ("faults", count("fault")),
                ]))
    }

    private func count(_ type: String) -> JSONValue { .count(counts[type] ?? 0) }

    func say(_ line: InspectionLine) {
        counts[line.type, default: 0] += 1
        if case .text(let what)? = line.fields.first?.1, line.type == "fault" {
            faults[what, default: 0] += 1
        }
        emit(line)
    }

    private func fault(_ what: String, _ directory: Int, _ segment: UInt32? = nil) {
        say(.fault(what, directory: directory, segment: segment))
    }

    /// The part of a fault's name that says how a block is wrong.
    static func word(_ fault: SSDFormatFault) -> String {
        switch fault {
        case .notOurs: "damaged"
        case .version: "version"
        case .otherStore: "foreign"
        case .inconsistent: "invalid"
        }
    }

    // MARK: Directories

    private func inspectDirectory(_ directory: Int, _ path: String) {
        guard let names = namesInDirectory(path) else {
            return fault("directory-unreadable", directory)
        }
        guard let identity = readIdentity(directory, "\(path)/\(SSDFormat.identityName)") else {
            return
        }
        say(.identity(identity, directory: directory))
        for slot in names.compactMap({ SSDFormat.segmentSlot(name: $0) }).sorted()
        where options.segment == nil || options.segment == slot {
            inspectSegment(
                "\(path)/\(SSDFormat.segmentName(slot: slot))", slot, directory, identity)
        }
        if options.segment == nil, names.contains(SSDFormat.checkpointName) {
            inspectCheckpoint("\(path)/\(SSDFormat.checkpointName)", directory)
        }
    }

    /// The identity at `path`; nil, with the fault said, where the directory is not the store's.
    private func readIdentity(_ directory: Int, _ path: String) -> SSDIdentity? {
        let what: String
        do throws(StoreFileFault) {
            let byteCount = try StoreFile(path).read(into: block.bytes, at: 0)
            guard let byteCount else { throw .unreadable }
            if byteCount < block.bytes.count {
                what = "damaged"
            } else {
                switch identity(in: block.bytes) {
                case .success(let identity): return identity
                case .failure(let reason): what = reason.word
                }
            }
        } catch {
            what = error == .missing ? "missing" : "unreadable"
        }
        fault("identity-\(what)", directory)
        return nil
    }

    private struct Reason: Error {
        let word: String
    }

    private func identity(in block: PinnedBytes) -> Result<SSDIdentity, Reason> {
        do throws(SSDFormatFault) {
            let identity = try SSDIdentity.decode(block)
            guard store == nil || store == identity.store else { throw .otherStore }
            guard directoryIDs.insert(identity.directory).inserted else {
                return .failure(Reason(word: "repeated"))
            }
            store = identity.store
            return .success(identity)
        } catch {
            return .failure(Reason(word: Self.word(error)))
        }
    }

    // MARK: Segments

    private func inspectSegment(
        _ path: String, _ slot: UInt32, _ directory: Int, _ identity: SSDIdentity
    ) {
        do throws(StoreFileFault) {
            let file = try StoreFile(path)
            let byteCount = Int(identity.segmentBlockCount) * SSDFormat.blockByteCount
            guard file.byteCount == byteCount else {
                return fault("segment-size", directory, slot)
            }
            guard file.readBlocks(0, into: block.bytes) else { throw .unreadable }
            do throws(SSDFormatFault) {
                let header = try SegmentHeader.decode(block.bytes, slot: slot, of: identity)
                inspect(InspectedSegment(file: file, directory: directory, header: header))
            } catch {
                sayUnused(error, slot, directory, identity)
            }
            file.forget()
        } catch {
            fault("segment-unreadable", directory, slot)
        }
    }

    /// Says why the segment whose header block is in `block` is free or foreign.
    private func sayUnused(
        _ reason: SSDFormatFault, _ slot: UInt32, _ directory: Int, _ identity: SSDIdentity
    ) {
        guard SegmentHeader.isBlankOrTorn(block.bytes, of: identity) else {
            return fault("segment-\(Self.word(reason))", directory, slot)
        }
        if block.bytes.load(UInt64.self, at: 0) == 0 {
            say(.blankSegment(slot, directory: directory))
        } else {
            fault("segment-torn", directory, slot)
        }
    }

    private func inspect(_ segment: InspectedSegment) {
        var lines: [InspectionLine] = []
        var footer: SegmentFooter?
        if segment.header.state == .inUse {
            switch readFooter(segment) {
            case .sound(let sound):
                footer = sound
                lines = listed(sound.entries, segment)
            case .absent(let fault):
                lines = (fault.map { [$0] } ?? []) + scanned(segment)
            }
        }
        say(
            .segment(
                segment, footer: footer.map { ($0.entries.count, $0.nextSequence) },
                recordCount: lines.count { $0.type == "record" }))
        for line in lines { say(line) }
    }

    private struct SegmentFooter {
        let entries: [FooterEntry]
        let nextSequence: UInt64
    }

    private enum FooterState {
        case sound(SegmentFooter)
        /// The segment is open; there may be a fault that made it so.
        case absent(InspectionLine?)
    }

    private func readFooter(_ segment: InspectedSegment) -> FooterState {
        let last = Int(segment.header.blockCount) - 1
        guard segment.file.readBlocks(last, into: block.bytes) else {
            return .absent(segment.fault("unreadable", last))
        }
        let trailer: SegmentTrailer
        do throws(SSDFormatFault) {
            trailer = try SegmentTrailer.decode(block.bytes, of: segment.header)
        } catch {
            let isOurs = SegmentTrailer.isClaimed(by: block.bytes, of: segment.header)
            return .absent(
                isOurs ? segment.fault("trailer-\(Self.word(error))", last) : nil)
        }
        let first = last - trailer.tableBlockCount
        let table = SSDFormat.makeBlocks(trailer.tableBlockCount)
        guard segment.file.readBlocks(first, into: table.bytes) else {
            return .absent(segment.fault("unreadable", first))
        }
        var entries: [FooterEntry] = []
        do throws(SSDFormatFault) {
            try FooterTable.decode(table.bytes, trailer, of: segment.header) {
                entries.append($0)
            }
        } catch {
            return .absent(segment.fault("table-\(Self.word(error))", first))
        }
        return .sound(SegmentFooter(entries: entries, nextSequence: trailer.nextSequence))
    }

    /// The entries of a sealed segment, then the records that they name.
    private func listed(
        _ entries: [FooterEntry], _ segment: InspectedSegment
    ) -> [InspectionLine] {
        var lines: [InspectionLine] = []
        for (index, entry) in entries.enumerated() {
            lines.append(.footerEntry(entry, index: index, of: segment))
            recovered.take(entry, in: segment)
        }
        var found: [UInt32: [FooterEntry]] = [:]
        for (index, entry) in entries.enumerated() {
            if found[entry.block] == nil {
                found[entry.block] = []
                switch readRecord(Int(entry.block), segment) {
                case .sound(let record):
                    found[entry.block] = FooterEntry.entries(of: record)
                    lines += describe(record, segment)
                case .fault(let line): lines.append(line)
                case .absent: lines.append(segment.fault("record-damaged", Int(entry.block)))
                }
            }
            if let said = found[entry.block], !said.isEmpty, !said.contains(where: entry.agrees) {
                lines.append(segment.fault("entry-differs", Int(entry.block), index: index))
            }
        }
        return lines
    }

    /// The records of an open segment, found block by block. One whose payload is not whole is torn
    /// and does not count.
    private func scanned(_ segment: InspectedSegment) -> [InspectionLine] {
        var lines: [InspectionLine] = []
        var number = 1
        while number < Int(segment.header.blockCount) - 1 {
            switch readRecord(number, segment) {
            case .sound(let record):
                if let fault = tear(record, segment) {
                    lines.append(fault)
                    break
                }
                for entry in FooterEntry.entries(of: record) { recovered.take(entry, in: segment) }
                lines += describe(record, segment)
                number += record.blockCount
                continue
            case .fault(let line): lines.append(line)
            case .absent: break
            }
            number += 1
        }
        return lines
    }

    // MARK: Records

    private enum RecordState {
        case sound(RecordHeader)
        case fault(InspectionLine)
        case absent
    }

    /// Reads the header of the record at `number` into `block`.
    private func readRecord(_ number: Int, _ segment: InspectedSegment) -> RecordState {
        guard segment.file.readBlocks(number, into: block.bytes) else {
            return .fault(segment.fault("unreadable", number))
        }
        do throws(SSDFormatFault) {
            return .sound(
                try RecordHeader.decode(block.bytes, at: number, of: segment.header))
        } catch {
            guard RecordHeader.isClaimed(by: block.bytes, of: segment.header) else {
                return .absent
            }
            return .fault(
                segment.fault(error == .notOurs ? "record-damaged" : "record-invalid", number))
        }
    }

    /// The lines of a record whose header is in `block`.
    private func describe(
        _ record: RecordHeader, _ segment: InspectedSegment
    ) -> [InspectionLine] {
        let line = InspectionLine.record(record, of: segment)
        switch record.content {
        case .notes(let notes):
            return [line]
                + notes.enumerated().map { index, note in
                    .note(note, index: index, of: record, in: segment)
                }
        case .chunk(let chunk):
            guard options.verifies else { return [line] }
            verifiedPayloadCount += 1
            let number = Int(record.block)
            let check = checkPayload(chunk, number, segment)
            var lines = [line]
            lines += check.badStripes.map { segment.fault("stripe-damaged", number, index: $0) }
            if let stripe = check.unreadStripe {
                lines.append(segment.fault("unreadable", number, index: stripe))
            } else if check.checksum != chunk.checksum {
                lines.append(segment.fault("payload-damaged", number))
            }
            return lines
        }
    }

    /// Why a record of an open segment does not count; nil when it does.
    private func tear(_ record: RecordHeader, _ segment: InspectedSegment) -> InspectionLine? {
        guard case .chunk(let chunk) = record.content else { return nil }
        let check = checkPayload(chunk, Int(record.block), segment)
        if let stripe = check.unreadStripe {
            return segment.fault("unreadable", Int(record.block), index: stripe)
        }
        return check.checksum == chunk.checksum
            ? nil : segment.fault("record-torn", Int(record.block))
    }

    private struct PayloadCheck {
        var badStripes: [Int] = []
        /// The first stripe that the device does not give; nothing after it was read.
        var unreadStripe: Int?
        var checksum: UInt64 = 0
    }

    /// Reads the payload behind the header in `block`.
    private func checkPayload(
        _ chunk: ChunkRecord, _ number: Int, _ segment: InspectedSegment
    ) -> PayloadCheck {
        var check = PayloadCheck()
        let whole = StreamingChecksum()
        let blocksPerStripe = chunk.stripeByteCount / SSDFormat.blockByteCount
        for index in 0..<chunk.stripeCount {
            let count = min(
                chunk.stripeByteCount, chunk.byteCount - index * chunk.stripeByteCount)
            let room = payload.bytes.prefix(
                SSDFormat.blockCount(count) * SSDFormat.blockByteCount)
            guard segment.file.readBlocks(number + 1 + index * blocksPerStripe, into: room) else {
                check.unreadStripe = index
                return check
            }
            let stripe = room.prefix(count)
            if Checksum.of(stripe) != RecordHeader.stripeChecksum(block.bytes, index) {
                check.badStripes.append(index)
            }
            whole.add(stripe)
        }
        check.checksum = whole.value
        return check
    }
}
