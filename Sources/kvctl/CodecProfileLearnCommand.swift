// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Codec
import KVClient
import KVCore
import Kernels

/// Learns a profile from chunks.
struct CodecProfileLearnCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "learn", abstract: "Learn a profile from chunks of one layout.",
        discussion: """
            Chunks are files (kvctl get writes such), keys of chunks that the daemon holds, or \
            with --stored-in all of the layout's in an SSD store. K is learnt before RoPE where \
            the layout says how it turns; for that each chunk's position must be known: the \
            daemon may know it, --list and --position tell it, and chunks without one are left \
            out. The same chunks in the same order give the same profile.
            """)

    @OptionGroup var connection: ConnectionOptions

    @Argument(help: "Files, and keys of 64 hexadecimal digits.")
    var chunks: [String] = []

    @Option(
        help: ArgumentHelp(
            "A file with the layout's description, one field=value a line; of keys it is looked up "
                + "in the namespace.", valueName: "file"))
    var layout: String?

    @Option(name: .shortAndLong, help: "The profile's file.")
    var output: String

    @Option(
        help: ArgumentHelp(
            "A file that lists chunks, one a line, each with its position if that is known; - is "
                + "standard input.", valueName: "file"))
    var list: String?

    @Option(
        parsing: .singleValue,
        help: ArgumentHelp(
            "A directory of an SSD store whose chunks are asked of the daemon; repeatable.",
            valueName: "dir"))
    var storedIn: [String] = []

    @Option(
        help: ArgumentHelp(
            "The place of a chunk's first token in its sequence, where nothing else tells it.",
            valueName: "position"))
    var position: UInt32?

    @Flag(help: "Learn K as it is stored, after RoPE: no positions are needed, containers grow.")
    var keysAsStored = false

    @Option(
        help: ArgumentHelp(
            "Steps of q1 to q4 in mode scalar, in deviations.", valueName: "a,b,c,d"))
    var steps: StepList?

    @Flag(
        help: ArgumentHelp(
            "Embed coarser levels in q1 of mode scalar, so that a GET can have them without the "
                + "chunk being encoded again."))
    var embedded = false

    @Flag(help: "Learn nothing for mode predictive: a profile of less than a megabyte.")
    var noPredictors = false

    @Option(
        help: ArgumentHelp(
            "Steps of q1 to q4 in mode predictive, in deviations.", valueName: "a,b,c,d"))
    var predictiveSteps: StepList?

    @Option(
        help: ArgumentHelp(
            "In mode predictive: layers that are predicted from each other, 1 to 255.",
            valueName: "layers"))
    var group = LearningOptions().group

    @Option(
        help: ArgumentHelp(
            "In mode predictive: how many layers back predictions look, 1 or 2.",
            valueName: "layers"))
    var lookback = LearningOptions().lookback

    @Option(help: ArgumentHelp("What the kept tokens may take.", valueName: "size"))
    var memory = "2GiB"

    @Option(help: "What the profile says it was learnt from (default: how many tokens).")
    var note: String?

    func validate() throws {
        guard !chunks.isEmpty || list != nil || !storedIn.isEmpty else {
            throw ValidationError("give files, keys, --list or --stored-in")
        }
        guard storedIn.isEmpty || layout != nil else {
            throw ValidationError("--stored-in needs --layout, to know which chunks are meant")
        }
        guard (1...255).contains(group) else {
            throw ValidationError("--group takes 1 to 255")
        }
        guard (1...2).contains(lookback) else { throw ValidationError("--lookback takes 1 or 2") }
        guard !noPredictors || predictiveSteps == nil else {
            throw ValidationError("--predictive-steps and --no-predictors contradict each other")
        }
        guard ByteCount(text: memory) != nil else {
            throw ValidationError("--memory takes a size such as 2GiB")
        }
        guard !connection.json || output != "-" else {
            throw ValidationError("--json and the profile cannot share standard output")
        }
    }

    func run() async throws {
        var sources = try chunks.map { try ChunkSource($0, position: nil) }
        if let list { sources += try ChunkSource.list(list) }
        let described = try layout.map { path throws(Failure) in try CodecFiles.layout(path) }
        if let described, !storedIn.isEmpty {
            sources += try ChunkSource.stored(in: storedIn, described.id)
        }
        let (command, all) = (self, sources)
        let learnt: LearntProfile
        if all.contains(where: { $0.key != nil }) {
            learnt = try await withDaemon(connection) { _, calls throws(Failure) in
                try await command.learn(all, described, calls)
            }
        } else {
            learnt = try await learn(all, described, nil)
        }
        try writeFile(output, learnt.bytes.bytes)
        if output != "-" { writeOutput(connection.json ? learnt.json : learnt.text(output)) }
    }

    // MARK: Learning

    private func learn(
        _ sources: [ChunkSource], _ described: KVLayout?, _ calls: Calls?
    ) async throws(Failure) -> LearntProfile {
        var reader = ChunkReader(calls, connection.timeoutMilliseconds)
        guard let layout = try await reader.layout(sources, described) else {
            throw Failure(
                .usage,
                "nobody described the chunks' layout: give --layout FILE with its description")
        }
        var run = try LearningRun(
            layout, turnsKeysBack: !keysAsStored, byteCountMax: ByteCount(text: memory)?.bytes ?? 0)
        for source in sources {
            try run.add(try await reader.read(source, of: layout), of: source, at: position)
        }
        var options = LearningOptions()
        if let steps { options.scalarSteps = steps.values }
        options.predictiveSteps =
            noPredictors ? nil : predictiveSteps?.values ?? options.predictiveSteps
        options.isEmbedded = embedded
        options.group = group
        options.lookback = lookback
        options.note = note ?? run.note
        return try run.learn(options)
    }
}

/// Steps as people type them: as many as there are lossy levels.
struct StepList: ExpressibleByArgument, Sendable {
    let values: [Float]

    init?(argument: String) {
        let parts = argument.split(separator: ",", omittingEmptySubsequences: false)
        values = parts.compactMap { Float($0) }
        guard values.count == parts.count, values.count == LearningOptions.levels.count,
            values.allSatisfy({ $0 >= 0x1p-8 && $0 <= 0x1p8 }), values == values.sorted()
        else { return nil }
    }
}
