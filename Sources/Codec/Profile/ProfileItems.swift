// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Kernels

/// A profile's directory, checked: bytes from anywhere (docs/container-format.md, section 11).
struct ProfileItems {
    /// What an entry holds, by its number in the directory.
    enum Item: UInt8, CaseIterable {
        case requirements = 0
        case rotation = 1
        case levels = 2
        case symbolTables = 3
        case refinementTables = 4
        case losslessTables = 5
        case note = 6
        case order = 16
        case means = 17
        case steps = 18
        case classes = 19
        case losslessColumns = 20
        case referenceSteps = 32
        case prediction = 33
        case synthesis = 34
        case analysis = 35
        case coefficientClasses = 36
    }

    static let headerByteCount = 64
    private static let entryByteCount = 16
    private static let entryCountMax = 262_144
    static let magic: UInt32 = 0x3150_564b

    let layerCount: Int
    let keyColumnCount: Int
    /// 0: there is no V.
    let valueColumnCount: Int
    let tableCount: Int
    let losslessTableCount: Int
    /// By item, layer and kind.
    private let contents: [Int: PinnedBytes]

    /// Reads header and directory and checks every checksum; items that are not known are skipped.
    init(_ bytes: PinnedBytes) throws(CodecFault) {
        guard bytes.count >= Self.headerByteCount, bytes.load(UInt32.self, at: 0) == Self.magic
        else { throw .profileDamaged }
        let entryCount = Int(bytes.load(UInt32.self, at: 12))
        guard (1...Self.entryCountMax).contains(entryCount) else { throw .profileDamaged }
        let directoryEnd = Self.headerByteCount + entryCount * Self.entryByteCount
        guard bytes.count >= directoryEnd else { throw .profileDamaged }
        let checksum = bytes.slice(offset: 8, count: directoryEnd - 8).withBytes(Checksum.short)
        guard bytes.load(UInt32.self, at: 4) == checksum else { throw .profileDamaged }
        layerCount = Int(bytes.load(UInt16.self, at: 10))
        keyColumnCount = Int(bytes.load(UInt32.self, at: 16))
        valueColumnCount = Int(bytes.load(UInt32.self, at: 20))
        tableCount = Int(bytes.load(UInt32.self, at: 24))
        losslessTableCount = Int(bytes.load(UInt32.self, at: 28))
        guard bytes[8] == 1, bytes[9] == 0, (32..<64).allSatisfy({ bytes[$0] == 0 }),
            layerCount > 0,
            (1...256).contains(tableCount), losslessTableCount <= 256,
            (1...KVLayout.columnCountMax).contains(keyColumnCount),
            valueColumnCount <= KVLayout.columnCountMax
        else { throw .profileDamaged }
        contents = try Self.contents(bytes, entryCount, layerCount: layerCount)
    }

    /// Where every item stands; they follow each other without gaps but for alignment.
    private static func contents(
        _ bytes: PinnedBytes, _ entryCount: Int, layerCount: Int
    ) throws(CodecFault) -> [Int: PinnedBytes] {
        var contents: [Int: PinnedBytes] = [:]
        contents.reserveCapacity(entryCount)
        var end = headerByteCount + entryCount * entryByteCount
        var last = -1
        for index in 0..<entryCount {
            let place = headerByteCount + index * entryByteCount
            let offset = Int(bytes.load(UInt32.self, at: place))
            let count = Int(bytes.load(UInt32.self, at: place + 4))
            let layer = Int(bytes.load(UInt16.self, at: place + 12))
            let (kind, item) = (bytes[place + 14], bytes[place + 15])
            let key = Self.key(item, layer: layer, kind: kind)
            guard offset == (end + 63) & ~63, count <= bytes.count - offset, key > last, kind < 2,
                layer < layerCount, item >= 16 || (layer == 0 && kind == 0)
            else { throw .profileDamaged }
            let content = bytes.slice(offset: offset, count: count)
            guard content.withBytes(Checksum.short) == bytes.load(UInt32.self, at: place + 8) else {
                throw .profileDamaged
            }
            contents[key] = content
            last = key
            end = offset + count
        }
        guard end == bytes.count else { throw .profileDamaged }
        return contents
    }

    private static func key(_ item: UInt8, layer: Int, kind: UInt8) -> Int {
        Int(item) << 24 | layer << 8 | Int(kind)
    }

    /// An item of the whole profile; nil where it is absent.
    subscript(item: Item) -> PinnedBytes? { contents[Self.key(item.rawValue, layer: 0, kind: 0)] }

    /// An item of one layer's K or V; nil where it is absent. Throws when it has another byte count
    /// than `count`.
    func content(
        _ item: Item, layer: Int, _ kind: KVKind, count: Int
    ) throws(CodecFault) -> PinnedBytes? {
        let key = Self.key(item.rawValue, layer: layer, kind: kind.rawValue)
        guard let content = contents[key] else { return nil }
        guard content.count == count else { throw .profileDamaged }
        return content
    }

    /// The tables of refinements; none where they are absent.
    func refinementTables() throws(CodecFault) -> [RefinementTable] {
        guard let content = self[.refinementTables] else { return [] }
        guard content.count == 24 * tableCount else { throw .profileDamaged }
        var tables: [RefinementTable] = []
        for index in 0..<tableCount {
            let frequencies = (0..<12).map { content.load(UInt16.self, at: 24 * index + 2 * $0) }
            guard let table = RefinementTable(frequencies: frequencies) else {
                throw .profileDamaged
            }
            tables.append(table)
        }
        return tables
    }

    /// The tables of an item; none where it is absent.
    func tables(_ item: Item, count: Int) throws(CodecFault) -> [SymbolTable] {
        guard let content = self[item] else { return [] }
        guard content.count == 512 * count else { throw .profileDamaged }
        var tables: [SymbolTable] = []
        for index in 0..<count {
            let frequencies = (0..<256).map { content.load(UInt16.self, at: 512 * index + 2 * $0) }
            guard let table = SymbolTable(frequencies: frequencies) else { throw .profileDamaged }
            tables.append(table)
        }
        return tables
    }
}

/// How a profile quantises at one level. A value.
package struct ProfileLevel: Hashable, Sendable {
    package let level: Level
    package let mode: ContainerMode
    package let isBeforeRotation: Bool
    package let isEmbedded: Bool
    /// Whether rows of K have codes, whose factors multiply their steps.
    package let hasKeyRowCodes: Bool
    /// The same of V.
    package let hasValueRowCodes: Bool
    /// G: layers of a group in mode predictive; otherwise 0.
    package let group: Int
    /// How many layers back predictions look, 1 or 2, in mode predictive; otherwise 0.
    package let lookback: Int
    /// D.
    package let step: Float
    /// Of the classes, for refinement 0.
    package let shift: Int
    /// The same for refinements 1 and 2.
    package let refinementShifts: [Int]

    private static let byteCount = 32

    /// All levels of the item.
    static func read(_ content: PinnedBytes) throws(CodecFault) -> [ProfileLevel] {
        guard content.count.isMultiple(of: byteCount) else { throw .profileDamaged }
        var levels: [ProfileLevel] = []
        for start in stride(from: 0, to: content.count, by: byteCount) {
            let level = try ProfileLevel(content.slice(offset: start, count: byteCount))
            for other in levels where other.mode == level.mode {
                // A profile has one set of matrices, so one way to refer to other sections.
                guard other.level != level.level, other.group == level.group,
                    other.lookback == level.lookback
                else { throw .profileDamaged }
            }
            levels.append(level)
        }
        return levels
    }

    private init(_ content: PinnedBytes) throws(CodecFault) {
        let (flags, lookback) = (content[2], content[11])
        guard let level = Level(rawValue: content[0]), level > .lossless,
            let mode = ContainerMode(rawValue: content[1]),
            mode == .scalar || mode == .predictive, flags < 16
        else { throw .profileDamaged }
        self.level = level
        self.mode = mode
        isBeforeRotation = flags & 1 != 0
        isEmbedded = flags & 2 != 0
        hasKeyRowCodes = flags & 4 != 0
        hasValueRowCodes = flags & 8 != 0
        group = Int(content[3])
        self.lookback = mode == .predictive ? lookback == 1 ? 1 : 2 : 0
        step = Float(bitPattern: content.load(UInt32.self, at: 4))
        shift = Int(content.load(Int8.self, at: 8))
        refinementShifts = [9, 10].map { Int(content.load(Int8.self, at: $0)) }
        guard Profile.stepRange.contains(step), (mode == .predictive) == (group > 0),
            mode == .scalar || !isEmbedded, lookback <= (mode == .predictive ? 1 : 0),
            (12..<Self.byteCount).allSatisfy({ content[$0] == 0 })
        else { throw .profileDamaged }
    }

    /// The step behind so many refinements of an embedded section, 0 to 2: 9 D, 3 D or D.
    package func coarserStep(refinementCount: Int) -> Float {
        switch refinementCount {
        case 0: 9 * step
        case 1: 3 * step
        default: step
        }
    }

    /// Whether rows of a kind have codes.
    package func hasRowCodes(_ kind: KVKind) -> Bool {
        kind == .keys ? hasKeyRowCodes : hasValueRowCodes
    }
}
