// SPDX-License-Identifier: Apache-2.0

import Glibc
package import KVCore

/// How one type of value is written in a configuration. A value.
struct ValueKind<Value: Sendable>: Sendable {
    /// For the reference: `size`, `duration`, `path`.
    let name: String
    /// The end of the sentence "expected …", with the range and an example.
    let expectation: String
    /// Total: nil for any text that is no valid value.
    let parse: @Sendable (String) -> Value?
    let render: @Sendable (Value) -> String
    /// Whether the file may give a list, which `parse` gets with commas between the entries.
    var takesList = false
}

extension ValueKind where Value == Bool {
    static var boolean: ValueKind {
        ValueKind(
            name: "boolean", expectation: "true or false",
            parse: { ["true": true, "false": false][$0] }, render: { String($0) })
    }
}

extension ValueKind where Value == Int {
    static func count(_ range: ClosedRange<Int>) -> ValueKind {
        ValueKind(
            name: "number",
            expectation: "a whole number from \(range.lowerBound) to \(range.upperBound)",
            parse: { text in Int(text).flatMap { range.contains($0) ? $0 : nil } },
            render: { String($0) })
    }
}

extension ValueKind where Value == ByteCount {
    static func size(_ range: ClosedRange<ByteCount>) -> ValueKind {
        ValueKind(
            name: "size",
            expectation: "a size " + limits(range),
            parse: { text in ByteCount(text: text).flatMap { range.contains($0) ? $0 : nil } },
            render: { $0.description })
    }

    fileprivate static func limits(_ range: ClosedRange<ByteCount>) -> String {
        "from \(range.lowerBound) to \(range.upperBound), such as 64MiB "
            + "(units: B, KiB, MiB, GiB, TiB)"
    }
}

extension ValueKind where Value == ByteCount? {
    /// A size that may be missing.
    static func optionalSize(_ range: ClosedRange<ByteCount>) -> ValueKind {
        let size = ValueKind<ByteCount>.size(range)
        return ValueKind(
            name: size.name, expectation: size.expectation,
            parse: { text in size.parse(text).map { .some($0) } },
            render: { $0?.description ?? "" })
    }

    /// A size in whole MiB that may be missing.
    static func optionalMebibytes(_ range: ClosedRange<Int>) -> ValueKind {
        let sizes: ClosedRange<ByteCount> =
            .mebibytes(range.lowerBound) ... .mebibytes(range.upperBound)
        let size = ValueKind<ByteCount>.size(sizes)
        return ValueKind(
            name: size.name,
            expectation: "a multiple of 1MiB " + ValueKind<ByteCount>.limits(sizes),
            parse: { text in
                guard let size = size.parse(text), size.bytes.isMultiple(of: 1 << 20) else {
                    return nil
                }
                return .some(size)
            },
            render: { $0?.description ?? "" })
    }
}

/// A length of time in whole milliseconds, written `500ms`, `10s`, `2min`. A value.
package struct Milliseconds: Hashable, Comparable, Sendable, CustomStringConvertible {
    package let count: UInt32

    package init(_ count: UInt32) { self.count = count }

    package static func < (left: Milliseconds, right: Milliseconds) -> Bool {
        left.count < right.count
    }

    package static func seconds(_ count: UInt32) -> Milliseconds { Milliseconds(count * 1_000) }

    /// The shortest exact form that `init(text:)` reads back.
    package var description: String {
        if count != 0 && count.isMultiple(of: 60_000) { return "\(count / 60_000)min" }
        if count != 0 && count.isMultiple(of: 1_000) { return "\(count / 1_000)s" }
        return "\(count)ms"
    }

    /// Reads `500ms`, `10 s`, `2min`; nil for anything else, also for a number without a unit.
    package init?(text: String) {
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        let unit = text.dropFirst(digits.count).drop { $0 == " " }
        let scales: [String: UInt32] = ["ms": 1, "s": 1_000, "min": 60_000]
        guard let count = UInt32(digits), let scale = scales[String(unit)] else { return nil }
        let (product, overflow) = count.multipliedReportingOverflow(by: scale)
        guard !overflow else { return nil }
        self.init(product)
    }
}

extension ValueKind where Value == Milliseconds {
    static func duration(_ range: ClosedRange<Milliseconds>) -> ValueKind {
        ValueKind(
            name: "duration",
            expectation: "a duration from \(range.lowerBound) to \(range.upperBound), such as "
                + "2500ms (units: ms, s, min)",
            parse: { text in Milliseconds(text: text).flatMap { range.contains($0) ? $0 : nil } },
            render: { $0.description })
    }
}

extension ValueKind where Value: CaseIterable & RawRepresentable<String> {
    static var choice: ValueKind {
        let words = Value.allCases.map(\.rawValue)
        let list =
            words.dropLast().joined(separator: ", ") + " or " + words.suffix(1).joined()
        return ValueKind(
            name: words.joined(separator: " | "), expectation: list,
            parse: { Value(rawValue: $0) }, render: { $0.rawValue })
    }
}

extension ValueKind where Value == String? {
    /// Any file's path; empty text is none.
    static var optionalPath: ValueKind {
        ValueKind(
            name: "path", expectation: "the path of a file, at most 4,095 bytes",
            parse: { (1...4_095).contains($0.utf8.count) ? .some($0) : nil },
            render: { $0 ?? "" })
    }

    /// unix(7) leaves 107 bytes for a socket's path.
    static var socketPathOrOff: ValueKind {
        ValueKind(
            name: "path | off", expectation: "a path of at most 107 bytes, or off",
            parse: { text in
                if text == "off" { return .some(nil) }
                return (1...107).contains(text.utf8.count) ? .some(text) : nil
            },
            render: { $0 ?? "off" })
    }

    /// Text that may be missing.
    static func optionalText(byteCountMax: Int) -> ValueKind {
        ValueKind(
            name: "text", expectation: "1 to \(byteCountMax) bytes of text",
            parse: { (1...byteCountMax).contains($0.utf8.count) ? .some($0) : nil },
            render: { $0 ?? "" })
    }
}

extension ValueKind where Value == [String] {
    /// Paths of directories. Relative paths and duplicates parse: `SSDLoader` says more about them
    /// than "not valid".
    static var pathsOrOff: ValueKind {
        ValueKind(
            name: "paths | off",
            expectation: "at most \(DaemonSettings.SSD.directoryCountMax) absolute paths, with "
                + "commas between them (in the file also as a list), or off",
            parse: { text in
                if text == "off" { return [] }
                let paths = text.split(separator: ",", omittingEmptySubsequences: false)
                    .map { $0.drop { $0 == " " }.reversed().drop { $0 == " " }.reversed() }
                    .map { String($0) }
                return paths.allSatisfy { (1...4_095).contains($0.utf8.count) } ? paths : nil
            },
            render: { $0.isEmpty ? "off" : $0.joined(separator: ",") },
            takesList: true)
    }
}

extension ValueKind where Value == String {
    /// Letters, digits and `-_.`, so that it may stand in logs, metrics and paths as it is.
    static func name(byteCountMax: Int) -> ValueKind {
        ValueKind(
            name: "name",
            expectation: "1 to \(byteCountMax) letters, digits, '-', '_' or '.'",
            parse: { text in
                let isPlain = text.utf8.allSatisfy { byte in
                    (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20)
                        || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
                        || "-_.".utf8.contains(byte)
                }
                return isPlain && (1...byteCountMax).contains(text.utf8.count) ? text : nil
            },
            render: { $0 })
    }
}

/// A file's permission bits (chmod(2)).
package struct FilePermissions: Hashable, Sendable {
    package let bits: UInt32

    package init(bits: UInt32) { self.bits = bits }
}

extension ValueKind where Value == FilePermissions {
    static var permissions: ValueKind {
        ValueKind(
            name: "octal mode", expectation: "an octal mode from 0600 to 0777, such as 0660",
            parse: { text in
                guard text.hasPrefix("0"), text.utf8.count == 4, let bits = UInt32(text, radix: 8),
                    (0o600...0o777).contains(bits)
                else { return nil }
                return FilePermissions(bits: bits)
            },
            render: { "0" + String($0.bits, radix: 8) })
    }
}

extension ValueKind where Value == StreamAddress? {
    static var endpointOrOff: ValueKind {
        ValueKind(
            name: "address:port | off",
            expectation: "a numeric address and port such as 127.0.0.1:7411, [::1]:7411 or "
                + "0.0.0.0:7411 (port 0: any free one), or off",
            parse: { text in
                if text == "off" { return .some(nil) }
                return tcpEndpoint(text).map { .some($0) }
            },
            render: { endpointText($0) })
    }
}

/// The endpoint that `text` names in figures, without asking any resolver; nil for anything else.
package func tcpEndpoint(_ text: String) -> StreamAddress? {
    guard let colon = text.lastIndex(of: ":"),
        let port = UInt16(text[text.index(after: colon)...])
    else { return nil }
    var host = text[..<colon]
    let isBracketed = host.hasPrefix("[") && host.hasSuffix("]")
    if isBracketed { host = host.dropFirst().dropLast() }
    guard isNumericAddress(String(host), family: isBracketed ? AF_INET6 : AF_INET) else {
        return nil
    }
    return .tcp(host: String(host), port: port)
}

private func isNumericAddress(_ host: String, family: Int32) -> Bool {
    var address = in6_addr()
    // SAFETY: inet_pton(3) writes at most 16 bytes, the size of `in6_addr`, for either family,
    // and reads the host as the NUL-terminated copy that Swift makes for the call.
    return unsafe inet_pton(family, host, &address) == 1
}

/// `127.0.0.1:7411` or `off`: the form that `tcpEndpoint` and the configuration read.
func endpointText(_ address: StreamAddress?) -> String {
    switch address {
    case .tcp(let host, let port): host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    case .unix(let path): path
    case nil: "off"
    }
}

extension StreamAddress {
    /// Whether only processes of this host can connect: a Unix socket, 127.0.0.0/8 or ::1.
    package var isHostLocal: Bool {
        switch self {
        case .unix: true
        case .tcp(let host, _): host.hasPrefix("127.") || host == "::1"
        }
    }
}
