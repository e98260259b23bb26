// SPDX-License-Identifier: Apache-2.0

internal import KVCore

/// Something that will happen at a virtual time unless it is cancelled before.
package final class SimulatedEvent {
    private var action: (() -> Void)?

    init(_ action: @escaping () -> Void) {
        self.action = action
    }

    var isCancelled: Bool { action == nil }

    /// Makes the event as if it had never been scheduled; the clock does not stop for it.
    package func cancel() {
        action = nil
    }

    func fire() {
        let taken = action
        action = nil
        taken?()
    }
}

/// Events by time; events of one instant in an order that the seed decides. A value.
struct EventHeap {
    struct Entry {
        let time: Instant
        let tieBreak: UInt64
        let number: UInt64
        let event: SimulatedEvent

        func precedes(_ other: Entry) -> Bool {
            if time != other.time { return time < other.time }
            if tieBreak != other.tieBreak { return tieBreak < other.tieBreak }
            return number < other.number
        }
    }

    private var entries: [Entry] = []

    var count: Int { entries.count }

    /// The earliest event that is not cancelled.
    var first: Entry? {
        mutating get {
            while let entry = entries.first {
                guard entry.event.isCancelled else { return entry }
                removeFirst()
            }
            return nil
        }
    }

    mutating func insert(_ entry: Entry) {
        entries.append(entry)
        var child = entries.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            guard entries[child].precedes(entries[parent]) else { break }
            entries.swapAt(child, parent)
            child = parent
        }
    }

    mutating func removeFirst() {
        entries.swapAt(0, entries.count - 1)
        entries.removeLast()
        var parent = 0
        while true {
            var least = parent
            for child in [2 * parent + 1, 2 * parent + 2]
            where child < entries.count && entries[child].precedes(entries[least]) {
                least = child
            }
            guard least != parent else { return }
            entries.swapAt(parent, least)
            parent = least
        }
    }

    mutating func removeAll() {
        entries.removeAll()
    }
}
