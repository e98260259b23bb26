// SPDX-License-Identifier: Apache-2.0

/// The axes of a KV tensor as they may be nested in a payload.
enum Axis: String {
    case layer, kv, block, token, head, channel
}

/// The field `axes` of a layout description: which axis stands inside which.
struct AxisOrder: Hashable {
    /// Axes on the way to a value of K, from the outermost to the innermost.
    let keys: [Axis]
    /// The same for V; empty when there is no V.
    let values: [Axis]

    /// Nil when the text breaks a rule of docs/container-format.md, section 3.
    init?(_ text: some StringProtocol) {
        let halves = text.split(separator: "(", maxSplits: 1, omittingEmptySubsequences: false)
        guard let outer = Self.axes(halves[0]) else { return nil }
        if halves.count == 2 {
            let inner = halves[1].dropLast()
                .split(separator: "|", omittingEmptySubsequences: false).map { Self.axes($0) }
            guard halves[1].last == ")", outer.last == .kv, inner.count == 2, let keys = inner[0],
                let values = inner[1]
            else { return nil }
            self.keys = outer + keys
            self.values = outer + values
        } else {
            keys = outer
            values = outer.contains(.kv) ? outer : []
        }
        guard Self.isWhole(keys), values.isEmpty || Self.isWhole(values) else { return nil }
        guard keys.contains(.block) == values.contains(.block) || values.isEmpty else {
            return nil
        }
    }

    private static func axes(_ text: some StringProtocol) -> [Axis]? {
        let names = text.split(separator: ",", omittingEmptySubsequences: false)
        let axes = names.compactMap { Axis(rawValue: String($0)) }
        return axes.count == names.count ? axes : nil
    }

    /// Whether no axis is missing or there twice, and blocks are outside of their tokens.
    private static func isWhole(_ axes: [Axis]) -> Bool {
        guard Set(axes).count == axes.count, axes.contains(.layer), axes.contains(.channel),
            let token = axes.firstIndex(of: .token)
        else { return false }
        return axes.firstIndex(of: .block).map { $0 < token } ?? true
    }

    /// Whether heads have an axis of their own, in K and in V.
    var hasHeads: Bool {
        keys.contains(.head) && (values.isEmpty || values.contains(.head))
    }

    /// Whether layer and kind are the outermost axes, so that each layer's K and V is one run.
    var hasRunsOfSections: Bool {
        let count = values.isEmpty ? 1 : 2
        return [keys, values.isEmpty ? keys : values].allSatisfy { axes in
            Set(axes.prefix(count)) == (count == 1 ? [.layer] : [.layer, .kv])
        }
    }
}
