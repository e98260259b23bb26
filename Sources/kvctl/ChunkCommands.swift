// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import KVClient
import KVCore
import Wire

/// Asks which keys are there.
struct LookupCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "lookup", abstract: "Ask which chunks are stored, without fetching them.",
        discussion: "Exits with 1 when any of them is not. Counts as a use of those that are.")

    @OptionGroup var connection: ConnectionOptions

    @Argument(help: "Keys, 64 hexadecimal digits each.")
    var keys: [String] = []

    @Option(name: .long, parsing: .singleValue, help: "The name of an opaque value; repeatable.")
    var name: [String] = []

    @Flag(help: "Stop at the first key that is absent.")
    var prefix = false

    func run() async throws {
        let options = connection
        let names = try KeyName.list(keys: keys, names: name)
        let mode: LookupRequest.Mode = prefix ? .longestPrefix : .everyKey
        let (used, answer) = try await withDaemon(options) { _, calls throws(Failure) in
            let used = names.map { calls.key($0) }
            let answer = try await calls { client, deadline throws(ClientError) in
                try await client.lookup(used, mode, deadline: deadline)
            }
            return (used, answer)
        }
        let rows = zip(used, answer.records)
        if options.json {
            let records = rows.map { Self.json(key: $0.0, $0.1) }
            writeOutput(
                JSONValue.object([
                    ("prefix_count", .integer(UInt64(answer.prefixCount))),
                    ("records", .array(records)),
                ]).text + "\n")
        } else {
            writeOutput(table(rows.map { Self.row(key: $0.0, $0.1) }))
        }
        let isComplete =
            answer.records.count == used.count && answer.records.allSatisfy { $0.status == .ok }
        if !isComplete { throw ExitCode(ExitStatus.notFound.rawValue) }
    }

    private static func json(key: ChunkKey, _ record: LookupRecord) -> JSONValue {
        let isThere = record.status == .ok
        return .object([
            ("key", .text("\(key)")), ("status", .text("\(record.status)")),
            ("tier", isThere ? .integer(UInt64(record.tier)) : .null),
            ("value_bytes", isThere ? .integer(record.chunkByteCount) : .null),
            ("load_microseconds", isThere ? .integer(UInt64(record.loadMicroseconds)) : .null),
            (
                "time_to_live_milliseconds",
                isThere && record.timeToLiveMilliseconds != timeToLiveForever
                    ? .integer(record.timeToLiveMilliseconds) : .null
            ),
        ])
    }

    private static func row(key: ChunkKey, _ record: LookupRecord) -> [String] {
        guard record.status == .ok else { return ["\(key)", "absent"] }
        let tier = [1: "memory", 2: "ssd", 3: "peer"][record.tier] ?? "tier \(record.tier)"
        let remaining =
            record.timeToLiveMilliseconds == timeToLiveForever
            ? nil : record.timeToLiveMilliseconds
        return [
            "\(key)", tier, readableSize(record.chunkByteCount),
            "loads in " + readableTime(microseconds: Double(record.loadMicroseconds)),
            readableTimeToLive(remaining),
        ]
    }
}

/// Shows one chunk, or the node's numbers.
struct StatCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "stat", abstract: "Show what the daemon knows of one chunk, or of itself.",
        discussion: "Without a key: the daemon's numbers, one a line. Does not count as a use.")

    @OptionGroup var connection: ConnectionOptions

    @Argument(help: "The key, 64 hexadecimal digits.")
    var key: String?

    @Option(help: "The name of an opaque value.")
    var name: String?

    func run() async throws {
        guard key != nil || name != nil else { return try await runNode() }
        let options = connection
        let keyName = try KeyName(hexadecimal: key, name: name)
        let (key, found) = try await withDaemon(options) { _, calls throws(Failure) in
            let key = calls.key(keyName)
            let found = try await calls { client, deadline throws(ClientError) in
                try await client.chunkStatistics(key, deadline: deadline)
            }
            return (key, found)
        }
        guard let found else { throw Failure(.notFound, "\(key) is not stored") }
        let checksum = hexadecimal(
            (0..<8).map { UInt8(truncatingIfNeeded: found.checksum >> (56 - 8 * UInt64($0))) })
        if options.json {
            writeOutput(
                JSONValue.object([
                    ("key", .text("\(key)")), ("value_bytes", .integer(UInt64(found.byteCount))),
                    ("level", .integer(UInt64(found.level))), ("checksum", .text(checksum)),
                    ("layout", .text("\(found.layout)")),
                    (
                        "time_to_live_milliseconds",
                        found.timeToLiveMilliseconds.map { .integer($0) } ?? .null
                    ),
                ]).text + "\n")
            return
        }
        writeOutput(
            table([
                ["key", "\(key)"], ["size", readableSize(UInt64(found.byteCount))],
                ["level", found.level == 0 ? "raw" : "\(found.level)"],
                ["checksum", checksum],
                ["layout", found.layout == .opaque ? "opaque" : "\(found.layout)"],
                ["lives", readableTimeToLive(found.timeToLiveMilliseconds)],
            ]))
    }

    private func runNode() async throws {
        let options = connection
        let statistics = try await withDaemon(options) { _, calls throws(Failure) in
            try await calls { client, deadline throws(ClientError) in
                try await client.nodeStatistics(deadline: deadline)
            }
        }
        if options.json {
            writeOutput(
                JSONValue.object(statistics.map { ($0.name, .integer($0.value)) }).text + "\n")
        } else {
            writeOutput(statistics.map { "\($0.name) \($0.value)\n" }.joined())
        }
    }
}

extension KeyName {
    /// The keys and names of a command line, keys first; 1 to as many as one request takes.
    static func list(keys: [String], names: [String]) throws -> [KeyName] {
        let all =
            try keys.map { try KeyName(hexadecimal: $0, name: nil) }
            + names.map { KeyName.name($0) }
        guard !all.isEmpty else {
            throw ValidationError("give at least one key of 64 hexadecimal digits, or --name")
        }
        guard all.count <= Limits.batchKeyCountMax else {
            throw ValidationError("give at most \(Limits.batchKeyCountMax) keys at once")
        }
        return all
    }
}
