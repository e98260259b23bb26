// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVCore

/// A value to print as JSON (RFC 8259); objects keep their order.
enum JSONValue {
    case text(String)
    case integer(UInt64)
    case number(Double)
    case truth(Bool)
    case null
    case array([JSONValue])
    case object([(String, JSONValue)])

    /// In one line. Numbers that JSON cannot express are `null`.
    var text: String {
        switch self {
        case .text(let text): Self.quoted(text)
        case .integer(let number): "\(number)"
        case .number(let number): number.isFinite ? "\(number)" : "null"
        case .truth(let truth): truth ? "true" : "false"
        case .null: "null"
        case .array(let values): "[" + values.map(\.text).joined(separator: ", ") + "]"
        case .object(let members):
            "{" + members.map { "\(Self.quoted($0.0)): \($0.1.text)" }.joined(separator: ", ")
                + "}"
        }
    }

    private static func quoted(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            case "\t": result += "\\t"
            case "\r": result += "\\r"
            case _ where scalar.value < 0x20:
                result += "\\u00" + hexadecimal([UInt8(scalar.value)])
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}

/// Writes `text` to standard output; ends the process when nobody reads it any more.
func writeOutput(_ text: String) {
    write(text, to: 1)
}

/// Writes `text` to standard error.
func writeError(_ text: String) {
    write(text, to: 2)
}

private func write(_ text: String, to descriptor: Int32) {
    var text = text
    text.withUTF8 { bytes in
        var offset = 0
        while offset < bytes.count {
            // SAFETY: the bytes lie within the buffer, which outlives the call.
            let written = unsafe Glibc.write(
                descriptor, bytes.baseAddress.map { unsafe $0 + offset }, bytes.count - offset)
            if written < 0 && errno == EINTR { continue }
            guard written > 0 else { exit(ExitStatus.file.rawValue) }
            offset += written
        }
    }
}

/// The system's words for an error number (errno(3)).
func errorText(_ number: Int32) -> String {
    // SAFETY: the text is copied at once, and no other thread asks meanwhile.
    unsafe String(cString: strerror(number))
}

/// Rows in aligned columns, two blanks between them; the last column is not padded.
func table(_ rows: [[String]], rightAligned: Set<Int> = []) -> String {
    var widths: [Int] = []
    for row in rows {
        for (column, cell) in row.enumerated() {
            if column == widths.count { widths.append(0) }
            widths[column] = max(widths[column], cell.count)
        }
    }
    return rows.map { row in
        var line = ""
        for (column, cell) in row.enumerated() {
            let padding = String(repeating: " ", count: widths[column] - cell.count)
            line += rightAligned.contains(column) ? padding + cell : cell + padding
            line += "  "
        }
        while line.last == " " { line.removeLast() }
        return line + "\n"
    }.joined()
}

/// A size for people: `4.0 MiB`.
func readableSize(_ bytes: UInt64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")]
    where bytes >= 1 << UInt64(shift) {
        return "\(fixed(Double(bytes) / Double(UInt64(1) << UInt64(shift)), 1)) \(unit)"
    }
    return "\(bytes) B"
}

/// A time for people: `1.5 ms`, `3.2 h`.
func readableTime(microseconds: Double) -> String {
    for (size, unit) in [(3.6e9, "h"), (6e7, "min"), (1e6, "s"), (1e3, "ms")]
    where microseconds >= size {
        return "\(fixed(microseconds / size, 1)) \(unit)"
    }
    return "\(fixed(microseconds, microseconds < 100 ? 1 : 0)) µs"
}

/// A value for people, with its unit, which its name ends in.
func readableValue(_ value: UInt64, named name: String) -> String {
    if name.hasSuffix("_bytes") { return readableSize(value) }
    if name.hasSuffix("_microseconds") { return readableTime(microseconds: Double(value)) }
    if name.hasSuffix("_milliseconds") {
        return readableTime(microseconds: Double(value) * 1_000)
    }
    return "\(value)"
}

/// A time to live for people.
func readableTimeToLive(_ milliseconds: UInt64?) -> String {
    milliseconds.map { readableTime(microseconds: Double($0) * 1_000) } ?? "for ever"
}

/// `number` with `places` digits behind the point.
func fixed(_ number: Double, _ places: Int) -> String {
    guard number.isFinite else { return "-" }
    let scale = places == 0 ? 1.0 : pow(10, Double(places))
    let scaled = (number * scale).rounded()
    guard abs(scaled) < 1e15 else { return "\(number)" }
    let whole = Int(abs(scaled))
    let sign = scaled < 0 ? "-" : ""
    guard places > 0 else { return "\(sign)\(whole)" }
    let divisor = Int(scale)
    let fraction = "\(whole % divisor)"
    let zeros = String(repeating: "0", count: places - fraction.count)
    return "\(sign)\(whole / divisor).\(zeros)\(fraction)"
}
