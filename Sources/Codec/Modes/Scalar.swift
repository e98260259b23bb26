// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Kernels

/// Method scalar: values in cells of a profile's steps, coded by its tables
/// (docs/container-format.md, section 9).
struct Scalar {
    let shape: SectionShape
    /// Those of the finest refinement, where the section is embedded.
    let columns: ScaledColumns
    /// Nil where the section is not embedded.
    let embedded: EmbeddedColumns?
    /// Of all rows; nil where K does not turn.
    let angles: ScaledColumns.Angles?
    let hasRowCodes: Bool
    let memory: KernelWorkspace

    /// How a profile's level codes a section. Computes the angles of K, if it turns; throws
    /// `section` when nobody says how, and `profileUnsuitable` when the section is embedded and
    /// the level is not.
    init(
        _ shape: SectionShape, _ profile: Profile, level: Int, isEmbedded: Bool,
        rotation: Rotation?, origin: UInt64, _ workspace: CodecWorkspace
    ) throws(CodecFault) {
        self.shape = shape
        memory = workspace.kernels
        hasRowCodes = profile.levels[level].hasRowCodes(shape.kind)
        var turned = RotatedChannels.none
        if profile.levels[level].isBeforeRotation, shape.kind == .keys {
            guard let rotation else { throw .section }
            if let set = rotation.setOfLayer[shape.layer] {
                turned = rotation.channels
                workspace.angles.prepare(
                    rotation.turns[set], origin: origin, rowCount: shape.rowCount)
            }
        }
        // The container tells how K turns; that the profile says something else is rare.
        if isEmbedded {
            guard let known = profile.embeddedColumns(level, layer: shape.layer, shape.kind) else {
                throw .profileUnsuitable
            }
            let columns = known.rotated == turned ? known : known.turning(turned)
            embedded = columns
            self.columns = columns.stops[EmbeddedColumns.refinementCountMax]
        } else {
            let known = profile.scaledColumns(level, layer: shape.layer, shape.kind)
            embedded = nil
            columns = known.rotated == turned ? known : known.turning(turned)
        }
        angles = turned.pairCount > 0 ? workspace.angles.forKernels : nil
    }

    var rows: Range<Int> { shape.exactRowCount..<shape.rowCount }
    private var rowCodeByteCount: Int {
        hasRowCodes ? RowCodes.byteCount(rowCount: rows.count) : 0
    }
    /// What stands between the words and the escapes.
    private var restByteCount: Int { shape.exactByteCount + rowCodeByteCount }

    /// Encodes a section of `payload` into `room`. Its byte count; nil when it has a value that has
    /// no cell, too many escapes, no room, or nothing to quantise.
    func encode(
        _ payload: PinnedBytes, at places: TensorPlaces, into room: PinnedBytes
    ) -> Int? {
        guard !rows.isEmpty, shape.element != .float8, isWithinBounds,
            memory.fits(columns.coded, rowCount: rows.count),
            let escapeCount = quantise(payload, at: places),
            room.count >= StreamHeader.byteCount
        else { return nil }
        let words = RANS.encode(
            columns.coded, rowCount: rows.count, packed: packed, area: memory.words,
            states: StreamHeader.states(room))
        let header = StreamHeader(wordByteCount: words.count, escapeCount: escapeCount)
        let escapes = memory.escapes.prefix(escapeCount * EscapeList.entryByteCount)
        let byteCount =
            StreamHeader.byteCount + words.count + restByteCount + escapes.count
        guard room.count >= byteCount else { return nil }
        header.encode(into: room)
        header.words(room).copy(from: words)
        shape.copy(
            rows: 0..<shape.exactRowCount, .out, payload: payload, at: places,
            dense: header.rests(room, count: shape.exactByteCount))
        if hasRowCodes {
            header.rests(room, count: restByteCount).dropFirst(shape.exactByteCount)
                .copy(from: memory.rowCodes.bytes)
        }
        header.escapes(room.prefix(byteCount)).copy(from: escapes)
        return byteCount
    }

    /// Decodes a section to its places in `payload`, as fine as its `refinements` make it.
    func decode(
        _ section: PinnedBytes, refinements: [PinnedBytes], into payload: PinnedBytes,
        at places: TensorPlaces
    ) throws(CodecFault) {
        let header = try StreamHeader(section, restByteCount: restByteCount)
        guard !rows.isEmpty, shape.element != .float8 else { throw .section }
        guard memory.fits(columns.coded, rowCount: rows.count) else { throw .workspaceTooSmall }
        try memory.hold(escapeCount: header.escapeCount, of: shape)
        let found = RANS.decode(
            columns.coded, rowCount: rows.count, states: StreamHeader.states(section),
            words: header.words(section), into: packed)
        guard found == header.escapeCount else { throw .section }
        try decodeRefinements(refinements)
        memory.escapes.copy(from: header.escapes(section))
        let rests = header.rests(section, count: restByteCount)
        if hasRowCodes {
            try memory.rowCodes.read(
                rests.dropFirst(shape.exactByteCount), rowCount: rows.count)
        }
        guard
            restore(
                into: payload, at: places, escapeCount: header.escapeCount,
                refinementCount: refinements.count)
        else { throw .section }
        shape.copy(
            rows: 0..<shape.exactRowCount, .in, payload: payload, at: places,
            dense: rests.prefix(shape.exactByteCount))
    }

    /// Whether every number that cells may stand for is one of the format.
    private var isWithinBounds: Bool {
        columns.magnitudeMax * (hasRowCodes ? RowCodes.factorBound : 1) <= Profile.magnitudeMax
    }

    /// Symbols into `packed` and escapes into `escapes`; how many of these, or nil.
    private func quantise(_ payload: PinnedBytes, at places: TensorPlaces) -> Int? {
        let runs = runs(of: payload, at: places)
        if hasRowCodes {
            memory.rowCodes.prepare(rowCount: rows.count)
            for run in runs {
                columns.squares(
                    run.view, angles: angles(from: run.rows.lowerBound),
                    into: memory.rowCodes.numbers.dropFirst(
                        4 * (run.rows.lowerBound - rows.lowerBound)))
            }
            memory.rowCodes.choose()
        }
        var count = 0
        for run in runs {
            let first = run.rows.lowerBound - rows.lowerBound
            let room = memory.escapes(of: shape).dropFirst(count * EscapeList.entryByteCount)
            guard let found = quantise(run, first: first, escapes: room) else { return nil }
            room.moveEscapes(0..<found, by: first * shape.columnCount)
            count += found
        }
        return count
    }

    /// The same of one run, whose first row is `first` of those that are coded.
    private func quantise(_ run: TensorRun, first: Int, escapes: PinnedBytes) -> Int? {
        let angles = angles(from: run.rows.lowerBound)
        guard let embedded else {
            return columns.quantise(
                run.view, angles: angles, inverseFactors: factors(from: first),
                into: packed(from: first), escapes: escapes)
        }
        return embedded.quantise(
            run.view, angles: angles, inverseFactors: factors(from: first),
            into: packed(from: first), stride: memory.embeddedStride, escapes: escapes)
    }

    /// Writes one run, of which `escapes` has the first `escapeCount`.
    private func restore(
        _ run: TensorRun, first: Int, refinementCount: Int, escapes: PinnedBytes, escapeCount: Int
    ) -> Bool {
        let angles = angles(from: run.rows.lowerBound)
        guard let embedded else {
            return columns.restore(
                packed(from: first), angles: angles, factors: factors(from: first),
                escapes: escapes, escapeCount: escapeCount, into: run.view)
        }
        return embedded.restore(
            packed(from: first), refinementCount: refinementCount, stride: memory.embeddedStride,
            angles: angles, factors: factors(from: first), escapes: escapes,
            escapeCount: escapeCount, into: run.view)
    }

    /// False when the escapes are not those of the symbols.
    private func restore(
        into payload: PinnedBytes, at places: TensorPlaces, escapeCount: Int, refinementCount: Int
    ) -> Bool {
        guard let runs = shape.runs(from: rows.lowerBound, in: payload, at: places) else {
            let dense = memory.dense.prefix(rows.count * shape.columnCount * shape.type.byteCount)
            let view = TensorView(dense: dense, shape.viewShape(rowCount: rows.count))
            let isWhole = restore(
                TensorRun(rows: rows, view: view), first: 0, refinementCount: refinementCount,
                escapes: memory.escapes, escapeCount: escapeCount)
            shape.copy(rows: rows, .in, payload: payload, at: places, dense: dense)
            return isWhole
        }
        var used = 0
        for run in runs {
            let first = run.rows.lowerBound - rows.lowerBound
            let end = first + run.rows.count
            let own = memory.escapes.escapes(
                from: used, below: end * shape.columnCount, count: escapeCount)
            memory.escapes.moveEscapes(own, by: -first * shape.columnCount)
            guard
                restore(
                    run, first: first, refinementCount: refinementCount,
                    escapes: memory.escapes.dropFirst(
                        own.lowerBound * EscapeList.entryByteCount), escapeCount: own.count)
            else { return false }
            used = own.upperBound
        }
        return used == escapeCount
    }

    /// Symbols, and behind them refinements where there are any.
    var packed: PinnedBytes { embedded == nil ? memory.packed : memory.embedded }

    /// Symbols from a coded row on, which is a multiple of four.
    private func packed(from row: Int) -> PinnedBytes {
        packed.dropFirst(columns.coded.packedByteCount(rowCount: row))
    }

    /// The numbers of the row codes from a coded row on; nil without codes.
    private func factors(from row: Int) -> PinnedBytes? {
        hasRowCodes ? memory.rowCodes.numbers.dropFirst(4 * row) : nil
    }

    /// The coded rows as kernels can walk them: in the payload itself, or copied.
    private func runs(of payload: PinnedBytes, at places: TensorPlaces) -> [TensorRun] {
        if let runs = shape.runs(from: rows.lowerBound, in: payload, at: places) { return runs }
        let dense = memory.dense.prefix(rows.count * shape.columnCount * shape.type.byteCount)
        shape.copy(rows: rows, .out, payload: payload, at: places, dense: dense)
        let view = TensorView(dense: dense, shape.viewShape(rowCount: rows.count))
        return [TensorRun(rows: rows, view: view)]
    }

    private func angles(from row: Int) -> ScaledColumns.Angles? {
        angles?.dropFirst(row * columns.rotated.pairCount)
    }
}
