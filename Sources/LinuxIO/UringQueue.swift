// SPDX-License-Identifier: Apache-2.0
internal import CLinux
internal import KVCore

/// The io_uring backend (io_uring(7)): one ring, used by the reactor's thread alone.
///
/// Any thread may build it; from `enable` on it belongs to the thread that called that.
@safe
final class UringQueue {
    /// user_data of requests that nobody waits for; no slot id reaches these values.
    private static let cancelTag = UInt64.max
    private static let wakeTag = UInt64.max - 1

    private let ring: OpaquePointer
    private let memory: UnsafeMutableRawPointer
    private let completions: UnsafeMutablePointer<clinux_completion>
    /// Where the kernel puts the eventfd's count.
    private let wakeCount: OwnedBytes
    private let wakeDescriptor: Int32
    private var isWakeArmed = false
    private var registered: [Range<UInt64>] = []
    /// Whether the kernel runs completions only when the thread enters it (6.1 and later).
    let isDeferred: Bool

    /// Opens a ring; throws `.system` with what io_uring_setup(2) said. Unless `deferred`, the
    /// ring is one for kernels before 6.1.
    init(wakeDescriptor: Int32, deferred: Bool) throws(IOFault) {
        let byteCount = clinux_ring_byte_count()
        // SAFETY: fresh memory for one ring; it is the object's from the first assignment on.
        let memory = UnsafeMutableRawPointer.allocate(byteCount: byteCount, alignment: 64)
        unsafe memory.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
        let ring = OpaquePointer(memory)
        do throws(IOFault) {
            isDeferred = try unsafe Self.open(ring, deferred: deferred)
        } catch {
            unsafe memory.deallocate()
            throw error
        }
        unsafe self.memory = memory
        unsafe self.ring = ring
        unsafe completions = .allocate(capacity: ReactorLimits.completionsPerRoundMax)
        self.wakeDescriptor = wakeDescriptor
        wakeCount = OwnedBytes(count: MemoryLayout<UInt64>.size)
    }

    /// Opens the best ring that the kernel has.
    /// - Returns: whether it defers running completions.
    private static func open(_ ring: OpaquePointer, deferred: Bool) throws(IOFault) -> Bool {
        let entries = (ReactorLimits.submissionCount, ReactorLimits.completionCount)
        // SAFETY: `ring` has room for a ring, and none is open there until one call succeeds.
        if deferred {
            let result = unsafe clinux_ring_open(ring, entries.0, entries.1, true)
            if result == 0 { return true }
            guard result == -ErrorNumber.invalid else { throw .system(-result) }
        }
        try check(unsafe clinux_ring_open(ring, entries.0, entries.1, false))
        return false
    }

    deinit {
        // SAFETY: opened in `init`; nothing is in flight once the reactor has ended.
        unsafe clinux_ring_close(ring)
        unsafe memory.deallocate()
        unsafe completions.deallocate()
    }

    /// Registers `runs`, so that reads and writes of files within them skip the page lookup.
    /// Throws `.system(ENOMEM)` where RLIMIT_MEMLOCK is too low. Takes 2 s per GiB of untouched
    /// 4 KiB pages, 1 ms of huge pages.
    func register(_ runs: [PinnedBytes]) throws(IOFault) {
        var pieces: [PinnedBytes] = []
        for run in runs {
            var rest = run
            while rest.count > 0 {
                let count = min(rest.count, ReactorLimits.operationByteCountMax)
                pieces.append(rest.prefix(count))
                rest = rest.dropFirst(count)
            }
        }
        // SAFETY: the runs stay mapped while the reactor lives, as its options ask.
        let raw = unsafe pieces.map { unsafe clinux_run(start: $0.start, count: $0.count) }
        let result = unsafe clinux_ring_register(ring, raw, UInt32(raw.count))
        guard result == 0 else { throw .system(-result) }
        registered = pieces.map { run in
            // SAFETY: only the address, as a number.
            let start = unsafe UInt64(UInt(bitPattern: run.start))
            return start..<start + UInt64(run.count)
        }
    }

    /// Binds the ring to the calling thread.
    func enable() {
        // SAFETY: the ring is open.
        let result = unsafe clinux_ring_enable(ring)
        invariant(result == 0, "a ring that was opened could not be enabled")
    }

    /// Puts the operation on the submission queue; false when the kernel takes no more just now.
    func prepare(_ operation: inout Operation) -> Bool {
        if !registered.isEmpty { selectBuffer(&operation) }
        // SAFETY: the operation's memory stays alive until its completion, as its submitter says.
        if unsafe clinux_ring_prepare(ring, &operation.raw) { return true }
        submit()
        return unsafe clinux_ring_prepare(ring, &operation.raw)
    }

    /// Asks to end the operation `id`; false when the kernel takes no more just now.
    func cancel(_ id: UInt64) -> Bool {
        // SAFETY: carries no memory.
        if unsafe clinux_ring_cancel(ring, id, Self.cancelTag) { return true }
        submit()
        return unsafe clinux_ring_cancel(ring, id, Self.cancelTag)
    }

    private func submit() {
        // SAFETY: the ring is open. What goes wrong here shows as a queue that is still full.
        _ = unsafe clinux_ring_enter(ring, 0, 0)
    }

    private func selectBuffer(_ operation: inout Operation) {
        guard operation.kind == .read || operation.kind == .write else { return }
        let start = operation.raw.address
        let end = start + UInt64(operation.raw.length)
        for index in registered.indices where registered[index].contains(start..<end) {
            operation.raw.buffer_index = UInt16(index)
            return
        }
    }

    /// Whether `enter` has something to do even when nobody wants to wait.
    var needsEnter: Bool {
        // SAFETY: the ring is open.
        unsafe clinux_ring_needs_enter(ring)
    }

    /// Submits, and waits for one completion when `waits`, at most `timeout` ns (-1: no limit).
    func enter(waits: Bool, timeout: Int64) {
        if !isWakeArmed { armWake() }
        // SAFETY: the ring is open and belongs to this thread.
        let result = unsafe clinux_ring_enter(ring, waits ? 1 : 0, timeout)
        switch -result {
        case ErrorNumber.timeExpired, ErrorNumber.interrupted, ErrorNumber.tryAgain,
            ErrorNumber.deviceBusy:
            break  // The time, a signal, or too much under way: completions come first.
        default:
            invariant(result >= 0, "io_uring_enter failed on a ring of ours")
        }
    }

    /// Hands up to a round's completions to `body`, as slot id and result.
    func reap(_ body: (UInt64, Int32) -> Void) {
        // SAFETY: `completions` has room for that many.
        let count = unsafe clinux_ring_reap(
            ring, completions, UInt32(ReactorLimits.completionsPerRoundMax))
        for index in 0..<Int(count) {
            // SAFETY: the first `count` were just written.
            let completion = unsafe completions[index]
            switch completion.user_data {
            case Self.cancelTag: break
            case Self.wakeTag: isWakeArmed = false
            default: body(completion.user_data, completion.result)
            }
        }
    }

    private func armWake() {
        var operation = Operation(.read, descriptor: wakeDescriptor, wakeCount.bytes)
        operation.raw.user_data = Self.wakeTag
        operation.raw.offset = .max  // The descriptor has no position.
        isWakeArmed = prepare(&operation)
    }

    /// Ends the wait for wake-ups, so that nothing is in flight any more.
    func finish() {
        guard isWakeArmed else { return }
        while !cancel(Self.wakeTag) { reap { _, _ in } }
        while isWakeArmed {
            // SAFETY: the ring is open and belongs to this thread.
            _ = unsafe clinux_ring_enter(ring, 1, -1)
            reap { _, _ in }
        }
    }
}
