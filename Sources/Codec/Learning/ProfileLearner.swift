// SPDX-License-Identifier: Apache-2.0
package import KVCore
internal import Kernels

/// What is learnt, and by which numbers; the defaults are those of docs/container-format.md,
/// section 11. A value.
package struct LearningOptions: Hashable, Sendable {
    /// The steps of Q1 to Q4 in mode scalar, by decreasing quality.
    package var scalarSteps: [Float] = [0.25, 0.43, 0.7, 1.2]
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
/// sample, 2 KiB for each column of each section and some 12 bytes for each value of one section.
package struct ProfileLearner {
    private let sample: LearningSample
    private let options: LearningOptions
    private let progress: (String) -> Void

    /// Rows that tables are learnt from are at least so many where there are as many; then every
    /// second one and so on up to the eighth, since neighbours are alike.
    private static let tableRowCount = 4_096
    private static let tableStrideMax = 8

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

    /// The profile's bytes, which its own reader has accepted.
    package func learn() throws(LearningFault) -> OwnedBytes {
        guard sample.tokenCount >= options.tokenCountMin else {
            throw .tooFewTokens(found: sample.tokenCount, needed: options.tokenCountMin)
        }
        var scalar = ScalarLearner()
        for place in places {
            let rows = sample.section(layer: place.layer, place.kind)
            guard
                let spread = SectionSpread(
                    rows, layer: place.layer, place.kind, layerCount: layout.layerCount)
            else { throw .notLearnable(layer: place.layer, place.kind) }
            scalar.add(spread)
        }
        progress("means and steps")
        var columns = scalar.columns()
        var coded = codedSections(columns)
        progress("symbols")
        let tables = TableLearner.learn(&coded)
        for index in columns.indices { columns[index].classes = coded[index].classes }
        progress("symbol tables")
        var writer = ProfileWriter(layout)
        writer.add(.requirements, requirements())
        if let rotation = sample.rotation { writer.add(.rotation, Self.bytes(rotation)) }
        writer.add(.levels, levels())
        writer.add(symbolTables: tables)
        writer.add(.note, Array(options.note.utf8))
        for (place, columns) in zip(places, columns) { add(columns, place, to: &writer) }
        addLossless(to: &writer)
        progress("exponents")
        return writer.finish()
    }

    // MARK: Mode scalar

    private var tableStride: Int {
        let usual = max(1, min(Self.tableStrideMax, sample.tokenCount / Self.tableRowCount))
        let least = sample.tokenCount / SymbolCounts.rowCountMax + 1
        return max(usual, least)
    }

    private func codedSections(_ columns: [ScalarColumns]) -> [CodedSection] {
        zip(places, columns).map { place, columns in
            let rows = sample.section(layer: place.layer, place.kind, stride: tableStride)
            return CodedSection(
                classes: columns.classes,
                levels: ScalarLearner.counts(
                    rows, columns, factors: nil, steps: options.scalarSteps),
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
        zip(LearningOptions.levels, options.scalarSteps).flatMap { level, step -> [UInt8] in
            let flags: UInt8 = sample.rotation == nil ? 0 : 1
            let shift = UInt8(bitPattern: Int8(clamping: TableLearner.shift(ofStep: step)))
            return [level.rawValue, ContainerMode.scalar.rawValue, flags, 0]
                + ProfileWriter.bytes([step]) + [shift] + Array(repeating: 0, count: 23)
        }
    }
}
