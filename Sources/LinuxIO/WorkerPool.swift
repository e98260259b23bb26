// SPDX-License-Identifier: Apache-2.0
internal import CLinux
package import KVCore
internal import Synchronization

/// A fixed number of threads that run what is handed to them, first in, first out, from a queue
/// with a bound. They yield to everything else that runs on the host.
///
/// Any thread may `submit`; that takes a lock for some nanoseconds and allocates nothing beyond the
/// closure. Life: `init` starts the threads; `stop` takes no more work; `join` waits until what was
/// taken has run.
// SAFETY: the queue is locked, the rest immutable or atomic.
package final class WorkerPool: Workers, @unchecked Sendable {
    /// How a pool is made. A value.
    package struct Options: Hashable, Sendable {
        /// The threads' name in ps(1), followed by a number; at most 13 bytes.
        package var name = "worker"
        package var threadCount = 1
        /// Work that may wait for a thread.
        package var waitingCountMax = 64
        /// 0 to 19: how far the threads stand back (setpriority(2)); they run as SCHED_BATCH too.
        package var niceness = 0

        package init() {}
    }

    private struct Queue {
        var waiting: [(@Sendable () -> Void)?] = []
        var first = 0
        var isEnding = false

        var count: Int { waiting.count - first }

        mutating func takeFirst() -> (@Sendable () -> Void)? {
            guard first < waiting.count else { return nil }
            let work = waiting[first].take()
            first += 1
            // What was taken goes in one step now and then, so that the array stays small.
            if first == waiting.count || first >= compactionCount {
                waiting.removeFirst(first)
                first = 0
            }
            return work
        }
    }

    private let options: Options
    private let queue = Mutex(Queue())
    /// Readable while there may be work, or the end.
    private let bell: Int32
    private var threads: [UInt64] = []

    /// Starts the threads. Throws `.system` when the kernel gives no descriptor or thread.
    package init(_ options: Options) throws(IOFault) {
        invariant(
            options.threadCount > 0 && options.waitingCountMax > 0
                && (0...19).contains(options.niceness), "a pool has threads and a queue")
        self.options = options
        bell = clinux_event_open(false)
        guard bell >= 0 else { throw .system(-bell) }
        for number in 0..<options.threadCount {
            do throws(IOFault) {
                threads.append(try startThread(number))
            } catch {
                stop()
                join()
                throw error
            }
        }
    }

    deinit { clinux_close(bell) }

    private func startThread(_ number: Int) throws(IOFault) -> UInt64 {
        // SAFETY: the thread takes this reference over and gives it back when it ends.
        let context = unsafe Unmanaged.passRetained(self).toOpaque()
        var handle: UInt64 = 0
        let result = unsafe "\(options.name)-\(number)".withCString { name in
            unsafe clinux_thread_start(
                &handle, name, -1,
                { context in
                    // SAFETY: the reference that `startThread` passed, taken once.
                    guard let context = unsafe context else { return nil }
                    let pool = unsafe Unmanaged<WorkerPool>.fromOpaque(context)
                    unsafe pool.takeUnretainedValue().run()
                    unsafe pool.release()
                    return nil
                }, context)
        }
        guard result == 0 else {
            unsafe Unmanaged<WorkerPool>.fromOpaque(context).release()
            throw .system(-result)
        }
        return handle
    }

    // MARK: Any thread

    package func submit(_ work: @escaping @Sendable () -> Void) -> Bool {
        let isTaken = queue.withLock { queue in
            guard !queue.isEnding, queue.count < options.waitingCountMax else { return false }
            queue.waiting.append(work)
            return true
        }
        if isTaken { clinux_event_signal(bell) }
        return isTaken
    }

    package var waitingCount: Int { queue.withLock { $0.count } }

    /// Takes no more work; what waits still runs.
    package func stop() {
        queue.withLock { $0.isEnding = true }
        clinux_event_signal(bell)
    }

    /// Waits until the threads have ended, after `stop`. Once; not on one of them.
    package func join() {
        for thread in threads { _ = clinux_thread_join(thread) }
        threads = []
    }

    // MARK: The threads

    private enum Next {
        case work(@Sendable () -> Void, isLast: Bool)
        case nothing
        case end
    }

    private func run() {
        clinux_thread_stand_back(Int32(options.niceness))
        while true {
            let next = queue.withLock { queue -> Next in
                if let work = queue.takeFirst() { return .work(work, isLast: queue.count == 0) }
                return queue.isEnding ? .end : .nothing
            }
            switch next {
            case .work(let work, let isLast):
                // One that took the bell's signals for several pieces wakes another.
                if !isLast { clinux_event_signal(bell) }
                work()
            case .nothing: clinux_event_clear(bell)
            case .end:
                clinux_event_signal(bell)
                return
            }
        }
    }
}

/// Places of a queue that are empty at most before it moves up.
private let compactionCount = 64
