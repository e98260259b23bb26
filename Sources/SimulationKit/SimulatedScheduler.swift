// SPDX-License-Identifier: Apache-2.0

package import KVCore

/// Why a run is no success; its text carries the seed and the last events.
package struct SimulationFailure: Error, CustomStringConvertible {
    package let seed: UInt64
    package let reason: String
    package let recent: [SimulationTrace.Entry]

    package var description: String {
        (["seed=\(seed): \(reason)", "last events:"] + recent.map { "  \($0)" })
            .joined(separator: "\n")
    }
}

/// How far a run may go before it counts as stuck.
package struct RunLimits: Sendable {
    package var stepCountMax = 5_000_000
    package var virtualSecondsMax: UInt64 = 3_600

    package init() {}
}

/// Runs all reactors of a simulated world on the thread that made it, in an order and at virtual
/// times that one seed decides.
///
/// A step runs one ready job of one reactor, or the next event when no job is ready. Time passes
/// between events, and by a little with each job, so that loops that wait by `yield` end.
// SAFETY: everything here is touched on `thread` alone, which the entry points check.
package final class SimulatedScheduler: @unchecked Sendable {
    package let seed: UInt64
    package private(set) var now: Instant
    package private(set) var trace = SimulationTrace()
    /// Jobs that ran on the simulated global pool.
    package private(set) var poolJobCount = 0

    private let thread = SimulatedThread()
    private var random: SeededRandom
    private var events = EventHeap()
    private var eventNumber: UInt64 = 0
    private var executors: [SimulatedExecutor] = []
    private var ready: [SimulatedExecutor] = []
    /// Stands for Swift's global pool: here it is one more list of jobs, on the same thread.
    private(set) lazy var pool = SimulatedExecutor(thread: thread, reactorIndex: -1)
    private var violations: [String] = []
    private var stepCount = 0

    /// Virtual nanoseconds that one job takes at most.
    private static let jobNanosecondsMax: UInt64 = 2_000

    package init(seed: UInt64) {
        self.seed = seed
        random = SeededRandom(seed: seed)
        // Not zero, so that code which takes 0 for "never" is found out.
        now = Instant(nanoseconds: 1_000_000_000 + random.below(1_000_000_000))
    }

    var isOnItsThread: Bool { thread.isHere }
    var runningReactor: Int? { thread.runningReactor }

    /// A generator of its own for a part of the world.
    func forkRandom() -> SeededRandom { random.fork() }

    func makeExecutor() -> SimulatedExecutor {
        let executor = SimulatedExecutor(thread: thread, reactorIndex: executors.count)
        executors.append(executor)
        return executor
    }

    // MARK: Events

    /// Has `action` run at `time`, or now when that has passed.
    @discardableResult
    package func at(_ time: Instant, _ action: @escaping () -> Void) -> SimulatedEvent {
        precondition(isOnItsThread, "a simulation was used outside its thread")
        let event = SimulatedEvent(action)
        eventNumber += 1
        events.insert(
            EventHeap.Entry(
                time: max(time, now), tieBreak: random.next(), number: eventNumber, event: event))
        return event
    }

    /// Has `action` run `nanoseconds` from now.
    @discardableResult
    package func after(nanoseconds: UInt64, _ action: @escaping () -> Void) -> SimulatedEvent {
        at(Instant(nanoseconds: now.nanoseconds + nanoseconds), action)
    }

    /// Writes one line of the trace; `size` is any number that two equal runs share.
    package func record(_ kind: SimulationTrace.Kind, reactor: Int, size: Int = 0) {
        trace.add(
            SimulationTrace.Entry(
                time: now, reactor: reactor, kind: kind, size: UInt64(truncatingIfNeeded: size)))
    }

    /// Fails the run: the code under test broke a rule of the seam, or a test's expectation.
    package func fail(_ reason: String) {
        violations.append(reason)
    }

    // MARK: Running

    /// Runs until `isDone`, which is asked after each step.
    ///
    /// Throws when nothing is left to do before, when `limits` are passed, when a job comes from
    /// another thread, or when a rule of the seam was broken.
    package func run(
        limits: RunLimits = RunLimits(), until isDone: () -> Bool
    ) throws(SimulationFailure) {
        precondition(isOnItsThread && runningReactor == nil, "a run starts outside of runs")
        try GlobalPoolCapture.running(self) { () throws(SimulationFailure) in
            try loop(limits: limits, until: isDone)
        }
    }

    private func loop(limits: RunLimits, until isDone: () -> Bool) throws(SimulationFailure) {
        let stepsAtStart = stepCount
        let end = now.adding(milliseconds: limits.virtualSecondsMax * 1_000)
        while !isDone() {
            guard step() else { throw failure("stuck: nothing is ready and nothing will happen") }
            if let violation = firstViolation { throw failure(violation) }
            if stepCount - stepsAtStart > limits.stepCountMax {
                throw failure("stuck: over \(limits.stepCountMax) steps")
            }
            if now > end {
                throw failure("stuck: over \(limits.virtualSecondsMax) virtual seconds")
            }
        }
        if let violation = firstViolation { throw failure(violation) }
    }

    /// Runs until nothing is ready and nothing will happen, within `limits`.
    package func runUntilQuiescent(
        limits: RunLimits = RunLimits()
    ) throws(SimulationFailure) {
        try run(limits: limits) {
            !pool.hasJobs && !executors.contains { $0.hasJobs } && events.first == nil
        }
    }

    /// Runs for `milliseconds` of virtual time, or until there is nothing left to do.
    package func run(
        milliseconds: UInt64, limits: RunLimits = RunLimits()
    ) throws(SimulationFailure) {
        var hasPassed = false
        let end = at(now.adding(milliseconds: milliseconds)) { hasPassed = true }
        try run(limits: limits) { hasPassed }
        end.cancel()
    }

    private var firstViolation: String? {
        violations.first ?? thread.firstStray
    }

    package func failure(_ reason: String) -> SimulationFailure {
        SimulationFailure(seed: seed, reason: reason, recent: trace.recent)
    }

    /// One job or one event; false when there is neither.
    private func step() -> Bool {
        stepCount += 1
        if let entry = events.first, entry.time <= now {
            fire(entry)
            return true
        }
        ready.removeAll(keepingCapacity: true)
        if pool.hasJobs { ready.append(pool) }
        for executor in executors where executor.hasJobs { ready.append(executor) }
        guard !ready.isEmpty else {
            guard let entry = events.first else { return false }
            fire(entry)
            return true
        }
        runJob(of: ready[random.below(ready.count)])
        return true
    }

    private func fire(_ entry: EventHeap.Entry) {
        events.removeFirst()
        now = max(now, entry.time)
        entry.event.fire()
    }

    private func runJob(of executor: SimulatedExecutor) {
        now = Instant(nanoseconds: now.nanoseconds + 1 + random.below(Self.jobNanosecondsMax))
        record(.job, reactor: executor.reactorIndex)
        if executor.isPool { poolJobCount += 1 }
        thread.runningReactor = executor.reactorIndex
        executor.runOneJob()
        thread.runningReactor = nil
    }
}
