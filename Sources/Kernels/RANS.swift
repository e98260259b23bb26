// SPDX-License-Identifier: Apache-2.0
internal import CKernels
package import KVCore

/// 64-lane rANS with tables that are known beforehand (docs/container-format.md, section 7).
///
/// Symbols are packed, four rows to a word: byte r of word [b][c] is that of row 4b + r in column
/// c. Encoding takes columns in their own order, decoding gives them in coding order. Any thread;
/// memory comes from the caller.
package enum RANS {
    /// Bytes of the states in front of the words.
    package static let stateByteCount = 4 * 64

    /// Decodes the `words` that begin with `states` into `packed`.
    ///
    /// The number of escapes; nil when the words are not exactly those of so many rows.
    package static func decode(
        _ columns: CodedColumns, rowCount: Int, states: PinnedBytes, words: PinnedBytes,
        into packed: PinnedBytes, width: KernelWidth = .widest
    ) -> Int? {
        invariant(states.count == stateByteCount, "a state for each lane")
        invariant(packed.count >= columns.packedByteCount(rowCount: rowCount), "room for symbols")
        guard words.count.isMultiple(of: 2) else { return nil }
        // SAFETY: the counts were just checked, the words are read within theirs, and starts lie
        // within the tables by construction.
        let escapeCount = unsafe withCoded(columns, rowCount, columns.decodingStarts, .decoding) {
            unsafe ckernels_rans_decode(
                width.rawValue, $0, states.start, words.start, words.count / 2,
                packed.start.assumingMemoryBound(to: UInt32.self))
        }
        return escapeCount < 0 ? nil : Int(escapeCount)
    }

    /// The same of a refinement: each symbol's table follows from its context, a byte that stands
    /// in `contexts` where the symbol will.
    package static func decode(
        _ columns: CodedColumns, contexts: PinnedBytes, rowCount: Int, states: PinnedBytes,
        words: PinnedBytes, into packed: PinnedBytes, width: KernelWidth = .widest
    ) -> Int? {
        let byteCount = columns.packedByteCount(rowCount: rowCount)
        invariant(states.count == stateByteCount, "a state for each lane")
        invariant(packed.count >= byteCount && contexts.count >= byteCount, "room for symbols")
        invariant(columns.tables.contextCount == 4, "tables for every context")
        guard words.count.isMultiple(of: 2) else { return nil }
        // SAFETY: as above; the kernel takes two bits of a context.
        let escapeCount = unsafe withCoded(columns, rowCount, columns.decodingStarts, .decoding) {
            unsafe ckernels_rans_decode_contexts(
                width.rawValue, $0, contexts.start.assumingMemoryBound(to: UInt32.self),
                states.start, words.start, words.count / 2,
                packed.start.assumingMemoryBound(to: UInt32.self))
        }
        return escapeCount < 0 ? nil : Int(escapeCount)
    }

    /// Fills `contexts` for the refinement of packed symbols, `base`, or, with the `first`
    /// refinement, for the second. All have as many bytes.
    package static func fillContexts(
        _ contexts: PinnedBytes, base: PinnedBytes, first: PinnedBytes?
    ) {
        invariant(
            base.count == contexts.count && first.map { $0.count == base.count } ?? true
                && base.count.isMultiple(of: 4), "a context for each symbol")
        // SAFETY: the counts were just compared.
        unsafe ckernels_contexts(
            base.start.assumingMemoryBound(to: UInt32.self),
            first?.start.assumingMemoryBound(to: UInt32.self), base.count / 4,
            contexts.start.assumingMemoryBound(to: UInt32.self))
    }

    /// Encodes `packed` into the end of `area`, and the states that a decoder starts with into
    /// `states`. Every symbol has a frequency. The words.
    package static func encode(
        _ columns: CodedColumns, rowCount: Int, packed: PinnedBytes, area: PinnedBytes,
        states: PinnedBytes, width: KernelWidth = .widest
    ) -> PinnedBytes {
        let byteCount = columns.wordAreaByteCount(rowCount: rowCount)
        invariant(states.count == stateByteCount, "a state for each lane")
        invariant(packed.count >= columns.packedByteCount(rowCount: rowCount), "all symbols")
        invariant(area.count >= byteCount, "room for words")
        // SAFETY: as above; the area is as large as the kernel's bound.
        let count = unsafe withCoded(columns, rowCount, columns.encodingStarts, .encoding) {
            coded in
            unsafe columns.columnAt.withUnsafeBufferPointer { columnAt in
                unsafe ckernels_rans_encode(
                    width.rawValue, coded, packed.start.assumingMemoryBound(to: UInt32.self),
                    columnAt.baseAddress, area.start.assumingMemoryBound(to: UInt16.self),
                    states.start)
            }
        }
        return area.slice(offset: byteCount - 2 * count, count: 2 * count)
    }

    private enum Direction {
        case decoding, encoding
    }

    /// Runs `body` with the columns as C knows them.
    private static func withCoded<Result>(
        _ columns: CodedColumns, _ rowCount: Int, _ starts: [UInt32], _ direction: Direction,
        _ body: (UnsafePointer<ckernels_coded_columns>) -> Result
    ) -> Result {
        let tables = direction == .decoding ? columns.tables.decoding : columns.tables.encoding
        // SAFETY: the arrays outlive the call, and kernels keep no pointer.
        return unsafe tables.withUnsafeBufferPointer { tables in
            unsafe starts.withUnsafeBufferPointer { starts in
                var coded = unsafe ckernels_coded_columns(
                    row_count: UInt32(rowCount), group_count: UInt32(columns.groupCount),
                    tables: tables.baseAddress, table_starts: starts.baseAddress)
                return unsafe withUnsafePointer(to: &coded) { unsafe body($0) }
            }
        }
    }
}
