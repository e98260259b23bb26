// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import KVClient
import KVCore

/// The exit codes of kvctl. Stable: never reused, never changed (docs/operations/kvctl.md).
enum ExitStatus: Int32, CaseIterable {
    case success = 0
    case notFound = 1
    case usage = 2
    case unreachable = 3
    case refused = 4
    case damaged = 5
    case deadline = 6
    case file = 7
    case defect = 8

    var meaning: String {
        switch self {
        case .success: "done"
        case .notFound: "not stored: a miss"
        case .usage: "the command line is wrong"
        case .unreachable: "the daemon cannot be reached, or the connection was lost"
        case .refused: "the daemon refused: busy, too large, unauthorized, unsupported, …"
        case .damaged:
            "the bytes that arrived do not match their checksum; ssd inspect, ssd verify: "
                + "something is damaged"
        case .deadline: "not done in time (--timeout)"
        case .file: "a file of this host could not be read or written"
        case .defect: "the daemon broke the protocol, or reports a defect of its own"
        }
    }

    /// All codes in one line of help.
    static var summary: String {
        "0 done, 1 not found, 2 usage, 3 unreachable, 4 refused, 5 damaged, 6 too late, 7 file, "
            + "8 defect"
    }
}

/// Lists the exit codes.
struct ExitCodesCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "exit-codes", abstract: "List the exit codes and what they mean.")

    @Flag(help: "Print a JSON object.")
    var json = false

    func run() throws {
        if json {
            writeOutput(
                JSONValue.object(
                    ExitStatus.allCases.map { ("\($0.rawValue)", .text($0.meaning)) }
                ).text + "\n")
            return
        }
        writeOutput(table(ExitStatus.allCases.map { ["\($0.rawValue)", $0.meaning] }))
    }
}

/// An end of the command that is not success: what to print, and with which code to exit.
struct Failure: Error {
    let exit: ExitStatus
    let message: String

    init(_ exit: ExitStatus, _ message: String) {
        self.exit = exit
        self.message = message
    }

    /// What a failed call of the client means for whoever typed the command.
    init(_ error: ClientError, at address: StreamAddress) {
        switch error.kind {
        case .unreachable:
            self.init(
                .unreachable,
                "no daemon at \(address): \(Self.sentence(error.fault)). Is kvstored running? "
                    + "Name its address with --address or KVSTORE_ADDRESS")
        case .connectionLost:
            self.init(
                .unreachable,
                "the connection to \(address) was lost \(error.message): try again; "
                    + "the daemon's log may tell more")
        case .deadlineExceeded:
            self.init(.deadline, "not done in time \(error.message): raise --timeout")
        case .damaged:
            self.init(.damaged, error.message)
        case .brokenAnswer:
            self.init(
                .defect,
                "\(address) does not answer as a KVStore daemon does: \(error.message)")
        case .refused, .unusable:
            self.init(Self.exit(error.status ?? .internal), Self.refusal(error))
        }
    }

    private static func exit(_ status: Status) -> ExitStatus {
        switch status {
        case .ok, .exists: .success
        case .notFound, .layoutMismatch: .notFound
        case .checksumMismatch: .damaged
        case .deadlineExceeded: .deadline
        case .internal, .malformed, .helloRequired: .defect
        case .busy, .tooLarge, .unauthorized, .unsupported, .versionMismatch, .noLease,
            .shuttingDown, .limitExceeded, .notDurable:
            .refused
        }
    }

    private static func refusal(_ error: ClientError) -> String {
        let status = error.status ?? .internal
        let told = error.message.isEmpty ? "" : ": \(error.message)"
        return "the daemon answers \(status)\(told). \(cure(status))"
    }

    private static func cure(_ status: Status) -> String {
        switch status {
        case .busy: "Everything is in use: try again later, or raise memory.budget"
        case .tooLarge: "Split the value; kvctl status tells the limit"
        case .deadlineExceeded: "Raise --timeout"
        case .checksumMismatch: "The bytes were damaged on the way: try again"
        case .unauthorized: "Check --namespace and --token-file"
        case .unsupported: "The daemon does not offer this here"
        case .versionMismatch: "Use a kvctl of the daemon's version"
        case .shuttingDown: "The daemon is stopping: try again when it runs"
        case .limitExceeded: "Ask for less at once"
        case .notDurable: "It is done in memory only: kvctl ssd status tells the tier's state"
        default: "The daemon's log tells more"
        }
    }

    private static func sentence(_ fault: IOFault?) -> String {
        switch fault {
        case .system(let number): errorText(number)
        case .deadlineExceeded: "it does not answer in time"
        case .closed: "it closed the connection"
        case .cancelled, .busy, nil: "the attempt was given up"
        }
    }
}
