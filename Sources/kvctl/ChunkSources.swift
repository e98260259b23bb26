// SPDX-License-Identifier: Apache-2.0
import Codec
import KVClient
import KVCore
import Wire

/// A chunk that a command line or a list names.
struct ChunkSource: Sendable {
    /// As it was typed.
    let name: String
    /// Nil: it is a file.
    let key: ChunkKey?
    /// Of its first token in its sequence; nil: the list does not say.
    let position: UInt32?

    /// What is a key, and no file of this name, is asked of the daemon.
    init(_ name: String, position: UInt32?) throws(Failure) {
        self.name = name
        self.position = position
        key = fileExists(name) ? nil : ChunkKey(hexadecimal: name)
        guard key != nil || fileExists(name) else {
            throw Failure(.file, "\(name) is no file, and no key of 64 hexadecimal digits")
        }
    }

    private init(_ key: ChunkKey) {
        name = "\(key)"
        self.key = key
        position = nil
    }

    /// The chunks of a file with one a line: a file or a key, a blank, a position.
    static func list(_ path: String) throws(Failure) -> [ChunkSource] {
        let pieces = try readAll(
            Descriptor.reading(path), of: path, byteCountMax: Limits.chunkByteCountMax)
        let bytes = pieces.flatMap { piece in (0..<piece.bytes.count).map { piece.bytes[$0] } }
        withExtendedLifetime(pieces) {}
        var sources: [ChunkSource] = []
        for line in String(decoding: bytes, as: UTF8.self).split(whereSeparator: \.isNewline) {
            let words = line.split(whereSeparator: \.isWhitespace)
            guard let name = words.first else { continue }
            let position = words.dropFirst().first.map { UInt32($0) }
            guard words.count <= 2, position != .some(nil) else {
                throw Failure(
                    .usage, "\(path): '\(line)' is not a file or key, and at most a position")
            }
            sources.append(try ChunkSource(String(name), position: position ?? nil))
        }
        return sources
    }

    /// The chunks of a layout that lie in the directories of a store, in the order of their keys.
    static func stored(
        in directories: [String], _ layout: LayoutID
    ) throws(Failure) -> [ChunkSource] {
        var keys: Set<String> = []
        let inspection = StoreInspection(StoreInspection.Options()) { line in
            guard line.type == "record", line.text("kind") == "chunk",
                line.text("layout") == "\(layout)", let key = line.text("key")
            else { return }
            keys.insert(key)
        }
        inspection.run(directories)
        return keys.sorted().compactMap { ChunkKey(hexadecimal: $0).map(ChunkSource.init) }
    }
}

extension InspectionLine {
    fileprivate func text(_ name: String) -> String? {
        for case (name, .text(let text)) in fields { return text }
        return nil
    }
}

/// What became of a chunk that was to be read.
enum ReadChunk {
    case found(OwnedBytes, firstPosition: UInt32?)
    /// Not stored, or of another layout.
    case absent, otherLayout
}

/// Reads chunks of files and of the daemon. Confined to its owner.
struct ChunkReader {
    private let calls: Calls?
    private let timeoutMilliseconds: UInt64
    private var workspace: CodecWorkspace?

    /// Each chunk has `timeoutMilliseconds` to arrive.
    init(_ calls: Calls?, _ timeoutMilliseconds: UInt64) {
        self.calls = calls
        self.timeoutMilliseconds = timeoutMilliseconds
    }

    /// `described`, or else the layout of the first chunk that the daemon has, as the namespace
    /// describes it. Nil when nobody does.
    func layout(
        _ sources: [ChunkSource], _ described: KVLayout?
    ) async throws(Failure) -> KVLayout? {
        if let described { return described }
        guard let calls else { return nil }
        for key in sources.compactMap(\.key) {
            let found = try await calls { client, _ throws(ClientError) in
                try await client.chunkStatistics(
                    key, deadline: client.deadline(milliseconds: timeoutMilliseconds))
            }
            guard let found, found.layout != .opaque else { continue }
            return try await CodecFiles.description(of: found.layout, calls)
        }
        return nil
    }

    /// The payload of a chunk, and what the daemon knows of its position.
    mutating func read(
        _ source: ChunkSource, of layout: KVLayout
    ) async throws(Failure) -> ReadChunk {
        guard let key = source.key, let calls else {
            return .found(try CodecFiles.payload(source.name), firstPosition: nil)
        }
        // A container tells the position that the daemon was told.
        guard let chunk = try await fetch(key, .lossless, calls) else { return .absent }
        guard chunk.found.layout == layout.id else { return .otherLayout }
        guard chunk.found.level != 0 else { return .found(chunk.memory, firstPosition: nil) }
        defer { withExtendedLifetime(chunk.memory) {} }
        let container: ContainerReader
        do throws(CodecFault) {
            container = try ContainerReader(chunk.memory.bytes)
        } catch {
            throw Failure(.damaged, "\(key) came as no container: \(error.rawValue)")
        }
        let position = container.header.firstPosition
        if let payload = decoded(container, layout) {
            return .found(payload, firstPosition: position)
        }
        // One that was stored with a profile, which the daemon has.
        guard let raw = try await fetch(key, .raw, calls) else { return .absent }
        return .found(raw.memory, firstPosition: position)
    }

    private mutating func decoded(_ container: ContainerReader, _ layout: KVLayout) -> OwnedBytes? {
        let count = container.header.tokenCount
        let wanted = count * max(layout.columnCount(.keys), layout.columnCount(.values))
        let usable: CodecWorkspace
        if let workspace, workspace.valueCountMax >= wanted {
            usable = workspace
        } else {
            usable = CodecWorkspace(valueCountMax: wanted)
        }
        workspace = usable
        let payload = OwnedBytes(count: container.header.payloadByteCount)
        do throws(CodecFault) {
            try ChunkCodec.decode(container, into: payload.bytes, usable)
            return payload
        } catch {
            return nil
        }
    }

    private func fetch(
        _ key: ChunkKey, _ level: Level, _ calls: Calls
    ) async throws(Failure) -> (found: FoundChunk, memory: OwnedBytes)? {
        let timeout = timeoutMilliseconds
        let fetched = try await calls { client, _ throws(ClientError) in
            try await client.fetch(
                [key], GetOptions(level: level.rawValue),
                deadline: client.deadline(milliseconds: timeout))[0]
        }
        switch fetched.outcome {
        case .found(let found): return fetched.memory.map { (found, $0) }
        case .missed(.notFound), .missed(.layoutMismatch): return nil
        case .missed(let status):
            throw Failure(.refused, "\(key): the daemon answers \(status)")
        case .damaged, .skipped:
            throw Failure(.damaged, "\(key): the bytes that arrived are not those that were sent")
        }
    }
}
