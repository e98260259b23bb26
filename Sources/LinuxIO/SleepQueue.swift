// SPDX-License-Identifier: Apache-2.0

/// The sleeps of a reactor, earliest first: a binary heap. Confined to the reactor's thread.
/// `insert` and `popFirst` take logarithmic time; memory grows with the most sleeps held at once.
struct SleepQueue {
    private struct Entry {
        let instant: UInt64
        /// Keeps sleeps until the same instant in their order.
        let serial: UInt64
        let id: UInt64

        func isBefore(_ other: Entry) -> Bool {
            (instant, serial) < (other.instant, other.serial)
        }
    }

    private var heap: [Entry] = []
    private var serial: UInt64 = 0

    init() { heap.reserveCapacity(64) }

    var isEmpty: Bool { heap.isEmpty }

    /// When the first sleep ends; `.max` when there is none.
    var earliest: UInt64 { heap.first?.instant ?? .max }

    /// Adds the sleep with slot `id`.
    mutating func insert(_ id: UInt64, until instant: UInt64) {
        serial += 1
        heap.append(Entry(instant: instant, serial: serial, id: id))
        var child = heap.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            guard heap[child].isBefore(heap[parent]) else { return }
            heap.swapAt(child, parent)
            child = parent
        }
    }

    /// Removes the first sleep if it ends by `now`.
    mutating func popFirst(by now: UInt64) -> UInt64? {
        guard let first = heap.first, first.instant <= now else { return nil }
        heap.swapAt(0, heap.count - 1)
        heap.removeLast()
        var parent = 0
        while true {
            var least = parent
            for child in (2 * parent + 1)...(2 * parent + 2) {
                if child < heap.count && heap[child].isBefore(heap[least]) { least = child }
            }
            guard least != parent else { return first.id }
            heap.swapAt(parent, least)
            parent = least
        }
    }
}
