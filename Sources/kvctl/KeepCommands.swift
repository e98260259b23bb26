// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import KVClient
import KVCore
import LinuxIO

/// Deletes chunks.
struct RemoveCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rm", abstract: "Delete chunks.",
        discussion: """
            Exits with 1 when any of them was not there, and with 4 when one is gone but may come \
            back after a restart of the daemon.
            """)

    @OptionGroup var connection: ConnectionOptions

    @Argument(help: "Keys, 64 hexadecimal digits each.")
    var keys: [String] = []

    @Option(name: .long, parsing: .singleValue, help: "The name of an opaque value; repeatable.")
    var name: [String] = []

    func run() async throws {
        let rows = try await keyStatuses(
            connection, try KeyName.list(keys: keys, names: name)
        ) { client, keys, deadline throws(ClientError) in
            try await client.delete(keys, deadline: deadline)
        }
        try report(rows, json: connection.json) { status in
            switch status {
            case .ok: "deleted"
            case .notDurable: "deleted, but it may come back after a restart"
            case .notFound: "absent"
            default: "\(status)"
            }
        } members: { status in
            [("deleted", .truth(status == .ok || status == .notDurable))]
        }
    }
}

/// Keeps chunks from being evicted.
struct PinCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pin", abstract: "Keep chunks from being evicted for a time.",
        discussion: """
            Deletion and a chunk's own time to live still end it. Pinning again replaces the time. \
            Exits with 1 when any of the chunks is not there, and with 4 when one could not be \
            pinned because too much is.
            """)

    @OptionGroup var connection: ConnectionOptions

    @Argument(help: "Keys, 64 hexadecimal digits each.")
    var keys: [String] = []

    @Option(name: .long, parsing: .singleValue, help: "The name of an opaque value; repeatable.")
    var name: [String] = []

    @Option(
        name: .customLong("for"),
        help: ArgumentHelp("How long: 90s, 15min, 2h, 30d.", valueName: "time"))
    var time: TimeSpan

    func validate() throws {
        guard time.milliseconds <= Limits.pinMillisecondsMax else {
            throw ValidationError(
                "--for takes at most \(Limits.pinMillisecondsMax / 86_400_000)d")
        }
    }

    func run() async throws {
        let milliseconds = time.milliseconds
        let rows = try await keyStatuses(
            connection, try KeyName.list(keys: keys, names: name)
        ) { client, keys, deadline throws(ClientError) in
            try await client.pin(keys, milliseconds: milliseconds, deadline: deadline)
        }
        try report(rows, json: connection.json, alsoDone: .notDurable) { status in
            switch status {
            case .ok: "pinned"
            case .notDurable: "pinned, but a restart forgets it"
            case .notFound: "absent"
            case .busy: "not pinned: too much is"
            default: "\(status)"
            }
        } members: { status in
            [("pinned", .truth(status == .ok || status == .notDurable))]
        }
    }
}

/// Lets chunks be evicted again.
struct UnpinCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "unpin", abstract: "Let pinned chunks be evicted again.",
        discussion: """
            A chunk that is not pinned is fine. Exits with 1 when any of the chunks is not there.
            """)

    @OptionGroup var connection: ConnectionOptions

    @Argument(help: "Keys, 64 hexadecimal digits each.")
    var keys: [String] = []

    @Option(name: .long, parsing: .singleValue, help: "The name of an opaque value; repeatable.")
    var name: [String] = []

    func run() async throws {
        let rows = try await keyStatuses(
            connection, try KeyName.list(keys: keys, names: name)
        ) { client, keys, deadline throws(ClientError) in
            try await client.unpin(keys, deadline: deadline)
        }
        try report(rows, json: connection.json, alsoDone: .notDurable) { status in
            switch status {
            case .ok: "not pinned"
            case .notDurable: "not pinned, but it may be after a restart"
            case .notFound: "absent"
            default: "\(status)"
            }
        } members: { _ in
            []
        }
    }
}

/// A key and what was done about it.
private typealias KeyStatus = (key: ChunkKey, status: Status)

/// Runs a call that tells a status for each key.
private func keyStatuses(
    _ options: ConnectionOptions, _ names: [KeyName],
    _ call:
        @escaping @Sendable (
            Client<RingReactor>, [ChunkKey], Instant
        ) async throws(ClientError) -> [Status]
) async throws -> [KeyStatus] {
    try await withDaemon(options) { _, calls throws(Failure) in
        let keys = names.map { calls.key($0) }
        let statuses = try await calls { client, deadline throws(ClientError) in
            try await call(client, keys, deadline)
        }
        return Array(zip(keys, statuses)).map { (key: $0.0, status: $0.1) }
    }
}

/// Prints what became of each key, with `words` or, in JSON, with `members` beside its status; ends
/// with the code for the worst of it. A status of `alsoDone` is as good as `ok`.
private func report(
    _ rows: [KeyStatus], json: Bool, alsoDone: Status? = nil, _ words: (Status) -> String,
    members: (Status) -> [(String, JSONValue)]
) throws {
    if json {
        let records = rows.map { row in
            JSONValue.object(
                [("key", .text("\(row.key)")), ("status", .text("\(row.status)"))]
                    + members(row.status))
        }
        writeOutput(JSONValue.object([("records", .array(records))]).text + "\n")
    } else {
        writeOutput(table(rows.map { ["\($0.key)", words($0.status)] }))
    }
    let bad = rows.map(\.status).filter { $0 != .ok && $0 != alsoDone }
    if bad.contains(where: { $0 != .notFound }) {
        throw ExitCode(ExitStatus.refused.rawValue)
    }
    if !bad.isEmpty { throw ExitCode(ExitStatus.notFound.rawValue) }
}
