// SPDX-License-Identifier: Apache-2.0
internal import Codec
internal import KVCore
internal import Telemetry
internal import Tiers
internal import Wire

/// LOOKUP, DELETE and STAT: the verbs that only look at the index.
extension Connection {
    nonisolated(nonsending) func serveLookup(
        _ request: Request, _ body: PinnedBytes
    ) async throws(ConnectionEnd) -> Next {
        let lookup: LookupRequest
        do throws(WireFault) {
            lookup = try LookupRequest.decode(body)
        } catch {
            return try await refuse(request, error)
        }
        shard.noteSmallRequest(at: request.arrival)
        // The prefix is counted first, so that the answer's size is known before it is written.
        let prefixCount = prefixCount(of: lookup.keys, now: request.arrival)
        let recordCount = lookup.mode == .longestPrefix ? prefixCount : lookup.keys.count
        node.metrics.add(.lookupHits, prefixCount)
        node.metrics.add(.lookupMisses, lookup.keys.count - prefixCount)
        return try await answerLarge(
            request,
            bodyByteCount: LookupAnswer.fixedByteCount + recordCount * LookupRecord.byteCount
        ) { writer in
            writer.append(UInt32(prefixCount))
            writer.append(UInt32(recordCount))
            for index in 0..<recordCount {
                record(of: lookup.keys[index], now: request.arrival).encode(&writer)
            }
        }
    }

    private func prefixCount(of keys: KeyList, now: Instant) -> Int {
        for index in 0..<keys.count
        where node.tier.describe(namespace, keys[index], now: now, asUse: .doesNotCount) == nil {
            return index
        }
        return keys.count
    }

    private func record(of key: ChunkKey, now: Instant) -> LookupRecord {
        guard let found = node.tier.describe(namespace, key, now: now, asUse: .counts) else {
            return .absent
        }
        return LookupRecord(
            status: .ok, tier: LookupRecord.ramTier, level: found.level.rawValue,
            loadMicroseconds: estimatedLoadMicroseconds(found.byteCount),
            chunkByteCount: UInt64(found.byteCount),
            timeToLiveMilliseconds: found.timeToLive(at: now))
    }

    /// A message, and the bytes at a rate that loopback reaches on one connection. Local readers
    /// need the message alone.
    private func estimatedLoadMicroseconds(_ byteCount: Int) -> UInt32 {
        UInt32(clamping: 50 + (sharesMemory ? 0 : byteCount / loadBytesPerMicrosecond))
    }

    nonisolated(nonsending) func serveDelete(
        _ request: Request, _ body: PinnedBytes
    ) async throws(ConnectionEnd) -> Next {
        let delete: DeleteRequest
        do throws(WireFault) {
            delete = try DeleteRequest.decode(body)
        } catch {
            return try await refuse(request, error)
        }
        shard.noteSmallRequest(at: request.arrival)
        let keys = delete.keys
        let headByteCount = FrameHeader.byteCount + DeleteRequest.fixedByteCount
        let fitsOutbox = headByteCount + 2 * keys.count <= outboxByteCount
        let scratch = fitsOutbox ? nil : shard.scratch.take()
        guard fitsOutbox || scratch != nil else {
            return try await refuse(request, .busy, "too many large requests: try again")
        }
        defer { if let scratch { shard.scratch.giveBack(scratch) } }
        let room = scratch?.bytes ?? outbox.bytes
        // Statuses first, since their count of successes stands before them.
        let statuses = room.dropFirst(headByteCount)
        var statusWriter = FieldWriter(statuses)
        var deletedCount: UInt32 = 0
        for index in 0..<keys.count {
            let removed = node.tier.remove(namespace, keys[index], now: request.arrival)
            if removed { deletedCount += 1 }
            statusWriter.append((removed ? Status.ok : .notFound).rawValue)
        }
        node.metrics.add(.chunksDeleted, Int(deletedCount))
        var header = answerHeader(request, .ok)
        let frame = header.encode(into: room) { writer in
            writer.append(deletedCount)
            writer.append(UInt32(keys.count))
            writer.skip(statusWriter.count)
        }
        try await send(frame, deadline: request.deadline)
        return .goOn
    }

    nonisolated(nonsending) func serveStat(
        _ request: Request, _ body: PinnedBytes
    ) async throws(ConnectionEnd) -> Next {
        let stat: StatRequest
        do throws(WireFault) {
            stat = try StatRequest.decode(body)
        } catch {
            return try await refuse(request, error)
        }
        switch stat {
        case .node:
            let answer = StatAnswer(pairs: node.statistics(now: request.arrival))
            return try await answerLarge(request, bodyByteCount: Limits.bodyByteCountMax) {
                answer.encode(&$0)
            }
        case .chunk(let key):
            let now = request.arrival
            guard let found = node.tier.describe(namespace, key, now: now, asUse: .doesNotCount)
            else { return try await refuse(request, .notFound, "not stored") }
            let answer = ChunkAnswer(index: 0, found, now: now)
            try await self.answer(request) { answer.encode(&$0) }
            return .goOn
        }
    }
}

/// About 2 GB/s.
private let loadBytesPerMicrosecond = 2_000
