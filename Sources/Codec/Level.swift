// SPDX-License-Identifier: Apache-2.0

/// How a chunk is encoded; the number stands on the wire and, later, on the SSD.
package enum Level: UInt8, Hashable, Sendable {
    /// The client's bytes as they came.
    case raw = 0
}
