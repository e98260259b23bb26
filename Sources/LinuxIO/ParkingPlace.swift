// SPDX-License-Identifier: Apache-2.0

/// Where a task stands while its operation is under way: an actor whose executor does not run the
/// task but hands its job to the reactor, which runs it when the operation has completed.
///
/// This replaces continuations. A continuation resumes on the generic executor (Swift 6.3.1,
/// `swift_continuation_init`): a task that does not prefer the reactor's executor would go through
/// the global pool for each operation, two changes of threads and two allocations, 20 to 70 µs
/// instead of 1. A parked task is resumed on the reactor whatever it prefers.
///
/// The reactor runs the job in its own executor's name. That is sound: `wait` touches nothing but
/// the reactor's state, on the reactor's thread. And it saves a switch, as the way back from `wait`
/// leads to an actor of the reactor, where the job is already.
actor ParkingPlace {
    nonisolated let executor: ParkingExecutor

    nonisolated var unownedExecutor: UnownedSerialExecutor {
        // SAFETY: the executor lives as long as this actor.
        unsafe executor.asUnownedSerialExecutor()
    }

    init(_ executor: ParkingExecutor) { self.executor = executor }

    /// Suspends the calling task until the reactor runs its job.
    /// - Returns: the result that the job was run with.
    ///
    /// Never inlined: the switch of executors that the call makes is all there is to it.
    @inline(never)
    func wait(_ reactor: RingReactor) -> Int32 { reactor.takeResult() }
}

/// The executor of a `ParkingPlace`: `enqueue` is called on the reactor's thread, as the last act
/// of the task that parks.
// SAFETY: `reactor` is set once, before the reactor's thread starts.
@safe
final class ParkingExecutor: SerialExecutor, @unchecked Sendable {
    /// Owns this object, through its parking place.
    private var reactor: Unmanaged<RingReactor>?

    func belongs(to reactor: RingReactor) {
        // SAFETY: only jobs of the reactor's tasks get here, and they keep it alive.
        unsafe self.reactor = Unmanaged.passUnretained(reactor)
    }

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        // SAFETY: as above.
        unsafe reactor?._withUnsafeGuaranteedRef { $0.park(job) }
    }
}
