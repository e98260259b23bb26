// SPDX-License-Identifier: Apache-2.0
internal import CLinux
internal import KVCore
internal import Synchronization

/// Runs the jobs of a reactor's actors on the reactor's thread, first in, first out.
///
/// `enqueue` may be called on any thread; all else belongs to the reactor's thread. An enqueue on
/// that thread costs some nanoseconds; from elsewhere it takes a lock, and signals an eventfd if
/// the thread sleeps.
///
/// A task executor, too, which the tasks of connections prefer: a continuation of a task without
/// that preference resumes on the global pool first (Swift 6.3.1), two thread changes a resume. In
/// return, calls between two actors of one reactor are enqueued instead of made directly; the data
/// path makes none.
// SAFETY: `jobs` is touched on the reactor's thread only; the rest is immutable or locked.
package final class RingExecutor: SerialExecutor, TaskExecutor, @unchecked Sendable {
    private struct Inbox {
        var jobs: [UnownedJob] = []
        /// The thread waits in the kernel or is about to: whoever appends signals it.
        var isWaiting = false
        /// `wake` was called since the thread looked last.
        var isPoked = false
        /// The thread has ended: nobody will run a job any more.
        var hasEnded = false
    }

    let wakeDescriptor: Int32
    private let inbox = Mutex(Inbox())
    /// Stored before the inbox is unlocked and loaded once it is locked: the thread sanitizer knows
    /// atomics, but not `Mutex` (Swift 6.3.1), and would report each hand-over as a race.
    private let handOver = Atomic<Bool>(false)
    private var jobs: RingBuffer<UnownedJob>
    /// Jobs taken out of the inbox; kept, so that the two arrays swap and never shrink.
    private var arrived: [UnownedJob] = []

    /// - Parameter wakeDescriptor: an eventfd that outlives the executor's use.
    init(wakeDescriptor: Int32) {
        self.wakeDescriptor = wakeDescriptor
        jobs = RingBuffer(capacity: 256)
        arrived.reserveCapacity(64)
    }

    /// Whether the calling thread is the reactor's. About 2 ns.
    @inline(always)
    var isCurrent: Bool {
        // SAFETY: only compares addresses; the mark is not followed.
        unsafe clinux_thread_mark() == Unmanaged.passUnretained(self).toOpaque()
    }

    /// Traps when the calling thread is not the reactor's: the door check of every operation.
    @inline(always)
    func checkThread() {
        invariant(isCurrent, "a reactor's operation was called outside its executor")
    }

    // MARK: Any thread

    package func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        if isCurrent {
            jobs.append(job)
            return
        }
        let mustSignal = locked { inbox in
            invariant(!inbox.hasEnded, "a job was enqueued after its reactor had been joined")
            inbox.jobs.append(job)
            let waits = inbox.isWaiting
            inbox.isWaiting = false
            return waits
        }
        if mustSignal { clinux_event_signal(wakeDescriptor) }
    }

    /// Wakes the thread, so that it looks at flags that were set elsewhere.
    func wake() {
        let mustSignal = locked { inbox in
            inbox.isPoked = true
            let waits = inbox.isWaiting
            inbox.isWaiting = false
            return waits
        }
        if mustSignal { clinux_event_signal(wakeDescriptor) }
    }

    package func checkIsolated() { checkThread() }

    package func isIsolatingCurrentContext() -> Bool? { isCurrent }

    private func locked(_ body: (inout Inbox) -> Bool) -> Bool {
        inbox.withLock { inbox in
            _ = handOver.load(ordering: .acquiring)
            defer { handOver.store(true, ordering: .releasing) }
            return body(&inbox)
        }
    }

    // MARK: The reactor's thread

    /// Binds the executor to the calling thread.
    func enterThread() {
        // SAFETY: the mark is only compared, never followed.
        unsafe clinux_thread_set_mark(Unmanaged.passUnretained(self).toOpaque())
    }

    /// The calling thread runs no more jobs; false when some arrived in between.
    func leaveThread() -> Bool {
        let isEmpty = locked { inbox in
            guard inbox.jobs.isEmpty else { return false }
            inbox.hasEnded = true
            return true
        }
        if isEmpty { clinux_thread_set_mark(nil) }
        return isEmpty
    }

    var hasJobs: Bool { jobs.count > 0 }

    /// Runs the jobs that are there now, at most `countMax`; what they enqueue waits its turn.
    func runJobs(countMax: Int) {
        // SAFETY: the reference is used while `self` lives.
        let serial = unsafe asUnownedSerialExecutor()
        let task = unsafe asUnownedTaskExecutor()
        for _ in 0..<min(jobs.count, countMax) {
            guard let job = jobs.popFirst() else { return }
            // SAFETY: each job was enqueued once and leaves the queue before it runs, once.
            unsafe job.runSynchronously(isolatedTo: serial, taskExecutor: task)
        }
    }

    /// Declares that the thread is about to wait.
    /// - Returns: false when there is something to do instead.
    func prepareToWait() -> Bool {
        locked { inbox in
            guard inbox.jobs.isEmpty && !inbox.isPoked else { return false }
            inbox.isWaiting = true
            return true
        }
    }

    /// Fetches what other threads enqueued, in their order.
    func collect() {
        var emptied: [UnownedJob] = []
        swap(&emptied, &arrived)
        _ = locked { inbox in
            inbox.isWaiting = false
            inbox.isPoked = false
            swap(&emptied, &inbox.jobs)
            return true
        }
        for job in emptied { jobs.append(job) }
        emptied.removeAll(keepingCapacity: true)
        swap(&emptied, &arrived)
    }
}
