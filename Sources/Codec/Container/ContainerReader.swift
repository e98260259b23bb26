// SPDX-License-Identifier: Apache-2.0
package import KVCore
internal import Kernels

/// A container's header and directory, checked: bytes from anywhere. A value; the owner of the
/// bytes keeps them, unchanged, while it is used. Allocates for the layout alone.
///
/// The directory lists exactly the sections that docs/container-format.md, section 2, asks for, so
/// that a section is found by its place. Sections are checked when they are read.
package struct ContainerReader {
    package let header: ContainerHeader
    /// What the container's layout section says; nil in the opaque modes.
    package let layout: KVLayout?
    private let bytes: PinnedBytes

    /// Reads header, directory and layout. A `known` layout of the same id saves reading its
    /// description. Cost: a checksum of the directory, and a few comparisons per section.
    package init(_ bytes: PinnedBytes, known: KVLayout? = nil) throws(CodecFault) {
        guard bytes.count >= ContainerHeader.byteCount else { throw .truncated }
        guard bytes.load(UInt32.self, at: 0) == ContainerHeader.magic else { throw .magic }
        let sectionCount = Int(bytes.load(UInt16.self, at: 10))
        let directoryEnd = ContainerHeader.byteCount + sectionCount * SectionEntry.byteCount
        guard bytes.count >= directoryEnd else { throw .truncated }
        let checksum = bytes.slice(offset: 8, count: directoryEnd - 8).withBytes(Checksum.short)
        guard bytes.load(UInt32.self, at: 4) == checksum else { throw .checksum }
        guard bytes.load(UInt8.self, at: 8) == ContainerHeader.version else { throw .version }
        self.bytes = bytes
        header = try ContainerHeader.decode(bytes)
        let entries = SectionEntries(bytes: bytes, count: header.sectionCount)
        let end = try entries.checkedEnd(directoryEnd)
        guard bytes.count >= end else { throw .truncated }
        guard bytes.count == end else { throw .length }
        if header.mode.isOpaque {
            layout = nil
            try entries.checkPieces(of: header)
        } else {
            let layout = try Self.layout(of: header, entries, bytes, known: known)
            try entries.checkSections(of: header, layout)
            self.layout = layout
        }
    }

    package var sectionCount: Int { header.sectionCount }

    /// The entry of a section by its place in the directory; traps outside of it.
    package subscript(index: Int) -> SectionEntry {
        guard let entry = SectionEntries(bytes: bytes, count: sectionCount)[index] else {
            preconditionFailure("every entry was checked, and the bytes do not change")
        }
        return entry
    }

    /// The bytes of a section, whose checksum is right.
    package func section(_ index: Int) throws(CodecFault) -> PinnedBytes {
        try Self.section(self[index], bytes)
    }

    /// The place of a part that is there at most once; nil when it is not.
    package func index(of part: SectionPart) -> Int? {
        // Layout, rotation and rest come first.
        (0..<min(3, sectionCount)).first { self[$0].part == part }
    }

    /// The place of a layer's K or V in refinement 0. Only in modes with a layout.
    package func index(layer: Int, _ kind: KVKind) -> Int {
        guard let layout else { preconditionFailure("an opaque payload has no layers") }
        invariant(layer >= 0 && layer < header.layerCount, "a layer of the container")
        let first = (0..<4).first { self[$0].part == .keys } ?? 0
        let kinds = layout.kinds.count
        return first + layer * kinds + (kinds == 2 ? Int(kind.rawValue) : 0)
    }

    /// The place of a refinement, 1 up to `refinementCount`, of a layer's K or V, whose method is
    /// scalar.
    package func index(layer: Int, _ kind: KVKind, refinement: Int) -> Int {
        invariant(refinement > 0 && refinement <= refinementCount, "a refinement that is there")
        let base = index(layer: layer, kind)
        let first = index(layer: 0, .keys)
        let before = (first..<base).count { self[$0].method == .scalar }
        return firstRefinement + (refinement - 1) * refinedCount + before
    }

    /// How many refinements of an embedded container are there, 0 to 2; 0 of another.
    package var refinementCount: Int {
        guard header.isEmbedded, refinedCount > 0 else { return 0 }
        return (sectionCount - firstRefinement) / refinedCount
    }

    /// The place behind the sections of all layers.
    private var firstRefinement: Int {
        index(layer: 0, .keys) + header.layerCount * (layout?.kinds.count ?? 0)
    }

    /// Sections that a refinement has.
    private var refinedCount: Int {
        (index(layer: 0, .keys)..<firstRefinement).count { self[$0].method == .scalar }
    }

    /// Writes the container without its refinements behind the first `refinementCount` into the
    /// start of `target`, and returns its byte count: the same chunk at a coarser level, without
    /// decoding anything. Throws `targetTooSmall`. Only of embedded containers. Cost: a copy, and
    /// the checksums of the sections that stay.
    package func coarser(
        refinementCount count: Int, into target: PinnedBytes
    ) throws(CodecFault) -> Int {
        invariant(header.isEmbedded && count >= 0, "an embedded container can be cut")
        let kept = firstRefinement + min(count, refinementCount) * refinedCount
        var writer = try ContainerWriter(target, sectionCount: kept)
        for index in 0..<kept {
            let (entry, section) = (self[index], try section(index))
            guard section.count <= writer.room.count else { throw .targetTooSmall }
            writer.room.copy(from: section)
            writer.append(
                entry.part, number: entry.number, refinement: entry.refinement, entry.method,
                byteCount: entry.byteCount)
        }
        return writer.finish(header)
    }

    private static func section(
        _ entry: SectionEntry, _ bytes: PinnedBytes
    ) throws(CodecFault) -> PinnedBytes {
        let section = bytes.slice(offset: entry.offset, count: entry.byteCount)
        guard section.withBytes(Checksum.short) == entry.checksum else { throw .sectionChecksum }
        return section
    }

    /// The layout that the first section describes, which fits the header.
    private static func layout(
        of header: ContainerHeader, _ entries: SectionEntries, _ bytes: PinnedBytes,
        known: KVLayout?
    ) throws(CodecFault) -> KVLayout {
        guard let entry = entries[0], entry.part == .layout else { throw .directory }
        let layout: KVLayout
        if let known, known.id == header.layout {
            layout = known
        } else {
            // Longer descriptions are not read: ours have a few hundred bytes.
            guard entry.byteCount <= 65_536 else { throw .layout }
            let text = try section(entry, bytes)
            let description = (0..<text.count).map { text[$0] }
            guard let read = KVLayout(description: description), read.id == header.layout else {
                throw .layout
            }
            layout = read
        }
        guard layout.type == header.type, layout.layerCount == header.layerCount,
            layout.tokenCount(payloadByteCount: header.payloadByteCount) == header.tokenCount
        else { throw .layout }
        return layout
    }
}

/// The directory of a container whose checksum was right.
private struct SectionEntries {
    let bytes: PinnedBytes
    let count: Int

    subscript(index: Int) -> SectionEntry? {
        SectionEntry.decode(
            bytes.slice(
                offset: ContainerHeader.byteCount + index * SectionEntry.byteCount,
                count: SectionEntry.byteCount))
    }

    /// Where the last section ends: each stands right behind the one before it.
    func checkedEnd(_ directoryEnd: Int) throws(CodecFault) -> Int {
        var end = directoryEnd
        for index in 0..<count {
            guard let entry = self[index], entry.byteCount > 0,
                entry.offset == SectionEntry.place(behind: end)
            else { throw .directory }
            end = entry.offset + entry.byteCount
        }
        return end
    }

    /// That all pieces are there, and nothing else.
    func checkPieces(of header: ContainerHeader) throws(CodecFault) {
        let size = ContainerHeader.pieceByteCount
        guard count == (header.payloadByteCount + size - 1) / size else { throw .directory }
        for index in 0..<count {
            guard let entry = self[index], entry.part == .piece, entry.number == index,
                entry.refinement == 0
            else { throw .directory }
        }
    }

    /// That all sections of the layout are there, in order, and nothing else.
    func checkSections(of header: ContainerHeader, _ layout: KVLayout) throws(CodecFault) {
        var index = 1
        func takes(_ part: SectionPart) -> Bool {
            guard index < count, let entry = self[index], entry.part == part,
                entry.refinement == 0, entry.number == 0
            else { return false }
            index += 1
            return true
        }
        guard let first = self[0], first.number == 0, first.refinement == 0 else {
            throw .directory
        }
        _ = takes(.rotation)
        guard takes(.rest) == (layout.restByteCount(tokenCount: header.tokenCount) > 0) else {
            throw .directory
        }
        let base = index
        for refinement in 0...(header.isEmbedded ? 2 : 0) {
            // A container that was cut ends behind any refinement.
            if refinement > 0, index == count { return }
            for place in 0..<header.layerCount * layout.kinds.count {
                let (layer, kind) = place.quotientAndRemainder(dividingBy: layout.kinds.count)
                // Only what is coded in cells can be refined.
                if refinement > 0, self[base + place]?.method != .scalar { continue }
                guard index < count, let entry = self[index], entry.number == layer,
                    entry.part == SectionPart(layout.kinds[kind]), entry.refinement == refinement,
                    refinement == 0 || entry.method == .scalar
                else { throw .directory }
                index += 1
            }
        }
        guard index == count else { throw .directory }
    }
}
