// SPDX-License-Identifier: Apache-2.0
package import KVCore
internal import Kernels

/// Reads chunks from SSD into memory, on the thread of the connection that wants them: from the
/// disk straight to the place in the arena from which they are sent or lent.
///
/// One for each shard. Chunks that several requests want at once are read once. Every byte is
/// checked against the checksum that the index has before anybody sees it.
package actor SSDReader<R: Reactor> {
    package nonisolated let reactor: R
    private nonisolated let tier: SSDTier
    private nonisolated let memory: RAMTier
    private nonisolated let files: SSDFiles<R.Directory.Handle>
    private nonisolated let promotion: Promotion
    private nonisolated let report: @Sendable (SSDEvent) -> Void
    private var attached: [R.File?] = []
    /// The removals of files that `attached` has followed.
    private var removalCount = 0
    private var loads: [ChunkName: Load] = [:]
    private var readCount = 0
    private let turns = Signal()

    /// Which place in memory a chunk gets that was read.
    package enum Promotion: Sendable {
        /// As if it had been stored just now.
        case always
        /// The first to go, unless it is used again while it is there.
        case secondUse
    }

    /// Reads that a shard has under way at once: enough to fill a disk's queue.
    private static var readCountMax: Int { 32 }

    package nonisolated var unownedExecutor: UnownedSerialExecutor {
        // SAFETY: the reader keeps its reactor, and with it the executor, alive.
        unsafe reactor.executor.asUnownedSerialExecutor()
    }

    package init(
        reactor: R, tier: SSDTier, memory: RAMTier, files: SSDFiles<R.Directory.Handle>,
        promotion: Promotion, report: @escaping @Sendable (SSDEvent) -> Void
    ) {
        self.reactor = reactor
        self.tier = tier
        self.memory = memory
        self.files = files
        self.promotion = promotion
        self.report = report
    }

    // MARK: Whole chunks

    /// A chunk that is being read, for all who want it.
    private final class Load {
        let task: Task<Result<Hold, Status>, Never>
        /// Who has not taken a hold of its own yet.
        var waiterCount = 0

        init(_ task: Task<Result<Hold, Status>, Never>) { self.task = task }
    }

    /// A hold on a chunk, from memory or read for it, that the caller releases; or why there is
    /// none: `notFound`, `busy` when memory has no room, `deadlineExceeded`.
    package func obtain(
        _ name: ChunkName, deadline: Instant
    ) async -> Result<Hold, Status> {
        let began = reactor.now()
        while true {
            let now = reactor.now()
            if let held = memory.hold(name.namespace, name.key, now: now) {
                return .success(held.escape())
            }
            guard now < deadline else { return .failure(.deadlineExceeded) }
            let load = loads[name] ?? beginLoad(name, deadline: deadline)
            load.waiterCount += 1
            let result = await load.task.value
            load.waiterCount -= 1
            if loads[name] === load, load.waiterCount == 0 || result.isFailure { loads[name] = nil }
            // It may have been the deadline of another who wanted the chunk too.
            if result == .failure(.deadlineExceeded) { continue }
            guard case .success(let hold) = result else { return result }
            // The last one takes the load's own hold over.
            let own = load.waiterCount == 0 ? hold : memory.holdAgain(hold)
            // Others may have wanted it while it lived.
            guard memory.description(of: own).expiry > began else {
                memory.release(own)
                return .failure(.notFound)
            }
            return .success(own)
        }
    }

    private func beginLoad(_ name: ChunkName, deadline: Instant) -> Load {
        let load = Load(
            Task(executorPreference: reactor.executor) {
                await self.read(name, deadline: deadline)
            })
        loads[name] = load
        return load
    }

    private func read(_ name: ChunkName, deadline: Instant) async -> Result<Hold, Status> {
        while readCount >= Self.readCountMax { await turns.wait() }
        readCount += 1
        defer {
            readCount -= 1
            turns.notify()
        }
        // A chunk that reclaim moves meanwhile, or that another thread reads, is looked for again.
        for _ in 0..<readAttemptCountMax {
            let now = reactor.now()
            guard now < deadline else { return .failure(.deadlineExceeded) }
            if let held = memory.hold(name.namespace, name.key, now: now) {
                return .success(held.escape())
            }
            guard
                let located = tier.locate(name.namespace, name.key, now: now, asUse: .counts)
            else { return .failure(.notFound) }
            let reservation: Reservation
            switch await reserve(ChunkProposal(name, located.description), deadline) {
            case .reserved(let reserved): reservation = reserved
            case .refused(.exists): continue
            case .refused(let status): return .failure(status)
            case .callAgain: return .failure(.deadlineExceeded)
            }
            guard let checksum = await readPayload(at: located.place, into: reservation.bytes)
            else {
                _ = consume reservation
                guard tier.isAt(located.place, name) else { continue }
                return .failure(.notFound)
            }
            if checksum == located.description.checksum {
                let origin = ChunkOrigin.ssd(isCold: promotion == .secondUse)
                if let hold = tier.commit(reservation, name, readFrom: located, origin) {
                    return .success(hold)
                }
                continue
            }
            _ = consume reservation
            guard tier.isAt(located.place, name) else { continue }
            tier.condemn(located.place, name)
            reportMismatch(located.place)
            return .failure(.notFound)
        }
        return .failure(.busy)
    }

    private func reserve(
        _ proposal: ChunkProposal, _ deadline: Instant
    ) async -> RAMTier.ReserveResult {
        while true {
            let now = reactor.now()
            switch memory.reserve(proposal, now: now) {
            case .reserved(let reservation): return .reserved(reservation)
            case .refused(let status): return .refused(status)
            case .callAgain where now >= deadline: return .callAgain
            case .callAgain: await reactor.yield()
            }
        }
    }

    /// Reads a chunk's bytes and gives their checksum; nil when the read failed.
    ///
    /// Piece by piece, so that the checksum of one is computed while the next are read, and other
    /// tasks of the thread run in between.
    private func readPayload(at place: SSDPlace, into bytes: PinnedBytes) async -> UInt64? {
        let whole = memory.wholeGranules(of: bytes)
        let pieceByteCount =
            readCount <= fewReadCount ? Limits.pieceByteCountShared : Limits.pieceByteCountAlone
        guard bytes.count > pieceByteCount else {
            let isRead = await readPiece(place, 0, whole)
            return isRead ? Checksum.of(bytes) : nil
        }
        var reads: [Task<Bool, Never>] = []
        for offset in stride(from: 0, to: whole.count, by: pieceByteCount) {
            let piece = whole.slice(
                offset: offset, count: min(pieceByteCount, whole.count - offset))
            reads.append(
                Task(executorPreference: reactor.executor) {
                    await self.readPiece(place, offset, piece)
                })
        }
        let checksum = StreamingChecksum()
        var isRead = true
        for (index, read) in reads.enumerated() {
            isRead = await read.value && isRead
            let offset = index * pieceByteCount
            if isRead {
                checksum.add(
                    bytes.slice(offset: offset, count: min(pieceByteCount, bytes.count - offset)))
            }
        }
        return isRead ? checksum.value : nil
    }

    private func readPiece(
        _ place: SSDPlace, _ offset: Int, _ bytes: PinnedBytes
    ) async -> Bool {
        do throws(IOFault) {
            try await file(of: place).read(
                into: bytes, at: (UInt64(place.block) + 1) * blockByteCount + UInt64(offset))
            tier.noteRead(byteCount: bytes.count, faulted: false)
            return true
        } catch {
            tier.noteRead(byteCount: 0, faulted: true)
            return false
        }
    }

    // MARK: Parts of chunks

    /// Bytes of a chunk that were read for one request. Dropping it frees the memory.
    package struct Part: ~Copyable, Sendable {
        private let memory: Reservation
        /// The bytes that were asked for.
        package let bytes: PinnedBytes

        init(memory: consuming Reservation, bytes: PinnedBytes) {
            self.memory = memory
            self.bytes = bytes
        }
    }

    /// The outcome of `readPart`.
    package enum PartResult: ~Copyable {
        case read(Part)
        case refused(Status)
    }

    /// What came of one look at a place.
    private enum PartAttempt: ~Copyable {
        case read(Part)
        case refused(Status)
        /// The chunk was not there any more when it had been read.
        case moved
    }

    /// Reads the stripes of a chunk in which `range` lies, and no others, checked by the checksums
    /// that stand in the record's header. `busy` when the chunk does not stay anywhere.
    package func readPart(
        _ name: ChunkName, _ located: SSDTier.Located, _ range: Range<Int>, deadline: Instant
    ) async -> PartResult {
        var latest = located
        for _ in 0..<readAttemptCountMax {
            switch await readPartOnce(name, latest, range, deadline: deadline) {
            case .read(let part): return .read(part)
            case .refused(let status): return .refused(status)
            case .moved: break
            }
            let now = reactor.now()
            guard now < deadline else { return .refused(.deadlineExceeded) }
            guard
                let again = tier.locate(name.namespace, name.key, now: now, asUse: .doesNotCount)
            else { return .refused(.notFound) }
            guard again.description == located.description else { return .refused(.busy) }
            latest = again
        }
        return .refused(.busy)
    }

    private func readPartOnce(
        _ name: ChunkName, _ located: SSDTier.Located, _ range: Range<Int>, deadline: Instant
    ) async -> PartAttempt {
        let stripe = ChunkRecord.stripeByteCount(of: located.description.byteCount)
        let first = range.lowerBound / stripe
        let start = first * stripe
        let last = (range.upperBound - 1) / stripe
        let end = min((last + 1) * stripe, located.description.byteCount)
        // The header block goes in front of the stripes.
        let reservation: Reservation
        switch await reserveScratch(Limits.arenaGranuleByteCount + end - start, deadline) {
        case .reserved(let reserved): reservation = reserved
        case .refused(let status): return .refused(status)
        case .callAgain: return .refused(.deadlineExceeded)
        }
        let memory = memory.wholeGranules(of: reservation.bytes)
        let header = memory.prefix(Limits.arenaGranuleByteCount)
        let body = memory.dropFirst(Limits.arenaGranuleByteCount)
        do throws(IOFault) {
            let file = try file(of: located.place)
            let block = UInt64(located.place.block)
            try await file.read(into: header, at: block * blockByteCount)
            try await file.read(into: body, at: (block + 1) * blockByteCount + UInt64(start))
        } catch {
            guard tier.isAt(located.place, name) else { return .moved }
            tier.noteRead(byteCount: 0, faulted: true)
            return .refused(.notFound)
        }
        tier.noteRead(byteCount: memory.count, faulted: false)
        let isSound =
            header.isHeader(of: name, located)
            && (first...last).allSatisfy { index in
                let offset = index * stripe - start
                let bytes = body.slice(offset: offset, count: min(stripe, end - start - offset))
                return Checksum.of(bytes) == RecordHeader.stripeChecksum(header, index)
            }
        guard tier.isAt(located.place, name) else { return .moved }
        guard isSound else {
            tier.condemn(located.place, name)
            reportMismatch(located.place)
            return .refused(.notFound)
        }
        let bytes = body.slice(offset: range.lowerBound - start, count: range.count)
        return .read(Part(memory: reservation, bytes: bytes))
    }

    private func reserveScratch(
        _ byteCount: Int, _ deadline: Instant
    ) async -> RAMTier.ReserveResult {
        while true {
            switch memory.reserveScratch(byteCount: byteCount) {
            case .reserved(let reservation): return .reserved(reservation)
            case .refused(let status): return .refused(status)
            case .callAgain where reactor.now() >= deadline: return .callAgain
            case .callAgain: await reactor.yield()
            }
        }
    }

    // MARK: Files

    private func file(of place: SSDPlace) throws(IOFault) -> R.File {
        let slot = Int(place.segment)
        if removalCount != files.removalCount { letGoOfRemovedFiles() }
        while attached.count <= slot { attached.append(nil) }
        if let file = attached[slot] { return file }
        guard let handle = files[slot] else { throw .closed }
        let file = reactor.attach(handle)
        attached[slot] = file
        return file
    }

    /// Their space is free once nobody refers to them; reads under way still do.
    private func letGoOfRemovedFiles() {
        removalCount = files.removalCount
        for slot in attached.indices where files[slot] == nil { attached[slot] = nil }
    }

    private func reportMismatch(_ place: SSDPlace) {
        let segment = tier.segments()[Int(place.segment)]
        report(
            SSDEvent(
                .checksumMismatch, SSDFormat.segmentName(slot: segment.fileSlot),
                "the record at block \(place.block) is damaged; it was dropped"))
    }
}

extension PinnedBytes {
    /// Whether this block heads the record of that chunk; its own checksum is checked too.
    fileprivate func isHeader(of name: ChunkName, _ located: SSDTier.Located) -> Bool {
        isSealedBlock && loadKey(at: 32) == name.key
            && load(UInt64.self, at: 104) == located.description.checksum
    }
}

extension Result {
    fileprivate var isFailure: Bool {
        if case .failure = self { true } else { false }
    }
}

extension ChunkProposal {
    /// A chunk that comes from SSD.
    fileprivate init(_ name: ChunkName, _ description: ChunkDescription) {
        self.init(
            namespace: name.namespace, key: name.key, layout: description.layout,
            level: description.level, byteCount: description.byteCount,
            expiry: description.expiry, firstPosition: description.firstPosition)
    }
}

private let blockByteCount = UInt64(SSDFormat.blockByteCount)
/// As long as there are no more reads, each is split in more pieces than the disk's queue needs.
private let fewReadCount = 2
/// Looks at a chunk that does not stay where it was.
private let readAttemptCountMax = 8
