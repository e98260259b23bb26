// SPDX-License-Identifier: Apache-2.0
package import KVCore
internal import Kernels

/// The level `raw`: bytes stay as they are, and a checksum says whether they still are.
///
/// A raw chunk is checked piece by piece while it arrives, when its bytes are still in the cache.
package struct RawVerifier {
    private let checksum = StreamingChecksum()

    /// Allocates the checksum's state; reuse the value for many chunks.
    package init() {}

    /// Begins a new chunk.
    package func reset() {
        checksum.reset()
    }

    /// Adds the next bytes of the chunk.
    package func add(_ bytes: PinnedBytes) {
        checksum.add(bytes)
    }

    /// Whether all bytes added since `reset` have the checksum that their writer computed.
    package func matches(_ expected: UInt64) -> Bool {
        checksum.value == expected
    }
}
