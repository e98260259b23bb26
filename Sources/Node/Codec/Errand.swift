// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Synchronization

/// Something that the workers do and one task waits for. Any thread.
///
/// Whoever ends it first counts: the worker with its result, or who gave it up. The worker learns
/// which, and lets go of a result that nobody takes.
final class Errand<Value: Sendable>: Sendable {
    private enum State {
        case open
        case awaited(CheckedContinuation<Value?, Never>)
        case ended(Value?)
    }

    private let state = Mutex(State.open)

    init() {}

    /// Whether anybody still wants the result.
    var isOpen: Bool {
        state.withLock { state in
            if case .ended = state { false } else { true }
        }
    }

    /// Waits for the end; nil when it was given up.
    func wait() async -> Value? {
        await withCheckedContinuation { continuation in
            let ended = state.withLock { state -> Value?? in
                if case .ended(let value) = state { return .some(value) }
                state = .awaited(continuation)
                return .none
            }
            if let ended { continuation.resume(returning: ended) }
        }
    }

    /// Ends it with a result, or without when it is given up.
    /// - Returns: false when it had ended before: the value is nobody's.
    @discardableResult
    func end(_ value: Value?) -> Bool {
        let (isFirst, waiter) = state.withLock {
            state -> (Bool, CheckedContinuation<Value?, Never>?) in
            switch state {
            case .ended: return (false, nil)
            case .open:
                state = .ended(value)
                return (true, nil)
            case .awaited(let continuation):
                state = .ended(value)
                return (true, continuation)
            }
        }
        waiter?.resume(returning: value)
        return isFirst
    }
}

/// Waits for errands on one reactor, each no longer than its deadline. On the reactor's executor.
actor ErrandClock<R: Reactor> {
    nonisolated let reactor: R
    private var pending: [UInt64: (deadline: Instant, giveUp: @Sendable () -> Void)] = [:]
    private var count: UInt64 = 0
    private var isTicking = false
    /// The reactor has ended: nothing is waited for any more.
    private var hasEnded = false

    nonisolated var unownedExecutor: UnownedSerialExecutor {
        // SAFETY: the clock keeps its reactor, and with it the executor, alive.
        unsafe reactor.executor.asUnownedSerialExecutor()
    }

    init(_ reactor: R) { self.reactor = reactor }

    /// Waits for `errand`, and gives it up at `deadline`, to `tickMilliseconds`; nil then.
    func wait<Value: Sendable>(
        for errand: Errand<Value>, until deadline: Instant
    ) async -> Value? {
        if hasEnded { errand.end(nil) }
        count += 1
        let number = count
        pending[number] = (deadline, { errand.end(nil) })
        if !isTicking {
            isTicking = true
            Task(executorPreference: reactor.executor) { await self.tick() }
        }
        let value = await errand.wait()
        pending[number] = nil
        return value
    }

    /// Looks at the deadlines for as long as there are any.
    private func tick() async {
        while !pending.isEmpty {
            do throws(IOFault) {
                try await reactor.sleep(
                    until: reactor.now().adding(milliseconds: tickMilliseconds))
            } catch {
                hasEnded = true
                for errand in pending.values { errand.giveUp() }
                break
            }
            let now = reactor.now()
            for errand in pending.values where errand.deadline <= now { errand.giveUp() }
        }
        isTicking = false
    }
}

/// How late an errand may be given up.
private let tickMilliseconds: UInt64 = 20
