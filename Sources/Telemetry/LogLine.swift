// SPDX-License-Identifier: Apache-2.0

package import Logging

/// One event as one line of text. A value.
package struct LogLine {
    package enum Form: Sendable {
        case json, text
    }

    package var time: WallClockTime
    package var level: Logger.Level
    package var message: String
    /// `event` first, the rest by name.
    package var fields: [(name: String, value: String)]

    /// A longer line is cut: what follows it must stay readable.
    package static let byteCountMax = 8 << 10

    package init(
        time: WallClockTime, level: Logger.Level, message: String, metadata: Logger.Metadata
    ) {
        self.time = time
        self.level = level
        self.message = message
        let names = metadata.keys.filter { $0 != "event" }.sorted()
        fields = (["event"] + names).compactMap { name in
            metadata[name].map { (name, "\($0)") }
        }
    }

    /// The line in `form`, with its line feed.
    package func bytes(_ form: Form) -> [UInt8] {
        var bytes = Array((form == .json ? json : text).utf8)
        if bytes.count >= Self.byteCountMax {
            // Cut JSON would be no JSON; so long a line keeps its head and says that it was cut.
            let head = LogLine(time: time, level: level, message: "(line too long)", metadata: [:])
            let kept = String(decoding: message.utf8.prefix(256), as: UTF8.self)
            var short = head
            short.fields = [fields.first ?? ("event", "unknown"), ("cut_message", kept)]
                .map { ($0.0, String(decoding: $0.1.utf8.prefix(256), as: UTF8.self)) }
            bytes = Array((form == .json ? short.json : short.text).utf8)
        }
        bytes.append(UInt8(ascii: "\n"))
        return bytes
    }

    private var json: String {
        var line = "{\"time\":\"\(time)\",\"level\":\"\(level.rawValue)\""
        for field in fields.prefix(1) where field.name == "event" {
            line += ",\"event\":\(Self.quoted(field.value))"
        }
        line += ",\"message\":\(Self.quoted(message))"
        for field in fields where field.name != "event" {
            line += ",\(Self.quoted(field.name)):\(Self.quoted(field.value))"
        }
        return line + "}"
    }

    private var text: String {
        var line = "\(time) \(level.rawValue) "
        for field in fields.prefix(1) where field.name == "event" { line += field.value + ": " }
        line += String(message.map { $0.isNewline ? " " : $0 })
        for field in fields where field.name != "event" {
            let isPlain = field.value.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7f && $0 != 0x22 }
            let isBare = isPlain && !field.value.isEmpty
            line += " \(field.name)=\(isBare ? field.value : Self.quoted(field.value))"
        }
        return line
    }

    /// `text` as a JSON string (RFC 8259, section 7).
    static func quoted(_ text: String) -> String {
        var quoted = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": quoted += "\\\""
            case "\\": quoted += "\\\\"
            case "\n": quoted += "\\n"
            case "\t": quoted += "\\t"
            case "\r": quoted += "\\r"
            case _ where scalar.value < 0x20 || scalar.value == 0x7f:
                let digits = String(scalar.value, radix: 16)
                quoted += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: quoted.unicodeScalars.append(scalar)
            }
        }
        return quoted + "\""
    }
}
