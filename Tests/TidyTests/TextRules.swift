// SPDX-License-Identifier: Apache-2.0

/// Rules for the text of any file.
enum TextRules {
    static let lineCountMax = 600
    static let columnCountMax = 100

    static let all: [FileRule] = [
        { whitespace($0) }, { licence($0) }, { size($0) }, { leftovers($0) },
    ]

    private static let code: Set<String> = ["swift", "c", "h", "py", "sh"]
    /// Text whose bytes are ours to choose; vectors and transcripts are data.
    private static let prose: Set<String> = [
        "md", "yaml", "yml", "service", "toml", "modulemap", "editorconfig", "gitignore",
    ]

    static func whitespace(_ file: SourceFile) -> [Finding] {
        let isMakefile = file.name == "Makefile"
        guard code.union(prose).contains(file.suffix) || isMakefile || isScript(file) else {
            return []
        }
        return file.lines.enumerated().flatMap { index, line in
            var findings: [Finding] = []
            if line.utf8.last == UInt8(ascii: "\r") {
                findings.append(file.finding(index, "a carriage return"))
            }
            if line.utf8.last == UInt8(ascii: " ") || line.utf8.last == UInt8(ascii: "\t") {
                findings.append(file.finding(index, "blanks at the end"))
            }
            if !isMakefile && line.utf8.contains(UInt8(ascii: "\t")) {
                findings.append(file.finding(index, "a tab; indent with spaces"))
            }
            return findings
        }
    }

    /// Whether the file begins `#!`, or is a script by its place.
    private static func isScript(_ file: SourceFile) -> Bool {
        file.lines.first?.hasPrefix("#!") ?? false
    }

    static func licence(_ file: SourceFile) -> [Finding] {
        let needsOne = code.union(["yaml", "yml", "service"]).contains(file.suffix)
        guard needsOne || isScript(file) || file.name == "Makefile" else { return [] }
        let head = file.lines.prefix(3).joined()
        return head.contains("SPDX-License-Identifier: Apache-2.0")
            ? [] : [file.finding(0, "no SPDX-License-Identifier line on top")]
    }

    static func size(_ file: SourceFile) -> [Finding] {
        guard code.contains(file.suffix) || isScript(file) else { return [] }
        var findings: [Finding] = []
        if file.lines.count > lineCountMax {
            findings.append(
                file.finding(0, "\(file.lines.count) lines; at most \(lineCountMax), split it"))
        }
        for (index, line) in file.lines.enumerated() where line.utf8.count > columnCountMax {
            // A link cannot be broken.
            if line.count > columnCountMax && !line.contains("https://") {
                findings.append(
                    file.finding(index, "\(line.count) columns; at most \(columnCountMax)"))
            }
        }
        return findings
    }

    static func leftovers(_ file: SourceFile) -> [Finding] {
        // Spelt in two parts, so that this file passes its own rule.
        let words = ["FIX" + "ME", "XX" + "X:", "dbg" + "("]
        guard code.contains(file.suffix) || isScript(file) else { return [] }
        return file.lines.enumerated().flatMap { index, line in
            words.filter { line.contains($0) }
                .map { file.finding(index, "a leftover '\($0)'; do it now or file it") }
        }
    }
}
