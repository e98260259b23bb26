// SPDX-License-Identifier: Apache-2.0

/// A number of bytes. A value; arithmetic traps on overflow.
package struct ByteCount: Hashable, Comparable, Sendable, CustomStringConvertible {
    package let bytes: Int

    @inlinable
    package init(_ bytes: Int) {
        self.bytes = bytes
    }

    /// `count` × 1,024 bytes.
    @inlinable
    package static func kibibytes(_ count: Int) -> ByteCount { ByteCount(count << 10) }
    /// `count` × 1,048,576 bytes.
    @inlinable
    package static func mebibytes(_ count: Int) -> ByteCount { ByteCount(count << 20) }
    /// `count` × 1,073,741,824 bytes.
    @inlinable
    package static func gibibytes(_ count: Int) -> ByteCount { ByteCount(count << 30) }

    @inlinable
    package static func < (left: ByteCount, right: ByteCount) -> Bool { left.bytes < right.bytes }

    /// The shortest exact form, as the configuration accepts it: `64MiB`, `4KiB`, `100B`.
    package var description: String {
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")]
        where bytes != 0 && bytes & ((1 << shift) - 1) == 0 {
            return "\(bytes >> shift)\(unit)"
        }
        return "\(bytes)B"
    }

    /// Reads `64MiB`, `1 GiB`, `4096`; nil when the text is no such size or does not fit `Int`.
    package init?(text: String) {
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        let unit = text.dropFirst(digits.count).drop { $0 == " " }.lowercased()
        let shifts = ["": 0, "b": 0, "kib": 10, "mib": 20, "gib": 30, "tib": 40]
        guard let count = Int(digits), let shift = shifts[unit] else { return nil }
        let (product, overflow) = count.multipliedReportingOverflow(by: 1 << shift)
        guard !overflow else { return nil }
        self.init(product)
    }
}

/// A point on the monotonic clock (`CLOCK_MONOTONIC`), or on a simulation's virtual clock.
package struct Instant: Hashable, Comparable, Sendable {
    /// Nanoseconds since an arbitrary origin; the same origin for all processes of one host.
    package let nanoseconds: UInt64

    @inlinable
    package init(nanoseconds: UInt64) {
        self.nanoseconds = nanoseconds
    }

    /// Later than every instant that occurs: "no deadline".
    @inlinable
    package static var distantFuture: Instant { Instant(nanoseconds: .max) }

    @inlinable
    package static func < (left: Instant, right: Instant) -> Bool {
        left.nanoseconds < right.nanoseconds
    }

    /// This instant moved by `milliseconds`; stops at `distantFuture`.
    @inlinable
    package func adding(milliseconds: UInt64) -> Instant {
        let (delta, overflow) = milliseconds.multipliedReportingOverflow(by: 1_000_000)
        let (sum, carried) = nanoseconds.addingReportingOverflow(delta)
        return overflow || carried ? .distantFuture : Instant(nanoseconds: sum)
    }

    /// Whole milliseconds from `self` to `later`; 0 when `later` has passed.
    @inlinable
    package func milliseconds(until later: Instant) -> UInt64 {
        later > self ? (later.nanoseconds - nanoseconds) / 1_000_000 : 0
    }
}
