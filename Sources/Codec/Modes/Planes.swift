// SPDX-License-Identifier: Apache-2.0
internal import KVCore

/// Method planes: symbols packed by zstd, the rest as it is (docs/container-format.md, section 4).
enum Planes {
    private static let headerByteCount = 8

    /// Encodes the bits in `workspace` into `room`, as method planes or, where that does not win,
    /// raw. K goes column by column: a channel's exponents are alike.
    static func encode(
        _ shape: SectionShape, into room: PinnedBytes, _ workspace: CodecWorkspace
    ) throws(CodecFault) -> (method: SectionMethod, byteCount: Int) {
        let count = shape.valueCount
        let restByteCount = count * (shape.type.byteCount - 1)
        let isByColumn = shape.kind == .keys
        split(shape, isByColumn: isByColumn, workspace)
        let frameRoom = min(room.count - headerByteCount - restByteCount, count - 1)
        let frame = room.dropFirst(min(headerByteCount, room.count)).prefix(max(0, frameRoom))
        let packed =
            frameRoom <= 0
            ? nil
            : workspace.zstd.pack(
                workspace.symbols.prefix(count), into: frame, .repetitive)
        guard let packed, packed + headerByteCount < count else {
            guard room.count >= shape.rawByteCount else { throw .targetTooSmall }
            workspace.store(rows: 0..<shape.rowCount, shape, into: room)
            return (.raw, shape.rawByteCount)
        }
        room.store(UInt32(isByColumn ? 1 : 0), at: 0)
        room.store(UInt32(packed), at: 4)
        storeRests(
            shape, isByColumn: isByColumn, into: room.dropFirst(headerByteCount + packed),
            workspace)
        return (.planes, headerByteCount + packed + restByteCount)
    }

    /// Decodes a section into the bits of `workspace`.
    static func decode(
        _ shape: SectionShape, from section: PinnedBytes, _ workspace: CodecWorkspace
    ) throws(CodecFault) {
        let count = shape.valueCount
        let restByteCount = count * (shape.type.byteCount - 1)
        guard section.count >= headerByteCount, section.load(UInt32.self, at: 0) < 2 else {
            throw .section
        }
        let isByColumn = section.load(UInt32.self, at: 0) == 1
        let frameByteCount = Int(section.load(UInt32.self, at: 4))
        let symbolByteCount = frameByteCount == 0 ? count : frameByteCount
        guard section.count == headerByteCount + symbolByteCount + restByteCount else {
            throw .section
        }
        let stored = section.slice(offset: headerByteCount, count: symbolByteCount)
        try workspace.loadSymbols(stored, count: count, isPacked: frameByteCount != 0)
        let rests = section.dropFirst(headerByteCount + symbolByteCount)
        join(shape, isByColumn: isByColumn, rests, workspace)
    }

    private static func split(
        _ shape: SectionShape, isByColumn: Bool, _ workspace: CodecWorkspace
    ) {
        let (type, shift) = (shape.type, UInt32(8 * (shape.type.byteCount - 1)))
        let walk = SectionWalk(shape, isByColumn: isByColumn)
        let bits = workspace.bits
        let symbols = workspace.symbols
        var place = 0
        for outer in 0..<walk.outerCount {
            var index = outer * walk.outerStride
            for _ in 0..<walk.innerCount {
                symbols.setBits(type.rotated(bits[index]) >> shift, 1, at: place)
                place += 1
                index += walk.innerStride
            }
        }
    }

    private static func storeRests(
        _ shape: SectionShape, isByColumn: Bool, into target: PinnedBytes,
        _ workspace: CodecWorkspace
    ) {
        let (type, width) = (shape.type, shape.type.byteCount - 1)
        let walk = SectionWalk(shape, isByColumn: isByColumn)
        let bits = workspace.bits
        var place = 0
        for outer in 0..<walk.outerCount {
            var index = outer * walk.outerStride
            for _ in 0..<walk.innerCount {
                var rest = type.rotated(bits[index])
                for _ in 0..<width {
                    target.setBits(rest, 1, at: place)
                    rest >>= 8
                    place += 1
                }
                index += walk.innerStride
            }
        }
    }

    private static func join(
        _ shape: SectionShape, isByColumn: Bool, _ rests: PinnedBytes,
        _ workspace: CodecWorkspace
    ) {
        let (type, width) = (shape.type, shape.type.byteCount - 1)
        let walk = SectionWalk(shape, isByColumn: isByColumn)
        let symbols = workspace.symbols
        let bits = workspace.bits
        var place = 0
        for outer in 0..<walk.outerCount {
            var index = outer * walk.outerStride
            for _ in 0..<walk.innerCount {
                var rotated = symbols.bits(1, at: place) << UInt32(8 * width)
                for byte in 0..<width {
                    let rest = rests.bits(1, at: place * width + byte)
                    rotated |= rest << UInt32(8 * byte)
                }
                bits[index] = type.unrotated(rotated)
                place += 1
                index += walk.innerStride
            }
        }
    }
}

/// The order in which a section's values, which lie row by row, are visited.
private struct SectionWalk {
    let outerCount: Int
    let innerCount: Int
    let outerStride: Int
    let innerStride: Int

    init(_ shape: SectionShape, isByColumn: Bool) {
        let (rows, columns) = (shape.rowCount, shape.columnCount)
        (outerCount, innerCount) = isByColumn ? (columns, rows) : (rows, columns)
        (outerStride, innerStride) = isByColumn ? (1, columns) : (columns, 1)
    }
}

extension CodecWorkspace {
    /// Fills the first `count` symbols from a zstd frame, or from bytes as they are.
    func loadSymbols(_ stored: PinnedBytes, count: Int, isPacked: Bool) throws(CodecFault) {
        try unpack(stored, isPacked ? .zstd : .raw, into: symbols.prefix(count))
    }
}
