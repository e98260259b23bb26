// SPDX-License-Identifier: Apache-2.0
import KVCore
import Testing

@testable import Tiers

@Suite struct `An extent allocator` {
    @Test func `hands out the whole arena and joins it again`() {
        var extents = ExtentAllocator(granuleCount: 64, extentCountMax: 64)
        var nodes: [UInt32] = []
        for owner in 0..<64 {
            if let node = extents.allocate(granuleCount: 1, owner: UInt32(owner)) {
                nodes.append(node)
            }
        }
        #expect(nodes.count == 64)
        #expect(extents.freeGranuleCount == 0)
        let none = extents.allocate(granuleCount: 1, owner: 99)
        #expect(none == nil)
        for node in nodes.shuffled() { extents.free(node) }
        let whole = extents.allocate(granuleCount: 64, owner: 1)
        #expect(whole != nil)
    }

    @Test func `finds a run that fits exactly even in the class below`() {
        // 100 lies in the class 96...103; a free run of exactly 100 must serve it.
        var extents = ExtentAllocator(granuleCount: 100, extentCountMax: 8)
        let node = extents.allocate(granuleCount: 100, owner: 1)
        #expect(node != nil)
    }

    @Test(arguments: [1, 2, 3, 4, 5])
    func `never hands out a granule twice`(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let granuleCount = 1_000
        var extents = ExtentAllocator(granuleCount: granuleCount, extentCountMax: granuleCount)
        var owners = [UInt32?](repeating: nil, count: granuleCount)
        var held: [(node: UInt32, granules: Range<Int>)] = []
        for step in 0..<5_000 {
            if Bool.random(using: &random) || held.isEmpty {
                let count = Int.random(in: 1...60, using: &random)
                guard let node = extents.allocate(granuleCount: count, owner: UInt32(step))
                else { continue }
                let granules = extents.granules(of: node)
                #expect(granules.count == count, "seed \(seed) step \(step)")
                #expect(granules.allSatisfy { owners[$0] == nil }, "seed \(seed) step \(step)")
                for granule in granules { owners[granule] = UInt32(step) }
                held.append((node, granules))
            } else {
                let index = Int.random(in: 0..<held.count, using: &random)
                let extent = held.remove(at: index)
                for granule in extent.granules { owners[granule] = nil }
                extents.free(extent.node)
            }
            let free = extents.freeGranuleCount
            #expect(free == owners.count(where: { $0 == nil }), "seed \(seed) step \(step)")
        }
        for extent in held { extents.free(extent.node) }
        let whole = extents.allocate(granuleCount: granuleCount, owner: 0)
        #expect(whole != nil, "seed \(seed): all free again, in one run")
    }
}

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a seed gives the same test every time.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) {
        state = seed
    }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }
}
