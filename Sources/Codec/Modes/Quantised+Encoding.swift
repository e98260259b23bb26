// SPDX-License-Identifier: Apache-2.0
internal import Glibc
internal import KVCore

extension Quantised {
    /// Encodes the bits in `workspace` into `room`; the section's byte count. Nil when the values
    /// cannot be quantised (not finite, too large, too many escapes) or `room` is too small: then
    /// another method has to do. `rotation`: K is stored before RoPE where the layer turns.
    static func encode(
        _ shape: SectionShape, into room: PinnedBytes, _ rule: LayerRule, rotation: Rotation?,
        origin: UInt64, _ workspace: CodecWorkspace
    ) -> Int? {
        guard shape.rowCount > shape.exactRowCount, workspace.widen(shape) else { return nil }
        let set = shape.kind == .keys ? rotation?.setOfLayer[shape.layer] : nil
        if let rotation, let set {
            workspace.turn(shape, rotation, set: set, origin: origin, .backward)
        }
        let width = min(frameColumnCount, shape.columnCount)
        let frameCount = (shape.columnCount - 1) / width + 1
        let places = Places(
            shape, hasRowCodes: rule.rowExponent > 0, frameCount: frameCount)
        guard room.count >= places.frames,
            let baseStep = workspace.measure(shape, rule)
        else { return nil }
        workspace.columns.computeSteps(
            count: shape.columnCount, base: baseStep, slope: rule.slope)
        room.prefix(headerByteCount).fill(0)
        var flags = set == nil ? 0 : hasRotation
        if rule.rowExponent > 0 { flags |= hasRowCodes }
        room.store(flags, at: 0)
        room.store(rule.slope, at: 1)
        room.store(UInt16(width), at: 2)
        room.store(baseStep.bitPattern, at: 4)
        workspace.store(
            rows: 0..<shape.exactRowCount, shape, into: room.dropFirst(headerByteCount))
        storeColumns(shape, places, rule, into: room, workspace)
        var end = places.frames
        workspace.escapes.removeAll(keepingCapacity: true)
        for frame in 0..<frameCount {
            let columns = frame * width..<min((frame + 1) * width, shape.columnCount)
            guard
                let field = encodeFrame(columns, shape, into: room.dropFirst(end), workspace)
            else { return nil }
            room.store(field, at: places.frameFields + 4 * frame)
            end += Int(field & ~pairs)
        }
        return storeEscapes(into: room, at: end, workspace)
    }

    private static func storeColumns(
        _ shape: SectionShape, _ places: Places, _ rule: LayerRule, into room: PinnedBytes,
        _ workspace: CodecWorkspace
    ) {
        for column in 0..<shape.columnCount {
            let mean = workspace.columns.means[column].bitPattern >> 16
            room.store(UInt16(mean), at: places.means + 2 * column)
            room.store(workspace.columns.codes[column], at: places.codes + column)
        }
        guard rule.rowExponent > 0 else { return }
        for row in 0..<shape.rowCount - shape.exactRowCount {
            let code = code(of: workspace.columns.rowFactors[row])
            room.store(code, at: places.rowCodes + row)
            workspace.columns.rowFactors[row] = rowFactor(code: code)
        }
    }

    /// The code nearest to a spread that is `ratio` times the usual one.
    static func code(of ratio: Float) -> UInt8 {
        let code = codeCentre + 8 * log2(max(ratio, 0x1p-20))
        return UInt8(max(0, min(255, code.rounded())))
    }

    /// Quantises and packs the columns at `columns` of the order. The frame's field, or nil.
    private static func encodeFrame(
        _ columns: Range<Int>, _ shape: SectionShape, into room: PinnedBytes,
        _ workspace: CodecWorkspace
    ) -> UInt32? {
        let count = columns.count * (shape.rowCount - shape.exactRowCount)
        guard let wideCount = workspace.quantise(columns, shape) else { return nil }
        // A few values beyond half a byte are worth a place in the list each.
        let hasPairs = wideCount * 512 <= count
        var byteCount = count
        if hasPairs {
            guard workspace.listWideSymbols(columns, shape) else { return nil }
            packPairs(workspace.symbols, count: count)
            byteCount = (count + 1) / 2
        }
        let bytes = workspace.symbols.prefix(byteCount)
        let flag = hasPairs ? pairs : 0
        let frameRoom = room.prefix(min(room.count, byteCount - 1))
        if let packed = workspace.zstd.pack(bytes, into: frameRoom, .symbols) {
            return UInt32(packed) | flag
        }
        guard room.count >= byteCount else { return nil }
        room.copy(from: bytes)
        return UInt32(byteCount) | flag
    }

    /// Puts each two symbols, signed halves, into a byte.
    private static func packPairs(_ symbols: PinnedBytes, count: Int) {
        for index in 0..<count / 2 {
            let (low, high) = (symbols.bits(1, at: 2 * index), symbols.bits(1, at: 2 * index + 1))
            symbols.setBits(low & 15 | high << 4, 1, at: index)
        }
        if !count.isMultiple(of: 2) { symbols.store(symbols[count - 1] & 15, at: count / 2) }
    }

    private static func storeEscapes(
        into room: PinnedBytes, at end: Int, _ workspace: CodecWorkspace
    ) -> Int? {
        let byteCount = escapeByteCount * workspace.escapes.count
        guard room.count - end >= byteCount else { return nil }
        workspace.escapes.sort { $0.place < $1.place }
        room.store(UInt32(workspace.escapes.count), at: 8)
        var place = end
        for escape in workspace.escapes {
            room.store(escape.place, at: place)
            room.store(escape.symbol, at: place + 4)
            place += escapeByteCount
        }
        return place
    }
}

extension CodecWorkspace {
    /// Finds means, spreads, codes, order and row factors of the values. The base step; nil when
    /// it would be larger than a section can say.
    func measure(_ shape: SectionShape, _ rule: Quantised.LayerRule) -> Float? {
        let rows = shape.exactRowCount..<shape.rowCount
        columns.measure(values, rows, columnCount: shape.columnCount)
        let valueCount = Double(rows.count * shape.columnCount)
        let sum = columns.squares[..<shape.columnCount].reduce(0, +)
        let rms = (sum / valueCount).squareRoot()
        for column in 0..<shape.columnCount {
            let spread = (columns.squares[column] / Double(rows.count)).squareRoot()
            columns.codes[column] = Quantised.code(of: rms > 0 ? Float(spread / rms) : 1)
        }
        columns.sort(count: shape.columnCount)
        columns.measureRows(
            values, rows, columnCount: shape.columnCount, rms: rms, exponent: rule.rowExponent)
        let step = Float(rms) * rule.step
        return step <= Quantised.stepMax ? max(step, Quantised.stepMin) : nil
    }

    /// Quantises the columns at `places` of the order into symbols, column by column, and lists
    /// what does not fit a byte. How many do not fit half a byte; nil: too much to list.
    func quantise(_ places: Range<Int>, _ shape: SectionShape) -> Int? {
        let first = shape.exactRowCount * shape.columnCount
        let rowCount = shape.rowCount - shape.exactRowCount
        let (values, symbols, columns) = (values, symbols, columns)
        var wideCount = 0
        var target = 0
        for place in places {
            let column = Int(columns.order[place])
            let (mean, step) = (columns.means[column], columns.steps[column])
            var index = column
            for row in 0..<rowCount {
                let steps = (values[first + index] - mean) / (step * columns.rowFactors[row])
                if steps.magnitude > 7.5 { wideCount += 1 }
                if steps.magnitude <= 127 {
                    // Adding 1.5 × 2^23 rounds to a whole number, to nearest even.
                    let rounded = (steps + 0x1.8p23).bitPattern
                    symbols.setBits(rounded, 1, at: target)
                } else {
                    guard steps.magnitude <= Float(Quantised.symbolMax),
                        escapes.count < shape.valueCount / Escape.shareMax
                    else { return nil }
                    symbols.setBits(0x80, 1, at: target)
                    escapes.append(
                        Escape(place: UInt32(index), symbol: Int32(steps.rounded())))
                }
                target += 1
                index += shape.columnCount
            }
        }
        return wideCount
    }

    /// Makes escapes of the symbols that do not fit half a byte. False: too much to list.
    func listWideSymbols(_ places: Range<Int>, _ shape: SectionShape) -> Bool {
        let symbols = symbols
        var target = 0
        for place in places {
            var index = Int(columns.order[place])
            for _ in 0..<shape.rowCount - shape.exactRowCount {
                let symbol = Int8(truncatingIfNeeded: symbols.bits(1, at: target))
                if symbol < -7 || symbol > 7 {
                    if symbol != -128 {
                        guard escapes.count < shape.valueCount / Escape.shareMax else {
                            return false
                        }
                        escapes.append(Escape(place: UInt32(index), symbol: Int32(symbol)))
                    }
                    symbols.setBits(0xf8, 1, at: target)
                }
                target += 1
                index += shape.columnCount
            }
        }
        return true
    }
}

extension ColumnStatistics {
    /// Means of the columns, rounded as a section has them, and sums of squares around them.
    fileprivate mutating func measure(_ values: Floats, _ rows: Range<Int>, columnCount: Int) {
        for column in 0..<columnCount {
            means[column] = 0
            squares[column] = 0
        }
        for row in rows {
            let first = row * columnCount
            for column in 0..<columnCount { means[column] += values[first + column] }
        }
        for column in 0..<columnCount {
            let mean = means[column] / Float(rows.count)
            let clamped = max(-Quantised.magnitudeMax, min(Quantised.magnitudeMax, mean))
            let bits = ValueType.bfloat16.narrowed(clamped)
            means[column] = ValueType.bfloat16.widened(bits)
        }
        for row in rows {
            let first = row * columnCount
            for column in 0..<columnCount {
                let difference = Double(values[first + column] - means[column])
                squares[column] += difference * difference
            }
        }
    }

    /// Of each row its spread over the usual one, to the power of `exponent`; 1 for 0.
    fileprivate mutating func measureRows(
        _ values: Floats, _ rows: Range<Int>, columnCount: Int, rms: Double, exponent: Float
    ) {
        rowFactors.removeAll(keepingCapacity: true)
        for row in rows {
            guard exponent > 0, rms > 0 else {
                rowFactors.append(1)
                continue
            }
            let first = row * columnCount
            var sum = 0.0
            for column in 0..<columnCount {
                let difference = Double(values[first + column] - means[column])
                sum += difference * difference
            }
            let ratio = (sum / Double(columnCount)).squareRoot() / rms
            rowFactors.append(pow(Float(ratio), exponent))
        }
    }
}
