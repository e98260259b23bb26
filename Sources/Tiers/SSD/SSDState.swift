// SPDX-License-Identifier: Apache-2.0
package import Codec
package import KVCore

/// All that the lock of an `SSDTier` guards.
///
/// The rules that keep deletions final (docs/ssd-format.md, "Recovery"):
/// - an entry leaves the index only with a delete note of a higher sequence number, with its
///   expiry, with the durable erasure of its segment, or for a newer record of its key;
/// - a sequence number is given under the lock, so the order of numbers is the order of events.
struct SSDState: ~Copyable {
    var index: SSDIndex
    var bindings = SSDBindings()
    var namespaces: SSDNamespaces
    var segments: [SSDSegment] = []
    var nextSequence: UInt64 = 1
    var nextSerial: UInt64 = 1
    /// Notes not yet taken by a writer, oldest first.
    var notes: [PendingNote] = []
    /// The notes that are not durable yet, and whose they are.
    var unsettledNotes: [UInt64: ChunkName] = [:]
    /// The last deletion of a chunk among them.
    var unsettledDeletions: [ChunkName: UInt64] = [:]
    var pins: [ChunkName: SSDPin] = [:]
    /// A directory that is configured and out of reach: its records may come back one day.
    var isDirectoryMissing = false
    /// Records were found at the start for which the index has no row.
    var hasUnindexedRecords = false
    var statistics = SSDTier.Statistics()

    /// Notes that may wait: half a MiB a directory that stands still.
    static let noteCountMax = 65_536

    // MARK: Finding

    /// The row of a chunk that may be read.
    mutating func findReadable(
        _ namespace: NamespaceID, _ key: ChunkKey, wallMilliseconds: UInt64
    ) -> UInt32? {
        guard let row = index.find(namespace, key, bindings), index[row].state == .readable else {
            return nil
        }
        guard !isExpired(row, wallMilliseconds) else {
            drop(row)
            statistics.expirationCount += 1
            return nil
        }
        return row
    }

    // MARK: Changing

    /// Takes an entry out of the index.
    mutating func drop(_ row: UInt32) {
        let entry = index[row]
        let byteCount = Int(entry.byteCount)
        countLive(-1, in: Int(entry.segment), byteCount: byteCount)
        statistics.chunkCount -= 1
        statistics.chunkByteCount -= byteCount
        index.remove(row, bindings)
        bindings.subtract(entry.binding, byteCount: byteCount)
    }

    /// Puts an entry into the index; false when there is no room for it.
    mutating func add(
        _ chunk: SSDChunk, at place: SSDPlace, _ state: SSDEntry.State
    ) -> UInt32? {
        guard !index.isFull, let number = bindings.number(of: chunk.binding) else { return nil }
        let entry = SSDEntry(
            key: chunk.key, checksum: chunk.checksum,
            expiry: chunk.expiry, byteCount: chunk.byteCount, place: place, binding: number,
            state: state)
        let row = index.insert(entry, of: chunk.namespace)
        bindings.add(number, byteCount: chunk.byteCount)
        countLive(1, in: Int(place.segment), byteCount: chunk.byteCount)
        statistics.chunkCount += 1
        statistics.chunkByteCount += chunk.byteCount
        return row
    }

    /// Moves an entry to another record of the same chunk.
    mutating func move(_ row: UInt32, to place: SSDPlace) {
        let byteCount = Int(index[row].byteCount)
        countLive(-1, in: Int(index[row].segment), byteCount: byteCount)
        countLive(1, in: Int(place.segment), byteCount: byteCount)
        index[row].place = place
    }

    /// Counts a chunk in or out.
    private mutating func countLive(_ sign: Int, in segment: Int, byteCount: Int) {
        segments[segment].liveCount += sign
        segments[segment].liveByteCount += sign * byteCount
        segments[segment].liveBlockCount += sign * (1 + SSDFormat.blockCount(byteCount))
    }

    mutating func takeSequence() -> UInt64 {
        defer { nextSequence += 1 }
        return nextSequence
    }

    /// Queues a note; nil when too many wait.
    mutating func enqueue(
        _ kind: NoteRecord.Kind, _ name: ChunkName, until: UInt64 = 0
    ) -> UInt64? {
        guard unsettledNotes.count < Self.noteCountMax else { return nil }
        let sequence = takeSequence()
        let note = NoteRecord(
            kind: kind, until: until, namespace: namespaces.tag(of: name.namespace), key: name.key)
        wait(for: PendingNote(sequence: sequence, note: note), name)
        return sequence
    }

    /// Puts a note into the queue.
    mutating func wait(for note: PendingNote, _ name: ChunkName) {
        notes.append(note)
        unsettledNotes[note.sequence] = name
        // An older note that is written once more settles nothing about a later one.
        if note.note.kind == .delete {
            unsettledDeletions[name] = max(unsettledDeletions[name] ?? 0, note.sequence)
        }
    }

    /// A note is durable.
    mutating func settle(note sequence: UInt64) {
        guard let name = unsettledNotes.removeValue(forKey: sequence) else { return }
        if unsettledDeletions[name] == sequence { unsettledDeletions[name] = nil }
    }

    // MARK: What old notes are still for

    /// Whether a record older than `sequence` may lie in a segment other than `segment`.
    func mayHoldOlderRecords(than sequence: UInt64, besides segment: Int) -> Bool {
        if isDirectoryMissing { return true }
        return segments.indices.contains { other in
            other != segment && segments[other].state != .free
                && segments[other].state != .removed
                && segments[other].firstSequence < sequence
        }
    }

    /// Whether something on the disks may hold a chunk that the index does not know.
    var mayHoldUnknownRecords: Bool {
        isDirectoryMissing || hasUnindexedRecords
            || segments.contains {
                $0.state == .stuck || $0.state == .unknown || $0.hasUnindexedRecords
            }
    }
}

/// A chunk as the SSD tier names it. A value.
package struct SSDChunk: Hashable, Sendable {
    package let namespace: NamespaceID
    package let key: ChunkKey
    package let layout: LayoutID
    package let level: Level
    package let position: CompactPosition
    package let byteCount: Int
    package let checksum: UInt64
    /// Wall time in milliseconds since 1970; 0: never.
    package let expiry: UInt64

    package init(
        namespace: NamespaceID, key: ChunkKey, layout: LayoutID, level: Level,
        position: CompactPosition = .unknown, byteCount: Int, checksum: UInt64, expiry: UInt64
    ) {
        self.namespace = namespace
        self.key = key
        self.layout = layout
        self.level = level
        self.position = position
        self.byteCount = byteCount
        self.checksum = checksum
        self.expiry = expiry
    }

    package var name: ChunkName { ChunkName(namespace, key) }

    var binding: SSDBinding {
        SSDBinding(namespace: namespace, layout: layout, level: level, position: position)
    }
}
