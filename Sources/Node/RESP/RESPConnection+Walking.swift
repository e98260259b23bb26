// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Kernels
internal import Telemetry
internal import Tiers
internal import Wire

/// Commands that look at all keys.
extension RESPConnection {
    // MARK: SCAN

    private struct Scan {
        var cursor = 0
        var pattern: PinnedBytes?
        var count = 10
        /// Whether keys of that type can exist.
        var isOfStrings = true
    }

    /// Cursors from here on are rows of the SSD tier's index.
    private static var ssdCursorBase: Int { 1 << 40 }

    nonisolated(nonsending) func serveScan() async throws(ConnectionEnd) {
        guard let scan = scanOptions() else { return }
        guard let scratch = shard.scratch.take() else {
            return replies.error("BUSY too many large requests: try again")
        }
        defer { shard.scratch.giveBack(scratch) }
        var names = RESPWriter(scratch.bytes)
        var nameCount = 0
        var cursor = scan.cursor
        let room = Limits.respKeyByteCountMax + replyRoom
        var (examinedCount, placeCount) = (0, 0)
        // Few keys at a time, so that what they are called fits the scratch memory.
        repeat {
            let walked = walk(from: cursor, count: placeCountMax, keyCountMax: keyCountAtOnce)
            for key in walked.keys {
                invariant(names.room >= room, "a round of names fits")
                if await append(key, scan, to: &names) { nameCount += 1 }
            }
            examinedCount += walked.keys.count
            placeCount += walked.next > cursor ? walked.next - cursor : 0
            cursor = walked.next
        } while cursor != 0 && examinedCount < scan.count && placeCount < placeCountMax
            && names.room >= 3 * keyCountAtOnce * room
        try await makeRoom(replyRoom)
        replies.array(2)
        replies.bulk("\(cursor)")
        replies.array(nameCount)
        try await flush()
        try await send(names.bytes, deadline: sendDeadline)
    }

    /// Reads SCAN's arguments; nil, and an error for a reply, when they are none.
    private func scanOptions() -> Scan? {
        var scan = Scan()
        guard let cursor = argument(1).decimal, cursor >= 0 else {
            replies.error("ERR invalid cursor")
            return nil
        }
        scan.cursor = cursor
        guard parser.arguments.count.isMultiple(of: 2) else {
            replies.error("ERR syntax error")
            return nil
        }
        for index in stride(from: 2, to: parser.arguments.count, by: 2) {
            let (word, value) = (argument(index), argument(index + 1))
            if word.isWord("match"), value.count <= Limits.respKeyByteCountMax {
                scan.pattern = value
            } else if word.isWord("type") {
                scan.isOfStrings = value.isWord("string")
            } else if word.isWord("count"), let count = value.decimal, count > 0 {
                scan.count = min(count, Limits.respScanCountMax)
            } else {
                replies.error("ERR syntax error")
                return nil
            }
        }
        return scan
    }

    /// The next keys from a cursor on, and where to go on; 0 at the end.
    private func walk(
        from cursor: Int, count: Int, keyCountMax: Int
    ) -> (keys: [ChunkKey], next: Int) {
        let base = Self.ssdCursorBase
        guard cursor >= base else {
            let walked = node.tier.walk(
                namespace, from: cursor, count: count, chunkCountMax: keyCountMax, now: arrival)
            let next = walked.next ?? (ssd == nil ? 0 : base)
            return (walked.chunks.map(\.key), next)
        }
        guard let ssd else { return ([], 0) }
        let walked = ssd.tier.walk(
            namespace, from: cursor - base, count: count, keyCountMax: keyCountMax, now: arrival)
        return (walked.keys, walked.next.map { $0 + base } ?? 0)
    }

    /// Appends what a chunk is called, if it is wanted.
    private nonisolated(nonsending) func append(
        _ key: ChunkKey, _ scan: Scan, to names: inout RESPWriter
    ) async -> Bool {
        guard scan.isOfStrings else { return false }
        func append(_ end: PinnedBytes, to names: inout RESPWriter) -> Bool {
            guard let name = NamedValue.name(inEndOf: end),
                name.count <= Limits.respKeyByteCountMax,
                scan.pattern.map({ RESPPattern.matches($0, name) }) ?? true
            else { return false }
            names.bulk(name)
            return true
        }
        if let held = node.tier.hold(namespace, key, now: arrival, asUse: .doesNotCount) {
            return append(held.bytes, to: &names)
        }
        guard let ssd,
            let located = ssd.tier.locate(namespace, key, now: arrival, asUse: .doesNotCount)
        else { return false }
        let byteCount = located.description.byteCount
        let end = max(0, byteCount - NamedValue.tailByteCountMax)..<byteCount
        switch await ssd.reader.readPart(
            ChunkName(namespace, key), located, end, deadline: tierDeadline)
        {
        case .refused: return false
        case .read(let part): return append(part.bytes, to: &names)
        }
    }

    // MARK: DBSIZE and FLUSHDB

    nonisolated(nonsending) func serveCount() async throws(ConnectionEnd) {
        replies.integer(await countKeys())
    }

    /// Values in memory alone, and those on SSD.
    nonisolated(nonsending) func countKeys() async -> Int {
        var count = ssd?.tier.usage(of: namespace).chunkCount ?? 0
        var next: Int? = 0
        while let first = next {
            let walked = node.tier.walk(
                namespace, from: first, count: countedAtOnce, chunkCountMax: .max, now: arrival)
            count += walked.chunks.count { !$0.isStored }
            next = walked.next
            await reactor.yield()
        }
        return count
    }

    nonisolated(nonsending) func serveFlush() async throws(ConnectionEnd) {
        guard settings.mayFlush else {
            return replies.error("NOPERM FLUSHDB needs resp.flush: true")
        }
        var cursor = 0
        repeat {
            let walked = walk(
                from: cursor, count: placeCountMax, keyCountMax: Limits.respScanCountMax)
            var notes: [UInt64] = []
            for key in walked.keys {
                let outcome = removeEverywhere(key, now: reactor.now())
                if outcome.status == .ok { node.metrics.add(.chunksDeleted) }
                if case .noted(let sequence) = outcome.note { notes.append(sequence) }
            }
            // Only so many notes may wait.
            if let ssd, !notes.isEmpty {
                _ = await ssd.store.awaitNotes(notes, deadline: tierDeadline)
            }
            cursor = walked.next
            await reactor.yield()
        } while cursor != 0
        replies.simple("OK")
    }
}

/// Keys that SCAN takes from a tier before it sees whether more names fit. A few more may come, as
/// keys that share a place come together.
private let keyCountAtOnce = 8
/// Places of a table that one SCAN looks at, if it finds too few keys.
private let placeCountMax = 65_536
/// Places of the table that are counted in one go under its lock.
private let countedAtOnce = 4_096
