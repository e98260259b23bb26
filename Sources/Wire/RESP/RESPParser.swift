// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// Why a RESP connection is closed: its bytes are no request. A value.
package enum RESPFault: Error, Hashable, Sendable, CaseIterable {
    case notAnArray, badCount, notABulkString, badSize, noLineEnd
    case countBeforeAuthentication, sizeBeforeAuthentication

    /// What the client is told, behind the minus.
    package var message: StaticString {
        switch self {
        case .notAnArray: "ERR Protocol error: expected '*'"
        case .badCount: "ERR Protocol error: invalid multibulk length"
        case .notABulkString: "ERR Protocol error: expected '$'"
        case .badSize: "ERR Protocol error: invalid bulk length"
        case .noLineEnd: "ERR Protocol error: expected a line end behind a bulk string"
        case .countBeforeAuthentication:
            "ERR Protocol error: unauthenticated multibulk length"
        case .sizeBeforeAuthentication: "ERR Protocol error: unauthenticated bulk length"
        }
    }
}

/// Reads requests, arrays of bulk strings, out of a buffer that its owner fills; goes on where it
/// stopped, so each byte is looked at once.
///
/// The value of a SET, and any other argument that is long, is not awaited in the buffer: `advance`
/// stops in front of it, and the owner takes it as it likes. A confined value; allocates nothing
/// once it has seen the largest request.
package struct RESPParser {
    /// What `advance` came to.
    package enum Step: Hashable, Sendable {
        /// The buffer ends before the request does.
        case incomplete
        /// The request ends at `position`. One without arguments, or an empty line, means nothing.
        case request
        /// An argument of `byteCount` bytes and its line end follow at `position`, to be taken by
        /// the owner, who then calls `passValue`.
        case value(byteCount: Int)
        case fault(RESPFault)
    }

    /// Where an argument lies, from the beginning of the buffer. A value.
    package struct Argument: Hashable, Sendable {
        package let offset: Int
        package let byteCount: Int
    }

    private enum Place {
        case count
        case size
        case bytes(Int)
        /// In front of bytes that the owner takes.
        case value(Int)
    }

    /// Whether requests may be as large as they may get.
    package var isAuthenticated: Bool
    /// Bytes of the buffer that are parsed.
    package private(set) var position = 0
    /// The arguments that lie in the buffer.
    package private(set) var arguments: [Argument] = []
    /// The arguments that the request has, those passed by included.
    package private(set) var argumentCount = 0
    /// Its name; nil when it is not known, here or yet.
    package private(set) var verb: RESPVerb?
    /// Whether arguments are missing from `arguments`, other than the value of a SET.
    package private(set) var isCutShort = false
    private var index = 0
    private var place = Place.count

    package init(isAuthenticated: Bool) {
        self.isAuthenticated = isAuthenticated
        arguments.reserveCapacity(8)
    }

    /// Whether no byte of a request has been seen.
    package var isBetweenRequests: Bool {
        if case .count = place, position == 0 { true } else { false }
    }

    /// Begins with the next request, whose first byte is the buffer's.
    package mutating func begin() {
        position = 0
        arguments.removeAll(keepingCapacity: true)
        argumentCount = 0
        verb = nil
        isCutShort = false
        index = 0
        place = .count
    }

    /// Goes on; `buffer` begins with the request, or behind the value that was passed last.
    package mutating func advance(_ buffer: PinnedBytes) -> Step {
        while true {
            switch place {
            case .count:
                if position < buffer.count, buffer[position] == UInt8(ascii: "\r") {
                    return emptyLine(buffer)
                }
                switch number(buffer, behind: UInt8(ascii: "*"), .notAnArray, .badCount) {
                case .incomplete: return .incomplete
                case .fault(let fault): return .fault(fault)
                case .number(let count):
                    guard count <= Limits.respArgumentCountMax else { return .fault(.badCount) }
                    guard isAuthenticated || count <= argumentCountMaxBefore else {
                        return .fault(.countBeforeAuthentication)
                    }
                    argumentCount = count
                    guard count > 0 else { return .request }
                    place = .size
                }
            case .size:
                switch number(buffer, behind: UInt8(ascii: "$"), .notABulkString, .badSize) {
                case .incomplete: return .incomplete
                case .fault(let fault): return .fault(fault)
                case .number(let byteCount):
                    guard byteCount <= Limits.respBulkByteCountMax else {
                        return .fault(.badSize)
                    }
                    guard isAuthenticated || byteCount <= Limits.respKeyByteCountMax else {
                        return .fault(.sizeBeforeAuthentication)
                    }
                    place = isTakenByOwner(byteCount) ? .value(byteCount) : .bytes(byteCount)
                }
            case .bytes(let byteCount):
                guard buffer.count - position >= byteCount + 2 else { return .incomplete }
                guard buffer.isLineEnd(at: position + byteCount) else {
                    return .fault(.noLineEnd)
                }
                if index == 0 {
                    verb = RESPVerb.named(buffer.slice(offset: position, count: byteCount))
                }
                arguments.append(Argument(offset: position, byteCount: byteCount))
                position += byteCount + 2
                guard !endArgument() else { return .request }
            case .value(let byteCount):
                return .value(byteCount: byteCount)
            }
        }
    }

    /// The owner has taken the value and its line end; the buffer now begins behind it.
    /// - Returns: whether the request ends there.
    package mutating func passValue() -> Bool {
        // A long name is no command's, and a long argument only SET's value.
        if !(verb == .set && index == 2) { isCutShort = true }
        position = 0
        arguments.removeAll(keepingCapacity: true)
        return endArgument()
    }

    /// Forgets the arguments so far, whose bytes the owner drops: the buffer now begins at what was
    /// `position`.
    package mutating func dropArguments() {
        isCutShort = true
        position = 0
        arguments.removeAll(keepingCapacity: true)
    }

    /// redis-cli --pipe sends one before its last request, in case that the one before had no end.
    private mutating func emptyLine(_ buffer: PinnedBytes) -> Step {
        guard buffer.count - position >= 2 else { return .incomplete }
        guard buffer.isLineEnd(at: position) else { return .fault(.notAnArray) }
        position += 2
        return .request
    }

    private mutating func endArgument() -> Bool {
        index += 1
        place = .size
        return index == argumentCount
    }

    private func isTakenByOwner(_ byteCount: Int) -> Bool {
        byteCount > Limits.respArgumentByteCountMax || (index == 2 && verb == .set)
    }

    private enum Reading {
        case incomplete
        case number(Int)
        case fault(RESPFault)
    }

    /// Reads `<mark><digits>\r\n` at `position`, and passes it.
    private mutating func number(
        _ buffer: PinnedBytes, behind mark: UInt8, _ noMark: RESPFault, _ noNumber: RESPFault
    ) -> Reading {
        guard position < buffer.count else { return .incomplete }
        guard buffer[position] == mark else { return .fault(noMark) }
        var value = 0
        var offset = position + 1
        while offset < buffer.count {
            let byte = buffer[offset]
            let digit = Int(byte) - Int(UInt8(ascii: "0"))
            if (0...9).contains(digit) {
                guard offset - position <= digitCountMax else { return .fault(noNumber) }
                value = value * 10 + digit
                offset += 1
                continue
            }
            guard byte == UInt8(ascii: "\r"), offset > position + 1 else {
                return .fault(noNumber)
            }
            guard offset + 1 < buffer.count else { return .incomplete }
            guard buffer[offset + 1] == UInt8(ascii: "\n") else { return .fault(noNumber) }
            position = offset + 2
            return .number(value)
        }
        return .incomplete
    }
}

extension PinnedBytes {
    /// Whether `\r\n` stands at `offset`.
    package func isLineEnd(at offset: Int) -> Bool {
        self[offset] == UInt8(ascii: "\r") && self[offset + 1] == UInt8(ascii: "\n")
    }
}

/// Digits of a count or size.
private let digitCountMax = 10
/// Arguments of a request before the password was given; HELLO has at most seven.
private let argumentCountMaxBefore = 10
