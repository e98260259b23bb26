// SPDX-License-Identifier: Apache-2.0
package import KVCore
internal import Synchronization

/// Names whose value may change: those of the front doors that have such names. Chunks stay
/// immutable; another one takes the name.
extension RAMTier {
    /// Which chunk of its name a new one may take the place of.
    package enum Replacement: Sendable {
        /// Any, or none.
        case any
        /// None: `exists` when there is one.
        case nothing
        /// This one, which the caller holds; `notFound` when it is not there any more.
        case only(Hold)
    }

    /// Takes space for a chunk, whether or not there is one of its name. As `reserve` otherwise.
    package func reserveToReplace(_ proposal: ChunkProposal) -> ReserveResult {
        takeSpace(proposal)
    }

    /// Makes the chunk of a reservation visible and the one of its name unfindable, at once.
    func replace(
        _ slot: UInt32, _ generation: UInt32, _ replacement: Replacement, checksum: UInt64,
        expiry: Instant, now: Instant
    ) -> Status {
        let admitsNow = admission == .all
        return state.withLock { state in
            state.check(slot, generation, .filling)
            let old = state.findUnexpired(state.table[slot].namespace, state.table[slot].key, now)
            if let refusal = replacement.refusal(of: old, in: state) {
                state.abandon(slot)
                return refusal
            }
            if let old { state.unpublish(old) }
            state.table[slot].checksum = checksum
            state.table[slot].expiry = expiry
            state.table[slot].state = .live
            state.table.insert(slot)
            state.policy.inserted(slot)
            if admitsNow { state.admit(slot) }
            state.statistics.openReservationCount -= 1
            return .ok
        }
    }

    /// A chunk that a walk came by. A value.
    package struct Walked: Sendable {
        package let key: ChunkKey
        /// Whether the chunk is on SSD too, or on its way there.
        package let isStored: Bool
    }

    /// Chunks of a namespace, by their places in the table: those in the `count` places from
    /// `first` on, or in fewer when `chunkCountMax` were found. A chunk keeps its place while it is
    /// in memory, and another of its name gets the same.
    /// - Returns: the chunks, and where to go on; nil at the end.
    package func walk(
        _ namespace: NamespaceID, from first: Int, count: Int, chunkCountMax: Int, now: Instant
    ) -> (chunks: [Walked], next: Int?) {
        var chunks: [Walked] = []
        chunks.reserveCapacity(min(chunkCountMax, 64))
        let next = state.withLock { state in
            state.table.walk(homesFrom: first, count: count) { entry in
                guard entry.namespace == namespace, entry.expiry > now else { return }
                chunks.append(Walked(key: entry.key, isStored: entry.storage == .stored))
            } until: {
                chunks.count >= chunkCountMax
            }
        }
        return (chunks, next)
    }
}

extension RAMTier.Replacement {
    /// Why the chunk in slot `old`, or that there is none, stands in the way; nil when not.
    fileprivate func refusal(of old: UInt32?, in state: borrowing RAMTierState) -> Status? {
        switch self {
        case .any: nil
        case .nothing: old == nil ? nil : .exists
        case .only(let hold):
            old == hold.slot && state.table[hold.slot].generation == hold.generation
                ? nil : .notFound
        }
    }
}
