// SPDX-License-Identifier: Apache-2.0
import KVCore
import Tiers

/// One line of what an inspection says: docs/ssd-format.md, section 11. The order of the fields is
/// part of the format.
struct InspectionLine {
    let type: String
    let fields: [(String, JSONValue)]

    init(_ type: String, _ fields: [(String, JSONValue)]) {
        self.type = type
        self.fields = fields
    }

    /// As a JSON object.
    var json: String { JSONValue.object([("type", .text(type))] + fields).text }

    /// For people; what does not apply is left out.
    var readable: String {
        let facts = fields.compactMap { name, value -> String? in
            switch value {
            case .null: nil
            case .text(let text): "\(name) \(text)"
            default: "\(name) \(value.text)"
            }
        }
        return "\(type): " + facts.joined(separator: ", ")
    }
}

extension JSONValue {
    /// A number of any width.
    static func count(_ number: some BinaryInteger) -> JSONValue { .integer(UInt64(number)) }

    /// A name of bytes: a key, a tag, an id.
    static func name(_ name: some CustomStringConvertible) -> JSONValue { .text("\(name)") }

    /// A checksum or a nonce: 16 digits, the highest first.
    static func digits(_ number: UInt64) -> JSONValue {
        let text = String(number, radix: 16)
        return .text(String(repeating: "0", count: 16 - text.count) + text)
    }

    static func optional(_ number: (some BinaryInteger)?) -> JSONValue {
        number.map { .count($0) } ?? .null
    }
}

/// A segment that is being read, with the place it has among what the command line names.
struct InspectedSegment {
    let file: StoreFile
    let directory: Int
    let header: SegmentHeader

    func fault(_ what: String, _ block: Int?, index: Int? = nil) -> InspectionLine {
        .fault(what, directory: directory, segment: header.slot, block: block, index: index)
    }
}

extension InspectionLine {
    static func fault(
        _ what: String, directory: Int, segment: UInt32? = nil, block: Int? = nil,
        index: Int? = nil
    ) -> InspectionLine {
        InspectionLine(
            "fault",
            [
                ("what", .text(what)), ("directory", .count(directory)),
                ("segment", .optional(segment)), ("block", .optional(block)),
                ("index", .optional(index)),
            ])
    }

    static func identity(_ identity: SSDIdentity, directory: Int) -> InspectionLine {
        InspectionLine(
            "identity",
            [
                ("directory", .count(directory)), ("version", .count(SSDFormat.version)),
                ("segment_block_count", .count(identity.segmentBlockCount)),
                ("store", .name(identity.store)), ("directory_id", .name(identity.directory)),
                ("created_ms", .integer(identity.created)),
            ])
    }

    static func segment(
        _ segment: InspectedSegment, footer: (entryCount: Int, nextSequence: UInt64)?,
        recordCount: Int
    ) -> InspectionLine {
        let header = segment.header
        let state = header.state == .free ? "free" : footer == nil ? "open" : "sealed"
        return InspectionLine(
            "segment",
            [
                ("directory", .count(segment.directory)), ("segment", .count(header.slot)),
                ("state", .text(state)), ("serial", .integer(header.serial)),
                ("nonce", .digits(header.nonce)),
                ("first_sequence", .integer(header.firstSequence)),
                ("opened_ms", .integer(header.opened)),
                ("entries", .optional(footer?.entryCount)),
                ("next_sequence", .optional(footer?.nextSequence)),
                ("records", .count(recordCount)),
            ])
    }

    /// A segment that was never opened.
    static func blankSegment(_ slot: UInt32, directory: Int) -> InspectionLine {
        InspectionLine(
            "segment",
            [
                ("directory", .count(directory)), ("segment", .count(slot)),
                ("state", .text("blank")), ("serial", .null), ("nonce", .null),
                ("first_sequence", .null), ("opened_ms", .null), ("entries", .null),
                ("next_sequence", .null), ("records", .integer(0)),
            ])
    }

    static func footerEntry(
        _ entry: FooterEntry, index: Int, of segment: InspectedSegment
    ) -> InspectionLine {
        let kind =
            switch entry.kind {
            case .chunk: "chunk"
            case .delete: "delete"
            case .pin: "pin"
            }
        return InspectionLine(
            "footer-entry",
            [
                ("directory", .count(segment.directory)), ("segment", .count(segment.header.slot)),
                ("index", .count(index)), ("kind", .text(kind)), ("block", .count(entry.block)),
                ("block_count", .count(entry.blockCount)), ("sequence", .integer(entry.sequence)),
                ("namespace", .name(entry.namespace)), ("key", .name(entry.key)),
                ("layout", .name(entry.layout)), ("level", .count(entry.level)),
                ("byte_count", .count(entry.byteCount)), ("checksum", .digits(entry.checksum)),
                ("expiry_ms", .integer(entry.expiry)),
            ])
    }

    /// A record's line; the notes of a notes record have lines of their own.
    static func record(_ record: RecordHeader, of segment: InspectedSegment) -> InspectionLine {
        let place: [(String, JSONValue)] = [
            ("directory", .count(segment.directory)), ("segment", .count(segment.header.slot)),
            ("block", .count(record.block)), ("block_count", .count(record.blockCount)),
        ]
        switch record.content {
        case .notes(let notes):
            return InspectionLine(
                "record",
                place + [
                    ("kind", .text("notes")), ("sequence", .integer(record.sequence)),
                    ("note_count", .count(notes.count)),
                ])
        case .chunk(let chunk):
            return InspectionLine(
                "record",
                place + [
                    ("kind", .text("chunk")), ("sequence", .integer(record.sequence)),
                    ("namespace", .name(chunk.namespace)), ("key", .name(chunk.key)),
                    ("layout", .name(chunk.layout)), ("level", .count(chunk.level)),
                    ("byte_count", .count(chunk.byteCount)), ("checksum", .digits(chunk.checksum)),
                    ("expiry_ms", .integer(chunk.expiry)), ("stored_ms", .integer(chunk.stored)),
                    ("stripe_byte_count", .count(chunk.stripeByteCount)),
                    ("stripe_count", .count(chunk.stripeCount)),
                ])
        }
    }

    static func note(
        _ note: NoteRecord, index: Int, of record: RecordHeader, in segment: InspectedSegment
    ) -> InspectionLine {
        InspectionLine(
            "note",
            [
                ("directory", .count(segment.directory)), ("segment", .count(segment.header.slot)),
                ("block", .count(record.block)), ("index", .count(index)),
                ("sequence", .integer(record.sequence + UInt64(index))),
                ("kind", .text(note.kind == .delete ? "delete" : "pin")),
                ("namespace", .name(note.namespace)), ("key", .name(note.key)),
                ("until_ms", .integer(note.until)),
            ])
    }
}
