// SPDX-License-Identifier: Apache-2.0
package import KVCore
internal import Kernels

/// Lays a container out in a caller's memory, section by section. Confined to its owner.
///
/// A section is written into `room`, at its place, and then `append`ed; `finish` writes directory
/// and header. All sections of a container are announced beforehand.
package struct ContainerWriter: ~Copyable {
    private let target: PinnedBytes
    private let sectionCount: Int
    private var appendedCount = 0
    private var end: Int

    /// A container of exactly `sectionCount` sections at the start of `target`.
    package init(_ target: PinnedBytes, sectionCount: Int) throws(CodecFault) {
        invariant(sectionCount > 0 && sectionCount <= UInt16.max, "sections fit a directory")
        end = ContainerHeader.byteCount + sectionCount * SectionEntry.byteCount
        guard target.count >= end else { throw .targetTooSmall }
        self.target = target
        self.sectionCount = sectionCount
    }

    /// Where the next section goes: all that is left of the target.
    package var room: PinnedBytes {
        target.dropFirst(min(SectionEntry.place(behind: end), target.count))
    }

    /// Takes the first `byteCount` bytes of `room` as the next section.
    package mutating func append(
        _ part: SectionPart, number: Int = 0, refinement: Int = 0, _ method: SectionMethod,
        byteCount: Int
    ) {
        invariant(appendedCount < sectionCount, "no more sections than announced")
        let section = room.prefix(byteCount)
        let offset = SectionEntry.place(behind: end)
        target.slice(offset: end, count: offset - end).fill(0)
        let entry = SectionEntry(
            offset: offset, byteCount: byteCount, checksum: section.withBytes(Checksum.short),
            number: number, part: part, refinement: refinement, method: method)
        let place = ContainerHeader.byteCount + appendedCount * SectionEntry.byteCount
        entry.encode(into: target.slice(offset: place, count: SectionEntry.byteCount))
        appendedCount += 1
        end = offset + byteCount
    }

    /// Takes a copy of `bytes` as the next section.
    package mutating func append(
        _ part: SectionPart, number: Int = 0, copyOf bytes: PinnedBytes
    ) throws(CodecFault) {
        guard bytes.count <= room.count else { throw .targetTooSmall }
        room.copy(from: bytes)
        append(part, number: number, .raw, byteCount: bytes.count)
    }

    /// Writes the header. The container's byte count.
    package consuming func finish(_ header: ContainerHeader) -> Int {
        invariant(appendedCount == sectionCount, "every announced section was appended")
        var header = header
        header.sectionCount = sectionCount
        header.encode(into: target)
        let directoryEnd = ContainerHeader.byteCount + sectionCount * SectionEntry.byteCount
        let checksum = target.slice(offset: 8, count: directoryEnd - 8)
            .withBytes(Checksum.short)
        target.store(checksum, at: 4)
        return end
    }
}
