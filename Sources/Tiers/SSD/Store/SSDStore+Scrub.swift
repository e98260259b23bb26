// SPDX-License-Identifier: Apache-2.0
internal import KVCore

/// The state of the scrub. Confined to the store.
struct ScrubState: CustomStringConvertible {
    /// Bytes a second of the pass under way, or of the next one that was asked for.
    var rate = 0
    var isRequested = false
    var isRunning = false
    var passCount = 0
    var checkedByteCount = 0
    var damagedCount = 0

    var description: String {
        let done = "\(passCount) passes ended, \(damagedCount) damaged records found"
        return isRunning
            ? "running at \(rate) B/s, \(checkedByteCount) bytes checked in this pass; \(done)"
            : "waiting; \(done)"
    }
}

/// Reading everything again, slowly, so that decay is found before somebody asks for the chunk.
extension SSDStore {
    /// Begins a pass now, at `rate` bytes a second or as configured.
    package func requestScrub(rate: Int?) {
        scrub.rate = rate ?? max(configuration.scrubByteCountPerSecond, scrubRateStandard)
        scrub.isRequested = true
    }

    /// Scrubs once a day, and when asked to.
    func scrubForever() async {
        var next = reactor.now().adding(milliseconds: firstScrubMilliseconds)
        while !isStopping {
            guard await pause(milliseconds: 2 * configuration.roundMilliseconds) else { return }
            let isDue = configuration.scrubByteCountPerSecond > 0 && reactor.now() >= next
            guard scrub.isRequested || isDue else { continue }
            if !scrub.isRequested { scrub.rate = configuration.scrubByteCountPerSecond }
            scrub.isRequested = false
            next = reactor.now().adding(milliseconds: dayMilliseconds)
            await scrubOnce()
        }
    }

    private func scrubOnce() async {
        scrub.isRunning = true
        scrub.checkedByteCount = 0
        let damagedBefore = scrub.damagedCount
        let began = reactor.now()
        for slot in tier.segments().indices {
            guard !isStopping, !scrub.isRequested else { break }
            await scrub(slot, began)
        }
        scrub.isRunning = false
        scrub.passCount += 1
        report(
            SSDEvent(
                .finished, lanes.first?.path ?? "",
                "scrub: \(scrub.checkedByteCount) bytes checked, "
                    + "\(scrub.damagedCount - damagedBefore) damaged records"))
    }

    private func scrub(_ slot: Int, _ began: Instant) async {
        let segment = tier.segment(slot)
        let lane = lanes[segment.directory]
        guard segment.state == .sealed, !lane.isGone, let handle = files[slot] else { return }
        let file = reactor.attach(handle)
        defer { file.close() }
        let header = header(of: segment, lane)
        do throws(IOFault) {
            let scanner = SegmentScanner<R>(file: file, blockCount: lane.segmentBlockCount)
            var entries = try await scanner.readFooter(of: header)
            if entries == nil { entries = try await scanner.scan(header, verifying: false) }
            for entry in entries ?? [] where entry.kind == .chunk {
                guard !isStopping else { return }
                try await scrub(entry, slot, scanner, lane)
                guard await keepRate(since: began) else { return }
            }
        } catch {
            tier.count { $0.readFaultCount += 1 }
            report(SSDEvent(.fault, lane.path, "scrub: a read failed (\(error))"))
        }
    }

    private func scrub(
        _ entry: FooterEntry, _ slot: Int, _ scanner: SegmentScanner<R>, _ lane: SSDLane<R>
    ) async throws(IOFault) {
        guard let namespace = tier.namespace(tagged: entry.namespace) else { return }
        let name = ChunkName(namespace, entry.key)
        let place = SSDPlace(segment: UInt16(slot), block: UInt16(entry.block))
        guard tier.isAt(place, name) else { return }
        let checksum = try await scanner.checksum(
            ofPayloadAt: Int(entry.block), byteCount: Int(entry.byteCount))
        scrub.checkedByteCount += Int(entry.byteCount)
        tier.count { $0.scrubbedByteCount += Int(entry.byteCount) }
        guard checksum != entry.checksum, tier.isAt(place, name) else { return }
        scrub.damagedCount += 1
        tier.condemn(place, name)
        // If memory has it still, it is written once more.
        memory.isNotStored(name, waits: true)
        bell.ring()
        report(
            SSDEvent(
                .checksumMismatch, lane.path,
                "scrub: the record in "
                    + SSDFormat.segmentName(slot: tier.segment(slot).fileSlot)
                    + " at block \(entry.block) is damaged; it was dropped"))
    }

    /// Waits until the pass is no faster than its rate.
    private func keepRate(since began: Instant) async -> Bool {
        guard scrub.rate > 0 else { return true }
        let due = began.adding(
            milliseconds: UInt64(scrub.checkedByteCount) * 1_000 / UInt64(scrub.rate))
        while reactor.now() < due, !isStopping {
            guard await pause(milliseconds: min(100, reactor.now().milliseconds(until: due) + 1))
            else { return false }
        }
        return true
    }
}

/// What `kvctl ssd scrub` takes when scrubbing is off by configuration.
private let scrubRateStandard = 64 << 20
/// A start is busy enough without it.
private let firstScrubMilliseconds: UInt64 = 60_000
private let dayMilliseconds: UInt64 = 86_400_000
