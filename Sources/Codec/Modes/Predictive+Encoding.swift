// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Kernels

extension Predictive {
    /// Encodes a section of `payload` into `room`, and leaves its decoded values in the workspace.
    /// Its byte count; nil when it has a value that is not finite or too large, too many escapes,
    /// no room, or nothing to code: then the workspace's values are undefined.
    func encode(
        _ payload: PinnedBytes, at places: TensorPlaces, into room: PinnedBytes
    ) -> Int? {
        guard !rows.isEmpty, room.count >= StreamHeader.byteCount, take(payload, at: places)
        else { return nil }
        chooseFactors()
        predict()
        guard
            let escapeCount = columns.analyse(
                own.values, less: own.predictions, rowCount: rows.count,
                scales: memory.rowCodes.numbers, coefficients.symbols, into: memory.packed,
                escapes: memory.escapes(of: shape))
        else { return nil }
        let words = RANS.encode(
            coefficients.coded, rowCount: rows.count, packed: memory.packed, area: memory.words,
            states: StreamHeader.states(room))
        let header = StreamHeader(wordByteCount: words.count, escapeCount: escapeCount)
        let escapes = memory.escapes.prefix(escapeCount * EscapeList.entryByteCount)
        let byteCount = StreamHeader.byteCount + words.count + restByteCount + escapes.count
        guard room.count >= byteCount else { return nil }
        header.encode(into: room)
        header.words(room).copy(from: words)
        let rests = header.rests(room, count: restByteCount)
        shape.copy(
            rows: 0..<shape.exactRowCount, .out, payload: payload, at: places,
            dense: rests.prefix(shape.exactByteCount))
        if hasRowCodes {
            rests.dropFirst(shape.exactByteCount).copy(from: memory.rowCodes.bytes)
        }
        header.escapes(room.prefix(byteCount)).copy(from: escapes)
        unpack()
        invariant(clearEscapes(count: escapeCount), "escapes stand where their symbols are")
        synthesise(escapeCount: escapeCount)
        return byteCount
    }

    /// Chooses the factors of rows, and leaves one over the step of each in the row codes' numbers.
    private func chooseFactors() {
        let codes = memory.rowCodes
        codes.prepare(rowCount: rows.count)
        if hasRowCodes {
            columns.squares(own.values, rowCount: rows.count, into: codes.numbers)
            codes.choose()
        }
        for row in 0..<rows.count {
            let factor = hasRowCodes ? codes.factor(row) : 1
            own.factors.store(factor.bitPattern, at: 4 * row)
            codes.numbers.store((1 / (level.step * factor)).bitPattern, at: 4 * row)
        }
    }
}
