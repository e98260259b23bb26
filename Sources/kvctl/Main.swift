// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Settings

/// The operator's tool.
struct Kvctl: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "kvctl",
        abstract: "Look into a KVStore daemon, and store, fetch and measure chunks.",
        discussion: """
            The daemon is found by --address, else by KVSTORE_ADDRESS, else at its default Unix \
            socket. Results go to standard output, errors to standard error; --json makes the \
            results one JSON object. Exit codes: \(ExitStatus.summary); see kvctl exit-codes.
            """,
        version: Release.version,
        subcommands: [
            StatusCommand.self, PingCommand.self, PutCommand.self, GetCommand.self,
            LookupCommand.self, RemoveCommand.self, PinCommand.self, UnpinCommand.self,
            StatCommand.self, SSDCommand.self, CodecCommand.self,
            BenchCommand.self, ExitCodesCommand.self,
        ])
}

/// Parses, runs, and ends with an exit code of `ExitStatus`.
@main
enum Main {
    static func main() async {
        do {
            var command = try Kvctl.parseAsRoot()
            if var asynchronous = command as? any AsyncParsableCommand {
                try await asynchronous.run()
            } else {
                try command.run()
            }
        } catch let failure as Failure {
            writeError("kvctl: \(failure.message)\n")
            Kvctl.exit(withError: ExitCode(failure.exit.rawValue))
        } catch  where Kvctl.exitCode(for: error) == .validationFailure {
            writeError(Kvctl.fullMessage(for: error) + "\n")
            Kvctl.exit(withError: ExitCode(ExitStatus.usage.rawValue))
        } catch {
            Kvctl.exit(withError: error)
        }
    }
}
