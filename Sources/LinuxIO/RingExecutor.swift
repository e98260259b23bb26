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
/// A task executor, too, so that tasks can prefer it (`Task(executorPreference:)`): what they
/// suspend on besides operations (values of other tasks, continuations) resumes here as well,
/// instead of on the global pool first (Swift 6.3.1). In return, a call between two actors of one
/// reactor is enqueued instead of made directly; the data path makes none.
// SAFETY: `jobs` is touched on the reactor's thread only; the rest is immutable or locked.
package final class RingExecutor: SerialExecutor, TaskExecutor, @unchecked Sendable {
    private struct Ready {
        let job: UnownedJob
        let result: Int32
    }

    private struct Inbox {
        var jobs: [UnownedJob] = []
        /// The thread waits in the kernel or is about to: whoever appends signals it.
        var isWaiting = false
        /// `wake` was called since the thread looked last.
        var isPoked = false
        /// Jobs that came from other threads so far.
        var foreignCount = 0
        /// The thread has ended: nobody will run a job any more.
        var hasEnded = false
    }

    let wakeDescriptor: Int32
    private let inbox = Mutex(Inbox())
    /// Stored before the inbox is unlocked and loaded once it is locked: the thread sanitizer knows
    /// atomics, but not `Mutex` (Swift 6.3.1), and would report each hand-over as a race.
    private let handOver = Atomic<Bool>(false)
    private var jobs: RingBuffer<Ready>
    /// The result for the job that runs now, if it was parked.
    private(set) var result: Int32 = 0
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
            append(job, result: 0)
            return
        }
        let mustSignal = locked { inbox in
            invariant(!inbox.hasEnded, "a job was enqueued after its reactor had been joined")
            inbox.jobs.append(job)
            inbox.foreignCount += 1
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

    /// Jobs that came from other threads so far: each cost a change of threads.
    var foreignJobCount: Int {
        var count = 0
        _ = locked { inbox in
            count = inbox.foreignCount
            return true
        }
        return count
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

    /// Makes a job ready; a job that was parked finds `result`.
    func append(_ job: UnownedJob, result: Int32) {
        jobs.append(Ready(job: job, result: result))
    }

    /// Runs the jobs that are there now, at most `countMax`; what they enqueue waits its turn.
    func runJobs(countMax: Int) {
        // SAFETY: the reference is used while `self` lives.
        let serial = unsafe asUnownedSerialExecutor()
        let task = unsafe asUnownedTaskExecutor()
        for _ in 0..<min(jobs.count, countMax) {
            guard let ready = jobs.popFirst() else { return }
            result = ready.result
            // SAFETY: each job was enqueued once and leaves the queue before it runs, once.
            unsafe ready.job.runSynchronously(isolatedTo: serial, taskExecutor: task)
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
        for job in emptied { append(job, result: 0) }
        emptied.removeAll(keepingCapacity: true)
        swap(&emptied, &arrived)
    }
}
