// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import KVCore

@Suite struct `A byte count` {
    @Test(arguments: [
        ("0", 0), ("4096", 4_096), ("100B", 100), ("1kib", 1_024), ("64MiB", 64 << 20),
        ("1 GiB", 1 << 30), ("2TiB", 2 << 40), ("7  KiB", 7 << 10),
    ])
    func `is read with its unit`(text: String, bytes: Int) {
        #expect(ByteCount(text: text)?.bytes == bytes)
    }

    @Test(arguments: [
        "", "MiB", "-1", "1.5GiB", "1MB", "1 M", "0x10", "9223372036854775808", "9000000TiB",
        "٤KiB", "1 MiB ", "1MiB2",
    ])
    func `is refused when it is none, or does not fit`(text: String) {
        #expect(ByteCount(text: text) == nil)
    }

    @Test(arguments: [0, 1, 100, 1_023, 1_024, 4_096, 1_500_000, 64 << 20, 3 << 30, 1 << 44])
    func `reads back what it shows`(bytes: Int) {
        #expect(ByteCount(text: ByteCount(bytes).description) == ByteCount(bytes))
    }

    @Test func `shows the largest unit that is exact`() {
        #expect(ByteCount.mebibytes(64).description == "64MiB")
        #expect(ByteCount(1_025).description == "1025B")
        #expect(ByteCount.gibibytes(1) > ByteCount.kibibytes(1))
    }
}

@Suite struct `An instant` {
    @Test func `stops at the distant future`() {
        let late = Instant(nanoseconds: .max - 5)
        #expect(late.adding(milliseconds: 1) == .distantFuture)
        #expect(Instant(nanoseconds: 0).adding(milliseconds: .max) == .distantFuture)
        #expect(Instant.distantFuture.adding(milliseconds: 0) == .distantFuture)
    }

    @Test func `counts whole milliseconds to a later one, and none to an earlier one`() {
        let start = Instant(nanoseconds: 1_000_000)
        #expect(start.milliseconds(until: Instant(nanoseconds: 3_999_999)) == 2)
        #expect(start.milliseconds(until: start) == 0)
        #expect(start.milliseconds(until: Instant(nanoseconds: 0)) == 0)
        #expect(start.adding(milliseconds: 7).nanoseconds == 8_000_000)
    }
}

@Suite struct `A status` {
    @Test func `keeps its number`() {
        let numbers: [Status: UInt16] = [
            .ok: 0, .notFound: 1, .exists: 2, .busy: 3, .tooLarge: 4, .deadlineExceeded: 5,
            .checksumMismatch: 6, .unauthorized: 7, .unsupported: 8, .malformed: 9,
            .versionMismatch: 10, .helloRequired: 11, .noLease: 12, .shuttingDown: 13,
            .limitExceeded: 14, .layoutMismatch: 15, .internal: 16,
            .notDurable: 17,
        ]
        #expect(numbers.count == Status.allCases.count)
        for (status, number) in numbers { #expect(status.rawValue == number) }
    }
}

@Suite struct `The limits` {
    @Test func `agree with one another`() {
        Limits.check()
    }
}
