// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Kernels

/// How the coefficients of one layer's K or V are coded at a level. Immutable; any thread.
final class CodedCoefficients: Sendable {
    let coded: CodedColumns
    /// f32(s × D) of each column, filled up to a panel.
    let scales: [Float]
    /// Of each coefficient, filled up to a panel.
    let symbols: [SymbolRange]

    init(
        classes: [Int], _ level: ProfileLevel, _ tables: SymbolTables, _ columns: PredictedColumns
    ) {
        let chosen = classes.map { min(max($0 + level.shift, 0), tables.tables.count - 1) }
        coded = CodedColumns(tables, tableOfColumn: chosen, order: Array(chosen.indices))
        scales = columns.scales(step: level.step)
        let blank = Array(repeating: SymbolRange(nil), count: columns.pitch - classes.count)
        symbols = chosen.map { SymbolRange(tables.tables[$0]) } + blank
    }
}

/// What a profile says of one layer's K or V in mode predictive. Immutable; any thread.
struct PredictedSection: Sendable {
    let columns: PredictedColumns
    /// By the places of the profile's levels; nil: a level of another mode.
    let coefficients: [CodedCoefficients?]
}

extension ProfileLevel {
    /// The sections that one is predicted from, in the order of the matrix' rows.
    func references(
        layer: Int, _ kind: KVKind, of kinds: [KVKind]
    ) -> [(layer: Int, kind: KVKind)] {
        let own = kind == .values ? [(layer: layer, kind: KVKind.keys)] : []
        let first = layer / group * group
        let earlier = (1...lookback).map { layer - $0 }.filter { $0 >= first }
        return own + earlier.flatMap { earlier in kinds.map { (layer: earlier, kind: $0) } }
    }
}

extension ProfileItems {
    /// What mode predictive needs of all layers, [layer][kind]; empty where an item is absent or no
    /// level has the mode. Throws where one is damaged.
    func predictedSections(
        _ levels: [ProfileLevel], _ layout: KVLayout, _ tables: SymbolTables
    ) throws(CodecFault) -> [[PredictedSection]] {
        // All levels of the mode refer to the same sections.
        guard let level = levels.first(where: { $0.mode == .predictive }), !tables.tables.isEmpty
        else { return [] }
        var layers: [[PredictedSection]] = []
        for layer in 0..<layout.layerCount {
            var kinds: [PredictedSection] = []
            for kind in layout.kinds {
                let sources = level.references(layer: layer, kind, of: layout.kinds)
                    .map { layout.columnCount($0.kind) }
                guard
                    let columns = try predictedColumns(
                        layer: layer, kind, layout.columnCount(kind), sources: sources),
                    let classes = try content(
                        .coefficientClasses, layer: layer, kind, count: columns.columnCount)
                else { return [] }
                let numbers = (0..<columns.columnCount).map {
                    Int(classes.load(Int8.self, at: $0))
                }
                kinds.append(
                    PredictedSection(
                        columns: columns,
                        coefficients: levels.map {
                            $0.mode != .predictive
                                ? nil : CodedCoefficients(classes: numbers, $0, tables, columns)
                        }))
            }
            layers.append(kinds)
        }
        return layers
    }

    /// Nil where an item that a reader needs is absent.
    private func predictedColumns(
        layer: Int, _ kind: KVKind, _ count: Int, sources: [Int]
    ) throws(CodecFault) -> PredictedColumns? {
        let rowCount = sources.reduce(0, +)
        guard let means = try content(.means, layer: layer, kind, count: 4 * count),
            let steps = try content(.referenceSteps, layer: layer, kind, count: 4 * count),
            let prediction = try content(
                .prediction, layer: layer, kind, count: (4 + rowCount) * count),
            let synthesis = try content(
                .synthesis, layer: layer, kind, count: (4 + 2 * count) * count)
        else { return nil }
        // Sums of a column stay whole in single precision, and within 32 bits.
        guard
            let predicts = WholeMatrix(
                bytes: prediction.dropFirst(4 * count), sourceRowCounts: sources,
                columnCount: count, sumLimit: (1 << 24) / 127 + 1),
            let synthesises = WholeMatrix(
                shorts: synthesis.dropFirst(4 * count), rowCount: count, columnCount: count,
                sumLimit: 1 << 24)
        else { throw .profileDamaged }
        let analysis = try content(.analysis, layer: layer, kind, count: 4 * count * count)
        let weights = try content(.steps, layer: layer, kind, count: 4 * count)
        return PredictedColumns(
            means: try numbers(means, count) { $0.magnitude <= Profile.magnitudeMax },
            referenceSteps: try numbers(steps, count, Profile.stepRange.contains),
            weights: try weights.map { steps throws(CodecFault) in
                try numbers(steps, count, Profile.stepRange.contains).map { 1 / $0 }
            } ?? [],
            prediction: (predicts, try numbers(prediction, count, \.isFinite)),
            synthesis: (synthesises, try numbers(synthesis, count, \.isFinite)),
            analysis: analysis)
    }

    /// The first `count` numbers of a content, all of which are as `isSound` wants them.
    private func numbers(
        _ content: PinnedBytes, _ count: Int, _ isSound: (Float) -> Bool
    ) throws(CodecFault) -> [Float] {
        let numbers = (0..<count).map { Float(bitPattern: content.load(UInt32.self, at: 4 * $0)) }
        guard numbers.allSatisfy(isSound) else { throw .profileDamaged }
        return numbers
    }
}
