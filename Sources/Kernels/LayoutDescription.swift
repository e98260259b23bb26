// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// Why a field cannot be part of a layout description.
package enum LayoutFault: Error, Hashable, Sendable {
    /// Names are of `a`–`z`, `0`–`9` and `_`, not empty, and not `kvstore_layout`.
    case badName(String)
    /// A text with a line break, or a number that is not finite.
    case badValue(name: String)
}

/// Everything that says what a chunk's bytes mean, as named fields (docs/key-derivation.md). A
/// value.
///
/// Its `id` keeps chunks of different meaning apart. Allocates.
package struct LayoutDescription: Hashable, Sendable {
    /// What a field says.
    package enum Value: Hashable, Sendable {
        case text(String)
        case whole(Int)
        case real(Double)
    }

    private static let firstLine = "kvstore_layout"
    private var fields: [String: Value] = [:]

    /// A description without fields.
    package init() {}

    /// Says `value` about `name`, in place of what was said before.
    package mutating func set(_ name: String, _ value: Value) throws(LayoutFault) {
        let isName = name.utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "0")...UInt8(ascii: "9"),
                UInt8(ascii: "_"):
                true
            default: false
            }
        }
        guard isName, !name.isEmpty, name != Self.firstLine else { throw .badName(name) }
        switch value {
        case .text(let text):
            let breaks = [UInt8(ascii: "\n"), UInt8(ascii: "\r")]
            guard !text.utf8.contains(where: breaks.contains) else { throw .badValue(name: name) }
        case .real(let number):
            guard number.isFinite else { throw .badValue(name: name) }
        case .whole: break
        }
        fields[name] = value
    }

    /// One line per field, sorted by name; what the id is computed from.
    package var canonicalForm: String {
        let sorted = fields.sorted { $0.key.utf8.lexicographicallyPrecedes($1.key.utf8) }
        return sorted.reduce("\(Self.firstLine)=1\n") { form, field in
            "\(form)\(field.key)=\(text(field.value))\n"
        }
    }

    /// The first 16 bytes of SHA-256 over the canonical form.
    package var id: LayoutID {
        let digest = secureHash(Array(canonicalForm.utf8))
        guard let id = LayoutID(bytes: Array(digest.prefix(LayoutID.byteCount))) else {
            preconditionFailure("SHA-256 gives 32 bytes")
        }
        return id
    }

    private func text(_ value: Value) -> String {
        switch value {
        case .text(let text): text
        case .whole(let number): "\(number)"
        case .real(let number) where (0x1p53..<1e16).contains(number.magnitude):
            // Swift takes the exponent from 2^53 on, the specification from 1e16 on. Doubles in
            // between are even integers, which the shortest form writes in full.
            "\(Int64(number)).0"
        case .real(let number): number.description
        }
    }
}
