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
    private var loads: [ChunkName: Task<Status, Never>] = [:]
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

    /// Brings a chunk into memory.
    /// - Returns: `ok` when it is there now (an eviction may follow at once), `notFound`, `busy`
    ///   when memory has no room, `deadlineExceeded`.
    package func load(_ name: ChunkName, deadline: Instant) async -> Status {
        if let load = loads[name] { return await load.value }
        let load = Task(executorPreference: reactor.executor) {
            await self.read(name, deadline: deadline)
        }
        loads[name] = load
        let status = await load.value
        loads[name] = nil
        return status
    }

    /// A hold on a chunk, from memory or read for it; nil with the reason when there is none. The
    /// caller releases it.
    package func obtain(
        _ name: ChunkName, deadline: Instant
    ) async -> Result<Hold, Status> {
        var status = Status.notFound
        // It may be evicted between its reading and our hold, though hardly three times.
        for _ in 0..<3 {
            let now = reactor.now()
            if let held = memory.hold(name.namespace, name.key, now: now) {
                return .success(held.escape())
            }
            guard now < deadline else { return .failure(.deadlineExceeded) }
            status = await load(name, deadline: deadline)
            guard status == .ok else { break }
        }
        return .failure(status == .ok ? .busy : status)
    }

    private func read(_ name: ChunkName, deadline: Instant) async -> Status {
        while readCount >= Self.readCountMax { await turns.wait() }
        readCount += 1
        defer {
            readCount -= 1
            turns.notify()
        }
        // A chunk that reclaim moves meanwhile is looked for again.
        for _ in 0..<3 {
            let now = reactor.now()
            guard now < deadline else { return .deadlineExceeded }
            if memory.isResident(name) { return .ok }
            guard
                let located = tier.locate(name.namespace, name.key, now: now, asUse: .counts)
            else { return .notFound }
            let reservation: Reservation
            switch await reserve(ChunkProposal(name, located.description), deadline) {
            case .reserved(let reserved): reservation = reserved
            case .refused(.exists): return .ok
            case .refused(let status): return status
            case .callAgain: return .deadlineExceeded
            }
            let bytes = memory.wholeGranules(of: reservation.bytes)
            do throws(IOFault) {
                try await file(of: located.place).read(
                    into: bytes, at: (UInt64(located.place.block) + 1) * blockByteCount)
            } catch {
                tier.noteRead(byteCount: 0, faulted: true)
                return .notFound
            }
            tier.noteRead(byteCount: bytes.count, faulted: false)
            if await checksum(of: reservation.bytes) == located.description.checksum {
                let origin = ChunkOrigin.ssd(isCold: promotion == .secondUse)
                guard tier.commit(reservation, name, readFrom: located, origin) else { continue }
                return .ok
            }
            _ = consume reservation
            guard tier.isAt(located.place, name) else { continue }
            tier.condemn(located.place, name)
            reportMismatch(located.place)
            return .notFound
        }
        return .notFound
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

    /// Piece by piece, so that other tasks of the thread run in between.
    private func checksum(of bytes: PinnedBytes) async -> UInt64 {
        guard bytes.count > Limits.pieceByteCountAlone else { return Checksum.of(bytes) }
        let checksum = StreamingChecksum()
        var done = 0
        while done < bytes.count {
            let count = min(Limits.pieceByteCountAlone, bytes.count - done)
            checksum.add(bytes.slice(offset: done, count: count))
            done += count
            await reactor.yield()
        }
        return checksum.value
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

    /// Reads the stripes of a chunk in which `range` lies, and no others, checked by the checksums
    /// that stand in the record's header.
    package func readPart(
        _ name: ChunkName, _ located: SSDTier.Located, _ range: Range<Int>, deadline: Instant
    ) async -> PartResult {
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
            tier.noteRead(byteCount: 0, faulted: true)
            return .refused(.notFound)
        }
        tier.noteRead(byteCount: memory.count, faulted: false)
        for index in first...last {
            let offset = index * stripe - start
            let bytes = body.slice(offset: offset, count: min(stripe, end - start - offset))
            guard Checksum.of(bytes) == RecordHeader.stripeChecksum(header, index) else {
                guard tier.isAt(located.place, name) else { return .refused(.notFound) }
                tier.condemn(located.place, name)
                reportMismatch(located.place)
                return .refused(.notFound)
            }
        }
        guard header.isHeader(of: name, located), tier.isAt(located.place, name) else {
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
        while attached.count <= slot { attached.append(nil) }
        if let file = attached[slot] { return file }
        guard let handle = files[slot] else { throw .closed }
        let file = reactor.attach(handle)
        attached[slot] = file
        return file
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

extension ChunkProposal {
    /// A chunk that comes from SSD.
    fileprivate init(_ name: ChunkName, _ description: ChunkDescription) {
        self.init(
            namespace: name.namespace, key: name.key, layout: description.layout,
            level: description.level, byteCount: description.byteCount,
            expiry: description.expiry)
    }
}

private let blockByteCount = UInt64(SSDFormat.blockByteCount)
