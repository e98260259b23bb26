// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Kernels

/// Opening, synchronizing and sealing segments.
extension SSDStore {
    /// Free segments that a lane tries to have: one for reclaim itself, one to go on with.
    static var freeSegmentCountWanted: Int { 2 }

    // MARK: Opening

    enum Roll {
        case opened
        case failed
        /// What there is, is for reclaim and for deletions: reclaim must make room first.
        case noRoom
    }

    /// Closes the lane's segment and opens another; the caller has set `isRolling`, which ends
    /// here. Does not wait for reclaim, which may have to open a segment itself.
    func roll(_ lane: SSDLane<R>, for record: RecordSize, forReclaim: Bool) async -> Roll {
        defer {
            lane.isRolling = false
            lane.changed.notify()
        }
        guard !isOverdue else { return .failed }
        // The last free segment is for what reclaim writes again, and for deletions.
        let freeCountWanted = forReclaim ? 1 : 2
        while tier.freeSegmentCount(directory: lane.number) < freeCountWanted {
            if grow(lane) { continue }
            guard forReclaim, await reopen(lane, for: record) else { return .noRoom }
            startReclaim(lane)
            return .opened
        }
        if let full = lane.open { close(full, lane) }
        let isOpen = await openNext(lane)
        if tier.freeSegmentCount(directory: lane.number) < Self.freeSegmentCountWanted {
            startReclaim(lane)
        }
        return isOpen ? .opened : .failed
    }

    /// Makes another segment's file, as far as capacity and the file system allow.
    func grow(_ lane: SSDLane<R>) -> Bool {
        guard lane.segmentCount < lane.segmentCountMax else { return false }
        let fileSlot = lane.unusedFileSlot
        let name = SSDFormat.segmentName(slot: fileSlot)
        do throws(IOFault) {
            guard try hasRoomForSegment(lane) else { throw .noSpace }
            let handle = try makeFile(name, lane)
            let segment = SSDSegment(directory: lane.number, fileSlot: fileSlot, state: .free)
            guard let slot = tier.addSegment(segment) else { return false }
            files[slot] = handle
            lane.segmentCount += 1
            lane.fileSlots.insert(fileSlot)
            lane.growthFault = nil
            return true
        } catch {
            noteGrowth(error, fileSlot, lane)
            return false
        }
    }

    private func noteGrowth(_ error: IOFault, _ fileSlot: UInt32, _ lane: SSDLane<R>) {
        guard error != .inputOutput, error != .readOnlyFileSystem else {
            fault(error, lane, "making \(SSDFormat.segmentName(slot: fileSlot))")
            return
        }
        if !lane.isFull {
            report(
                SSDEvent(
                    .diskFull, lane.path,
                    "no room for another segment (\(error)): the tier stays at "
                        + "\(lane.segmentCount) segments; free space, or lower ssd.reserve"))
        }
        // Something else has that name: a folder, or a link.
        if error != .noSpace { lane.fileSlots.insert(fileSlot) }
        lane.growthFault = error
    }

    private func makeFile(
        _ name: String, _ lane: SSDLane<R>
    ) throws(IOFault) -> R.Directory.Handle {
        try lane.directory.preallocate(
            name, byteCount: UInt64(lane.segmentBlockCount * SSDFormat.blockByteCount))
        do throws(IOFault) {
            let handle = try lane.directory.open(name, lane.mode)
            try lane.directory.synchronize()
            return handle
        } catch {
            // Nobody would know of it until the next start.
            try lane.directory.remove(name)
            throw error
        }
    }

    /// Whether the file system has room for another segment besides what it keeps free.
    func hasRoomForSegment(_ lane: SSDLane<R>) throws(IOFault) -> Bool {
        let byteCount = UInt64(lane.segmentBlockCount * SSDFormat.blockByteCount)
        return try lane.directory.freeByteCount() >= byteCount
            + UInt64(configuration.reserve.bytes)
    }

    private func openNext(_ lane: SSDLane<R>) async -> Bool {
        guard
            let (slot, segment) = tier.openSegment(
                directory: lane.number, nonce: reactor.randomBits()),
            let handle = files[slot]
        else { return false }
        let header = SegmentHeader(
            state: .inUse, store: lane.identity.store, slot: segment.fileSlot,
            blockCount: lane.identity.segmentBlockCount, serial: segment.serial,
            nonce: segment.nonce, firstSequence: segment.firstSequence,
            opened: tier.wallMilliseconds(reactor.now()))
        let file = reactor.attach(handle)
        let block = SSDFormat.makeBlocks(1)
        header.encode(into: block.bytes)
        do throws(IOFault) {
            try await write(block, to: file, block: 0)
        } catch {
            // Whether the header is there or not, nothing follows it.
            file.close()
            tier.setState(of: slot, to: .stuck)
            fault(error, lane, "opening a segment")
            return false
        }
        let open = OpenSegment<R>(slot: slot, header: header, file: file)
        lane.open = open
        lane.unsealed.append(open)
        return true
    }

    // MARK: Synchronizing

    /// Makes everything durable that the lane has written before this call; see
    /// `OpenSegment.isDamaged` for what could not be.
    func synchronize(_ lane: SSDLane<R>) async -> Bool {
        let round = lane.roundsStarted + 1
        while lane.roundsEnded < round {
            guard !lane.isSynchronizing else {
                await lane.changed.wait()
                continue
            }
            // Here and not in the call: another task may run before a call begins.
            lane.isSynchronizing = true
            await runRound(lane)
        }
        return lane.retryAt == nil
    }

    /// The same for all lanes.
    func synchronizeAll() async {
        for lane in lanes where !lane.isGone { _ = await synchronize(lane) }
    }

    private func runRound(_ lane: SSDLane<R>) async {
        lane.roundsStarted += 1
        for open in lane.unsealed where open.hasUnsynchronizedEntries {
            await synchronize(open, lane)
        }
        lane.roundsEnded = lane.roundsStarted
        lane.isSynchronizing = false
        lane.changed.notify()
    }

    private func synchronize(_ open: OpenSegment<R>, _ lane: SSDLane<R>) async {
        let count = open.entries.count
        do throws(IOFault) {
            try await open.file.synchronize()
            open.noteSynchronized(entryCount: count)
            noteSuccess(lane)
        } catch {
            // The kernel may have dropped any of these writes, and will not try again.
            open.isDamaged = true
            synchronizationFaultCount += 1
            for (entry, origin) in open.takeUnsynchronized() where entry.kind == .chunk {
                guard let namespace = tier.namespace(tagged: entry.namespace) else { continue }
                let name = ChunkName(namespace, entry.key)
                let place = SSDPlace(segment: UInt16(open.slot), block: UInt16(entry.block))
                if let origin {
                    tier.moveBack(name, from: place, to: origin)
                } else {
                    tier.fail(name, at: place)
                    memory.isNotStored(name, waits: true)
                }
            }
            abandon(open, lane, error, "a synchronization")
        }
    }

    // MARK: Sealing

    /// Takes no more records in the lane's open segment, and seals it when all are written.
    func close(_ open: OpenSegment<R>, _ lane: SSDLane<R>) {
        open.isClosed = true
        guard lane.open === open else { return }
        lane.open = nil
        let (number, slot) = (lane.number, open.slot)
        spawn { store in
            let lane = store.lanes[number]
            if let open = lane.unsealed.first(where: { $0.slot == slot }) {
                await store.seal(open, lane)
            }
        }
    }

    /// Writes the footer of a segment that takes no more records.
    func seal(_ open: OpenSegment<R>, _ lane: SSDLane<R>) async {
        open.isClosed = true
        while open.pendingCount > 0 {
            await recordsChanged.wait()
        }
        guard !open.isSealed else { return }
        open.isSealed = true
        // What a footer lists is durable before the footer is there.
        _ = await synchronize(lane)
        var hasFooter = false
        do throws(IOFault) {
            if !open.isDamaged {
                try await writeFooter(open)
                hasFooter = true
            }
        } catch {
            // It is read like an open one at the next start.
            fault(error, lane, "sealing a segment")
        }
        lane.unsealed.removeAll { $0 === open }
        open.file.close()
        tier.closeSegment(open.slot, nextSequence: open.nextSequence, hasFooter: hasFooter)
        sealedCount += 1
        lane.changed.notify()
    }

    func writeFooter(_ open: OpenSegment<R>) async throws(IOFault) {
        let entries = open.entries.sorted {
            ($0.block, $0.sequence) < ($1.block, $1.sequence)
        }
        let blockCount = FooterTable.blockCount(entryCount: entries.count)
        let table = SSDFormat.makeBlocks(blockCount)
        FooterTable.encode(
            entries, of: open.header, nextSequence: open.nextSequence, into: table.bytes)
        let first = Int(open.header.blockCount) - blockCount
        try await write(table, to: open.file, block: first)
        try await open.file.synchronize()
        tier.count { $0.writtenByteCount += blockCount * SSDFormat.blockByteCount }
    }

    /// Writes blocks of metadata; they live as long as the call.
    func write(
        _ blocks: OwnedBytes, to file: R.File, block: Int
    ) async throws(IOFault) {
        try await file.write(blocks.bytes, at: UInt64(block * SSDFormat.blockByteCount))
    }
}
