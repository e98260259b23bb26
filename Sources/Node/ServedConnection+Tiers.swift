// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Telemetry
internal import Tiers

/// What connections do with the tiers, memory and SSD.
extension ServedConnection {
    /// Lends a chunk from memory, or from SSD by way of memory.
    final nonisolated(nonsending) func find(
        _ key: ChunkKey, now: Instant, deadline: Instant, asUse: RAMTier.Use = .counts
    ) async -> Found {
        if let held = node.tier.hold(namespace, key, now: now, asUse: asUse) {
            return .held(held)
        }
        guard let ssd else { return .missing(.notFound) }
        var pauseMilliseconds: UInt64 = 1
        while true {
            switch await ssd.reader.obtain(ChunkName(namespace, key), deadline: deadline) {
            case .success(let hold):
                node.metrics.add(.ssdHits)
                return .held(node.tier.lend(hold))
            case .failure(.busy) where pauseMilliseconds < busyPauseMillisecondsMax:
                // All of memory is being sent or written: that is over soon.
                guard await pause(milliseconds: pauseMilliseconds) else { return .missing(.busy) }
                pauseMilliseconds *= 2
            case .failure(let status):
                return .missing(status)
            }
        }
    }

    /// What is known of a chunk, and whether it is in memory; nil when it is nowhere.
    final func describe(
        _ key: ChunkKey, now: Instant, asUse: RAMTier.Use
    ) -> (description: ChunkDescription, isInMemory: Bool)? {
        if let found = node.tier.describe(namespace, key, now: now, asUse: asUse) {
            return (found, true)
        }
        guard let located = ssd?.tier.locate(namespace, key, now: now, asUse: asUse) else {
            return nil
        }
        return (located.description, false)
    }

    /// Whether a chunk is on SSD, or on its way there, so that it need not be stored again.
    final func isOnSSD(_ key: ChunkKey, now: Instant) -> Bool {
        ssd?.tier.holds(namespace, key, now: now) ?? false
    }

    /// What came of one key, and what must be durable before it is told.
    typealias KeyOutcome = (status: Status, note: SSDTier.NoteOutcome)

    /// Memory, SSD, and memory again: a reader may have brought the chunk there in between.
    final func removeEverywhere(_ key: ChunkKey, now: Instant) -> KeyOutcome {
        let wasInMemory = node.tier.remove(namespace, key, now: now)
        guard let ssd else { return (wasInMemory ? .ok : .notFound, .nothing) }
        let (wasOnSSD, note) = ssd.tier.remove(namespace, key, now: now)
        let cameBack = node.tier.remove(namespace, key, now: now)
        return (wasInMemory || wasOnSSD || cameBack ? .ok : .notFound, note)
    }

    // MARK: Names whose value may change

    /// Takes space for a value, letting other connections run while much has to be evicted for it,
    /// and waiting a little where all of memory is being read or written: what the client sends
    /// waits in the socket meanwhile.
    final nonisolated(nonsending) func reserveToReplace(
        _ key: ChunkKey, byteCount: Int, deadline: Instant
    ) async -> RAMTier.ReserveResult {
        guard byteCount <= node.chunkByteCountMax else { return .refused(.tooLarge) }
        let proposal = ChunkProposal(
            namespace: namespace, key: key, layout: .opaque, byteCount: byteCount)
        var pauseMilliseconds: UInt64 = 1
        while true {
            switch node.tier.reserveToReplace(proposal) {
            case .reserved(let reservation): return .reserved(reservation)
            case .refused(.busy) where pauseMilliseconds < busyPauseMillisecondsMax:
                guard await pause(milliseconds: pauseMilliseconds) else { return .refused(.busy) }
                pauseMilliseconds *= 2
            case .refused(let status): return .refused(status)
            case .callAgain where reactor.now() >= deadline: return .callAgain
            case .callAgain: await reactor.yield()
            }
        }
    }

    /// Makes a value visible in the place of the one that its key had.
    final func publish(
        _ reservation: consuming Reservation, _ key: ChunkKey,
        _ replacement: RAMTier.Replacement, checksum: UInt64, expiry: Instant, now: Instant
    ) -> Status {
        let byteCount = reservation.bytes.count
        let status: Status
        if let ssd {
            status = ssd.tier.replace(
                reservation, ChunkName(namespace, key), replacement, checksum: checksum,
                expiry: expiry, now: now)
        } else {
            status = reservation.replace(
                replacement, checksum: checksum, expiry: expiry, now: now)
        }
        if status == .ok {
            node.metrics.add(.putsStored)
            node.metrics.add(.putsStoredBytes, byteCount)
            ssd?.store.bell.ring()
        }
        return status
    }
}

/// The last of the pauses, each twice the one before, for which a request waits for room.
private let busyPauseMillisecondsMax: UInt64 = 256
