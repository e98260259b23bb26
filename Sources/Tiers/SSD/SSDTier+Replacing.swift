// SPDX-License-Identifier: Apache-2.0
package import KVCore
internal import Synchronization

/// Names whose value may change; see `RAMTier+Replacing`.
extension SSDTier {
    /// Makes the chunk of a reservation visible in memory, and any other of its name unfindable
    /// there and here, at once. What is left on the disk of that one gets a note that nobody waits
    /// for.
    package func replace(
        _ reservation: consuming Reservation, _ name: ChunkName,
        _ replacement: RAMTier.Replacement, checksum: UInt64, expiry: Instant, now: Instant
    ) -> Status {
        let wall = wallMilliseconds(now)
        var reservation: Reservation? = consume reservation
        return state.withLock { state in
            if case .nothing = replacement,
                let row = state.index.find(name.namespace, name.key, state.bindings),
                !state.index[row].state.isAbsent, !state.isExpired(row, wall)
            {
                return .exists
            }
            // The memory's lock within ours: a reader that has read the old chunk, and a writer
            // that is about to, ask here whether it is still there.
            let status =
                reservation.take()?.replace(
                    replacement, checksum: checksum, expiry: expiry, now: now) ?? .internal
            if status == .ok { _ = state.remove(name, wallMilliseconds: wall) }
            return status
        }
    }

    /// Chunks of a namespace, by the rows of the index: those in the `count` rows from `first` on,
    /// or in fewer when `keyCountMax` were found.
    /// - Returns: the keys, and where to go on; nil at the end.
    package func walk(
        _ namespace: NamespaceID, from first: Int, count: Int, keyCountMax: Int, now: Instant
    ) -> (keys: [ChunkKey], next: Int?) {
        let wall = wallMilliseconds(now)
        var keys: [ChunkKey] = []
        keys.reserveCapacity(min(keyCountMax, 64))
        let next = state.withLock { state -> Int? in
            let end = min(first + count, state.index.rowCount)
            var row = first
            while row < end, keys.count < keyCountMax {
                let entry = state.index[UInt32(row)]
                if entry.state == .readable || entry.state == .placed,
                    state.bindings.namespace(of: entry.binding) == namespace,
                    !state.isExpired(UInt32(row), wall)
                {
                    keys.append(entry.key)
                }
                row += 1
            }
            return row < state.index.rowCount ? row : nil
        }
        return (keys, next)
    }
}

extension SSDState {
    /// Takes a chunk out of the index, and queues the note of its removal.
    /// - Returns: whether a reader could have found it.
    mutating func remove(
        _ name: ChunkName, wallMilliseconds wall: UInt64
    ) -> (found: Bool, SSDTier.NoteOutcome) {
        let wasPinned = pins.removeValue(forKey: name) != nil
        guard let row = index.find(name.namespace, name.key, bindings) else {
            // An earlier deletion that is not durable yet is this one's business too.
            if let earlier = unsettledDeletions[name] { return (false, .noted(earlier)) }
            guard wasPinned || mayHoldUnknownRecords else { return (false, .nothing) }
            return (false, enqueue(.delete, name).map { .noted($0) } ?? .refused)
        }
        let found = index[row].state == .readable && !isExpired(row, wall)
        guard let sequence = enqueue(.delete, name) else {
            // Kept as bad, so that a later deletion is noted.
            if !index[row].state.isAbsent { index[row].state = .bad }
            return (found, .refused)
        }
        drop(row)
        return (found, .noted(sequence))
    }
}
