// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Kernels

/// Method predicted: coefficients of what earlier layers of the group do not predict
/// (docs/container-format.md, section 10).
///
/// Sections come in their order, from the first layer of a group on: each, however it is stored,
/// leaves in the workspace how later ones refer to it.
struct Predictive {
    let shape: SectionShape
    let level: ProfileLevel
    let columns: PredictedColumns
    let coefficients: CodedCoefficients
    let memory: KernelWorkspace
    let own: PredictiveWorkspace
    /// Of all rows.
    private let turned: TurnedValues
    private let sources: [WholeRows]

    /// How a profile's level codes a section. Computes the angles of K, if it turns; throws
    /// `section` when nobody says how, `workspaceTooSmall` when there is no room.
    init(
        _ shape: SectionShape, of layout: KVLayout, _ profile: Profile, level index: Int,
        rotation: Rotation?, origin: UInt64, _ workspace: CodecWorkspace
    ) throws(CodecFault) {
        self.shape = shape
        level = profile.levels[index]
        memory = workspace.kernels
        own = workspace.predictive
        let section = profile.predictedSection(layer: shape.layer, shape.kind)
        columns = section.columns
        guard let coefficients = section.coefficients[index] else {
            preconditionFailure("a level of mode predictive has coefficients")
        }
        self.coefficients = coefficients
        guard shape.element != .float8 else { throw .section }
        let rowCount = shape.rowCount - shape.exactRowCount
        guard memory.fits(coefficients.coded, rowCount: rowCount),
            own.fits(rowCount: rowCount, columnCount: shape.columnCount)
        else { throw .workspaceTooSmall }
        var (rotated, angles) = (RotatedChannels.none, ScaledColumns.Angles?.none)
        if level.isBeforeRotation, shape.kind == .keys {
            guard let rotation else { throw .section }
            if let set = rotation.setOfLayer[shape.layer] {
                rotated = rotation.channels
                workspace.angles.prepare(
                    rotation.turns[set], origin: origin, rowCount: shape.rowCount)
                angles = workspace.angles.forKernels
            }
        }
        turned = TurnedValues(rotated, angles)
        sources = level.references(layer: shape.layer, shape.kind, of: layout.kinds).map {
            [own] source in
            let count = layout.columnCount(source.kind)
            let pitch = WholeMatrix.panelCount(count) * WholeMatrix.panelWidth
            return WholeRows(
                own.references(layer: source.layer, source.kind).prefix(rowCount * pitch),
                pitch: pitch, count: count)
        }
    }

    /// The rows that are coded.
    var rows: Range<Int> { shape.exactRowCount..<shape.rowCount }
    var hasRowCodes: Bool { level.hasRowCodes(shape.kind) }
    var rowCodeByteCount: Int { hasRowCodes ? RowCodes.byteCount(rowCount: rows.count) : 0 }
    /// What stands between the words and the escapes.
    var restByteCount: Int { shape.exactByteCount + rowCodeByteCount }
    private var scratch: PredictedColumns.Scratch { own.scratch(rowCount: rows.count) }

    /// Decodes a section, whose values are left in the workspace, and its exact rows.
    func decode(_ section: PinnedBytes) throws(CodecFault) -> PinnedBytes {
        guard !rows.isEmpty else { throw .section }
        let header = try StreamHeader(section, restByteCount: restByteCount)
        try decodeSymbols(section, header)
        let rests = header.rests(section, count: restByteCount)
        if hasRowCodes {
            try memory.rowCodes.read(
                rests.dropFirst(shape.exactByteCount), rowCount: rows.count)
            own.factors.copy(from: memory.rowCodes.numbers)
        }
        predict()
        synthesise(escapeCount: header.escapeCount)
        return rests.prefix(shape.exactByteCount)
    }

    /// Decodes symbols into the workspace, and copies the escapes there, whose symbols become 0.
    private func decodeSymbols(
        _ section: PinnedBytes, _ header: StreamHeader
    ) throws(CodecFault) {
        try memory.hold(escapeCount: header.escapeCount, of: shape)
        let found = RANS.decode(
            coefficients.coded, rowCount: rows.count, states: StreamHeader.states(section),
            words: header.words(section), into: memory.packed)
        guard found == header.escapeCount else { throw .section }
        memory.escapes.copy(from: header.escapes(section))
        unpack()
        guard clearEscapes(count: header.escapeCount) else { throw .section }
    }

    /// Takes packed symbols apart.
    func unpack() {
        PackedSymbols.unpack(
            memory.packed, rowCount: rows.count, columnCount: shape.columnCount, into: own.symbols)
    }

    /// Makes the symbols of the escapes 0. False when one is not where it should be, or too large.
    func clearEscapes(count: Int) -> Bool {
        var last = -1
        for index in 0..<count {
            let place = Int(memory.escapes.load(UInt32.self, at: 8 * index))
            let value = Int(memory.escapes.load(Int32.self, at: 8 * index + 4))
            guard place > last, place < rows.count * shape.columnCount,
                value.magnitude <= 1 << 24
            else { return false }
            let (row, coefficient) = place.quotientAndRemainder(dividingBy: shape.columnCount)
            let at = row * columns.pitch + coefficient
            guard own.symbols.load(Int8.self, at: at) == SymbolTable.escape else { return false }
            own.symbols.store(Int8(0), at: at)
            last = place
        }
        return true
    }

    /// What the references of earlier sections predict.
    func predict() {
        columns.predict(sources, rowCount: rows.count, into: own.predictions, scratch)
    }

    /// Puts values together from predictions, symbols, escapes and factors.
    func synthesise(escapeCount: Int) {
        let factors = hasRowCodes ? own.factors : nil
        columns.synthesise(
            own.symbols, rowCount: rows.count, scales: coefficients.scales, factors: factors,
            predictions: own.predictions, into: own.values, scratch)
        columns.patch(
            own.symbols, escapes: memory.escapes, escapeCount: escapeCount,
            scales: coefficients.scales, factors: factors, predictions: own.predictions,
            into: own.values, sums: own.sums, scratch)
    }

    /// Leaves in the workspace how later sections refer to its values.
    func refer() {
        columns.refer(
            own.values, rowCount: rows.count,
            into: own.references(layer: shape.layer, shape.kind))
    }

    /// The same for a section that is stored by another method, whose decoded values are those of a
    /// payload.
    func refer(to payload: PinnedBytes, at places: TensorPlaces) {
        // What is not a number refers as 0.
        _ = take(payload, at: places)
        refer()
    }

    /// Turns the coded rows of a payload back into the workspace. Whether all are finite, and no
    /// larger than 2^80.
    func take(_ payload: PinnedBytes, at places: TensorPlaces) -> Bool {
        guard let runs = shape.runs(from: rows.lowerBound, in: payload, at: places) else {
            let dense = memory.dense.prefix(rows.count * shape.columnCount * shape.type.byteCount)
            shape.copy(rows: rows, .out, payload: payload, at: places, dense: dense)
            return turned.dropFirst(rows.lowerBound).load(
                TensorView(dense: dense, shape.viewShape(rowCount: rows.count)), into: own.values)
        }
        var isSound = true
        for run in runs {
            let part = turned.dropFirst(run.rows.lowerBound)
            if !part.load(run.view, into: values(from: run.rows.lowerBound)) { isSound = false }
        }
        return isSound
    }

    /// Turns the values of the workspace, and rounds them into the coded rows of a payload.
    func put(into payload: PinnedBytes, at places: TensorPlaces) {
        guard let runs = shape.runs(from: rows.lowerBound, in: payload, at: places) else {
            let dense = memory.dense.prefix(rows.count * shape.columnCount * shape.type.byteCount)
            turned.dropFirst(rows.lowerBound).store(
                own.values,
                into: TensorView(dense: dense, shape.viewShape(rowCount: rows.count)))
            return shape.copy(
                rows: rows, .in, payload: payload, at: places, dense: dense)
        }
        for run in runs {
            turned.dropFirst(run.rows.lowerBound)
                .store(values(from: run.rows.lowerBound), into: run.view)
        }
    }

    /// The workspace's values from a row of the section on.
    private func values(from row: Int) -> PinnedBytes {
        own.values.dropFirst(4 * (row - rows.lowerBound) * columns.pitch)
    }
}
