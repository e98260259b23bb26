// SPDX-License-Identifier: Apache-2.0
import Foundation
import KVClient
import KVCore
import LinuxIO
import Testing
import Wire

@Suite struct `A daemon's life` {
    @Test func `has a limit of connections, and says so`() async throws {
        // No bystander: nobody knows when it connects.
        try await withDaemon(["--limits-connections", "4"], bystander: false) { desk, daemon in
            var connections: [RawConnection] = []
            var answered: [Status] = []
            for _ in 0..<8 {
                let connection = try await desk.rawConnection(daemon.unixAddress)
                try await connection.sendWhatIsTaken(hello())
                if let answer = try await connection.receive() {
                    answered.append(answer.header.status)
                    if answer.header.status == .busy {
                        #expect(answer.header.requestID == 0)
                        #expect(try await connection.isClosedNext())
                    }
                }
                connections.append(connection)
            }
            #expect(answered.filter { $0 == .ok }.count == 4)
            #expect(answered.contains(.busy))
            for connection in connections { connection.close() }
            // There is room again as soon as the daemon has noticed.
            let client = desk.client(daemon.unixAddress)
            var error: ClientError?
            for _ in 0..<500 {
                error = await clientError { try await client.ping(deadline: desk.soon) }
                if error == nil { break }
                try await desk.pause(milliseconds: 10)
            }
            #expect(error == nil)
            client.close()
        }
    }

    @Test func `ends in order: what has begun is finished`() async throws {
        let daemon = try DaemonProcess()
        let desk = try Desk()
        defer {
            desk.reactor.stop()
            desk.reactor.join()
        }
        try await finishWhatHasBegun(desk, daemon)
        #expect(daemon.ends(within: 30))
        #expect(daemon.exitStatus == 0)
    }

    private func finishWhatHasBegun(_ desk: isolated Desk, _ daemon: DaemonProcess) async throws {
        let idle = try await desk.greetedConnection(daemon.unixAddress)
        let busy = try await desk.greetedConnection(daemon.tcpAddress)
        let bytes = [UInt8](repeating: 3, count: 4 << 20)
        let payload = putPayload(bytes)
        try await busy.send(putHead(desk.freshKey(), byteCount: bytes.count))
        try await busy.send(Array(payload.prefix(1 << 20)))
        try await waitForReservation(desk, daemon)
        daemon.terminate()
        try await desk.pause(milliseconds: 100)
        try await busy.send(Array(payload.dropFirst(1 << 20)))
        let answer = try await busy.receive()
        #expect(answer?.header.status == .ok)
        // Whoever asked for nothing is told at most that it is over.
        if let last = try await idle.receive() {
            #expect(last.header.status == .shuttingDown)
        }
        idle.close()
        busy.close()
    }

    /// Returns once the daemon is known to be in the middle of a PUT.
    private func waitForReservation(_ desk: isolated Desk, _ daemon: DaemonProcess) async throws {
        let observer = desk.client(daemon.unixAddress)
        var counters = try await desk.counters(observer)
        for _ in 0..<1_000 where counters["reservations_open"] != 1 {
            try await desk.pause(milliseconds: 5)
            counters = try await desk.counters(observer)
        }
        observer.close()
    }

    @Test func `ends within its grace period when a client never finishes`() async throws {
        let daemon = try DaemonProcess(["--shutdown-grace", "500ms"])
        let desk = try Desk()
        defer {
            desk.reactor.stop()
            desk.reactor.join()
        }
        try await leaveUnfinished(desk, daemon)
        #expect(daemon.ends(within: 30))
    }

    private func leaveUnfinished(_ desk: isolated Desk, _ daemon: DaemonProcess) async throws {
        let connection = try await desk.greetedConnection(daemon.tcpAddress)
        try await connection.send(
            putHead(desk.freshKey(), byteCount: 1_000_000, deadlineMilliseconds: 600_000)
                + [UInt8](repeating: 1, count: 1_000))
        try await waitForReservation(desk, daemon)
        daemon.terminate()
        #expect(try await connection.isClosedNext())
        connection.close()
    }

    @Test func `begins on a socket that a killed one left behind`() async throws {
        let first = try DaemonProcess()
        guard case .unix(let path) = first.unixAddress else { return }
        first.end(SIGKILL)
        #expect(first.ends(within: 30))
        #expect(FileManager.default.fileExists(atPath: path))
        let second = try DaemonProcess(socketPath: path)
        let answer = try runProduct(.kvctl, ["ping", "--address", "unix:\(path)"])
        #expect(answer.exitCode == 0, "\(answer.errors)")
        second.terminate()
        #expect(second.ends(within: 30))
        #expect(!FileManager.default.fileExists(atPath: path))
    }

    @Test(arguments: [
        (["--memory-budget", "nonsense"], "memory.budget"),
        (["--no-such-option", "1"], "no-such-option"),
        (["--listen-tcp", "localhost"], "listen.tcp"),
        (["--listen-tcp", "off", "--listen-unix-socket", "off"], "nothing to listen on"),
        (["--config", "/nonexistent/kvstored.yaml"], "/nonexistent/kvstored.yaml"),
    ])
    func `does not begin with a wrong configuration`(
        arguments: [String], told: String
    ) throws {
        let result = try runProduct(.kvstored, ["--check-config"] + arguments)
        #expect(result.exitCode == 78)
        #expect((result.errors + result.output).contains(told), "\(result)")
    }

    @Test func `does not begin with a key it does not know`() throws {
        let folder = try TemporaryFolder()
        let path = folder.path("kvstored.yaml")
        try "memory:\n  budgett: 1GiB\n".write(
            toFile: path, atomically: false, encoding: .utf8)
        let result = try runProduct(.kvstored, ["--check-config", "--config", path])
        #expect(result.exitCode == 78)
        #expect((result.errors + result.output).contains("budgett"))
        let good = folder.path("good.yaml")
        try "memory:\n  budget: 1GiB\n".write(toFile: good, atomically: false, encoding: .utf8)
        let checked = try runProduct(.kvstored, ["--check-config", "--config", good])
        #expect(checked.exitCode == 0, "\(checked)")
    }
}
