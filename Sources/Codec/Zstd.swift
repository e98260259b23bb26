// SPDX-License-Identifier: Apache-2.0
internal import CZstd
internal import KVCore

/// Packs and unpacks single zstd frames. Allocates once; confined to its owner.
struct Zstd {
    /// What the bytes are like.
    enum Way {
        /// Anything: finds repetitions.
        case repetitive
        /// Symbols whose order says nothing: codes them by their frequency, at 1 GB/s and more.
        case symbols

        fileprivate var number: CInt {
            switch self {
            case .repetitive: CInt(CZSTD_FAST)
            case .symbols: CInt(CZSTD_SYMBOLS)
            }
        }
    }

    private let packerArea: OwnedBytes
    private let unpackerArea = OwnedBytes(count: czstd_unpacker_byte_count())

    /// For contents of up to `byteCountMax` bytes each.
    init(byteCountMax: Int) {
        packerArea = OwnedBytes(count: czstd_packer_byte_count(byteCountMax))
    }

    /// Packs `content` into `target`. The frame's byte count, or nil when it does not fit.
    func pack(_ content: PinnedBytes, into target: PinnedBytes, _ way: Way) -> Int? {
        let area = packerArea.bytes
        // SAFETY: the packer lives in an area of the size it asked for; both runs are valid for
        // their counts, and the library keeps no pointer to them.
        guard let packer = unsafe czstd_make_packer(area.start, area.count) else {
            preconditionFailure("the packer's area has the size it asked for")
        }
        let byteCount = unsafe czstd_pack(
            packer, target.start, target.count, content.start, content.count, way.number)
        return byteCount == 0 ? nil : byteCount
    }

    /// Unpacks exactly one frame to exactly fill `target`; false when `frame` is not that.
    func unpack(_ frame: PinnedBytes, into target: PinnedBytes) -> Bool {
        let area = unpackerArea.bytes
        // SAFETY: as in `pack`; the library checks every length of the frame.
        guard let unpacker = unsafe czstd_make_unpacker(area.start, area.count) else {
            preconditionFailure("the unpacker's area has the size it asked for")
        }
        return unsafe czstd_unpack(
            unpacker, target.start, target.count, frame.start, frame.count) == 1
    }
}
