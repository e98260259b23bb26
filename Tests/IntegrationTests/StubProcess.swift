// SPDX-License-Identifier: Apache-2.0
import Foundation
import KVCore

/// Tests/C/stub_server.py, a second daemon that does as its behaviour says, on a Unix socket in a
/// folder of its own. It ends with the object.
final class StubProcess: Sendable {
    let folder: TemporaryFolder
    let address: StreamAddress
    private let process: Process
    /// What keeps the stub running for as long as it is open.
    private let input = Pipe()

    /// Starts a stub and waits until it serves.
    init(_ behaviour: String) throws {
        folder = try TemporaryFolder()
        let socket = folder.path("stub.sock")
        let ready = folder.path("ready")
        address = .unix(path: socket)
        let script = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .deletingLastPathComponent().appendingPathComponent("C/stub_server.py")
        process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = [
            "python3", script.path, "--behaviour", behaviour, "--listen-unix-socket", socket,
            "--ready-file", ready,
        ]
        process.standardInput = input
        try process.run()
        let end = Date().addingTimeInterval(30)
        while !FileManager.default.fileExists(atPath: ready) {
            guard process.isRunning, Date() < end else {
                if process.isRunning { kill(process.processIdentifier, SIGKILL) }
                throw ProcessFault(description: "the stub did not start; does python3 run?")
            }
            usleep(5_000)
        }
    }

    deinit {
        do {
            try input.fileHandleForWriting.close()
        } catch {
            kill(process.processIdentifier, SIGKILL)
        }
        process.waitUntilExit()
    }
}
