// SPDX-License-Identifier: Apache-2.0
import Codec
import KVCore
import Synchronization
import Testing

@testable import Tiers

/// Records and notes of a few keys in several segments, as they might lie on disks.
private struct Disks {
    static let wall: UInt64 = 1_800_000_000_000
    static let tags = ["default", "other"].map { SSDTag(namespace: $0) }

    /// Entries by segment.
    var segments: [[FooterEntry]]
    private var values: RandomFormat

    init(seed: UInt64) {
        values = RandomFormat(seed: seed)
        segments = Array(repeating: [], count: 6)
        var block: UInt32 = 1
        for sequence in 1...120 as ClosedRange<UInt64> {
            block += 2
            let kind = values.pick(0...9)
            let expiry = [0, 0, Self.wall + 60_000, Self.wall - 60_000][values.pick(0...3)]
            let pinEnd = [0, Self.wall + 5_000, Self.wall + 9_000][values.pick(0...2)]
            let entry = FooterEntry(
                kind: kind < 6 ? .chunk : kind < 8 ? .delete : .pin, level: 0, block: block,
                blockCount: kind < 6 ? 2 : 1, byteCount: kind < 6 ? 100 : 0, sequence: sequence,
                checksum: sequence * 1_000, expiry: kind < 6 ? expiry : kind < 8 ? 0 : pinEnd,
                key: key(values.pick(0...9)), namespace: Self.tags[values.pick(0...1)],
                layout: .opaque)
            segments[values.pick(0...5)].append(entry)
            // A record twice: reclaim was interrupted.
            if values.pick(0...9) == 0 { segments[values.pick(0...5)].append(entry) }
        }
    }

    mutating func shuffle() -> [Int] { segments.indices.shuffled(using: &values.random) }

    /// What section 7 of docs/ssd-format.md says of a key: the checksum of the chunk that counts.
    func expected(_ key: ChunkKey, _ tag: SSDTag) -> UInt64? {
        let entries = segments.joined().filter { $0.key == key && $0.namespace == tag }
        let deleted = entries.filter { $0.kind == .delete }.map(\.sequence).max() ?? 0
        let latest = entries.filter { $0.kind == .chunk }.max { $0.sequence < $1.sequence }
        guard let latest, latest.sequence > deleted,
            latest.expiry == 0 || latest.expiry > Self.wall
        else { return nil }
        return latest.checksum
    }

    /// The end of the pin that holds; nil when none does.
    func expectedPin(_ key: ChunkKey, _ tag: SSDTag) -> UInt64? {
        let entries = segments.joined().filter { $0.key == key && $0.namespace == tag }
        let deleted = entries.filter { $0.kind == .delete }.map(\.sequence).max() ?? 0
        let latest = entries.filter { $0.kind == .pin }.max { $0.sequence < $1.sequence }
        guard let latest, latest.sequence > deleted, latest.expiry > Self.wall else { return nil }
        return latest.expiry
    }
}

private func makeTier(segmentCount: Int, entryCountMax: Int = 100) -> SSDTier {
    let tier = SSDTier(
        SSDTier.Configuration(
            namespaces: Disks.tags, entryCountMax: entryCountMax,
            wallOffsetMilliseconds: Int64(Disks.wall)),
        seed: 3)
    for slot in 0..<segmentCount {
        _ = tier.addSegment(SSDSegment(directory: 0, fileSlot: UInt32(slot), state: .sealed))
    }
    return tier
}

@Suite struct `Recovery` {
    @Test(arguments: 71...90 as ClosedRange<UInt64>)
    func `finds the same in whatever order segments are read`(seed: UInt64) {
        var disks = Disks(seed: seed)
        for _ in 0..<4 {
            let tier = makeTier(segmentCount: 6)
            let recovery = SSDRecovery(tier: tier, wallMilliseconds: Disks.wall)
            for slot in disks.shuffle() { recovery.apply(disks.segments[slot], ofSegment: slot) }
            recovery.finish()
            var count = 0
            for number in 0...9 as ClosedRange<UInt64> {
                for (namespace, tag) in Disks.tags.enumerated() {
                    let name = ChunkName(NamespaceID(number: UInt16(namespace)), key(number))
                    let found = tier.locate(
                        name.namespace, name.key, now: start, asUse: .doesNotCount)
                    let expected = disks.expected(name.key, tag)
                    #expect(found?.description.checksum == expected, "seed \(seed) key \(number)")
                    if expected != nil { count += 1 }
                    let pin = tier.state.withLock { $0.pins[name]?.until }
                    #expect(
                        pin == disks.expectedPin(name.key, tag), "seed \(seed) key \(number)")
                }
            }
            let statistics = tier.statistics()
            #expect(statistics.chunkCount == count, "seed \(seed)")
            #expect(tier.segments().reduce(0) { $0 + $1.liveCount } == count, "seed \(seed)")
            let next = tier.state.withLock { $0.nextSequence }
            #expect(next == 121, "seed \(seed)")
        }
    }

    @Test func `notes deletions of what found no room, so that it stays deleted`() {
        let tier = makeTier(segmentCount: 1, entryCountMax: 2)
        let recovery = SSDRecovery(tier: tier, wallMilliseconds: Disks.wall)
        let entries = (1...3).map { number in
            FooterEntry(
                kind: .chunk, level: 0, block: UInt32(2 * number), blockCount: 2, byteCount: 100,
                sequence: UInt64(number), checksum: 0, expiry: 0, key: key(UInt64(number)),
                namespace: Disks.tags[0], layout: .opaque)
        }
        recovery.apply(entries, ofSegment: 0)
        recovery.finish()
        #expect(recovery.droppedCount == 1)
        let (found, outcome) = tier.remove(.default, key(3), now: start)
        #expect(!found && outcome == .noted(4))
    }

    @Test(arguments: [false, true])
    func `goes on above what it may not have found`(isSegmentUnreadable: Bool) {
        let tier = makeTier(segmentCount: 2)
        if isSegmentUnreadable { tier.setState(of: 1, to: .unknown) }
        tier.state.withLock { $0.isDirectoryMissing = !isSegmentUnreadable }
        let recovery = SSDRecovery(tier: tier, wallMilliseconds: Disks.wall)
        recovery.note(nextSequence: 900)
        recovery.note(serial: 70)
        recovery.finish()
        // A chunk that comes back may have a number that is higher than all that was found.
        let (_, outcome) = tier.remove(.default, key(1), now: start)
        #expect(outcome == .noted(Disks.wall << 18))
        #expect(tier.state.withLock { $0.nextSerial } == Disks.wall << 18)
        let checkpointless = makeTier(segmentCount: 1)
        let other = SSDRecovery(tier: checkpointless, wallMilliseconds: Disks.wall)
        other.reset()
        other.finish()
        #expect(checkpointless.state.withLock { $0.nextSequence } == Disks.wall << 18)
        // A clock that is far ahead does not use up all numbers, and one that is behind none.
        for (wall, expected) in [(.max, 1 << 61), (0, 900)] as [(UInt64, UInt64)] {
            let tier = makeTier(segmentCount: 1)
            let recovery = SSDRecovery(tier: tier, wallMilliseconds: wall)
            recovery.reset()
            recovery.note(nextSequence: 900)
            recovery.finish()
            #expect(tier.state.withLock { $0.nextSequence } == expected)
        }
    }

    @Test func `passes over records of levels that it does not know`() {
        let tier = makeTier(segmentCount: 1)
        let recovery = SSDRecovery(tier: tier, wallMilliseconds: Disks.wall)
        recovery.apply(
            [
                FooterEntry(
                    kind: .chunk, level: 200, block: 1, blockCount: 2, byteCount: 100,
                    sequence: 5, checksum: 0, expiry: 0, key: key(1), namespace: Disks.tags[0],
                    layout: .opaque)
            ], ofSegment: 0)
        recovery.finish()
        #expect(tier.statistics().chunkCount == 0)
        // It is on the disk all the same.
        let (found, outcome) = tier.remove(.default, key(1), now: start)
        #expect(!found && outcome == .noted(6))
    }
}
