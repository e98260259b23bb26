// SPDX-License-Identifier: Apache-2.0
internal import Codec
package import KVCore
internal import Kernels

/// Bytes of records that a lane writes at once: enough for a disk that wants a queue.
private let byteCountInFlightMax = 32 << 20
/// Durable stores that may wait.
private let storeCountMax = 1_024
/// Writings of a note that may fail, a tenth of a second apart, before its deletion is said not to
/// be durable; it is tried on.
let noteAttemptCountMax = 10
/// Looks at a chunk that is wanted durable: others may write, delete or evict it meanwhile.
private let storeAttemptCountMax = 16

extension SSDStore {
    // MARK: What waits in memory

    /// Writes what waits, for as long as the store runs.
    func feed(lane number: Int) async {
        let lane = lanes[number]
        while !lane.isGone, !isOverdue {
            guard lane.isWritable else {
                if isStopping { return }
                await lane.changed.wait()
                continue
            }
            guard lane.byteCountInFlight < byteCountInFlightMax else {
                await lane.changed.wait()
                continue
            }
            if tier.hasNotes, !lane.hasNoRoomForNotes {
                let notes = tier.takeNotes()
                lane.byteCountInFlight += SSDFormat.blockByteCount
                spawn { await $0.write(notes, lane: number) }
            } else if let demotion = memory.takeDemotion(now: reactor.now()) {
                // Whichever lane's task comes first, the chunks go to all lanes in turn.
                begin(demotion, laneInTurn() ?? lane)
            } else {
                // Reclaim waits until the notes that it keeps of a segment are written, and what is
                // written may have to wait for reclaim.
                if isStopping, storeCount == 0, !lanes.contains(where: \.isBusy) { return }
                bell.want()
                if tier.hasNotes && !lane.hasNoRoomForNotes || memory.hasDemotions { continue }
                await work.wait()
            }
        }
    }

    /// The next lane that takes chunks and does not lag behind.
    private func laneInTurn() -> SSDLane<R>? {
        for _ in lanes {
            guard let lane = writableLane() else { return nil }
            if lane.byteCountInFlight < byteCountInFlightMax { return lane }
        }
        return nil
    }

    private func begin(_ demotion: consuming RAMTier.Demotion, _ lane: SSDLane<R>) {
        let name = demotion.name
        let hold = demotion.release()
        let number = lane.number
        lane.byteCountInFlight += memory.byteCount(of: hold)
        spawn { store in
            await store.write(name, store.memory.lend(hold), lane: number)
        }
    }

    private func write(
        _ name: ChunkName, _ held: consuming HeldChunk, lane number: Int
    ) async {
        let byteCount = held.bytes.count
        let isStored = await writeSmallest(name, held, lanes[number])
        lanes[number].byteCountInFlight -= byteCount
        lanes[number].changed.notify()
        recordsChanged.notify()
        if !isStored {
            // After a fault it is written again; without room, when it is used.
            memory.isNotStored(name, waits: lanes[number].retryAt != nil)
        }
    }

    // MARK: What must be durable

    /// Puts a chunk on stable storage, from memory unless it is there already; false when that
    /// could not be done.
    package func store(_ name: ChunkName, deadline: Instant) async -> Bool {
        await onOwnTask(by: deadline, orElse: false) { await $0.storeHere(name) }
    }

    /// Puts several chunks on stable storage: those that are not there one by one, as most are on
    /// their way anyhow.
    /// - Returns: for each, whether it is there.
    package func store(_ names: [ChunkName], deadline: Instant) async -> [Bool] {
        guard !names.isEmpty else { return [] }
        return await onOwnTask(by: deadline, orElse: names.map { _ in false }) {
            await $0.storeHere(names)
        }
    }

    private func storeHere(_ names: [ChunkName]) async -> [Bool] {
        for name in names where tier.presence(of: name, now: reactor.now()) != .there {
            _ = await storeHere(name)
        }
        await synchronizeAll()
        return names.map { tier.presence(of: $0, now: reactor.now()) == .there }
    }

    private func storeHere(_ name: ChunkName) async -> Bool {
        guard storeCount < storeCountMax, !isStopping else { return false }
        storeCount += 1
        // The directories stay open until it has ended.
        taskCount += 1
        defer {
            storeCount -= 1
            taskEnded()
        }
        for _ in 0..<storeAttemptCountMax {
            while tier.presence(of: name, now: reactor.now()) == .onItsWay {
                await recordsChanged.wait()
            }
            switch tier.presence(of: name, now: reactor.now()) {
            case .onItsWay: continue
            case .there:
                await synchronizeAll()
                // A synchronization that failed took it out.
                if tier.presence(of: name, now: reactor.now()) == .there { return true }
            case .absent:
                guard let lane = writableLane() else { return false }
                while lane.byteCountInFlight >= byteCountInFlightMax, lane.isWritable, !isOverdue {
                    await lane.changed.wait()
                }
                guard !isOverdue, let demotion = memory.demote(name, now: reactor.now()) else {
                    return false
                }
                let hold = demotion.release()
                lane.byteCountInFlight += memory.byteCount(of: hold)
                await write(name, memory.lend(hold), lane: lane.number)
            }
        }
        return false
    }

    /// Waits until these notes are durable, or one of them could not be made so, or `deadline`.
    /// - Returns: for each, whether it is durable.
    package func awaitNotes(_ sequences: [UInt64], deadline: Instant) async -> [Bool] {
        await onOwnTask(by: deadline, orElse: sequences.map { _ in false }) {
            await $0.awaitNotesHere(sequences)
        }
    }

    private func awaitNotesHere(_ sequences: [UInt64]) async -> [Bool] {
        work.notify()
        var results: [Bool] = []
        for sequence in sequences {
            while !tier.isSettled(note: sequence), isWritable, !isOverdue,
                failedNotes[sequence, default: 0] < noteAttemptCountMax
            {
                await notesChanged.wait()
            }
            results.append(tier.isSettled(note: sequence))
        }
        return results
    }

    // MARK: Records

    /// Room for a record in the lane's open segment, or in a new one; nil when there is none.
    func reserve(
        _ lane: SSDLane<R>, _ record: RecordSize, forReclaim: Bool = false
    ) async -> (OpenSegment<R>, block: Int)? {
        let footer = FooterTable.blockCount(entryCount: record.entryCount)
        let kept = OpenSegment<R>.blockCountForNotes(of: lane.segmentBlockCount)
        guard 1 + record.blockCount + footer + kept <= lane.segmentBlockCount else { return nil }
        while lane.isWritable {
            // The last segment is for what reclaim moves, until it has made room.
            if !forReclaim, lane.isReclaiming, tier.freeSegmentCount(directory: lane.number) == 0 {
                await lane.changed.wait()
                continue
            }
            if let open = lane.open, let block = open.reserve(record) { return (open, block) }
            if lane.isRolling {
                await lane.changed.wait()
                continue
            }
            lane.isRolling = true
            switch await roll(lane, for: record, forReclaim: forReclaim) {
            case .opened: continue
            case .failed: return nil
            case .noRoom: guard !forReclaim, await waitForReclaim(lane) else { return nil }
            }
        }
        return nil
    }

    /// - Returns: whether there may be room now.
    private func waitForReclaim(_ lane: SSDLane<R>) async -> Bool {
        guard startReclaim(lane) else { return false }
        while lane.isReclaiming { await lane.changed.wait() }
        return tier.freeSegmentCount(directory: lane.number) > 1
    }

    /// Writes a chunk in the form that the encoder gives it, or as it is.
    private func writeSmallest(
        _ name: ChunkName, _ held: consuming HeldChunk, _ lane: SSDLane<R>
    ) async -> Bool {
        let (bytes, description) = (held.bytes, held.description)
        guard let encoder, description.level == .raw else {
            return await writeRecord(name, held, bytes, description, lane)
        }
        // Whoever encodes it already is waited for: its record does for both.
        while encoding.contains(name) { await recordsChanged.wait() }
        guard tier.presence(of: name, now: reactor.now()) == .absent else { return true }
        encoding.insert(name)
        defer { encoding.remove(name) }
        guard let form = await encoder.encode(name, held.holdAgain(), description) else {
            return await writeRecord(name, held, bytes, description, lane)
        }
        let encoded = memory.lend(form)
        let isStored = await writeRecord(name, held, encoded.bytes, encoded.description, lane)
        _ = consume encoded
        return isStored
    }

    /// Writes a chunk's record, with `bytes` as the form in which it is stored; false when it is
    /// not on the disk afterwards.
    private func writeRecord(
        _ name: ChunkName, _ held: consuming HeldChunk, _ bytes: PinnedBytes,
        _ description: ChunkDescription, _ lane: SSDLane<R>
    ) async -> Bool {
        let payloadBlockCount = SSDFormat.blockCount(bytes.count)
        guard tier.presence(of: name, now: reactor.now()) == .absent else { return true }
        let size = RecordSize(blockCount: 1 + payloadBlockCount, entryCount: 1, isOfNotes: false)
        guard let (open, block) = await reserve(lane, size) else {
            tier.count { $0.skippedCount += 1 }
            return false
        }
        let place = SSDPlace(segment: UInt16(open.slot), block: UInt16(block))
        let chunk = SSDChunk(
            namespace: name.namespace, key: name.key, layout: description.layout,
            level: description.level, position: CompactPosition(description.firstPosition),
            byteCount: bytes.count, checksum: description.checksum,
            expiry: tier.wallExpiry(description.expiry))
        let sequence: UInt64
        switch tier.place(chunk, at: place, now: reactor.now(), ifStill: { held.isFindable }) {
        case .placed(let number): sequence = number
        case .present:
            open.complete([])
            return true
        case .gone:
            open.complete([])
            return false
        case .full:
            open.complete([])
            tier.count { $0.skippedCount += 1 }
            startReclaim(lane)
            return false
        }
        let record = RecordHeader(
            nonce: open.header.nonce, sequence: sequence, block: UInt32(block),
            content: .chunk(
                ChunkRecord(
                    key: name.key, namespace: tier.tag(of: name.namespace), layout: chunk.layout,
                    byteCount: bytes.count, checksum: chunk.checksum, expiry: chunk.expiry,
                    stored: tier.wallMilliseconds(reactor.now()), level: chunk.level.rawValue,
                    position: chunk.position)))
        let header = SSDFormat.makeBlocks(1)
        let stripe = ChunkRecord.stripeByteCount(of: bytes.count)
        record.encode(into: header.bytes) { index in
            Checksum.of(
                bytes.slice(
                    offset: index * stripe, count: min(stripe, bytes.count - index * stripe)))
        }
        let offset = UInt64(block * SSDFormat.blockByteCount)
        do throws(IOFault) {
            // The header last: where it stands, the payload was written.
            try await open.file.write(
                memory.wholeGranules(of: bytes), at: offset + UInt64(SSDFormat.blockByteCount))
            try await write(header, to: open.file, block: block)
        } catch {
            tier.fail(name, at: place)
            open.complete([])
            abandon(open, lane, error, "a write")
            return false
        }
        _ = consume held
        tier.settle(chunk, at: place, blockCount: 1 + payloadBlockCount)
        open.complete(FooterEntry.entries(of: record))
        return true
    }

    /// Writes notes, and makes them durable.
    private func write(_ notes: [PendingNote], lane number: Int) async {
        let lane = lanes[number]
        let isDurable = await writeNotes(notes, lane)
        lane.byteCountInFlight -= SSDFormat.blockByteCount
        if isDurable {
            tier.settle(notes: notes)
            for note in notes { failedNotes[note.sequence] = nil }
        } else {
            tier.putBack(notes: notes)
            for note in notes { failedNotes[note.sequence, default: 0] += 1 }
        }
        lane.changed.notify()
        notesChanged.notify()
        // A segment may wait for its last record to be sealed.
        recordsChanged.notify()
    }

    private func writeNotes(_ notes: [PendingNote], _ lane: SSDLane<R>) async -> Bool {
        guard let first = notes.first else { return true }
        let size = RecordSize(blockCount: 1, entryCount: notes.count, isOfNotes: true)
        guard let (open, block) = await reserve(lane, size, forReclaim: true) else {
            lane.hasNoRoomForNotes = true
            return false
        }
        let record = RecordHeader(
            nonce: open.header.nonce, sequence: first.sequence, block: UInt32(block),
            content: .notes(notes.map(\.note)))
        let header = SSDFormat.makeBlocks(1)
        record.encode(into: header.bytes) { _ in 0 }
        do throws(IOFault) {
            try await write(header, to: open.file, block: block)
        } catch {
            open.complete([])
            abandon(open, lane, error, "a write")
            return false
        }
        tier.countNotesRecord()
        open.complete(FooterEntry.entries(of: record))
        return await synchronize(lane) && !open.isDamaged
    }

    /// Takes no more records in a segment in which a write failed.
    func abandon(
        _ open: OpenSegment<R>, _ lane: SSDLane<R>, _ error: IOFault, _ what: String
    ) {
        close(open, lane)
        open.isClosed = true
        fault(error, lane, what)
    }
}
