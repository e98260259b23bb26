// SPDX-License-Identifier: Apache-2.0

/// A rule about one file.
typealias FileRule = @Sendable (SourceFile) -> [Finding]

/// Rules for Swift code, on its masked text.
enum SwiftRules {
    static let functionLineCountMax = 70

    static let all: [FileRule] = [
        { banned($0) }, { functionLength($0) }, { safetyComments($0) }, { foundationFree($0) },
    ]

    // MARK: - Words that do not occur

    struct Ban {
        let text: String
        let cure: String
        /// Targets where it is allowed.
        var allowedIn: Set<String> = []
    }

    static let executables: Set<String> = ["KVStoreDaemon", "kvctl", "kvbench", "kvsim"]

    static let bans = [
        Ban(text: "try?", cure: "handle, count or pass on the error"),
        Ban(text: "try!", cure: "handle or pass on the error"),
        Ban(text: "fatalError(", cure: "invariant() or preconditionFailure() with a sentence"),
        Ban(text: "print(", cure: "log an event (Telemetry)", allowedIn: executables),
        Ban(text: "DispatchQueue", cure: "an actor, or a thread of a reactor"),
        Ban(text: "Task.detached", cure: "a task that its owner awaits"),
        Ban(text: "Task.sleep", cure: "sleep(until:) of the reactor"),
        Ban(text: "Date()", cure: "now() of the reactor, or WallClockTime for a log"),
        Ban(text: "@preconcurrency", cure: "a type that is Sendable by itself"),
        Ban(text: "AsyncStream(", cure: "a bounded queue that can refuse"),
        Ban(text: "AsyncStream<", cure: "a bounded queue that can refuse"),
    ]

    static func banned(_ file: SourceFile) -> [Finding] {
        guard file.isSource, let target = file.target else { return [] }
        return file.code.enumerated().flatMap { index, line in
            bans.filter { !$0.allowedIn.contains(target) && holds(line, $0.text) }
                .map { file.finding(index, "'\($0.text)' is not used here; instead: \($0.cure)") }
        }
    }

    /// Whether `line` uses `text`: not as the end of a longer word, nor where it declares it.
    private static func holds(_ line: String, _ text: String) -> Bool {
        if line.contains("case " + text) || line.contains("func " + text) { return false }
        return line.ranges(of: text).contains { range in
            guard range.lowerBound > line.startIndex, let first = text.first, first.isLetter else {
                return true
            }
            let before = line[line.index(before: range.lowerBound)]
            return !before.isLetter && !before.isNumber && before != "_" && before != "."
        }
    }

    /// The modules that do without Foundation: data plane and what it stands on.
    static let foundationFreeTargets: Set<String> = [
        "KVCore", "Wire", "Codec", "Kernels", "Tiers", "LinuxIO", "Node", "Settings", "Telemetry",
    ]

    static func foundationFree(_ file: SourceFile) -> [Finding] {
        guard file.isSource, foundationFreeTargets.contains(file.target ?? "") else { return [] }
        return file.code.enumerated().filter { importedModule($0.element) == "Foundation" }
            .map { file.finding($0.offset, "this module does without Foundation; use Glibc") }
    }

    /// The module that a line imports, whatever stands before `import`; nil for another line.
    static func importedModule(_ line: String) -> String? {
        let words = line.split(separator: " ")
        guard let index = words.firstIndex(of: "import"), index + 1 < words.count,
            words[..<index].allSatisfy({ word in
                word.hasPrefix("@")
                    || ["package", "public", "internal", "private", "fileprivate"].contains(word)
            })
        else { return nil }
        let kinds: Set<Substring> = ["struct", "class", "enum", "protocol", "func", "var", "let"]
        let module = kinds.contains(words[index + 1]) ? words.last : words[index + 1]
        return module.map { String($0.prefix { $0 != "." }) }
    }

    // MARK: - Functions

    /// A function, initialiser or subscript: the lines from its keyword to its closing brace.
    struct Function {
        let first: Int
        let last: Int
    }

    static func functionLength(_ file: SourceFile) -> [Finding] {
        functions(file.code).filter { $0.last - $0.first + 1 > functionLineCountMax }.map {
            file.finding(
                $0.first,
                "a function of \($0.last - $0.first + 1) lines; at most \(functionLineCountMax)")
        }
    }

    /// All functions with a body, found by matching brackets.
    static func functions(_ code: [String]) -> [Function] {
        code.indices.compactMap { index in
            guard let start = keywordEnd(code[index]) else { return nil }
            return bodyEnd(code, from: index, start).map { Function(first: index, last: $0) }
        }
    }

    /// The offset behind the keyword when `line` begins a function; nil for another line.
    private static func keywordEnd(_ line: String) -> Int? {
        let bytes = Array(line.utf8)
        for keyword in ["func", "init", "subscript", "deinit"] {
            for range in line.ranges(of: keyword) {
                let offset = line.utf8.distance(from: line.startIndex, to: range.lowerBound)
                let end = offset + keyword.utf8.count
                let before = offset > 0 ? bytes[offset - 1] : UInt8(ascii: " ")
                let after = end < bytes.count ? bytes[end] : UInt8(ascii: " ")
                if before == UInt8(ascii: " ") && " (<?".utf8.contains(after) { return end }
            }
        }
        return nil
    }

    /// The line of the brace that closes the body; nil when the declaration has none.
    private static func bodyEnd(_ code: [String], from first: Int, _ start: Int) -> Int? {
        var depth = 0
        var braces = 0
        for index in first..<code.count {
            let line = Array(code[index].utf8).dropFirst(index == first ? start : 0)
            if index > first && depth == 0 && braces == 0 && endsDeclaration(code[index]) {
                return nil
            }
            for byte in line {
                switch byte {
                case UInt8(ascii: "("), UInt8(ascii: "["): depth += 1
                case UInt8(ascii: ")"), UInt8(ascii: "]"): depth -= 1
                case UInt8(ascii: "{") where depth == 0 || braces > 0: braces += 1
                case UInt8(ascii: "}") where braces > 0:
                    braces -= 1
                    if braces == 0 { return index }
                case UInt8(ascii: "}") where depth == 0: return nil
                default: break
                }
            }
        }
        return nil
    }

    /// Whether a line begins something else: the declaration before it had no body.
    private static func endsDeclaration(_ line: String) -> Bool {
        let words: Set<Substring> = [
            "func", "var", "let", "init", "case", "associatedtype", "static", "mutating",
            "nonisolated", "package", "private", "subscript",
        ]
        let first = line.drop { $0 == " " }.prefix { $0 != " " && $0 != "(" }
        return words.contains(first) || first.hasPrefix("@")
    }

    // MARK: - Unsafe code

    /// How far above an `unsafe` its reason may stand when it is not in the same function.
    static let safetyLineCountMax = 12

    static func safetyComments(_ file: SourceFile) -> [Finding] {
        guard file.isSource else { return [] }
        let functions = functions(file.code)
        return file.code.indices.filter { index in
            guard needsReason(file.code[index]) else { return false }
            let enclosing = functions.filter { $0.first <= index && index <= $0.last }
            let from = min(index - safetyLineCountMax, enclosing.map(\.first).max() ?? index)
            let to = enclosing.map(\.last).min() ?? index
            return !(max(0, from)...to).contains { file.lines[$0].contains("// SAFETY:") }
        }.map { file.finding($0, "unsafe code without a '// SAFETY:' reason above it") }
    }

    private static func needsReason(_ line: String) -> Bool {
        if line.contains("@unchecked Sendable") { return true }
        return line.ranges(of: "unsafe").contains { range in
            let before =
                range.lowerBound > line.startIndex
                ? line[line.index(before: range.lowerBound)] : " "
            let after = range.upperBound < line.endIndex ? line[range.upperBound] : " "
            let isWord = !before.isLetter && before != "_" && !after.isLetter && after != "_"
            return isWord && before != "@"  // `@unsafe` marks a declaration; its callers reason.
        }
    }
}
