// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// What the tier knows of one segment. A value.
package struct SSDSegment: Hashable, Sendable {
    package enum State: UInt8, Sendable {
        /// Empty; may be opened.
        case free
        /// Records are appended.
        case open
        /// Complete; with a footer unless that could not be written.
        case sealed
        /// Its chunks are gone or moved, and its header is about to say so. Not to be relied upon.
        case erasing
        /// Its header could not be written: it holds what it held, and counts as in use.
        case stuck
        /// It could not be read, at the start or when it was to be reclaimed: what it holds counts,
        /// and some of it may be out of reach in this run.
        case unknown
        /// Its file is gone.
        case removed
    }

    /// Number of the directory in the configuration's order.
    package let directory: Int
    /// The number in its file's name.
    package let fileSlot: UInt32
    package var state: State
    package var serial: UInt64
    package var nonce: UInt64
    package var firstSequence: UInt64
    /// Greater than every sequence number in it; meaningful when it takes no more records.
    package var nextSequence: UInt64
    /// Chunks of this segment were written once more elsewhere, so that it can be erased.
    package var hasMovedChunks = false
    /// Chunks of this segment have another record elsewhere, which is the one that the index names:
    /// they were moved, or stored again, before it could not be erased. When the other record is
    /// gone, this one counts again at the next start.
    package var hasUnindexedRecords = false
    /// It takes no more records and has no footer that counts: a start finds by reading all of it
    /// what of its records, also of those whose write failed, is whole.
    package var lacksFooter = false
    /// Chunks that the index has here, and their bytes.
    package var liveCount = 0
    package var liveByteCount = 0
    /// Blocks of their records.
    package var liveBlockCount = 0

    package init(directory: Int, fileSlot: UInt32, state: State) {
        self.directory = directory
        self.fileSlot = fileSlot
        self.state = state
        serial = 0
        nonce = 0
        firstSequence = 0
        nextSequence = 0
    }

    /// Whether the index does not tell all that a start finds here.
    var mustBeRead: Bool { hasUnindexedRecords || lacksFooter }

    /// What a checkpoint that lists the chunks of complete segments spares the next start.
    enum Coverage {
        /// Nothing: the segment must be read.
        case none
        /// Its chunks; its notes may bear on chunks that are found by reading.
        case chunks
        /// All of it.
        case all
    }

    /// How far a checkpoint covers the segments.
    ///
    /// Chunks in open segments are found by reading these. So the notes about them must be read as
    /// well, which may lie in any segment that has later numbers. When a directory is missing,
    /// nothing is known of the chunks that may come back with it.
    static func coverage(_ segments: [SSDSegment], isDirectoryMissing: Bool) -> [Coverage] {
        let unread = segments.filter {
            $0.state == .open || $0.state == .unknown || $0.mustBeRead
        }
        // No chunk that is found by reading has a smaller number.
        let horizon = isDirectoryMissing ? 0 : unread.map(\.firstSequence).min() ?? .max
        return segments.map { segment in
            switch segment.state {
            case _ where segment.mustBeRead: .none
            case .sealed, .erasing, .stuck: segment.nextSequence <= horizon ? .all : .chunks
            case .free, .open, .unknown, .removed: .none
            }
        }
    }
}

/// A deletion or a pin that waits to be written. A value.
struct PendingNote: Hashable, Sendable {
    let sequence: UInt64
    let note: NoteRecord
}

/// A pin. A value.
struct SSDPin: Hashable, Sendable {
    /// Wall time of its end, milliseconds since 1970.
    var until: UInt64
    /// Of the note that says so.
    var sequence: UInt64
}

/// A chunk's name. A value.
package struct ChunkName: Hashable, Sendable {
    package let namespace: NamespaceID
    package let key: ChunkKey

    package init(_ namespace: NamespaceID, _ key: ChunkKey) {
        self.namespace = namespace
        self.key = key
    }
}
