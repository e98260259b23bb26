// SPDX-License-Identifier: Apache-2.0
internal import KVCore

extension Quantised {
    /// The fixed part of a section, checked.
    private struct Header {
        let flags: UInt8
        let slope: UInt8
        let frameColumnCount: Int
        let baseStep: Float
        let escapeCount: Int

        init?(_ section: PinnedBytes, _ shape: SectionShape) {
            guard section.count >= headerByteCount, shape.rowCount > shape.exactRowCount else {
                return nil
            }
            flags = section.load(UInt8.self, at: 0)
            slope = section.load(UInt8.self, at: 1)
            let width = Int(section.load(UInt16.self, at: 2))
            frameColumnCount = width == 0 ? KVLayout.columnCountMax : width
            baseStep = Float(bitPattern: section.load(UInt32.self, at: 4))
            escapeCount = Int(section.load(UInt32.self, at: 8))
            guard flags < 4, slope <= 8, frameColumnCount <= shape.columnCount,
                baseStep >= stepMin, baseStep <= stepMax,
                escapeCount <= shape.valueCount, section.load(UInt32.self, at: 12) == 0
            else { return nil }
        }
    }

    /// Decodes a section into the bits of `workspace`. `rotation` is that of the container.
    static func decode(
        _ shape: SectionShape, from section: PinnedBytes, rotation: Rotation?, origin: UInt64,
        _ workspace: CodecWorkspace
    ) throws(CodecFault) {
        guard let header = Header(section, shape) else { throw .section }
        let columnCount = shape.columnCount
        let frameCount = (columnCount - 1) / header.frameColumnCount + 1
        let places = Places(
            shape, hasRowCodes: header.flags & hasRowCodes != 0, frameCount: frameCount)
        let escapesByteCount = header.escapeCount * escapeByteCount
        guard section.count >= places.frames + escapesByteCount else { throw .section }
        let exact = section.slice(offset: headerByteCount, count: shape.exactByteCount)
        workspace.load(rows: 0..<shape.exactRowCount, shape, from: exact)
        try loadColumns(section, places, header, shape, workspace)
        var place = places.frames
        for frame in 0..<frameCount {
            let field = section.load(UInt32.self, at: places.frameFields + 4 * frame)
            let byteCount = Int(field & ~pairs)
            guard byteCount <= section.count - escapesByteCount - place else { throw .section }
            let first = frame * header.frameColumnCount
            let columns = first..<min(first + header.frameColumnCount, columnCount)
            let stored = section.slice(offset: place, count: byteCount)
            try decodeFrame(stored, columns, hasPairs: field & pairs != 0, shape, workspace)
            place += byteCount
        }
        guard place == section.count - escapesByteCount else { throw .section }
        try placeEscapes(section.dropFirst(place), header.escapeCount, shape, workspace)
        if header.flags & hasRotation != 0 {
            guard shape.kind == .keys, let rotation, let set = rotation.setOfLayer[shape.layer]
            else { throw .section }
            workspace.turn(shape, rotation, set: set, origin: origin, .forward)
        }
        workspace.narrow(shape)
    }

    private static func loadColumns(
        _ section: PinnedBytes, _ places: Places, _ header: Header, _ shape: SectionShape,
        _ workspace: CodecWorkspace
    ) throws(CodecFault) {
        for column in 0..<shape.columnCount {
            let bits = UInt32(section.load(UInt16.self, at: places.means + 2 * column))
            let mean = Float(bitPattern: bits << 16)
            guard mean.magnitude <= magnitudeMax else { throw .section }
            workspace.columns.means[column] = mean
            workspace.columns.codes[column] = section[places.codes + column]
        }
        workspace.columns.sort(count: shape.columnCount)
        workspace.columns.computeSteps(
            count: shape.columnCount, base: header.baseStep, slope: header.slope)
        workspace.columns.rowFactors.removeAll(keepingCapacity: true)
        for row in 0..<shape.rowCount - shape.exactRowCount {
            let hasCode = header.flags & hasRowCodes != 0
            workspace.columns.rowFactors.append(
                hasCode ? rowFactor(code: section[places.rowCodes + row]) : 1)
        }
    }

    /// Decodes one frame's columns into values; NaN marks an escape.
    private static func decodeFrame(
        _ stored: PinnedBytes, _ columns: Range<Int>, hasPairs: Bool, _ shape: SectionShape,
        _ workspace: CodecWorkspace
    ) throws(CodecFault) {
        let rowCount = shape.rowCount - shape.exactRowCount
        let count = columns.count * rowCount
        let byteCount = hasPairs ? (count + 1) / 2 : count
        try workspace.loadSymbols(stored, count: byteCount, isPacked: stored.count != byteCount)
        if hasPairs {
            // The half that is left over is zero.
            guard count.isMultiple(of: 2) || workspace.symbols[byteCount - 1] < 16 else {
                throw .section
            }
            unpackPairs(workspace.symbols, count: count)
        }
        let escape: Int8 = hasPairs ? -8 : -128
        let (symbols, values) = (workspace.symbols, workspace.values)
        let statistics = workspace.columns
        var index = 0
        for place in columns {
            let column = Int(statistics.order[place])
            let (mean, step) = (statistics.means[column], statistics.steps[column])
            var target = shape.exactRowCount * shape.columnCount + column
            for row in 0..<rowCount {
                let symbol = Int8(truncatingIfNeeded: symbols.bits(1, at: index))
                let product = Float(symbol) * (step * statistics.rowFactors[row])
                values[target] = symbol == escape ? .nan : mean + product
                index += 1
                target += shape.columnCount
            }
        }
    }

    /// Spreads `count` signed halves of bytes out to a byte each, from the last one on.
    private static func unpackPairs(_ symbols: PinnedBytes, count: Int) {
        for index in (0..<count).reversed() {
            let half = symbols.bits(1, at: index / 2) >> (index.isMultiple(of: 2) ? 0 : 4) & 15
            // The sign of four bits, spread to eight.
            symbols.setBits((half ^ 8) &- 8, 1, at: index)
        }
    }

    /// Puts the listed values where escapes are; each must be used, and all.
    private static func placeEscapes(
        _ list: PinnedBytes, _ count: Int, _ shape: SectionShape, _ workspace: CodecWorkspace
    ) throws(CodecFault) {
        let first = shape.exactRowCount * shape.columnCount
        let values = workspace.values
        var last = -1
        for index in 0..<count {
            let place = Int(list.load(UInt32.self, at: index * escapeByteCount))
            let symbol = Int(list.load(Int32.self, at: index * escapeByteCount + 4))
            guard place > last, place < shape.valueCount - first, values[first + place].isNaN,
                symbol.magnitude <= symbolMax
            else { throw .section }
            last = place
            let (row, column) = place.quotientAndRemainder(dividingBy: shape.columnCount)
            let step = workspace.columns.steps[column] * workspace.columns.rowFactors[row]
            values[first + place] = workspace.columns.means[column] + Float(symbol) * step
        }
        for index in first..<shape.valueCount where values[index].isNaN { throw .section }
    }
}

extension CodecWorkspace {
    /// Turns the quantised rows of K.
    func turn(
        _ shape: SectionShape, _ rotation: Rotation, set: Int, origin: UInt64,
        _ direction: RotationDirection
    ) {
        angles.prepare(rotation.turns[set], origin: origin, rowCount: shape.rowCount)
        angles.turn(
            values, rows: shape.exactRowCount..<shape.rowCount, shape, rotation, direction)
    }

    /// Rounds the quantised rows to the payload's type.
    func narrow(_ shape: SectionShape) {
        let (bits, values) = (bits, values)
        for index in shape.exactRowCount * shape.columnCount..<shape.valueCount {
            bits[index] = shape.type.narrowed(values[index])
        }
    }

    /// Widens the rows that are to be quantised; false when one of them must not be.
    func widen(_ shape: SectionShape) -> Bool {
        let (bits, values) = (bits, values)
        var areAllUsable = true
        for index in shape.exactRowCount * shape.columnCount..<shape.valueCount {
            let value = shape.type.widened(bits[index])
            areAllUsable = areAllUsable && value.magnitude <= Quantised.magnitudeMax
            values[index] = value
        }
        return areAllUsable
    }
}
