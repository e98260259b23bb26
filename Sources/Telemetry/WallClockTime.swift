// SPDX-License-Identifier: Apache-2.0

import Glibc

/// A moment of `CLOCK_REALTIME`, for people and for log lines; never for deadlines.
package struct WallClockTime: Hashable, Sendable, CustomStringConvertible {
    /// Since 1970-01-01 00:00 UTC, without leap seconds.
    package let milliseconds: Int64

    package init(milliseconds: Int64) { self.milliseconds = milliseconds }

    /// The present moment.
    package static func now() -> WallClockTime {
        var time = timespec()
        // SAFETY: clock_gettime(2) fills the one structure it is given; this clock always exists.
        _ = unsafe clock_gettime(CLOCK_REALTIME, &time)
        return WallClockTime(
            milliseconds: Int64(time.tv_sec) * 1_000 + Int64(time.tv_nsec) / 1_000_000)
    }

    /// RFC 3339 in UTC: `2026-02-03T04:05:06.789Z`.
    package var description: String {
        let (days, inDay) = milliseconds.quotientAndFloorRemainder(86_400_000)
        let (year, month, day) = Self.date(daysSince1970: days)
        let date = "\(digits(year, 4))-\(digits(month, 2))-\(digits(day, 2))"
        let hour = digits(inDay / 3_600_000, 2)
        let minute = digits(inDay / 60_000 % 60, 2)
        let second = digits(inDay / 1_000 % 60, 2)
        return "\(date)T\(hour):\(minute):\(second).\(digits(inDay % 1_000, 3))Z"
    }

    /// The Gregorian date, counted in eras of 400 years that begin on a 1 March.
    private static func date(daysSince1970: Int64) -> (year: Int64, month: Int64, day: Int64) {
        let (era, day) = (daysSince1970 + 719_468).quotientAndFloorRemainder(146_097)
        let yearOfEra = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365
        let dayOfYear = day - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let monthFromMarch = (5 * dayOfYear + 2) / 153
        let month = monthFromMarch < 10 ? monthFromMarch + 3 : monthFromMarch - 9
        let year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
        return (year, month, dayOfYear - (153 * monthFromMarch + 2) / 5 + 1)
    }
}

extension Int64 {
    /// Division that rounds down, so that moments before 1970 come out right.
    fileprivate func quotientAndFloorRemainder(_ divisor: Int64) -> (Int64, Int64) {
        let (quotient, remainder) = quotientAndRemainder(dividingBy: divisor)
        return remainder < 0 ? (quotient - 1, remainder + divisor) : (quotient, remainder)
    }
}

private func digits(_ value: Int64, _ count: Int) -> String {
    let text = String(value)
    return String(repeating: "0", count: max(0, count - text.count)) + text
}
