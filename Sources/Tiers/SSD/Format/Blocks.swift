// SPDX-License-Identifier: Apache-2.0
package import KVCore
internal import Kernels

/// The sizes and names of docs/ssd-format.md, version 1.
package enum SSDFormat {
    package static let version: UInt32 = 1
    package static let blockByteCount = 4_096
    /// A block's number within its segment has 16 bits.
    package static let segmentBlockCountMax = 65_536
    /// Header, one record of two blocks, a footer table, a trailer.
    package static let segmentBlockCountMin = 5
    /// Sequence and serial numbers above this are no valid ones: those that follow must fit too.
    package static let numberMax: UInt64 = 1 << 62
    /// Where the checksum of a block of metadata stands.
    static let blockChecksumOffset = 4_088
    package static let identityName = "store.kvs"
    package static let identityDraftName = "store.new"
    package static let checkpointName = "checkpoint.kvs"
    package static let checkpointDraftName = "checkpoint.new"

    /// The file of the segment in `slot`.
    package static func segmentName(slot: UInt32) -> String {
        let digits = String(slot)
        return "segment-" + String(repeating: "0", count: max(0, 5 - digits.utf8.count)) + digits
            + ".kvs"
    }

    /// The slot that a file's name says; nil when it is no segment's name.
    package static func segmentSlot(name: String) -> UInt32? {
        guard name.hasPrefix("segment-"), name.hasSuffix(".kvs") else { return nil }
        let digits = name.dropFirst(8).dropLast(4)
        guard let slot = UInt32(digits), segmentName(slot: slot) == name else { return nil }
        return slot
    }

    /// Blocks that `byteCount` bytes take.
    @inlinable
    package static func blockCount(_ byteCount: Int) -> Int {
        (byteCount + blockByteCount - 1) / blockByteCount
    }

    /// Zeroed memory for blocks, aligned for O_DIRECT.
    package static func makeBlocks(_ count: Int) -> OwnedBytes {
        OwnedBytes(count: count * blockByteCount, alignment: blockByteCount)
    }
}

/// A 16-byte name: of a store, a directory, or a namespace (a tag). A value.
package struct SSDTag: Hashable, Sendable, CustomStringConvertible {
    package let words: LayoutID

    package init(_ words: LayoutID) {
        self.words = words
    }

    package init(random: () -> UInt64) {
        words = LayoutID(words: (random(), random()))
    }

    /// What stands in records for the namespace of that name.
    package init(namespace name: String) {
        let digest = secureHash(Array(name.utf8))
        func word(_ offset: Int) -> UInt64 {
            (0..<8).reduce(0) { $0 | UInt64(digest[offset + $1]) << (8 * UInt64($1)) }
        }
        words = LayoutID(words: (word(0), word(8)))
    }

    package var description: String { words.description }
}

/// Why a block or a file is not what it should be. A value.
package enum SSDFormatFault: Error, Hashable, Sendable {
    /// Not one of ours: another magic, or a checksum that does not fit.
    case notOurs
    /// Of a version that this daemon does not read.
    case version(UInt32)
    /// Of another store.
    case otherStore
    /// Ours, but contradicts itself or its place.
    case inconsistent

    package var explanation: String {
        switch self {
        case .notOurs: "it is damaged, or no file of kvstored"
        case .version(let version):
            "it has format version \(version), and this kvstored reads \(SSDFormat.version)"
        case .otherStore: "it belongs to another store"
        case .inconsistent: "it does not belong in its place"
        }
    }
}

/// Fields of a block, beside the numbers that `PinnedBytes` knows.
extension PinnedBytes {
    package func loadTag(at offset: Int) -> SSDTag { SSDTag(loadLayout(at: offset)) }

    package func store(_ tag: SSDTag, at offset: Int) { store(tag.words, at: offset) }

    package func loadLayout(at offset: Int) -> LayoutID {
        LayoutID(words: (load(UInt64.self, at: offset), load(UInt64.self, at: offset + 8)))
    }

    package func store(_ layout: LayoutID, at offset: Int) {
        store(layout.words.0, at: offset)
        store(layout.words.1, at: offset + 8)
    }

    package func loadKey(at offset: Int) -> ChunkKey {
        ChunkKey(
            words: (
                load(UInt64.self, at: offset), load(UInt64.self, at: offset + 8),
                load(UInt64.self, at: offset + 16), load(UInt64.self, at: offset + 24)
            ))
    }

    package func store(_ key: ChunkKey, at offset: Int) {
        store(key.words.0, at: offset)
        store(key.words.1, at: offset + 8)
        store(key.words.2, at: offset + 16)
        store(key.words.3, at: offset + 24)
    }

    /// Writes the checksum of a block of metadata; call it last.
    func sealBlock() {
        let checksum = Checksum.of(prefix(SSDFormat.blockChecksumOffset))
        store(checksum, at: SSDFormat.blockChecksumOffset)
    }

    /// Whether a block of metadata has the checksum that it says.
    var isSealedBlock: Bool {
        load(UInt64.self, at: SSDFormat.blockChecksumOffset)
            == Checksum.of(prefix(SSDFormat.blockChecksumOffset))
    }
}
