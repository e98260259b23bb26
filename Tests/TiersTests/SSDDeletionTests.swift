// SPDX-License-Identifier: Apache-2.0
import Codec
import KVCore
import Testing

@testable import Tiers

/// A tier with two sealed segments that never looks at a disk.
private final class DeletingTier {
    let tier: SSDTier
    let name = ChunkName(.default, key(1))

    init() {
        tier = SSDTier(
            SSDTier.Configuration(
                namespaces: [SSDTag(namespace: "default")], entryCountMax: 10,
                wallOffsetMilliseconds: 0),
            seed: 3)
        for slot in 0..<2 as Range<UInt32> {
            var segment = SSDSegment(directory: 0, fileSlot: slot, state: .sealed)
            segment.firstSequence = 1
            _ = tier.addSegment(segment)
        }
    }

    /// Stores the chunk in a segment.
    func store(in segment: UInt16, block: UInt16) throws {
        let chunk = SSDChunk(
            namespace: name.namespace, key: name.key, layout: .opaque, level: .raw, byteCount: 100,
            checksum: 7, expiry: 0)
        let place = SSDPlace(segment: segment, block: block)
        guard case .placed = tier.place(chunk, at: place, now: start, ifStill: { true }) else {
            throw NotPlaced()
        }
        tier.settle(chunk, at: place, blockCount: 2)
    }

    struct NotPlaced: Error {}

    func remove() -> SSDTier.NoteOutcome { tier.remove(name.namespace, name.key, now: start).1 }

    /// All notes that wait are durable.
    func settleNotes() {
        let notes = tier.takeNotes()
        tier.settle(notes: notes)
    }

    func note(_ sequence: UInt64) -> FooterEntry {
        FooterEntry(
            kind: .delete, level: 0, block: 3, blockCount: 1, byteCount: 0, sequence: sequence,
            checksum: 0, expiry: 0, key: name.key, namespace: SSDTag(namespace: "default"),
            layout: .opaque)
    }
}

@Suite struct `A chunk of a segment that is to be erased` {
    private func entry(of test: DeletingTier) -> FooterEntry {
        FooterEntry(
            kind: .chunk, level: 0, block: 1, blockCount: 2, byteCount: 100, sequence: 1,
            checksum: 7, expiry: 0, key: test.name.key, namespace: SSDTag(namespace: "default"),
            layout: .opaque)
    }

    @Test(arguments: [true, false])
    func `cannot be found or pinned once it is given up, nor given up once it is pinned`(
        isPinned: Bool
    ) throws {
        let test = DeletingTier()
        try test.store(in: 0, block: 1)
        let end = start.adding(milliseconds: 9_000)
        if isPinned { #expect(test.tier.pin(test.name, until: end, now: start) == .noted(2)) }
        let isGivenUp = test.tier.evict([entry(of: test)], of: 0, [1], wallMilliseconds: 5)
        let found = test.tier.locate(.default, key(1), now: start, asUse: .doesNotCount)
        #expect(isGivenUp != isPinned && (found != nil) == isPinned)
        #expect(test.tier.statistics().evictionCount == (isPinned ? 0 : 1))
        // Until the segment is erased, a deletion must be noted.
        #expect(test.remove() == .noted(isPinned ? 3 : 2))
    }

    @Test func `is not given up when it was to move`() throws {
        let test = DeletingTier()
        try test.store(in: 0, block: 1)
        #expect(!test.tier.evict([entry(of: test)], of: 0, [], wallMilliseconds: 5))
        #expect(test.tier.locate(.default, key(1), now: start, asUse: .doesNotCount) != nil)
    }
}

@Suite struct `A deletion` {
    @Test func `is not settled by an older one that is written once more`() throws {
        let test = DeletingTier()
        try test.store(in: 0, block: 1)
        #expect(test.remove() == .noted(2))
        test.settleNotes()
        try test.store(in: 0, block: 5)
        #expect(test.remove() == .noted(4))
        // Reclaim moves the first note.
        #expect(test.tier.renew(test.note(2), of: 1) == 2)
        let taken = test.tier.takeNotes() + test.tier.takeNotes()
        #expect(taken.map(\.sequence) == [4, 2])
        test.tier.settle(notes: taken.filter { $0.sequence == 2 })
        #expect(test.remove() == .noted(4))
        #expect(test.tier.unsettledDeletions() == [4])
        test.tier.settle(notes: taken)
        #expect(test.remove() == .nothing)
        #expect(test.tier.unsettledDeletions() == [])
    }

    @Test func `waits once, however often its segment is emptied in vain`() throws {
        let test = DeletingTier()
        try test.store(in: 0, block: 1)
        #expect(test.remove() == .noted(2))
        test.settleNotes()
        for _ in 0..<3 { #expect(test.tier.renew(test.note(2), of: 1) == 2) }
        #expect(test.tier.takeNotes().map(\.sequence) == [2])
        #expect(test.tier.renew(test.note(2), of: 1) == 2)
        #expect(!test.tier.hasNotes, "it is being written")
    }

    @Test func `is noted of a chunk whose former record may outlive the latter`() throws {
        let test = DeletingTier()
        try test.store(in: 0, block: 1)
        test.tier.setState(of: 0, to: .erasing)
        try test.store(in: 1, block: 1)
        // The segment could not be erased, and the other one is.
        test.tier.setState(of: 0, to: .sealed)
        #expect(test.tier.dropEntry(test.name, at: SSDPlace(segment: 1, block: 1)))
        #expect(test.remove() == .noted(3))
        test.settleNotes()
        test.tier.setState(of: 0, to: .free)
        #expect(test.remove() == .nothing)
    }
}
