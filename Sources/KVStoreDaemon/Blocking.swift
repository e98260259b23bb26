// SPDX-License-Identifier: Apache-2.0
import Glibc
import Synchronization

/// Runs `body` as a task, and blocks the calling thread until it has ended.
///
/// For the main thread alone, which owns the signals and must not wander: an `async` main may
/// run on any thread.
func blocking<Value: Sendable>(_ body: @escaping @Sendable () async -> Value) -> Value {
    let outcome = Outcome<Value>()
    Task {
        outcome.end(with: await body())
    }
    return outcome.wait()
}

/// A value that one thread waits for.
// SAFETY: the semaphore is made for use by several threads; the value has its own lock.
@safe
private final class Outcome<Value: Sendable>: @unchecked Sendable {
    private let value = Mutex<Value?>(nil)
    private let semaphore = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)

    init() {
        // SAFETY: fresh memory for one semaphore, freed in `deinit`.
        let result = unsafe sem_init(semaphore, 0, 0)
        precondition(result == 0, "a process-private semaphore can always be made")
    }

    deinit {
        // SAFETY: made in `init`; nobody waits any more.
        unsafe sem_destroy(semaphore)
        unsafe semaphore.deallocate()
    }

    func end(with value: Value) {
        self.value.withLock { $0 = value }
        // SAFETY: made in `init`.
        unsafe sem_post(semaphore)
    }

    func wait() -> Value {
        while true {
            // SAFETY: made in `init`. Interrupted waits begin again (sem_wait(3)).
            _ = unsafe sem_wait(semaphore)
            if let value = value.withLock({ $0 }) { return value }
        }
    }
}
