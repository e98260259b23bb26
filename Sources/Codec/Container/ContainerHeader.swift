// SPDX-License-Identifier: Apache-2.0
package import KVCore
internal import Kernels

/// How a container's payload is encoded; the number stands in its header.
package enum ContainerMode: UInt8, Hashable, Sendable, CaseIterable {
    case raw = 0
    case zstd = 1
    case lossless = 2
    case cachegen = 3
    case scalar = 4
    case predictive = 5

    /// Whether it knows no layout: the payload is cut into pieces.
    package var isOpaque: Bool { self == .raw || self == .zstd }
}

/// How one section is encoded.
package enum SectionMethod: UInt8, Hashable, Sendable, CaseIterable {
    case raw = 0
    case zstd = 1
    case planes = 2
    case quantised = 3
    case exponent = 4
    case scalar = 5
    case predicted = 6
}

/// What a section holds.
package enum SectionPart: UInt8, Hashable, Sendable, CaseIterable {
    case keys = 0
    case values = 1
    case piece = 2
    case layout = 3
    case rotation = 4
    case rest = 5

    package init(_ kind: KVKind) { self = kind == .keys ? .keys : .values }

    /// Whether a section of this part may have `method`.
    func allows(_ method: SectionMethod) -> Bool {
        switch self {
        case .keys, .values: method != .zstd
        case .piece, .rest: method == .raw || method == .zstd
        case .layout, .rotation: method == .raw
        }
    }
}

/// The first 16 bytes of SHA-256 over a profile's bytes; all zero: no profile.
package struct ProfileHash: Hashable, Sendable {
    package let words: (UInt64, UInt64)

    package init(words: (UInt64, UInt64)) { self.words = words }

    package static let none = ProfileHash(words: (0, 0))

    package static func == (left: ProfileHash, right: ProfileHash) -> Bool {
        left.words == right.words
    }

    package func hash(into hasher: inout Hasher) {
        hasher.combine(words.0)
        hasher.combine(words.1)
    }
}

/// The fixed part of a container (docs/container-format.md, section 2). A value.
package struct ContainerHeader: Hashable, Sendable {
    package var mode: ContainerMode
    package var level: Level
    /// Nil in the opaque modes.
    package var type: ValueType?
    package var sectionCount = 0
    /// E: rows that are stored as they are.
    package var exactRowCount = 0
    package var isEmbedded = false
    package var layout = LayoutID.opaque
    package var profile = ProfileHash.none
    package var payloadByteCount: Int
    /// Of row 0 in its sequence; nil when nobody knows.
    package var firstPosition: UInt32?
    package var tokenCount = 0
    package var layerCount = 0
    /// Layers of a group in mode predictive.
    package var groupLayerCount = 0

    package init(mode: ContainerMode, level: Level, payloadByteCount: Int) {
        self.mode = mode
        self.level = level
        self.payloadByteCount = payloadByteCount
    }

    package static let byteCount = 64
    static let magic: UInt32 = 0x3143_564b
    static let version: UInt8 = 1
    /// Layers of a chunk.
    package static let layerCountMax = 4_096
    /// An opaque payload is cut into pieces of this size.
    package static let pieceByteCount = 1 << 20

    /// The position that rotations count from.
    var origin: UInt64 { UInt64(firstPosition ?? 0) }

    /// Writes all but the checksum.
    func encode(into target: PinnedBytes) {
        target.prefix(Self.byteCount).fill(0)
        target.store(Self.magic, at: 0)
        target.store(Self.version, at: 8)
        target.store(mode.rawValue, at: 9)
        target.store(UInt16(sectionCount), at: 10)
        target.store(level.rawValue, at: 12)
        target.store(type?.rawValue ?? 0, at: 13)
        target.store(UInt8(exactRowCount), at: 14)
        target.store(UInt8(firstPosition == nil ? 0 : 1) | (isEmbedded ? 2 : 0), at: 15)
        target.store(layout.words.0, at: 16)
        target.store(layout.words.1, at: 24)
        target.store(profile.words.0, at: 32)
        target.store(profile.words.1, at: 40)
        target.store(UInt32(payloadByteCount), at: 48)
        target.store(firstPosition ?? 0, at: 52)
        target.store(UInt32(tokenCount), at: 56)
        target.store(UInt16(layerCount), at: 60)
        target.store(UInt8(groupLayerCount), at: 62)
    }

    /// Reads what `encode` wrote; magic, checksum and version have been looked at.
    static func decode(_ source: PinnedBytes) throws(CodecFault) -> ContainerHeader {
        let flags = source.load(UInt8.self, at: 15)
        let typeNumber = source.load(UInt8.self, at: 13)
        guard let mode = ContainerMode(rawValue: source.load(UInt8.self, at: 9)),
            let level = Level(rawValue: source.load(UInt8.self, at: 12)), flags < 4,
            source.load(UInt8.self, at: 63) == 0
        else { throw .header }
        var header = ContainerHeader(
            mode: mode, level: level, payloadByteCount: Int(source.load(UInt32.self, at: 48)))
        header.type = ValueType(rawValue: typeNumber)
        header.sectionCount = Int(source.load(UInt16.self, at: 10))
        header.exactRowCount = Int(source.load(UInt8.self, at: 14))
        header.isEmbedded = flags & 2 != 0
        header.layout.words = (
            source.load(UInt64.self, at: 16), source.load(UInt64.self, at: 24)
        )
        header.profile = ProfileHash(
            words: (source.load(UInt64.self, at: 32), source.load(UInt64.self, at: 40)))
        let position = source.load(UInt32.self, at: 52)
        header.firstPosition = flags & 1 != 0 ? position : nil
        header.tokenCount = Int(source.load(UInt32.self, at: 56))
        header.layerCount = Int(source.load(UInt16.self, at: 60))
        header.groupLayerCount = Int(source.load(UInt8.self, at: 62))
        guard header.type != nil || typeNumber == 0, flags & 1 != 0 || position == 0,
            header.isSound
        else { throw .header }
        return header
    }

    private var isSound: Bool {
        guard sectionCount > 0, (1...Limits.chunkByteCountMax).contains(payloadByteCount),
            exactRowCount <= tokenCount
        else { return false }
        if mode.isOpaque {
            return type == nil && tokenCount == 0 && layerCount == 0 && groupLayerCount == 0
                && !isEmbedded && profile == .none && firstPosition == nil
        }
        return type != nil && layout != .opaque
            && (1...KVLayout.tokenCountMax).contains(tokenCount)
            && (1...Self.layerCountMax).contains(layerCount)
            && (mode == .predictive) == (groupLayerCount > 0)
            && (!isEmbedded || mode == .scalar)
    }
}

/// An entry of a container's directory. A value.
package struct SectionEntry: Hashable, Sendable {
    package var offset: Int
    package var byteCount: Int
    package var checksum: UInt32
    /// Layer, or number of a piece.
    package var number: Int
    package var part: SectionPart
    package var refinement: Int
    package var method: SectionMethod

    package static let byteCount = 16

    func encode(into target: PinnedBytes) {
        target.store(UInt32(offset), at: 0)
        target.store(UInt32(byteCount), at: 4)
        target.store(checksum, at: 8)
        target.store(UInt16(number), at: 12)
        target.store(part.rawValue | UInt8(refinement) << 4, at: 14)
        target.store(method.rawValue, at: 15)
    }

    /// Nil for a part, method or refinement that nobody knows.
    static func decode(_ source: PinnedBytes) -> SectionEntry? {
        let part = source.load(UInt8.self, at: 14)
        let refinement = Int(part >> 4)
        guard let part = SectionPart(rawValue: part & 15), refinement <= 2,
            let method = SectionMethod(rawValue: source.load(UInt8.self, at: 15)),
            part.allows(method)
        else { return nil }
        return SectionEntry(
            offset: Int(source.load(UInt32.self, at: 0)),
            byteCount: Int(source.load(UInt32.self, at: 4)),
            checksum: source.load(UInt32.self, at: 8),
            number: Int(source.load(UInt16.self, at: 12)), part: part, refinement: refinement,
            method: method)
    }

    /// The first place for a section behind `end`.
    static func place(behind end: Int) -> Int { (end + 63) & ~63 }
}
