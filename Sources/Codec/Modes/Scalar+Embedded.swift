// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Kernels

/// Refinements of embedded sections (docs/container-format.md, section 9).
extension Scalar {
    /// Encodes the refinements of the section that `encode` has just encoded. False when they make
    /// it larger than `byteCountMax`; then `list` is as it was.
    func encodeRefinements(into list: RefinementList, byteCountMax: Int) -> Bool {
        guard let embedded else { return true }
        let start = list.mark
        var rest = byteCountMax
        // Symbols of embedded sections stand elsewhere.
        let states = memory.packed.prefix(RANS.stateByteCount)
        for (index, coded) in embedded.refinements.enumerated() {
            let words = RANS.encode(
                coded, rowCount: rows.count, packed: refinement(index + 1), area: memory.words,
                states: states)
            let room = list.room(StreamHeader.byteCount + words.count)
            let header = StreamHeader(wordByteCount: words.count, escapeCount: 0)
            header.encode(into: room)
            StreamHeader.states(room).copy(from: states)
            header.words(room).copy(from: words)
            list.append(
                layer: shape.layer, shape.kind, refinement: index + 1,
                byteCount: StreamHeader.byteCount + words.count)
            rest -= StreamHeader.byteCount + words.count
        }
        if rest < 0 { list.cut(to: start) }
        return rest >= 0
    }

    /// Decodes the symbols of refinements behind those of the section, which are there.
    func decodeRefinements(_ sections: [PinnedBytes]) throws(CodecFault) {
        guard !sections.isEmpty else { return }
        guard let embedded, sections.count <= embedded.refinements.count else { throw .section }
        let byteCount = columns.coded.packedByteCount(rowCount: rows.count)
        let contexts = memory.words.prefix(byteCount)
        for (index, section) in sections.enumerated() {
            let header = try StreamHeader(section, restByteCount: 0)
            guard header.escapeCount == 0 else { throw .section }
            RANS.fillContexts(
                contexts, base: packed.prefix(byteCount),
                first: index == 0 ? nil : refinement(index).prefix(byteCount))
            let found = RANS.decode(
                embedded.refinements[index], contexts: contexts, rowCount: rows.count,
                states: StreamHeader.states(section), words: header.words(section),
                into: refinement(index + 1))
            guard found == 0 else { throw .section }
        }
    }

    /// Symbols of a refinement, 1 or 2.
    private func refinement(_ number: Int) -> PinnedBytes {
        memory.embedded.dropFirst(number * memory.embeddedStride)
    }
}

/// Sections of refinements, which stand in a container behind those of all layers. Memory grows as
/// they come. Confined to its owner.
final class RefinementList {
    private struct Entry {
        let layer: Int
        let kind: KVKind
        let refinement: Int
        let bytes: Range<Int>
    }

    private var entries: [Entry] = []
    private var memory = OwnedBytes(count: 64)
    private var end: Int { entries.last?.bytes.upperBound ?? 0 }

    /// How many sections there are.
    var mark: Int { entries.count }

    /// Memory for the next section; what it holds until `append` is lost with the next call.
    func room(_ byteCount: Int) -> PinnedBytes {
        if memory.bytes.count < end + byteCount {
            let larger = OwnedBytes(count: 2 * (end + byteCount))
            larger.bytes.copy(from: memory.bytes.prefix(end))
            memory = larger
        }
        return memory.bytes.slice(offset: end, count: byteCount)
    }

    /// Takes the first `byteCount` bytes of `room` as a section.
    func append(layer: Int, _ kind: KVKind, refinement: Int, byteCount: Int) {
        entries.append(
            Entry(layer: layer, kind: kind, refinement: refinement, bytes: end..<end + byteCount))
    }

    /// Forgets all sections from the `mark`-th on.
    func cut(to mark: Int) {
        entries.removeSubrange(mark...)
    }

    /// Appends all sections to a container in their order, the first refinement of all layers
    /// before the second. Throws `targetTooSmall`.
    func append(to writer: inout ContainerWriter) throws(CodecFault) {
        for refinement in 1...EmbeddedColumns.refinementCountMax {
            for entry in entries where entry.refinement == refinement {
                let section = memory.bytes.slice(
                    offset: entry.bytes.lowerBound, count: entry.bytes.count)
                guard section.count <= writer.room.count else { throw .targetTooSmall }
                writer.room.copy(from: section)
                writer.append(
                    SectionPart(entry.kind), number: entry.layer, refinement: refinement, .scalar,
                    byteCount: section.count)
            }
        }
    }
}
