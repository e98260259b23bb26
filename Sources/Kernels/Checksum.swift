// SPDX-License-Identifier: Apache-2.0
internal import CKernels
package import KVCore

/// XXH3-64 with seed 0 (xxHash specification, XXH3 section): the checksum of frames and chunks.
///
/// Any thread, no allocation.
package enum Checksum {
    /// The checksum of `bytes`.
    package static func of(_ bytes: PinnedBytes) -> UInt64 {
        // SAFETY: the run is valid for `count` bytes.
        unsafe ckernels_xxh3_64(bytes.start, bytes.count)
    }

    /// The checksum of `bytes`.
    package static func of(_ bytes: RawSpan) -> UInt64 {
        // SAFETY: the span is valid for the closure, and the kernel keeps no pointer.
        unsafe bytes.withUnsafeBytes { unsafe ckernels_xxh3_64($0.baseAddress, $0.count) }
    }

    /// The low half, which frames carry for their header and body.
    package static func short(_ bytes: RawSpan) -> UInt32 {
        UInt32(truncatingIfNeeded: of(bytes))
    }
}

/// A checksum over bytes that arrive in pieces. Confined to its owner; allocates once.
package final class StreamingChecksum {
    private let state = OwnedBytes(count: Int(CKERNELS_XXH3_STATE_BYTE_COUNT), alignment: 64)

    /// A checksum of nothing yet.
    package init() {
        reset()
    }

    /// Forgets all bytes.
    package func reset() {
        // SAFETY: the state has the size and alignment that the kernel asks for.
        unsafe ckernels_xxh3_reset(state.bytes.start)
    }

    /// Adds `bytes`.
    package func add(_ bytes: PinnedBytes) {
        // SAFETY: both areas are valid for their counts.
        unsafe ckernels_xxh3_update(state.bytes.start, bytes.start, bytes.count)
    }

    /// The checksum of all bytes added since `reset`.
    package var value: UInt64 {
        // SAFETY: as in `reset`.
        unsafe ckernels_xxh3_digest(state.bytes.start)
    }
}
