// SPDX-License-Identifier: Apache-2.0

/// The fields of a canonical layout description (docs/key-derivation.md).
struct LayoutFields {
    private let fields: [Substring: Substring]

    /// Nil when the text is not canonical: its first line, the order of names, line ends.
    init?(_ description: [UInt8]) {
        guard let text = String(validating: description, as: UTF8.self), text.utf8.last == 10,
            !description.contains(13)
        else { return nil }
        // By bytes: a Character may hold a line end and more.
        var lines = text.utf8.split(separator: 10, omittingEmptySubsequences: false)
            .map { Substring($0) }
        guard lines.popLast() == "", lines.first == "kvstore_layout=1" else { return nil }
        var fields: [Substring: Substring] = [:]
        var last: Substring.UTF8View?
        for line in lines.dropFirst() {
            guard let equals = line.utf8.firstIndex(of: UInt8(ascii: "=")) else { return nil }
            let name = line.utf8[..<equals]
            guard Self.isName(name), last?.lexicographicallyPrecedes(name) ?? true else {
                return nil
            }
            last = name
            fields[Substring(name)] = Substring(line.utf8[line.utf8.index(after: equals)...])
        }
        self.fields = fields
    }

    private static func isName(_ name: Substring.UTF8View) -> Bool {
        let isMadeOfLetters = name.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "0")...UInt8(ascii: "9"),
                UInt8(ascii: "_"):
                true
            default: false
            }
        }
        return isMadeOfLetters && !name.isEmpty && Substring(name) != "kvstore_layout"
    }

    func text(_ name: Substring) -> Substring? { fields[name] }

    /// A whole number in `range`; `fallback` where there is no such field.
    func number(_ name: Substring, _ range: ClosedRange<Int>, default fallback: Int? = nil) -> Int?
    {
        guard let text = fields[name] else { return fallback }
        guard let number = Int(text), range.contains(number), "\(number)" == text else {
            return nil
        }
        return number
    }

    func real(_ name: Substring) -> Double? { fields[name].flatMap { Double($0) } }

    /// Whether every field of these is one of `other`, with the same value.
    func isPart(of other: LayoutFields) -> Bool {
        fields.allSatisfy { other.fields[$0.key] == $0.value }
    }
}
