// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// What has to be done now and then.
extension SSDStore {
    /// Looks after the lanes until the store stops.
    func maintain() async {
        var round = 0
        while !isStopping {
            guard await pause(milliseconds: configuration.roundMilliseconds) else { return }
            round += 1
            for lane in lanes where !lane.isGone { await maintain(lane, round: round) }
            // Chunks that were admitted by a read, which rings no bell.
            if memory.hasDemotions || tier.hasNotes { work.notify() }
            if round.isMultiple(of: 10) {
                tier.endPins(by: tier.wallMilliseconds(reactor.now()))
                if isCheckpointDue { spawn { await $0.writeCheckpoint() } }
            }
        }
    }

    private func maintain(_ lane: SSDLane<R>, round: Int) async {
        if let retryAt = lane.retryAt, retryAt <= reactor.now() {
            lane.retryAt = nil
            countFailedDirectories()
            lane.changed.notify()
            work.notify()
        }
        guard lane.retryAt == nil else { return }
        if lane.hasNoRoomForNotes {
            lane.hasNoRoomForNotes = false
            work.notify()
        }
        // What nobody asked to be durable is so within a second or two all the same.
        if round.isMultiple(of: 10), lane.unsealed.contains(where: \.hasUnsynchronizedEntries) {
            _ = await synchronize(lane)
        }
        if round.isMultiple(of: 10) { await eraseStuck(lane) }
        if round.isMultiple(of: 100) { noticeRoom(lane) }
        if lane.segmentCount > lane.segmentCountMax { shrink(lane) }
        if !isStopping, wantsReclaim(lane) { startReclaim(lane) }
    }

    /// A lane that stood still works again.
    func noteSuccess(_ lane: SSDLane<R>) {
        guard lane.faultCount > 0, lane.retryAt == nil else { return }
        lane.faultCount = 0
        report(SSDEvent(.recovered, lane.path, "writing works again"))
    }

    /// Others may have given space back that was missing.
    private func noticeRoom(_ lane: SSDLane<R>) {
        guard lane.growthFault == .noSpace else { return }
        do throws(IOFault) {
            if try hasRoomForSegment(lane) { lane.growthFault = nil }
        } catch {
            // It shows with the next segment.
        }
    }

    /// Tries once more to erase segments whose header could not be written.
    private func eraseStuck(_ lane: SSDLane<R>) async {
        for (slot, segment) in tier.segments().enumerated()
        where segment.directory == lane.number && segment.state == .stuck && lane.retryAt == nil {
            await eraseAgain(slot, lane)
        }
    }

    /// Gives free segments' space back: the capacity was lowered. Reclaim and deletions keep
    /// what they need.
    private func shrink(_ lane: SSDLane<R>) {
        for (slot, segment) in tier.segments().enumerated()
        where segment.directory == lane.number && segment.state == .free {
            guard lane.segmentCount > lane.segmentCountMax, lane.retryAt == nil,
                tier.freeSegmentCount(directory: lane.number) > Self.freeSegmentCountWanted
            else { return }
            remove(slot, lane)
        }
    }

    private func remove(_ slot: Int, _ lane: SSDLane<R>) {
        let name = SSDFormat.segmentName(slot: tier.segment(slot).fileSlot)
        do throws(IOFault) {
            try lane.directory.remove(name)
            try lane.directory.synchronize()
        } catch {
            fault(error, lane, "removing \(name)")
            // It may be gone all the same, and with it what would be written to it.
            if isThere(name, lane) { return }
        }
        files[slot] = nil
        lane.fileSlots.remove(tier.segment(slot).fileSlot)
        lane.segmentCount -= 1
        tier.setState(of: slot, to: .removed)
    }

    private func isThere(_ name: String, _ lane: SSDLane<R>) -> Bool {
        do throws(IOFault) {
            return try lane.directory.byteCount(of: name) != nil
        } catch {
            return false
        }
    }

    /// Whether enough was sealed that the next start would take long without a checkpoint, and so
    /// much that writing one adds little.
    private var isCheckpointDue: Bool {
        guard let lane = lanes.first, !isCheckpointAwaited else { return false }
        let sealed = sealedCount * lane.segmentBlockCount * SSDFormat.blockByteCount
        let checkpoint = tier.statistics().chunkCount * CheckpointLayout.chunkByteCount
        return sealedCount >= configuration.checkpointSegmentCount && sealed >= 32 * checkpoint
    }

    // MARK: Evacuation

    /// Begins to move all chunks of a directory to the others, and to give it up.
    /// - Returns: `ok` when it begins, `notFound`, `busy` when it is under way, `unsupported` when
    ///   no other directory takes chunks.
    package func beginEvacuation(_ path: String) -> Status {
        guard let lane = lanes.first(where: { $0.path == path && !$0.isGone }) else {
            return .notFound
        }
        guard !lane.isEvacuating else { return .busy }
        guard lanes.contains(where: { $0 !== lane && $0.isWritable }) else { return .unsupported }
        lane.isEvacuating = true
        lane.changed.notify()
        let number = lane.number
        spawn { store in
            let lane = store.lanes[number]
            if await store.moveAll(of: lane) {
                await store.leave(lane)
            } else {
                store.giveUpEvacuation(lane)
            }
        }
        return .ok
    }

    private func moveAll(of lane: SSDLane<R>) async -> Bool {
        while lane.isReclaiming || lane.isRolling { await lane.changed.wait() }
        if let open = lane.open { close(open, lane) }
        while !lane.unsealed.isEmpty, lane.retryAt == nil { await lane.changed.wait() }
        for slot in tier.segments().indices {
            let segment = tier.segment(slot)
            guard segment.directory == lane.number, segment.state == .sealed else { continue }
            guard !isStopping, await empty(slot, lane, .elsewhere) else { return false }
        }
        for slot in tier.segments().indices
        where tier.segment(slot).directory == lane.number && tier.segment(slot).state == .free {
            remove(slot, lane)
        }
        // What could not be read is lost to all when the directory has no identity any more.
        return lane.segmentCount == 0 && !lane.hasUnreadableSegments
    }

    private func giveUpEvacuation(_ lane: SSDLane<R>) {
        lane.isEvacuating = false
        lane.changed.notify()
        report(
            SSDEvent(
                .fault, lane.path, "the directory could not be emptied; it goes on in use"))
    }

    private func leave(_ lane: SSDLane<R>) async {
        lane.isGone = true
        lane.changed.notify()
        await writeCheckpoint()
        for name in [SSDFormat.checkpointName, SSDFormat.identityName] {
            do throws(IOFault) {
                if try lane.directory.byteCount(of: name) != nil {
                    try lane.directory.remove(name)
                }
            } catch {
                report(SSDEvent(.fault, lane.path, "\(name) cannot be removed (\(error))"))
            }
        }
        lane.directory.close()
        report(
            SSDEvent(
                .finished, lane.path,
                "the directory is empty and no longer used: remove it from ssd.directories"))
    }

    // MARK: Status

    /// What an operator wants to know, as names and values.
    package func status() -> [(name: String, value: String)] {
        var rows: [(String, String)] = []
        let segments = tier.segments()
        for lane in lanes {
            let own = segments.filter { $0.directory == lane.number }
            func count(_ states: SSDSegment.State...) -> Int {
                own.count { states.contains($0.state) }
            }
            let state =
                lane.isGone
                ? "left"
                : lane.isEvacuating
                    ? "evacuating" : lane.retryAt != nil ? "standing still after a fault" : "ok"
            let live = own.reduce(0) { $0 + $1.liveByteCount }
            let name = "directory_\(lane.number)_"
            rows.append((name + "path", lane.path))
            rows.append((name + "state", state))
            rows.append((name + "io", lane.mode == .readWriteDirect ? "direct" : "buffered"))
            rows.append((name + "segments", "\(lane.segmentCount)"))
            rows.append((name + "segments_max", "\(lane.segmentCountMax)"))
            rows.append((name + "segments_free", "\(count(.free))"))
            rows.append((name + "segments_out_of_reach", "\(count(.stuck, .unknown))"))
            rows.append(
                (name + "segment_bytes", "\(lane.segmentBlockCount * SSDFormat.blockByteCount)"))
            rows.append((name + "chunk_bytes", "\(live)"))
        }
        let statistics = tier.statistics()
        rows.append(("chunks", "\(statistics.chunkCount)"))
        rows.append(("chunk_bytes", "\(statistics.chunkByteCount)"))
        rows.append(("pins", "\(statistics.pinCount)"))
        rows.append(("written_bytes", "\(statistics.writtenByteCount)"))
        rows.append(
            (
                "written_bytes_per_chunk_byte",
                ratio(statistics.writtenByteCount, statistics.payloadWrittenByteCount)
            ))
        rows.append(
            (
                "written_bytes_per_read_byte",
                ratio(statistics.writtenByteCount, statistics.readByteCount)
            ))
        rows.append(("scrub", scrub.description))
        return rows
    }
}

/// Two digits of a ratio; `-` when there is none yet.
private func ratio(_ numerator: Int, _ denominator: Int) -> String {
    guard denominator > 0 else { return "-" }
    let hundredths = numerator * 100 / denominator
    return "\(hundredths / 100).\(hundredths / 10 % 10)\(hundredths % 10)"
}
