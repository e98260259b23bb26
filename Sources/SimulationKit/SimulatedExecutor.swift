// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Synchronization

/// The one thread of a simulation, and what other threads tell it. It outlives its scheduler for as
/// long as a task refers to an executor.
// SAFETY: `runningReactor` is touched on that thread alone; `strays` is behind its mutex.
final class SimulatedThread: @unchecked Sendable {
    private let thread = pthread_self()
    /// The reactor whose job runs, -1 for the pool's, nil between jobs.
    var runningReactor: Int?
    private let strays = Mutex<[String]>([])

    var isHere: Bool { pthread_self() == thread }

    /// The first thing that came from another thread; it fails the run.
    var firstStray: String? { strays.withLock { $0.first } }

    /// Fails the run, from any thread.
    func reportStray(_ reason: String) {
        strays.withLock { $0.append(reason) }
    }
}

/// The serial executor of one simulated reactor: a list of jobs that its scheduler runs.
///
/// Jobs of one reactor run in the order in which they became ready, as a ring runs them; which
/// reactor's turn it is, the scheduler's seed decides. One more such list stands for Swift's
/// global pool.
// SAFETY: `jobs` is touched on the simulation's thread alone, which `enqueue` checks.
package final class SimulatedExecutor: SerialExecutor, TaskExecutor, @unchecked Sendable {
    private let thread: SimulatedThread
    let reactorIndex: Int
    let isPool: Bool
    private var jobs: [UnownedJob] = []
    private var firstJob = 0

    /// An executor for the reactor with that index; -1 is the global pool.
    init(thread: SimulatedThread, reactorIndex: Int) {
        self.thread = thread
        self.reactorIndex = reactorIndex
        isPool = reactorIndex < 0
    }

    package func enqueue(_ job: consuming ExecutorJob) {
        guard thread.isHere else {
            // The job is dropped: running it whenever it came would be chance without seed.
            thread.reportStray("a job came to reactor \(reactorIndex) from another thread")
            return
        }
        jobs.append(UnownedJob(job))
    }

    func enqueue(captured job: UnownedJob) {
        jobs.append(job)
    }

    /// Lets `assumeIsolated` pass while the test sets up or looks on: no job runs then.
    package func checkIsolated() {
        precondition(
            thread.isHere
                && (thread.runningReactor == nil || thread.runningReactor == reactorIndex),
            "not on this simulated reactor's executor")
    }

    var hasJobs: Bool { firstJob < jobs.count }

    /// Runs the oldest job to its next suspension.
    func runOneJob() {
        let job = jobs[firstJob]
        firstJob += 1
        if firstJob == jobs.count {
            jobs.removeAll(keepingCapacity: true)
            firstJob = 0
        }
        if isPool {
            // SAFETY: each job was handed over by the hook and is run exactly once, here.
            unsafe job.runSynchronously(on: asUnownedTaskExecutor())
        } else {
            // SAFETY: each job was handed over by `enqueue` and is run exactly once, here.
            unsafe job.runSynchronously(
                isolatedTo: asUnownedSerialExecutor(), taskExecutor: asUnownedTaskExecutor())
        }
    }
}
