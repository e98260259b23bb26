// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// The commands that the RESP listener serves (docs/resp.md). A value.
package enum RESPVerb: String, CaseIterable, Sendable {
    // The common ones first: they are looked for in this order.
    case get, set, exists, mget, del, ping, strlen, ttl, pttl, expire, pexpire, persist, type
    case unlink, echo, auth, hello, select, client, command, config, info, dbsize, scan, flushdb
    case quit

    /// How many arguments a request may have, its name included.
    package var argumentCounts: ClosedRange<Int> {
        let many = Limits.respArgumentCountMax
        return switch self {
        case .get, .strlen, .ttl, .pttl, .persist, .type, .echo, .select: 2...2
        case .set: 3...many
        case .exists, .del, .unlink, .client, .config, .scan: 2...many
        case .mget: 2...(1 + Limits.batchKeyCountMax)
        case .ping, .info: 1...2
        case .expire, .pexpire: 3...3
        case .auth: 2...3
        case .hello: 1...7
        case .command: 1...many
        case .dbsize, .flushdb, .quit: 1...1
        }
    }

    /// Positions of the first and the last key, and the step between keys, as COMMAND tells them:
    /// a negative position counts from the end, and 0 says that there is none.
    package var keyPositions: (first: Int, last: Int, step: Int) {
        switch self {
        case .get, .set, .strlen, .ttl, .pttl, .expire, .pexpire, .persist, .type: (1, 1, 1)
        case .exists, .mget, .del, .unlink: (1, -1, 1)
        default: (0, 0, 0)
        }
    }

    /// Whether it changes what is stored.
    package var isWrite: Bool {
        switch self {
        case .set, .del, .unlink, .expire, .pexpire, .persist, .flushdb: true
        default: false
        }
    }

    /// The verb of that name, in any case; nil when it is not served.
    package static func named(_ name: PinnedBytes) -> RESPVerb? {
        guard name.count <= 8 else { return nil }
        let wanted = packed((0..<name.count).lazy.map { name[$0] })
        return byName.first { $0.name == wanted }?.verb
    }

    private static let byName = allCases.map { (name: packed($0.rawValue.utf8), verb: $0) }

    /// At most eight bytes as one number; letters in lower case.
    private static func packed(_ name: some Sequence<UInt8>) -> UInt64 {
        name.reduce(0) { $0 << 8 | UInt64($1.asLowerCase) }
    }
}

extension UInt8 {
    var asLowerCase: UInt8 {
        (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(self) ? self | 0x20 : self
    }
}

extension PinnedBytes {
    /// Whether the bytes are `word`, which is in lower case, in any case.
    package func isWord(_ word: StaticString) -> Bool {
        guard word.utf8CodeUnitCount == count else { return false }
        // SAFETY: static text is that many bytes of constant memory; the pointer stays here.
        return word.withUTF8Buffer { word in
            (0..<count).allSatisfy { unsafe self[$0].asLowerCase == word[$0] }
        }
    }

    /// The decimal number that the bytes spell: digits, and perhaps a minus; nil for anything else,
    /// and for what does not fit.
    package var decimal: Int? {
        let isNegative = count > 0 && self[0] == UInt8(ascii: "-")
        let first = isNegative ? 1 : 0
        guard count > first, count <= 20 else { return nil }
        var value = 0
        for index in first..<count {
            let digit = Int(self[index]) - Int(UInt8(ascii: "0"))
            guard (0...9).contains(digit) else { return nil }
            let (product, overflows) = value.multipliedReportingOverflow(by: 10)
            let (sum, overflowsToo) = product.subtractingReportingOverflow(digit)
            guard !overflows, !overflowsToo else { return nil }
            value = sum
        }
        // Kept negative on the way, since there is one more negative number than positive ones.
        guard !isNegative else { return value }
        return value == .min ? nil : -value
    }

    /// The bytes in an array of their own.
    package var array: [UInt8] { (0..<count).map { self[$0] } }
}
