// SPDX-License-Identifier: Apache-2.0
internal import Codec
internal import KVCore
internal import Synchronization

/// Checkpoints: the index as one file in the first directory, so that a start need not read the
/// footers of all segments. Losing one costs time only.
extension SSDStore {
    // MARK: Writing

    /// Writes a checkpoint over the last one; a fault is reported, and the last one stays.
    func writeCheckpoint() async {
        // A chunk that the index has no room for is found by reading footers alone.
        guard !isCheckpointAwaited, !tier.state.withLock({ $0.hasUnindexedRecords }) else {
            return
        }
        // An evacuation waits for room that reclaim makes elsewhere, which would wait for this.
        guard !lanes.contains(where: { $0.isEvacuating && !$0.isGone }) else { return }
        isCheckpointAwaited = true
        while emptyingCount > 0 { await recordsChanged.wait() }
        isWritingCheckpoint = true
        isCheckpointVoid = false
        defer {
            isWritingCheckpoint = false
            isCheckpointAwaited = false
            recordsChanged.notify()
        }
        guard let lane = lanes.first(where: { !$0.isGone }) else { return }
        sealedCount = 0
        let plan = planCheckpoint(lane)
        defer { tier.state.withLock { $0.bindings.isFrozen = false } }
        guard
            max(plan.bindings.count, tier.statistics().pinCount)
                <= CheckpointLayout.smallRowCountMax
        else { return }
        do throws(IOFault) {
            let file = reactor.attach(
                try lane.directory.open(SSDFormat.checkpointDraftName, lane.mode))
            defer { file.close() }
            let writer = CheckpointWriter<R>(file: file)
            guard try await write(plan, writer) else { return }
            try await file.synchronize()
            try lane.directory.rename(
                SSDFormat.checkpointDraftName, to: SSDFormat.checkpointName)
            try lane.directory.synchronize()
            tier.count { $0.writtenByteCount += writer.writtenByteCount }
        } catch {
            tier.count { $0.writeFaultCount += 1 }
            if error != .cancelled {
                report(
                    SSDEvent(
                        .fault, lane.path,
                        "the checkpoint cannot be written (\(error)): the next start takes longer"))
            }
        }
    }

    /// What a checkpoint begins with: fixed before the walk through the index.
    private struct CheckpointPlan {
        var header: CheckpointHeader
        var segments: [CheckpointSegment]
        var bindings: [(SSDTag, SSDBinding)]
    }

    private func planCheckpoint(_ lane: SSDLane<R>) -> CheckpointPlan {
        let directories = lanes.map(\.identity.directory)
        let wall = tier.wallMilliseconds(reactor.now())
        return tier.state.withLock { state in
            state.bindings.isFrozen = true
            let coverage = SSDSegment.coverage(
                state.segments, isDirectoryMissing: state.isDirectoryMissing)
            let segments = zip(state.segments, coverage).map { segment, coverage in
                CheckpointSegment(
                    directory: directories[segment.directory], slot: segment.fileSlot,
                    isSealed: coverage != .none, hasLateNotes: coverage == .chunks,
                    serial: segment.serial)
            }
            let bindings = (0..<state.bindings.rowCount).map { number in
                let binding = state.bindings[UInt16(number)]
                return (state.namespaces.tag(of: binding.namespace), binding)
            }
            return CheckpointPlan(
                header: CheckpointHeader(
                    store: lane.identity.store, sequence: state.nextSequence, written: wall),
                segments: segments, bindings: bindings)
        }
    }

    /// - Returns: false when what a start would read or miss turned out not to be durable.
    private func write(
        _ plan: CheckpointPlan, _ writer: CheckpointWriter<R>
    ) async throws(IOFault) -> Bool {
        let faultCount = synchronizationFaultCount
        var header = plan.header
        header.segmentCount = UInt32(plan.segments.count)
        header.bindingCount = UInt32(plan.bindings.count)
        for segment in plan.segments {
            try await writer.append(CheckpointLayout.segmentByteCount) { segment.encode(into: $0) }
        }
        for (tag, binding) in plan.bindings {
            try await writer.append(CheckpointLayout.bindingByteCount) { row in
                row.store(tag, at: 0)
                row.store(binding.layout, at: 16)
                row.store(UInt32(binding.level.rawValue), at: 32)
                row.store(binding.position.rawValue, at: 36)
            }
        }
        var first = 0
        while let chunks = rows(from: first, count: 4_096, plan.segments) {
            first += 4_096
            for chunk in chunks {
                try await writer.append(CheckpointLayout.chunkByteCount) { chunk.encode(into: $0) }
            }
            header.chunkCount += UInt64(chunks.count)
            await reactor.yield()
        }
        let pins = tier.state.withLock { state in
            state.pins.map { (state.namespaces.tag(of: $0.key.namespace), $0.key.key, $0.value) }
        }
        for (tag, key, pin) in pins {
            try await writer.append(CheckpointLayout.pinByteCount) { row in
                row.store(tag, at: 0)
                row.store(key, at: 16)
                row.store(pin.until, at: 48)
            }
        }
        header.pinCount = UInt32(pins.count)
        header.pageCount = UInt32(try await writer.finish())
        guard await awaitDeletions(), !hasLostRecords(plan) else { return false }
        // What moved meanwhile is listed nowhere: it must be found in the segment that it is in.
        await synchronizeAll()
        guard faultCount == synchronizationFaultCount else { return false }
        let block = SSDFormat.makeBlocks(1)
        header.encode(into: block.bytes)
        try await write(block, to: writer.file, block: 0)
        return true
    }

    /// Waits until all deletions so far are durable; false when they are not soon.
    ///
    /// A chunk whose deletion were lost would be known to the segments and not to the checkpoint:
    /// absent, so that nobody notes its deletion any more, until a start without the checkpoint.
    private func awaitDeletions() async -> Bool {
        for sequence in tier.unsettledDeletions() {
            while !tier.isSettled(note: sequence) {
                guard isWritable, !isStopping, !isCheckpointVoid,
                    failedNotes[sequence, default: 0] < noteAttemptCountMax
                else { return false }
                await notesChanged.wait()
            }
        }
        return true
    }

    /// Whether records in a segment that is to be spared the next start may be listed nowhere.
    private func hasLostRecords(_ plan: CheckpointPlan) -> Bool {
        tier.state.withLock { state in
            zip(plan.segments, state.segments).contains { listed, segment in
                listed.isSealed && listed.serial == segment.serial && segment.hasUnindexedRecords
            }
        }
    }

    /// The chunks among some rows of the index whose segments are complete, also those whose
    /// records are bad: they may be whole on the disk, and the footers list them. Nil behind the
    /// last row. Those of other segments are found by reading these.
    private func rows(
        from first: Int, count: Int, _ segments: [CheckpointSegment]
    ) -> [CheckpointChunk]? {
        tier.state.withLock { state in
            guard first < state.index.rowCount else { return nil }
            var chunks: [CheckpointChunk] = []
            for row in first..<min(first + count, state.index.rowCount) {
                let entry = state.index[UInt32(row)]
                let slot = Int(entry.segment)
                guard entry.state == .readable || entry.state == .bad, slot < segments.count,
                    segments[slot].isSealed, segments[slot].serial == state.segments[slot].serial
                else { continue }
                chunks.append(
                    CheckpointChunk(
                        key: entry.key, checksum: entry.checksum, segment: UInt32(slot),
                        block: UInt32(entry.block), byteCount: entry.byteCount,
                        binding: UInt32(entry.binding), expiry: entry.expiryMilliseconds))
            }
            return chunks
        }
    }

    // MARK: Reading

    /// Reads the checkpoint, if there is one that counts.
    /// - Returns: the slots of the segments that need not be read, or only for their notes.
    func readCheckpoint(_ recovery: SSDRecovery) async -> [Int: SSDSegment.Coverage]? {
        for lane in lanes {
            do throws(IOFault) {
                guard let byteCount = try lane.directory.byteCount(of: SSDFormat.checkpointName)
                else { continue }
                let file = reactor.attach(
                    try lane.directory.open(SSDFormat.checkpointName, lane.mode))
                defer { file.close() }
                let reader = CheckpointReader<R>(file: file, byteCount: Int(clamping: byteCount))
                guard let header = try await reader.readHeader(),
                    header.store == lane.identity.store
                else { throw .closed }
                return try await read(header, reader, recovery)
            } catch {
                recovery.reset()
                report(
                    SSDEvent(
                        .fault, lane.path,
                        "the checkpoint cannot be used (\(error)): all segments are read instead"))
            }
        }
        return nil
    }

    private func read(
        _ header: CheckpointHeader, _ reader: CheckpointReader<R>, _ recovery: SSDRecovery
    ) async throws(IOFault) -> [Int: SSDSegment.Coverage] {
        let sealedSlots = sealedSlots()
        var slots: [Int?] = []
        var coverage: [Int: SSDSegment.Coverage] = [:]
        for _ in 0..<header.segmentCount {
            let segment = CheckpointSegment(
                try await reader.next(CheckpointLayout.segmentByteCount))
            recovery.note(serial: segment.serial)
            let life = SegmentLife(
                directory: segment.directory, fileSlot: segment.slot, serial: segment.serial)
            let slot = segment.isSealed ? sealedSlots[life] : nil
            slots.append(slot)
            if let slot { coverage[slot] = segment.hasLateNotes ? .chunks : .all }
        }
        var bindings: [SSDBinding?] = []
        for _ in 0..<header.bindingCount {
            let row = try await reader.next(CheckpointLayout.bindingByteCount)
            let level = Level(rawValue: UInt8(clamping: row.load(UInt32.self, at: 32)))
            guard let namespace = tier.namespace(tagged: row.loadTag(at: 0)), let level else {
                bindings.append(nil)
                continue
            }
            bindings.append(
                SSDBinding(
                    namespace: namespace, layout: row.loadLayout(at: 16), level: level,
                    position: CompactPosition(rawValue: row.load(UInt16.self, at: 36))))
        }
        var batch: [(SSDChunk, SSDPlace)] = []
        for _ in 0..<header.chunkCount {
            let chunk = CheckpointChunk(try await reader.next(CheckpointLayout.chunkByteCount))
            guard Int(chunk.segment) < slots.count, Int(chunk.binding) < bindings.count,
                let block = UInt16(exactly: chunk.block)
            else { throw .closed }
            guard let slot = slots[Int(chunk.segment)],
                let binding = bindings[Int(chunk.binding)]
            else { continue }
            batch.append(
                (
                    SSDChunk(chunk, binding),
                    SSDPlace(segment: UInt16(slot), block: block)
                ))
            if batch.count == 4_096 {
                recovery.applyCheckpoint(batch, sequence: header.sequence)
                batch.removeAll(keepingCapacity: true)
            }
        }
        recovery.applyCheckpoint(batch, sequence: header.sequence)
        for _ in 0..<header.pinCount {
            let row = try await reader.next(CheckpointLayout.pinByteCount)
            guard let namespace = tier.namespace(tagged: row.loadTag(at: 0)) else { continue }
            recovery.applyCheckpoint(
                ChunkName(namespace, row.loadKey(at: 16)),
                pinnedUntil: row.load(UInt64.self, at: 48), sequence: header.sequence)
        }
        recovery.note(nextSequence: header.sequence)
        return coverage
    }

    /// Where the sealed segments are that a checkpoint may tell of. One that has begun another life
    /// since has another serial.
    private func sealedSlots() -> [SegmentLife: Int] {
        let tags = lanes.map(\.identity.directory)
        return tier.state.withLock { state in
            var slots: [SegmentLife: Int] = [:]
            for (slot, segment) in state.segments.enumerated() where segment.state == .sealed {
                let life = SegmentLife(
                    directory: tags[segment.directory], fileSlot: segment.fileSlot,
                    serial: segment.serial)
                slots[life] = slot
            }
            return slots
        }
    }
}

/// A segment from its opening to its reclaim: after that it has another serial.
private struct SegmentLife: Hashable {
    let directory: SSDTag
    let fileSlot: UInt32
    let serial: UInt64
}

extension SSDChunk {
    fileprivate init(_ chunk: CheckpointChunk, _ binding: SSDBinding) {
        self.init(
            namespace: binding.namespace, key: chunk.key, layout: binding.layout,
            level: binding.level, position: binding.position, byteCount: Int(chunk.byteCount),
            checksum: chunk.checksum, expiry: chunk.expiry)
    }
}

/// Writes a checkpoint's rows into pages. Confined to the store.
final class CheckpointWriter<R: Reactor> {
    let file: R.File
    private let page = OwnedBytes(
        count: CheckpointLayout.pageByteCount, alignment: SSDFormat.blockByteCount)
    private let row = OwnedBytes(count: 64)
    private var filled = 0
    private var pageCount = 0

    init(file: R.File) { self.file = file }

    var writtenByteCount: Int {
        SSDFormat.blockByteCount + pageCount * CheckpointLayout.pageByteCount
    }

    /// Appends a row that `encode` writes into zeroed memory.
    nonisolated(nonsending) func append(
        _ byteCount: Int, _ encode: (PinnedBytes) -> Void
    ) async throws(IOFault) {
        let bytes = row.bytes.prefix(byteCount)
        bytes.fill(0)
        encode(bytes)
        let first = min(byteCount, CheckpointLayout.runByteCount - filled)
        page.bytes.slice(offset: filled, count: first).copy(from: bytes.prefix(first))
        filled += first
        if filled == CheckpointLayout.runByteCount { try await flush() }
        if first < byteCount {
            page.bytes.prefix(byteCount - first).copy(from: bytes.dropFirst(first))
            filled = byteCount - first
        }
    }

    /// Writes what is left.
    /// - Returns: how many pages there are.
    nonisolated(nonsending) func finish() async throws(IOFault) -> Int {
        if filled > 0 { try await flush() }
        return pageCount
    }

    private nonisolated(nonsending) func flush() async throws(IOFault) {
        page.bytes.slice(
            offset: filled, count: CheckpointLayout.runByteCount - filled
        ).fill(0)
        CheckpointLayout.seal(page.bytes)
        let offset = SSDFormat.blockByteCount + pageCount * CheckpointLayout.pageByteCount
        try await file.write(page.bytes, at: UInt64(offset))
        pageCount += 1
        filled = 0
    }
}

/// Reads a checkpoint's rows out of pages. Confined to the store.
final class CheckpointReader<R: Reactor> {
    private let file: R.File
    private let byteCount: Int
    private let page = OwnedBytes(
        count: CheckpointLayout.pageByteCount, alignment: SSDFormat.blockByteCount)
    private let row = OwnedBytes(count: 64)
    private var taken = CheckpointLayout.runByteCount
    private var pagesRead = 0
    private var pageCount = 0

    init(file: R.File, byteCount: Int) {
        self.file = file
        self.byteCount = byteCount
    }

    /// The header; nil when it is none of ours or the file is too short for it.
    nonisolated(nonsending) func readHeader() async throws(IOFault) -> CheckpointHeader? {
        guard byteCount >= SSDFormat.blockByteCount else { return nil }
        let block = page.bytes.prefix(SSDFormat.blockByteCount)
        try await file.read(into: block, at: 0)
        do throws(SSDFormatFault) {
            let header = try CheckpointHeader.decode(block)
            pageCount = Int(header.pageCount)
            let wanted = SSDFormat.blockByteCount + pageCount * CheckpointLayout.pageByteCount
            return byteCount >= wanted ? header : nil
        } catch {
            return nil
        }
    }

    /// The next row, good until the next call; throws `.closed` for a damaged page.
    nonisolated(nonsending) func next(_ byteCount: Int) async throws(IOFault) -> PinnedBytes {
        if taken + byteCount <= CheckpointLayout.runByteCount, pagesRead > 0 {
            defer { taken += byteCount }
            return page.bytes.slice(offset: taken, count: byteCount)
        }
        let first = pagesRead == 0 ? 0 : CheckpointLayout.runByteCount - taken
        row.bytes.copy(from: page.bytes.slice(offset: taken, count: first))
        try await readPage()
        row.bytes.dropFirst(first).copy(from: page.bytes.prefix(byteCount - first))
        taken = byteCount - first
        return row.bytes.prefix(byteCount)
    }

    private nonisolated(nonsending) func readPage() async throws(IOFault) {
        guard pagesRead < pageCount else { throw .closed }
        let offset = SSDFormat.blockByteCount + pagesRead * CheckpointLayout.pageByteCount
        try await file.read(into: page.bytes, at: UInt64(offset))
        guard CheckpointLayout.isSealed(page.bytes) else { throw .closed }
        pagesRead += 1
        taken = 0
    }
}
