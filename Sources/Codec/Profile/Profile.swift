// SPDX-License-Identifier: Apache-2.0
package import KVCore
internal import Kernels

/// What was learnt once about a model, made ready for one layout (docs/container-format.md,
/// section 11). Immutable; any thread.
///
/// Made once for a layout and kept: reading takes a hash of all bytes and some 60 bytes for each
/// column of each layer and level.
package final class Profile: Sendable {
    /// Names the profile in containers.
    package let hash: ProfileHash
    /// The layout that it was made ready for.
    package let layout: LayoutID
    package let levels: [ProfileLevel]
    package let note: String
    /// What it takes in memory, about.
    package let memoryByteCount: Int
    /// How K turns; nil: it is used as it is.
    let rotation: Rotation?
    /// [level][layer][kind], of mode scalar; empty for levels that cannot be used.
    private let scaled: [[[ScaledColumns]]]
    /// The same of levels that are embedded; empty for others.
    private let embedded: [[[EmbeddedColumns]]]
    /// Whether every refinement can be coded.
    private let canEmbed: Bool
    /// [layer][kind], of mode predictive; empty where the profile lacks something of it.
    private let predicted: [[PredictedSection]]
    /// [layer][kind]; empty without tables for it.
    private let split: [[SplitColumns]]

    static let stepRange: ClosedRange<Float> = 0x1p-40...0x1p40
    static let magnitudeMax: Float = 0x1p80

    /// Reads a profile's bytes. Throws `profileDamaged`, or `profileUnsuitable` when it is of
    /// another model than the layout.
    package init(_ bytes: PinnedBytes, for layout: KVLayout) throws(CodecFault) {
        let items = try ProfileItems(bytes)
        guard let requirements = items[.requirements], let levels = items[.levels],
            let fields = LayoutFields(requirements.array),
            let described = LayoutFields(layout.description)
        else { throw .profileDamaged }
        guard fields.isPart(of: described), items.layerCount == layout.layerCount,
            items.keyColumnCount == layout.columnCount(.keys),
            items.valueColumnCount == layout.columnCount(.values)
        else { throw .profileUnsuitable }
        hash = Self.hash(of: bytes)
        self.layout = layout.id
        self.levels = try ProfileLevel.read(levels)
        memoryByteCount = Self.memoryByteCount(of: bytes, items, self.levels)
        note = items[.note].map { String(decoding: $0.array, as: UTF8.self) } ?? ""
        if let section = items[.rotation] {
            guard let rotation = Rotation(section, of: layout) else { throw .profileDamaged }
            self.rotation = rotation
        } else {
            rotation = nil
        }
        let tables = SymbolTables(try items.tables(.symbolTables, count: items.tableCount))
        let refinements = try items.refinementTables()
        canEmbed = !refinements.isEmpty && refinements.allSatisfy(\.isWhole)
        let refinementTables = SymbolTables(refinements)
        var scaled: [[[ScaledColumns]]] = []
        var embedded: [[[EmbeddedColumns]]] = []
        for level in self.levels {
            let source = ColumnSource(items, level, layout, tables, rotation)
            scaled.append(try source.scaledColumns())
            embedded.append(
                refinements.isEmpty
                    ? [] : try source.embeddedColumns(scaled[scaled.count - 1], refinementTables))
        }
        self.scaled = scaled
        self.embedded = embedded
        predicted = try items.predictedSections(self.levels, layout, tables)
        split = try Self.splitColumns(items, layout)
    }

    /// Matrices take what they take in the file; each level has the columns in a form of its own,
    /// an embedded one in five.
    private static func memoryByteCount(
        of bytes: PinnedBytes, _ items: ProfileItems, _ levels: [ProfileLevel]
    ) -> Int {
        let columnCount = items.keyColumnCount + items.valueColumnCount
        let forms = levels.reduce(0) { $0 + ($1.isEmbedded ? 5 : 1) }
        return bytes.count + items.layerCount * columnCount * forms * 60
    }

    /// The first 16 bytes of SHA-256.
    package static func hash(of bytes: PinnedBytes) -> ProfileHash {
        let digest = secureHash(bytes.array)
        func word(_ start: Int) -> UInt64 {
            digest[start..<start + 8].reversed().reduce(0) { $0 << 8 | UInt64($1) }
        }
        return ProfileHash(words: (word(0), word(8)))
    }

    /// The place of a level of mode scalar that can be used; nil when the profile has none.
    func index(ofScalar level: Level) -> Int? {
        levels.indices.first {
            levels[$0].level == level && levels[$0].mode == .scalar && !scaled[$0].isEmpty
        }
    }

    /// The same for a chunk that is to be encoded, whose K may be turned back or not.
    func index(ofScalar level: Level, turns: Bool) -> Int? {
        index(ofScalar: level).flatMap {
            (turns || !levels[$0].isBeforeRotation) && (canEmbed || !levels[$0].isEmbedded)
                ? $0 : nil
        }
    }

    /// How an embedded level codes a section; nil for other levels, and without tables for it.
    func embeddedColumns(_ level: Int, layer: Int, _ kind: KVKind) -> EmbeddedColumns? {
        embedded[level].isEmpty ? nil : embedded[level][layer][Int(kind.rawValue)]
    }

    /// How many refinements of an embedded container of `level` are as good as `wanted`: the fewest
    /// whose steps are at most a tenth larger than that level's, which costs less than writing the
    /// chunk once more. Nil: not even all, or a level is not there.
    package func refinementCount(of level: Level, for wanted: Level) -> Int? {
        guard let own = index(ofScalar: level), let other = index(ofScalar: wanted),
            levels[own].isEmbedded
        else { return nil }
        return (0...EmbeddedColumns.refinementCountMax).first {
            levels[own].coarserStep(refinementCount: $0) <= 1.1 * levels[other].step
        }
    }

    func scaledColumns(_ level: Int, layer: Int, _ kind: KVKind) -> ScaledColumns {
        scaled[level][layer][Int(kind.rawValue)]
    }

    /// The place of a level of mode predictive that can be decoded; nil when the profile has none.
    func index(ofPredictive level: Level) -> Int? {
        predicted.isEmpty
            ? nil : levels.firstIndex { $0.level == level && $0.mode == .predictive }
    }

    /// The same for a chunk that is to be encoded, whose K may be turned back or not.
    func index(ofPredictive level: Level, turns: Bool) -> Int? {
        guard let index = index(ofPredictive: level), turns || !levels[index].isBeforeRotation,
            predicted.joined().allSatisfy(\.columns.isForEncoding)
        else { return nil }
        return index
    }

    func predictedSection(layer: Int, _ kind: KVKind) -> PredictedSection {
        predicted[layer][Int(kind.rawValue)]
    }

    /// Whether mode lossless is better with it.
    var hasLosslessColumns: Bool { !split.isEmpty }

    func splitColumns(layer: Int, _ kind: KVKind) -> SplitColumns? {
        split.isEmpty ? nil : split[layer][Int(kind.rawValue)]
    }
}

// MARK: - Reading

extension Profile {
    /// The columns of all layers for mode lossless; empty without tables or columns for it.
    private static func splitColumns(
        _ items: ProfileItems, _ layout: KVLayout
    ) throws(CodecFault) -> [[SplitColumns]] {
        let tables = try items.tables(.losslessTables, count: items.losslessTableCount)
        let shared = SymbolTables(tables)
        var layers: [[SplitColumns]] = []
        for layer in 0..<layout.layerCount {
            var kinds: [SplitColumns] = []
            for kind in layout.kinds {
                let count = layout.columnCount(kind)
                guard
                    let content = try items.content(
                        .losslessColumns, layer: layer, kind, count: 2 * count)
                else { return [] }
                var columns: [SplitColumns.Column] = []
                for column in 0..<count {
                    let table = Int(content[2 * column + 1])
                    guard table < tables.count else { throw .profileDamaged }
                    columns.append(.init(offset: content[2 * column], table: table))
                }
                kinds.append(SplitColumns(columns, tables: shared))
            }
            layers.append(kinds)
        }
        return layers
    }
}

extension PinnedBytes {
    /// A copy of the bytes.
    fileprivate var array: [UInt8] { (0..<count).map { self[$0] } }
}
