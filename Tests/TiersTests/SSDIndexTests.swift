// SPDX-License-Identifier: Apache-2.0
import Codec
import KVCore
import Testing

@testable import Tiers

private func binding(_ namespace: UInt16, layout: UInt64 = 0) -> SSDBinding {
    SSDBinding(
        namespace: NamespaceID(number: namespace), layout: LayoutID(words: (layout, 0)), level: .raw
    )
}

/// Bindings as an object, since `#expect` takes no value that cannot be copied.
private final class TestBindings {
    var value = SSDBindings()

    func number(of binding: SSDBinding) throws -> UInt16 {
        let number = value.number(of: binding)
        return try #require(number)
    }

    func add(_ number: UInt16, byteCount: Int) { value.add(number, byteCount: byteCount) }

    func subtract(_ number: UInt16, byteCount: Int) {
        value.subtract(number, byteCount: byteCount)
    }

    subscript(number: UInt16) -> SSDBinding { value[number] }

    /// What a namespace has: chunks and bytes.
    func usage(of namespace: UInt16) -> [Int] {
        let usage = value.usage(of: NamespaceID(number: namespace))
        return [usage.chunkCount, usage.byteCount]
    }
}

/// An index with the bindings that its rows name, and what must be in it.
private final class IndexModel {
    private var index: SSDIndex
    private let bindings = TestBindings()
    /// By name, what the row says: a number of this entry's own.
    private(set) var rows: [ChunkName: UInt64] = [:]
    private var serial: UInt64 = 0

    init(entryCountMax: Int, seed: UInt64) {
        index = SSDIndex(entryCountMax: entryCountMax, seed: seed)
    }

    var isFull: Bool { index.isFull }
    var rowCount: Int { index.rowCount }

    func find(_ name: ChunkName) -> UInt32? {
        index.find(name.namespace, name.key, bindings.value)
    }

    func insert(_ name: ChunkName, layout: UInt64) throws {
        let number = try bindings.number(of: binding(name.namespace.number, layout: layout))
        serial += 1
        let entry = SSDEntry(
            key: name.key, checksum: serial, expiry: 0, byteCount: 1,
            place: SSDPlace(segment: 0, block: 1), binding: number, state: .readable)
        _ = index.insert(entry, of: name.namespace)
        bindings.add(number, byteCount: 1)
        rows[name] = serial
    }

    func remove(_ name: ChunkName) throws {
        let row = try #require(find(name))
        let number = index[row].binding
        index.remove(row, bindings.value)
        bindings.subtract(number, byteCount: 1)
        rows[name] = nil
    }

    /// Compares all names of `pool`.
    func check(_ pool: [ChunkName], _ comment: Comment) {
        #expect(index.count == rows.count, comment)
        for name in pool {
            let found = find(name).map { index[$0].checksum }
            #expect(found == rows[name], comment)
        }
    }
}

@Suite struct `The index of chunks on SSD` {
    @Test func `takes at most 64 bytes a chunk`() {
        #expect(SSDIndex.byteCountPerEntry <= 64)
        #expect(MemoryLayout<SSDEntry>.stride == 56)
    }

    /// From a table of one row, in which every chain wraps around, to a crowded one.
    @Test(arguments: [1, 2, 7, 40, 300], [21, 22] as [UInt64])
    func `agrees with a dictionary, empty, crowded and full`(
        entryCountMax: Int, seed: UInt64
    ) throws {
        var random = SeededGenerator(seed: seed)
        let model = IndexModel(entryCountMax: entryCountMax, seed: random.next())
        // The same keys in five namespaces; three tables' worth of names.
        let keyCount = UInt64(max(1, 3 * entryCountMax / 5))
        let pool = (0..<keyCount).flatMap { number in
            (0..<5).map { ChunkName(NamespaceID(number: $0), key(number)) }
        }
        // Fills, churns at the brim, empties, and again: the list of unused rows gets long.
        for phase in 0..<4 {
            let insertions = [95, 55, 5, 60][phase]
            for step in 0..<10 * entryCountMax + 20 {
                let name = try #require(pool.randomElement(using: &random))
                if Int.random(in: 0..<100, using: &random) < insertions {
                    guard model.rows[name] == nil, !model.isFull else { continue }
                    try model.insert(name, layout: UInt64.random(in: 0..<3, using: &random))
                } else if model.rows[name] != nil {
                    try model.remove(name)
                }
                if step % 64 == 0 { model.check(pool, "seed \(seed) phase \(phase) step \(step)") }
            }
            if phase == 0 {
                for name in pool where model.rows[name] == nil && !model.isFull {
                    try model.insert(name, layout: 0)
                }
                #expect(model.isFull, "seed \(seed)")
            }
            model.check(pool, "seed \(seed) phase \(phase)")
        }
        for name in model.rows.keys { try model.remove(name) }
        model.check(pool, "seed \(seed)")
        #expect(model.rowCount <= entryCountMax)
    }

    @Test func `keeps the row of a chunk while others come and go`() throws {
        let model = IndexModel(entryCountMax: 100, seed: 5)
        for number in 0..<100 as Range<UInt64> {
            try model.insert(ChunkName(.default, key(number)), layout: 0)
        }
        let kept = ChunkName(.default, key(50))
        let row = try #require(model.find(kept))
        for number in 0..<100 as Range<UInt64> where number != 50 {
            try model.remove(ChunkName(.default, key(number)))
            #expect(model.find(kept) == row)
        }
    }

    @Test func `keeps places, states, uses and expiries apart`() {
        var entry = SSDEntry(
            key: key(1), checksum: 2, expiry: 0, byteCount: 3,
            place: SSDPlace(segment: 65_535, block: 0), binding: 65_535, state: .placed)
        #expect(entry.expiryMilliseconds == 0 && entry.state == .placed && entry.useCount == 0)
        for state in [SSDEntry.State.readable, .bad, .failed, .unused, .placed] {
            entry.state = state
            for count in 0...5 {
                entry.useCount = count
                #expect(entry.useCount == min(count, 3) && entry.state == state)
            }
        }
        entry.place = SSDPlace(segment: 4, block: 65_535)
        #expect(entry.place == SSDPlace(segment: 4, block: 65_535))
        #expect(entry.binding == 65_535 && entry.byteCount == 3 && entry.useCount == 3)
    }

    @Test func `keeps expiries to the millisecond until 2054, and none for ever`() {
        func kept(_ expiry: UInt64) -> UInt64 {
            SSDEntry(
                key: key(1), checksum: 0, expiry: expiry, byteCount: 1,
                place: SSDPlace(segment: 0, block: 0), binding: 0, state: .readable
            ).expiryMilliseconds
        }
        #expect(kept(0) == 0)
        for expiry: UInt64 in [1_577_836_800_001, 1_800_000_000_123, 2_677_348_427_775] {
            #expect(kept(expiry) == expiry)
        }
        // Before and after what fits: over, and over before it should be.
        #expect(kept(1) == 1_577_836_800_001)
        #expect(kept(.max) == 2_677_348_427_775)
    }
}

@Suite struct `The bindings of chunks on SSD` {
    @Test func `count what each namespace has`() throws {
        let bindings = TestBindings()
        let first = try bindings.number(of: binding(1))
        let second = try bindings.number(of: binding(1, layout: 9))
        let other = try bindings.number(of: binding(2))
        #expect(Set([first, second, other]).count == 3)
        #expect(try bindings.number(of: binding(1)) == first)
        bindings.add(first, byteCount: 10)
        bindings.add(second, byteCount: 20)
        bindings.add(second, byteCount: 30)
        bindings.add(other, byteCount: 40)
        #expect(bindings.usage(of: 1) == [3, 60])
        bindings.subtract(second, byteCount: 30)
        #expect(bindings.usage(of: 1) == [2, 30])
        #expect(bindings.usage(of: 2) == [1, 40])
        #expect(bindings[other].namespace == NamespaceID(number: 2))
        #expect(bindings[second] == binding(1, layout: 9))
    }

    @Test func `give the number of one that is gone to another`() throws {
        let bindings = TestBindings()
        let first = try bindings.number(of: binding(1))
        bindings.add(first, byteCount: 1)
        bindings.subtract(first, byteCount: 1)
        #expect(try bindings.number(of: binding(2)) == first)
        #expect(bindings[first] == binding(2))
        #expect(bindings.value.rowCount == 1)
    }

    @Test func `give no number another meaning while a checkpoint is written`() throws {
        let bindings = TestBindings()
        let first = try bindings.number(of: binding(1))
        let second = try bindings.number(of: binding(2))
        for number in [first, second] { bindings.add(number, byteCount: 1) }
        bindings.value.isFrozen = true
        for number in [first, second] { bindings.subtract(number, byteCount: 1) }
        let third = try bindings.number(of: binding(3))
        bindings.add(third, byteCount: 1)
        #expect(bindings[first] == binding(1) && bindings[second] == binding(2))
        #expect(third != first && third != second)
        // The same one gets its number back, and keeps it afterwards.
        #expect(try bindings.number(of: binding(2)) == second)
        bindings.add(second, byteCount: 1)
        bindings.value.isFrozen = false
        #expect(bindings[second] == binding(2))
        #expect(try bindings.number(of: binding(4)) == first)
        #expect(bindings.usage(of: 2) == [1, 1])
    }

    @Test func `come and go without growing`() throws {
        var random = SeededGenerator(seed: 31)
        let bindings = TestBindings()
        var counts: [UInt16: Int] = [:]
        for step in 0..<5_000 {
            if step % 97 == 0 { bindings.value.isFrozen.toggle() }
            let wanted = UInt16.random(in: 0..<20, using: &random)
            let number = try bindings.number(of: binding(wanted))
            #expect(bindings[number].namespace.number == wanted, "step \(step)")
            bindings.add(number, byteCount: 5)
            counts[wanted, default: 0] += 1
            while counts.values.reduce(0, +) > 8 {
                let victim = try #require(counts.keys.randomElement(using: &random))
                let number = try bindings.number(of: binding(victim))
                bindings.subtract(number, byteCount: 5)
                counts[victim] = (counts[victim] ?? 0) > 1 ? (counts[victim] ?? 0) - 1 : nil
            }
        }
        for namespace in 0..<20 as Range<UInt16> {
            let count = counts[namespace] ?? 0
            #expect(bindings.usage(of: namespace) == [count, 5 * count])
        }
        #expect(bindings.value.rowCount <= 20)
    }
}

@Suite struct `The namespaces on SSD` {
    @Test func `keep their numbers, and number those that are not configured`() {
        let tags = ["default", "other"].map { SSDTag(namespace: $0) }
        var namespaces = SSDNamespaces(tags: tags)
        #expect(namespaces.namespace(tagged: tags[1]) == NamespaceID(number: 1))
        let left = SSDTag(namespace: "left behind")
        let number = namespaces.namespace(tagged: left)
        #expect(number == NamespaceID(number: 2))
        #expect(namespaces.namespace(tagged: left) == number)
        #expect(namespaces.tag(of: NamespaceID(number: 2)) == left)
        #expect(namespaces.tag(of: .default) == tags[0])
    }
}

@Suite struct `Rows of lazy memory` {
    @Test func `are zero at first, and keep what is written`() {
        var rows = LazyRows<UInt32>(count: 1 << 20)
        #expect(rows[0] == 0 && rows[rows.count - 1] == 0)
        for index in stride(from: 0, to: rows.count, by: 4_099) { rows[index] = UInt32(index) }
        rows[7] += 5
        #expect(rows[7] == 5 && rows[6] == 0)
        for index in stride(from: 0, to: rows.count, by: 4_099) {
            #expect(rows[index] == UInt32(index))
        }
    }
}
