// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Synchronization

/// Takes the jobs that a simulated thread hands to Swift's global pool, and gives them to the
/// scheduler of that thread instead: nothing runs at a time that no seed decides.
///
/// Such jobs are common. A continuation of a task without an executor preference resumes on the
/// global pool and hops to its actor from there (`swift_continuation_init` in the runtime's
/// Task.cpp sets the generic executor as the one to resume on). So are `Task.detached`,
/// `@concurrent` functions, default actors and `async let`. Not captured, since the runtime calls
/// no hook for them: `Task.sleep` and the main actor. A run that uses these is stuck, or fails when
/// the job comes back from another thread.
///
/// It sets the concurrency runtime's hook (`swift_task_enqueueGlobal_hook`,
/// stdlib/public/Concurrency/GlobalExecutor.cpp) once per process; jobs of other threads pass on.
enum GlobalPoolCapture {
    private typealias Enqueue = @convention(thin) (UnownedJob) -> Void
    private typealias EnqueueHook = @convention(thin) (UnownedJob, Enqueue) -> Void

    /// The schedulers that run now, by their threads.
    private static let schedulers = Mutex<[UInt: SimulatedScheduler]>([:])

    private static var schedulerHere: SimulatedScheduler? {
        schedulers.withLock { $0[pthread_self()] }
    }

    /// Runs `body` with this thread's jobs for the global pool going to `scheduler`.
    static func running<Failure: Error>(
        _ scheduler: SimulatedScheduler, _ body: () throws(Failure) -> Void
    ) throws(Failure) {
        precondition(isInstalled, "this Swift runtime lacks the hooks of the global executor")
        schedulers.withLock { $0[pthread_self()] = scheduler }
        defer { schedulers.withLock { $0[pthread_self()] = nil } }
        try body()
    }

    private static let isInstalled: Bool = {
        guard
            // SAFETY: a symbol lookup in the running program.
            let symbol = unsafe dlsym(dlopen(nil, RTLD_LAZY), "swift_task_enqueueGlobal_hook")
        else { return false }
        // SAFETY: the runtime declares this variable as a nullable function pointer of this type
        // with Swift's calling convention, reads it at each enqueue, and sets it nowhere.
        let hook = unsafe symbol.assumingMemoryBound(to: EnqueueHook?.self)
        unsafe hook.pointee = { job, original in
            guard let scheduler = GlobalPoolCapture.schedulerHere else { return original(job) }
            scheduler.pool.enqueue(captured: job)
        }
        return true
    }()
}
