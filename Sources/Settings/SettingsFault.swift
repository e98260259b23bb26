// SPDX-License-Identifier: Apache-2.0

/// Where a value came from.
package enum SettingSource: Hashable, Sendable, CustomStringConvertible {
    case file(path: String, line: Int)
    case environment(variable: String)
    case flag(String)
    case standard

    package var description: String {
        switch self {
        case .file(let path, let line): "\(path):\(line)"
        case .environment(let variable): "environment variable \(variable)"
        case .flag(let flag): "flag \(flag)"
        case .standard: "default"
        }
    }
}

/// One thing that is wrong with a configuration: where, what, and how to mend it.
package struct SettingsProblem: Hashable, Sendable, CustomStringConvertible {
    package let place: String
    package let message: String

    init(at source: SettingSource, _ message: String) {
        place = source.description
        self.message = message
    }

    init(place: String, _ message: String) {
        self.place = place
        self.message = message
    }

    package var description: String { "\(place): \(message)" }
}

/// A configuration that cannot be used, with all that was found wrong at once.
package struct SettingsFault: Error, Hashable, Sendable, CustomStringConvertible {
    package let problems: [SettingsProblem]

    /// EX_CONFIG of sysexits.h; the systemd unit does not restart after it.
    package static let exitStatus: Int32 = 78

    /// One line per problem, then one that says where to read more.
    package var description: String {
        let lines = problems.map { "kvstored: \($0)" }
        let hint = "kvstored: \(problems.count) problem\(problems.count == 1 ? "" : "s") in the "
        return (lines + [hint + "configuration; see kvstored --help and docs/configuration.md"])
            .joined(separator: "\n")
    }
}

/// The one of `candidates` that `text` was probably meant to be; nil when none is close.
func nearest(to text: String, among candidates: [String]) -> String? {
    let distances = candidates.map { (editDistance(text, $0), $0) }
    guard let best = distances.min(by: { $0.0 < $1.0 }), best.0 <= max(2, text.count / 3) else {
        return nil
    }
    return best.1
}

/// Levenshtein's distance: insertions, removals and replacements from `left` to `right`.
private func editDistance(_ left: String, _ right: String) -> Int {
    let right = Array(right.utf8)
    var previous = Array(0...right.count)
    for (row, byte) in left.utf8.enumerated() {
        var current = [row + 1]
        for column in right.indices {
            let replaced = previous[column] + (byte == right[column] ? 0 : 1)
            current.append(min(replaced, previous[column + 1] + 1, current[column] + 1))
        }
        previous = current
    }
    return previous[right.count]
}
