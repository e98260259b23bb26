// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Kernels

/// Lays out a profile's bytes (docs/container-format.md, section 11). A value.
struct ProfileWriter {
    private struct Entry {
        let item: UInt8
        let layer: Int
        let kind: UInt8
        let content: [UInt8]
    }

    private let layout: KVLayout
    private var entries: [Entry] = []
    private var tableCount = 0
    private var losslessTableCount = 0

    /// What the fields of a header and of the directory take.
    private static let entryByteCount = 16

    init(_ layout: KVLayout) { self.layout = layout }

    mutating func add(_ item: ProfileItems.Item, _ content: [UInt8]) {
        entries.append(Entry(item: item.rawValue, layer: 0, kind: 0, content: content))
    }

    /// An item of one layer's K or V.
    mutating func add(_ item: UInt8, layer: Int, _ kind: KVKind, _ content: [UInt8]) {
        entries.append(Entry(item: item, layer: layer, kind: kind.rawValue, content: content))
    }

    mutating func add(_ item: ProfileItems.Item, layer: Int, _ kind: KVKind, _ content: [UInt8]) {
        add(item.rawValue, layer: layer, kind, content)
    }

    mutating func add(symbolTables tables: [[UInt16]]) {
        tableCount = tables.count
        add(.symbolTables, tables.flatMap { Self.bytes($0) })
    }

    mutating func add(losslessTables tables: [[UInt16]]) {
        losslessTableCount = tables.count
        add(.losslessTables, tables.flatMap { Self.bytes($0) })
    }

    /// The profile's bytes.
    func finish() -> OwnedBytes {
        let sorted = entries.sorted {
            ($0.item, $0.layer, $0.kind) < ($1.item, $1.layer, $1.kind)
        }
        let directoryEnd = ProfileItems.headerByteCount + Self.entryByteCount * sorted.count
        var end = directoryEnd
        let places = sorted.map { entry in
            let place = (end + 63) & ~63
            end = place + entry.content.count
            return place
        }
        // Zeros, where nothing is written.
        let memory = OwnedBytes(count: end)
        let target = memory.bytes
        writeHeader(target, entryCount: sorted.count)
        for (index, entry) in sorted.enumerated() {
            let content = target.slice(offset: places[index], count: entry.content.count)
            for (offset, byte) in entry.content.enumerated() { content.store(byte, at: offset) }
            let place = ProfileItems.headerByteCount + Self.entryByteCount * index
            target.store(UInt32(places[index]), at: place)
            target.store(UInt32(entry.content.count), at: place + 4)
            target.store(content.withBytes(Checksum.short), at: place + 8)
            target.store(UInt16(entry.layer), at: place + 12)
            target.store(entry.kind, at: place + 14)
            target.store(entry.item, at: place + 15)
        }
        let covered = target.slice(offset: 8, count: directoryEnd - 8)
        target.store(covered.withBytes(Checksum.short), at: 4)
        return memory
    }

    private func writeHeader(_ target: PinnedBytes, entryCount: Int) {
        target.store(ProfileItems.magic, at: 0)
        target.store(UInt8(1), at: 8)
        target.store(UInt16(layout.layerCount), at: 10)
        target.store(UInt32(entryCount), at: 12)
        target.store(UInt32(layout.columnCount(.keys)), at: 16)
        target.store(UInt32(layout.columnCount(.values)), at: 20)
        target.store(UInt32(tableCount), at: 24)
        target.store(UInt32(losslessTableCount), at: 28)
    }

    // MARK: Contents

    static func bytes(_ numbers: [some FixedWidthInteger]) -> [UInt8] {
        numbers.flatMap { number in
            (0..<number.bitWidth / 8).map { UInt8(truncatingIfNeeded: number >> (8 * $0)) }
        }
    }

    static func bytes(_ numbers: [Float]) -> [UInt8] { bytes(numbers.map(\.bitPattern)) }

    /// Classes as signed bytes.
    static func bytes(classes: [Int]) -> [UInt8] {
        classes.map { UInt8(bitPattern: Int8(clamping: $0)) }
    }
}
