// SPDX-License-Identifier: Apache-2.0

/// One thing that breaks a rule.
struct Finding: Hashable, CustomStringConvertible {
    let path: String
    let line: Int
    let message: String

    var description: String { "\(path):\(line): \(message)" }
}

/// A tracked text file. A value; lines are numbered from 1.
struct SourceFile {
    let path: String
    let lines: [String]
    /// For Swift: the same lines, with comments, string contents and `names` in backticks blanked
    /// out, so that a brace or a word found here is code. Empty for other files.
    let code: [String]

    init(path: String, text: String) {
        self.path = path
        let bytes = Array(text.utf8)
        lines = Self.split(bytes)
        code = path.hasSuffix(".swift") ? Self.split(CodeMask.masked(bytes)) : []
    }

    private static func split(_ bytes: [UInt8]) -> [String] {
        var lines = bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
            .map { String(decoding: $0, as: UTF8.self) }
        if lines.last == "" { lines.removeLast() }
        return lines
    }

    /// `Tiers` for `Sources/Tiers/Memory/Arena.swift`; nil outside `Sources` and `Tests`.
    var target: String? {
        let parts = path.split(separator: "/")
        guard parts.count > 2, ["Sources", "Tests"].contains(parts[0]) else { return nil }
        return String(parts[1])
    }

    var isSource: Bool { path.hasPrefix("Sources/") }

    var name: String {
        String(path[(path.lastIndex(of: "/").map(path.index(after:)) ?? path.startIndex)...])
    }

    /// What follows the last dot of the name; empty without one.
    var suffix: String {
        name.lastIndex(of: ".").map { String(name[name.index(after: $0)...]) } ?? ""
    }

    func finding(_ index: Int, _ message: String) -> Finding {
        Finding(path: path, line: index + 1, message: message)
    }
}

/// Blanks out what is not code in Swift text. Knows comments, string and regex literals, and raw
/// identifiers; good enough for our own formatted code, not a parser.
struct CodeMask {
    private let source: [UInt8]
    private var result: [UInt8]
    private var position = 0

    static func masked(_ source: [UInt8]) -> [UInt8] {
        var mask = CodeMask(source: source, result: source)
        mask.code(until: nil)
        return mask.result
    }

    private init(source: [UInt8], result: [UInt8]) {
        self.source = source
        self.result = result
    }

    private func byte(at offset: Int) -> UInt8 {
        position + offset < source.count ? source[position + offset] : 0
    }

    private func sees(_ text: String) -> Bool {
        source[min(position, source.count)...].starts(with: text.utf8)
    }

    private mutating func blank(_ count: Int = 1) {
        for index in position..<min(source.count, position + count)
        where source[index] != UInt8(ascii: "\n") {
            result[index] = UInt8(ascii: " ")
        }
        position += count
    }

    /// Passes over code to its end, or to the `)` that ends an interpolation.
    private mutating func code(until closing: UInt8?) {
        var depth = 0
        while position < source.count {
            if sees("//") {
                while position < source.count && byte(at: 0) != UInt8(ascii: "\n") { blank() }
            } else if sees("/*") {
                blockComment()
            } else if byte(at: 0) == UInt8(ascii: "\"") || sees("#\"") || sees("##\"") {
                string()
            } else if byte(at: 0) == UInt8(ascii: "`") {
                blank()
                while position < source.count && byte(at: 0) != UInt8(ascii: "`") { blank() }
                blank()
            } else if beginsRegex() {
                blank()
                while position < source.count && byte(at: 0) != UInt8(ascii: "/") {
                    blank(byte(at: 0) == UInt8(ascii: "\\") ? 2 : 1)
                }
                blank()
            } else {
                if byte(at: 0) == UInt8(ascii: "(") { depth += 1 }
                if byte(at: 0) == UInt8(ascii: ")") {
                    if closing != nil && depth == 0 { return }
                    depth -= 1
                }
                position += 1
            }
        }
    }

    private mutating func blockComment() {
        var depth = 0
        repeat {
            if sees("/*") {
                depth += 1
                blank(2)
            } else if sees("*/") {
                depth -= 1
                blank(2)
            } else {
                blank()
            }
        } while depth > 0 && position < source.count
    }

    /// A `/` after an opening bracket, comma, colon or equals sign that has a partner on its line.
    private func beginsRegex() -> Bool {
        guard byte(at: 0) == UInt8(ascii: "/"), byte(at: 1) != UInt8(ascii: " ") else {
            return false
        }
        var before = position - 1
        while before >= 0 && source[before] == UInt8(ascii: " ") { before -= 1 }
        guard before >= 0, "(,:=".utf8.contains(source[before]) else { return false }
        let rest = source[(position + 1)...].prefix { $0 != UInt8(ascii: "\n") }
        return rest.contains(UInt8(ascii: "/"))
    }

    private mutating func string() {
        var hashCount = 0
        while byte(at: 0) == UInt8(ascii: "#") {
            hashCount += 1
            blank()
        }
        let quoteCount = sees("\"\"\"") ? 3 : 1
        blank(quoteCount)
        while position < source.count {
            if ends(quoteCount, hashCount) {
                blank(quoteCount + hashCount)
                return
            }
            if byte(at: 0) == UInt8(ascii: "\\"), escapes(hashCount) {
                blank(1 + hashCount)
                if byte(at: 0) == UInt8(ascii: "(") {
                    blank()
                    code(until: UInt8(ascii: ")"))
                }
            }
            blank()
        }
    }

    private func ends(_ quoteCount: Int, _ hashCount: Int) -> Bool {
        (0..<quoteCount).allSatisfy { byte(at: $0) == UInt8(ascii: "\"") }
            && (0..<hashCount).allSatisfy { byte(at: quoteCount + $0) == UInt8(ascii: "#") }
    }

    private func escapes(_ hashCount: Int) -> Bool {
        (0..<hashCount).allSatisfy { byte(at: 1 + $0) == UInt8(ascii: "#") }
    }
}
