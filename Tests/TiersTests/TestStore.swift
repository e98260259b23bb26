// SPDX-License-Identifier: Apache-2.0
import Foundation
import KVCore
import Kernels
import LinuxIO
import Synchronization
import Testing

@testable import Tiers

extension ReactorOptions {
    static var small: ReactorOptions {
        var options = ReactorOptions()
        options.operationCountMax = 1_024
        return options
    }
}

/// An actor on a reactor, for tests of what does I/O.
actor TestDoor {
    nonisolated let reactor: RingReactor
    nonisolated var unownedExecutor: UnownedSerialExecutor {
        unsafe reactor.executor.asUnownedSerialExecutor()
    }

    init(_ reactor: RingReactor) { self.reactor = reactor }

    func run<Result: Sendable>(
        _ body: @Sendable (isolated TestDoor) async throws -> Result
    ) async rethrows -> Result {
        try await body(self)
    }
}

/// Directories of a test's own, removed with the object.
final class TestDirectories: Sendable {
    let root: String
    let paths: [String]

    init(_ count: Int = 1, below folder: String = "/tmp") throws {
        root = "\(folder)/ssd-tests-\(UInt64.random(in: 0 ... .max))"
        paths = (0..<count).map { [root] in "\(root)/\($0)" }
        for path in paths {
            try FileManager.default.createDirectory(
                atPath: path, withIntermediateDirectories: true)
        }
    }

    /// The files of a directory, by name.
    func files(_ directory: Int = 0) -> [String] {
        (try? FileManager.default.contentsOfDirectory(atPath: paths[directory]).sorted()) ?? []
    }

    func segmentNames(_ directory: Int = 0) -> [String] {
        files(directory).filter { $0.hasPrefix("segment-") }
    }

    func path(_ name: String, _ directory: Int = 0) -> String { "\(paths[directory])/\(name)" }

    func content(_ name: String, _ directory: Int = 0) throws -> Data {
        let path = path(name, directory)
        let size = try FileManager.default.attributesOfItem(atPath: path)[.size] as? Int
        // Foundation loses its buffer when it reads an empty file (Swift 6.3.1).
        return size == 0 ? Data() : try Data(contentsOf: URL(fileURLWithPath: path))
    }

    func write(_ content: Data, to name: String, _ directory: Int = 0) throws {
        try content.write(to: URL(fileURLWithPath: path(name, directory)))
    }

    /// Changes the file's bytes in place.
    func change(
        _ name: String, _ directory: Int = 0, _ change: (inout Data) throws -> Void
    ) throws {
        var data = try content(name, directory)
        try change(&data)
        try write(data, to: name, directory)
    }

    func remove(_ name: String, _ directory: Int = 0) throws {
        try FileManager.default.removeItem(atPath: path(name, directory))
    }

    /// Bytes of all files of a directory.
    func byteCount(_ directory: Int = 0) -> Int {
        files(directory).reduce(0) { sum, name in
            let path = path(name, directory)
            let attributes = try? FileManager.default.attributesOfItem(atPath: path)
            return sum + ((attributes?[.size] as? Int) ?? 0)
        }
    }

    deinit {
        do {
            try FileManager.default.removeItem(atPath: root)
        } catch {
            // What stays is a few files in /tmp, and not what the test is about.
        }
    }
}

/// How a store is opened. A value.
struct StoreOptions: Sendable {
    var paths: [String]
    /// Of new directories.
    var segmentBlockCount = 16
    /// Segments that each directory may have.
    var segmentCountMax = 8
    var entryCountMax = 2_000
    var memory = ByteCount.mebibytes(4)
    var admission = RAMTier.Admission.all
    var promotion = SSDReader<FaultyReactor>.Promotion.always
    var reserve = ByteCount(0)
    var pinnedByteCountMax = Int.max
    /// How much later than usual the store thinks it is.
    var laterMilliseconds: Int64 = 0
    var roundMilliseconds: UInt64 = 2
    var namespaces = ["default", "other"]
    /// What counts the calls to the disk, and makes them fail.
    var calls = DiskCalls()

    init(_ directories: TestDirectories) { paths = directories.paths }

    /// The same with one thing changed.
    func with(_ change: (inout StoreOptions) -> Void) -> StoreOptions {
        var options = self
        change(&options)
        return options
    }

    static let wall: UInt64 = 1_800_000_000_000

    var segmentByteCount: Int { segmentBlockCount * SSDFormat.blockByteCount }

    /// What allows just `segmentCountMax` segments.
    var capacity: ByteCount {
        let checkpoints =
            2 * CheckpointLayout.byteCount(entryCount: entryCountMax, segmentCount: 1_000)
        return ByteCount(
            SSDFormat.blockByteCount + checkpoints + segmentCountMax * segmentByteCount)
    }
}

/// A store on a reactor of its own, with memory and a reader beside it as a shard has.
actor TestStore {
    nonisolated let reactor: FaultyReactor
    nonisolated let options: StoreOptions
    nonisolated let tier: SSDTier
    nonisolated let memory: RAMTier
    nonisolated let store: SSDStore<FaultyReactor>
    nonisolated let reader: SSDReader<FaultyReactor>
    private nonisolated let arena: OwnedBytes
    private nonisolated let eventLog: EventLog
    private(set) var found = SSDStore<FaultyReactor>.Found()

    nonisolated var unownedExecutor: UnownedSerialExecutor {
        unsafe reactor.executor.asUnownedSerialExecutor()
    }

    private final class EventLog: Sendable {
        let events = Mutex<[SSDEvent]>([])
    }

    init(_ options: StoreOptions) throws {
        self.options = options
        reactor = try FaultyReactor(.small, calls: options.calls)
        let capacity = try #require(RAMTier.Capacity(budget: options.memory))
        arena = OwnedBytes(count: capacity.arenaByteCount, alignment: 4_096)
        memory = RAMTier(
            arena: arena.bytes, capacity: capacity, seed: 1, admission: options.admission)
        let now = Int64(reactor.now().nanoseconds / 1_000_000)
        tier = SSDTier(
            SSDTier.Configuration(
                namespaces: options.namespaces.map { SSDTag(namespace: $0) },
                entryCountMax: options.entryCountMax,
                wallOffsetMilliseconds: Int64(StoreOptions.wall) - now
                    + options.laterMilliseconds,
                pinnedByteCountMax: options.pinnedByteCountMax),
            seed: 2)
        let log = EventLog()
        eventLog = log
        let files = SSDFiles<RingFileHandle>()
        store = SSDStore(
            SSDStore<FaultyReactor>.Configuration(
                directories: options.paths, capacity: options.capacity,
                segmentByteCount: ByteCount(options.segmentByteCount), reserve: options.reserve,
                roundMilliseconds: options.roundMilliseconds),
            tier: tier, memory: memory, reactor: reactor, files: files,
            report: { event in log.events.withLock { $0.append(event) } })
        reader = SSDReader(
            reactor: reactor, tier: tier, memory: memory, files: files,
            promotion: options.promotion,
            report: { event in log.events.withLock { $0.append(event) } })
    }

    func run<Result: Sendable>(
        _ body: @Sendable (isolated TestStore) async throws -> Result
    ) async rethrows -> Result {
        try await body(self)
    }

    func open() async {
        found = await store.open()
        await store.start()
    }

    /// What was reported so far.
    nonisolated var events: [SSDEvent] { eventLog.events.withLock { $0 } }

    nonisolated func eventCount(_ kind: SSDEvent.Kind) -> Int {
        events.count { $0.kind == kind }
    }

    // MARK: Time

    nonisolated var now: Instant { reactor.now() }

    /// A deadline that only a hanging operation meets.
    nonisolated var soon: Instant { reactor.now().adding(milliseconds: 120_000) }

    func pause(milliseconds: UInt64) async throws {
        try await reactor.sleep(until: reactor.now().adding(milliseconds: milliseconds))
    }

    /// Waits until `condition` holds; an issue when it never does.
    func until(
        _ what: Comment, sourceLocation: SourceLocation = #_sourceLocation,
        _ condition: (isolated TestStore) async -> Bool
    ) async throws {
        let end = soon
        while await !condition(self) {
            guard reactor.now() < end else {
                Issue.record("\(what): \(events)", sourceLocation: sourceLocation)
                return
            }
            try await pause(milliseconds: 1)
        }
    }

    // MARK: Chunks

    /// Puts a chunk into memory, whose bytes depend on its number and size.
    @discardableResult
    func put(
        _ number: UInt64, byteCount: Int = 4_096, namespace: NamespaceID = .default,
        lifeMilliseconds: UInt64? = nil, firstPosition: UInt32? = nil
    ) -> Status {
        let proposal = ChunkProposal(
            namespace: namespace, key: key(number), layout: .opaque, byteCount: byteCount,
            expiry: lifeMilliseconds.map { now.adding(milliseconds: $0) } ?? .distantFuture,
            firstPosition: firstPosition)
        while true {
            switch memory.reserve(proposal, now: now) {
            case .callAgain: continue
            case .refused(let status): return status
            case .reserved(let reservation):
                fill(reservation.bytes, number)
                let checksum = Checksum.of(reservation.bytes)
                let status = reservation.commit(checksum: checksum)
                store.bell.ring()
                return status
            }
        }
    }

    /// Puts a chunk that must be on stable storage.
    func putDurably(
        _ number: UInt64, byteCount: Int = 4_096, namespace: NamespaceID = .default
    ) async -> Bool {
        put(number, byteCount: byteCount, namespace: namespace)
        return await makeDurable(number, namespace: namespace)
    }

    /// Puts what is in memory on stable storage.
    func makeDurable(_ number: UInt64, namespace: NamespaceID = .default) async -> Bool {
        await store.store(ChunkName(namespace, key(number)), deadline: soon)
    }

    /// Puts many at once.
    /// - Returns: how many are on stable storage.
    func putDurably(_ numbers: Range<UInt64>, byteCount: Int) async -> Int {
        let tasks = numbers.map { number in
            Task { await self.putDurably(number, byteCount: byteCount) }
        }
        var count = 0
        for task in tasks where await task.value { count += 1 }
        return count
    }

    /// Reads a chunk for many at once.
    func read(_ number: UInt64, times count: Int) async -> [Status] {
        let tasks = (0..<count).map { _ in Task { await self.read(number) } }
        var statuses: [Status] = []
        for task in tasks { statuses.append(await task.value) }
        return statuses
    }

    /// Takes a chunk out of memory alone.
    func forget(_ number: UInt64, namespace: NamespaceID = .default) {
        _ = memory.remove(namespace, key(number), now: now)
    }

    /// The bytes of a chunk.
    nonisolated func content(_ number: UInt64, byteCount: Int) -> OwnedBytes {
        let bytes = OwnedBytes(count: byteCount)
        fill(bytes.bytes, number)
        return bytes
    }

    /// What a reader gets: `ok` only for bytes that are the chunk's.
    func read(
        _ number: UInt64, namespace: NamespaceID = .default, deadline: Instant? = nil
    ) async -> Status {
        let name = ChunkName(namespace, key(number))
        switch await reader.obtain(name, deadline: deadline ?? soon) {
        case .failure(let status): return status
        case .success(let hold):
            let held = memory.lend(hold)
            let expected = content(number, byteCount: held.bytes.count)
            return Checksum.of(expected.bytes) == Checksum.of(held.bytes)
                ? .ok : .checksumMismatch
        }
    }

    /// What a reader gets from the disk.
    func readFromDisk(_ number: UInt64, namespace: NamespaceID = .default) async -> Status {
        forget(number, namespace: namespace)
        let status = await read(number, namespace: namespace)
        forget(number, namespace: namespace)
        return status
    }

    /// Whether the index has a chunk that can be read.
    nonisolated func isOnSSD(_ number: UInt64, namespace: NamespaceID = .default) -> Bool {
        tier.locate(namespace, key(number), now: now, asUse: .doesNotCount) != nil
    }

    /// Deletes a chunk as a connection does.
    /// - Returns: whether it was there, and whether its deletion is durable.
    func delete(
        _ number: UInt64, namespace: NamespaceID = .default
    ) async -> (found: Bool, isDurable: Bool) {
        let inMemory = memory.remove(namespace, key(number), now: now)
        let (onSSD, outcome) = tier.remove(namespace, key(number), now: now)
        let again = memory.remove(namespace, key(number), now: now)
        let isFound = inMemory || onSSD || again
        switch outcome {
        case .nothing: return (isFound, true)
        case .refused: return (isFound, false)
        case .noted(let sequence): return (isFound, await awaitNote(sequence))
        }
    }

    private func awaitNote(_ sequence: UInt64) async -> Bool {
        await store.awaitNotes([sequence], deadline: soon) == [true]
    }

    /// Pins a chunk for some time, or ends its pin; tells whether that is durable.
    func pin(_ number: UInt64, milliseconds: UInt64 = 600_000) async -> Bool {
        let name = ChunkName(.default, key(number))
        let end = now.adding(milliseconds: milliseconds)
        _ = memory.pin(name, until: end, now: now)
        switch tier.pin(name, until: end, now: now) {
        case .nothing: return true
        case .refused: return false
        case .noted(let sequence): return await awaitNote(sequence)
        }
    }

    // MARK: The store

    /// Waits until all that waits is written.
    func settle(sourceLocation: SourceLocation = #_sourceLocation) async throws {
        try await until("all is written", sourceLocation: sourceLocation) { test in
            let isIdle = await test.store.isIdle
            return isIdle && !test.memory.hasDemotions && !test.tier.hasNotes
        }
    }

    /// Seals what is open.
    func sealAll() async throws {
        try await settle()
        await store.closeOpenSegments()
        try await until("all is sealed") { await $0.store.isSealed }
    }

    /// Checks that nothing is held or reserved.
    func expectNothingHeld(
        _ comment: Comment? = nil, sourceLocation: SourceLocation = #_sourceLocation
    ) {
        let statistics = memory.statistics()
        #expect(statistics.holdCount == 0, comment, sourceLocation: sourceLocation)
        #expect(statistics.openReservationCount == 0, comment, sourceLocation: sourceLocation)
    }
}

/// Fills `bytes` with what the chunk of that number has.
private func fill(_ bytes: PinnedBytes, _ number: UInt64) {
    var word = number &* 0x9e37_79b9_7f4a_7c15 | 1
    var offset = 0
    while offset + 8 <= bytes.count {
        bytes.store(word, at: offset)
        word = word &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        offset += 8
    }
    bytes.dropFirst(offset).fill(UInt8(truncatingIfNeeded: number))
}

extension SSDStore {
    /// Whether nothing is being written.
    var isIdle: Bool { lanes.allSatisfy { $0.byteCountInFlight == 0 && !$0.isReclaiming } }

    var isSealed: Bool { lanes.allSatisfy { $0.unsealed.isEmpty } }

    func closeOpenSegments() {
        for lane in lanes {
            if let open = lane.open { close(open, lane) }
        }
    }

    /// Ends it as a kill would: nothing is sealed and no checkpoint written.
    func abandonAll() async {
        isStopping = true
        isOverdue = true
        while taskCount > 0 {
            wakeAll()
            _ = await pause(milliseconds: 1)
        }
        for lane in lanes { lane.directory.close() }
        bell.onRing {}
    }

    /// As if as much were being written as may be, and never ended.
    func pretendThatWritesHang() {
        for lane in lanes { lane.byteCountInFlight = .max / 2 }
    }

    var faultyLaneCount: Int { lanes.count { $0.retryAt != nil } }

    /// Reclaims the oldest sealed segment of the first directory.
    func reclaimOldestNow(_ keeping: Keeping = .hot) async -> Bool {
        guard let slot = tier.sealedSegments(directory: 0).first else { return false }
        return await reclaim(slot: slot, keeping)
    }

    func reclaim(slot: Int, _ keeping: Keeping) async -> Bool {
        let number = tier.segment(slot).directory
        return await onOwnTask { store in await store.empty(slot, store.lanes[number], keeping) }
    }

    func writeCheckpointNow() async { await onOwnTask { await $0.writeCheckpoint() } }

    /// Notes in segments that are not sealed.
    var openNoteCount: Int {
        lanes.reduce(0) { sum, lane in
            sum + lane.unsealed.reduce(0) { $0 + $1.entries.count { $0.kind != .chunk } }
        }
    }
}

/// How a store ends.
enum StoreEnd: CaseIterable {
    case stop
    /// As if the process were killed.
    case kill
}

/// Runs `body` with a store that was opened, and ends it. `arming` comes before the opening.
@discardableResult
func withStore<Result: Sendable>(
    _ options: StoreOptions, end: StoreEnd = .stop,
    sourceLocation: SourceLocation = #_sourceLocation,
    _ body: @Sendable (isolated TestStore) async throws -> Result,
    arming: @Sendable (RingReactor) -> Void = { _ in }
) async throws -> Result {
    let test = try TestStore(options)
    defer {
        test.reactor.stop()
        test.reactor.join()
    }
    await test.run { arming($0.reactor.base) }
    await test.open()
    do {
        let result = try await test.run(body)
        switch end {
        case .stop:
            let deadline = test.soon
            await test.store.stop(by: deadline)
            #expect(test.now < deadline, "the stop waited in vain", sourceLocation: sourceLocation)
        case .kill: await test.store.abandonAll()
        }
        await test.expectNothingHeld(sourceLocation: sourceLocation)
        return result
    } catch {
        await test.store.abandonAll()
        throw error
    }
}
