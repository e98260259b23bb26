// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Synchronization

/// Going on in a sealed segment, where none is free and none can be made.
///
/// Each stop and each kill seals the open segment as it is, and the next life opens another. When
/// that happens while reclaim writes into the last free one, what is pinned and what is deleted
/// have nowhere to go, and nothing could be reclaimed any more. But segments that were sealed early
/// have room at their ends, at the least for notes.
extension SSDStore {
    /// Opens the newest sealed segment that has room for a record.
    /// - Returns: whether there was one.
    func reopen(_ lane: SSDLane<R>, for record: RecordSize) async -> Bool {
        // A checkpoint that is out of reach may come back, and tell that the segment is complete.
        guard !tier.state.withLock({ $0.isDirectoryMissing }) else { return false }
        for slot in tier.sealedSegments(directory: lane.number).reversed() {
            guard !isOverdue, lane.isWritable, let handle = files[slot] else { return false }
            let file = reactor.attach(handle)
            let header = header(of: tier.segment(slot), lane)
            if let entries = await footer(of: header, file) {
                let open = OpenSegment<R>(slot: slot, header: header, file: file, entries)
                if open.fits(record), tier.reopenSegment(slot) { return await unseal(open, lane) }
            }
            file.close()
        }
        return false
    }

    private func footer(of header: SegmentHeader, _ file: R.File) async -> [FooterEntry]? {
        do throws(IOFault) {
            let scanner = SegmentScanner<R>(file: file, blockCount: Int(header.blockCount))
            return try await scanner.readFooter(of: header)
        } catch {
            if error == .cancelled { noteEnd() } else { tier.count { $0.readFaultCount += 1 } }
            return nil
        }
    }

    /// Takes back all that says that the segment is complete, the checkpoint first; only then may
    /// it take records.
    private func unseal(_ open: OpenSegment<R>, _ lane: SSDLane<R>) async -> Bool {
        // One that was begun before still counts the segment among the complete ones.
        // It may wait for notes that this is to make room for.
        while isWritingCheckpoint {
            isCheckpointVoid = true
            notesChanged.notify()
            await recordsChanged.wait()
        }
        do throws(IOFault) {
            for lane in lanes where !lane.isGone {
                let checkpoint = SSDFormat.checkpointName
                guard try lane.directory.byteCount(of: checkpoint) != nil else { continue }
                try lane.directory.remove(checkpoint)
                try lane.directory.synchronize()
            }
            try await write(
                SSDFormat.makeBlocks(1), to: open.file, block: Int(open.header.blockCount) - 1)
            try await open.file.synchronize()
        } catch {
            // Whether its trailer is there or not, all its records are found.
            tier.setState(of: open.slot, to: .sealed)
            tier.noteFooterIsLacking(open.slot)
            open.file.close()
            fault(error, lane, "going on in a segment")
            return false
        }
        if let full = lane.open { close(full, lane) }
        lane.unsealed.append(open)
        lane.open = open
        return true
    }
}
