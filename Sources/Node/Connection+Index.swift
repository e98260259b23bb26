// SPDX-License-Identifier: Apache-2.0
internal import Codec
internal import KVCore
internal import Telemetry
internal import Tiers
internal import Wire

/// LOOKUP and STAT: the verbs that only look at the index.
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
        let now = request.arrival
        return try await answerRows(
            request, rowByteCountMax: lookup.keys.count * LookupRecord.byteCount
        ) { room in
            var writer = FieldWriter(room)
            var (prefixCount, recordCount, hitCount) = (0, 0, 0)
            for index in 0..<lookup.keys.count {
                let hasAncestors = prefixCount == index
                let record = record(of: lookup.keys[index], hasAncestors: hasAncestors, now: now)
                let isHit = record.status == .ok
                if isHit { hitCount += 1 }
                if isHit, hasAncestors { prefixCount += 1 }
                if !isHit, lookup.mode == .longestPrefix { break }
                record.encode(&writer)
                recordCount += 1
            }
            node.metrics.add(.lookupHits, hitCount)
            let missCount = lookup.keys.count - hitCount
            node.metrics.add(.lookupMisses, missCount)
            return Rows(
                firstCount: UInt32(prefixCount), secondCount: UInt32(recordCount),
                byteCount: writer.count)
        }
    }

    private func record(of key: ChunkKey, hasAncestors: Bool, now: Instant) -> LookupRecord {
        guard let (found, isInMemory) = describe(key, now: now, asUse: use(hasAncestors)) else {
            return .absent
        }
        var record = LookupRecord(
            status: .ok, tier: LookupRecord.ramTier, level: found.level.rawValue,
            loadMicroseconds: estimatedLoadMicroseconds(found.byteCount),
            chunkByteCount: UInt64(found.byteCount),
            timeToLiveMilliseconds: found.timeToLive(at: now))
        if !isInMemory {
            record.tier = LookupRecord.ssdTier
            record.loadMicroseconds += estimatedReadMicroseconds(found.byteCount)
        }
        return record
    }

    /// A request to a disk, and the bytes at the rate of an ordinary one.
    private func estimatedReadMicroseconds(_ byteCount: Int) -> UInt32 {
        UInt32(clamping: 150 + byteCount / readBytesPerMicrosecond)
    }

    /// A message, and the bytes at a rate that loopback reaches on one connection. Local readers
    /// need the message alone.
    private func estimatedLoadMicroseconds(_ byteCount: Int) -> UInt32 {
        UInt32(clamping: 50 + (sharesMemory ? 0 : byteCount / loadBytesPerMicrosecond))
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
            let answer = StatAnswer(
                pairs: node.statistics(now: request.arrival, ssd: ssd?.tier.statistics()))
            return try await answerLarge(request, bodyByteCount: Limits.bodyByteCountMax) {
                answer.encode(&$0)
            }
        case .chunk(let key):
            let now = request.arrival
            guard let (found, _) = describe(key, now: now, asUse: .doesNotCount)
            else { return try await refuse(request, .notFound, "not stored") }
            let answer = ChunkAnswer(index: 0, found, now: now)
            try await self.answer(request) { answer.encode(&$0) }
            return .goOn
        }
    }
}

/// About 2 GB/s.
private let loadBytesPerMicrosecond = 2_000
/// About 1.5 GB/s.
private let readBytesPerMicrosecond = 1_500
