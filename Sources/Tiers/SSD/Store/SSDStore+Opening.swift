// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Synchronization

/// Start: taking the directories, and learning what is in them.
extension SSDStore {
    /// What was found. A value.
    package struct Found: Hashable, Sendable {
        package var directoryCount = 0
        package var segmentCount = 0
        package var chunkCount = 0
        package var scannedSegmentCount = 0
        package var hasCheckpoint = false
    }

    /// A segment that may hold records, at the start.
    fileprivate struct Candidate {
        let slot: Int
        let lane: SSDLane<R>
        let header: SegmentHeader
        var coverage: SSDSegment.Coverage = .none

        /// Those of its entries that a checkpoint did not tell.
        func unknown(_ entries: [FooterEntry]) -> [FooterEntry] {
            coverage == .chunks ? entries.filter { $0.kind != .chunk } : entries
        }
    }

    /// Takes the directories that can be had and rebuilds the index from them.
    ///
    /// What cannot be used is reported and left alone. Nothing may be read or written before this
    /// returns.
    package func open() async -> Found {
        await onOwnTask { await $0.openHere() }
    }

    private func openHere() async -> Found {
        // New directories get the store of those that are there already.
        var newPaths: [String] = []
        for path in configuration.directories where await !openLane(path, mayBeNew: false) {
            newPaths.append(path)
        }
        for path in newPaths { _ = await openLane(path, mayBeNew: true) }
        countFailedDirectories()
        tier.state.withLock { [lanes, configuration] state in
            state.isDirectoryMissing = lanes.count < configuration.directories.count
        }
        let recovery = SSDRecovery(
            tier: tier, wallMilliseconds: tier.wallMilliseconds(reactor.now()))
        var candidates: [Candidate] = []
        for lane in lanes { candidates += await findSegments(lane, recovery) }
        var found = Found()
        let coverage = await readCheckpoint(recovery)
        found.hasCheckpoint = coverage != nil
        for index in candidates.indices {
            candidates[index].coverage = coverage?[candidates[index].slot] ?? .none
        }
        let rest = candidates.filter { $0.coverage != .all }
        found.scannedSegmentCount = await read(rest, recovery)
        recovery.finish()
        if recovery.droppedCount > 0 {
            report(
                SSDEvent(
                    .unavailable, configuration.directories[0],
                    "\(recovery.droppedCount) chunks were left out: the index has room for "
                        + "\(tier.configuration.entryCountMax); raise ssd.capacity"))
        }
        found.directoryCount = lanes.count { !$0.isGone }
        found.segmentCount = candidates.count
        found.chunkCount = tier.statistics().chunkCount
        return found
    }

    // MARK: Directories

    /// Takes a directory, or reports why not.
    /// - Returns: false when it is new and was left alone because it must not be.
    private func openLane(_ path: String, mayBeNew: Bool) async -> Bool {
        var taken: R.Directory?
        do throws(LaneFault) {
            let directory = try open(directory: path)
            taken = directory
            guard let (identity, mode) = try await identify(directory, mayBeNew: mayBeNew) else {
                directory.close()
                return false
            }
            lanes.append(
                SSDLane(
                    number: lanes.count, path: path, directory: directory, identity: identity,
                    mode: mode, segmentCountMax: segmentCountMax(identity)))
        } catch {
            taken?.close()
            report(SSDEvent(.unavailable, path, error.message))
        }
        return true
    }

    /// Why a directory is left out.
    struct LaneFault: Error {
        let message: String
    }

    private func open(directory path: String) throws(LaneFault) -> R.Directory {
        let directory: R.Directory
        do throws(IOFault) {
            directory = try reactor.openDirectory(path)
        } catch {
            throw LaneFault(
                message: "the directory cannot be used (\(error)): make it, and let kvstored's "
                    + "user write to it")
        }
        do throws(IOFault) {
            try directory.lock()
        } catch {
            directory.close()
            throw LaneFault(
                message: error == .busy
                    ? "another kvstored uses the directory: give each its own"
                    : "the directory cannot be locked (\(error)): is it writable?")
        }
        return directory
    }

    /// Segments beside the identity and two checkpoints: the one that counts, and the next.
    private func segmentCountMax(_ identity: SSDIdentity) -> Int {
        let byteCount = Int(identity.segmentBlockCount) * SSDFormat.blockByteCount
        let metadata =
            SSDFormat.blockByteCount
            + 2
            * CheckpointLayout.byteCount(
                entryCount: tier.configuration.entryCountMax,
                segmentCount: configuration.capacity.bytes / byteCount
                    * configuration.directories.count)
        return min(
            max(0, configuration.capacity.bytes - metadata) / byteCount,
            Int(UInt16.max) / configuration.directories.count)
    }

    /// Reads the directory's identity, or gives it one where it `mayBeNew`; nil when it is.
    private func identify(
        _ directory: R.Directory, mayBeNew: Bool
    ) async throws(LaneFault) -> (SSDIdentity, FileMode)? {
        let mode: FileMode
        let identity: Result<SSDIdentity, LaneFault>
        do throws(IOFault) {
            // An empty file is what a crash left that came before the identity.
            let isNew = try (directory.byteCount(of: SSDFormat.identityName) ?? 0) == 0
            let hasSegments = try directory.fileNames().contains {
                SSDFormat.segmentSlot(name: $0) != nil
            }
            guard mayBeNew || !isNew || hasSegments else { return nil }
            if isNew, hasSegments {
                mode = .readWrite
                identity = .failure(
                    LaneFault(
                        message: "there are segments and no store.kvs: this is no store of ours; "
                            + "empty the directory or use another"))
            } else {
                mode = try fileMode(directory)
                identity =
                    isNew
                    ? .success(try await writeIdentity(directory, mode))
                    : try await readIdentity(directory, mode)
            }
        } catch {
            throw LaneFault(
                message: error == .invalidArgument
                    ? "the file system has no O_DIRECT, and ssd.direct_io is require: use ext4 "
                        + "or XFS, or set it to auto"
                    : "store.kvs cannot be read or written (\(error))")
        }
        return (try identity.get(), mode)
    }

    private func fileMode(_ directory: R.Directory) throws(IOFault) -> FileMode {
        guard configuration.directIO != .off else { return .readWrite }
        do throws(IOFault) {
            _ = try directory.open(SSDFormat.identityName, .readWriteDirect)
            return .readWriteDirect
        } catch {
            guard error == .invalidArgument, configuration.directIO == .automatic else {
                throw error
            }
            report(
                SSDEvent(
                    .bufferedIO, directory.path,
                    "the file system has no O_DIRECT: reads and writes go through the kernel's "
                        + "cache, slower and with memory beside the budget; use ext4 or XFS"))
            return .readWrite
        }
    }

    private func readIdentity(
        _ directory: R.Directory, _ mode: FileMode
    ) async throws(IOFault) -> Result<SSDIdentity, LaneFault> {
        let file = reactor.attach(try directory.open(SSDFormat.identityName, mode))
        defer { file.close() }
        let scanner = SegmentScanner<R>(file: file, blockCount: 1)
        let block = try await scanner.readHeaderBlock()
        do throws(SSDFormatFault) {
            let identity = try SSDIdentity.decode(block)
            if let other = lanes.first, other.identity.store != identity.store {
                return .failure(
                    LaneFault(
                        message: "the directory belongs to another store than \(other.path): "
                            + "nothing in it was touched"))
            }
            if let other = lanes.first(where: { $0.identity.directory == identity.directory }) {
                return .failure(
                    LaneFault(
                        message: "the directory is a copy of \(other.path): nothing in it was "
                            + "touched; empty it to use it"))
            }
            return .success(identity)
        } catch {
            return .failure(
                LaneFault(
                    message:
                        "store.kvs: \(error.explanation); nothing was touched; empty the directory "
                        + "to use it"))
        }
    }

    private func writeIdentity(
        _ directory: R.Directory, _ mode: FileMode
    ) async throws(IOFault) -> SSDIdentity {
        let identity = SSDIdentity(
            store: lanes.first?.identity.store ?? newStore,
            directory: SSDTag(random: reactor.randomBits),
            segmentBlockCount: UInt32(
                configuration.segmentByteCount.bytes / SSDFormat.blockByteCount),
            created: tier.wallMilliseconds(reactor.now()))
        // Under another name until it is whole: a damaged one would shut the directory for good.
        let file = reactor.attach(try directory.open(SSDFormat.identityDraftName, mode))
        defer { file.close() }
        let block = SSDFormat.makeBlocks(1)
        identity.encode(into: block.bytes)
        try await write(block, to: file, block: 0)
        try await file.synchronize()
        try directory.rename(SSDFormat.identityDraftName, to: SSDFormat.identityName)
        try directory.synchronize()
        return identity
    }

    // MARK: Segments

    private func findSegments(
        _ lane: SSDLane<R>, _ recovery: SSDRecovery
    ) async -> [Candidate] {
        let names: [String]
        do throws(IOFault) {
            names = try lane.directory.fileNames().sorted()
        } catch {
            // New segments could not be told from those that are there.
            lane.isGone = true
            lane.directory.close()
            tier.state.withLock { $0.isDirectoryMissing = true }
            countFailedDirectories()
            report(SSDEvent(.unavailable, lane.path, "the directory cannot be listed (\(error))"))
            return []
        }
        var candidates: [Candidate] = []
        let number = lane.number
        var inspections: [(String, UInt32, Task<Inspection, Never>)] = []
        // The next ones are read while one is looked at.
        func begin(_ name: String) {
            guard let fileSlot = SSDFormat.segmentSlot(name: name), !isEmpty(name, lane) else {
                return
            }
            lane.fileSlots.insert(fileSlot)
            let inspection = Task(executorPreference: reactor.executor) {
                await self.inspect(name, fileSlot, lane: number)
            }
            inspections.append((name, fileSlot, inspection))
        }
        var next = 0
        var done = 0
        while done < inspections.count || next < names.count {
            while next < names.count, inspections.count - done < inspectionCountMax {
                begin(names[next])
                next += 1
            }
            guard done < inspections.count else { continue }
            let (name, fileSlot, inspection) = inspections[done]
            done += 1
            switch await inspection.value {
            case .foreign(let why):
                tier.count { $0.foreignFileCount += 1 }
                report(SSDEvent(.foreignFile, lane.path, "\(name) was left alone: \(why)"))
            case .unreadable(let fault):
                lane.hasUnreadableSegments = true
                tier.count { $0.readFaultCount += 1 }
                tier.state.withLock { $0.isDirectoryMissing = true }
                report(SSDEvent(.fault, lane.path, "\(name) cannot be read (\(fault))"))
            case .usable(let header, let handle):
                if let candidate = take(header, handle, fileSlot, lane) {
                    candidates.append(candidate)
                }
            }
        }
        return candidates
    }

    /// Whether a file was made and nothing else: then it is made anew when it is needed.
    private func isEmpty(_ name: String, _ lane: SSDLane<R>) -> Bool {
        do throws(IOFault) {
            return try lane.directory.byteCount(of: name) == 0
        } catch {
            return false
        }
    }

    private enum Inspection: Sendable {
        case usable(SegmentHeader?, R.Directory.Handle)
        case foreign(String)
        case unreadable(IOFault)
    }

    private func inspect(
        _ name: String, _ fileSlot: UInt32, lane number: Int
    ) async -> Inspection {
        let lane = lanes[number]
        do throws(IOFault) {
            let byteCount = try lane.directory.byteCount(of: name) ?? 0
            guard byteCount == UInt64(lane.segmentBlockCount * SSDFormat.blockByteCount) else {
                return .foreign("it has \(byteCount) bytes, not those of a segment")
            }
            let handle = try lane.directory.open(name, lane.mode)
            let file = reactor.attach(handle)
            defer { file.close() }
            let scanner = SegmentScanner<R>(file: file, blockCount: 1)
            let block = try await scanner.readHeaderBlock()
            do throws(SSDFormatFault) {
                return .usable(
                    try SegmentHeader.decode(block, slot: fileSlot, of: lane.identity), handle)
            } catch {
                // Made and never opened, or torn while it was opened or erased: then nothing in
                // it counts.
                if SegmentHeader.isBlankOrTorn(block, of: lane.identity) {
                    return .usable(nil, handle)
                }
                return .foreign(error.explanation)
            }
        } catch {
            return .unreadable(error)
        }
    }

    private func take(
        _ header: SegmentHeader?, _ handle: R.Directory.Handle, _ fileSlot: UInt32,
        _ lane: SSDLane<R>
    ) -> Candidate? {
        var segment = SSDSegment(
            directory: lane.number, fileSlot: fileSlot,
            state: header?.state == .inUse ? .sealed : .free)
        segment.serial = header?.serial ?? 0
        segment.nonce = header?.nonce ?? 0
        segment.firstSequence = header?.firstSequence ?? 0
        guard let slot = tier.addSegment(segment) else { return nil }
        lane.segmentCount += 1
        files[slot] = handle
        tier.state.withLock { $0.nextSerial = max($0.nextSerial, segment.serial + 1) }
        guard let header, header.state == .inUse else { return nil }
        return Candidate(slot: slot, lane: lane, header: header)
    }

    /// Reads the records of segments, sixteen at a time.
    /// - Returns: how many had no footer.
    private func read(_ candidates: [Candidate], _ recovery: SSDRecovery) async -> Int {
        let queue = RecoveryQueue<R>(candidates)
        var workers: [Task<Void, Never>] = []
        for _ in 0..<min(16, candidates.count) {
            workers.append(
                Task(executorPreference: reactor.executor) {
                    await self.work(queue, recovery)
                })
        }
        for worker in workers { await worker.value }
        return queue.scannedCount
    }

    private func work(_ queue: RecoveryQueue<R>, _ recovery: SSDRecovery) async {
        let window = SegmentScanner<R>.makeWindow(blockCount: SSDFormat.segmentBlockCountMax)
        while let candidate = queue.next() {
            if await read(candidate, recovery, window) { queue.scannedCount += 1 }
        }
    }

    private func read(
        _ candidate: Candidate, _ recovery: SSDRecovery, _ window: OwnedBytes
    ) async -> Bool {
        guard let handle = files[candidate.slot] else { return false }
        let file = reactor.attach(handle)
        defer { file.close() }
        let scanner = SegmentScanner<R>(
            file: file, blockCount: Int(candidate.header.blockCount), window: window)
        do throws(IOFault) {
            recovery.note(nextSequence: candidate.header.firstSequence)
            if let entries = try await scanner.readFooter(of: candidate.header) {
                recovery.apply(candidate.unknown(entries), ofSegment: candidate.slot)
                return false
            }
            let entries = try await scanner.scan(candidate.header, verifying: true)
            recovery.apply(candidate.unknown(entries), ofSegment: candidate.slot)
            await sealAgain(candidate, entries, file)
            return true
        } catch {
            // Its notes are unknown, so deletions stay noted; its chunks are misses for this run.
            tier.setState(of: candidate.slot, to: .unknown)
            tier.count { $0.readFaultCount += 1 }
            report(
                SSDEvent(
                    .fault, candidate.lane.path,
                    "\(SSDFormat.segmentName(slot: candidate.header.slot)) cannot be read "
                        + "(\(error)): its chunks are out of reach"))
            return false
        }
    }

    /// Gives a segment that was found open the footer that it lacks.
    private func sealAgain(
        _ candidate: Candidate, _ entries: [FooterEntry], _ file: R.File
    ) async {
        let open = OpenSegment<R>(slot: candidate.slot, header: candidate.header, file: file)
        open.entries = entries
        do throws(IOFault) {
            // What was read may be in the device's cache alone.
            try await file.synchronize()
            try await writeFooter(open)
        } catch {
            tier.noteFooterIsLacking(candidate.slot)
            fault(error, candidate.lane, "sealing a segment")
        }
    }
}

/// Segment files whose headers are read at once.
private let inspectionCountMax = 32

/// Hands out segments to workers of one executor.
// SAFETY: confined to the store's executor; it crosses to tasks that run there alone.
@safe
private final class RecoveryQueue<R: Reactor>: @unchecked Sendable {
    private var nextIndex = 0
    private let candidates: [SSDStore<R>.Candidate]
    var scannedCount = 0

    init(_ candidates: [SSDStore<R>.Candidate]) { self.candidates = candidates }

    func next() -> SSDStore<R>.Candidate? {
        guard nextIndex < candidates.count else { return nil }
        defer { nextIndex += 1 }
        return candidates[nextIndex]
    }
}
