// SPDX-License-Identifier: Apache-2.0

import Foundation
import Telemetry
import Testing

/// A datagram socket that plays systemd.
final class FakeSupervisor {
    let descriptor: Int32

    /// Binds `name`: a path, or `@…` for an abstract socket.
    init(_ name: String) throws {
        descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        var path = Array(name.utf8)
        if path[0] == UInt8(ascii: "@") { path[0] = 0 }
        // SAFETY: test names are short, and the address outlives the call.
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: path) }
        let length = UInt32(2 + path.count)
        let code = unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { generic in
                unsafe bind(descriptor, generic, length)
            }
        }
        try #require(code == 0)
    }

    deinit { close(descriptor) }

    func receive() -> String {
        var buffer = [UInt8](repeating: 0, count: 1_024)
        // SAFETY: the kernel writes at most the array's count.
        let count = unsafe recv(descriptor, &buffer, buffer.count, 0)
        return String(decoding: buffer.prefix(max(0, count)), as: UTF8.self)
    }
}

@Suite struct `The systemd notifier` {
    private static func names() -> [String] {
        let id = UUID().uuidString
        return [NSTemporaryDirectory() + "/kvstore-notify-" + id, "@kvstore-notify-" + id]
    }

    @Test(arguments: names())
    func `sends each message as one datagram`(name: String) throws {
        let supervisor = try FakeSupervisor(name)
        // An abstract name has no file; that is the one error here.
        defer { try? FileManager.default.removeItem(atPath: name) }
        let notifier = try #require(SystemdNotifier(environment: ["NOTIFY_SOCKET": name]))
        try notifier.notify(.ready(status: "serving\nSTOPPING=1"))
        #expect(supervisor.receive() == "READY=1\nSTATUS=serving STOPPING=1")
        try notifier.notify(.watchdog)
        #expect(supervisor.receive() == "WATCHDOG=1")
        try notifier.notify(.status("busy"))
        #expect(supervisor.receive() == "STATUS=busy")
        try notifier.notify(.stopping)
        #expect(supervisor.receive() == "STOPPING=1")
    }

    @Test func `is absent when systemd did not start the process`() {
        #expect(SystemdNotifier(environment: [:]) == nil)
        #expect(SystemdNotifier(environment: ["NOTIFY_SOCKET": ""]) == nil)
    }

    @Test(arguments: ["relative", "@", String(repeating: "/x", count: 60)])
    func `refuses an address that is no socket`(address: String) throws {
        let notifier = try #require(SystemdNotifier(environment: ["NOTIFY_SOCKET": address]))
        #expect(throws: SystemdNotifier.Fault.badAddress(address)) {
            try notifier.notify(.watchdog)
        }
    }

    @Test func `says so when nobody listens`() throws {
        let notifier = try #require(
            SystemdNotifier(environment: ["NOTIFY_SOCKET": "/nowhere/socket"]))
        #expect(throws: SystemdNotifier.Fault.system(ENOENT)) {
            try notifier.notify(.stopping)
        }
    }

    @Test(
        arguments: [
            (["WATCHDOG_USEC": "30000000"], 15_000_000), (["WATCHDOG_USEC": "0"], nil), ([:], nil),
            (["WATCHDOG_USEC": "10", "WATCHDOG_PID": "77"], 5), (["WATCHDOG_USEC": "x"], nil),
            (["WATCHDOG_USEC": "10", "WATCHDOG_PID": "78"], nil),
        ] as [([String: String], UInt64?)])
    func `is due twice within what the watchdog allows`(
        variables: [String: String], expected: UInt64?
    ) {
        let environment = variables.merging(["NOTIFY_SOCKET": "/x"]) { $1 }
        let notifier = SystemdNotifier(environment: environment, processID: 77)
        #expect(notifier?.watchdogMicroseconds == expected)
    }
}
