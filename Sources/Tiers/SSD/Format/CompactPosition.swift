// SPDX-License-Identifier: Apache-2.0

/// Where in its sequence a chunk begins, as 16 bits of a record: in units of 16 tokens, plus one;
/// 0 when it is unknown, no multiple of 16, or beyond a million. A value.
package struct CompactPosition: Hashable, Sendable {
    package let rawValue: UInt16

    private static let tokenCountOfUnit: UInt32 = 16

    package static let unknown = CompactPosition(rawValue: 0)

    package init(rawValue: UInt16) { self.rawValue = rawValue }

    package init(_ position: UInt32?) {
        guard let position, position.isMultiple(of: Self.tokenCountOfUnit),
            let units = UInt16(exactly: position / Self.tokenCountOfUnit), units < .max
        else {
            self = .unknown
            return
        }
        rawValue = units + 1
    }

    /// In tokens; nil when unknown.
    package var position: UInt32? {
        rawValue == 0 ? nil : UInt32(rawValue - 1) * Self.tokenCountOfUnit
    }
}
