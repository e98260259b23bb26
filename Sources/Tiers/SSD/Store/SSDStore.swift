// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// Everything of the SSD tier that touches the disk, except reading chunks for clients: an actor
/// on a reactor of its own, so that neither fsync nor a slow disk holds up a data thread.
///
/// It writes what waits in memory (`RAMTier.takeDemotion`), what clients want durable (`store`),
/// and deletions; it seals full segments, reclaims the oldest, scrubs, and writes checkpoints. Each
/// directory is a lane: its own open segment, its own faults. See docs/ssd-format.md for what is
/// written in which order.
package actor SSDStore<R: Reactor> {
    /// How it is to use its directories. A value.
    package struct Configuration: Sendable {
        package var directories: [String]
        /// Of each directory, everything included.
        package var capacity: ByteCount
        package var segmentByteCount: ByteCount
        /// What each file system keeps free.
        package var reserve: ByteCount
        /// 0: no scrub.
        package var scrubByteCountPerSecond: Int
        package var directIO: DirectIO
        /// Segments to seal before a checkpoint is worth its writing.
        package var checkpointSegmentCount = 16
        /// How often the directories are looked after; after a fault they stand still for ten
        /// times as long at least.
        package var roundMilliseconds: UInt64

        package init(
            directories: [String], capacity: ByteCount, segmentByteCount: ByteCount,
            reserve: ByteCount = ByteCount(0), scrubByteCountPerSecond: Int = 0,
            directIO: DirectIO = .automatic, roundMilliseconds: UInt64 = 100
        ) {
            self.directories = directories
            self.capacity = capacity
            self.segmentByteCount = segmentByteCount
            self.reserve = reserve
            self.scrubByteCountPerSecond = scrubByteCountPerSecond
            self.directIO = directIO
            self.roundMilliseconds = roundMilliseconds
        }
    }

    /// Whether files are opened past the kernel's cache.
    package enum DirectIO: Sendable {
        /// Where the file system can.
        case automatic
        /// Or not at all.
        case required
        case off
    }

    package nonisolated let reactor: R
    package nonisolated let tier: SSDTier
    package nonisolated let memory: RAMTier
    package nonisolated let files: SSDFiles<R.Directory.Handle>
    package nonisolated let bell = SSDBell()
    nonisolated let configuration: Configuration
    /// Makes chunks smaller before they are written; nil: nobody does.
    nonisolated let encoder: (any DemotionEncoder)?
    /// Chunks that it is at.
    var encoding: Set<ChunkName> = []
    nonisolated let report: @Sendable (SSDEvent) -> Void

    var lanes: [SSDLane<R>] = []
    /// What new directories get when none is there already: all the same, also when one of them
    /// fails on the way.
    lazy var newStore = SSDTag(random: reactor.randomBits)
    /// There may be something to write.
    let work = Signal()
    /// A record was written, or could not be.
    let recordsChanged = Signal()
    /// A note was settled, or could not be written.
    let notesChanged = Signal()
    /// How often the writing of a note that still waits has failed.
    var failedNotes: [UInt64: Int] = [:]
    /// Those who wait for something durable: until when, and what tells them that it is late.
    private var waits: [UInt64: (deadline: Instant, end: @Sendable () -> Void)] = [:]
    private var waitCount: UInt64 = 0
    var isStopping = false
    /// Durable stores under way.
    var storeCount = 0
    /// Tasks that must end before the files are closed.
    var taskCount = 0
    let tasksChanged = Signal()
    var scrub = ScrubState()
    /// Synchronizations of segments that failed.
    var synchronizationFaultCount = 0
    /// Segments sealed since the last checkpoint.
    var sealedCount = 0
    var isWritingCheckpoint = false
    /// One is being written, or will be once no segment is being emptied; none is meanwhile. What a
    /// checkpoint lists in one segment must not be found in another at the next start, and be gone
    /// from there when the first one is still to be erased.
    var isCheckpointAwaited = false
    /// The one that is being written is not to be completed.
    var isCheckpointVoid = false
    /// Segments that are being emptied.
    var emptyingCount = 0
    /// The lane that gets the next record, when several have room.
    private var nextLane = 0

    package nonisolated var unownedExecutor: UnownedSerialExecutor {
        // SAFETY: the store keeps its reactor, and with it the executor, alive.
        unsafe reactor.executor.asUnownedSerialExecutor()
    }

    /// A store that has not looked at its directories yet; `open` does.
    package init(
        _ configuration: Configuration, tier: SSDTier, memory: RAMTier, reactor: R,
        files: SSDFiles<R.Directory.Handle>, encoder: (any DemotionEncoder)? = nil,
        report: @escaping @Sendable (SSDEvent) -> Void
    ) {
        self.configuration = configuration
        self.encoder = encoder
        self.tier = tier
        self.memory = memory
        self.reactor = reactor
        self.files = files
        self.report = report
    }

    // MARK: Life

    /// Begins to write; `open` has returned.
    package func start() {
        bell.onRing { [self] in
            Task(executorPreference: reactor.executor) { await self.wake() }
        }
        for number in lanes.indices {
            spawn { await $0.feed(lane: number) }
        }
        spawn { await $0.maintain() }
        spawn { await $0.keepDeadlines() }
        spawn { await $0.scrubForever() }
    }

    /// Something waits to be written.
    package func wake() { work.notify() }

    /// Writes what waits, seals what is open, writes a checkpoint and lets go of the directories;
    /// what is not written at `deadline` is left.
    package func stop(by deadline: Instant) async {
        await onOwnTask { await $0.close(by: deadline) }
    }

    private func close(by deadline: Instant) async {
        isStopping = true
        spawn { store in
            while store.taskCount > 1, store.reactor.now() < deadline {
                guard await store.pause(milliseconds: 20) else { break }
                store.wakeAll()
            }
            store.isOverdue = true
            store.wakeAll()
        }
        wakeAll()
        while taskCount > 0 { await tasksChanged.wait() }
        for lane in lanes where !lane.isGone {
            if let open = lane.open {
                lane.open = nil
                await seal(open, lane)
            }
        }
        await writeCheckpoint()
        isOverdue = true
        wakeAll()
        closeAll()
    }

    /// Set when `stop` ran out of time, or is done: nothing new begins.
    var isOverdue = false

    func wakeAll() {
        work.notify()
        notesChanged.notify()
        recordsChanged.notify()
        for lane in lanes { lane.changed.notify() }
    }

    private func closeAll() {
        for lane in lanes where !lane.isGone {
            for slot in 0..<tier.segments().count { files[slot] = nil }
            lane.directory.close()
        }
        lanes = []
        // What it does holds the store.
        bell.onRing {}
    }

    /// Runs `body` as a task that `stop` waits for.
    func spawn(_ body: @escaping @Sendable (isolated SSDStore<R>) async -> Void) {
        taskCount += 1
        Task(executorPreference: reactor.executor) {
            await body(self)
            await self.taskEnded()
        }
    }

    /// Runs `body` as a task of this thread, and waits for it.
    ///
    /// What other threads' tasks call must go through here when it awaits anything of ours. A task
    /// that prefers another executor is enqueued anew at every call between two functions of the
    /// store (Swift 6.3.1), so that others run between a check and what depends on it.
    func onOwnTask<Value: Sendable>(
        _ body: @escaping @Sendable (isolated SSDStore<R>) async -> Value
    ) async -> Value {
        await Task(executorPreference: reactor.executor) { await body(self) }.value
    }

    /// The same, and gives up at `deadline` with `late`, to a tenth of a second; `body` goes on.
    func onOwnTask<Value: Sendable>(
        by deadline: Instant, orElse late: Value,
        _ body: @escaping @Sendable (isolated SSDStore<R>) async -> Value
    ) async -> Value {
        let outcome = Outcome<Value>()
        waitCount += 1
        let number = waitCount
        waits[number] = (deadline, { outcome.end(late) })
        Task(executorPreference: reactor.executor) { outcome.end(await body(self)) }
        let value = await outcome.wait()
        waits[number] = nil
        return value
    }

    /// Ends the waits whose time is over, also while the store stops, or waits for a disk; and all
    /// of them once the stop's own time is over.
    private func keepDeadlines() async {
        while !isStopping || !waits.isEmpty {
            guard await pause(milliseconds: configuration.roundMilliseconds) else { return }
            let now = reactor.now()
            for wait in waits.values where isOverdue || wait.deadline <= now { wait.end() }
        }
    }

    func taskEnded() {
        taskCount -= 1
        tasksChanged.notify()
    }

    func pause(milliseconds: UInt64) async -> Bool {
        do throws(IOFault) {
            try await reactor.sleep(until: reactor.now().adding(milliseconds: milliseconds))
            return true
        } catch {
            return false
        }
    }

    /// A lane that takes records now, in turn; nil when all stand still.
    func writableLane() -> SSDLane<R>? {
        for offset in 0..<lanes.count {
            let lane = lanes[(nextLane + offset) % lanes.count]
            if lane.isWritable {
                nextLane = (lane.number + 1) % lanes.count
                return lane
            }
        }
        return nil
    }

    /// Whether any lane can write now.
    package var isWritable: Bool { lanes.contains { $0.isWritable } }

    // MARK: Faults

    /// A read, write or synchronization of a lane failed: it stands still for a while.
    func fault(_ fault: IOFault, _ lane: SSDLane<R>, _ what: String) {
        tier.count { $0.writeFaultCount += 1 }
        guard fault != .cancelled else { return noteEnd() }
        let isNew = lane.retryAt == nil
        lane.faultCount += 1
        let rounds = 10 * min(60, 1 << min(lane.faultCount - 1, 6)) as UInt64
        let milliseconds = rounds * configuration.roundMilliseconds
        lane.retryAt = reactor.now().adding(milliseconds: milliseconds)
        countFailedDirectories()
        if isNew {
            report(
                SSDEvent(
                    .fault, lane.path,
                    "\(what) failed (\(fault)); writing stands still for "
                        + "\(milliseconds / 1_000) s, chunks stay in memory"))
        }
        lane.changed.notify()
        notesChanged.notify()
    }

    /// The reactor has ended: whatever is tried from now on fails at once.
    func noteEnd() {
        guard !isOverdue else { return }
        isOverdue = true
        wakeAll()
    }

    func countFailedDirectories() {
        let missing = configuration.directories.count - lanes.count
        let failed = lanes.count { $0.retryAt != nil || $0.isGone }
        tier.count { $0.failedDirectoryCount = missing + failed }
    }
}
