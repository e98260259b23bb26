// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Kernels

/// Method exponent: exponents coded by a profile's tables, mantissas as they are
/// (docs/container-format.md, section 8).
struct Exponent {
    let shape: SectionShape
    let columns: SplitColumns
    let memory: KernelWorkspace

    private var restByteCount: Int {
        SplitColumns.restByteCount(shape.viewShape(rowCount: shape.rowCount))
    }

    /// Encodes a section of `payload` into `room`. Its byte count; nil when it has too many escapes
    /// or no room.
    func encode(
        _ payload: PinnedBytes, at places: TensorPlaces, into room: PinnedBytes
    ) -> Int? {
        guard memory.fits(columns.coded, rowCount: shape.rowCount),
            room.count >= StreamHeader.byteCount
        else { return nil }
        let view: TensorView
        // Rests go to their own memory first: where they stand follows from the number of words.
        let rests: PinnedBytes
        if let run = shape.runs(from: 0, in: payload, at: places), run.count == 1 {
            view = run[0].view
            rests = memory.dense
        } else {
            let dense = memory.dense.prefix(shape.rawByteCount)
            shape.copy(
                rows: 0..<shape.rowCount, .out, payload: payload, at: places, dense: dense)
            view = TensorView(dense: dense, shape.viewShape(rowCount: shape.rowCount))
            // Behind the words, which take two bytes of four for each value.
            rests = room.dropFirst(max(0, room.count - restByteCount))
        }
        guard rests.count >= restByteCount,
            let escapeCount = columns.split(
                view, into: memory.packed, rests: rests, escapes: memory.escapes(of: shape))
        else { return nil }
        let words = RANS.encode(
            columns.coded, rowCount: shape.rowCount, packed: memory.packed, area: memory.words,
            states: StreamHeader.states(room))
        let header = StreamHeader(wordByteCount: words.count, escapeCount: escapeCount)
        let escapes = memory.escapes.prefix(escapeCount * EscapeList.entryByteCount)
        let byteCount = StreamHeader.byteCount + words.count + restByteCount + escapes.count
        guard room.count >= byteCount else { return nil }
        header.encode(into: room)
        header.rests(room, count: restByteCount).copy(from: rests.prefix(restByteCount))
        header.words(room).copy(from: words)
        header.escapes(room.prefix(byteCount)).copy(from: escapes)
        return byteCount
    }

    /// Decodes a section to its places in `payload`.
    func decode(
        _ section: PinnedBytes, into payload: PinnedBytes, at places: TensorPlaces
    ) throws(CodecFault) {
        let header = try StreamHeader(section, restByteCount: restByteCount)
        guard memory.fits(columns.coded, rowCount: shape.rowCount) else {
            throw .workspaceTooSmall
        }
        try memory.hold(escapeCount: header.escapeCount, of: shape)
        let found = RANS.decode(
            columns.coded, rowCount: shape.rowCount, states: StreamHeader.states(section),
            words: header.words(section), into: memory.packed)
        guard found == header.escapeCount else { throw .section }
        memory.escapes.copy(from: header.escapes(section))
        let runs = shape.runs(from: 0, in: payload, at: places)
        let run = runs?.count == 1 ? runs?.first : nil
        let dense = memory.dense.prefix(shape.rawByteCount)
        let isWhole = columns.join(
            memory.packed, rests: header.rests(section, count: restByteCount),
            escapes: memory.escapes, escapeCount: header.escapeCount,
            into: run?.view
                ?? TensorView(dense: dense, shape.viewShape(rowCount: shape.rowCount)))
        guard isWhole else { throw .section }
        if run == nil {
            shape.copy(
                rows: 0..<shape.rowCount, .in, payload: payload, at: places, dense: dense)
        }
    }
}
