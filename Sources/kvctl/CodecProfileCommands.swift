// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Codec
import KVClient
import KVCore
import Kernels
import Wire

/// The operator's commands for profiles.
struct CodecProfileCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "profile",
        abstract: "Learn profiles of models, look at them, and install them.",
        subcommands: [
            CodecProfileLearnCommand.self, CodecProfileShowCommand.self,
            CodecProfileInstallCommand.self,
        ])
}

/// What a profile's file and the layout that it is for have in common.
struct ProfileArguments: ParsableArguments {
    @Argument(help: "The profile's file.")
    var profile: String

    @Option(
        help: ArgumentHelp(
            "A file with the description of the layout that it is for, one field=value a line.",
            valueName: "file"))
    var layout: String

    /// The profile's bytes, and what they say for the layout.
    func load() throws(Failure) -> (bytes: OwnedBytes, profile: Profile, layout: KVLayout) {
        let layout = try CodecFiles.layout(layout)
        let (bytes, found) = try CodecFiles.profile(profile, for: layout)
        return (bytes, found, layout)
    }
}

/// Shows what is in a profile.
struct CodecProfileShowCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show", abstract: "Show what a profile holds, and whether it fits a layout.",
        discussion: "Exits with 5 when it is damaged, or another model's.")

    @OptionGroup var arguments: ProfileArguments

    @Flag(help: "Print JSON.")
    var json = false

    func run() throws {
        let (bytes, profile, layout) = try arguments.load()
        let levels = profile.levels.map { level in
            "\(level.level.name) \(level.mode)" + (level.isBeforeRotation ? ", K before RoPE" : "")
                + (level.isEmbedded ? ", embedded" : "")
        }
        if json {
            writeOutput(
                JSONValue.object([
                    ("hash", .text(hexadecimal(profile.hash.bytes))),
                    ("layout", .text("\(layout.id)")),
                    ("value_bytes", .integer(UInt64(bytes.bytes.count))),
                    ("levels", .array(levels.map { .text($0) })), ("note", .text(profile.note)),
                ]).text + "\n")
            return
        }
        writeOutput(
            table(
                [
                    ["hash", hexadecimal(profile.hash.bytes)], ["layout", "\(layout.id)"],
                    ["size", readableSize(UInt64(bytes.bytes.count))],
                    ["layers", "\(layout.layerCount)"],
                    [
                        "columns",
                        "\(layout.columnCount(.keys)) of K, \(layout.columnCount(.values)) of V",
                    ], ["note", profile.note],
                ] + levels.map { ["level", $0] }))
    }
}

/// Has a layout's chunks encoded with a profile from now on.
struct CodecProfileInstallCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "install",
        abstract: "Put a profile into a namespace, for the chunks of one layout.",
        discussion: """
            The daemon takes it within ten seconds. The profile and what names it are pinned for a \
            year. A profile that was installed before stays: chunks that were encoded with it need \
            it.
            """)

    @OptionGroup var connection: ConnectionOptions
    @OptionGroup var arguments: ProfileArguments

    func run() async throws {
        let (bytes, profile, layout) = try arguments.load()
        let hash = profile.hash.bytes
        try await withDaemon(connection) { _, calls throws(Failure) in
            let keys = KeyDerivation(
                secret: calls.client.session?.secret ?? [UInt8](repeating: 0, count: 32))
            let description = CodecFiles.memory(layout.description)
            let choice = CodecFiles.memory(hash + [UInt8](repeating: 0, count: 16))
            let choiceKey = keys.profileChoiceKey(of: layout.id)
            let chunks = [
                (keys.descriptionKey(of: layout.id), description),
                (keys.profileKey(hash: hash), bytes), (choiceKey, choice),
            ]
            // The only one of the three that may say something else.
            _ = try await calls { client, deadline throws(ClientError) in
                try await client.delete([choiceKey], deadline: deadline)
            }
            for (key, value) in chunks {
                _ = try await calls { client, deadline throws(ClientError) in
                    try await client.put(ChunkLabel(key: key), value.bytes, deadline: deadline)
                }
                withExtendedLifetime(value) {}
            }
            _ = try await calls { client, deadline throws(ClientError) in
                try await client.pin(
                    chunks.map(\.0), milliseconds: pinMilliseconds, deadline: deadline)
            }
        }
        if connection.json {
            writeOutput(
                JSONValue.object([
                    ("hash", .text(hexadecimal(hash))), ("layout", .text("\(layout.id)")),
                ]).text + "\n")
        } else {
            writeOutput("\(hexadecimal(hash))  for layout \(layout.id)\n")
        }
    }
}

/// A year.
private let pinMilliseconds: UInt64 = 365 * 86_400_000

/// Files that the codec's commands read.
enum CodecFiles {
    /// A whole file of at most a chunk.
    static func payload(_ path: String) throws(Failure) -> OwnedBytes {
        let pieces = try readAll(
            Descriptor.reading(path), of: path, byteCountMax: Limits.chunkByteCountMax)
        let count = pieces.reduce(0) { $0 + $1.bytes.count }
        guard count > 0 else { throw Failure(.usage, "\(path) is empty") }
        let payload = OwnedBytes(count: count, alignment: 4_096)
        var end = 0
        for piece in pieces {
            payload.bytes.dropFirst(end).copy(from: piece.bytes)
            end += piece.bytes.count
        }
        withExtendedLifetime(pieces) {}
        return payload
    }

    /// A profile's bytes, and what they say for a layout.
    static func profile(
        _ path: String, for layout: KVLayout
    ) throws(Failure) -> (bytes: OwnedBytes, profile: Profile) {
        let bytes = try payload(path)
        do throws(CodecFault) {
            return (bytes, try Profile(bytes.bytes, for: layout))
        } catch {
            let reason =
                error == .profileUnsuitable
                ? "is a profile of another model than the layout's"
                : "is no profile that can be used: \(error.rawValue)"
            throw Failure(.damaged, "\(path) \(reason)")
        }
    }

    /// A layout, from a file with its fields.
    static func layout(_ path: String) throws(Failure) -> KVLayout {
        let pieces = try readAll(
            Descriptor.reading(path), of: path, byteCountMax: Limits.bodyByteCountMax)
        let bytes = pieces.flatMap { piece in (0..<piece.bytes.count).map { piece.bytes[$0] } }
        let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n")
            .filter { !$0.isEmpty && !$0.hasPrefix("kvstore_layout=") }
        // By names, as the canonical form has them.
        let sorted = lines.sorted { left, right in
            left.prefix { $0 != "=" }.utf8.lexicographicallyPrecedes(
                right.prefix { $0 != "=" }.utf8)
        }
        let text = ["kvstore_layout=1"] + sorted.map(String.init)
        let canonical = Array((text.joined(separator: "\n") + "\n").utf8)
        guard let layout = KVLayout(description: canonical) else {
            throw Failure(
                .usage,
                "\(path) does not say where each value stands: docs/container-format.md, "
                    + "section 3, lists the fields")
        }
        return layout
    }

    /// What the namespace says of a layout; nil when it says nothing.
    static func description(
        of layout: LayoutID, _ calls: Calls
    ) async throws(Failure) -> KVLayout? {
        let secret = calls.client.session?.secret ?? [UInt8](repeating: 0, count: 32)
        let key = KeyDerivation(secret: secret).descriptionKey(of: layout)
        let memory = try await calls { client, deadline throws(ClientError) in
            try await client.fetch(key, deadline: deadline)
        }
        guard let memory, memory.bytes.count <= Limits.bodyByteCountMax else { return nil }
        return KVLayout(description: (0..<memory.bytes.count).map { memory.bytes[$0] })
    }

    /// Memory that holds these bytes.
    static func memory(_ bytes: [UInt8]) -> OwnedBytes {
        let memory = OwnedBytes(count: bytes.count)
        for (index, byte) in bytes.enumerated() { memory.bytes.store(byte, at: index) }
        return memory
    }
}

extension ProfileHash {
    /// The 16 bytes in order.
    var bytes: [UInt8] {
        [words.0, words.1].flatMap { word in
            (0..<8).map { UInt8(truncatingIfNeeded: word >> (8 * UInt64($0))) }
        }
    }
}
