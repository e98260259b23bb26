// SPDX-License-Identifier: Apache-2.0
import Glibc

/// The signals that end the daemon, taken in turn by one thread instead of by handlers.
struct SignalQueue {
    private var signals = sigset_t()

    /// Blocks SIGTERM and SIGINT for this thread and all that it starts, and ignores SIGPIPE.
    init() {
        // SAFETY: the calls fill in, or read, the set that they are given.
        unsafe sigemptyset(&signals)
        unsafe sigaddset(&signals, SIGTERM)
        unsafe sigaddset(&signals, SIGINT)
        unsafe pthread_sigmask(SIG_BLOCK, &signals, nil)
        _ = signal(SIGPIPE, SIG_IGN)
    }

    /// Waits for a signal, at most so long (sigtimedwait(2)). Blocks its thread.
    /// - Returns: whether one came.
    func wait(milliseconds: Int) -> Bool {
        var timeout = timespec(
            tv_sec: milliseconds / 1_000, tv_nsec: milliseconds % 1_000 * 1_000_000)
        var signals = signals
        // SAFETY: both structures live through the call.
        return unsafe sigtimedwait(&signals, nil, &timeout) > 0
    }
}
