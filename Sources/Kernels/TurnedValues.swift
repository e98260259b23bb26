// SPDX-License-Identifier: Apache-2.0
internal import CKernels
package import KVCore

/// Tensors to rows of numbers before RoPE and back, columns in natural order, in panels of 64
/// columns (mode predictive). A value; the owner keeps the angles.
package struct TurnedValues {
    package let rotated: RotatedChannels
    /// [row][pair]; nil when nothing turns.
    package let angles: ScaledColumns.Angles?

    package init(_ rotated: RotatedChannels, _ angles: ScaledColumns.Angles?) {
        self.rotated = rotated
        self.angles = angles
    }

    /// The same of rows from `row` on.
    package func dropFirst(_ row: Int) -> TurnedValues {
        TurnedValues(rotated, angles?.dropFirst(row * rotated.pairCount))
    }

    /// Turns a tensor back into `values`. Whether all are finite, and no larger than 2^80.
    package func load(
        _ tensor: TensorView, into values: PinnedBytes, width: KernelWidth = .widest
    ) -> Bool {
        let panelCount = check(tensor, values)
        return unsafe withTurns { turns in
            unsafe tensor.withTensor { tensor in
                // SAFETY: `check` has compared all counts.
                unsafe ckernels_values_load(
                    width.rawValue, tensor, turns, panelCount,
                    values.start.assumingMemoryBound(to: Float.self)) != 0
            }
        }
    }

    /// Turns `values`, and rounds them into a tensor.
    package func store(
        _ values: PinnedBytes, into tensor: TensorView, width: KernelWidth = .widest
    ) {
        let panelCount = check(tensor, values)
        unsafe withTurns { turns in
            unsafe tensor.withTensor { tensor in
                // SAFETY: `check` has compared all counts.
                unsafe ckernels_values_store(
                    width.rawValue, tensor, turns, panelCount,
                    values.start.assumingMemoryBound(to: Float.self))
            }
        }
    }

    private func check(_ tensor: TensorView, _ values: PinnedBytes) -> UInt32 {
        let (shape, panelCount) = (
            tensor.shape, WholeMatrix.panelCount(tensor.shape.columnCount)
        )
        let angleByteCount = 4 * shape.rowCount * rotated.pairCount
        invariant(
            [.float16, .bfloat16, .float32].contains(shape.element), "a type of kernels")
        invariant(
            rotated.first + 2 * rotated.pairCount <= shape.headWidth, "pairs lie within a head")
        invariant(
            rotated.pairCount == 0
                || angles.map { min($0.cosines.count, $0.sines.count) } ?? 0 >= angleByteCount,
            "angles of all rows")
        invariant(
            values.count >= 4 * shape.rowCount * panelCount * WholeMatrix.panelWidth,
            "values of all rows")
        return UInt32(panelCount)
    }

    private func withTurns<Result>(_ body: (UnsafePointer<ckernels_turns>) -> Result) -> Result {
        // SAFETY: the owner keeps the angles, and kernels keep no pointer.
        var turns = unsafe ckernels_turns(
            rotated_width: UInt32(2 * rotated.pairCount), rotated_from: UInt32(rotated.first),
            is_interleaved: rotated.isInterleaved ? 1 : 0,
            cosines: angles?.cosines.start.assumingMemoryBound(to: Float.self),
            sines: angles?.sines.start.assumingMemoryBound(to: Float.self))
        return unsafe withUnsafePointer(to: &turns) { unsafe body($0) }
    }
}

/// Symbols that stand four rows to a word, in natural order.
package enum PackedSymbols {
    /// Writes them as bytes [row][pitch], `pitch` being that of the packed words.
    package static func unpack(
        _ packed: PinnedBytes, rowCount: Int, columnCount: Int, into symbols: PinnedBytes,
        width: KernelWidth = .widest
    ) {
        let panelCount = WholeMatrix.panelCount(columnCount)
        let pitch = panelCount * WholeMatrix.panelWidth
        invariant(packed.count >= (rowCount + 3) / 4 * pitch * 4, "symbols of all rows")
        invariant(symbols.count >= rowCount * pitch, "room for symbols")
        // SAFETY: the counts were just checked.
        unsafe ckernels_unpack(
            width.rawValue, packed.start.assumingMemoryBound(to: UInt32.self), UInt32(rowCount),
            UInt32(panelCount), symbols.start.assumingMemoryBound(to: UInt8.self))
    }
}
