// SPDX-License-Identifier: Apache-2.0
internal import KVCore

/// The one submission interface over both backends: operations go in, completions come out.
///
/// An enum and not a protocol existential, as every operation passes through here.
enum Backend {
    case uring(UringQueue)
    case poll(PollQueue)

    /// Opens the backend that `options` ask for; `warnings` gets a sentence for the log when
    /// something is worse than it could be.
    init(
        _ options: ReactorOptions, wakeDescriptor: Int32, warnings: inout [String]
    ) throws(IOFault) {
        guard options.backend != .poll else {
            self = .poll(
                try PollQueue(wakeDescriptor: wakeDescriptor, capacity: options.operationCountMax))
            return
        }
        do throws(IOFault) {
            let queue = try UringQueue(
                wakeDescriptor: wakeDescriptor, deferred: options.backend != .olderIOUring)
            Self.register(options.fixedBuffers, with: queue, warnings: &warnings)
            self = .uring(queue)
        } catch {
            guard options.backend == .automatic, let reason = Self.isForbidden(error) else {
                throw error
            }
            warnings.append(
                """
                io_uring cannot be used here (\(reason)), so the poll backend is: sockets work as \
                well, but reads and writes of files block their thread. In a container, allow the \
                io_uring_* system calls in its seccomp profile; on a host, set the sysctl \
                kernel.io_uring_disabled to 0.
                """)
            self = .poll(
                try PollQueue(wakeDescriptor: wakeDescriptor, capacity: options.operationCountMax))
        }
    }

    private static func isForbidden(_ fault: IOFault) -> String? {
        switch fault {
        case .system(ErrorNumber.noSystemCall): "the kernel has none, or not the features we need"
        case .system(ErrorNumber.notPermitted): "not permitted"
        case .system(ErrorNumber.accessDenied): "access denied"
        default: nil
        }
    }

    private static func register(
        _ runs: [PinnedBytes], with queue: UringQueue, warnings: inout [String]
    ) {
        guard !runs.isEmpty else { return }
        do throws(IOFault) {
            try queue.register(runs)
        } catch {
            warnings.append(
                """
                The arena is not registered with the ring (\(error)), which costs processor time \
                per read from SSD. Raise the limit of locked memory: LimitMEMLOCK=infinity in the \
                systemd unit, --ulimit memlock=-1 for a container.
                """)
        }
    }

    var description: String {
        switch self {
        case .uring(let queue) where queue.isDeferred: "io_uring"
        case .uring: "io_uring (as before Linux 6.1)"
        case .poll: "poll"
        }
    }

    /// Binds the backend to the calling thread.
    func enable() {
        if case .uring(let queue) = self { queue.enable() }
    }

    /// Takes an operation in; false when the kernel takes no more just now.
    @inline(always)
    func prepare(_ operation: inout Operation) -> Bool {
        switch self {
        case .uring(let queue): queue.prepare(&operation)
        case .poll(let queue): queue.prepare(&operation)
        }
    }

    /// Asks to end the operation `id`; false when that could not be asked just now.
    func cancel(_ id: UInt64) -> Bool {
        switch self {
        case .uring(let queue): queue.cancel(id)
        case .poll(let queue): queue.cancel(id)
        }
    }

    /// Whether `enter` has something to do even when nobody wants to wait.
    var needsEnter: Bool {
        switch self {
        case .uring(let queue): queue.needsEnter
        case .poll(let queue): queue.needsEnter
        }
    }

    /// Submits, and waits for a completion when `waits`, at most `timeout` ns (-1: no limit).
    func enter(waits: Bool, timeout: Int64) {
        switch self {
        case .uring(let queue): queue.enter(waits: waits, timeout: timeout)
        case .poll(let queue): queue.enter(waits: waits, timeout: timeout)
        }
    }

    /// Hands the completions that are there, up to a round's, to `body`.
    @inline(always)
    func reap(_ body: (UInt64, Int32) -> Void) {
        switch self {
        case .uring(let queue): queue.reap(body)
        case .poll(let queue): queue.reap(body)
        }
    }

    /// Lets go of what the backend itself has under way.
    func finish() {
        if case .uring(let queue) = self { queue.finish() }
    }
}
