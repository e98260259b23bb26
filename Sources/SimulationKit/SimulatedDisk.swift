// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import KVCore

/// The disk of one host: files by path, which outlive the processes. Confined to the scheduler's
/// thread.
///
/// What was written and not synchronized may be lost at a crash, each write on its own, or torn at
/// any of its sectors, in any order. Names are durable at once.
package final class SimulatedDisk {
    package var faults: DiskFaults
    let scheduler: SimulatedScheduler
    var random: SeededRandom
    private var slowRandom: SeededRandom
    private var files: [SimulatedBlocks] = []
    private var directories: [String] = []
    private var locks: [DirectoryLock] = []
    /// Pages that files take: those that hold something, and those that are reserved.
    var pageCount = 0
    /// Reads, writes, synchronizations and changes of directories so far: places for a crash.
    package internal(set) var operationCount = 0
    /// Directories out of reach: they cannot be opened, and what is open there fails with `EIO`.
    package var lostDirectories: Set<String> = []
    /// What went wrong so far.
    package internal(set) var faultCounts = DiskFaultCounts()

    init(scheduler: SimulatedScheduler, faults: DiskFaults) {
        self.scheduler = scheduler
        self.faults = faults
        random = scheduler.forkRandom()
        // From a copy, so that the draws of `random` do not depend on slow transfers.
        var copy = random
        slowRandom = copy.fork()
    }

    func open(_ path: String, _ mode: FileMode) throws(IOFault) -> SimulatedBlocks {
        if let blocks = file(path) { return blocks }
        guard mode != .readOnly else { throw .system(ENOENT) }
        guard !directories.contains(path) else { throw .system(EISDIR) }
        let blocks = SimulatedBlocks(path: path, disk: self)
        files.append(blocks)
        return blocks
    }

    /// Flips one stored bit, as time does to flash.
    package func rot(_ path: String, bit: UInt64) {
        file(path)?.flip(bit: bit)
    }

    /// Bytes of the file, nil when there is none.
    package func byteCount(of path: String) -> UInt64? {
        file(path)?.byteCount
    }

    private func file(_ path: String) -> SimulatedBlocks? {
        files.first { $0.path == path }
    }

    /// Before the calls under way are cancelled: each may have reached the disk in part.
    func keepWritesUnderWay() {
        for blocks in files { blocks.landWritesUnderWay() }
    }

    func crash() {
        for blocks in files { blocks.crash() }
    }

    /// Gives the memory of all files back, when nobody will look at them any more: tasks that a
    /// crash left waiting for ever keep the handles that they had.
    package func discard() {
        for blocks in files { blocks.discard() }
        files.removeAll()
    }

    /// Whether the file or directory is out of reach.
    func isLost(_ path: String) -> Bool {
        lostDirectories.contains { path == $0 || path.hasPrefix($0 + "/") }
    }

    /// How long a transfer of `byteCount` takes.
    func delay(byteCount: Int) -> UInt64 {
        1 + random.below(UInt64(faults.latencyMicrosecondsMax) * 1_000)
            + UInt64(byteCount) * 1_000_000_000 / UInt64(faults.bytesPerSecond)
    }

    /// How long a read or write of `byteCount` takes: some are slow beyond the disk's latency.
    func transferDelay(byteCount: Int) -> UInt64 {
        let isSlow = slowRandom.happens(permille: faults.slowPermille)
        let extra = slowRandom.below(UInt64(faults.slowMillisecondsMax) * 1_000_000 + 1)
        if isSlow { faultCounts.slowTransfers += 1 }
        return delay(byteCount: byteCount) + (isSlow ? extra : 0)
    }
}

// MARK: - Directories

extension SimulatedDisk {
    /// Makes the directory when it is missing; the directories above it are taken for granted.
    func openDirectory(_ path: String) throws(IOFault) {
        guard !lostDirectories.contains(path) else { throw .system(EIO) }
        guard file(path) == nil else { throw .system(ENOTDIR) }
        if !directories.contains(path) { directories.append(path) }
    }

    /// Names of the files in a directory, by age.
    func fileNames(in directory: String) -> [String] {
        let prefix = directory + "/"
        return files.filter { $0.path.hasPrefix(prefix) }
            .map { String($0.path.dropFirst(prefix.count)) }.filter { !$0.contains("/") }
    }

    /// Reserves all pages of the file up to `byteCount`, or leaves the disk as it was.
    func preallocate(_ path: String, byteCount: UInt64) throws(IOFault) {
        let fails = random.happens(permille: faults.preallocateErrorPermille)
        let wasThere = file(path) != nil
        let blocks = try open(path, .readWrite)
        guard fails || !blocks.preallocate(byteCount: byteCount) else { return }
        if !wasThere { try remove(path) }
        faultCounts.spaceErrors += 1
        throw .system(ENOSPC)
    }

    /// Takes the name away and gives the pages back at once; who has the file open keeps its
    /// content.
    func remove(_ path: String) throws(IOFault) {
        guard let index = files.firstIndex(where: { $0.path == path }) else {
            throw .system(ENOENT)
        }
        files.remove(at: index).giveBackPages()
    }

    /// Whether there was such a file.
    package func removeIfThere(_ path: String) -> Bool {
        guard let index = files.firstIndex(where: { $0.path == path }) else { return false }
        files.remove(at: index).giveBackPages()
        return true
    }

    func rename(_ path: String, to newPath: String) throws(IOFault) {
        guard let blocks = file(path) else { throw .system(ENOENT) }
        guard path != newPath else { return }
        if file(newPath) != nil { try remove(newPath) }
        blocks.path = newPath
    }

    var freeByteCount: UInt64 {
        // A disk without end says 4 PiB, so that sums of it do not overflow.
        UInt64(min(max(faults.pageCountMax - pageCount, 0), 1 << 40))
            * UInt64(SimulatedBlocks.pageByteCount)
    }

    /// Gives `path` to `directory`; throws `.busy` when another one has it, whose reactor runs.
    func lock(_ path: String, for directory: SimulatedDirectory) throws(IOFault) {
        locks.removeAll { $0.isFree }
        if let lock = locks.first(where: { $0.path == path }) {
            guard lock.directory === directory else { throw .busy }
            return
        }
        locks.append(DirectoryLock(path: path, directory: directory))
    }

    func unlock(_ directory: SimulatedDirectory) {
        locks.removeAll { $0.directory === directory }
    }

    private struct DirectoryLock {
        let path: String
        /// A lock does not outlive the object that has it.
        weak var directory: SimulatedDirectory?

        /// The end of its reactor stands for the end of the holder's process.
        var isFree: Bool { directory?.reactor.isStopped ?? true }
    }
}

/// The content of one simulated file: durable pages, and the writes since, in order.
final class SimulatedBlocks {
    /// A write that the kernel has, and the platter may not have.
    private struct Write {
        let offset: UInt64
        let bytes: OwnedBytes
        let number: UInt64
        /// A failed synchronization dropped it: later ones do not save it (as Linux does).
        var isDoomed = false

        private var end: UInt64 { offset + UInt64(bytes.bytes.count) }

        /// What of it is not under `other`.
        func without(_ other: Write) -> [Write] {
            guard other.offset < end, offset < other.end else { return [self] }
            return [part(from: offset, to: other.offset), part(from: other.end, to: end)]
                .compactMap { $0 }
        }

        private func part(from start: UInt64, to stop: UInt64) -> Write? {
            guard start < stop else { return nil }
            let copy = OwnedBytes(count: Int(stop - start))
            copy.bytes.copy(
                from: bytes.bytes.slice(offset: Int(start - offset), count: Int(stop - start)))
            return Write(offset: start, bytes: copy, number: number, isDoomed: isDoomed)
        }
    }

    /// A call to `write` that has not returned.
    final class WriteUnderWay {
        let offset: UInt64
        let source: PinnedBytes

        init(offset: UInt64, source: PinnedBytes) {
            self.offset = offset
            self.source = source
        }
    }

    static let pageByteCount = 4_096
    /// What a page that was never written reads as.
    private static let zeros = OwnedBytes(count: pageByteCount)

    var path: String
    private unowned let disk: SimulatedDisk
    private var pages: [UInt64: OwnedBytes] = [:]
    /// The first pages of the file that count against the disk's limit whether they are in `pages`
    /// or not.
    private var reservedPageCount: UInt64 = 0
    /// What this file adds to the disk's `pageCount`.
    private var countedPageCount = 0
    private var isRemoved = false
    private var durableByteCount: UInt64 = 0
    private var unsynchronized: [Write] = []
    private var writesUnderWay: [WriteUnderWay] = []
    private(set) var writeNumber: UInt64 = 0

    init(path: String, disk: SimulatedDisk) {
        self.path = path
        self.disk = disk
    }

    var byteCount: UInt64 {
        unsynchronized.reduce(durableByteCount) {
            max($0, $1.offset + UInt64($1.bytes.bytes.count))
        }
    }

    /// Whether this file is on `disk`.
    func belongs(to disk: SimulatedDisk) -> Bool { self.disk === disk }

    /// Whether `byteCount` more bytes at `offset` fit the disk; counts the new pages.
    func reserve(offset: UInt64, byteCount: Int) -> Bool {
        let first = offset / UInt64(Self.pageByteCount)
        let last = (offset + UInt64(max(byteCount, 1)) - 1) / UInt64(Self.pageByteCount)
        let missing = (first...last).filter { $0 >= reservedPageCount && pages[$0] == nil }
        guard fits(missing.count) else { return false }
        for page in missing { _ = makePage(page) }
        return true
    }

    /// Whether all pages up to `byteCount` fit the disk; counts them, and the file is that long
    /// at least. Memory is taken for those alone that are written.
    func preallocate(byteCount: UInt64) -> Bool {
        let end = (byteCount + UInt64(Self.pageByteCount) - 1) / UInt64(Self.pageByteCount)
        if end > reservedPageCount {
            // A number does not depend on the order of the keys.
            let written = pages.keys.count { $0 >= reservedPageCount && $0 < end }
            let missing = Int(end - reservedPageCount) - written
            guard fits(missing) else { return false }
            count(missing)
            reservedPageCount = end
        }
        durableByteCount = max(durableByteCount, byteCount)
        return true
    }

    private func fits(_ missingPageCount: Int) -> Bool {
        isRemoved || missingPageCount <= disk.faults.pageCountMax - disk.pageCount
    }

    private func count(_ pageCount: Int) {
        guard !isRemoved else { return }
        countedPageCount += pageCount
        disk.pageCount += pageCount
    }

    /// The file has no name any more: it counts no longer.
    func giveBackPages() {
        disk.pageCount -= countedPageCount
        countedPageCount = 0
        isRemoved = true
    }

    private func makePage(_ page: UInt64) -> OwnedBytes {
        if let bytes = pages[page] { return bytes }
        let bytes = OwnedBytes(count: Self.pageByteCount)
        pages[page] = bytes
        if page >= reservedPageCount { count(1) }
        return bytes
    }

    func begin(_ write: WriteUnderWay) {
        writesUnderWay.append(write)
    }

    /// Takes a write out again; what it had written stays out of the file.
    func forget(_ write: WriteUnderWay) {
        writesUnderWay.removeAll { $0 === write }
    }

    /// The write's bytes, as they are now, become what reads see.
    func land(_ write: WriteUnderWay) {
        let copy = OwnedBytes(count: write.source.count)
        copy.bytes.copy(from: write.source)
        writeNumber += 1
        unsynchronized.append(Write(offset: write.offset, bytes: copy, number: writeNumber))
    }

    func landWritesUnderWay() {
        for write in writesUnderWay { land(write) }
        writesUnderWay.removeAll()
    }

    func read(into buffer: PinnedBytes, at offset: UInt64) {
        readDurable(into: buffer, at: offset)
        let end = offset + UInt64(buffer.count)
        for write in unsynchronized {
            let start = max(offset, write.offset)
            let stop = min(end, write.offset + UInt64(write.bytes.bytes.count))
            guard start < stop else { continue }
            buffer.dropFirst(Int(start - offset)).copy(
                from: write.bytes.bytes.slice(
                    offset: Int(start - write.offset), count: Int(stop - start)))
        }
    }

    /// All writes up to `number` are on the platter.
    func makeDurable(upTo number: UInt64) {
        let written = unsynchronized.filter { $0.number <= number && !$0.isDoomed }
        for write in written { writeDurable(write.bytes.bytes, at: write.offset) }
        unsynchronized.removeAll { $0.number <= number && !$0.isDoomed }
        guard unsynchronized.contains(where: \.isDoomed) else { return }
        // What was written over a doomed write is there, and stays.
        for write in written {
            unsynchronized = unsynchronized.flatMap { older in
                older.isDoomed && older.number < write.number ? older.without(write) : [older]
            }
        }
    }

    /// A synchronization failed: the kernel forgets that these pages were dirty.
    func doom(upTo number: UInt64) {
        for index in unsynchronized.indices where unsynchronized[index].number <= number {
            unsynchronized[index].isDoomed = true
        }
    }

    /// Loses, tears or keeps each write since the last synchronization, in any order.
    func crash() {
        var writes = unsynchronized
        unsynchronized.removeAll()
        disk.random.shuffle(&writes)
        var oldestLost = UInt64.max
        var newestKept: UInt64 = 0
        for write in writes {
            let fate = disk.random.below(3)
            if fate != 1 { oldestLost = min(oldestLost, write.number) }
            if fate != 0 { newestKept = max(newestKept, write.number) }
            switch fate {
            case 0: disk.faultCounts.lostWrites += 1
            case 1: writeDurable(write.bytes.bytes, at: write.offset)
            default:
                tear(write)
                disk.faultCounts.tornWrites += 1
            }
        }
        if newestKept > oldestLost { disk.faultCounts.reorderedFiles += 1 }
    }

    /// Forgets the content.
    func discard() {
        pages.removeAll()
        unsynchronized.removeAll()
    }

    private func tear(_ write: Write) {
        let sectorByteCount = disk.random.below(2) == 0 ? 512 : 4_096
        let bytes = write.bytes.bytes
        var start = 0
        while start < bytes.count {
            // Sectors lie at multiples in the file, not in the write.
            let inSector = Int((write.offset + UInt64(start)) % UInt64(sectorByteCount))
            let count = min(sectorByteCount - inSector, bytes.count - start)
            if disk.random.below(2) == 0 {
                writeDurable(
                    bytes.slice(offset: start, count: count), at: write.offset + UInt64(start))
            }
            start += count
        }
    }

    func flip(bit: UInt64) {
        let offset = bit / 8
        // The page's bytes are final on the platter only; a rotten unsynchronized write is a
        // different fault (memory), which the disk does not model.
        guard let page = pages[offset / UInt64(Self.pageByteCount)] else { return }
        page.bytes.withMutableBytes { bytes in
            let place = Int(offset % UInt64(Self.pageByteCount))
            bytes.flip(bit: UInt8(1) << UInt8(bit % 8), at: place)
        }
        disk.faultCounts.rottenBits += 1
    }

    private func readDurable(into buffer: PinnedBytes, at offset: UInt64) {
        forEachPage(offset: offset, byteCount: buffer.count) { page, inPage, range in
            let target = buffer.slice(offset: range.lowerBound, count: range.count)
            guard let bytes = pages[page]?.bytes else {
                target.copy(from: Self.zeros.bytes.prefix(range.count))
                return
            }
            target.copy(from: bytes.slice(offset: inPage, count: range.count))
        }
    }

    private func writeDurable(_ source: PinnedBytes, at offset: UInt64) {
        forEachPage(offset: offset, byteCount: source.count) { page, inPage, range in
            let bytes = makePage(page)
            bytes.bytes.dropFirst(inPage).copy(
                from: source.slice(offset: range.lowerBound, count: range.count))
        }
        durableByteCount = max(durableByteCount, offset + UInt64(source.count))
    }

    private func forEachPage(
        offset: UInt64, byteCount: Int,
        _ body: (_ page: UInt64, _ inPage: Int, _ range: Range<Int>) -> Void
    ) {
        var done = 0
        while done < byteCount {
            let position = offset + UInt64(done)
            let inPage = Int(position % UInt64(Self.pageByteCount))
            let count = min(Self.pageByteCount - inPage, byteCount - done)
            body(position / UInt64(Self.pageByteCount), inPage, done..<done + count)
            done += count
        }
    }
}

extension MutableRawSpan {
    /// Flips the bits of `mask` in the byte at `offset`.
    mutating func flip(bit mask: UInt8, at offset: Int) {
        // SAFETY: a byte has no alignment and no invalid values; the offset is checked by the span.
        let byte = unsafe unsafeLoad(fromByteOffset: offset, as: UInt8.self)
        storeBytes(of: byte ^ mask, toByteOffset: offset, as: UInt8.self)
    }
}
