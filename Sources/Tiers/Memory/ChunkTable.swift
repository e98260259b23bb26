// SPDX-License-Identifier: Apache-2.0
internal import Codec
internal import KVCore

/// What the RAM tier knows of one chunk. A value.
struct ChunkEntry {
    enum State {
        /// Not in use; the slot is in the list of free ones.
        case unused
        /// Space is taken and being filled; invisible.
        case filling
        /// In the index.
        case live
        /// No longer in the index, but still read by somebody.
        case doomed
    }

    /// Whether the chunk is on SSD too.
    enum Storage: UInt8 {
        /// Not there, and not wanted there.
        case memoryOnly
        /// In the queue of those that are to be written.
        case waiting
        /// There, or being written.
        case stored
    }

    var state: State
    var storage = Storage.memoryOnly
    /// Live and held, but not in the policy's order: it came from SSD for one reader, and joins the
    /// order as its coldest when that one lets go, unless it is used before.
    var isAside = false
    /// Read or looked up since it came.
    var wasUsed = false
    /// Raised whenever the slot is given to another chunk, so that a stale handle is noticed.
    var generation: UInt32
    /// Readers and leases that need the bytes to stay.
    var holdCount: UInt32
    var extent: ExtentAllocator.NodeIndex
    var namespace: NamespaceID
    var level: Level
    var key: ChunkKey
    var layout: LayoutID
    var byteCount: Int
    var checksum: UInt64
    /// When it ends; `distantFuture` for never.
    var expiry: Instant
    /// Not to be evicted before; 0: not pinned.
    var pinnedUntil = Instant(nanoseconds: 0)
    /// Place of the first token in its sequence, plus 1; 0: not known.
    var positionPlusOne: UInt32 = 0
    var nextUnused: UInt32

    static var unused: ChunkEntry {
        ChunkEntry(
            state: .unused, generation: 0, holdCount: 0, extent: .max, namespace: .default,
            level: .raw, key: ChunkKey(words: (0, 0, 0, 0)), layout: .opaque, byteCount: 0,
            checksum: 0, expiry: .distantFuture, nextUnused: .max)
    }
}

/// The chunks of a tier by slot number and by (namespace, key): a slot array and an
/// open-addressing index with linear probing and backward-shift deletion (Knuth, TAOCP vol. 3,
/// 6.4, algorithm R).
///
/// Keys are hashes already, but a client chooses them; a per-process seed keeps it from choosing
/// colliding ones. A confined value; allocates only in `init`.
struct ChunkTable: ~Copyable {
    static let none = UInt32.max

    private(set) var entries: [ChunkEntry] = []
    private let entryCountMax: Int
    private var unusedHead = none
    /// Slot numbers, `none` where empty; a power of two, at least twice `entryCountMax`.
    private var buckets: [UInt32]
    private let bucketMask: Int
    private let seed: UInt64
    private(set) var liveCount = 0

    init(entryCountMax: Int, seed: UInt64) {
        self.entryCountMax = entryCountMax
        self.seed = seed
        var bucketCount = 16
        while bucketCount < 2 * entryCountMax { bucketCount *= 2 }
        buckets = Array(repeating: Self.none, count: bucketCount)
        bucketMask = bucketCount - 1
        entries.reserveCapacity(entryCountMax)
    }

    subscript(slot: UInt32) -> ChunkEntry {
        get { entries[Int(slot)] }
        _modify { yield &entries[Int(slot)] }
    }

    /// A slot for a new chunk; nil when all are taken.
    mutating func takeSlot() -> UInt32? {
        if unusedHead != Self.none {
            let slot = unusedHead
            unusedHead = entries[Int(slot)].nextUnused
            return slot
        }
        guard entries.count < entryCountMax else { return nil }
        entries.append(.unused)
        return UInt32(entries.count - 1)
    }

    /// Returns a slot that is in no index.
    mutating func returnSlot(_ slot: UInt32) {
        let generation = entries[Int(slot)].generation &+ 1
        entries[Int(slot)] = .unused
        entries[Int(slot)].generation = generation
        entries[Int(slot)].nextUnused = unusedHead
        unusedHead = slot
    }

    /// The slot of a visible chunk. About 50 ns.
    func find(_ namespace: NamespaceID, _ key: ChunkKey) -> UInt32? {
        var bucket = home(namespace, key)
        while buckets[bucket] != Self.none {
            let slot = buckets[bucket]
            if entries[Int(slot)].key == key, entries[Int(slot)].namespace == namespace {
                return slot
            }
            bucket = (bucket + 1) & bucketMask
        }
        return nil
    }

    /// Looks at the visible chunks whose home, the bucket that their key chooses, is one of the
    /// `count` from `first` on, until `body` says after the last of a home that it has enough.
    /// - Returns: the home to go on with; nil at the end.
    func walk(
        homesFrom first: Int, count: Int, _ body: (ChunkEntry) -> Void,
        until hasEnough: () -> Bool
    ) -> Int? {
        let end = min(first + count, buckets.count)
        var origin = first
        while origin < end {
            // A chunk lies in its home, or in the next bucket that was not taken.
            var bucket = origin
            while buckets[bucket & bucketMask] != Self.none {
                let entry = entries[Int(buckets[bucket & bucketMask])]
                if home(entry.namespace, entry.key) == origin { body(entry) }
                bucket += 1
            }
            origin += 1
            if hasEnough() { break }
        }
        return origin < buckets.count ? origin : nil
    }

    /// Makes the chunk of `slot` findable; its key must be absent.
    mutating func insert(_ slot: UInt32) {
        var bucket = home(entries[Int(slot)].namespace, entries[Int(slot)].key)
        while buckets[bucket] != Self.none { bucket = (bucket + 1) & bucketMask }
        buckets[bucket] = slot
        liveCount += 1
    }

    /// Makes the chunk of `slot` unfindable.
    mutating func remove(_ slot: UInt32) {
        var hole = home(entries[Int(slot)].namespace, entries[Int(slot)].key)
        while buckets[hole] != slot {
            invariant(buckets[hole] != Self.none, "a live chunk is in the index")
            hole = (hole + 1) & bucketMask
        }
        liveCount -= 1
        var bucket = hole
        while true {
            bucket = (bucket + 1) & bucketMask
            let other = buckets[bucket]
            guard other != Self.none else { break }
            let otherHome = home(entries[Int(other)].namespace, entries[Int(other)].key)
            // `other` may move into the hole unless its home lies cyclically in (hole, bucket].
            if (bucket - otherHome) & bucketMask >= (bucket - hole) & bucketMask {
                buckets[hole] = other
                hole = bucket
            }
        }
        buckets[hole] = Self.none
    }

    private func home(_ namespace: NamespaceID, _ key: ChunkKey) -> Int {
        let left = (key.words.0 ^ seed ^ UInt64(namespace.number) << 48)
            .multipliedFullWidth(by: key.words.1 ^ 0x9e37_79b9_7f4a_7c15)
        let right = (left.high ^ left.low).multipliedFullWidth(by: seed | 1)
        return Int(truncatingIfNeeded: right.high ^ right.low) & bucketMask
    }
}
