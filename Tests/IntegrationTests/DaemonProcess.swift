// SPDX-License-Identifier: Apache-2.0
import Foundation
import KVCore

/// What went wrong with a process under test.
struct ProcessFault: Error, CustomStringConvertible {
    let description: String
}

/// The products that the build put beside the tests.
enum Product: String {
    case kvstored
    case kvctl

    /// Where the executable lies.
    var url: URL {
        get throws {
            var folder = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
            for _ in 0..<4 {
                folder.deleteLastPathComponent()
                let candidate = folder.appendingPathComponent(rawValue)
                if FileManager.default.isExecutableFile(atPath: candidate.path) {
                    return candidate
                }
            }
            throw ProcessFault(
                description: "\(rawValue) is not beside the tests: swift build --build-tests")
        }
    }
}

/// What a command that ended has left.
struct CommandResult {
    let exitCode: Int32
    let output: String
    let errors: String
}

/// Runs a product to its end, bounded.
func runProduct(
    _ product: Product, _ arguments: [String], input: String? = nil,
    environment: [String: String] = [:]
) throws -> CommandResult {
    let folder = try TemporaryFolder()
    let process = Process()
    process.executableURL = try product.url
    process.arguments = arguments
    process.environment = ProcessInfo.processInfo.environment
        .filter { !$0.key.hasPrefix("KVSTORE") }.merging(environment) { _, new in new }
    let outputPath = folder.path("output")
    let errorPath = folder.path("errors")
    let inputPath = folder.path("input")
    try (input ?? "").write(toFile: inputPath, atomically: false, encoding: .utf8)
    process.standardInput = FileHandle(forReadingAtPath: inputPath)
    process.standardOutput = try emptyFile(outputPath)
    process.standardError = try emptyFile(errorPath)
    try process.run()
    guard waitForEnd(process, seconds: 60) else {
        throw ProcessFault(description: "\(product) \(arguments) did not end")
    }
    return CommandResult(
        exitCode: process.terminationStatus,
        output: try String(contentsOfFile: outputPath, encoding: .utf8),
        errors: try String(contentsOfFile: errorPath, encoding: .utf8))
}

private func emptyFile(_ path: String) throws -> FileHandle {
    _ = FileManager.default.createFile(atPath: path, contents: nil)
    guard let handle = FileHandle(forWritingAtPath: path) else {
        throw ProcessFault(description: "cannot write \(path)")
    }
    return handle
}

/// Waits until `process` has ended; kills it after `seconds`, by its id, and says so with false.
private func waitForEnd(_ process: Process, seconds: Double) -> Bool {
    let end = Date().addingTimeInterval(seconds)
    while process.isRunning {
        if Date() > end {
            kill(process.processIdentifier, SIGKILL)
            process.waitUntilExit()
            return false
        }
        usleep(5_000)
    }
    return true
}

/// A folder of a test's own, removed with the object.
final class TemporaryFolder: Sendable {
    private let root: String

    init() throws {
        root = "/tmp/kvstore-tests-\(UInt64.random(in: 0 ... .max))"
        try FileManager.default.createDirectory(
            atPath: root, withIntermediateDirectories: false,
            attributes: [.posixPermissions: 0o700])
    }

    func path(_ name: String) -> String { "\(root)/\(name)" }

    deinit {
        do {
            try FileManager.default.removeItem(atPath: root)
        } catch {
            // What stays is a few files in /tmp, and not what the test is about.
        }
    }
}

/// A running `kvstored`, in a folder of its own, on a free port.
final class DaemonProcess: Sendable {
    let folder: TemporaryFolder
    let unixAddress: StreamAddress
    let tcpAddress: StreamAddress
    private let process: Process

    /// Starts a daemon and waits until it serves.
    init(
        _ arguments: [String] = [], configuration: String? = nil, socketPath: String? = nil
    ) throws {
        folder = try TemporaryFolder()
        let socket = socketPath ?? folder.path("kvstored.sock")
        unixAddress = .unix(path: socket)
        let ready = folder.path("ready")
        process = Process()
        process.executableURL = try Product.kvstored.url
        var all = [
            "--listen-unix-socket", socket, "--listen-tcp", "127.0.0.1:0",
            "--memory-registration", "off", "--io-shards", "1", "--ready-file", ready,
        ]
        if !arguments.contains("--memory-budget") { all += ["--memory-budget", "64MiB"] }
        if let configuration {
            try configuration.write(
                toFile: folder.path("kvstored.yaml"), atomically: false, encoding: .utf8)
            all += ["--config", folder.path("kvstored.yaml")]
        }
        process.arguments = all + arguments
        let log = try emptyFile(folder.path("log"))
        process.standardOutput = log
        process.standardError = log
        try process.run()
        let end = Date().addingTimeInterval(30)
        while !FileManager.default.fileExists(atPath: ready) {
            guard process.isRunning, Date() < end else {
                if process.isRunning { kill(process.processIdentifier, SIGKILL) }
                let text = try String(contentsOfFile: folder.path("log"), encoding: .utf8)
                throw ProcessFault(description: "kvstored did not start: \(text)")
            }
            usleep(5_000)
        }
        tcpAddress = try Self.tcpAddress(readyFile: ready)
    }

    /// Sends SIGTERM and returns at once.
    func terminate() {
        kill(process.processIdentifier, SIGTERM)
    }

    /// Sends `signal`.
    func end(_ signal: Int32) {
        kill(process.processIdentifier, signal)
    }

    /// Whether it ended within `seconds` by itself; it is killed otherwise.
    func ends(within seconds: Double) -> Bool {
        waitForEnd(process, seconds: seconds)
    }

    /// The exit status, after the end.
    var exitStatus: Int32 { process.terminationStatus }

    var log: String {
        get throws { try String(contentsOfFile: folder.path("log"), encoding: .utf8) }
    }

    private static func tcpAddress(readyFile: String) throws -> StreamAddress {
        let data = try Data(contentsOf: URL(fileURLWithPath: readyFile))
        let object = try JSONSerialization.jsonObject(with: data) as? [String: Any]
        let addresses = object?["addresses"] as? [String] ?? []
        guard let text = addresses.first(where: { $0.hasPrefix("tcp:") }),
            let port = text.split(separator: ":").last.flatMap({ UInt16($0) })
        else { throw ProcessFault(description: "no port in the ready file: \(addresses)") }
        return .tcp(host: "127.0.0.1", port: port)
    }
}
