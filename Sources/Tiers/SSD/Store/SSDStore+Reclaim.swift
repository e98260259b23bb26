// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Kernels

/// Making room: the oldest segment's chunks are dropped, or written again, and it is erased.
extension SSDStore {
    // MARK: When

    /// Begins to reclaim in `lane` unless that is under way.
    /// - Returns: whether it is under way now.
    @discardableResult
    func startReclaim(_ lane: SSDLane<R>) -> Bool {
        guard !lane.isReclaiming else { return true }
        guard lane.isWritable, !isOverdue,
            !tier.sealedSegments(directory: lane.number).isEmpty
        else { return false }
        lane.isReclaiming = true
        let number = lane.number
        spawn { store in
            let lane = store.lanes[number]
            while store.wantsReclaim(lane) {
                let freeCount = store.tier.freeSegmentCount(directory: number)
                guard await store.reclaimOldest(lane) else { break }
                let hasGained = store.tier.freeSegmentCount(directory: number) > freeCount
                lane.fruitlessReclaimCount = hasGained ? 0 : lane.fruitlessReclaimCount + 1
                // What is pinned may leave no segment empty however it is moved.
                if lane.fruitlessReclaimCount >= 8 * fruitlessReclaimCountMax {
                    lane.fruitlessReclaimCount = fruitlessReclaimCountMax
                    lane.reclaimAgainAt = store.reactor.now().adding(
                        milliseconds: 100 * store.configuration.roundMilliseconds)
                }
            }
            lane.isReclaiming = false
            lane.changed.notify()
        }
        return true
    }

    func wantsReclaim(_ lane: SSDLane<R>) -> Bool {
        guard !isOverdue, lane.isWritable, lane.reclaimAgainAt <= reactor.now() else {
            return false
        }
        let free = tier.freeSegmentCount(directory: lane.number)
        let usedMax = lane.segmentCountMax - Self.freeSegmentCountWanted
        return free < Self.freeSegmentCountWanted && !canGrow(lane)
            || lane.segmentCount > lane.segmentCountMax && lane.segmentCount - free > usedMax
            || tier.isIndexFull
    }

    private func canGrow(_ lane: SSDLane<R>) -> Bool {
        lane.segmentCount < lane.segmentCountMax && !lane.isFull
    }

    /// Reclaims the oldest segment, or one of the next when what it holds finds no room elsewhere.
    /// While there is room for all that lives, nothing that lives is dropped as long as there is
    /// another way.
    private func reclaimOldest(_ lane: SSDLane<R>) async -> Bool {
        for keepsLiving in hasRoomForLiving(lane) ? [true, false] : [false] {
            let candidates = tier.sealedSegments(directory: lane.number)
            for slot in candidates.prefix(reclaimAttemptCountMax) {
                let keeping: Keeping = keepsLiving ? .living : .hot
                if await empty(slot, lane, keeping) { return true }
                guard lane.retryAt == nil, !isOverdue else { return false }
            }
        }
        return false
    }

    /// What of an emptied segment is written again.
    enum Keeping {
        /// What is pinned, and what was read as far as half of what is gained.
        case hot
        /// All that lives, in the same directory.
        case living
        /// All that lives, in other directories.
        case elsewhere
    }

    // MARK: How

    /// Empties and erases a sealed segment: chunks worth keeping and notes still needed are
    /// written elsewhere, durably, before its header says that it is free.
    /// - Returns: whether it is free now.
    func empty(_ slot: Int, _ lane: SSDLane<R>, _ keeping: Keeping) async -> Bool {
        while isCheckpointAwaited { await recordsChanged.wait() }
        guard let handle = files[slot], tier.segment(slot).state == .sealed else { return false }
        emptyingCount += 1
        defer {
            emptyingCount -= 1
            recordsChanged.notify()
        }
        tier.setState(of: slot, to: .erasing)
        let file = reactor.attach(handle)
        defer { file.close() }
        let segment = tier.segment(slot)
        let header = header(of: segment, lane)
        let entries: [FooterEntry]
        do throws(IOFault) {
            let scanner = SegmentScanner<R>(file: file, blockCount: lane.segmentBlockCount)
            if let footer = try await scanner.readFooter(of: header) {
                entries = footer
            } else {
                entries = try await scanner.scan(header, verifying: false)
            }
        } catch {
            // Without its notes it cannot be erased; others can.
            guard error != .cancelled else {
                tier.setState(of: slot, to: .sealed)
                noteEnd()
                return false
            }
            tier.setState(of: slot, to: .unknown)
            tier.count { $0.readFaultCount += 1 }
            report(
                SSDEvent(
                    .fault, lane.path,
                    "\(fileName(ofSegment: slot)) cannot be read (\(error)): its space is lost "
                        + "until a start can read it"))
            return false
        }
        guard await keep(entries, slot, file, lane, keeping) else {
            tier.setState(of: slot, to: .sealed)
            tier.noteUnindexedRecords(slot)
            return false
        }
        guard await erase(slot, header, file, lane) else {
            tier.noteUnindexedRecords(slot)
            return false
        }
        await forget(slot, entries)
        lane.changed.notify()
        return true
    }

    /// Takes what an erased segment held out of the index.
    private func forget(_ slot: Int, _ entries: [FooterEntry]) async {
        for entry in entries where entry.kind == .chunk {
            guard let namespace = tier.namespace(tagged: entry.namespace) else { continue }
            let name = ChunkName(namespace, entry.key)
            if tier.dropEntry(name, at: SSDPlace(segment: UInt16(slot), block: UInt16(entry.block)))
            {
                memory.isNotStored(name, waits: false)
            }
        }
        var row: Int? = 0
        while let first = row {
            row = tier.dropEntries(of: slot, fromRow: first, rowCount: 16_384)
            await reactor.yield()
        }
        tier.setState(of: slot, to: .free)
    }

    /// Erases a segment once more whose header could not be written before.
    func eraseAgain(_ slot: Int, _ lane: SSDLane<R>) async {
        guard let handle = files[slot] else { return }
        let file = reactor.attach(handle)
        defer { file.close() }
        let header = header(of: tier.segment(slot), lane)
        guard await erase(slot, header, file, lane) else { return }
        await forget(slot, [])
        lane.changed.notify()
    }

    /// The name of a segment's file, for people.
    func fileName(ofSegment slot: Int) -> String {
        SSDFormat.segmentName(slot: tier.segment(slot).fileSlot)
    }

    func header(of segment: SSDSegment, _ lane: SSDLane<R>) -> SegmentHeader {
        SegmentHeader(
            state: .inUse, store: lane.identity.store, slot: segment.fileSlot,
            blockCount: lane.identity.segmentBlockCount, serial: segment.serial,
            nonce: segment.nonce, firstSequence: segment.firstSequence, opened: 0)
    }

    /// Whether what lives in the lane leaves a fifth of its room for what is written, and moving it
    /// has gained something lately: large chunks may leave no segment empty however they are moved.
    private func hasRoomForLiving(_ lane: SSDLane<R>) -> Bool {
        guard lane.fruitlessReclaimCount < fruitlessReclaimCountMax, !tier.isIndexFull else {
            return false
        }
        // One segment is open and two are free, as a rule.
        let count =
            lane.isFull ? min(lane.segmentCount, lane.segmentCountMax) : lane.segmentCountMax
        let usable = max(1, count - 1 - Self.freeSegmentCountWanted)
        return tier.liveBlockCount(directory: lane.number)
            <= usable * lane.segmentBlockCount / 5 * 4
    }

    /// Writes what is worth it again, and waits until that is durable.
    private func keep(
        _ entries: [FooterEntry], _ slot: Int, _ file: R.File, _ lane: SSDLane<R>,
        _ keeping: Keeping
    ) async -> Bool {
        let wall = tier.wallMilliseconds(reactor.now())
        // Hot chunks get at most half of what is gained, so that reclaim gains something.
        var byteCountLeft = lane.segmentBlockCount * SSDFormat.blockByteCount / 2
        var renewed: [UInt64] = []
        var dropped: Set<UInt32> = []
        for entry in entries {
            guard !isOverdue else { return false }
            guard entry.kind == .chunk else {
                if let sequence = tier.renew(entry, of: slot) { renewed.append(sequence) }
                continue
            }
            guard let namespace = tier.namespace(tagged: entry.namespace) else { continue }
            let name = ChunkName(namespace, entry.key)
            let place = SSDPlace(segment: UInt16(slot), block: UInt16(entry.block))
            let byteCount = Int(entry.blockCount) * SSDFormat.blockByteCount
            var mustBeKept = keeping != .hot
            var isKept = byteCount <= byteCountLeft
            switch tier.fate(of: name, at: place, wallMilliseconds: wall) {
            case .dead: continue
            case .worthKeeping(let isPinned): mustBeKept = mustBeKept || isPinned
            // Memory serves it, so that its uses do not show here.
            case .worthless: isKept = isKept && memory.isInUse(name)
            }
            guard isKept || mustBeKept else {
                dropped.insert(entry.block)
                continue
            }
            byteCountLeft -= byteCount
            guard let target = keeping == .elsewhere ? writableLane() : lane else { return false }
            let isCopied = await copy(entry, name, from: place, file, to: target)
            guard isCopied || !mustBeKept else { return false }
            if !isCopied { dropped.insert(entry.block) }
        }
        await synchronizeAll()
        guard lane.retryAt == nil || lane.isEvacuating else { return false }
        let areRenewed = await awaitNotes(renewed, deadline: .distantFuture)
        guard !areRenewed.contains(false) else { return false }
        let now = tier.wallMilliseconds(reactor.now())
        for first in stride(from: 0, to: entries.count, by: evictionCountAtOnce) {
            let some = entries[first..<min(first + evictionCountAtOnce, entries.count)]
            guard tier.evict(some, of: slot, dropped, wallMilliseconds: now) else { return false }
            await reactor.yield()
        }
        return true
    }

    /// Writes the record at `place` once more, into another segment; false when it was not.
    private func copy(
        _ entry: FooterEntry, _ name: ChunkName, from place: SSDPlace, _ file: R.File,
        to lane: SSDLane<R>
    ) async -> Bool {
        let blockCount = Int(entry.blockCount)
        // Another lane makes room for what is evacuated as it does for what is new.
        let isFromLane = tier.segment(Int(place.segment)).directory == lane.number
        let size = RecordSize(blockCount: blockCount, entryCount: 1, isOfNotes: false)
        guard let (open, block) = await reserve(lane, size, forReclaim: isFromLane) else {
            return false
        }
        guard let sequence = tier.beginMove(of: name, from: place) else {
            open.complete([])
            recordsChanged.notify()
            return true
        }
        defer { recordsChanged.notify() }
        let copied: Bool
        do throws(IOFault) {
            copied = try await copyRecord(
                entry, from: file, to: open, at: block, sequence: sequence)
        } catch {
            open.complete([])
            abandon(open, lane, error, "moving a chunk")
            return false
        }
        guard copied else {
            tier.condemn(place, name)
            open.complete([])
            report(
                SSDEvent(
                    .checksumMismatch, lane.path,
                    "a record in \(fileName(ofSegment: Int(place.segment))) at block "
                        + "\(place.block) is damaged; it was dropped"))
            return true
        }
        let target = SSDPlace(segment: UInt16(open.slot), block: UInt16(block))
        tier.endMove(of: name, from: place, to: target, blockCount: blockCount)
        var moved = entry
        moved.block = UInt32(block)
        moved.sequence = sequence
        open.complete([moved], movedFrom: place)
        return true
    }

    /// Copies payload, then header; false when the payload cannot be read, or does not match its
    /// checksum.
    private func copyRecord(
        _ entry: FooterEntry, from file: R.File, to open: OpenSegment<R>, at block: Int,
        sequence: UInt64
    ) async throws(IOFault) -> Bool {
        let byteCount = Int(entry.byteCount)
        // Whole stripes.
        let piece = SSDFormat.makeBlocks(min(256, Int(entry.blockCount)))
        let stripe = ChunkRecord.stripeByteCount(of: byteCount)
        let whole = StreamingChecksum()
        var stripes: [UInt64] = []
        var done = 0
        while done < byteCount {
            let count = min(piece.bytes.count, byteCount - done)
            let blocks = piece.bytes.prefix(
                SSDFormat.blockCount(count) * SSDFormat.blockByteCount)
            let offset = UInt64(done + SSDFormat.blockByteCount)
            do throws(IOFault) {
                try await file.readPersistently(
                    into: blocks,
                    at: UInt64(Int(entry.block) * SSDFormat.blockByteCount) + offset)
            } catch {
                guard error != .cancelled else { throw error }
                tier.count { $0.readFaultCount += 1 }
                return false
            }
            whole.add(blocks.prefix(count))
            for start in stride(from: 0, to: count, by: stripe) {
                stripes.append(
                    Checksum.of(blocks.slice(offset: start, count: min(stripe, count - start))))
            }
            try await open.file.write(
                blocks, at: UInt64(block * SSDFormat.blockByteCount) + offset)
            done += count
        }
        guard whole.value == entry.checksum else { return false }
        let record = RecordHeader(
            nonce: open.header.nonce, sequence: sequence, block: UInt32(block),
            content: .chunk(
                ChunkRecord(
                    key: entry.key, namespace: entry.namespace, layout: entry.layout,
                    byteCount: byteCount, checksum: entry.checksum, expiry: entry.expiry,
                    stored: tier.wallMilliseconds(reactor.now()), level: entry.level,
                    position: entry.position)))
        record.encode(into: piece.bytes.prefix(SSDFormat.blockByteCount)) { stripes[$0] }
        try await open.file.write(
            piece.bytes.prefix(SSDFormat.blockByteCount),
            at: UInt64(block * SSDFormat.blockByteCount))
        return withExtendedLifetime(piece) { true }
    }

    /// Makes a segment's header say that it is free, durably.
    private func erase(
        _ slot: Int, _ header: SegmentHeader, _ file: R.File, _ lane: SSDLane<R>
    ) async -> Bool {
        var free = header
        free.state = .free
        let block = SSDFormat.makeBlocks(1)
        free.encode(into: block.bytes)
        do throws(IOFault) {
            try await write(block, to: file, block: 0)
            try await file.synchronize()
        } catch {
            // It may come back at the next start as it was, or not.
            tier.setState(of: slot, to: .stuck)
            fault(error, lane, "erasing a segment")
            return false
        }
        tier.count { $0.writtenByteCount += SSDFormat.blockByteCount }
        return true
    }
}

/// Chunks that are dropped under the tier's lock without a pause.
private let evictionCountAtOnce = 256
/// Segments that are tried, oldest first, when one cannot be emptied.
private let reclaimAttemptCountMax = 8
/// After so many segments in a row that were emptied in vain, chunks are dropped.
private let fruitlessReclaimCountMax = 4
