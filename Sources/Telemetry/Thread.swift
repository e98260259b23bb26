// SPDX-License-Identifier: Apache-2.0

import Glibc

/// A counting semaphore between threads (sem_overview(7)).
// SAFETY: the semaphore is made for use from any thread; its address never changes.
@safe
final class Semaphore: @unchecked Sendable {
    // SAFETY: allocated once in `init`, freed once in `deinit`.
    private let semaphore: UnsafeMutablePointer<sem_t>

    init() {
        // SAFETY: fresh memory for one semaphore, initialised before anybody sees it.
        unsafe semaphore = .allocate(capacity: 1)
        unsafe sem_init(semaphore, 0, 0)
    }

    deinit {
        // SAFETY: nobody waits: whoever waits holds a reference to this object.
        unsafe sem_destroy(semaphore)
        unsafe semaphore.deallocate()
    }

    /// Lets one `wait` pass, now or later.
    func signal() {
        // SAFETY: an initialised semaphore; sem_post(3) fails only beyond 2^31 - 1, which is
        // still enough to wake the one thread.
        unsafe sem_post(semaphore)
    }

    /// Waits for a `signal`.
    func wait() {
        // SAFETY: an initialised semaphore; a signal handler may interrupt the wait.
        while unsafe sem_wait(semaphore) != 0 {}
    }
}

/// Runs `body` on a new thread that nobody joins. Traps when the system has no thread left.
func startThread(_ body: @escaping @Sendable () -> Void) {
    final class Box: Sendable {
        let body: @Sendable () -> Void
        init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }
    var thread = pthread_t()
    // SAFETY: the one reference that is retained here is the new thread's, which releases it.
    let box = unsafe Unmanaged.passRetained(Box(body)).toOpaque()
    let code = unsafe pthread_create(
        &thread, nil,
        { argument in
            guard let argument = unsafe argument else { return nil }
            unsafe Unmanaged<Box>.fromOpaque(argument).takeRetainedValue().body()
            return nil
        }, box)
    precondition(code == 0, "the system has no thread left")
    pthread_detach(thread)
}
