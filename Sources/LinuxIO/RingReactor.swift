// SPDX-License-Identifier: Apache-2.0
internal import CLinux
package import KVCore
internal import Synchronization

/// The reactor of production: one thread, one ring (or its poll fallback), one serial executor.
///
/// Sendable so that any thread may hold it, read its clock and stop it; everything else is for
/// code that runs on its executor, and traps elsewhere. Life: `init` starts the thread; `stop`
/// cancels all I/O; `join` waits until nothing is left to run and ends the thread.
// SAFETY: the mutable state is touched on the reactor's thread only, which the door of each
// operation checks; what other threads set is atomic.
@safe
package final class RingReactor: Reactor, @unchecked Sendable {
    package let executor: RingExecutor
    package let options: ReactorOptions
    /// What carries the operations, for the log: `io_uring` or `poll`.
    package let backendDescription: String
    /// Sentences for the log about what is worse than it could be, with the cure.
    package let warnings: [String]

    let backend: Backend
    let isPolling: Bool
    private let wakeDescriptor: Int32
    private let phase = Atomic<UInt8>(Phase.running.rawValue)
    private let thread = Atomic<UInt64>(0)
    /// Rounds of the loop so far. Any thread.
    let roundCount = Atomic<UInt64>(0)

    // The reactor's thread only.
    private var slots: SlotTable
    private var sleeps = SleepQueue()
    private let parkingPlace: ParkingPlace
    /// What the task that runs now is about to park for.
    private var parking = Parking.nobody
    private var faults = FaultInjector()
    private var scratchPool: RingBuffer<UnsafeMutablePointer<clinux_scratch>>
    private var lastDeadlineLook: UInt64 = 0
    private var hasCancelledAll = false
    /// Sends and receives of large runs that are under way.
    package internal(set) var activeTransferCount = 0

    private enum Parking: Equatable {
        case nobody
        case slot(UInt64)
        case yield
    }

    private enum Phase: UInt8 {
        case running
        /// Operations are cancelled; jobs still run.
        case stopping
        /// Somebody waits for the thread to end.
        case joining
    }

    /// Starts a reactor's thread. Throws `.system` when the kernel gives no ring, descriptor or
    /// thread; with `.automatic`, a forbidden io_uring is a warning instead.
    package init(_ options: ReactorOptions = ReactorOptions()) throws(IOFault) {
        let wakeDescriptor = clinux_event_open(options.backend == .poll)
        guard wakeDescriptor >= 0 else { throw .system(-wakeDescriptor) }
        var warnings: [String] = []
        do throws(IOFault) {
            backend = try Backend(options, wakeDescriptor: wakeDescriptor, warnings: &warnings)
        } catch {
            clinux_close(wakeDescriptor)
            throw error
        }
        if case .poll = backend {
            isPolling = true
            _ = clinux_descriptor_set_nonblocking(wakeDescriptor)
        } else {
            isPolling = false
        }
        self.options = options
        self.warnings = warnings
        self.wakeDescriptor = wakeDescriptor
        backendDescription = backend.description
        executor = RingExecutor(wakeDescriptor: wakeDescriptor)
        slots = SlotTable(capacity: options.operationCountMax)
        let parkingExecutor = ParkingExecutor()
        parkingPlace = ParkingPlace(parkingExecutor)
        // SAFETY: empty; what goes in and out is accounted for where that happens.
        unsafe scratchPool = RingBuffer(capacity: 16)
        parkingExecutor.belongs(to: self)
        try startThread()
    }

    private func startThread() throws(IOFault) {
        // SAFETY: the thread takes this reference over and gives it back when it ends.
        let context = unsafe Unmanaged.passRetained(self).toOpaque()
        var handle: UInt64 = 0
        let processor = Int32(options.processor ?? -1)
        let result = unsafe options.name.withCString { name in
            unsafe clinux_thread_start(
                &handle, name, processor,
                { context in
                    // SAFETY: the reference that `startThread` passed, taken once.
                    guard let context = unsafe context else { return nil }
                    let reactor = unsafe Unmanaged<RingReactor>.fromOpaque(context)
                    unsafe reactor.takeUnretainedValue().run()
                    unsafe reactor.release()
                    return nil
                }, context)
        }
        guard result == 0 else {
            unsafe Unmanaged<RingReactor>.fromOpaque(context).release()
            throw .system(-result)
        }
        thread.store(handle, ordering: .releasing)
    }

    deinit {
        clinux_close(wakeDescriptor)
        // SAFETY: whatever is in the pool is used by nobody.
        while let scratch = unsafe scratchPool.popFirst() { unsafe scratch.deallocate() }
    }

    // MARK: Any thread

    package func now() -> Instant { Instant(nanoseconds: clinux_now()) }

    package func randomBits() -> UInt64 { clinux_random() }

    /// Cancels all operations and sleeps (they throw `.cancelled`) and refuses new ones. Jobs go
    /// on, so that tasks can end. Any thread, any number of times; does not wait.
    package func stop() {
        _ = phase.compareExchange(
            expected: Phase.running.rawValue, desired: Phase.stopping.rawValue,
            ordering: .sequentiallyConsistent)
        executor.wake()
    }

    /// Stops, and waits until no operation is under way and no job is left, and the thread ended.
    /// The caller has awaited the tasks that run here: a job that comes later traps. Blocks; not
    /// from the reactor's own thread; once.
    package func join() {
        invariant(!executor.isCurrent, "a reactor cannot wait for its own end")
        phase.store(Phase.joining.rawValue, ordering: .sequentiallyConsistent)
        executor.wake()
        let handle = thread.exchange(0, ordering: .acquiringAndReleasing)
        invariant(handle != 0, "a reactor was joined twice")
        let result = clinux_thread_join(handle)
        invariant(result == 0, "the reactor's thread could not be joined")
    }

    var isStopping: Bool { phase.load(ordering: .relaxed) != Phase.running.rawValue }

    // MARK: The reactor's thread: operations

    /// Performs one operation and returns its result (see `Outcome`). `started` gets the
    /// operation's id, for `cancel`, before it can complete.
    nonisolated(nonsending) func perform(
        _ operation: Operation,
        deadline: Instant = .distantFuture,
        started: (UInt64) -> Void = { _ in }
    ) async -> Int32 {
        executor.checkThread()
        guard let id = claim(deadline, isSleep: false) else { return refusal }
        started(id)
        guard begin(operation, id) else {
            slots.withdraw(id)
            return Outcome.busy
        }
        parking = .slot(id)
        return await parkingPlace.wait(self)
    }

    private func claim(_ deadline: Instant, isSleep: Bool) -> UInt64? {
        isStopping ? nil : slots.claim(deadline: deadline.nanoseconds, isSleep: isSleep)
    }

    /// Why `claim` gave no slot.
    private var refusal: Int32 { isStopping ? Outcome.cancelled : Outcome.busy }

    private func begin(_ operation: Operation, _ id: UInt64) -> Bool {
        var operation = operation
        operation.raw.user_data = id
        if faults.isArmed {
            let result = faults.apply(to: &operation)
            if result != 0 { slots.inject(id, result: result) }
        }
        return backend.prepare(&operation)
    }

    /// Takes the job of the task that has just parked.
    func park(_ job: UnownedJob) {
        executor.checkThread()
        let parked = parking
        parking = .nobody
        switch parked {
        case .slot(let id): slots.park(id, job)
        case .yield: executor.append(job, result: 0)
        case .nobody: invariant(false, "a task parked without an operation")
        }
    }

    /// The result for the task that was parked and whose job runs now.
    func takeResult() -> Int32 {
        executor.checkThread()
        // Else the call of `wait` did not suspend, and this result is another's.
        invariant(parking == .nobody, "a task went on before it had parked")
        return executor.result
    }

    private func complete(_ id: UInt64, _ result: Int32) {
        let ended = slots.take(id, result: result)
        executor.append(ended.job, result: ended.result)
    }

    /// Ends the operation `id` early; it reports `Outcome.cancelled` unless it was faster.
    func cancel(_ id: UInt64) {
        executor.checkThread()
        cancel(id, .cancelled)
    }

    private func cancel(_ id: UInt64, _ reason: SlotTable.State) {
        guard slots.cancel(id, reason) else { return }
        if !backend.cancel(id) { slots.revertCancel(id) }
    }

    package nonisolated(nonsending) func sleep(until instant: Instant) async throws(IOFault) {
        executor.checkThread()
        guard let id = claim(instant, isSleep: true) else { throw Outcome.fault(refusal) }
        sleeps.insert(id, until: instant.nanoseconds)
        parking = .slot(id)
        let result = await parkingPlace.wait(self)
        if result < 0 { throw Outcome.fault(result) }
    }

    package nonisolated(nonsending) func yield() async {
        executor.checkThread()
        parking = .yield
        _ = await parkingPlace.wait(self)
    }

    /// Operations and sleeps under way.
    package var operationCount: Int {
        executor.checkThread()
        return slots.inFlightCount
    }

    /// Makes the operation of `kind` that comes after `skipCount` others go wrong, once. For tests.
    package func inject(_ fault: InjectedFault, into kind: OperationKind, skipCount: Int = 0) {
        executor.checkThread()
        faults.arm(fault, kind: kind, skipCount: skipCount)
    }

    /// Room for one message or address; give it back after the completion.
    func takeScratch() -> UnsafeMutablePointer<clinux_scratch> {
        executor.checkThread()
        // SAFETY: from the pool or fresh; the caller is its one user until it gives it back.
        if let scratch = unsafe scratchPool.popFirst() { return unsafe scratch }
        let scratch = UnsafeMutablePointer<clinux_scratch>.allocate(capacity: 1)
        unsafe scratch.initialize(to: clinux_scratch())
        return unsafe scratch
    }

    func giveBack(_ scratch: UnsafeMutablePointer<clinux_scratch>) {
        // SAFETY: only stored; its user is done with it.
        unsafe scratchPool.append(scratch)
    }

    // MARK: The reactor's thread: the loop

    private func run() {
        executor.enterThread()
        backend.enable()
        repeat {
            executor.collect()
            while !hasEnded { round() }
            backend.finish()
        } while !executor.leaveThread()
    }

    private var hasEnded: Bool {
        phase.load(ordering: .relaxed) == Phase.joining.rawValue && slots.inFlightCount == 0
            && !executor.hasJobs
    }

    /// Jobs, then one system call that submits and waits, then completions.
    private func round() {
        roundCount.store(roundCount.load(ordering: .relaxed) &+ 1, ordering: .relaxed)
        executor.runJobs(countMax: ReactorLimits.jobsPerRoundMax)
        if isStopping { cancelAll() }
        let timeout = executor.hasJobs || hasEnded ? 0 : timeout()
        let waits = timeout != 0 && executor.prepareToWait()
        if waits || backend.needsEnter { backend.enter(waits: waits, timeout: timeout) }
        executor.collect()
        backend.reap { id, result in complete(id, result) }
        lookAtTime()
    }

    /// Nanoseconds until a sleep ends or a deadline must be looked at; -1: never.
    private func timeout() -> Int64 {
        var wake = sleeps.earliest
        if slots.deadlineCount > 0 {
            let look = max(
                slots.earliestDeadline, lastDeadlineLook &+ ReactorLimits.deadlineTickNanoseconds)
            wake = min(wake, look)
        }
        guard wake != .max else { return -1 }
        let now = clinux_now()
        return wake > now ? Int64(clamping: wake - now) : 0
    }

    private func lookAtTime() {
        guard slots.deadlineCount > 0 || !sleeps.isEmpty else { return }
        let now = clinux_now()
        while let id = sleeps.popFirst(by: now) { complete(id, 0) }
        guard
            slots.deadlineCount > 0 && slots.earliestDeadline <= now
                && lastDeadlineLook &+ ReactorLimits.deadlineTickNanoseconds <= now
        else { return }
        lastDeadlineLook = now
        cancelOverdue(by: now)
    }

    private func cancelOverdue(by now: UInt64) {
        slots.forEachOverdue(by: now) { slots, id in
            guard slots.cancel(id, .overdue) else { return }
            if !backend.cancel(id) { slots.revertCancel(id) }
        }
    }

    private func cancelAll() {
        while let id = sleeps.popFirst(by: .max) { complete(id, Outcome.cancelled) }
        guard !hasCancelledAll else { return }
        var isComplete = true
        slots.forEachInFlight { slots, id in
            guard slots.cancel(id, .cancelled) else { return }
            guard !backend.cancel(id) else { return }
            slots.revertCancel(id)
            isComplete = false
        }
        hasCancelledAll = isComplete
    }
}
