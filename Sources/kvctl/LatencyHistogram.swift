// SPDX-License-Identifier: Apache-2.0

/// Counts of durations, in buckets that are 1/64 to 1/128 of their value wide. A value of 29 KiB.
struct LatencyHistogram: Sendable {
    /// Buckets per power of two, as a power of two.
    private static let precision = 6
    private var counts = [UInt64](repeating: 0, count: (64 - precision + 1) << precision)
    private(set) var count: UInt64 = 0
    private var least = UInt64.max
    private var most: UInt64 = 0

    /// Adds one duration.
    mutating func record(nanoseconds: UInt64) {
        counts[Self.bucket(nanoseconds)] += 1
        count += 1
        least = min(least, nanoseconds)
        most = max(most, nanoseconds)
    }

    /// Adds all durations of `other`.
    mutating func add(_ other: LatencyHistogram) {
        for index in counts.indices { counts[index] += other.counts[index] }
        count += other.count
        least = min(least, other.least)
        most = max(most, other.most)
    }

    /// The duration that a share `quantile` (0 to 1) of all did not exceed, in microseconds; 0
    /// when there are none.
    func microseconds(quantile: Double) -> Double {
        guard count > 0 else { return 0 }
        let rank = max(1, UInt64((quantile * Double(count)).rounded(.up)))
        var seen: UInt64 = 0
        for (index, number) in counts.enumerated() {
            seen += number
            if seen >= rank {
                let value = quantile == 0 ? least : min(max(Self.upperBound(index), least), most)
                return Double(value) / 1_000
            }
        }
        return Double(most) / 1_000
    }

    private static func bucket(_ value: UInt64) -> Int {
        guard value >> UInt64(precision) > 0 else { return Int(value) }
        let exponent = 63 - value.leadingZeroBitCount - precision
        let mantissa = Int(value >> UInt64(exponent)) - (1 << precision)
        return ((exponent + 1) << precision) + mantissa
    }

    /// The largest value of a bucket.
    private static func upperBound(_ index: Int) -> UInt64 {
        guard index >> precision > 0 else { return UInt64(index) }
        let exponent = UInt64((index >> precision) - 1)
        let mantissa = UInt64(index & ((1 << precision) - 1) + (1 << precision))
        return (mantissa << exponent) + ((1 << exponent) - 1)
    }
}
