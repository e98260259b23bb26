// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Kernels

/// Memory between kernels: of the largest section, taken at its first use. Confined to its owner.
///
/// Some 15 bytes for each value; 6 more with an embedded section, 8 more with one of many escapes.
final class KernelWorkspace {
    /// Symbols, four to a word.
    let packed: PinnedBytes
    /// Words of a rANS stream.
    let words: PinnedBytes
    /// A section's values or what is not coded of them, row by row.
    let dense: PinnedBytes
    /// A section on its way to another type.
    let converted: PinnedBytes
    private(set) var escapes: PinnedBytes
    let rowCodes = RowCodes()
    private let memory: OwnedBytes
    /// Of a section that has more escapes than ours ever have.
    private var escapeMemory: OwnedBytes?
    /// Made for the first embedded section.
    private lazy var embeddedMemory = OwnedBytes(count: 3 * embeddedStride)

    init(valueCountMax: Int) {
        // Few columns fill a group of 64 badly; what is more than twice a section is not coded.
        let packedByteCount = 2 * valueCountMax + 1_024
        let wordByteCount = 2 * packedByteCount + 64
        let denseByteCount = (4 * valueCountMax + 63) & ~63
        let escapeByteCount = EscapeList.entryByteCount * (valueCountMax / Self.escapeShare + 64)
        memory = OwnedBytes(
            count: packedByteCount + wordByteCount + 2 * denseByteCount + escapeByteCount + 256)
        var rest = memory.bytes
        func take(_ count: Int) -> PinnedBytes {
            let taken = rest.prefix(count)
            rest = rest.dropFirst((count + 63) & ~63)
            return taken
        }
        dense = take(denseByteCount)
        converted = take(denseByteCount)
        packed = take(packedByteCount)
        words = take(wordByteCount)
        escapes = take(escapeByteCount)
    }

    /// Bytes from an embedded section's symbols to its first refinement, and on to the second.
    var embeddedStride: Int { (packed.count + 63) & ~63 }
    /// Symbols of an embedded section and its refinements.
    var embedded: PinnedBytes { embeddedMemory.bytes }

    /// A section with more than one escape in so many values is coded in another way.
    static let escapeShare = 16

    /// Makes room for the escapes of a section that is to be decoded. Throws `section` when it has
    /// more of them than values.
    func hold(escapeCount: Int, of shape: SectionShape) throws(CodecFault) {
        guard escapeCount <= shape.valueCount else { throw .section }
        let byteCount = escapeCount * EscapeList.entryByteCount
        guard byteCount > escapes.count else { return }
        let larger = OwnedBytes(count: byteCount)
        escapeMemory = larger
        escapes = larger.bytes
    }

    /// Room for the escapes of a section that is to be encoded.
    func escapes(of shape: SectionShape) -> PinnedBytes {
        let count = shape.valueCount / Self.escapeShare + 1
        return escapes.prefix(min(escapes.count, count * EscapeList.entryByteCount))
    }

    /// Whether a matrix of so many rows has room.
    func fits(_ columns: CodedColumns, rowCount: Int) -> Bool {
        columns.packedByteCount(rowCount: rowCount) <= packed.count
            && columns.wordAreaByteCount(rowCount: rowCount) <= words.count
    }
}

/// The fixed part of a rANS stream (docs/container-format.md, section 7).
struct StreamHeader {
    static let byteCount = 16 + RANS.stateByteCount

    let wordByteCount: Int
    let escapeCount: Int

    init(wordByteCount: Int, escapeCount: Int) {
        self.wordByteCount = wordByteCount
        self.escapeCount = escapeCount
    }

    /// Reads the fields of a section and its states, and checks that the section is as long as they
    /// and `restByteCount` say.
    init(_ section: PinnedBytes, restByteCount: Int) throws(CodecFault) {
        guard section.count >= Self.byteCount, section.load(UInt64.self, at: 8) == 0 else {
            throw .section
        }
        wordByteCount = 2 * Int(section.load(UInt32.self, at: 0))
        escapeCount = Int(section.load(UInt32.self, at: 4))
        let escapeByteCount = escapeCount * EscapeList.entryByteCount
        guard section.count == Self.byteCount + wordByteCount + restByteCount + escapeByteCount,
            (0..<64).allSatisfy({ section.load(UInt32.self, at: 16 + 4 * $0) >= 1 << 16 })
        else { throw .section }
    }

    func encode(into target: PinnedBytes) {
        target.store(UInt32(wordByteCount / 2), at: 0)
        target.store(UInt32(escapeCount), at: 4)
        target.store(UInt64(0), at: 8)
    }

    static func states(_ section: PinnedBytes) -> PinnedBytes {
        section.slice(offset: 16, count: RANS.stateByteCount)
    }

    func words(_ section: PinnedBytes) -> PinnedBytes {
        section.slice(offset: Self.byteCount, count: wordByteCount)
    }

    /// What follows the words, up to the escapes.
    func rests(_ section: PinnedBytes, count: Int) -> PinnedBytes {
        section.slice(offset: Self.byteCount + wordByteCount, count: count)
    }

    /// The last bytes of the section.
    func escapes(_ section: PinnedBytes) -> PinnedBytes {
        let count = escapeCount * EscapeList.entryByteCount
        return section.slice(offset: section.count - count, count: count)
    }
}

/// Rows of a section that stand at even distances in a payload.
struct TensorRun {
    /// Rows of the section.
    let rows: Range<Int>
    let view: TensorView
}

extension SectionShape {
    /// How kernels name the values' type; nil for one that they only split and join.
    var element: TensorView.Element {
        switch type {
        case .float16: .float16
        case .bfloat16: .bfloat16
        case .float32: .float32
        case .float8E4M3, .float8E5M2: .float8
        }
    }

    func viewShape(rowCount: Int) -> TensorView.Shape {
        .init(
            rowCount: rowCount, headCount: headCount, headWidth: channelCount, element: element)
    }

    /// The rows from `first` on as runs that kernels can walk in the payload itself, each but the
    /// last a multiple of four rows; nil where channels do not stand side by side or blocks cut
    /// four rows that are coded together.
    func runs(from first: Int, in payload: PinnedBytes, at places: TensorPlaces) -> [TensorRun]? {
        guard places.channelStride == type.byteCount else { return nil }
        let block = places.blockTokenCount
        let isOneRun =
            block >= rowCount || places.blockStride == block * places.tokenStride
        guard isOneRun || (block.isMultiple(of: 4) && first.isMultiple(of: 4)) else { return nil }
        var runs: [TensorRun] = []
        var row = first
        while row < rowCount {
            let end = isOneRun ? rowCount : min(rowCount, (row / block + 1) * block)
            let start = places.row(layer: layer, token: row)
            runs.append(
                TensorRun(
                    rows: row..<end,
                    view: TensorView(
                        payload.dropFirst(start), viewShape(rowCount: end - row),
                        rowStride: places.tokenStride, headStride: places.headStride)))
            row = end
        }
        return runs
    }

    /// Copies rows between a payload and memory where they stand row by row.
    func copy(
        rows: Range<Int>, _ direction: CopyDirection, payload: PinnedBytes,
        at places: TensorPlaces, dense: PinnedBytes
    ) {
        let width = type.byteCount
        let isSideBySide = places.channelStride == width
        let headByteCount = channelCount * width
        var place = 0
        for row in rows {
            let start = places.row(layer: layer, token: row)
            for head in 0..<headCount {
                let from = start + head * places.headStride
                let target = dense.slice(offset: place, count: headByteCount)
                if isSideBySide {
                    let source = payload.slice(offset: from, count: headByteCount)
                    if direction == .out { target.copy(from: source) }
                    if direction == .in { source.copy(from: target) }
                } else {
                    copyChannels(direction, payload, from, places.channelStride, target)
                }
                place += headByteCount
            }
        }
    }

    private func copyChannels(
        _ direction: CopyDirection, _ payload: PinnedBytes, _ start: Int, _ stride: Int,
        _ dense: PinnedBytes
    ) {
        for index in 0..<dense.count {
            let (channel, byte) = index.quotientAndRemainder(dividingBy: type.byteCount)
            let place = start + channel * stride + byte
            switch direction {
            case .out: dense.store(payload[place], at: index)
            case .in: payload.store(dense[index], at: place)
            }
        }
    }
}

/// Which way values are copied: out of a payload, or into it.
enum CopyDirection {
    case out, `in`
}

extension PinnedBytes {
    /// Adds `distance` to the places of the escapes from `first` on.
    func moveEscapes(_ range: Range<Int>, by distance: Int) {
        for index in range {
            let place = index * EscapeList.entryByteCount
            let moved = Int(load(UInt32.self, at: place)) + distance
            store(UInt32(truncatingIfNeeded: moved), at: place)
        }
    }

    /// Of the first `count` escapes, sorted, those whose places lie below `place`, from `first` on.
    func escapes(from first: Int, below place: Int, count: Int) -> Range<Int> {
        var end = first
        while end < count,
            Int(load(UInt32.self, at: end * EscapeList.entryByteCount)) < place
        {
            end += 1
        }
        return first..<end
    }
}
