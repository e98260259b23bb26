// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// The patterns of SCAN: `*`, `?`, `[a-z]`, `[^a]`, and `\` before a byte that means itself.
///
/// Takes time by the product of both lengths at most: a star is tried again only until the next.
package enum RESPPattern {
    /// Whether all of `name` matches `pattern`.
    package static func matches(_ pattern: PinnedBytes, _ name: PinnedBytes) -> Bool {
        var (offset, index) = (0, 0)
        var star: (offset: Int, index: Int)?
        while index < name.count {
            if offset < pattern.count, pattern[offset] == UInt8(ascii: "*") {
                star = (offset, index)
                offset += 1
            } else if offset < pattern.count, let next = match(pattern, offset, name[index]) {
                offset = next
                index += 1
            } else if let last = star {
                star = (last.offset, last.index + 1)
                offset = last.offset + 1
                index = last.index + 1
            } else {
                return false
            }
        }
        while offset < pattern.count, pattern[offset] == UInt8(ascii: "*") { offset += 1 }
        return offset == pattern.count
    }

    /// Where the pattern goes on when the part at `offset` matches `byte`; nil when it does not.
    private static func match(_ pattern: PinnedBytes, _ offset: Int, _ byte: UInt8) -> Int? {
        switch pattern[offset] {
        case UInt8(ascii: "?"):
            return offset + 1
        case UInt8(ascii: "["):
            return matchClass(pattern, offset + 1, byte)
        case UInt8(ascii: "\\") where offset + 1 < pattern.count:
            return pattern[offset + 1] == byte ? offset + 2 : nil
        case let wanted:
            return wanted == byte ? offset + 1 : nil
        }
    }

    /// A class that nothing closes goes to the end of the pattern, as in Redis.
    private static func matchClass(_ pattern: PinnedBytes, _ first: Int, _ byte: UInt8) -> Int? {
        var offset = first
        let isNegated = offset < pattern.count && pattern[offset] == UInt8(ascii: "^")
        if isNegated { offset += 1 }
        var isFound = false
        while offset < pattern.count, pattern[offset] != UInt8(ascii: "]") {
            if pattern[offset] == UInt8(ascii: "\\"), offset + 1 < pattern.count { offset += 1 }
            let low = pattern[offset]
            var high = low
            if offset + 2 < pattern.count, pattern[offset + 1] == UInt8(ascii: "-") {
                high = pattern[offset + 2]
                offset += 2
            }
            isFound = isFound || (min(low, high)...max(low, high)).contains(byte)
            offset += 1
        }
        return isFound == isNegated ? nil : min(offset + 1, pattern.count)
    }
}
