// SPDX-License-Identifier: Apache-2.0
internal import Codec
internal import KVCore
internal import Synchronization

/// Builds the index at the start from what the segments say, in whatever order they are read: of
/// all records and delete notes of a key, the one with the highest sequence number counts
/// (docs/ssd-format.md, "Recovery"). Confined to the store; dropped when the start is over.
// SAFETY: confined to the store's executor; it crosses to tasks that run there alone.
@safe
final class SSDRecovery: @unchecked Sendable {
    private struct OlderRecord {
        let name: ChunkName
        let sequence: UInt64
        let segment: Int
    }

    private let tier: SSDTier
    private let wallMilliseconds: UInt64
    /// Of the record in each row of the index.
    private var sequences: LazyRows<UInt64>
    private var deletions: [ChunkName: UInt64] = [:]
    private var pins: [ChunkName: SSDPin] = [:]
    private var nextSequence: UInt64 = 1
    /// Sequence numbers of the latest records that cannot be used: older ones do not count instead.
    private var unusable: [ChunkName: UInt64] = [:]
    /// Numbers may have been used that nobody found: a directory, a segment or a checkpoint is out
    /// of reach.
    private var mayMissNumbers = false
    /// Records of chunks that have a later one.
    private var older: [OlderRecord] = []
    /// Chunks that found no room in the index.
    private(set) var droppedCount = 0

    init(tier: SSDTier, wallMilliseconds: UInt64) {
        self.tier = tier
        self.wallMilliseconds = wallMilliseconds
        sequences = LazyRows(count: tier.configuration.entryCountMax)
    }

    /// Takes in what a segment's records say.
    func apply(_ entries: [FooterEntry], ofSegment slot: Int) {
        tier.state.withLock { state in
            for entry in entries {
                nextSequence = max(nextSequence, entry.sequence + 1)
                guard let namespace = state.namespaces.namespace(tagged: entry.namespace) else {
                    state.hasUnindexedRecords = true
                    continue
                }
                let name = ChunkName(namespace, entry.key)
                switch entry.kind {
                case .chunk: apply(entry, name, slot, &state)
                case .delete: delete(name, entry.sequence, &state)
                case .pin: pin(name, SSDPin(until: entry.expiry, sequence: entry.sequence))
                }
            }
        }
    }

    private func apply(
        _ entry: FooterEntry, _ name: ChunkName, _ slot: Int, _ state: inout SSDState
    ) {
        if let deleted = deletions[name], deleted > entry.sequence { return }
        if let latest = unusable[name], latest > entry.sequence { return }
        if let row = state.index.find(name.namespace, name.key, state.bindings) {
            let known = sequences[Int(row)]
            guard known < entry.sequence else {
                if known > entry.sequence {
                    older.append(OlderRecord(name: name, sequence: entry.sequence, segment: slot))
                }
                return
            }
            older.append(
                OlderRecord(
                    name: name, sequence: known, segment: Int(state.index[row].segment)))
            state.drop(row)
        }
        guard let level = Level(rawValue: entry.level) else {
            state.hasUnindexedRecords = true
            unusable[name] = entry.sequence
            return
        }
        let chunk = SSDChunk(
            namespace: name.namespace, key: name.key, layout: entry.layout, level: level,
            position: entry.position, byteCount: Int(entry.byteCount), checksum: entry.checksum,
            expiry: entry.expiry)
        add(
            chunk, at: SSDPlace(segment: UInt16(slot), block: UInt16(entry.block)),
            entry.sequence, &state)
    }

    /// An expired record keeps its row until `finish`: an older one of its key must not win.
    private func add(
        _ chunk: SSDChunk, at place: SSDPlace, _ sequence: UInt64, _ state: inout SSDState
    ) {
        guard let row = state.add(chunk, at: place, .readable) else {
            droppedCount += 1
            state.hasUnindexedRecords = true
            return
        }
        sequences[Int(row)] = sequence
    }

    private func delete(_ name: ChunkName, _ sequence: UInt64, _ state: inout SSDState) {
        deletions[name] = max(deletions[name] ?? 0, sequence)
        if let row = state.index.find(name.namespace, name.key, state.bindings),
            sequences[Int(row)] < sequence
        {
            state.drop(row)
        }
        if let pin = pins[name], pin.sequence < sequence { pins[name] = nil }
    }

    private func pin(_ name: ChunkName, _ pin: SSDPin) {
        guard (pins[name]?.sequence ?? 0) < pin.sequence, (deletions[name] ?? 0) < pin.sequence
        else { return }
        pins[name] = pin
    }

    /// Takes in chunks of a checkpoint that holds all effects below `sequence`; before any segment.
    func applyCheckpoint(_ chunks: [(SSDChunk, SSDPlace)], sequence: UInt64) {
        tier.state.withLock { state in
            for (chunk, place) in chunks { add(chunk, at: place, sequence - 1, &state) }
        }
    }

    /// Takes in a pin of that checkpoint.
    func applyCheckpoint(_ name: ChunkName, pinnedUntil until: UInt64, sequence: UInt64) {
        pins[name] = SSDPin(until: until, sequence: sequence - 1)
    }

    /// Forgets what a checkpoint said that turned out to be damaged.
    func reset() {
        mayMissNumbers = true
        droppedCount = 0
        pins = [:]
        tier.state.withLock { state in
            state.hasUnindexedRecords = false
            for row in 0..<state.index.rowCount where state.index[UInt32(row)].state != .unused {
                state.drop(UInt32(row))
            }
        }
    }

    /// Notes a sequence number that was used.
    func note(nextSequence sequence: UInt64) { nextSequence = max(nextSequence, sequence) }

    /// Notes a serial number that was used, though perhaps no header tells of it: a segment that
    /// had it again would be taken for the one that the checkpoint covers.
    func note(serial: UInt64) {
        tier.state.withLock { $0.nextSerial = max($0.nextSerial, serial + 1) }
    }

    /// Ends the start: numbers go on where they were, what has expired goes. What could not be read
    /// may have later ones than all that was read, and deletions must be above those too.
    func finish() {
        tier.state.withLock { state in
            state.nextSequence = max(state.nextSequence, nextSequence)
            let isComplete =
                !mayMissNumbers && !state.isDirectoryMissing
                && !state.segments.contains { $0.state == .unknown }
            if !isComplete {
                // What is out of reach may come back: a deletion from now on is later than all of
                // it. The clock is ahead of all numbers, since 2^18 of them are not used in a
                // millisecond.
                let number = min(wallMilliseconds, SSDFormat.numberMax >> 19) << 18
                state.nextSequence = max(state.nextSequence, number)
                state.nextSerial = max(state.nextSerial, number)
            }
            for slot in state.segments.indices {
                state.segments[slot].nextSequence = state.nextSequence
            }
            // No deletion ends them: they count again when the later record is gone.
            for record in older where (deletions[record.name] ?? 0) < record.sequence {
                state.segments[record.segment].hasUnindexedRecords = true
            }
            state.pins = pins.filter { $0.value.until > wallMilliseconds }
            for row in 0..<state.index.rowCount {
                let entry = state.index[UInt32(row)]
                guard entry.state != .unused, entry.expiryMilliseconds != 0,
                    entry.expiryMilliseconds <= wallMilliseconds
                else { continue }
                state.drop(UInt32(row))
                state.statistics.expirationCount += 1
            }
        }
    }
}
