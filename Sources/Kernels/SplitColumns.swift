// SPDX-License-Identifier: Apache-2.0
internal import CKernels
package import KVCore

/// How one layer's K or V is coded without loss (method exponent): the high byte of each element,
/// rotated so that its sign comes last, against an offset by column. Immutable; any thread.
package final class SplitColumns: Sendable {
    package struct Column: Hashable, Sendable {
        package let offset: UInt8
        /// Place of its table.
        package let table: Int

        package init(offset: UInt8, table: Int) {
            self.offset = offset
            self.table = table
        }
    }

    /// Columns in their own order.
    package let coded: CodedColumns
    private let offsets: [UInt8]
    private let lowest: [Int32]
    private let highest: [Int32]

    package init(_ columns: [Column], tables: SymbolTables) {
        coded = CodedColumns(
            tables, tableOfColumn: columns.map(\.table), order: Array(columns.indices))
        offsets = columns.map(\.offset)
        lowest = columns.map { Int32(tables.tables[$0.table].symbols?.lowerBound ?? 1) }
        highest = columns.map { Int32(tables.tables[$0.table].symbols?.upperBound ?? 0) }
    }

    /// Bytes of what is not coded.
    package static func restByteCount(_ shape: TensorView.Shape) -> Int {
        shape.rowCount * shape.columnCount * (shape.element.byteCount - 1)
    }

    /// Splits a tensor into packed symbols and `rests`, and lists escapes by place in `escapes`.
    ///
    /// The number of escapes; nil when there are more than have room.
    package func split(
        _ tensor: TensorView, into packed: PinnedBytes, rests: PinnedBytes, escapes: PinnedBytes,
        width: KernelWidth = .widest
    ) -> Int? {
        check(tensor, packed, rests)
        let limit = escapes.count / EscapeList.entryByteCount
        let count = unsafe withSplit { columns in
            unsafe tensor.withTensor { tensor in
                // SAFETY: `check` has compared all counts; escapes have room for `limit`.
                unsafe ckernels_split(
                    width.rawValue, tensor, columns,
                    packed.start.assumingMemoryBound(to: UInt32.self),
                    rests.start.assumingMemoryBound(to: UInt8.self),
                    escapes.start.assumingMemoryBound(to: ckernels_escape.self), limit)
            }
        }
        guard count >= 0 else { return nil }
        EscapeList.sort(escapes, count: Int(count))
        return Int(count)
    }

    /// Joins packed symbols, `rests` and the first `escapeCount` entries of `escapes`.
    ///
    /// False when the list does not name escapes by rising place.
    package func join(
        _ packed: PinnedBytes, rests: PinnedBytes, escapes: PinnedBytes, escapeCount: Int,
        into tensor: TensorView, width: KernelWidth = .widest
    ) -> Bool {
        check(tensor, packed, rests)
        invariant(
            escapes.count >= escapeCount * EscapeList.entryByteCount, "all listed escapes")
        return unsafe withSplit { columns in
            unsafe tensor.withTensor { tensor in
                // SAFETY: `check` has compared all counts; the patch checks the list.
                let symbols = unsafe packed.start.assumingMemoryBound(to: UInt32.self)
                let raw = unsafe rests.start.assumingMemoryBound(to: UInt8.self)
                unsafe ckernels_join(width.rawValue, tensor, columns, symbols, raw)
                return unsafe ckernels_join_patch(
                    tensor, columns, symbols, raw,
                    escapes.start.assumingMemoryBound(to: ckernels_escape.self), escapeCount) == 0
            }
        }
    }

    private func check(_ tensor: TensorView, _ packed: PinnedBytes, _ rests: PinnedBytes) {
        let shape = tensor.shape
        invariant(shape.columnCount == coded.columnCount, "the tensor has these columns")
        invariant(shape.element != .int8, "elements, not symbols")
        invariant(
            packed.count >= coded.packedByteCount(rowCount: shape.rowCount), "symbols of all rows")
        invariant(rests.count >= Self.restByteCount(shape), "rests of all rows")
    }

    /// Runs `body` with the columns as C knows them.
    private func withSplit<Result>(
        _ body: (UnsafePointer<ckernels_split_columns>) -> Result
    ) -> Result {
        // SAFETY: the arrays outlive the call, and kernels keep no pointer.
        return unsafe offsets.withUnsafeBufferPointer { offsets in
            unsafe lowest.withUnsafeBufferPointer { lowest in
                unsafe highest.withUnsafeBufferPointer { highest in
                    var columns = unsafe ckernels_split_columns(
                        offsets: offsets.baseAddress, lowest: lowest.baseAddress,
                        highest: highest.baseAddress, pitch: UInt32(coded.pitch))
                    return unsafe withUnsafePointer(to: &columns) { unsafe body($0) }
                }
            }
        }
    }
}
