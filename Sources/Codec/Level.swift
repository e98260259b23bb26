// SPDX-License-Identifier: Apache-2.0

/// How good a chunk is to be kept; the number stands on the wire, on the SSD and in containers.
///
/// `raw` is the client's bytes; every other level is a container (docs/container-format.md).
package enum Level: UInt8, Hashable, Sendable, CaseIterable, Comparable {
    /// The client's bytes as they came.
    case raw = 0
    /// Packed as opaque bytes.
    case zstd = 1
    /// L0: packed as numbers, without loss.
    case lossless = 2
    /// Q1: nearly as good as the original.
    case fine = 3
    /// Q2: the default of the lossy levels.
    case standard = 4
    /// Q3: smaller and worse.
    case coarse = 5
    /// Q4: where nothing else fits.
    case coarsest = 6

    /// Whether the payload's own bytes come back.
    package var isExact: Bool { self <= .lossless }

    /// By decreasing quality and size.
    package static func < (left: Level, right: Level) -> Bool { left.rawValue < right.rawValue }
}
