// SPDX-License-Identifier: Apache-2.0

/// The operations under way: who waits for each, until when, and why it was cancelled.
///
/// A slot's id (generation and index) travels through the kernel as user_data. A slot is freed
/// exactly once, by its completion, which is what makes each task go on exactly once.
/// Confined to the reactor's thread. All operations take constant time and allocate nothing;
/// `forEachOverdue` and `forEachInFlight` walk the slots ever used.
@safe
struct SlotTable: ~Copyable {
    enum State: UInt8 {
        case free
        case inFlight
        /// Cancelled because its deadline passed.
        case overdue
        /// Cancelled by `close` or `stop`.
        case cancelled
    }

    private struct Slot {
        /// Of the task that waits; run once, after the slot was freed (`take`).
        var job: UnownedJob?
        var deadline: UInt64 = .max
        var generation: UInt32 = 0
        var nextFree: UInt32 = SlotTable.none
        /// A result that fault injection put in place of the kernel's; 0: none.
        var injected: Int32 = 0
        var state: State = .free
        /// A sleep: no operation in the kernel stands behind it.
        var isSleep = false
    }

    static let none: UInt32 = .max

    let capacity: Int
    private(set) var inFlightCount = 0
    /// Slots with a deadline, sleeps not counted.
    private(set) var deadlineCount = 0
    /// No deadline is earlier than this; renewed by `forEachOverdue`.
    private(set) var earliestDeadline: UInt64 = .max
    // SAFETY: allocated for `capacity` slots in `init`, freed in `deinit`; slots below `usedCount`
    // are initialized.
    private let slots: UnsafeMutablePointer<Slot>
    private var usedCount = 0
    private var firstFree = SlotTable.none

    init(capacity: Int) {
        self.capacity = capacity
        unsafe slots = .allocate(capacity: capacity)
    }

    deinit {
        // SAFETY: allocated in `init`; `Slot` is trivial, so nothing has to be deinitialized.
        unsafe slots.deallocate()
    }

    /// Claims a slot for an operation with `deadline` (`.max`: none).
    /// - Returns: the slot's id; nil when all slots are in use.
    mutating func claim(deadline: UInt64, isSleep: Bool) -> UInt64? {
        let index: Int
        if firstFree != Self.none {
            index = Int(firstFree)
            // SAFETY: free slots were used before, so they lie below `usedCount`.
            firstFree = unsafe slots[index].nextFree
        } else if usedCount < capacity {
            index = usedCount
            // SAFETY: `usedCount < capacity`.
            unsafe (slots + index).initialize(to: Slot())
            usedCount += 1
        } else {
            return nil
        }
        // SAFETY: `index` lies below `usedCount`.
        unsafe slots[index].state = .inFlight
        unsafe slots[index].deadline = deadline
        unsafe slots[index].isSleep = isSleep
        unsafe slots[index].injected = 0
        unsafe slots[index].job = nil
        inFlightCount += 1
        if deadline != .max && !isSleep {
            deadlineCount += 1
            if deadline < earliestDeadline { earliestDeadline = deadline }
        }
        return unsafe UInt64(slots[index].generation) << 32 | UInt64(index)
    }

    /// The slot with this id; traps when it is not in flight, as then somebody resumed it already.
    private func index(of id: UInt64) -> Int {
        let index = Int(truncatingIfNeeded: id & 0xffff_ffff)
        precondition(index < usedCount, "a completion names a slot that was never used")
        // SAFETY: `index` was just checked.
        unsafe precondition(
            slots[index].generation == UInt32(truncatingIfNeeded: id >> 32)
                && slots[index].state != .free,
            "a completion names an operation that is not in flight")
        return index
    }

    /// Puts `result` in place of the one that the kernel will report.
    mutating func inject(_ id: UInt64, result: Int32) {
        let index = index(of: id)
        // SAFETY: `index(of:)` checked the index.
        unsafe slots[index].injected = result
    }

    /// Marks the operation as cancelled for `reason`.
    /// - Returns: whether it was plainly in flight before. It may have ended already: its task
    ///   learns of that only when it runs again.
    mutating func cancel(_ id: UInt64, _ reason: State) -> Bool {
        let index = Int(truncatingIfNeeded: id & 0xffff_ffff)
        precondition(index < usedCount, "an operation to cancel that never was")
        // SAFETY: `index` was just checked.
        guard unsafe slots[index].generation == UInt32(truncatingIfNeeded: id >> 32),
            unsafe slots[index].state == .inFlight
        else { return false }
        unsafe slots[index].state = reason
        return true
    }

    /// Takes back a `cancel` that could not be submitted, so that a later one tries again.
    mutating func revertCancel(_ id: UInt64) {
        let index = index(of: id)
        // SAFETY: `index(of:)` checked the index.
        unsafe slots[index].state = .inFlight
    }

    /// Names the task that waits for the operation.
    mutating func park(_ id: UInt64, _ job: UnownedJob) {
        let index = index(of: id)
        // SAFETY: `index(of:)` checked the index.
        unsafe slots[index].job = job
    }

    /// Frees the slot of an operation that ended with `result`.
    /// - Returns: the job of the task that waits, and the result for it.
    mutating func take(_ id: UInt64, result: Int32) -> (job: UnownedJob, result: Int32) {
        let slot = free(id)
        guard let job = slot.job else {
            preconditionFailure("an operation is in flight and nobody waits for it")
        }
        let final = slot.injected != 0 ? slot.injected : result
        return (job, Self.translate(final, slot.state))
    }

    /// Frees the slot of an operation that the kernel did not take.
    mutating func withdraw(_ id: UInt64) { _ = free(id) }

    private mutating func free(_ id: UInt64) -> Slot {
        let index = index(of: id)
        // SAFETY: `index(of:)` checked the index.
        let slot = unsafe slots[index]
        if slot.deadline != .max && !slot.isSleep {
            deadlineCount -= 1
            if deadlineCount == 0 { earliestDeadline = .max }
        }
        inFlightCount -= 1
        var freed = Slot()
        // Wraps around after 2^32 uses of one slot.
        freed.generation = slot.generation &+ 1
        freed.nextFree = firstFree
        // SAFETY: as above.
        unsafe slots[index] = freed
        firstFree = UInt32(index)
        return slot
    }

    /// A cancelled operation reports why; one that was faster than its cancellation reports itself.
    private static func translate(_ result: Int32, _ state: State) -> Int32 {
        guard result == -ErrorNumber.cancelled || result == -ErrorNumber.interrupted else {
            return result
        }
        return switch state {
        case .overdue: Outcome.deadlineExceeded
        case .cancelled: Outcome.cancelled
        case .free, .inFlight: result
        }
    }

    /// Visits the operations whose deadline has passed by `now`, and renews `earliestDeadline`.
    mutating func forEachOverdue(by now: UInt64, _ body: (inout SlotTable, UInt64) -> Void) {
        var earliest = UInt64.max
        for index in 0..<usedCount {
            // SAFETY: `index` lies below `usedCount`.
            let slot = unsafe slots[index]
            guard slot.state == .inFlight && !slot.isSleep && slot.deadline != .max else {
                continue
            }
            if slot.deadline <= now {
                body(&self, UInt64(slot.generation) << 32 | UInt64(index))
                // SAFETY: as above. Not cancelled: look again in the next tick.
                if unsafe slots[index].state == .inFlight { earliest = min(earliest, now) }
            } else {
                earliest = min(earliest, slot.deadline)
            }
        }
        earliestDeadline = earliest
    }

    /// Visits all operations that are under way and not cancelled; sleeps are left out.
    mutating func forEachInFlight(_ body: (inout SlotTable, UInt64) -> Void) {
        for index in 0..<usedCount {
            // SAFETY: `index` lies below `usedCount`.
            let slot = unsafe slots[index]
            guard slot.state == .inFlight && !slot.isSleep else { continue }
            body(&self, UInt64(slot.generation) << 32 | UInt64(index))
        }
    }
}
