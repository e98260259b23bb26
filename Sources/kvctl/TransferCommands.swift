// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import KVClient
import KVCore
import Wire

/// Stores a file as one chunk.
struct PutCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "put", abstract: "Store a file as one opaque chunk.",
        discussion: """
            Prints the key. A key that is there already keeps its bytes, since chunks are \
            immutable: kvctl rm first to store others under its name.
            """)

    @OptionGroup var connection: ConnectionOptions

    @Argument(help: "The file; - is standard input.")
    var file: String

    @Option(help: "The key, 64 hexadecimal digits.")
    var key: String?

    @Option(help: "A name to derive the key from (default: the file's own).")
    var name: String?

    @Option(
        help: ArgumentHelp("Forget it after this time: 500ms, 90s, 15min, 2h.", valueName: "time"))
    var ttl: TimeSpan?

    @Flag(help: "Wait until it is on stable storage; exit with 4 when that cannot be done.")
    var durable = false

    func validate() throws {
        guard ttl.map({ $0.milliseconds <= UInt32.max }) ?? true else {
            throw ValidationError("--ttl takes at most 49d")
        }
    }

    func run() async throws {
        let options = connection
        let file = file
        let standardName = file == "-" ? nil : file.split(separator: "/").last.map(String.init)
        let keyName = try KeyName(
            hexadecimal: key, name: key == nil ? name ?? standardName : name)
        let ttl = UInt32(ttl?.milliseconds ?? 0)
        let acknowledge: Acknowledge = durable ? .ssd : .memory
        let result = try await withDaemon(options) { _, calls throws(Failure) in
            let label = ChunkLabel(
                key: calls.key(keyName), timeToLiveMilliseconds: ttl, acknowledge: acknowledge)
            let (outcome, byteCount) = try await Self.send(file, label, calls)
            return (key: label.key, outcome: outcome, byteCount: byteCount)
        }
        if options.json {
            writeOutput(
                JSONValue.object([
                    ("key", .text("\(result.key)")),
                    ("value_bytes", .integer(UInt64(result.byteCount))),
                    ("stored", .truth(result.outcome == .stored)),
                ]).text + "\n")
        } else {
            let size = readableSize(UInt64(result.byteCount))
            writeOutput(
                "\(result.key)  \(size)  "
                    + (result.outcome == .stored ? "stored\n" : "was there already\n"))
        }
    }

    /// Sends the file piece by piece, so that its size costs no memory.
    private static func send(
        _ path: String, _ label: ChunkLabel, _ calls: Calls
    ) async throws(Failure) -> (PutOutcome, Int) {
        let file = try Descriptor.reading(path)
        let byteCountMax = Int(
            min(calls.client.session?.chunkByteCountMax ?? 0, UInt64(Limits.chunkByteCountMax)))
        guard let byteCount = file.regularByteCount else {
            let pieces = try readAll(file, of: path, byteCountMax: byteCountMax)
            return try await send(pieces, label, calls, of: path)
        }
        guard byteCount > 0 else { throw Failure(.usage, "\(path) is empty: nothing to store") }
        try await calls { client, deadline throws(ClientError) in
            try await client.beginPut(label, byteCount: UInt64(byteCount), deadline: deadline)
        }
        let piece = OwnedBytes(count: min(byteCount, Limits.pieceByteCountAlone))
        var sent = 0
        while sent < byteCount {
            let room = piece.bytes.prefix(min(piece.bytes.count, byteCount - sent))
            guard try file.read(into: room, of: path) == room.count else {
                calls.client.abandonPut()
                throw Failure(.file, "\(path) became shorter while it was read: nothing is stored")
            }
            try await calls { client, _ throws(ClientError) in try await client.addPart(room) }
            sent += room.count
        }
        return (
            try await calls { client, _ throws(ClientError) in try await client.finishPut() },
            byteCount
        )
    }

    private static func send(
        _ pieces: [OwnedBytes], _ label: ChunkLabel, _ calls: Calls, of path: String
    ) async throws(Failure) -> (PutOutcome, Int) {
        let byteCount = pieces.reduce(0) { $0 + $1.bytes.count }
        guard byteCount > 0 else { throw Failure(.usage, "\(path) is empty: nothing to store") }
        let outcome = try await calls { client, deadline throws(ClientError) in
            try await client.beginPut(label, byteCount: UInt64(byteCount), deadline: deadline)
            for piece in pieces { try await client.addPart(piece.bytes) }
            return try await client.finishPut()
        }
        return (outcome, byteCount)
    }
}

/// Fetches one chunk.
struct GetCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "get", abstract: "Fetch a chunk into a file, or to standard output.",
        discussion: """
            The bytes are verified before anything is written, and a file appears complete or not \
            at all.
            """)

    @OptionGroup var connection: ConnectionOptions

    @Argument(help: "The key, 64 hexadecimal digits.")
    var key: String?

    @Option(help: "The name of an opaque value.")
    var name: String?

    @Option(name: .shortAndLong, help: "The file to write; - is standard output.")
    var output = "-"

    @Option(
        help: ArgumentHelp(
            "Only so many bytes of it from there on: 4KiB:100.", valueName: "offset:count"))
    var range: RangeArgument?

    func validate() throws {
        guard !connection.json || output != "-" else {
            throw ValidationError("--json and the value cannot share standard output: use -o FILE")
        }
    }

    func run() async throws {
        let options = connection
        let keyName = try KeyName(hexadecimal: key, name: name)
        let wanted = GetOptions(range: range?.value)
        let (key, memory) = try await withDaemon(options) { _, calls throws(Failure) in
            let key = calls.key(keyName)
            let memory = try await calls { client, deadline throws(ClientError) in
                try await client.fetch(key, wanted, deadline: deadline)
            }
            return (key, memory)
        }
        guard let memory else {
            throw Failure(.notFound, "\(key) is not stored: never, or no longer")
        }
        try writeFile(output, memory.bytes)
        if options.json {
            writeOutput(
                JSONValue.object([
                    ("key", .text("\(key)")),
                    ("value_bytes", .integer(UInt64(memory.bytes.count))),
                    ("file", .text(output)),
                ]).text + "\n")
        } else if output != "-" {
            writeOutput("\(readableSize(UInt64(memory.bytes.count)))  \(output)\n")
        }
    }
}

/// A part of a chunk as people type it: an offset and a count, both sizes.
struct RangeArgument: ExpressibleByArgument, Sendable {
    let value: ByteRange

    init?(argument: String) {
        let parts = argument.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 2, let offset = ByteCount(text: String(parts[0])),
            let count = ByteCount(text: String(parts[1])), count.bytes > 0
        else { return nil }
        value = ByteRange(offset: UInt64(offset.bytes), byteCount: UInt64(count.bytes))
    }
}

/// A time as people type it.
struct TimeSpan: ExpressibleByArgument, Sendable {
    let milliseconds: UInt64

    /// Reads a whole number from 1 on with `ms`, `s`, `min` or `m`, `h` or `d`.
    init?(argument: String) {
        let digits = argument.prefix { $0.isASCII && $0.isNumber }
        let units: [Substring: UInt64] = [
            "ms": 1, "s": 1_000, "min": 60_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000,
        ]
        guard let count = UInt64(digits), count > 0,
            let unit = units[argument.dropFirst(digits.count)]
        else { return nil }
        let (milliseconds, overflows) = count.multipliedReportingOverflow(by: unit)
        guard !overflows else { return nil }
        self.milliseconds = milliseconds
    }
}
