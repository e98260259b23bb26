// SPDX-License-Identifier: Apache-2.0
internal import CLinux
internal import KVCore

/// The backend for places where io_uring is forbidden: system calls that do not wait, and epoll(7)
/// when they would have to.
///
/// An operation is tried at once; when it would wait, its descriptor is watched (EPOLLONESHOT) and
/// it is tried again. At most one operation per direction waits on a descriptor. Operations on
/// files block the thread. Confined to the reactor's thread.
@safe
final class PollQueue {
    /// Who waits on a descriptor: slot ids, 0-based indexes plus generation as in `SlotTable`.
    private struct Waiters {
        var reader: UInt64?
        var writer: UInt64?
    }

    private let poller: Int32
    private let wakeDescriptor: Int32
    private let capacity: Int
    /// The operations that wait, by slot index; those below `storedCount` are initialized.
    private let operations: UnsafeMutablePointer<clinux_operation>
    private var storedCount = 0
    private let ready: UnsafeMutablePointer<clinux_ready>
    private static let readyCountMax = 128
    private var waiters: [Waiters] = []
    private var waiterCount = 0
    /// Connects to a Unix socket whose backlog is full: epoll says nothing about those.
    private var retries: [UInt64] = []
    private var finished: RingBuffer<clinux_completion>

    /// Throws `.system` when there are no descriptors left.
    init(wakeDescriptor: Int32, capacity: Int) throws(IOFault) {
        let poller = clinux_poller_open()
        guard poller >= 0 else { throw .system(-poller) }
        self.poller = poller
        self.wakeDescriptor = wakeDescriptor
        self.capacity = capacity
        // SAFETY: trivial elements, written before they are read; freed in `deinit`.
        unsafe operations = .allocate(capacity: capacity)
        unsafe ready = .allocate(capacity: Self.readyCountMax)
        finished = RingBuffer(capacity: 64)
        let result = clinux_poller_watch(poller, wakeDescriptor, true, false)
        guard result == 0 else { throw .system(-result) }
    }

    deinit {
        clinux_close(poller)
        // SAFETY: allocated in `init`; both element types are trivial.
        unsafe operations.deallocate()
        unsafe ready.deallocate()
    }

    /// Performs the operation, or watches its descriptor. Never refuses.
    func prepare(_ operation: inout Operation) -> Bool {
        if operation.kind == .connect {
            _ = clinux_descriptor_set_nonblocking(operation.raw.descriptor)
        }
        // SAFETY: the operation's memory stays alive until its completion, as its submitter says.
        let result = unsafe clinux_perform(&operation.raw)
        if isFinal(result, operation) {
            finish(operation.raw.user_data, result)
            return true
        }
        let id = operation.raw.user_data
        store(operation.raw, index(id))
        if operation.kind == .connect && result == -ErrorNumber.tryAgain {
            retries.append(id)
        } else {
            wait(id, operation.raw)
        }
        return true
    }

    private func store(_ operation: clinux_operation, _ index: Int) {
        // SAFETY: `index` checked that the place lies below `capacity`; new places are initialized
        // in order, so that there are no gaps.
        while storedCount <= index {
            unsafe (operations + storedCount).initialize(to: clinux_operation())
            storedCount += 1
        }
        unsafe operations[index] = operation
    }

    private func index(_ id: UInt64) -> Int {
        let index = Int(truncatingIfNeeded: id & 0xffff_ffff)
        invariant(index < capacity, "a slot index beyond the table")
        return index
    }

    private func isFinal(_ result: Int32, _ operation: Operation) -> Bool {
        switch operation.kind {
        case .connect: result != -ErrorNumber.inProgress && result != -ErrorNumber.tryAgain
        case .read, .write, .synchronize, .nothing, nil: true
        default: result != -ErrorNumber.tryAgain
        }
    }

    private func finish(_ id: UInt64, _ result: Int32) {
        finished.append(clinux_completion(user_data: id, result: result, flags: 0))
    }

    private func writes(_ operation: clinux_operation) -> Bool {
        switch OperationKind(rawValue: operation.opcode) {
        case .send, .sendMessage, .connect: true
        default: false
        }
    }

    private func wait(_ id: UInt64, _ operation: clinux_operation) {
        let descriptor = Int(operation.descriptor)
        while waiters.count <= descriptor { waiters.append(Waiters()) }
        if writes(operation) {
            invariant(waiters[descriptor].writer == nil, "two sends wait on one descriptor")
            waiters[descriptor].writer = id
        } else {
            invariant(waiters[descriptor].reader == nil, "two receives wait on one descriptor")
            waiters[descriptor].reader = id
        }
        waiterCount += 1
        watch(descriptor)
    }

    private func watch(_ descriptor: Int) {
        let who = waiters[descriptor]
        guard who.reader != nil || who.writer != nil else { return }
        let result = clinux_poller_watch(
            poller, Int32(descriptor), who.reader != nil, who.writer != nil)
        guard result != 0 else { return }
        if let id = who.reader { end(id, result) }
        if let id = who.writer { end(id, result) }
    }

    /// Ends an operation that waits, with `result`.
    private func end(_ id: UInt64, _ result: Int32) {
        // SAFETY: an operation that waits is stored under its slot index.
        let operation = unsafe operations[index(id)]
        let descriptor = Int(operation.descriptor)
        if writes(operation) {
            waiters[descriptor].writer = nil
        } else {
            waiters[descriptor].reader = nil
        }
        waiterCount -= 1
        finish(id, result)
    }

    private func isWaiting(_ id: UInt64) -> Bool {
        let index = index(id)
        guard index < storedCount else { return false }
        // SAFETY: initialized, as just checked; a stale entry is told apart by the whole id.
        let descriptor = unsafe Int(operations[index].descriptor)
        guard descriptor >= 0 && descriptor < waiters.count else { return false }
        return waiters[descriptor].reader == id || waiters[descriptor].writer == id
    }

    /// Ends the operation `id` if it waits still.
    func cancel(_ id: UInt64) -> Bool {
        if let position = retries.firstIndex(of: id) {
            retries.remove(at: position)
            finish(id, -ErrorNumber.cancelled)
        } else if waiterCount > 0 && isWaiting(id) {
            end(id, -ErrorNumber.cancelled)
        }
        return true
    }

    /// Whether `enter` has something to do even when nobody wants to wait.
    var needsEnter: Bool { waiterCount > 0 || !retries.isEmpty }

    /// Looks which descriptors are ready, and tries their operations again. Waits for one when
    /// `waits` and nothing is finished, at most `timeout` ns (-1: no limit).
    func enter(waits: Bool, timeout: Int64) {
        tryConnectsAgain()
        var limit = waits && finished.count == 0 ? timeout : 0
        if !retries.isEmpty {
            let retry = Int64(ReactorLimits.connectRetryNanoseconds)
            limit = limit < 0 ? retry : min(limit, retry)
        }
        // SAFETY: `ready` has room for that many.
        let count = unsafe clinux_poller_wait(poller, ready, UInt32(Self.readyCountMax), limit)
        invariant(
            count >= 0 || count == -ErrorNumber.interrupted, "epoll_wait failed on our descriptor")
        for index in 0..<Int(max(count, 0)) {
            // SAFETY: the first `count` were just written.
            let event = unsafe ready[index]
            if event.descriptor == wakeDescriptor {
                takeWake()
            } else {
                serve(event)
            }
        }
    }

    private func takeWake() {
        clinux_event_clear(wakeDescriptor)
        let result = clinux_poller_watch(poller, wakeDescriptor, true, false)
        invariant(result == 0, "a watched eventfd could not be watched again")
    }

    private func serve(_ event: clinux_ready) {
        let descriptor = Int(event.descriptor)
        guard descriptor < waiters.count else { return }
        if event.readable, let id = waiters[descriptor].reader { tryAgain(id) }
        if event.writable, let id = waiters[descriptor].writer { tryAgain(id) }
        watch(descriptor)
    }

    private func tryAgain(_ id: UInt64) {
        // SAFETY: an operation that waits is stored under its slot index, its memory alive.
        let operation = unsafe operations[index(id)]
        if OperationKind(rawValue: operation.opcode) == .connect {
            let result = clinux_connect_result(operation.descriptor)
            if result != -ErrorNumber.inProgress { end(id, result) }
            return
        }
        let result = unsafe clinux_perform(&operations[index(id)])
        if result != -ErrorNumber.tryAgain { end(id, result) }
    }

    private func tryConnectsAgain() {
        guard !retries.isEmpty else { return }
        for id in retries {
            // SAFETY: as in `tryAgain`.
            let result = unsafe clinux_perform(&operations[index(id)])
            guard result != -ErrorNumber.tryAgain else { continue }
            retries.removeAll { $0 == id }
            finish(id, result)
        }
    }

    /// Hands up to a round's completions to `body`, as slot id and result.
    func reap(_ body: (UInt64, Int32) -> Void) {
        for _ in 0..<min(finished.count, ReactorLimits.completionsPerRoundMax) {
            guard let completion = finished.popFirst() else { return }
            body(completion.user_data, completion.result)
        }
    }
}
