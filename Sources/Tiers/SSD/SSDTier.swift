// SPDX-License-Identifier: Apache-2.0
internal import Codec
package import KVCore
internal import Synchronization

/// Which chunks lie on SSD, and where: the part of the SSD tier that every thread may ask.
///
/// Each call is a short section under one leaf lock and does no I/O. Reading is done by an
/// `SSDReader` on the thread that wants the chunk, writing and everything else that touches the
/// disk by the `SSDStore` on a thread of its own. Never looks at the clock.
package final class SSDTier: Sendable {
    /// What it is told at its start. A value.
    package struct Configuration: Sendable {
        /// Tags of the namespaces, in the order that numbers them.
        package var namespaces: [SSDTag]
        /// Chunks that the index has room for.
        package var entryCountMax: Int
        /// Wall time minus monotonic time, in milliseconds.
        package var wallOffsetMilliseconds: Int64
        /// Bytes that pinned chunks may take together.
        package var pinnedByteCountMax: Int

        package init(
            namespaces: [SSDTag], entryCountMax: Int, wallOffsetMilliseconds: Int64,
            pinnedByteCountMax: Int = .max
        ) {
            self.namespaces = namespaces
            self.entryCountMax = entryCountMax
            self.wallOffsetMilliseconds = wallOffsetMilliseconds
            self.pinnedByteCountMax = pinnedByteCountMax
        }
    }

    /// Counts since the start, and what is there now. A value.
    package struct Statistics: Hashable, Sendable {
        package var chunkCount = 0
        package var chunkByteCount = 0
        package var pinCount = 0
        package var expirationCount = 0
        /// Chunks that reclaim dropped while they could still be read.
        package var evictionCount = 0
        /// Chunks that reclaim wrote again.
        package var reinsertionCount = 0
        package var recordCount = 0
        /// Bytes of chunks that were written for the first time.
        package var payloadWrittenByteCount = 0
        /// All bytes written: headers, padding, footers, chunks that moved, checkpoints.
        package var writtenByteCount = 0
        package var readByteCount = 0
        package var readFaultCount = 0
        package var writeFaultCount = 0
        package var checksumMismatchCount = 0
        package var scrubbedByteCount = 0
        /// Chunks that were to be written and were not: no room, or a fault.
        package var skippedCount = 0
        package var segmentCount = 0
        package var freeSegmentCount = 0
        package var failedDirectoryCount = 0
        /// Files with a segment's name that were left alone.
        package var foreignFileCount = 0
        package var notesWaitingCount = 0
    }

    package let configuration: Configuration
    let state: Mutex<SSDState>

    /// An empty tier. `seed` is random bits.
    package init(_ configuration: Configuration, seed: UInt64) {
        self.configuration = configuration
        state = Mutex(
            SSDState(
                index: SSDIndex(entryCountMax: configuration.entryCountMax, seed: seed),
                namespaces: SSDNamespaces(tags: configuration.namespaces)))
    }

    /// Memory of an index for `entryCountMax` chunks.
    package static func indexByteCount(entryCountMax: Int) -> Int {
        entryCountMax * SSDIndex.byteCountPerEntry
    }

    // MARK: Time

    /// Wall time of a monotonic instant, milliseconds since 1970.
    package func wallMilliseconds(_ now: Instant) -> UInt64 {
        UInt64(
            max(1, Int64(now.nanoseconds / 1_000_000) + configuration.wallOffsetMilliseconds))
    }

    /// The form of an expiry that records keep.
    package func wallExpiry(_ expiry: Instant) -> UInt64 {
        expiry == .distantFuture ? 0 : wallMilliseconds(expiry)
    }

    private func instant(wallExpiry: UInt64) -> Instant {
        guard wallExpiry != 0 else { return .distantFuture }
        let milliseconds = Int64(wallExpiry) - configuration.wallOffsetMilliseconds
        return Instant(nanoseconds: UInt64(max(0, milliseconds)) * 1_000_000)
    }

    // MARK: Reading

    /// A chunk that may be read, and where. A value.
    package struct Located: Hashable, Sendable {
        package let place: SSDPlace
        package let description: ChunkDescription
    }

    /// Where a chunk lies; nil when it is absent or has expired.
    package func locate(
        _ namespace: NamespaceID, _ key: ChunkKey, now: Instant, asUse: RAMTier.Use
    ) -> Located? {
        let wall = wallMilliseconds(now)
        return state.withLock { state -> Located? in
            guard let row = state.findReadable(namespace, key, wallMilliseconds: wall) else {
                return nil
            }
            if asUse != .doesNotCount { state.index[row].useCount += 1 }
            let entry = state.index[row]
            let binding = state.bindings[entry.binding]
            return Located(
                place: entry.place,
                description: ChunkDescription(
                    byteCount: Int(entry.byteCount), checksum: entry.checksum,
                    layout: binding.layout, level: binding.level,
                    expiry: instant(wallExpiry: entry.expiryMilliseconds),
                    firstPosition: binding.position.position))
        }
    }

    /// The size of a chunk; 0 when it is absent.
    package func byteCount(of name: ChunkName) -> Int {
        state.withLock { state in
            state.index.find(name.namespace, name.key, state.bindings).map {
                Int(state.index[$0].byteCount)
            } ?? 0
        }
    }

    /// Whether the chunk is on SSD or on its way there.
    package func holds(_ namespace: NamespaceID, _ key: ChunkKey, now: Instant) -> Bool {
        let wall = wallMilliseconds(now)
        return state.withLock { state in
            guard let row = state.index.find(namespace, key, state.bindings) else { return false }
            return !state.index[row].state.isAbsent && !state.isExpired(row, wall)
        }
    }

    /// Whether a chunk that was read from `place` is still there, so that what was read counts.
    package func isAt(_ place: SSDPlace, _ name: ChunkName) -> Bool {
        state.withLock { $0.row(of: name, at: place) != nil }
    }

    /// Makes a chunk that was read visible in memory, and holds it there, unless it was deleted or
    /// moved meanwhile: then it must not come back. Nil then, or when another reader was first.
    func commit(
        _ reservation: consuming Reservation, _ name: ChunkName, readFrom located: Located,
        _ origin: ChunkOrigin
    ) -> Hold? {
        var reservation: Reservation? = consume reservation
        return state.withLock { state in
            guard state.row(of: name, at: located.place) != nil else { return nil }
            // The memory's lock within ours: a deletion looks there once more after here.
            return reservation.take()?.commitHeld(
                checksum: located.description.checksum, from: origin)
        }
    }

    /// Keeps readers from the record at `place`, which is damaged.
    package func condemn(_ place: SSDPlace, _ name: ChunkName) {
        state.withLock { state in
            guard let row = state.row(of: name, at: place) else { return }
            state.index[row].state = .bad
            state.statistics.checksumMismatchCount += 1
        }
    }

    /// Counts what a reader did.
    package func noteRead(byteCount: Int, faulted: Bool) {
        state.withLock { state in
            if faulted { state.statistics.readFaultCount += 1 }
            state.statistics.readByteCount += byteCount
        }
    }

    // MARK: Removing and pinning

    /// The outcome of a removal or a pin.
    package enum NoteOutcome: Hashable, Sendable {
        /// Nothing has to be written.
        case nothing
        /// Durable once the note of this sequence number is.
        case noted(UInt64)
        /// Too many notes wait: not durable.
        case refused
    }

    /// Makes a chunk unfindable. `found`: whether a reader could have found it.
    package func remove(
        _ namespace: NamespaceID, _ key: ChunkKey, now: Instant
    ) -> (found: Bool, NoteOutcome) {
        let wall = wallMilliseconds(now)
        return state.withLock { $0.remove(ChunkName(namespace, key), wallMilliseconds: wall) }
    }

    /// Keeps a chunk from being reclaimed until `end`; in the past: no longer. Refused while its
    /// segment is being emptied, which may have passed it by.
    package func pin(_ name: ChunkName, until end: Instant, now: Instant) -> NoteOutcome {
        let until = end <= now ? 0 : wallMilliseconds(end)
        return state.withLock { state in
            if until == 0, state.pins[name] == nil { return .nothing }
            if until != 0, state.isLeaving(name) { return .refused }
            guard let sequence = state.enqueue(.pin, name, until: until) else { return .refused }
            state.pins[name] = until == 0 ? nil : SSDPin(until: until, sequence: sequence)
            return .noted(sequence)
        }
    }

    /// Whether a chunk of `byteCount` bytes may be pinned beside the others: not too many chunks,
    /// not too much of the capacity, and not while its segment is being emptied. Takes time by the
    /// number of pins.
    package func mayPin(_ wanted: ChunkName, byteCount: Int) -> Bool {
        state.withLock { state in
            guard state.pins.count < SSDState.noteCountMax, !state.isLeaving(wanted) else {
                return false
            }
            var sum = byteCount
            for name in state.pins.keys where name != wanted {
                if let row = state.index.find(name.namespace, name.key, state.bindings) {
                    sum += Int(state.index[row].byteCount)
                }
            }
            return sum <= configuration.pinnedByteCountMax
        }
    }

    // MARK: Statistics

    package func statistics() -> Statistics {
        state.withLock { state in
            var statistics = state.statistics
            statistics.pinCount = state.pins.count
            statistics.segmentCount = state.segments.count
            statistics.freeSegmentCount = state.segments.count { $0.state == .free }
            statistics.notesWaitingCount = state.unsettledNotes.count
            return statistics
        }
    }

    /// What a namespace has on SSD.
    package func usage(of namespace: NamespaceID) -> (chunkCount: Int, byteCount: Int) {
        state.withLock { $0.bindings.usage(of: namespace) }
    }

    /// All segments, by slot.
    package func segments() -> [SSDSegment] {
        state.withLock { $0.segments }
    }
}

extension SSDState {
    /// The row of a chunk whose record is at `place`, in whatever state.
    func row(of name: ChunkName, at place: SSDPlace) -> UInt32? {
        guard let row = index.find(name.namespace, name.key, bindings), index[row].place == place
        else { return nil }
        return row
    }
}
