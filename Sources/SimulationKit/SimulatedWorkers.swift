// SPDX-License-Identifier: Apache-2.0

internal import KVCore

/// Threads for long work in a simulation: each piece of work happens at once, at a time that the
/// seed draws. Confined to the scheduler's thread.
// SAFETY: as all of a simulation, confined to its scheduler's thread, which `submit` checks.
package final class SimulatedWorkers: Workers, @unchecked Sendable {
    private let scheduler: SimulatedScheduler
    private let waitingCountMax: Int
    private let microsecondsMax: UInt64
    private var random: SeededRandom
    package private(set) var waitingCount = 0

    /// Work takes up to `microsecondsMax`; at most `waitingCountMax` pieces are under way.
    package init(
        _ scheduler: SimulatedScheduler, waitingCountMax: Int, microsecondsMax: UInt64
    ) {
        self.scheduler = scheduler
        self.waitingCountMax = waitingCountMax
        self.microsecondsMax = microsecondsMax
        random = scheduler.forkRandom()
    }

    package func submit(_ work: @escaping @Sendable () -> Void) -> Bool {
        precondition(scheduler.isOnItsThread, "simulated work was submitted outside its thread")
        guard waitingCount < waitingCountMax else { return false }
        waitingCount += 1
        scheduler.after(nanoseconds: 1_000 * random.below(microsecondsMax + 1)) { [self] in
            waitingCount -= 1
            work()
        }
        return true
    }
}
