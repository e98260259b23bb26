// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Glibc
import KVCore

/// What `inspect` and `verify` have in common.
struct StoreOptions: ParsableArguments {
    @Argument(help: ArgumentHelp("All directories of one store.", valueName: "dir"))
    var directories: [String]

    @Option(help: ArgumentHelp("Only the segments of this slot.", valueName: "slot"))
    var segment: UInt32?

    @Flag(help: "Print JSON objects, one a line.")
    var json = false

    /// Inspects, and prints the lines for which `wants` holds.
    func inspect(
        _ options: StoreInspection.Options, wants: @escaping (InspectionLine) -> Bool
    ) throws(Failure) {
        var options = options
        options.segment = segment
        var output = BufferedOutput()
        if !json {
            for (number, path) in directories.enumerated() {
                output.write("directory \(number): \(path)\n")
            }
        }
        let inspection = StoreInspection(options) { [json] line in
            if wants(line) { output.write((json ? line.json : line.readable) + "\n") }
        }
        inspection.run(directories)
        output.flush()
        guard !inspection.faults.isEmpty else { return }
        let kinds = inspection.faults.sorted { $0.key < $1.key }.map { "\($0.value) \($0.key)" }
        let isUnreadable = inspection.faults.keys.allSatisfy { $0.hasSuffix("unreadable") }
        throw Failure(
            isUnreadable ? .file : .damaged,
            "found \(kinds.joined(separator: ", ")); docs/ssd-format.md, section 9, says what the "
                + "daemon does about each")
    }
}

/// Shows what lies in the directories of an SSD store.
struct SSDInspectCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "inspect", abstract: "Show what lies in the directories of an SSD store.",
        discussion: """
            Reads the files themselves, without a daemon, and changes nothing. While a daemon \
            uses them, what it writes at the moment may look damaged. The lines are described in \
            docs/ssd-format.md, section 11. Exit codes: 5 something is damaged, 7 something \
            cannot be read.
            """)

    @OptionGroup var store: StoreOptions

    @Flag(help: "Print also the single entries, records and notes; --json always does.")
    var records = false

    @Flag(help: "Read all payloads and check them.")
    var verify = false

    @Flag(help: "Print the chunks that a start of the daemon would find in the segments.")
    var recover = false

    @Option(
        help: ArgumentHelp(
            "When that start is, in milliseconds since 1970 (default: now).", valueName: "ms"))
    var now: UInt64?

    func run() throws {
        var options = StoreInspection.Options()
        options.verifies = verify
        options.recovers = recover
        options.now = now ?? wallMilliseconds()
        let isBrief = !store.json && !records
        try store.inspect(options) { line in
            !(isBrief && InspectionLine.detailTypes.contains(line.type))
        }
    }
}

/// Checks everything in the directories of an SSD store.
struct SSDVerifyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify", abstract: "Check everything in the directories of an SSD store.",
        discussion: """
            Reads all payloads and checks them, and keeps a daemon from starting with these \
            directories meanwhile. For a daemon that runs, kvctl ssd scrub does the same. \
            Exit codes: 4 a daemon uses a directory, 5 something is damaged, 7 something cannot \
            be read.
            """)

    @OptionGroup var store: StoreOptions

    @Flag(help: "Also while a daemon uses the directories.")
    var whileRunning = false

    func run() throws {
        var options = StoreInspection.Options()
        options.verifies = true
        let locks =
            try whileRunning
            ? []
            : store.directories.map { path in
                try DirectoryLock(path)
            }
        try withExtendedLifetime(locks) {
            try store.inspect(options) { ["identity", "fault", "summary"].contains($0.type) }
        }
    }
}

extension InspectionLine {
    /// Types of lines that there may be millions of.
    fileprivate static let detailTypes: Set<String> = [
        "footer-entry", "record", "note", "checkpoint-segment", "checkpoint-binding",
        "checkpoint-chunk", "checkpoint-pin",
    ]
}

/// Wall time in milliseconds since 1970.
private func wallMilliseconds() -> UInt64 {
    var time = timespec()
    // SAFETY: the structure is valid during the call.
    unsafe clock_gettime(CLOCK_REALTIME, &time)
    return UInt64(time.tv_sec) * 1_000 + UInt64(time.tv_nsec) / 1_000_000
}

/// Standard output in larger pieces: a store has millions of lines.
private struct BufferedOutput {
    private var text = ""

    mutating func write(_ line: String) {
        text += line
        if text.utf8.count >= 1 << 16 { flush() }
    }

    mutating func flush() {
        writeOutput(text)
        text = ""
    }
}
