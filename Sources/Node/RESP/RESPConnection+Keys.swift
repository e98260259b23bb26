// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Kernels
internal import Telemetry
internal import Tiers
internal import Wire

/// Commands about keys that carry no value.
extension RESPConnection {
    nonisolated(nonsending) func serveExists() async throws(ConnectionEnd) {
        var count = 0
        for index in 1..<parser.arguments.count {
            if await exists(argument(index)) { count += 1 }
        }
        shard.noteSmallRequest(at: arrival)
        node.metrics.add(.lookupHits, count)
        node.metrics.add(.lookupMisses, parser.arguments.count - 1 - count)
        replies.integer(count)
    }

    private nonisolated(nonsending) func exists(_ name: PinnedBytes) async -> Bool {
        let key = secureHash(name)
        guard settings.isStrict else {
            return describe(key, now: arrival, asUse: .counts) != nil
        }
        switch await find(key, now: arrival, deadline: tierDeadline) {
        case .missing: return false
        case .held(let held):
            guard let read = NamedValue.read(held.bytes, named: name) else { return false }
            node.valueSizes.learn(name, byteCount: read.valueAndLineEnd.count - 2)
            return keep(held, ChunkName(namespace, key))
        }
    }

    /// Keeps a chunk in memory for a while; false when nothing more may be kept.
    private func keep(_ held: consuming HeldChunk, _ name: ChunkName) -> Bool {
        let end = reactor.now().adding(milliseconds: UInt64(settings.leaseMilliseconds))
        let byteCount = held.bytes.count
        let hold = held.escape()
        if shard.readLeases.extend(name, hold, until: end) {
            node.tier.release(hold)
            return true
        }
        guard node.readLeaseBegan(byteCount: byteCount) else {
            node.metrics.add(.readLeasesRefused)
            node.tier.release(hold)
            return false
        }
        node.metrics.add(.leasesGranted)
        let old = shard.readLeases.begin(name, hold, byteCount: byteCount, until: end)
        if let old {
            node.readLeaseEnded(byteCount: old.byteCount)
            node.tier.release(old.hold)
        }
        return true
    }

    func serveDelete() {
        shard.noteSmallRequest(at: arrival)
        var count = 0
        for index in 1..<parser.arguments.count where remove(secureHash(argument(index))) {
            count += 1
        }
        replies.integer(count)
    }

    /// Whether there was a value to remove. That it is gone for good is not waited for.
    func remove(_ key: ChunkKey) -> Bool {
        guard removeEverywhere(key, now: arrival).status == .ok else { return false }
        node.metrics.add(.chunksDeleted)
        return true
    }

    func serveLength() {
        let name = argument(1)
        let found = describe(secureHash(name), now: arrival, asUse: .doesNotCount)
        replies.integer(
            found.flatMap {
                NamedValue.valueByteCount(chunk: $0.description.byteCount, name: name.count)
            } ?? 0)
    }

    func serveType() {
        let found = describe(secureHash(argument(1)), now: arrival, asUse: .doesNotCount)
        replies.simple(found == nil ? "none" : "string")
    }

    func serveTimeToLive(millisecondsPerUnit unit: UInt64) {
        let found = describe(secureHash(argument(1)), now: arrival, asUse: .doesNotCount)
        guard let expiry = found?.description.expiry else { return replies.integer(-2) }
        guard expiry != .distantFuture else { return replies.integer(-1) }
        // To the nearest unit, as in Redis.
        replies.integer(Int((arrival.milliseconds(until: expiry) + unit / 2) / unit))
    }

    // MARK: Another end

    nonisolated(nonsending) func serveExpire(
        millisecondsPerUnit unit: Int
    ) async throws(ConnectionEnd) {
        let key = secureHash(argument(1))
        guard let amount = argument(2).decimal else {
            return replies.error("ERR value is not an integer or out of range")
        }
        guard amount > 0 else { return replies.integer(remove(key) ? 1 : 0) }
        guard let end = expiry(after: amount, millisecondsPerUnit: unit) else {
            return replies.error("ERR invalid expire time in 'expire' command")
        }
        replies.integer(await store(key, argument(1), anewUntil: end) ? 1 : 0)
    }

    nonisolated(nonsending) func servePersist() async throws(ConnectionEnd) {
        let key = secureHash(argument(1))
        let found = describe(key, now: arrival, asUse: .doesNotCount)
        guard let found, found.description.expiry != .distantFuture else {
            return replies.integer(0)
        }
        replies.integer(await store(key, argument(1), anewUntil: .distantFuture) ? 1 : 0)
    }

    /// Stores a value again with another end, since chunks do not change; false when it is absent,
    /// when it is replaced meanwhile, and when there is no room.
    private nonisolated(nonsending) func store(
        _ key: ChunkKey, _ name: PinnedBytes, anewUntil end: Instant
    ) async -> Bool {
        switch await find(key, now: arrival, deadline: tierDeadline) {
        case .missing: return false
        case .held(let held):
            guard NamedValue.read(held.bytes, named: name) != nil else { return false }
            let (bytes, checksum) = (held.bytes, held.description.checksum)
            let hold = held.escape()
            defer { node.tier.release(hold) }
            switch await reserveToReplace(
                key, byteCount: bytes.count, deadline: tierDeadline)
            {
            case .refused: return false
            case .callAgain: return false
            case .reserved(let reservation):
                var copied = 0
                while copied < bytes.count {
                    let count = min(Limits.pieceByteCountAlone, bytes.count - copied)
                    reservation.bytes.slice(offset: copied, count: count)
                        .copy(from: bytes.slice(offset: copied, count: count))
                    copied += count
                    if copied < bytes.count { await reactor.yield() }
                }
                let status = publish(
                    reservation, key, .only(hold), checksum: checksum, expiry: end,
                    now: reactor.now())
                return status == .ok
            }
        }
    }
}
