// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Codec
import Glibc
import KVClient
import KVCore
import Kernels
import Wire

/// The operator's commands for the codec.
struct CodecCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "codec", abstract: "Try compression on your own KV, and install profiles.",
        subcommands: [CodecTryCommand.self, CodecProfileCommand.self])
}

/// Tells what each level does to a chunk.
struct CodecTryCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "try",
        abstract: "Encode a chunk at every level: size, error, speed, and a plot of them.",
        discussion: """
            The chunk is a file, or the key of one that the daemon holds. Without its layout it is \
            packed as opaque bytes: of a key the layout is looked up in the namespace, of a file \
            --layout names its description (docs/key-derivation.md). With --profile it is encoded \
            by a profile, as after its installation. One core of this machine does the work; \
            nothing is stored.
            """)

    @OptionGroup var connection: ConnectionOptions

    @Argument(help: "A file, or a key of 64 hexadecimal digits.")
    var chunk: String

    @Option(
        help: ArgumentHelp(
            "A file with the layout's description, one field=value a line.", valueName: "file"))
    var layout: String?

    @Option(
        help: ArgumentHelp(
            "The place of the chunk's first token in its sequence.", valueName: "position"))
    var position: UInt32?

    @Option(help: ArgumentHelp("A profile of that layout.", valueName: "file"))
    var profile: String?

    @Option(help: ArgumentHelp("For how long each level is run.", valueName: "milliseconds"))
    var duration = 200

    func validate() throws {
        guard (1...60_000).contains(duration) else {
            throw ValidationError("--duration takes 1 to 60000 milliseconds")
        }
    }

    func run() async throws {
        let source = try await load()
        let trial = CodecTrial(
            source.payload.bytes, source.layout, firstPosition: position,
            profile: try learnt(source.layout))
        let trials = try trial.run(milliseconds: duration)
        withExtendedLifetime(source.payload) {}
        writeOutput(
            connection.json
                ? Self.json(trials, trial).text + "\n" : Self.report(trials, trial))
    }

    private func learnt(_ layout: KVLayout?) throws(Failure) -> Profile? {
        guard let path = profile else { return nil }
        guard let layout else {
            throw Failure(.usage, "--profile needs a layout: give --layout FILE")
        }
        return try CodecFiles.profile(path, for: layout).profile
    }

    // MARK: The chunk

    private struct Source: Sendable {
        let payload: OwnedBytes
        let layout: KVLayout?
    }

    private func load() async throws(Failure) -> Source {
        var described: KVLayout?
        if let layout { described = try CodecFiles.layout(layout) }
        guard let key = ChunkKey(hexadecimal: chunk), !fileExists(chunk) else {
            return Source(payload: try CodecFiles.payload(chunk), layout: described)
        }
        let given = described
        return try await withDaemon(connection) { _, calls throws(Failure) in
            let chunk = try await calls { client, deadline throws(ClientError) in
                try await client.fetch([key], deadline: deadline)[0]
            }
            guard let payload = chunk.memory, case .found(let found) = chunk.outcome else {
                throw Failure(.notFound, "\(key) is not stored: never, or no longer")
            }
            var layout = given
            if layout == nil, found.layout != .opaque {
                layout = try await CodecFiles.description(of: found.layout, calls)
            }
            return Source(payload: payload, layout: layout)
        }
    }

    // MARK: The report

    private static func report(_ trials: [LevelTrial], _ trial: CodecTrial) -> String {
        var rows = [
            [
                "level", "mode", "size", "of raw", "bits/value", "error", "largest", "encode",
                "decode",
            ]
        ]
        for one in trials {
            rows.append([
                one.level.name, "\(one.mode)", readableSize(UInt64(one.byteCount)),
                fixed(100 * Double(one.byteCount) / Double(trial.payload.count), 1) + " %",
                trial.bitsPerValue(one).map { fixed($0, 2) } ?? "-",
                one.relativeError.map { fixed(100 * $0, 3) + " %" } ?? "-",
                one.largestError.map { fixed($0, 4) } ?? "-",
                fixed(one.encodeRate / 1e9, 2) + " GB/s", fixed(one.decodeRate / 1e9, 2) + " GB/s",
            ])
        }
        let head =
            trial.layout == nil
            ? "\(readableSize(UInt64(trial.payload.count))) of a layout that nobody described: "
                + "packed as opaque bytes\n"
            : "\(readableSize(UInt64(trial.payload.count))), \(trial.valueCount ?? 0) values\n"
        let points = trials.compactMap { one -> CodecPlot.Point? in
            guard let rate = trial.bitsPerValue(one), let error = one.relativeError, error > 0
            else { return nil }
            return CodecPlot.Point(
                name: one.level.name, rate: rate, quality: -20 * log10(error))
        }
        let plot = CodecPlot(points: points).text
        return head + table(rows, rightAligned: Set(2...8)) + (plot.isEmpty ? "" : "\n" + plot)
    }

    private static func json(_ trials: [LevelTrial], _ trial: CodecTrial) -> JSONValue {
        .object([
            ("value_bytes", .integer(UInt64(trial.payload.count))),
            ("values", trial.valueCount.map { .integer(UInt64($0)) } ?? .null),
            (
                "levels",
                .array(
                    trials.map { one in
                        .object([
                            ("level", .text(one.level.name)), ("mode", .text("\(one.mode)")),
                            ("encoded_bytes", .integer(UInt64(one.byteCount))),
                            (
                                "bits_per_value",
                                trial.bitsPerValue(one).map { .number($0) } ?? .null
                            ),
                            ("relative_error", one.relativeError.map { .number($0) } ?? .null),
                            ("largest_error", one.largestError.map { .number($0) } ?? .null),
                            ("encode_gbps", .number(one.encodeRate / 1e9)),
                            ("decode_gbps", .number(one.decodeRate / 1e9)),
                        ])
                    })
            ),
        ])
    }
}

extension CodecTrial {
    /// Bits that a value takes, everything included.
    func bitsPerValue(_ trial: LevelTrial) -> Double? {
        valueCount.map { 8 * Double(trial.byteCount) / Double(max(1, $0)) }
    }
}

extension Level {
    /// As in the configuration.
    var name: String {
        switch self {
        case .raw: "raw"
        case .zstd: "zstd"
        case .lossless: "lossless"
        case .fine: "q1"
        case .standard: "q2"
        case .coarse: "q3"
        case .coarsest: "q4"
        }
    }
}
