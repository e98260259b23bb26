// SPDX-License-Identifier: Apache-2.0
import KVCore
import Synchronization
import Testing

@testable import Wire

/// The bytes of a request.
func respRequest(_ arguments: [[UInt8]]) -> [UInt8] {
    arguments.reduce(Array("*\(arguments.count)\r\n".utf8)) {
        $0 + Array("$\($1.count)\r\n".utf8) + $1 + Array("\r\n".utf8)
    }
}

/// The bytes in memory that stays for the rest of the tests.
func keptBytes(_ bytes: [UInt8]) -> PinnedBytes {
    let memory = OwnedBytes(count: bytes.count)
    for (offset, byte) in bytes.enumerated() { memory.bytes.store(byte, at: offset) }
    keptMemory.withLock { $0.append(memory) }
    return memory.bytes
}

private let keptMemory = Mutex<[OwnedBytes]>([])

/// What a client's bytes came to, read by an owner that takes values as a connection does.
struct RESPReading: Equatable {
    var requests: [[[UInt8]]] = []
    var fault: RESPFault?

    /// Gives `bytes` to a parser in pieces that end at `ends`, which rise to the whole count.
    init(_ bytes: [UInt8], ends: [Int], isAuthenticated: Bool = true) {
        var parser = RESPParser(isAuthenticated: isAuthenticated)
        var (first, taken): (Int, [[UInt8]]) = (0, [])
        for end in ends {
            while true {
                let buffer = keptBytes(Array(bytes[first..<end]))
                switch parser.advance(buffer) {
                case .fault(let fault):
                    self.fault = fault
                    return
                case .request:
                    requests.append(taken + Self.arguments(parser, buffer))
                    first += parser.position
                    taken = []
                    parser.begin()
                    if first == end { break } else { continue }
                case .value(let byteCount):
                    let start = first + parser.position
                    guard end - start >= byteCount + 2 else { break }
                    taken += Self.arguments(parser, buffer)
                    taken.append(Array(bytes[start..<start + byteCount]))
                    first = start + byteCount + 2
                    if parser.passValue() {
                        requests.append(taken)
                        taken = []
                        parser.begin()
                    }
                    continue
                case .incomplete: break
                }
                break
            }
            // A value that has not arrived yet is told of again: only its owner can pass it.
        }
    }

    private static func arguments(_ parser: RESPParser, _ buffer: PinnedBytes) -> [[UInt8]] {
        parser.arguments.map { buffer.slice(offset: $0.offset, count: $0.byteCount).array }
    }
}

/// KVSTORE_SEED repeats a failure.
@Suite struct `A RESP parser` {
    @Test func `reads requests whatever the pieces they come in`() {
        var numbers = SeededNumbers.fresh()
        for round in 0..<300 {
            var wanted: [[[UInt8]]] = []
            for _ in 0..<Int.random(in: 1...4, using: &numbers) {
                wanted.append(Self.request(&numbers))
            }
            let bytes = wanted.flatMap { respRequest($0) }
            var ends = (0..<Int.random(in: 0...6, using: &numbers)).map { _ in
                Int.random(in: 0...bytes.count, using: &numbers)
            }
            ends = ends.sorted() + [bytes.count]
            let reading = RESPReading(bytes, ends: ends)
            let place: Comment = "KVSTORE_SEED=\(numbers.seed), round \(round), ends \(ends)"
            #expect(reading.fault == nil, place)
            #expect(reading.requests == wanted, place)
        }
    }

    private static func request(_ numbers: inout SeededNumbers) -> [[UInt8]] {
        let names = ["GET", "set", "Del", "MGET", "nosuchcommandatall", "PING"]
        let name = Array(names[Int.random(in: 0..<names.count, using: &numbers)].utf8)
        let count = Int.random(in: 0...4, using: &numbers)
        return [name]
            + (0..<count).map { _ in
                let isLong = Int.random(in: 0..<20, using: &numbers) == 0
                return numbers.bytes(
                    isLong ? 9_000 : Int.random(in: 0...40, using: &numbers))
            }
    }

    @Test func `ends on any bytes, within them`() {
        var numbers = SeededNumbers.fresh()
        let letters = Array("*$0123456789\r\n-setGET ".utf8)
        for round in 0..<2_000 {
            let bytes = (0..<Int.random(in: 0...60, using: &numbers)).map { _ in
                letters[Int.random(in: 0..<letters.count, using: &numbers)]
            }
            var parser = RESPParser(isAuthenticated: round.isMultiple(of: 2))
            let buffer = keptBytes(bytes)
            _ = parser.advance(buffer)
            let place: Comment = "KVSTORE_SEED=\(numbers.seed), round \(round)"
            #expect(parser.position <= bytes.count, place)
            for argument in parser.arguments {
                #expect(argument.offset + argument.byteCount + 2 <= parser.position, place)
            }
        }
    }

    @Test(arguments: [
        ("PING\r\n", RESPFault.notAnArray), ("GET / HTTP/1.1\r\n", .notAnArray),
        ("*-1\r\n", .badCount), ("*1027\r\n", .badCount), ("*99999999999\r\n", .badCount),
        ("*\r\n", .badCount), ("*1 \r\n", .badCount), ("*1\n", .badCount), ("*1\rx", .badCount),
        ("\rx", .notAnArray),
        ("*1\r\n+OK\r\n", .notABulkString), ("*1\r\n:1\r\n", .notABulkString),
        ("*1\r\n$-1\r\n", .badSize), ("*1\r\n$536870913\r\n", .badSize),
        ("*1\r\n$\r\n", .badSize), ("*1\r\n$4\r\nPINGxx", .noLineEnd),
        ("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$999999999\r\n", .badSize),
    ])
    func `refuses what is no request`(text: String, fault: RESPFault) {
        let reading = RESPReading(Array(text.utf8), ends: [text.utf8.count])
        #expect(reading.fault == fault)
        #expect(reading.requests.isEmpty)
    }

    @Test func `keeps requests small until the password was given`() {
        func fault(_ text: String) -> RESPFault? {
            RESPReading(Array(text.utf8), ends: [text.utf8.count], isAuthenticated: false).fault
        }
        #expect(fault("*11\r\n") == .countBeforeAuthentication)
        #expect(fault("*2\r\n$4\r\nAUTH\r\n$1025\r\n") == .sizeBeforeAuthentication)
        #expect(fault("*2\r\n$4\r\nAUTH\r\n$1024\r\n") == nil)
    }

    @Test func `takes an empty array, or line, for nothing`() {
        let text = "*0\r\n*1\r\n$4\r\nPING\r\n\r\n"
        let reading = RESPReading(Array(text.utf8), ends: [18, 19, 20])
        #expect(reading.requests == [[], [Array("PING".utf8)], []])
    }

    @Test func `stops before a value, and says when arguments are missing`() {
        let bytes = keptBytes(respRequest([Array("sEt".utf8), [7], [1, 2, 3], Array("NX".utf8)]))
        var parser = RESPParser(isAuthenticated: true)
        let step = parser.advance(bytes)
        #expect(step == .value(byteCount: 3))
        #expect(parser.verb == .set)
        #expect(parser.arguments.count == 2)
        let rest = bytes.dropFirst(parser.position + 5)
        let endsWithValue = parser.passValue()
        #expect(!endsWithValue)
        let last = parser.advance(rest)
        #expect(last == .request)
        #expect(parser.arguments.count == 1)
        #expect(parser.argumentCount == 4)
        #expect(!parser.isCutShort)

        let long = [UInt8](repeating: 0, count: Limits.respArgumentByteCountMax + 1)
        let get = keptBytes(respRequest([Array("GET".utf8), long]))
        parser.begin()
        let longStep = parser.advance(get)
        #expect(longStep == .value(byteCount: long.count))
        let endsWithArgument = parser.passValue()
        #expect(endsWithArgument)
        #expect(parser.isCutShort)
    }

    @Test func `knows its commands in any case`() {
        for verb in RESPVerb.allCases {
            #expect(RESPVerb.named(keptBytes(Array(verb.rawValue.utf8))) == verb)
            let upper = Array(verb.rawValue.uppercased().utf8)
            #expect(RESPVerb.named(keptBytes(upper)) == verb)
        }
        for name in ["", "GE", "GETT", "G@T", "COMMANDS", "APPEND"] {
            #expect(RESPVerb.named(keptBytes(Array(name.utf8))) == nil)
        }
    }

    @Test(arguments: [
        ("0", 0), ("-1", -1), ("9223372036854775807", Int.max), ("007", 7),
        ("9223372036854775808", nil), ("-9223372036854775808", Int.min), ("", nil), ("-", nil),
        ("+1", nil), ("1 ", nil), ("1.5", nil), ("99999999999999999999999", nil),
    ])
    func `reads whole numbers`(text: String, value: Int?) {
        #expect(keptBytes(Array(text.utf8)).decimal == value)
    }
}

@Suite struct `A RESP writer` {
    private func written(
        _ version: RESPWriter.Version = .two, _ body: (inout RESPWriter) -> Void
    ) -> String {
        let memory = OwnedBytes(count: 256)
        var writer = RESPWriter(memory.bytes)
        writer.version = version
        body(&writer)
        return withExtendedLifetime(memory) {
            String(decoding: writer.bytes.array, as: UTF8.self)
        }
    }

    @Test func `writes what the protocol says`() {
        #expect(written { $0.simple("OK") } == "+OK\r\n")
        #expect(written { $0.error("ERR no") } == "-ERR no\r\n")
        #expect(written { $0.integer(0) } == ":0\r\n")
        #expect(written { $0.integer(-2) } == ":-2\r\n")
        #expect(written { $0.integer(.max) } == ":9223372036854775807\r\n")
        #expect(written { $0.integer(.min) } == ":-9223372036854775808\r\n")
        #expect(written { $0.integer(1_000) } == ":1000\r\n")
        #expect(written { $0.bulk("") } == "$0\r\n\r\n")
        #expect(written { $0.bulk("wort") } == "$4\r\nwort\r\n")
        #expect(written { $0.array(3) } == "*3\r\n")
    }

    @Test func `knows both versions`() {
        #expect(written(.two) { $0.null() } == "$-1\r\n")
        #expect(written(.three) { $0.null() } == "_\r\n")
        #expect(written(.two) { $0.map(2) } == "*4\r\n")
        #expect(written(.three) { $0.map(2) } == "%2\r\n")
        #expect(written(.two) { $0.verbatim("x") } == "$1\r\nx\r\n")
        #expect(written(.three) { $0.verbatim("x") } == "=5\r\ntxt:x\r\n")
    }

    @Test func `does not let a name say more than a name`() {
        let name = keptBytes(Array("a\r\n+OK'b".utf8))
        #expect(
            written { $0.error("ERR unknown command ", naming: name) }
                == "-ERR unknown command 'a??+OK?b'\r\n")
    }

    @Test(arguments: [0, 1, 9, 10, 99, 100, 999, 4_096, 65_536, 4_194_304, 268_435_456])
    func `makes an error as long as the head of a value`(byteCount: Int) {
        let wanted = RESPWriter.bulkHeadByteCount(byteCount)
        #expect(written { $0.bulkHead(byteCount) }.utf8.count == wanted)
        let error = written { $0.error("MISS", ofByteCount: wanted) }
        #expect(error.utf8.count == wanted)
        #expect(error.hasPrefix("-M"))
        #expect(error.hasSuffix("\r\n"))
    }

    @Test func `pads a miss of 4 MiB as docs/resp.md says`() {
        let bytes = written { $0.error("MISS", ofByteCount: 10) }
        #expect(Array(bytes.utf8) == [0x2d, 0x4d, 0x49, 0x53, 0x53, 0x20, 0x20, 0x20, 0x0d, 0x0a])
    }
}

@Suite struct `A RESP pattern` {
    @Test(arguments: [
        ("*", "", true), ("*", "anything", true), ("", "", true), ("", "a", false),
        ("a*c", "abbbc", true), ("a*c", "abbb", false), ("a*b*c", "axxbyyc", true),
        ("h?llo", "hello", true), ("h?llo", "hllo", false), ("h[ae]llo", "hallo", true),
        ("h[ae]llo", "hillo", false), ("h[^e]llo", "hallo", true), ("h[^e]llo", "hello", false),
        ("h[a-c]llo", "hbllo", true), ("h[c-a]llo", "hbllo", true), ("\\*", "*", true),
        ("\\*", "a", false), ("a\\", "a\\", true), ("[abc", "b", true), ("[]", "a", false),
        ("[^]x", "ax", true), ("**a", "bba", true), ("[\\]]", "]", true),
    ])
    func `matches as in Redis`(pattern: String, name: String, isMatch: Bool) {
        let (pattern, name) = (keptBytes(Array(pattern.utf8)), keptBytes(Array(name.utf8)))
        #expect(RESPPattern.matches(pattern, name) == isMatch)
    }

    @Test func `takes no time over many stars`() {
        let pattern = keptBytes(Array((String(repeating: "*a", count: 500) + "b").utf8))
        let name = keptBytes([UInt8](repeating: UInt8(ascii: "a"), count: 1_024))
        #expect(!RESPPattern.matches(pattern, name))
    }
}
