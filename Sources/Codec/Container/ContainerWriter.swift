// SPDX-License-Identifier: Apache-2.0
package import KVCore
internal import Kernels

/// Lays a container out in a caller's memory, section by section. Confined to its owner.
///
/// A section is written into `room`, at its place, and then `append`ed; `finish` writes directory
/// and header. How many sections there are at most is announced beforehand.
package struct ContainerWriter: ~Copyable {
    private let target: PinnedBytes
    private let sectionCount: Int
    private var appendedCount = 0
    private var end: Int

    /// A container of at most `sectionCount` sections at the start of `target`.
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

    /// Writes the header. The container's byte count. Fewer sections than were announced are moved
    /// to where their directory ends.
    package consuming func finish(_ header: ContainerHeader) -> Int {
        invariant(appendedCount > 0, "a container has a section")
        var header = header
        header.sectionCount = appendedCount
        let directoryEnd = ContainerHeader.byteCount + appendedCount * SectionEntry.byteCount
        let first = SectionEntry.place(
            behind: ContainerHeader.byteCount + sectionCount * SectionEntry.byteCount)
        move(by: first - SectionEntry.place(behind: directoryEnd), from: first)
        header.encode(into: target)
        let checksum = target.slice(offset: 8, count: directoryEnd - 8)
            .withBytes(Checksum.short)
        target.store(checksum, at: 4)
        return end
    }

    /// Moves all sections, the first of which stands at `first`, towards the start.
    private mutating func move(by distance: Int, from first: Int) {
        guard distance > 0 else { return }
        for index in 0..<appendedCount {
            let place = ContainerHeader.byteCount + index * SectionEntry.byteCount
            let offset = Int(target.load(UInt32.self, at: place))
            target.store(UInt32(offset - distance), at: place)
        }
        // In steps that do not overlap, the earlier ones first.
        var from = first
        while from < end {
            let count = min(distance, end - from)
            target.slice(offset: from - distance, count: count)
                .copy(from: target.slice(offset: from, count: count))
            from += count
        }
        end -= distance
        let directoryEnd = ContainerHeader.byteCount + appendedCount * SectionEntry.byteCount
        target.slice(offset: directoryEnd, count: first - distance - directoryEnd).fill(0)
    }
}
