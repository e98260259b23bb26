// SPDX-License-Identifier: Apache-2.0

/// The operations under way: who waits for each, until when, and why it was cancelled.
///
/// A slot's id (generation and index) travels through the kernel as user_data. A slot is freed
/// exactly once, by its completion, which is what makes each continuation resume exactly once.
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

    @safe
    private struct Slot {
        // SAFETY: resumed once, when the slot is freed (`take`).
        var continuation: UnsafeContinuation<Int32, Never>?
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

    /// Claims a slot for an operation with `deadline` (`.max`: none) that `continuation` waits for.
    /// - Returns: the slot's id; nil when all slots are in use.
    mutating func claim(
        deadline: UInt64, isSleep: Bool, _ continuation: UnsafeContinuation<Int32, Never>
    ) -> UInt64? {
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
        unsafe slots[index].continuation = continuation
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

    /// Frees the slot of an operation that ended with `result`.
    /// - Returns: who waits, and the result for it.
    mutating func take(
        _ id: UInt64, result: Int32
    ) -> (continuation: UnsafeContinuation<Int32, Never>, result: Int32) {
        let index = index(of: id)
        // SAFETY: `index(of:)` checked the index. The slot is copied and written back whole: member
        // by member, the compiler breaks down under the thread sanitizer (Swift 6.3.1).
        var slot = unsafe slots[index]
        guard let continuation = unsafe slot.continuation else {
            preconditionFailure("an operation is in flight and nobody waits for it")
        }
        if slot.deadline != .max && !slot.isSleep {
            deadlineCount -= 1
            if deadlineCount == 0 { earliestDeadline = .max }
        }
        inFlightCount -= 1
        let final = slot.injected != 0 ? slot.injected : result
        let translated = Self.translate(final, slot.state)
        // The generation wraps around after 2^32 uses of one slot.
        slot.state = .free
        unsafe slot.continuation = nil
        slot.generation &+= 1
        slot.nextFree = firstFree
        unsafe slots[index] = slot
        firstFree = UInt32(index)
        return unsafe (continuation, translated)
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
