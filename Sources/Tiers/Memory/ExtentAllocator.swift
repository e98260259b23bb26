// SPDX-License-Identifier: Apache-2.0
internal import KVCore

/// Hands out contiguous runs of granules of a fixed arena, and joins neighbours when they return.
///
/// Two-level segregated fit (Masmano et al., "TLSF: a new dynamic memory allocator for real-time
/// systems", ECRTS 2004): free extents hang in lists by size class, bitmaps find a class that fits,
/// so `allocate` and `free` take constant time. All bookkeeping lies outside the arena, in one node
/// per extent, because the arena's bytes belong to clients.
///
/// A confined value: the tier guards it with its lock. Memory grows with the number of extents up
/// to the capacity given at the start; nothing is allocated after that many have existed.
package struct ExtentAllocator: ~Copyable {
    /// An extent's place in the node table.
    package typealias NodeIndex = UInt32

    /// Who holds an extent: an entry's number, or `free`.
    private struct Node {
        var startGranule: UInt32
        var granuleCount: UInt32
        var previousNeighbour: NodeIndex
        var nextNeighbour: NodeIndex
        /// Links of the free list, or of the list of unused nodes.
        var previousFree: NodeIndex
        var nextFree: NodeIndex
        /// The owner's tag, or `freeTag`.
        var owner: UInt32
    }

    private static let none = NodeIndex.max
    private static let freeTag = UInt32.max
    private static let subclassBits = 3
    private static let subclassCount = 1 << subclassBits

    private var nodes: [Node] = []
    private var unusedNode = Self.none
    private var classHeads: [NodeIndex]
    private var classBitmap: UInt32 = 0
    private var subclassBitmaps: [UInt8]

    /// All granules of the arena.
    package let granuleCount: Int
    /// Granules that are not handed out; not necessarily in one run.
    package private(set) var freeGranuleCount: Int

    /// An arena of `granuleCount` granules (1 to 2^31), all free, for at most `extentCountMax`
    /// extents at once.
    package init(granuleCount: Int, extentCountMax: Int) {
        invariant(granuleCount > 0 && granuleCount <= 1 << 31, "arena size out of range")
        self.granuleCount = granuleCount
        freeGranuleCount = granuleCount
        classHeads = Array(repeating: Self.none, count: 32 * Self.subclassCount)
        subclassBitmaps = Array(repeating: 0, count: 32)
        // Between two used extents lies at most one free one.
        nodes.reserveCapacity(2 * extentCountMax + 1)
        let first = makeNode(startGranule: 0, granuleCount: UInt32(granuleCount))
        pushFree(first)
    }

    /// Takes `count` contiguous granules for `owner`; nil when no free run is long enough.
    package mutating func allocate(granuleCount count: Int, owner: UInt32) -> NodeIndex? {
        invariant(count > 0 && owner != Self.freeTag, "an extent has a size and an owner")
        guard count <= freeGranuleCount, let found = findFree(atLeast: UInt32(count)) else {
            return nil
        }
        removeFree(found)
        let surplus = nodes[Int(found)].granuleCount - UInt32(count)
        if surplus > 0 {
            let rest = makeNode(
                startGranule: nodes[Int(found)].startGranule + UInt32(count), granuleCount: surplus)
            nodes[Int(found)].granuleCount = UInt32(count)
            linkNeighbour(rest, after: found)
            pushFree(rest)
        }
        nodes[Int(found)].owner = owner
        freeGranuleCount -= count
        return found
    }

    /// Gives an extent back.
    /// - Returns: the free extent that it is now part of.
    @discardableResult
    package mutating func free(_ node: NodeIndex) -> NodeIndex {
        invariant(nodes[Int(node)].owner != Self.freeTag, "an extent is freed once")
        freeGranuleCount += Int(nodes[Int(node)].granuleCount)
        var merged = node
        let next = nodes[Int(node)].nextNeighbour
        if next != Self.none, nodes[Int(next)].owner == Self.freeTag {
            removeFree(next)
            nodes[Int(merged)].granuleCount += nodes[Int(next)].granuleCount
            unlinkNeighbour(next)
            recycle(next)
        }
        let previous = nodes[Int(node)].previousNeighbour
        if previous != Self.none, nodes[Int(previous)].owner == Self.freeTag {
            removeFree(previous)
            nodes[Int(previous)].granuleCount += nodes[Int(merged)].granuleCount
            unlinkNeighbour(merged)
            recycle(merged)
            merged = previous
        }
        nodes[Int(merged)].owner = Self.freeTag
        pushFree(merged)
        return merged
    }

    /// First granule and length of an extent.
    package func granules(of node: NodeIndex) -> Range<Int> {
        let start = Int(nodes[Int(node)].startGranule)
        return start..<start + Int(nodes[Int(node)].granuleCount)
    }

    /// The owners on both sides of an extent; nil where the arena ends.
    package func neighbourOwners(of node: NodeIndex) -> (previous: UInt32?, next: UInt32?) {
        func owner(_ neighbour: NodeIndex) -> UInt32? {
            neighbour == Self.none ? nil : nodes[Int(neighbour)].owner
        }
        return (owner(nodes[Int(node)].previousNeighbour), owner(nodes[Int(node)].nextNeighbour))
    }

    // MARK: Size classes

    /// Class of an extent of `count` granules: position of the highest bit, then the next bits.
    private static func sizeClass(_ count: UInt32) -> (first: Int, second: Int) {
        let first = 31 - count.leadingZeroBitCount
        let shifted =
            first >= subclassBits
            ? count >> UInt32(first - subclassBits) : count << UInt32(subclassBits - first)
        return (first, Int(shifted) & (subclassCount - 1))
    }

    private func findFree(atLeast count: UInt32) -> NodeIndex? {
        // Rounded up to a class border, so that every extent of the class found is long enough.
        let first = 31 - count.leadingZeroBitCount
        let step = first > Self.subclassBits ? UInt32(1) << UInt32(first - Self.subclassBits) : 1
        let (rounded, overflow) = count.addingReportingOverflow(step - 1)
        if !overflow, let node = firstFree(from: Self.sizeClass(rounded)) { return node }
        // The class below may still hold one that fits exactly: equal chunks are the common case.
        let exact = Self.sizeClass(count)
        var node = classHeads[exact.first * Self.subclassCount + exact.second]
        var steps = 0
        while node != Self.none, steps < 16 {
            if nodes[Int(node)].granuleCount >= count { return node }
            node = nodes[Int(node)].nextFree
            steps += 1
        }
        return nil
    }

    private func firstFree(from sizeClass: (first: Int, second: Int)) -> NodeIndex? {
        let subclasses = subclassBitmaps[sizeClass.first] & (0xff << UInt8(sizeClass.second))
        if subclasses != 0 {
            let second = subclasses.trailingZeroBitCount
            return classHeads[sizeClass.first * Self.subclassCount + second]
        }
        let above = sizeClass.first >= 31 ? 0 : classBitmap & (~0 << UInt32(sizeClass.first + 1))
        guard above != 0 else { return nil }
        let first = above.trailingZeroBitCount
        let second = subclassBitmaps[first].trailingZeroBitCount
        return classHeads[first * Self.subclassCount + second]
    }

    private mutating func pushFree(_ node: NodeIndex) {
        let (first, second) = Self.sizeClass(nodes[Int(node)].granuleCount)
        let slot = first * Self.subclassCount + second
        let head = classHeads[slot]
        nodes[Int(node)].previousFree = Self.none
        nodes[Int(node)].nextFree = head
        if head != Self.none { nodes[Int(head)].previousFree = node }
        classHeads[slot] = node
        subclassBitmaps[first] |= 1 << UInt8(second)
        classBitmap |= 1 << UInt32(first)
    }

    private mutating func removeFree(_ node: NodeIndex) {
        let (first, second) = Self.sizeClass(nodes[Int(node)].granuleCount)
        let previous = nodes[Int(node)].previousFree
        let next = nodes[Int(node)].nextFree
        if next != Self.none { nodes[Int(next)].previousFree = previous }
        guard previous == Self.none else {
            nodes[Int(previous)].nextFree = next
            return
        }
        classHeads[first * Self.subclassCount + second] = next
        guard next == Self.none else { return }
        subclassBitmaps[first] &= ~(1 << UInt8(second))
        if subclassBitmaps[first] == 0 { classBitmap &= ~(1 << UInt32(first)) }
    }

    // MARK: Nodes

    private mutating func makeNode(startGranule: UInt32, granuleCount: UInt32) -> NodeIndex {
        let node = Node(
            startGranule: startGranule, granuleCount: granuleCount, previousNeighbour: Self.none,
            nextNeighbour: Self.none, previousFree: Self.none, nextFree: Self.none,
            owner: Self.freeTag)
        guard unusedNode != Self.none else {
            nodes.append(node)
            return NodeIndex(nodes.count - 1)
        }
        let index = unusedNode
        unusedNode = nodes[Int(index)].nextFree
        nodes[Int(index)] = node
        return index
    }

    private mutating func recycle(_ node: NodeIndex) {
        nodes[Int(node)].nextFree = unusedNode
        unusedNode = node
    }

    private mutating func linkNeighbour(_ node: NodeIndex, after previous: NodeIndex) {
        let next = nodes[Int(previous)].nextNeighbour
        nodes[Int(node)].previousNeighbour = previous
        nodes[Int(node)].nextNeighbour = next
        nodes[Int(previous)].nextNeighbour = node
        if next != Self.none { nodes[Int(next)].previousNeighbour = node }
    }

    private mutating func unlinkNeighbour(_ node: NodeIndex) {
        let previous = nodes[Int(node)].previousNeighbour
        let next = nodes[Int(node)].nextNeighbour
        if previous != Self.none { nodes[Int(previous)].nextNeighbour = next }
        if next != Self.none { nodes[Int(next)].previousNeighbour = previous }
    }
}
