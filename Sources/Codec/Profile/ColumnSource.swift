// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Kernels

/// Reads the columns of all layers at one level from a profile (docs/container-format.md, section
/// 11). A value.
struct ColumnSource {
    private let items: ProfileItems
    private let level: ProfileLevel
    private let layout: KVLayout
    private let tables: SymbolTables
    private let rotation: Rotation?

    init(
        _ items: ProfileItems, _ level: ProfileLevel, _ layout: KVLayout, _ tables: SymbolTables,
        _ rotation: Rotation?
    ) {
        self.items = items
        self.level = level
        self.layout = layout
        self.tables = tables
        self.rotation = rotation
    }

    /// [layer][kind], with the level's own steps; empty when it is not one of mode scalar, or the
    /// profile has no tables.
    func scaledColumns() throws(CodecFault) -> [[ScaledColumns]] {
        guard level.mode == .scalar, !tables.tables.isEmpty else { return [] }
        return try scaledColumns(step: level.step)
    }

    /// [layer][kind]; empty when the level is not embedded. `finest` is what `scaledColumns` made.
    func embeddedColumns(
        _ finest: [[ScaledColumns]], _ refinements: SymbolTables
    ) throws(CodecFault) -> [[EmbeddedColumns]] {
        guard level.isEmbedded, !finest.isEmpty else { return [] }
        let coarsest = try scaledColumns(step: level.coarserStep(refinementCount: 0))
        let middle = try scaledColumns(step: level.coarserStep(refinementCount: 1))
        var layers: [[EmbeddedColumns]] = []
        for layer in 0..<layout.layerCount {
            var kinds: [EmbeddedColumns] = []
            for (place, kind) in layout.kinds.enumerated() {
                let classes = try classes(layer: layer, kind)
                let stops = [coarsest, middle, finest].map { $0[layer][place] }
                kinds.append(
                    EmbeddedColumns(
                        stops, refinements,
                        tableOfColumn: level.refinementShifts.map { shift in
                            classes.map { table(ofClass: $0, shift) }
                        }))
            }
            layers.append(kinds)
        }
        return layers
    }

    private func scaledColumns(step: Float) throws(CodecFault) -> [[ScaledColumns]] {
        var layers: [[ScaledColumns]] = []
        for layer in 0..<layout.layerCount {
            var kinds: [ScaledColumns] = []
            for kind in layout.kinds {
                let columns = try columns(layer: layer, kind, step: step)
                let order = try order(layer: layer, kind, columns.count)
                let turns = level.isBeforeRotation && rotation?.setOfLayer[layer] != nil
                let rotated = turns && kind == .keys ? rotation?.channels : nil
                kinds.append(
                    ScaledColumns(
                        columns, order: order, tables: tables,
                        headWidth: layout.channelCount(kind), rotated: rotated ?? .none))
            }
            layers.append(kinds)
        }
        return layers
    }

    private func classes(layer: Int, _ kind: KVKind) throws(CodecFault) -> [Int] {
        let count = layout.columnCount(kind)
        guard let classes = try items.content(.classes, layer: layer, kind, count: count) else {
            throw .profileDamaged
        }
        return (0..<count).map { Int(classes.load(Int8.self, at: $0)) }
    }

    private func table(ofClass class: Int, _ shift: Int) -> Int {
        min(max(`class` + shift, 0), items.tableCount - 1)
    }

    private func columns(
        layer: Int, _ kind: KVKind, step levelStep: Float
    ) throws(CodecFault) -> [ScaledColumns.Column] {
        let classes = try classes(layer: layer, kind)
        let count = classes.count
        guard let means = try items.content(.means, layer: layer, kind, count: 4 * count),
            let steps = try items.content(.steps, layer: layer, kind, count: 4 * count)
        else { throw .profileDamaged }
        var columns: [ScaledColumns.Column] = []
        columns.reserveCapacity(count)
        for column in 0..<count {
            let mean = Float(bitPattern: means.load(UInt32.self, at: 4 * column))
            let step = Float(bitPattern: steps.load(UInt32.self, at: 4 * column))
            guard mean.magnitude <= Profile.magnitudeMax, Profile.stepRange.contains(step) else {
                throw .profileDamaged
            }
            columns.append(
                .init(
                    mean: mean, step: step * levelStep,
                    table: table(ofClass: classes[column], level.shift)))
        }
        return columns
    }

    /// A permutation of the columns.
    private func order(layer: Int, _ kind: KVKind, _ count: Int) throws(CodecFault) -> [Int] {
        guard let content = try items.content(.order, layer: layer, kind, count: 2 * count) else {
            throw .profileDamaged
        }
        let order = (0..<count).map { Int(content.load(UInt16.self, at: 2 * $0)) }
        var isThere = [Bool](repeating: false, count: count)
        for column in order {
            guard column < count, !isThere[column] else { throw .profileDamaged }
            isThere[column] = true
        }
        return order
    }
}
