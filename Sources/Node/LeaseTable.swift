// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Tiers

/// The leases of one connection: which chunks its client may read in place, and until when.
///
/// A lease's id carries its slot, so that release takes constant time; the rest of the id is a
/// number that is never used twice by a connection. Confined to the connection; memory grows with
/// the most leases held at once.
struct LeaseTable: ~Copyable {
    private struct Slot {
        var id: UInt64
        var hold: Hold
        var expiry: Instant
    }

    private var slots: [Slot?] = []
    private var unused: [Int] = []
    private var serial: UInt64 = 0
    private(set) var count = 0

    /// Takes over `hold` until `expiry`.
    /// - Returns: the lease's id, never 0.
    mutating func grant(_ hold: Hold, until expiry: Instant) -> UInt64 {
        serial += 1
        let index = unused.popLast() ?? slots.count
        let id = serial << 16 | UInt64(index)
        let slot = Slot(id: id, hold: hold, expiry: expiry)
        if index == slots.count { slots.append(slot) } else { slots[index] = slot }
        count += 1
        return id
    }

    /// Ends a lease; the caller releases the hold that it gets. Nil when there is no such lease.
    mutating func end(_ id: UInt64) -> Hold? {
        let index = Int(truncatingIfNeeded: id & 0xffff)
        guard index < slots.count, let slot = slots[index], slot.id == id else { return nil }
        slots[index] = nil
        unused.append(index)
        count -= 1
        return slot.hold
    }

    /// Ends the leases that expired by `now`, and hands their holds over for release.
    mutating func endExpired(by now: Instant, _ release: (Hold) -> Void) {
        guard count > 0 else { return }
        for slot in slots {
            if let slot, slot.expiry <= now, let hold = end(slot.id) { release(hold) }
        }
    }

    /// Ends all leases.
    mutating func endAll(_ release: (Hold) -> Void) {
        endExpired(by: .distantFuture, release)
    }
}
