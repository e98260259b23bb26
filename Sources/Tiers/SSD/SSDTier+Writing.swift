// SPDX-License-Identifier: Apache-2.0
internal import Codec
internal import KVCore
internal import Synchronization

/// What the store tells the tier while it writes.
extension SSDTier {
    // MARK: Chunks

    enum Presence {
        case absent
        /// Its record is being written.
        case onItsWay
        /// Its record is whole, perhaps not durable.
        case there
    }

    /// Whether a chunk is on SSD to stay.
    func presence(of name: ChunkName, now: Instant) -> Presence {
        let wall = wallMilliseconds(now)
        return state.withLock { state in
            guard let row = state.index.find(name.namespace, name.key, state.bindings),
                !state.isErasing(row), !state.isExpired(row, wall)
            else { return .absent }
            return switch state.index[row].state {
            case .placed: .onItsWay
            case .readable: .there
            case .bad, .failed, .unused: .absent
            }
        }
    }

    enum Placement {
        /// Write the record with this sequence number.
        case placed(sequence: UInt64)
        /// The chunk is on SSD already, or on its way.
        case present
        /// It was deleted meanwhile.
        case gone
        /// The index has no room.
        case full
    }

    /// Enters a chunk whose record is about to be written at `place`, unless it is no longer in
    /// memory for all to find: a deletion that has been there comes here next.
    func place(
        _ chunk: SSDChunk, at place: SSDPlace, now: Instant, ifStill isFindable: () -> Bool
    ) -> Placement {
        let wall = wallMilliseconds(now)
        return state.withLock { state in
            guard isFindable() else { return .gone }
            if let row = state.index.find(chunk.namespace, chunk.key, state.bindings) {
                let isBad = state.index[row].state.isAbsent
                guard isBad || state.isExpired(row, wall) || state.isErasing(row) else {
                    return .present
                }
                // What a bad record left must not come back once the new one is reclaimed. Not so
                // for a good one: the note might be durable before the new record is.
                guard !isBad || state.enqueue(.delete, chunk.name) != nil else { return .full }
                if state.isErasing(row) {
                    state.segments[Int(state.index[row].segment)].hasUnindexedRecords = true
                }
                state.drop(row)
            }
            guard state.add(chunk, at: place, .placed) != nil else { return .full }
            return .placed(sequence: state.takeSequence())
        }
    }

    /// The record at `place` is whole on the disk, perhaps not durable.
    func settle(_ chunk: SSDChunk, at place: SSDPlace, blockCount: Int) {
        state.withLock { state in
            state.statistics.recordCount += 1
            state.statistics.payloadWrittenByteCount += chunk.byteCount
            state.statistics.writtenByteCount += blockCount * SSDFormat.blockByteCount
            // Not after a deletion that could not be noted.
            if let row = state.row(of: chunk.name, at: place), state.index[row].state == .placed {
                state.index[row].state = .readable
            }
        }
    }

    /// The record at `place` could not be written, at least not with certainty.
    func fail(_ name: ChunkName, at place: SSDPlace) {
        state.withLock { state in
            state.statistics.skippedCount += 1
            if let row = state.row(of: name, at: place) { state.index[row].state = .failed }
        }
    }

    /// A sequence number for a second record of the chunk at `place`; nil when it is gone.
    func beginMove(of name: ChunkName, from place: SSDPlace) -> UInt64? {
        state.withLock { state in
            guard let row = state.row(of: name, at: place), state.index[row].state == .readable
            else { return nil }
            return state.takeSequence()
        }
    }

    /// The second record is whole: readers go there.
    func endMove(of name: ChunkName, from old: SSDPlace, to new: SSDPlace, blockCount: Int) {
        state.withLock { state in
            state.statistics.reinsertionCount += 1
            state.statistics.writtenByteCount += blockCount * SSDFormat.blockByteCount
            state.segments[Int(old.segment)].hasMovedChunks = true
            if let row = state.row(of: name, at: old) {
                state.move(row, to: new)
                state.index[row].useCount = 0
            }
        }
    }

    /// The second record may not be durable: the first one holds again.
    func moveBack(_ name: ChunkName, from new: SSDPlace, to old: SSDPlace) {
        state.withLock { state in
            if let row = state.row(of: name, at: new) { state.move(row, to: old) }
        }
    }

    // MARK: Notes

    /// Takes the oldest waiting notes that follow one another, at most as many as fit a record.
    func takeNotes() -> [PendingNote] {
        state.withLock { state in
            var count = 0
            while count < min(state.notes.count, RecordHeader.noteCountMax),
                state.notes[count].sequence == state.notes[0].sequence + UInt64(count)
            {
                count += 1
            }
            let taken = Array(state.notes.prefix(count))
            state.notes.removeFirst(count)
            return taken
        }
    }

    var hasNotes: Bool { state.withLock { !$0.notes.isEmpty } }

    /// The notes are durable.
    func settle(notes: [PendingNote]) {
        state.withLock { state in
            for note in notes { state.settle(note: note.sequence) }
        }
    }

    /// The notes were written, perhaps not durably.
    func countNotesRecord() {
        state.withLock { $0.statistics.writtenByteCount += SSDFormat.blockByteCount }
    }

    /// The notes could not be written: they wait again.
    func putBack(notes: [PendingNote]) {
        state.withLock { state in
            state.notes.append(contentsOf: notes)
            state.notes.sort { $0.sequence < $1.sequence }
        }
    }

    /// The deletions that are not durable yet.
    func unsettledDeletions() -> [UInt64] {
        state.withLock { $0.unsettledDeletions.values.sorted() }
    }

    func isSettled(note sequence: UInt64) -> Bool {
        state.withLock { $0.unsettledNotes[sequence] == nil }
    }

    /// Queues a note of a segment that is to be erased again if it is still needed, with the
    /// sequence number that it had: a newer record of its key is not its business.
    /// - Returns: the number to wait for.
    func renew(_ entry: FooterEntry, of segment: Int) -> UInt64? {
        state.withLock { state in
            guard let namespace = state.namespaces.namespace(tagged: entry.namespace) else {
                return nil
            }
            let pin = state.pins[ChunkName(namespace, entry.key)]
            let isWanted =
                entry.kind == .pin && pin != nil
                // A pin that a checkpoint told of has not its note's number.
                ? pin?.sequence == entry.sequence || pin?.until == entry.expiry
                : (entry.kind == .delete || entry.expiry == 0)
                    && state.mayHoldOlderRecords(than: entry.sequence, besides: segment)
            guard isWanted else { return nil }
            // It waits since an attempt before this one, perhaps because there is no room.
            guard state.unsettledNotes[entry.sequence] == nil else { return entry.sequence }
            let note = NoteRecord(
                kind: entry.kind == .delete ? .delete : .pin, until: entry.expiry,
                namespace: entry.namespace, key: entry.key)
            state.wait(
                for: PendingNote(sequence: entry.sequence, note: note),
                ChunkName(namespace, entry.key))
            return entry.sequence
        }
    }

    // MARK: Segments

    /// Takes a segment into the table; nil when there are too many.
    func addSegment(_ segment: SSDSegment) -> Int? {
        state.withLock { state in
            guard state.segments.count <= Int(UInt16.max) else { return nil }
            state.segments.append(segment)
            return state.segments.count - 1
        }
    }

    /// Opens a free segment of `directory` for writing; nil when there is none.
    func openSegment(directory: Int, nonce: UInt64) -> (slot: Int, SSDSegment)? {
        state.withLock { state in
            guard
                let slot = state.segments.firstIndex(where: {
                    $0.directory == directory && $0.state == .free
                })
            else { return nil }
            state.segments[slot].state = .open
            state.segments[slot].serial = state.nextSerial
            state.segments[slot].nonce = nonce
            state.segments[slot].firstSequence = state.nextSequence
            state.nextSerial += 1
            return (slot, state.segments[slot])
        }
    }

    /// An open segment takes no more records; all have sequence numbers below `nextSequence`.
    func closeSegment(_ slot: Int, nextSequence: UInt64, hasFooter: Bool) {
        state.withLock { state in
            state.segments[slot].state = .sealed
            state.segments[slot].lacksFooter = !hasFooter
            state.segments[slot].nextSequence = nextSequence
        }
    }

    /// A sealed segment takes records again; false when it is no longer sealed.
    func reopenSegment(_ slot: Int) -> Bool {
        state.withLock { state in
            guard state.segments[slot].state == .sealed else { return false }
            state.segments[slot].state = .open
            return true
        }
    }

    /// A segment that takes no more records has no footer, or may have lost it.
    func noteFooterIsLacking(_ slot: Int) {
        state.withLock { $0.segments[slot].lacksFooter = true }
    }

    /// A segment that was to be erased stays: the records of chunks that were moved out of it
    /// remain, whatever becomes of those elsewhere.
    func noteUnindexedRecords(_ slot: Int) {
        state.withLock { state in
            if state.segments[slot].hasMovedChunks {
                state.segments[slot].hasUnindexedRecords = true
            }
        }
    }

    func setState(of slot: Int, to new: SSDSegment.State) {
        state.withLock { state in
            state.segments[slot].state = new
            guard new == .free else { return }
            state.segments[slot].hasMovedChunks = false
            state.segments[slot].hasUnindexedRecords = false
            state.segments[slot].lacksFooter = false
        }
    }

    func segment(_ slot: Int) -> SSDSegment { state.withLock { $0.segments[slot] } }

    /// The sealed segments of `directory`, in the order in which they were opened.
    func sealedSegments(directory: Int) -> [Int] {
        state.withLock { state in
            state.segments.indices.filter {
                state.segments[$0].directory == directory && state.segments[$0].state == .sealed
            }.sorted { state.segments[$0].serial < state.segments[$1].serial }
        }
    }

    /// Blocks of the records that the index has in a directory.
    func liveBlockCount(directory: Int) -> Int {
        state.withLock { state in
            state.segments.reduce(0) {
                $1.directory == directory ? $0 + $1.liveBlockCount : $0
            }
        }
    }

    func freeSegmentCount(directory: Int) -> Int {
        state.withLock { state in
            state.segments.count { $0.directory == directory && $0.state == .free }
        }
    }

    /// What reclaim is to do with a chunk of a segment that is to be erased.
    enum Fate {
        /// Not in the index, or its record is elsewhere.
        case dead
        /// It was read, or is pinned: write it again.
        case worthKeeping(isPinned: Bool)
        case worthless
    }

    func fate(of name: ChunkName, at place: SSDPlace, wallMilliseconds: UInt64) -> Fate {
        state.withLock { state in
            guard let row = state.row(of: name, at: place), state.index[row].state == .readable
            else { return .dead }
            if state.isExpired(row, wallMilliseconds) { return .dead }
            if let pin = state.pins[name], pin.until > wallMilliseconds {
                return .worthKeeping(isPinned: true)
            }
            return state.index[row].useCount > 0 ? .worthKeeping(isPinned: false) : .worthless
        }
    }

    /// Takes those of a segment's chunks from readers that are to be dropped with it: from now on
    /// nobody is told that they are there, and nobody can pin them.
    /// - Returns: false when the segment holds a chunk that must stay: one that was pinned
    ///   meanwhile, or was moved and is back, since where it went is not durable.
    func evict(
        _ entries: ArraySlice<FooterEntry>, of segment: Int, _ dropped: Set<UInt32>,
        wallMilliseconds: UInt64
    ) -> Bool {
        state.withLock { state in
            for entry in entries where entry.kind == .chunk {
                guard let namespace = state.namespaces.namespace(tagged: entry.namespace) else {
                    continue
                }
                let name = ChunkName(namespace, entry.key)
                let place = SSDPlace(segment: UInt16(segment), block: UInt16(entry.block))
                guard let row = state.row(of: name, at: place),
                    state.index[row].state == .readable, !state.isExpired(row, wallMilliseconds)
                else { continue }
                guard dropped.contains(entry.block),
                    (state.pins[name]?.until ?? 0) <= wallMilliseconds
                else { return false }
                state.index[row].state = .bad
                state.statistics.evictionCount += 1
            }
            return true
        }
    }

    /// Forgets the chunks among `rows` whose records lie in `segment`, which is erased.
    /// - Returns: where to go on; nil at the end.
    func dropEntries(of segment: Int, fromRow first: Int, rowCount: Int) -> Int? {
        state.withLock { state in
            guard state.segments[segment].liveCount > 0 else { return nil }
            let end = min(first + rowCount, state.index.rowCount)
            for row in first..<end {
                let entry = state.index[UInt32(row)]
                guard entry.state != .unused, Int(entry.segment) == segment else { continue }
                if entry.state == .readable { state.statistics.evictionCount += 1 }
                state.drop(UInt32(row))
            }
            return end < state.index.rowCount ? end : nil
        }
    }

    /// Forgets one chunk of an erased segment.
    /// - Returns: whether the index had it there.
    func dropEntry(_ name: ChunkName, at place: SSDPlace) -> Bool {
        state.withLock { state in
            guard let row = state.row(of: name, at: place) else { return false }
            if state.index[row].state == .readable { state.statistics.evictionCount += 1 }
            state.drop(row)
            return true
        }
    }

    /// Whether the index has room for no more.
    var isIndexFull: Bool { state.withLock { $0.index.isFull } }

    /// Ends pins whose time is over.
    func endPins(by wallMilliseconds: UInt64) {
        state.withLock { state in
            guard !state.pins.isEmpty else { return }
            state.pins = state.pins.filter { $0.value.until > wallMilliseconds }
        }
    }

    func namespace(tagged tag: SSDTag) -> NamespaceID? {
        state.withLock { $0.namespaces.namespace(tagged: tag) }
    }

    func tag(of namespace: NamespaceID) -> SSDTag {
        state.withLock { $0.namespaces.tag(of: namespace) }
    }

    /// Changes the counters.
    func count(_ change: (inout Statistics) -> Void) {
        state.withLock { change(&$0.statistics) }
    }
}

extension SSDState {
    func isExpired(_ row: UInt32, _ wallMilliseconds: UInt64) -> Bool {
        let expiry = index[row].expiryMilliseconds
        return expiry != 0 && expiry <= wallMilliseconds
    }

    /// Whether the entry's segment is about to be erased, so that it must not be relied upon.
    func isErasing(_ row: UInt32) -> Bool {
        let segment = segments[Int(index[row].segment)].state
        return segment == .erasing || segment == .stuck
    }

    /// Whether a chunk's record is in such a segment.
    func isLeaving(_ name: ChunkName) -> Bool {
        guard let row = index.find(name.namespace, name.key, bindings) else { return false }
        return isErasing(row)
    }
}
