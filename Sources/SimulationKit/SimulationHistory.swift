// SPDX-License-Identifier: Apache-2.0

internal import KVCore

/// What clients did and heard, and what became of the node, for the report of a failure. Confined
/// to the simulation's thread.
final class SimulationHistory {
    private struct Line {
        let time: Instant
        /// Nil: it concerns all keys.
        let key: Int?
        let text: String
    }

    /// Lines that a report has at most.
    private static let reportedCountMax = 120

    private var lines: [Line] = []
    /// Of the first failure.
    private(set) var failedKey: Int?

    func note(_ text: @autoclosure () -> String, key: Int? = nil, at now: Instant) {
        lines.append(Line(time: now, key: key, text: text()))
    }

    /// A failure that is about `key`.
    func fail(key: Int) {
        if failedKey == nil { failedKey = key }
    }

    /// What concerns the key that failed; else what became of the node, and the last lines.
    var report: String {
        let tail = lines.count - Self.reportedCountMax
        let shown = lines.enumerated().filter { index, line in
            line.key == nil || line.key == failedKey || failedKey == nil && index >= tail
        }.map(\.element)
        return shown.suffix(2 * Self.reportedCountMax).map { line in
            let key = line.key.map { "key \($0) " } ?? ""
            return "  \(line.time.nanoseconds) ns: \(key)\(line.text)"
        }.joined(separator: "\n")
    }
}
