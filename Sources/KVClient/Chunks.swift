// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// What a chunk to be stored is called, and for how long it is wanted. A value.
package struct ChunkLabel: Hashable, Sendable {
    package var key: ChunkKey
    package var layout: LayoutID
    /// Milliseconds from now until the chunk may be forgotten; 0: no such time.
    package var timeToLiveMilliseconds: UInt32

    /// A chunk of opaque bytes for ever, unless said otherwise.
    package init(
        key: ChunkKey, layout: LayoutID = .opaque, timeToLiveMilliseconds: UInt32 = 0
    ) {
        self.key = key
        self.layout = layout
        self.timeToLiveMilliseconds = timeToLiveMilliseconds
    }
}

/// How a chunk came to be stored.
package enum PutOutcome: Hashable, Sendable {
    /// These bytes are stored now.
    case stored
    /// The key was there already; these bytes were dropped.
    case exists
}

/// What the daemon says about a chunk that it has. A value.
package struct FoundChunk: Hashable, Sendable {
    /// Which of the request's keys.
    package let index: Int
    /// How the payload is encoded; 0: raw.
    package let level: UInt8
    package let byteCount: Int
    /// XXH3-64 of the payload.
    package let checksum: UInt64
    package let layout: LayoutID
    /// Nil: for ever.
    package let timeToLiveMilliseconds: UInt64?
}

/// What became of one key of a GET.
package enum GetOutcome: Hashable, Sendable {
    /// The bytes are where the caller wanted them, and match their checksum.
    case found(FoundChunk)
    /// Not there for this caller: `notFound`, `layoutMismatch`, `deadlineExceeded`, …
    case missed(Status)
    /// The bytes arrived and do not match their checksum: not to be used.
    case damaged(FoundChunk)
    /// The caller gave no room, so the bytes were dropped.
    case skipped(FoundChunk)
}

/// What a GET asks for beside keys. A value.
package struct GetOptions: Hashable, Sendable {
    /// Only chunks of this layout count as found; nil: any layout.
    package var layout: LayoutID?
    /// Raw bytes, whatever the store keeps; otherwise as stored.
    package var decodes: Bool

    /// Chunks of any layout, as stored, unless said otherwise.
    package init(layout: LayoutID? = nil, decodes: Bool = false) {
        self.layout = layout
        self.decodes = decodes
    }
}

/// A chunk in memory of its own.
package struct FetchedChunk: Sendable {
    package let outcome: GetOutcome
    /// The bytes, when the outcome is `found`.
    package let memory: OwnedBytes?
}

/// How LOOKUP goes over its keys.
package enum LookupMode: UInt8, Hashable, Sendable {
    /// Every key.
    case each = 0
    /// The longest prefix: stops at the first key that is absent.
    case prefix = 1
}

/// Where a chunk was found.
package enum TierName: UInt8, Hashable, Sendable {
    case memory = 1
    case flash = 2
    case peer = 3
}

/// What LOOKUP says about one key. A value.
package struct LookupRecord: Hashable, Sendable {
    package let status: Status
    /// Nil when absent, or when this client does not know the tier.
    package let tier: TierName?
    package let level: UInt8
    package let loadMicroseconds: UInt32
    package let byteCount: UInt64
    /// Nil: for ever, or absent.
    package let timeToLiveMilliseconds: UInt64?
}

/// The answer to LOOKUP. A value.
package struct LookupAnswer: Hashable, Sendable {
    /// How many leading keys are present.
    package let prefixCount: Int
    /// One record per key, or per key of the prefix.
    package let records: [LookupRecord]
}

/// One number that the daemon tells about itself; the name carries the unit.
package struct NodeStatistic: Hashable, Sendable {
    package let name: String
    package let value: UInt64
}

/// Milliseconds on the wire, where all ones mean "for ever".
func timeToLive(_ milliseconds: UInt64) -> UInt64? {
    milliseconds == .max ? nil : milliseconds
}
