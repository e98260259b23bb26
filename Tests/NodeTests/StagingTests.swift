// SPDX-License-Identifier: Apache-2.0
import KVCore
import LinuxIO
import Synchronization
import Telemetry
import Testing
import Tiers
import Wire

@testable import Node

/// A node without connections, whose staging regions lie on the heap and are counted.
struct BareNode {
    let node: Node
    private let arena: OwnedBytes
    private let regions: Regions

    init(
        budget: ByteCount = .kibibytes(64), _ change: (inout NodeConfiguration) -> Void = { _ in }
    ) throws {
        let capacity = try #require(RAMTier.Capacity(budget: budget))
        arena = OwnedBytes(count: capacity.arenaByteCount, alignment: 4_096)
        let regions = Regions()
        self.regions = regions
        let memory = SharedMemory(
            arenaDescriptor: -1, arenaByteCount: arena.bytes.count
        ) { byteCount throws(IOFault) in
            guard !regions.areShort.load(ordering: .relaxed) else { throw .system(12) }
            let number = regions.madeCount.add(1, ordering: .relaxed).newValue
            let owner = OwnedBytes(count: byteCount, alignment: 4_096)
            return StagingMemory(bytes: owner.bytes, descriptor: Int32(number), owner: owner)
        }
        var configuration = NodeConfiguration()
        configuration.stagingByteCountMax = 8 << 20
        change(&configuration)
        node = Node(
            configuration: configuration,
            tier: RAMTier(arena: arena.bytes, capacity: capacity, seed: 1), sharedMemory: memory,
            metrics: Metrics(), nodeID: 1, now: Instant(nanoseconds: 0))
    }

    /// Whether the machine has no memory for regions.
    func setShort(_ areShort: Bool) { regions.areShort.store(areShort, ordering: .relaxed) }

    private final class Regions: Sendable {
        let madeCount = Atomic<Int>(0)
        let areShort = Atomic<Bool>(false)
    }
}

private func put(_ byteCount: Int) -> PutRequest {
    PutRequest(key: key(UInt64(byteCount)), chunkByteCount: byteCount)
}

private let mebibyte = 1 << 20
private let begin = Instant(nanoseconds: 0)
private let soon = Instant(nanoseconds: 1_000)

@Suite struct `A staging area` {
    @Test func `gives room in one region, and tells its descriptor once`() throws {
        let world = try BareNode()
        var area = StagingArea()
        let first = try required(area.reserve(put(5_000), until: soon, world.node))
        let second = try required(area.reserve(put(5_000), until: soon, world.node))
        #expect(first.newDescriptor == 1)
        #expect(second.newDescriptor == nil)
        #expect(first.id != second.id)
        #expect(abs(first.offset - second.offset) >= 5_000)
        #expect(world.node.openStagingByteCount == mebibyte)
        let taken = try required(area.take(first.id, now: begin))
        #expect(taken.put == put(5_000))
        #expect(taken.bytes.count == 5_000)
        let again = area.take(first.id, now: begin)
        #expect(again == nil)
        area.giveBack(taken)
        area.drop(world.node)
        let gone = area.take(second.id, now: begin)
        #expect(gone == nil)
        #expect(world.node.openStagingByteCount == 0)
    }

    @Test func `uses its region again when room was given back`() throws {
        let world = try BareNode()
        var area = StagingArea()
        for _ in 0..<100 {
            let place = try required(area.reserve(put(mebibyte - 1), until: soon, world.node))
            let full = area.reserve(put(mebibyte + 1), until: soon, world.node)
            #expect(full == nil)
            area.giveBack(try required(area.take(place.id, now: begin)))
        }
        #expect(world.node.openStagingByteCount == 2 * mebibyte)
        area.drop(world.node)
        #expect(world.node.openStagingByteCount == 0)
    }

    @Test func `gets a larger region once nobody uses the old one`() throws {
        let world = try BareNode()
        var area = StagingArea()
        let small = try required(area.reserve(put(100), until: soon, world.node))
        let refused = area.reserve(put(2 * mebibyte), until: soon, world.node)
        #expect(refused == nil)
        area.giveBack(try required(area.take(small.id, now: begin)))
        let large = try required(area.reserve(put(2 * mebibyte), until: soon, world.node))
        #expect(large.newDescriptor == 2)
        let byteCount = area.byteCount
        #expect(byteCount == 4 * mebibyte)
        #expect(world.node.openStagingByteCount == 4 * mebibyte)
        area.drop(world.node)
        #expect(world.node.openStagingByteCount == 0)
    }

    @Test func `drops what was reserved for too long, and its room with it`() throws {
        let world = try BareNode { $0.stagingByteCountMax = mebibyte }
        var area = StagingArea()
        let early = try required(area.reserve(put(mebibyte / 2), until: soon, world.node))
        let late = try required(
            area.reserve(put(mebibyte / 2), until: .distantFuture, world.node))
        let full = area.reserve(put(100), until: soon, world.node)
        #expect(full == nil)
        area.endExpired(by: Instant(nanoseconds: 999))
        let before = area.count
        #expect(before == 2)
        area.endExpired(by: soon)
        let ended = area.take(early.id, now: begin)
        #expect(ended == nil)
        let fresh = area.reserve(put(mebibyte / 2), until: soon, world.node)
        #expect(fresh?.offset == early.offset)
        let kept = try required(area.take(late.id, now: begin))
        area.giveBack(kept)
        area.drop(world.node)
        #expect(world.node.openStagingByteCount == 0)
    }

    @Test func `takes nothing out whose time is over, swept or not`() throws {
        let world = try BareNode { $0.stagingByteCountMax = mebibyte }
        var area = StagingArea()
        let place = try required(area.reserve(put(mebibyte), until: soon, world.node))
        let late = area.take(place.id, now: soon)
        #expect(late == nil)
        // Its room is free all the same.
        let next = area.reserve(put(mebibyte), until: .distantFuture, world.node)
        #expect(next != nil)
        area.drop(world.node)
        #expect(world.node.openStagingByteCount == 0)
    }

    @Test func `keeps the node's budget, all areas together`() throws {
        let world = try BareNode { $0.stagingByteCountMax = 3 * mebibyte }
        var first = StagingArea()
        var second = StagingArea()
        _ = try required(first.reserve(put(mebibyte), until: soon, world.node))
        // Two megabytes are the first's: the second gets room for one chunk instead of two.
        _ = try required(second.reserve(put(mebibyte), until: soon, world.node))
        #expect(world.node.openStagingByteCount == 3 * mebibyte)
        var third = StagingArea()
        let refused = third.reserve(put(1), until: soon, world.node)
        #expect(refused == nil)
        #expect(world.node.openStagingByteCount == 3 * mebibyte)
        first.drop(world.node)
        let admitted = third.reserve(put(1), until: soon, world.node)
        #expect(admitted?.newDescriptor != nil)
        second.drop(world.node)
        third.drop(world.node)
        #expect(world.node.openStagingByteCount == 0)
    }

    @Test(arguments: [4_096, 10_000, 300_000, mebibyte + 1])
    func `takes the largest chunk that HELLO promises`(budget: Int) throws {
        let world = try BareNode(budget: .mebibytes(4)) { $0.stagingByteCountMax = budget }
        let promised = world.node.stagedChunkByteCountMax
        #expect(promised > budget - 4_096 && promised <= budget)
        var area = StagingArea()
        let place = area.reserve(put(promised), until: soon, world.node)
        #expect(place != nil)
        area.drop(world.node)
        #expect(world.node.openStagingByteCount == 0)
    }

    @Test func `counts nothing for a region that the machine has no memory for`() throws {
        let world = try BareNode()
        var area = StagingArea()
        world.setShort(true)
        let refused = area.reserve(put(100), until: soon, world.node)
        #expect(refused == nil)
        #expect(world.node.openStagingByteCount == 0)
        world.setShort(false)
        let admitted = area.reserve(put(100), until: soon, world.node)
        #expect(admitted?.newDescriptor != nil)
        area.drop(world.node)
        #expect(world.node.openStagingByteCount == 0)
    }

    @Test func `never lets two reservations overlap, and loses no room`() throws {
        let seed = UInt64.random(in: 0 ... .max)
        var random = Lehmer(seed: seed)
        let world = try BareNode { $0.stagingByteCountMax = 2 * mebibyte }
        var area = StagingArea()
        var ranges: [UInt64: Range<Int>] = [:]
        for step in 0..<2_000 {
            let byteCount = 1 + Int(random.next() % 200_000)
            if random.next() % 2 == 0,
                let place = area.reserve(put(byteCount), until: soon, world.node)
            {
                let range = place.offset..<place.offset + byteCount
                #expect(!ranges.values.contains { $0.overlaps(range) }, "seed \(seed), \(step)")
                let regionByteCount = area.byteCount
                #expect(range.upperBound <= regionByteCount, "seed \(seed), \(step)")
                ranges[place.id] = range
            } else if let id = ranges.keys.min(by: { $0 &* seed < $1 &* seed }) {
                area.giveBack(try required(area.take(id, now: begin)))
                ranges[id] = nil
            }
        }
        area.endExpired(by: .distantFuture)
        let whole = area.reserve(put(mebibyte), until: soon, world.node)
        #expect(whole != nil, "seed \(seed)")
        area.drop(world.node)
        #expect(world.node.openStagingByteCount == 0)
    }
}
