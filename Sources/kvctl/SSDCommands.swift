// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import KVClient
import KVCore
import Wire

/// The operator's commands for the SSD tier.
struct SSDCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ssd", abstract: "Look after the SSD tier.",
        discussion: """
            status, scrub and evacuate ask the daemon, on its Unix socket; only root and its own \
            user may. inspect and verify read the directories themselves.
            """,
        subcommands: [
            SSDStatusCommand.self, SSDScrubCommand.self, SSDEvacuateCommand.self,
            SSDInspectCommand.self, SSDVerifyCommand.self,
        ],
        defaultSubcommand: SSDStatusCommand.self)
}

/// Shows the state of the tier.
struct SSDStatusCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Show the state of the tier and of its directories.")

    @OptionGroup var connection: ConnectionOptions

    func run() async throws {
        let facts = try await control(connection, .ssdStatus)
        printFacts(facts, json: connection.json)
    }
}

/// Begins to verify what is stored.
struct SSDScrubCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "scrub", abstract: "Begin to read and verify everything that is stored.",
        discussion: "Does not wait for the end: kvctl ssd status tells how far it is.")

    @OptionGroup var connection: ConnectionOptions

    @Option(
        help: ArgumentHelp(
            "Bytes to read in a second, such as 50MiB (default: as configured).",
            valueName: "size"))
    var rate: ByteRate?

    func run() async throws {
        let facts = try await control(
            connection, .ssdScrub, argument: rate.map { "\($0.bytesPerSecond)" } ?? "")
        printFacts(facts, json: connection.json)
    }
}

/// Empties a directory.
struct SSDEvacuateCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "evacuate",
        abstract: "Begin to move everything off a directory, so that its disk can be taken away.",
        discussion: "Does not wait for the end: kvctl ssd status tells how far it is.")

    @OptionGroup var connection: ConnectionOptions

    @Argument(help: "The directory, as configured.")
    var directory: String

    func validate() throws {
        guard (1...Limits.argumentByteCountMax).contains(directory.utf8.count) else {
            throw ValidationError(
                "a directory's path has 1 to \(Limits.argumentByteCountMax) bytes")
        }
    }

    func run() async throws {
        let facts = try await control(connection, .ssdEvacuate, argument: directory)
        printFacts(facts, json: connection.json)
    }
}

/// A rate as people type it: a size, in a second.
struct ByteRate: ExpressibleByArgument, Sendable {
    let bytesPerSecond: UInt64

    init?(argument: String) {
        guard let size = ByteCount(text: argument), size.bytes > 0 else { return nil }
        bytesPerSecond = UInt64(size.bytes)
    }
}

private func control(
    _ options: ConnectionOptions, _ operation: ControlRequest.Operation, argument: String = ""
) async throws -> [ControlFact] {
    guard case .unix = options.resolvedAddress else {
        throw ValidationError("only the daemon's Unix socket takes this: use --address unix:PATH")
    }
    return try await withDaemon(options) { _, calls throws(Failure) in
        do throws(ClientError) {
            return try await calls.client.control(
                operation, argument: argument, deadline: calls.deadline)
        } catch {
            guard error.kind == .refused, error.status == .unauthorized else {
                throw Failure(error, at: calls.address)
            }
            throw Failure(
                .refused,
                "the daemon answers unauthorized: \(error.message). Run kvctl as root or as the "
                    + "daemon's user")
        }
    }
}

/// Prints facts one a line; in JSON as one object, where decimal numbers are numbers.
private func printFacts(_ facts: [ControlFact], json: Bool) {
    if json {
        let members = facts.map { fact in
            (
                fact.name,
                UInt64(decimal: fact.text).map { JSONValue.integer($0) }
                    ?? .text(fact.text)
            )
        }
        writeOutput(JSONValue.object(members).text + "\n")
    } else {
        writeOutput(
            table(
                facts.map { fact in
                    let number = UInt64(decimal: fact.text)
                    return [
                        fact.name,
                        number.map { readableValue($0, named: fact.name) } ?? fact.text,
                    ]
                }))
    }
}

extension UInt64 {
    /// The number that `text` is, in the only way to write it.
    fileprivate init?(decimal text: String) {
        guard let number = UInt64(text), "\(number)" == text else { return nil }
        self = number
    }
}
