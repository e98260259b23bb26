// SPDX-License-Identifier: Apache-2.0
internal import KVCore

/// Modes raw and zstd: pieces of bytes that mean nothing to us.
enum OpaqueCodec {
    static func encode(
        _ payload: PinnedBytes, _ plan: EncodingPlan, into target: PinnedBytes,
        _ workspace: CodecWorkspace
    ) throws(CodecFault) -> EncodedChunk {
        let mode: ContainerMode = plan.level == .raw ? .raw : .zstd
        let size = ContainerHeader.pieceByteCount
        let pieceCount = (payload.count + size - 1) / size
        var writer = try ContainerWriter(target, sectionCount: pieceCount)
        for number in 0..<pieceCount {
            let offset = number * size
            let piece = payload.slice(offset: offset, count: min(size, payload.count - offset))
            try workspace.append(
                piece, to: &writer, .piece, number: number, packs: mode == .zstd)
        }
        var header = ContainerHeader(
            mode: mode, level: plan.level, payloadByteCount: payload.count)
        header.layout = plan.layoutID
        return EncodedChunk(mode: mode, byteCount: writer.finish(header))
    }

    static func decode(
        _ reader: ContainerReader, into payload: PinnedBytes, _ workspace: CodecWorkspace
    ) throws(CodecFault) {
        let size = ContainerHeader.pieceByteCount
        for number in 0..<reader.sectionCount {
            let offset = number * size
            let piece = payload.slice(offset: offset, count: min(size, payload.count - offset))
            try workspace.unpack(
                try reader.section(number), reader[number].method, into: piece)
        }
    }
}

extension CodecWorkspace {
    /// Appends bytes as a section: one zstd frame where that wins and `packs`, else as they are.
    func append(
        _ bytes: PinnedBytes, to writer: inout ContainerWriter, _ part: SectionPart,
        number: Int = 0, packs: Bool
    ) throws(CodecFault) {
        let room = writer.room
        let frame = room.prefix(min(room.count, bytes.count - 1))
        if packs, bytes.count > 1,
            let byteCount = zstd.pack(bytes, into: frame, .repetitive)
        {
            writer.append(part, number: number, .zstd, byteCount: byteCount)
        } else {
            try writer.append(part, number: number, copyOf: bytes)
        }
    }

    /// Fills `target` from a section of method raw or zstd.
    func unpack(
        _ section: PinnedBytes, _ method: SectionMethod, into target: PinnedBytes
    ) throws(CodecFault) {
        if method == .zstd {
            guard zstd.unpack(section, into: target) else { throw .section }
        } else {
            guard section.count == target.count else { throw .section }
            target.copy(from: section)
        }
    }
}
