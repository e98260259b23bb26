// SPDX-License-Identifier: Apache-2.0
internal import CKernels
package import KVCore

/// Channels of a head that turn with the position. A value.
package struct RotatedChannels: Hashable, Sendable {
    package let first: Int
    package let pairCount: Int
    /// Counted from `first`: channel 2i turns with 2i + 1, not i with i + pairCount.
    package let isInterleaved: Bool

    package init(first: Int, pairCount: Int, isInterleaved: Bool) {
        self.first = first
        self.pairCount = pairCount
        self.isInterleaved = isInterleaved
    }

    /// No channel.
    package static let none = RotatedChannels(first: 0, pairCount: 0, isInterleaved: false)

    /// The place in which kernels keep a channel: the first channels of all pairs stand before the
    /// second ones.
    func workChannel(of channel: Int) -> Int {
        let offset = channel - first
        guard isInterleaved, offset >= 0, offset < 2 * pairCount else { return channel }
        return first + offset / 2 + (offset.isMultiple(of: 2) ? 0 : pairCount)
    }

    /// The inverse of `workChannel`.
    func channel(ofWork channel: Int) -> Int {
        let offset = channel - first
        guard isInterleaved, offset >= 0, offset < 2 * pairCount else { return channel }
        return first + (offset < pairCount ? 2 * offset : 2 * (offset - pairCount) + 1)
    }
}

/// How one layer's K or V is coded in cells of a step around a mean (mode scalar). Immutable; any
/// thread. All arrays are by column: head after head, channels in their order.
package final class ScaledColumns: Sendable {
    package struct Column: Hashable, Sendable {
        package let mean: Float
        package let step: Float
        /// Place of its table.
        package let table: Int

        package init(mean: Float, step: Float, table: Int) {
            self.mean = mean
            self.step = step
            self.table = table
        }
    }

    /// What is known of a section's rows from outside. A value; the owner keeps the angles.
    package struct Angles {
        /// [row][pair], `Float`.
        package let cosines: PinnedBytes
        package let sines: PinnedBytes

        package init(cosines: PinnedBytes, sines: PinnedBytes) {
            self.cosines = cosines
            self.sines = sines
        }

        /// Without the first `count` angles.
        package func dropFirst(_ count: Int) -> Angles {
            Angles(cosines: cosines.dropFirst(4 * count), sines: sines.dropFirst(4 * count))
        }
    }

    /// Where the refinements of an embedded section stand, beside its packed symbols. A value.
    struct Refinements {
        /// Bytes from the symbols to the first refinement, and from there to the second.
        let stride: Int
        /// To decode: how many are looked at.
        var count = 0
        /// To decode: whose steps are those of escapes.
        var escapeColumns: ScaledColumns?
    }

    /// No cell's value is larger: a mean and 2^24 steps.
    package let magnitudeMax: Float
    package let headWidth: Int
    package let rotated: RotatedChannels
    /// Columns in work order.
    package let coded: CodedColumns
    private let means: [Float]
    private let steps: [Float]
    private let inverseSteps: [Float]
    private let lowest: [Int32]
    private let highest: [Int32]

    /// Columns of heads of `headWidth` channels, coded in `order`. Values are finite, steps > 0.
    package init(
        _ columns: [Column], order: [Int], tables: SymbolTables, headWidth: Int,
        rotated: RotatedChannels = .none
    ) {
        invariant(columns.count.isMultiple(of: headWidth), "whole heads")
        invariant(rotated.first + 2 * rotated.pairCount <= headWidth, "pairs lie within a head")
        self.headWidth = headWidth
        self.rotated = rotated
        magnitudeMax = columns.reduce(0) { max($0, $1.mean.magnitude + 0x1p24 * $1.step) }
        func column(ofWork column: Int) -> Int {
            let (head, channel) = column.quotientAndRemainder(dividingBy: headWidth)
            return head * headWidth + rotated.channel(ofWork: channel)
        }
        let work = columns.indices.map { columns[column(ofWork: $0)] }
        let workOrder = order.map { column in
            let (head, channel) = column.quotientAndRemainder(dividingBy: headWidth)
            return head * headWidth + rotated.workChannel(of: channel)
        }
        coded = CodedColumns(tables, tableOfColumn: work.map(\.table), order: workOrder)
        means = work.map(\.mean)
        steps = work.map(\.step)
        inverseSteps = work.map { 1 / $0.step }
        // Without a known symbol everything is outside.
        lowest = work.map { Int32(tables.tables[$0.table].symbols?.lowerBound ?? 1) }
        highest = work.map { Int32(tables.tables[$0.table].symbols?.upperBound ?? 0) }
    }

    /// The same columns, with tables for something else of them, by column.
    func coded(_ tables: SymbolTables, tableOfColumn: [Int]) -> CodedColumns {
        let work = tableOfColumn.indices.map { column in
            let (head, channel) = column.quotientAndRemainder(dividingBy: headWidth)
            return tableOfColumn[head * headWidth + rotated.channel(ofWork: channel)]
        }
        return CodedColumns(
            tables, tableOfColumn: work,
            order: coded.columnAt.prefix(coded.columnCount).map { Int($0) })
    }

    /// The same columns with other channels turning. Allocates: to be kept if that happens often.
    package func turning(_ rotated: RotatedChannels) -> ScaledColumns {
        func work(_ column: Int) -> Int {
            let (head, channel) = column.quotientAndRemainder(dividingBy: headWidth)
            return head * headWidth + self.rotated.workChannel(of: channel)
        }
        let columns = means.indices.map { column in
            Column(
                mean: means[work(column)], step: steps[work(column)],
                table: coded.table(of: work(column)))
        }
        let order = (0..<columns.count).map { place in
            let (head, channel) = Int(coded.columnAt[place]).quotientAndRemainder(
                dividingBy: headWidth)
            return head * headWidth + self.rotated.channel(ofWork: channel)
        }
        return ScaledColumns(
            columns, order: order, tables: coded.tables, headWidth: headWidth, rotated: rotated)
    }

    /// Turns K back, where it is rotated, and quantises it into packed symbols, and lists escapes
    /// by place in `escapes`, as many as have room. `inverseFactors`: of each row a `Float`, one
    /// over what multiplies its steps; nil: 1.
    ///
    /// The number of escapes; nil when there are too many, or a value is not finite or 2^24 steps
    /// or more from its mean.
    package func quantise(
        _ tensor: TensorView, angles: Angles? = nil, inverseFactors: PinnedBytes? = nil,
        into packed: PinnedBytes, escapes: PinnedBytes, width: KernelWidth = .widest
    ) -> Int? {
        quantise(
            tensor, angles: angles, inverseFactors: inverseFactors, into: packed,
            refinements: nil, escapes: escapes, width: width)
    }

    func quantise(
        _ tensor: TensorView, angles: Angles?, inverseFactors: PinnedBytes?,
        into packed: PinnedBytes, refinements: Refinements?, escapes: PinnedBytes,
        width: KernelWidth
    ) -> Int? {
        check(tensor, angles, inverseFactors)
        invariant(
            hasRoom(packed, for: tensor, refinements, count: refinements == nil ? 0 : 2),
            "symbols of all rows")
        invariant(tensor.shape.element.byteCount > 1, "a type that kernels read")
        let limit = escapes.count / EscapeList.entryByteCount
        let count = unsafe withScaled(
            angles, inverseFactors, scales: inverseSteps, refinements
        ) { scaled in
            unsafe tensor.withTensor { tensor in
                // SAFETY: `check` has compared all counts; escapes have room for `limit`.
                unsafe ckernels_scaled_quantise(
                    width.rawValue, tensor, scaled,
                    packed.start.assumingMemoryBound(to: UInt32.self),
                    escapes.start.assumingMemoryBound(to: ckernels_escape.self), limit)
            }
        }
        guard count >= 0 else { return nil }
        if rotated.isInterleaved { rename(escapes, count: Int(count), rotated.channel(ofWork:)) }
        EscapeList.sort(escapes, count: Int(count))
        return Int(count)
    }

    /// Turns K back, where it is rotated, and writes for each row the sum of the squares of its
    /// values, in steps from their means, to `sums`: a `Float` each.
    package func squares(
        _ tensor: TensorView, angles: Angles? = nil, into sums: PinnedBytes,
        width: KernelWidth = .widest
    ) {
        check(tensor, angles, sums)
        invariant(tensor.shape.element.byteCount > 1, "a type that kernels read")
        unsafe withScaled(angles, nil, scales: inverseSteps, nil) { scaled in
            unsafe tensor.withTensor { tensor in
                // SAFETY: `check` has compared all counts, that of the sums too.
                unsafe ckernels_scaled_squares(
                    width.rawValue, tensor, scaled, sums.start.assumingMemoryBound(to: Float.self))
            }
        }
    }

    /// Writes the tensor that packed symbols in coding order stand for, and then the values of the
    /// first `escapeCount` entries of `escapes`, whose order it may change. `factors`: of each row
    /// a `Float`, what multiplies its steps; nil: 1.
    ///
    /// False when the list does not name escapes by rising place.
    package func restore(
        _ packed: PinnedBytes, angles: Angles? = nil, factors: PinnedBytes? = nil,
        escapes: PinnedBytes, escapeCount: Int, into tensor: TensorView,
        width: KernelWidth = .widest
    ) -> Bool {
        restore(
            packed, refinements: nil, angles: angles, factors: factors, escapes: escapes,
            escapeCount: escapeCount, into: tensor, width: width)
    }

    func restore(
        _ packed: PinnedBytes, refinements: Refinements?, angles: Angles?, factors: PinnedBytes?,
        escapes: PinnedBytes, escapeCount: Int, into tensor: TensorView, width: KernelWidth
    ) -> Bool {
        check(tensor, angles, factors)
        invariant(
            hasRoom(packed, for: tensor, refinements, count: refinements?.count ?? 0),
            "symbols of all rows")
        invariant(
            tensor.shape.element != .int8 || refinements?.count ?? 0 == 0,
            "refined symbols are no bytes")
        invariant(tensor.shape.element != .float8, "a type that kernels write")
        invariant(
            escapes.count >= escapeCount * EscapeList.entryByteCount, "all listed escapes")
        if rotated.isInterleaved {
            guard isRising(escapes, count: escapeCount) else { return false }
            rename(escapes, count: escapeCount, rotated.workChannel(of:))
            EscapeList.sort(escapes, count: escapeCount)
        }
        return unsafe withScaled(angles, factors, scales: steps, refinements) { scaled in
            unsafe tensor.withTensor { tensor in
                // SAFETY: `check` has compared all counts; the patch checks the list.
                let symbols = unsafe packed.start.assumingMemoryBound(to: UInt32.self)
                unsafe ckernels_scaled_restore(width.rawValue, tensor, scaled, symbols)
                return unsafe ckernels_scaled_patch(
                    tensor, scaled, symbols,
                    escapes.start.assumingMemoryBound(to: ckernels_escape.self), escapeCount) == 0
            }
        }
    }

    /// Whether symbols and the first `count` refinements lie within their bytes.
    private func hasRoom(
        _ packed: PinnedBytes, for tensor: TensorView, _ refinements: Refinements?, count: Int
    ) -> Bool {
        let byteCount = coded.packedByteCount(rowCount: tensor.shape.rowCount)
        let stride = refinements?.stride ?? 0
        return packed.count >= count * stride + byteCount && stride.isMultiple(of: 4)
            && (count == 0 || stride >= byteCount)
    }

    /// `rowNumbers`: a `Float` for each row, where there are any.
    private func check(_ tensor: TensorView, _ angles: Angles?, _ rowNumbers: PinnedBytes?) {
        let rows = tensor.shape.rowCount
        let angleByteCount = 4 * rows * rotated.pairCount
        invariant(
            tensor.shape.headWidth == headWidth
                && tensor.shape.columnCount == coded.columnCount, "the tensor has these columns")
        invariant(
            rotated.pairCount == 0
                || angles.map { min($0.cosines.count, $0.sines.count) } ?? 0 >= angleByteCount,
            "angles of all rows")
        invariant(rowNumbers.map { $0.count >= 4 * rows } ?? true, "a number for each row")
    }

    /// Runs `body` with the columns as C knows them.
    private func withScaled<Result>(
        _ angles: Angles?, _ factors: PinnedBytes?, scales: [Float],
        _ refinements: Refinements?,
        _ body: (UnsafePointer<ckernels_scaled_columns>) -> Result
    ) -> Result {
        let escapeSteps = refinements?.escapeColumns?.steps ?? scales
        // SAFETY: the arrays outlive the call, and kernels keep no pointer.
        return unsafe means.withUnsafeBufferPointer { means in
            unsafe scales.withUnsafeBufferPointer { scales in
                unsafe lowest.withUnsafeBufferPointer { lowest in
                    unsafe highest.withUnsafeBufferPointer { highest in
                        unsafe coded.positions.withUnsafeBufferPointer { positions in
                            var scaled = unsafe ckernels_scaled_columns(
                                means: means.baseAddress, scales: scales.baseAddress,
                                lowest: lowest.baseAddress, highest: highest.baseAddress,
                                positions: positions.baseAddress,
                                rotated_width: UInt32(2 * rotated.pairCount),
                                rotated_from: UInt32(rotated.first),
                                is_interleaved: rotated.isInterleaved ? 1 : 0,
                                cosines: angles?.cosines.start.assumingMemoryBound(to: Float.self),
                                sines: angles?.sines.start.assumingMemoryBound(to: Float.self),
                                factors: factors?.start.assumingMemoryBound(to: Float.self),
                                pitch: UInt32(coded.pitch),
                                refinement_count: UInt32(refinements?.count ?? 0),
                                refinement_stride: (refinements?.stride ?? 0) / 4,
                                escape_scales: nil)
                            return unsafe escapeSteps.withUnsafeBufferPointer { steps in
                                unsafe scaled.escape_scales = steps.baseAddress
                                return unsafe withUnsafePointer(to: &scaled) { unsafe body($0) }
                            }
                        }
                    }
                }
            }
        }
    }

    /// Names the channels of escapes in another order.
    private func rename(_ list: PinnedBytes, count: Int, _ channel: (Int) -> Int) {
        for index in 0..<count {
            let place = Int(list.load(UInt32.self, at: index * EscapeList.entryByteCount))
            let old = place % headWidth
            list.store(
                UInt32(truncatingIfNeeded: place - old + channel(old)),
                at: index * EscapeList.entryByteCount)
        }
    }

    private func isRising(_ list: PinnedBytes, count: Int) -> Bool {
        var last = -1
        for index in 0..<count {
            let place = Int(list.load(UInt32.self, at: index * EscapeList.entryByteCount))
            guard place > last else { return false }
            last = place
        }
        return true
    }
}
