// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Synchronization

/// What the SSD tier tells the log. A value.
package struct SSDEvent: Hashable, Sendable {
    package enum Kind: Hashable, Sendable {
        /// A directory cannot be used; the others and memory go on.
        case unavailable
        /// A file that is not ours, or not as it should be, was left alone.
        case foreignFile
        /// The directory's file system has no O_DIRECT.
        case bufferedIO
        /// A read, write or synchronization failed.
        case fault
        /// A record does not match its checksum.
        case checksumMismatch
        /// The directory stood still after faults, and works again.
        case recovered
        /// The file system has no room for another segment.
        case diskFull
        /// A scrub or an evacuation ended.
        case finished
    }

    package let kind: Kind
    package let path: String
    package let message: String

    package init(_ kind: Kind, _ path: String, _ message: String) {
        self.kind = kind
        self.path = path
        self.message = message
    }
}

/// The open files of the segments, by slot of the segment table, for readers on any thread.
package final class SSDFiles<Handle: Sendable>: Sendable {
    private let handles = Mutex<[Handle?]>([])
    private let removals = Atomic<Int>(0)

    package init() {}

    package subscript(slot: Int) -> Handle? {
        get { handles.withLock { slot < $0.count ? $0[slot] : nil } }
        set {
            handles.withLock { handles in
                while handles.count <= slot { handles.append(nil) }
                handles[slot] = newValue
            }
            if newValue == nil { removals.add(1, ordering: .relaxed) }
        }
    }
}

extension SSDFiles {
    /// How many files were taken out so far.
    var removalCount: Int { removals.load(ordering: .relaxed) }
}

/// Tasks of one executor that wait for something to change. Confined to it.
final class Signal {
    private var waiters: [CheckedContinuation<Void, Never>] = []

    /// Suspends until the next `notify`.
    nonisolated(nonsending) func wait() async {
        await withCheckedContinuation { waiters.append($0) }
    }

    /// Lets all that wait go on.
    func notify() {
        let woken = waiters
        waiters.removeAll(keepingCapacity: true)
        for waiter in woken { waiter.resume() }
    }
}

/// A value that one task waits for, and that the first to know it gives. Any thread.
final class Outcome<Value: Sendable>: Sendable {
    private enum State {
        case open
        case awaited(CheckedContinuation<Value, Never>)
        case ended(Value)
    }

    private let state = Mutex(State.open)

    func wait() async -> Value {
        await withCheckedContinuation { continuation in
            let value = state.withLock { state -> Value? in
                if case .ended(let value) = state { return value }
                state = .awaited(continuation)
                return nil
            }
            if let value { continuation.resume(returning: value) }
        }
    }

    /// Later values are dropped.
    func end(_ value: Value) {
        let waiter = state.withLock { state -> CheckedContinuation<Value, Never>? in
            switch state {
            case .ended: return nil
            case .open:
                state = .ended(value)
                return nil
            case .awaited(let continuation):
                state = .ended(value)
                return continuation
            }
        }
        waiter?.resume(returning: value)
    }
}

/// Wakes the store's thread when there is something to write and it sleeps. Any thread.
package final class SSDBell: Sendable {
    /// A closure that stands in a `Mutex` by itself is wrapped once more at each look at it (Swift
    /// 6.3.1), so that looks and calls take longer and longer, and the stack ends one day.
    private struct Action {
        let run: @Sendable () -> Void
    }

    private let isWanted = Atomic<Bool>(false)
    private let action = Mutex<Action?>(nil)

    package init() {}

    /// Costs a load when the store is awake.
    package func ring() {
        guard isWanted.load(ordering: .relaxed) else { return }
        guard isWanted.exchange(false, ordering: .acquiringAndReleasing) else { return }
        action.withLock { $0 }?.run()
    }

    /// The store is about to sleep; it looks for work once more afterwards.
    func want() { isWanted.store(true, ordering: .sequentiallyConsistent) }

    func onRing(_ run: @escaping @Sendable () -> Void) {
        action.withLock { $0 = Action(run: run) }
    }
}

/// What a record takes of a segment. A value.
struct RecordSize: Hashable, Sendable {
    let blockCount: Int
    /// Entries in the footer, at most.
    let entryCount: Int
    /// Notes may take the room that chunks leave for them.
    let isOfNotes: Bool
}

/// A segment that is being written. Confined to the store.
final class OpenSegment<R: Reactor> {
    let slot: Int
    let header: SegmentHeader
    let file: R.File
    /// Where the next record goes.
    private(set) var nextBlock: Int
    /// Blocks are reserved and not yet written.
    private(set) var pendingCount = 0
    /// Records that were reserved, for the room of the footer; a record of notes counts for all
    /// that it could hold.
    private var entryCount: Int
    /// What was written, for the footer; in order of completion.
    var entries: [FooterEntry]
    /// Those before are durable.
    private(set) var synchronizedEntryCount: Int
    /// Where chunks that moved here came from, by block, until their records here are durable.
    private var origins: [UInt32: SSDPlace] = [:]
    /// Takes no more records: it is full, or failed.
    var isClosed = false
    /// A synchronization failed: what was not durable before may never be.
    var isDamaged = false
    var isSealed = false

    /// `entries` are those of the records that are in it, durably.
    init(slot: Int, header: SegmentHeader, file: R.File, _ entries: [FooterEntry] = []) {
        self.slot = slot
        self.header = header
        self.file = file
        self.entries = entries
        entryCount = entries.count
        synchronizedEntryCount = entries.count
        nextBlock = entries.map { Int($0.block + $0.blockCount) }.max() ?? 1
    }

    /// Whether a record fits behind the others. Chunks leave some room for notes, so that a
    /// deletion finds room while segments are reclaimed.
    func fits(_ record: RecordSize) -> Bool {
        let footer = FooterTable.blockCount(entryCount: entryCount + record.entryCount)
        let kept = record.isOfNotes ? 0 : Self.blockCountForNotes(of: Int(header.blockCount))
        return nextBlock + record.blockCount + footer + kept <= Int(header.blockCount)
    }

    /// Takes room for a record; nil when it does not fit any more.
    func reserve(_ record: RecordSize) -> Int? {
        guard !isClosed, fits(record) else { return nil }
        defer { nextBlock += record.blockCount }
        entryCount += record.entryCount
        pendingCount += 1
        return nextBlock
    }

    /// Blocks of a segment that chunks do not take.
    static func blockCountForNotes(of blockCount: Int) -> Int { blockCount / 32 }

    /// Ends a reservation; `written` are its entries when it succeeded.
    func complete(_ written: [FooterEntry], movedFrom origin: SSDPlace? = nil) {
        pendingCount -= 1
        entries.append(contentsOf: written)
        if let origin, let entry = written.first { origins[entry.block] = origin }
    }

    /// The first `count` entries are durable.
    func noteSynchronized(entryCount count: Int) {
        guard count > synchronizedEntryCount else { return }
        if !origins.isEmpty {
            for entry in entries[synchronizedEntryCount..<count] { origins[entry.block] = nil }
        }
        synchronizedEntryCount = count
    }

    /// Takes out the entries that are not durable, with where they came from.
    func takeUnsynchronized() -> [(entry: FooterEntry, origin: SSDPlace?)] {
        let taken = entries.dropFirst(synchronizedEntryCount).map { ($0, origins[$0.block]) }
        entries.removeSubrange(synchronizedEntryCount...)
        origins = [:]
        return taken
    }

    var hasUnsynchronizedEntries: Bool { synchronizedEntryCount < entries.count }

    /// Greater than the sequence number of every entry.
    var nextSequence: UInt64 { (entries.map(\.sequence).max() ?? header.firstSequence) + 1 }
}

/// One directory of the store. Confined to the store.
final class SSDLane<R: Reactor> {
    let number: Int
    let path: String
    let directory: R.Directory
    let identity: SSDIdentity
    let mode: FileMode
    /// Segments that the capacity allows.
    let segmentCountMax: Int
    var segmentCount = 0
    /// The numbers that files have, also those that are not ours.
    var fileSlots: Set<UInt32> = []
    var open: OpenSegment<R>?
    /// Segments that are full and not sealed yet, and the open one.
    var unsealed: [OpenSegment<R>] = []
    /// Bytes of records being written.
    var byteCountInFlight = 0
    var isRolling = false
    var isReclaiming = false
    /// Segments in a row that were emptied and left no more free than before.
    var fruitlessReclaimCount = 0
    /// Reclaim has gained nothing for long, and rests until then.
    var reclaimAgainAt = Instant(nanoseconds: 0)
    var isEvacuating = false
    var isGone = false
    /// The start could not read the headers of some segments; nothing is known of them.
    var hasUnreadableSegments = false
    /// Something that a task of this lane may wait for has changed.
    let changed = Signal()
    /// Rounds of synchronization.
    var roundsStarted = 0
    var roundsEnded = 0
    var isSynchronizing = false
    /// When to try again after a fault; nil: all is well.
    var retryAt: Instant?
    var faultCount = 0
    /// Notes found no room, and are not tried again for a moment.
    var hasNoRoomForNotes = false
    /// Why there was no other segment last time, as long as that is so.
    var growthFault: IOFault?

    init(
        number: Int, path: String, directory: R.Directory, identity: SSDIdentity, mode: FileMode,
        segmentCountMax: Int
    ) {
        self.number = number
        self.path = path
        self.directory = directory
        self.identity = identity
        self.mode = mode
        self.segmentCountMax = segmentCountMax
    }

    var segmentBlockCount: Int { Int(identity.segmentBlockCount) }

    var isFull: Bool { growthFault != nil }

    /// The lowest number that no file has.
    var unusedFileSlot: UInt32 {
        var slot: UInt32 = 0
        while fileSlots.contains(slot) { slot += 1 }
        return slot
    }

    var isWritable: Bool { retryAt == nil && !isEvacuating && !isGone }

    /// Whether records are being written, or moved out of segments.
    var isBusy: Bool { byteCountInFlight > 0 || isReclaiming || isEvacuating && !isGone }
}
