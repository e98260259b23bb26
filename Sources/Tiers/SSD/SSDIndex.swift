// SPDX-License-Identifier: Apache-2.0
internal import KVCore

/// What the index knows of one chunk on SSD: 56 bytes. A value.
struct SSDEntry: BitwiseCopyable, Sendable {
    enum State: UInt8 {
        case unused = 0
        /// Placed; its record is being written.
        case placed = 1
        case readable = 2
        /// Its record is on the disk, but must not be read: a checksum that does not fit, or the
        /// segment is to be erased. Absent to readers; a deletion must still be noted.
        case bad = 3
        /// The same for a record whose write failed: it may be on the disk, whole or not. No footer
        /// lists it.
        case failed = 4

        /// Whether the record is none for readers.
        var isAbsent: Bool { self == .bad || self == .failed }
    }

    var key: ChunkKey
    var checksum: UInt64
    /// Milliseconds since `epoch`, in 40 bits (34 years); 0: never.
    private var expiryLow: UInt32
    var byteCount: UInt32
    /// The segment's slot in the segment table.
    var segment: UInt16
    /// Of the record's header, within the segment.
    var block: UInt16
    var binding: UInt16
    private var expiryHigh: UInt8
    /// The state in the lower half, `useCount` in the upper.
    private var stateAndUses: UInt8

    /// 2020-01-01, in milliseconds since 1970.
    private static let epoch: UInt64 = 1_577_836_800_000
    private static let expiryMax: UInt64 = (1 << 40) - 1

    /// `expiry` is wall time in milliseconds since 1970; 0: never.
    init(
        key: ChunkKey, checksum: UInt64, expiry: UInt64, byteCount: Int, place: SSDPlace,
        binding: UInt16, state: State
    ) {
        let compact =
            expiry == 0 ? 0 : min(max(expiry, Self.epoch + 1) - Self.epoch, Self.expiryMax)
        self.key = key
        self.checksum = checksum
        expiryLow = UInt32(truncatingIfNeeded: compact)
        expiryHigh = UInt8(truncatingIfNeeded: compact >> 32)
        self.byteCount = UInt32(byteCount)
        segment = place.segment
        block = place.block
        self.binding = binding
        stateAndUses = state.rawValue
    }

    var state: State {
        get { State(rawValue: stateAndUses & 15) ?? .unused }
        set { stateAndUses = stateAndUses & 0xf0 | newValue.rawValue }
    }

    /// Reads since it was written or last spared by reclaim; stops at 3.
    var useCount: Int {
        get { Int(stateAndUses >> 4) }
        set { stateAndUses = stateAndUses & 15 | UInt8(min(newValue, 3)) << 4 }
    }

    var place: SSDPlace {
        get { SSDPlace(segment: segment, block: block) }
        set {
            segment = newValue.segment
            block = newValue.block
        }
    }

    /// Wall time in milliseconds since 1970; 0: never.
    var expiryMilliseconds: UInt64 {
        let compact = UInt64(expiryHigh) << 32 | UInt64(expiryLow)
        return compact == 0 ? 0 : compact + Self.epoch
    }
}

/// Where a record begins. A value.
package struct SSDPlace: Hashable, Sendable {
    /// The segment's slot in the segment table of this run.
    package var segment: UInt16
    package var block: UInt16

    package init(segment: UInt16, block: UInt16) {
        self.segment = segment
        self.block = block
    }
}

/// The chunks on SSD by (namespace, key): rows, and an open-addressing table over them with linear
/// probing and backward-shift deletion (Knuth, TAOCP vol. 3, 6.4, algorithm R), at a load of at
/// most 0.8: 61 bytes a chunk. Memory comes as chunks come.
///
/// A confined value. The namespace of a row is known by its binding, which callers resolve.
struct SSDIndex: ~Copyable {
    static let byteCountPerEntry = MemoryLayout<SSDEntry>.stride + 5

    let entryCountMax: Int
    private(set) var count = 0
    private var rows: LazyRows<SSDEntry>
    /// Row numbers plus one; 0 where empty.
    private var buckets: LazyRows<UInt32>
    private let seed: UInt64
    /// Rows ever used.
    private(set) var rowCount = 0
    /// The first row of the list of unused ones, plus one; linked through `checksum`.
    private var firstUnused: UInt64 = 0

    init(entryCountMax: Int, seed: UInt64) {
        self.entryCountMax = entryCountMax
        self.seed = seed
        rows = LazyRows(count: entryCountMax)
        buckets = LazyRows(count: entryCountMax + entryCountMax / 4 + 16)
    }

    var isFull: Bool { count == entryCountMax }

    subscript(row: UInt32) -> SSDEntry {
        get { rows[Int(row)] }
        set { rows[Int(row)] = newValue }
    }

    /// The row of a chunk; nil when it has none.
    func find(
        _ namespace: NamespaceID, _ key: ChunkKey, _ bindings: borrowing SSDBindings
    ) -> UInt32? {
        var bucket = home(namespace, key)
        while buckets[bucket] != 0 {
            let row = buckets[bucket] - 1
            if rows[Int(row)].key == key,
                bindings.namespace(of: rows[Int(row)].binding) == namespace
            {
                return row
            }
            bucket = next(bucket)
        }
        return nil
    }

    /// Adds a chunk that has no row; the index is not full.
    mutating func insert(_ entry: SSDEntry, of namespace: NamespaceID) -> UInt32 {
        let row: UInt32
        if firstUnused != 0 {
            row = UInt32(firstUnused - 1)
            firstUnused = rows[Int(row)].checksum
        } else {
            row = UInt32(rowCount)
            rowCount += 1
        }
        rows[Int(row)] = entry
        var bucket = home(namespace, entry.key)
        while buckets[bucket] != 0 { bucket = next(bucket) }
        buckets[bucket] = row + 1
        count += 1
        return row
    }

    /// Removes a row.
    mutating func remove(_ row: UInt32, _ bindings: borrowing SSDBindings) {
        var hole = home(row, bindings)
        while buckets[hole] != row + 1 {
            invariant(buckets[hole] != 0, "a row is in the table")
            hole = next(hole)
        }
        var bucket = hole
        while true {
            bucket = next(bucket)
            guard buckets[bucket] != 0 else { break }
            let otherHome = home(buckets[bucket] - 1, bindings)
            // It may move into the hole unless its home lies cyclically in (hole, bucket].
            if distance(from: otherHome, to: bucket) >= distance(from: hole, to: bucket) {
                buckets[hole] = buckets[bucket]
                hole = bucket
            }
        }
        buckets[hole] = 0
        rows[Int(row)].state = .unused
        rows[Int(row)].checksum = firstUnused
        firstUnused = UInt64(row) + 1
        count -= 1
    }

    private func next(_ bucket: Int) -> Int { bucket + 1 == buckets.count ? 0 : bucket + 1 }

    private func distance(from first: Int, to second: Int) -> Int {
        second >= first ? second - first : second + buckets.count - first
    }

    private func home(_ row: UInt32, _ bindings: borrowing SSDBindings) -> Int {
        let entry = rows[Int(row)]
        return home(bindings.namespace(of: entry.binding), entry.key)
    }

    /// Keys are hashes that a client chooses; the seed keeps it from choosing colliding ones.
    private func home(_ namespace: NamespaceID, _ key: ChunkKey) -> Int {
        let left = (key.words.0 ^ seed ^ UInt64(namespace.number) << 48)
            .multipliedFullWidth(by: key.words.1 ^ 0x9e37_79b9_7f4a_7c15)
        let right = (left.high ^ left.low).multipliedFullWidth(by: seed | 1)
        return Int((right.high ^ right.low).multipliedFullWidth(by: UInt64(buckets.count)).high)
    }
}
