// SPDX-License-Identifier: Apache-2.0
package import KVCore
internal import Kernels

/// What is learnt, and by which numbers; the defaults are those of docs/container-format.md,
/// section 11. A value.
package struct LearningOptions: Hashable, Sendable {
    /// The steps of Q1 to Q4 in mode scalar, by decreasing quality.
    package var scalarSteps: [Float] = [0.25, 0.46, 0.8, 1.4]
    /// The same in mode predictive; nil: nothing is learnt for it.
    package var predictiveSteps: [Float]? = [0.15, 0.42, 0.8, 1.6]
    /// Layers that are predicted from each other, and how many layers back, 1 or 2.
    package var group = 15
    package var lookback = 2
    /// Whether the steps of V's rows follow the rows' sizes.
    package var hasValueRowCodes = true
    /// Whether Q1 in mode scalar is embedded: a reader may stop at three or nine times its step.
    package var isEmbedded = false
    /// Fewer tokens are refused: what they say of a model is chance.
    package var tokenCountMin = 4_096
    /// What the profile says it was learnt from.
    package var note = ""

    package init() {}

    /// Levels that have a step.
    package static let levels: [Level] = [.fine, .standard, .coarse, .coarsest]
}

/// Learns a profile from tokens, without gradients: an error costs the same in every column of a
/// section (docs/container-format.md, section 11).
///
/// Confined to its owner. No random numbers: the same tokens give the same bytes. Takes, beside the
/// sample, 4 KiB for each column of each section and some 20 bytes for each value of one section.
package struct ProfileLearner {
    private let sample: LearningSample
    private let options: LearningOptions
    private let progress: (String) -> Void

    /// Rows that tables are learnt from are at least so many where there are as many; then every
    /// second one and so on up to the eighth, since neighbours are alike. The same for predictors,
    /// up to the second.
    private static let tableRowCount = 4_096
    private static let tableStrideMax = 8
    private static let predictorRowCount = 16_384
    /// Fewer tokens than so many for each reference fit the tokens and not the model.
    private static let tokensPerReference = 2

    /// `progress` is told what was done.
    package init(
        _ sample: LearningSample, _ options: LearningOptions,
        progress: @escaping (String) -> Void = { _ in }
    ) {
        self.sample = sample
        self.options = options
        self.progress = progress
    }

    private var layout: KVLayout { sample.layout }

    /// One layer's K or V.
    private typealias Place = (layer: Int, kind: KVKind)

    /// All sections in the order of the layout.
    private var places: [Place] {
        (0..<layout.layerCount).flatMap { layer in layout.kinds.map { (layer, $0) } }
    }

    /// The profile's bytes.
    package func learn() throws(LearningFault) -> OwnedBytes {
        try expectTokens(options.tokenCountMin)
        if options.predictiveSteps != nil { try expectRoom() }
        var scalar = ScalarLearner()
        for (layer, kind) in places {
            guard
                let spread = SectionSpread(
                    sample.section(layer: layer, kind), layer: layer, kind,
                    layerCount: layout.layerCount,
                    hasRowCodes: kind == .values && options.hasValueRowCodes)
            else { throw .notLearnable(layer: layer, kind) }
            scalar.add(spread)
        }
        progress("means and steps")
        var columns = scalar.columns()
        var coded = codedSections(columns, scalar.spreads)
        progress("symbols")
        var predictors = try predictors(scalar.spreads, &coded)
        let tables = TableLearner.learn(&coded)
        for index in columns.indices { columns[index].classes = coded[index].classes }
        for index in predictors.indices {
            predictors[index].classes = coded[columns.count + index].classes
        }
        progress("symbol tables")
        var writer = ProfileWriter(layout)
        writer.add(.requirements, requirements())
        if let rotation = sample.rotation { writer.add(.rotation, Self.bytes(rotation)) }
        writer.add(.levels, levels())
        writer.add(symbolTables: tables)
        if options.isEmbedded {
            writer.add(
                .refinementTables, ProfileWriter.bytes(RefinementTables.derived(from: tables)))
        }
        writer.add(.note, Array(options.note.utf8))
        for (place, columns) in zip(places, columns) { add(columns, place, to: &writer) }
        for (place, columns) in zip(places, predictors) { add(columns, place, to: &writer) }
        addLossless(to: &writer)
        progress("exponents")
        return writer.finish()
    }

    private func expectTokens(_ needed: Int) throws(LearningFault) {
        guard sample.tokenCount >= needed else {
            throw .tooFewTokens(found: sample.tokenCount, needed: needed)
        }
    }

    // MARK: Mode scalar

    private var tableStride: Int {
        let usual = max(1, min(Self.tableStrideMax, sample.tokenCount / Self.tableRowCount))
        let least = sample.tokenCount / SymbolCounts.rowCountMax + 1
        // A multiple of the predictors' own.
        let stride = max(usual, least)
        return (stride + predictorStride - 1) / predictorStride * predictorStride
    }

    private var predictorStride: Int { sample.tokenCount >= 2 * Self.predictorRowCount ? 2 : 1 }

    private func codedSections(
        _ columns: [ScalarColumns], _ spreads: [SectionSpread]
    ) -> [CodedSection] {
        places.indices.map { index in
            let (layer, kind) = places[index]
            return CodedSection(
                classes: columns[index].classes,
                levels: ScalarLearner.counts(
                    sample.section(layer: layer, kind), every: tableStride, columns[index],
                    factors: spreads[index].factors, steps: options.scalarSteps),
                steps: options.scalarSteps)
        }
    }

    private func add(_ columns: ScalarColumns, _ place: Place, to writer: inout ProfileWriter) {
        let (layer, kind) = place
        // Columns of one table side by side: a group of 64 then reads few tables.
        let classes = columns.classes
        let order = classes.indices.sorted { (classes[$0], $0) < (classes[$1], $1) }
        writer.add(.order, layer: layer, kind, ProfileWriter.bytes(order.map { UInt16($0) }))
        writer.add(.means, layer: layer, kind, ProfileWriter.bytes(columns.means))
        writer.add(.steps, layer: layer, kind, ProfileWriter.bytes(columns.steps))
        writer.add(.classes, layer: layer, kind, ProfileWriter.bytes(classes: classes))
    }

    // MARK: Mode predictive

    private var plan: PredictionPlan {
        PredictionPlan(layout, group: options.group, lookback: options.lookback)
    }

    /// Whether there are tokens for the predictors that are wanted, and a chunk has room for them.
    private func expectRoom() throws(LearningFault) {
        // Directory, tables and means are small beside the rest.
        guard plan.byteCount < Limits.chunkByteCountMax - 1 << 22 else {
            throw .profileTooLarge(byteCount: plan.byteCount)
        }
        try expectTokens(Self.tokensPerReference * plan.referenceCountMax * predictorStride)
    }

    /// Of all sections, and what tables are to be learnt from; none when none are wanted.
    private func predictors(
        _ spreads: [SectionSpread], _ coded: inout [CodedSection]
    ) throws(LearningFault) -> [PredictorColumns] {
        guard let steps = options.predictiveSteps else { return [] }
        var learner = PredictiveLearner(
            plan, spreads, steps: steps, tableStride: tableStride / predictorStride)
        var predictors: [PredictorColumns] = []
        for (index, (layer, kind)) in places.enumerated() {
            let rows = sample.section(layer: layer, kind).every(predictorStride)
            let factors =
                spreads[index].factors.map { factors in
                    stride(from: 0, to: factors.count, by: predictorStride).map { factors[$0] }
                } ?? Array(repeating: 1, count: rows.rowCount)
            let learnt = try learner.learn(index, rows, factors: factors)
            predictors.append(learnt.columns)
            coded.append(learnt.coded)
            if kind == layout.kinds.last { progress("predictors of layer \(layer)") }
        }
        return predictors
    }

    private func add(_ columns: PredictorColumns, _ place: Place, to writer: inout ProfileWriter) {
        let (layer, kind) = place
        writer.add(
            .referenceSteps, layer: layer, kind, ProfileWriter.bytes(columns.referenceSteps))
        writer.add(
            .prediction, layer: layer, kind,
            ProfileWriter.bytes(columns.predictionScales) + ProfileWriter.bytes(columns.prediction))
        writer.add(
            .synthesis, layer: layer, kind,
            ProfileWriter.bytes(columns.synthesisScales) + ProfileWriter.bytes(columns.synthesis))
        writer.add(.analysis, layer: layer, kind, ProfileWriter.bytes(columns.analysis))
        writer.add(
            .coefficientClasses, layer: layer, kind, ProfileWriter.bytes(classes: columns.classes))
    }

    // MARK: Mode lossless

    private func addLossless(to writer: inout ProfileWriter) {
        var learner = LosslessLearner()
        let rows = Array(stride(from: 0, to: sample.tokenCount, by: tableStride))
        let (type, shift) = (layout.type, UInt32(8 * layout.type.byteCount - 8))
        for (layer, kind) in places {
            let columnCount = layout.columnCount(kind)
            learner.add(columnCount: columnCount, rowCount: rows.count) { row, column in
                let bits = sample.bits(row: rows[row], layer: layer, kind, column: column)
                return UInt8(truncatingIfNeeded: type.rotated(bits) >> shift)
            }
        }
        let (tables, columns) = learner.tables()
        writer.add(losslessTables: tables)
        var first = 0
        for (layer, kind) in places {
            let own = columns[first..<first + layout.columnCount(kind)]
            first += own.count
            writer.add(.losslessColumns, layer: layer, kind, own.flatMap { [$0.offset, $0.table] })
        }
    }

    // MARK: Fields

    /// Fields of a description that say how values are stored, and nothing of the model.
    private static let storageFields: Set<Substring> = [
        "dtype", "axes", "block_tokens", "chunk_tokens", "lead_bytes", "lead_bytes_per_token",
        "section_lead_bytes",
    ]

    /// The description without these: another layout of the same model can have the profile too.
    private func requirements() -> [UInt8] {
        let lines = String(decoding: layout.description, as: UTF8.self).utf8
            .split(separator: 10).map { Substring($0) }
        let kept = lines.filter { line in
            !Self.storageFields.contains(line.prefix { $0 != "=" })
        }
        return Array((kept.joined(separator: "\n") + "\n").utf8)
    }

    private static func bytes(_ rotation: Rotation) -> [UInt8] {
        let memory = OwnedBytes(count: rotation.byteCount)
        rotation.encode(into: memory.bytes)
        return (0..<memory.bytes.count).map { memory.bytes[$0] }
    }

    private func levels() -> [UInt8] {
        let flags: UInt8 =
            (sample.rotation == nil ? 0 : 1) | (options.hasValueRowCodes ? 8 : 0)
        func level(_ level: Level, _ step: Float, _ mode: ContainerMode) -> [UInt8] {
            let isPredictive = mode == .predictive
            let isEmbedded = options.isEmbedded && !isPredictive && level == .fine
            let parts: [Float] = isEmbedded ? [9, 3, 1] : [1]
            var shifts = parts.map { TableLearner.shift(ofStep: $0 * step) }
            shifts += Array(repeating: 0, count: 3 - shifts.count)
            let lookback: UInt8 = isPredictive && options.lookback == 1 ? 1 : 0
            return [
                level.rawValue, mode.rawValue, flags | (isEmbedded ? 2 : 0),
                isPredictive ? UInt8(options.group) : 0,
            ]
                + ProfileWriter.bytes([step]) + ProfileWriter.bytes(classes: shifts) + [lookback]
                + Array(repeating: 0, count: 20)
        }
        return zip(LearningOptions.levels, options.scalarSteps).flatMap { level($0, $1, .scalar) }
            + zip(LearningOptions.levels, options.predictiveSteps ?? [])
            .flatMap { level($0, $1, .predictive) }
    }
}
