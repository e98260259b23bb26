// SPDX-License-Identifier: Apache-2.0
package import KVCore
internal import Kernels

/// What a section of method scalar or predicted holds besides its symbols. A value; the owner of
/// the container keeps the bytes.
package struct Coefficients {
    /// Scalar or predicted.
    package let method: SectionMethod
    /// R: rows that are coded, behind the exact ones.
    package let rowCount: Int
    /// C, or N: symbols of a row.
    package let columnCount: Int
    /// The exact rows as the payload has them: values row by row, after RoPE.
    package let exactRows: PinnedBytes
    /// Two to a byte; empty where the level has none for this kind.
    package let rowCodes: PinnedBytes
    /// Of 8 bytes each, by rising place: u32 row × columns + column, and signed 32-bit q. There is
    /// one for each symbol of -128.
    package let escapes: PinnedBytes
}

extension ChunkCodec {
    /// Decodes the symbols of one layer's K or V alone, so that something else can finish them
    /// (docs/container-format.md, section 10): signed bytes [row][column], columns or coefficients
    /// in natural order, into the start of `symbols`, which has a byte for each of them. Without
    /// `symbols` it reads the section but decodes nothing, and whether the escapes are in order is
    /// not known.
    ///
    /// Nil for a section of another method, which `decode` knows. Throws `layout` for a container
    /// that has no layers, `profileUnsuitable` for an embedded one. Cost: one rANS stream; no other
    /// section is read.
    package static func coefficients(
        _ reader: ContainerReader, layer: Int, _ kind: KVKind, into symbols: PinnedBytes?,
        _ workspace: CodecWorkspace, profile: Profile?
    ) throws(CodecFault) -> Coefficients? {
        guard
            let decoder = try TensorDecoder(reader, workspace, profile, refinementCountMax: 0)
        else { throw .layout }
        return try decoder.coefficients(layer: layer, kind, into: symbols)
    }
}

extension TensorDecoder {
    fileprivate func coefficients(
        layer: Int, _ kind: KVKind, into symbols: PinnedBytes?
    ) throws(CodecFault) -> Coefficients? {
        let index = reader.index(layer: layer, kind)
        let method = reader[index].method
        guard method == .scalar || method == .predicted else { return nil }
        guard let profile else { throw .profileMissing }
        guard !reader.header.isEmbedded else { throw .profileUnsuitable }
        let level = reader.header.level
        let known =
            method == .scalar
            ? profile.index(ofScalar: level) : profile.index(ofPredictive: level)
        guard let known else { throw .profileUnsuitable }
        let shape = shape(layer: layer, kind)
        let section = try reader.section(index)
        let rowCount = shape.rowCount - shape.exactRowCount
        let codeByteCount =
            profile.levels[known].hasRowCodes(kind) ? RowCodes.byteCount(rowCount: rowCount) : 0
        let header = try StreamHeader(
            section, restByteCount: shape.exactByteCount + codeByteCount)
        guard rowCount > 0 else { throw .section }
        let escapes = header.escapes(section)
        if let symbols {
            guard symbols.count >= rowCount * shape.columnCount else { throw .targetTooSmall }
            if method == .scalar {
                let columns = profile.scaledColumns(known, layer: layer, kind)
                try decodeSymbols(section, header, columns.coded, rowCount: rowCount)
                columns.spread(workspace.kernels.packed, rowCount: rowCount, into: symbols)
            } else {
                guard let coded = profile.predictedSection(layer: layer, kind).coefficients[known]
                else { throw .profileUnsuitable }
                try decodeSymbols(section, header, coded.coded, rowCount: rowCount)
                coded.coded.spread(
                    workspace.kernels.packed, rowCount: rowCount, into: symbols
                ) { $0 }
            }
            guard hasEscapes(escapes, header.escapeCount, symbols, shape, rowCount) else {
                throw .section
            }
        }
        let rests = header.rests(section, count: shape.exactByteCount + codeByteCount)
        return Coefficients(
            method: method, rowCount: rowCount, columnCount: shape.columnCount,
            exactRows: rests.prefix(shape.exactByteCount),
            rowCodes: rests.dropFirst(shape.exactByteCount), escapes: escapes)
    }

    private func decodeSymbols(
        _ section: PinnedBytes, _ header: StreamHeader, _ columns: CodedColumns, rowCount: Int
    ) throws(CodecFault) {
        guard workspace.kernels.fits(columns, rowCount: rowCount) else { throw .workspaceTooSmall }
        let found = RANS.decode(
            columns, rowCount: rowCount, states: StreamHeader.states(section),
            words: header.words(section), into: workspace.kernels.packed)
        guard found == header.escapeCount else { throw .section }
    }

    /// Whether the list names the symbols that are escapes, by rising place.
    private func hasEscapes(
        _ escapes: PinnedBytes, _ count: Int, _ symbols: PinnedBytes, _ shape: SectionShape,
        _ rowCount: Int
    ) -> Bool {
        var last = -1
        for index in 0..<count {
            let place = Int(escapes.load(UInt32.self, at: EscapeList.entryByteCount * index))
            let value = escapes.load(Int32.self, at: EscapeList.entryByteCount * index + 4)
            guard place > last, place < rowCount * shape.columnCount,
                value.magnitude <= 1 << 24,
                symbols.load(Int8.self, at: place) == SymbolTable.escape
            else { return false }
            last = place
        }
        return true
    }
}
