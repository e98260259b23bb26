// SPDX-License-Identifier: Apache-2.0
package import KVCore
package import Wire

/// What a chunk to be stored is called, and how long and how safely it is wanted. A value.
package struct ChunkLabel: Hashable, Sendable {
    package var key: ChunkKey
    package var layout: LayoutID
    /// Milliseconds from now until the chunk may be forgotten; 0: no such time.
    package var timeToLiveMilliseconds: UInt32
    /// When the chunk counts as stored; with `ssd`, what is not on stable storage is refused with
    /// `notDurable`, although it can be read.
    package var acknowledge: Acknowledge
    /// How the bytes are encoded; 0: raw, others: they are a container (docs/container-format.md).
    package var level: UInt8
    /// Place of the chunk's first token in its sequence; nil: not known.
    package var firstPosition: UInt32?

    /// A chunk of opaque raw bytes for ever, in memory, unless said otherwise.
    package init(
        key: ChunkKey, layout: LayoutID = .opaque, timeToLiveMilliseconds: UInt32 = 0,
        acknowledge: Acknowledge = .memory, level: UInt8 = 0, firstPosition: UInt32? = nil
    ) {
        self.key = key
        self.layout = layout
        self.timeToLiveMilliseconds = timeToLiveMilliseconds
        self.acknowledge = acknowledge
        self.level = level
        self.firstPosition = firstPosition
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
    /// Of the whole chunk.
    package let byteCount: Int
    /// How many bytes a GET brings: the range's, or else the chunk's.
    package let payloadByteCount: Int
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
    /// The part of every chunk that is wanted; nil: all of it. A chunk that does not have all of
    /// the range is missed with `limitExceeded`.
    package var range: ByteRange?
    /// How the bytes are to be encoded: 0 (raw) to `levelMax`, `GetRequest.adaptive`, or
    /// `GetRequest.asStored`. `FoundChunk.level` says how they are.
    package var level: UInt8

    /// Whole raw chunks of any layout, unless said otherwise.
    package init(layout: LayoutID? = nil, range: ByteRange? = nil, level: UInt8 = 0) {
        self.layout = layout
        self.range = range
        self.level = level
    }
}

/// A chunk in memory of its own.
package struct FetchedChunk: Sendable {
    package let outcome: GetOutcome
    /// The bytes, when the outcome is `found`.
    package let memory: OwnedBytes?
}

/// One fact that the daemon tells its operator.
package struct ControlFact: Hashable, Sendable {
    package let name: String
    package let text: String
}

/// One number that the daemon tells about itself; the name carries the unit.
package struct NodeStatistic: Hashable, Sendable {
    package let name: String
    package let value: UInt64
}

extension FoundChunk {
    /// From the body of an `ok` answer to GET, or STAT, of a chunk.
    static func decode(_ body: PinnedBytes) throws(WireFault) -> FoundChunk {
        try decode(body, range: nil)
    }

    /// From the body of an `ok` answer to GET; `range` is what was asked for.
    static func decode(
        _ body: PinnedBytes, range: ByteRange?
    ) throws(WireFault) -> FoundChunk {
        let answer = try ChunkAnswer.decode(body)
        var payloadByteCount = answer.chunkByteCount
        if let range {
            guard range.within(chunkByteCount: answer.chunkByteCount) != nil else {
                throw .badValue(offset: 16)
            }
            payloadByteCount = range.byteCount
        }
        return FoundChunk(
            index: Int(answer.index), level: answer.level, byteCount: Int(answer.chunkByteCount),
            payloadByteCount: Int(payloadByteCount), checksum: answer.checksum,
            layout: answer.layout,
            timeToLiveMilliseconds: timeToLive(answer.timeToLiveMilliseconds))
    }
}

/// Milliseconds on the wire, where all ones mean "for ever".
func timeToLive(_ milliseconds: UInt64) -> UInt64? {
    milliseconds == timeToLiveForever ? nil : milliseconds
}
