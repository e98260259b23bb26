// SPDX-License-Identifier: Apache-2.0
import Foundation
import KVCore

@testable import Wire

/// SplitMix64 (Steele, Lea, Flood, 2014): small, and the same everywhere for one seed.
struct SeededNumbers: RandomNumberGenerator {
    private var state: UInt64
    let seed: UInt64

    init(seed: UInt64) {
        self.seed = seed
        state = seed
    }

    /// From KVSTORE_SEED, or else a fresh seed, which is printed first: a trap tells nothing.
    static func fresh(_ test: String = #function) -> SeededNumbers {
        let said = ProcessInfo.processInfo.environment["KVSTORE_SEED"].flatMap { UInt64($0) }
        let seed = said ?? UInt64.random(in: 0...UInt64(UInt32.max))
        print("KVSTORE_SEED=\(seed) for \(test)")
        return SeededNumbers(seed: seed)
    }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var word = state
        word = (word ^ (word >> 30)) &* 0xBF58_476D_1CE4_E5B9
        word = (word ^ (word >> 27)) &* 0x94D0_49BB_1331_11EB
        return word ^ (word >> 31)
    }

    /// A number of any magnitude: small ones and extremes are as likely as the rest.
    mutating func number<Number: FixedWidthInteger & UnsignedInteger>(_: Number.Type) -> Number {
        switch Int.random(in: 0..<4, using: &self) {
        case 0: Number.random(in: 0...3, using: &self)
        case 1: Number.max - Number.random(in: 0...3, using: &self)
        default:
            Number.random(in: 0...Number.max, using: &self)
                >> Number(Int.random(in: 0..<Number.bitWidth, using: &self))
        }
    }

    mutating func bytes(_ count: Int) -> [UInt8] {
        (0..<count).map { _ in UInt8.random(in: 0...255, using: &self) }
    }

    mutating func text(atMost byteCount: Int) -> String {
        let letters: [String] = ["a", "Z", "0", "-", " ", "\u{0}", "é", "λ", "漢", "🔑"]
        var text = ""
        for _ in 0..<Int.random(in: 0...byteCount, using: &self) {
            let letter = letters.randomElement(using: &self)!
            guard text.utf8.count + letter.utf8.count <= byteCount else { break }
            text += letter
        }
        return text
    }

    mutating func keys(_ range: ClosedRange<Int>) -> [String] {
        // Mostly few, so that a run is short.
        let most = Bool.random(using: &self) ? range.upperBound : min(range.upperBound, 4)
        let count = Int.random(in: range.lowerBound...most, using: &self)
        return (0..<count).map { _ in hexadecimal(bytes(ChunkKey.byteCount)) }
    }

    mutating func ids(_ range: ClosedRange<Int>) -> [UInt64] {
        (0..<Int.random(in: range, using: &self)).map { _ in number(UInt64.self) }
    }
}

extension Fields {
    /// A body that a client may send with `verb`.
    static func randomRequest(_ verb: Verb, _ numbers: inout SeededNumbers) -> Fields {
        switch verb {
        case .hello:
            var hello = Fields()
            hello.lowestVersion = UInt8.random(in: 0...1, using: &numbers)
            hello.highestVersion = UInt8.random(in: 1...255, using: &numbers)
            hello.wantedFeatures = numbers.number(UInt64.self)
            hello.namespace = numbers.text(atMost: 64)
            hello.token = hexadecimal(numbers.bytes(Int.random(in: 0...256, using: &numbers)))
            hello.clientName = numbers.text(atMost: 64)
            return hello
        case .ping: return Fields()
        case .put, .reserve:
            let most = UInt64(Limits.chunkByteCountMax)
            return Fields(
                key: hexadecimal(numbers.bytes(32)), layout: hexadecimal(numbers.bytes(16)),
                chunkByteCount: min(max(numbers.number(UInt64.self), 1), most),
                timeToLiveMs: UInt64(numbers.number(UInt32.self)),
                level: UInt8.random(in: 0...6, using: &numbers),
                acknowledge: UInt8.random(in: 0...1, using: &numbers),
                firstPosition: Bool.random(using: &numbers)
                    ? nil : min(numbers.number(UInt32.self), .max - 1))
        case .get:
            let options = UInt8.random(in: 0...3, using: &numbers)
            return Fields(
                layout: options & 1 == 1
                    ? hexadecimal(numbers.bytes(16)) : LayoutID.opaque.description,
                level: [0, 1, 6, 254, 255].randomElement(using: &numbers), options: options,
                keys: numbers.keys(1...1_024),
                rangeOffset: options & 2 == 2 ? numbers.number(UInt64.self) : nil,
                rangeByteCount: options & 2 == 2 ? max(numbers.number(UInt64.self), 1) : nil)
        case .lookup:
            return Fields(
                mode: UInt8.random(in: 0...1, using: &numbers), keys: numbers.keys(1...1_024))
        case .delete, .unpin: return Fields(keys: numbers.keys(1...1_024))
        case .pin:
            return Fields(
                keys: numbers.keys(1...1_024),
                pinMs: 1 + numbers.number(UInt64.self) % Limits.pinMillisecondsMax)
        case .control:
            return Fields(
                operation: ControlRequest.Operation.allCases.randomElement(using: &numbers)!
                    .rawValue,
                argument: numbers.text(atMost: Limits.argumentByteCountMax))
        case .stat:
            return Bool.random(using: &numbers)
                ? Fields(scope: 0) : Fields(key: hexadecimal(numbers.bytes(32)), scope: 1)
        case .lease:
            return Fields(
                keys: numbers.keys(0...1_024), leaseMs: numbers.number(UInt32.self),
                released: numbers.ids(0...1_024))
        case .release: return Fields(leases: numbers.ids(1...1_024))
        case .commit:
            return Fields(
                reservationId: numbers.number(UInt64.self),
                checksum: numbers.number(UInt64.self))
        case .abort: return Fields(reservationId: numbers.number(UInt64.self))
        }
    }

    /// A body that the daemon may send with status `ok`; a STAT is of scope 0.
    static func randomAnswer(_ verb: Verb, _ numbers: inout SeededNumbers) -> Fields {
        switch verb {
        case .hello: return randomHello(&numbers)
        case .ping, .put, .commit, .abort: return Fields()
        case .get:
            let most = UInt64(Limits.chunkByteCountMax)
            var chunk = Fields(
                layout: hexadecimal(numbers.bytes(16)),
                chunkByteCount: min(max(numbers.number(UInt64.self), 1), most),
                timeToLiveMs: numbers.number(UInt64.self), level: numbers.number(UInt8.self),
                checksum: numbers.number(UInt64.self))
            chunk.index = numbers.number(UInt32.self)
            return chunk
        case .lookup:
            let count = Int.random(in: 0...1_024, using: &numbers)
            var answer = Fields(
                prefixCount: UInt32(Int.random(in: 0...count, using: &numbers)))
            answer.records = (0..<count).map { _ in
                Record(
                    status: Status.allCases.randomElement(using: &numbers)!.rawValue,
                    tier: numbers.number(UInt8.self), level: numbers.number(UInt8.self),
                    loadUs: numbers.number(UInt32.self),
                    chunkByteCount: numbers.number(UInt64.self),
                    timeToLiveMs: numbers.number(UInt64.self))
            }
            return answer
        case .delete, .pin, .unpin:
            let count = Int.random(in: 0...1_024, using: &numbers)
            let okCount = UInt32(Int.random(in: 0...count, using: &numbers))
            return Fields(
                deletedCount: verb == .delete ? okCount : nil,
                statuses: (0..<count).map { _ in
                    Status.allCases.randomElement(using: &numbers)!.rawValue
                }, okCount: verb == .delete ? nil : okCount)
        case .control:
            let count = Int.random(in: 0...60, using: &numbers)
            return Fields(
                texts: (0..<count).map { _ in
                    Text(name: numbers.text(atMost: 255), text: numbers.text(atMost: 600))
                })
        case .stat:
            let count = Int.random(in: 0...60, using: &numbers)
            return Fields(
                pairs: (0..<count).map { _ in
                    Pair(name: numbers.text(atMost: 255), value: numbers.number(UInt64.self))
                })
        case .lease:
            let count = Int.random(in: 0...1_024, using: &numbers)
            return Fields(
                records: (0..<count).map { _ in randomLease(&numbers) },
                expiryNs: numbers.number(UInt64.self))
        case .release: return Fields(releasedCount: numbers.number(UInt32.self))
        case .reserve:
            return Fields(
                reservationId: numbers.number(UInt64.self), expiryNs: numbers.number(UInt64.self),
                stagingOffset: numbers.number(UInt64.self),
                stagingByteCount: numbers.number(UInt64.self))
        }
    }

    private static func randomHello(_ numbers: inout SeededNumbers) -> Fields {
        Fields(
            version: numbers.number(UInt8.self), grantedFeatures: numbers.number(UInt64.self),
            secret: hexadecimal(numbers.bytes(32)), nodeId: numbers.number(UInt64.self),
            bodyByteCountLimit: numbers.number(UInt32.self),
            batchKeyCountLimit: numbers.number(UInt32.self),
            chunkByteCountLimit: numbers.number(UInt64.self),
            inFlightLimit: numbers.number(UInt32.self), leaseMsLimit: numbers.number(UInt32.self),
            arenaByteCount: numbers.number(UInt64.self),
            stagingByteCountLimit: numbers.number(UInt64.self),
            daemonName: numbers.text(atMost: 255))
    }

    private static func randomLease(_ numbers: inout SeededNumbers) -> Record {
        Record(
            status: Status.allCases.randomElement(using: &numbers)!.rawValue,
            level: numbers.number(UInt8.self), chunkByteCount: numbers.number(UInt64.self),
            timeToLiveMs: numbers.number(UInt64.self), leaseId: numbers.number(UInt64.self),
            arenaOffset: numbers.number(UInt64.self), checksum: numbers.number(UInt64.self))
    }
}
