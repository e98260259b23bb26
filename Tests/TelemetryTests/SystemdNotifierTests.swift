// SPDX-License-Identifier: Apache-2.0

import Foundation
import Telemetry
import Testing

/// A datagram socket that plays systemd.
final class FakeSupervisor: Sendable {
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

    /// A datagram and the descriptor that came along, which the caller closes.
    func receiveWithDescriptor() -> (text: String, descriptor: Int32?) {
        var buffer = [UInt8](repeating: 0, count: 1_024)
        // A cmsghdr of one descriptor: 16 bytes of head, 4 of content, padded.
        var control = [UInt64](repeating: 0, count: 3)
        let count = unsafe buffer.withUnsafeMutableBytes { bytes in
            unsafe control.withUnsafeMutableBytes { control in
                var run = unsafe iovec(iov_base: bytes.baseAddress, iov_len: bytes.count)
                // SAFETY: all that the message names outlives the call.
                return unsafe withUnsafeMutablePointer(to: &run) { run in
                    var message = unsafe msghdr()
                    unsafe message.msg_iov = run
                    unsafe message.msg_iovlen = 1
                    unsafe message.msg_control = control.baseAddress
                    unsafe message.msg_controllen = control.count
                    return unsafe recvmsg(descriptor, &message, 0)
                }
            }
        }
        let text = String(decoding: buffer.prefix(max(0, count)), as: UTF8.self)
        return (text, control[0] == 20 ? Int32(truncatingIfNeeded: control[2]) : nil)
    }

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

    @Test(arguments: names())
    func `sends descriptors to be kept`(name: String) throws {
        let supervisor = try FakeSupervisor(name)
        defer { try? FileManager.default.removeItem(atPath: name) }
        let notifier = try #require(SystemdNotifier(environment: ["NOTIFY_SOCKET": name]))
        let ends = try pipeEnds()
        defer { close(ends.reader) }
        try notifier.notify(.keep(name: "a\nb"), descriptor: ends.writer)
        close(ends.writer)
        let (text, passed) = supervisor.receiveWithDescriptor()
        #expect(text == "FDSTORE=1\nFDNAME=a b")
        let copy = try #require(passed)
        var byte: UInt8 = 7
        // SAFETY: one byte, as the count says.
        #expect(unsafe write(copy, &byte, 1) == 1)
        close(copy)
        #expect(unsafe read(ends.reader, &byte, 1) == 1)
        try notifier.notify(.forget(name: "a"))
        #expect(supervisor.receive() == "FDSTOREREMOVE=1\nFDNAME=a")
    }

    @Test func `waits until it is heard, and no longer than it may`() throws {
        let name = Self.names()[1]
        let supervisor = try FakeSupervisor(name)
        let notifier = try #require(SystemdNotifier(environment: ["NOTIFY_SOCKET": name]))
        #expect(try !notifier.isHeard(withinMilliseconds: 1))
        let first = supervisor.receiveWithDescriptor()
        #expect(first.text == "BARRIER=1")
        close(try #require(first.descriptor))
        let answering = Thread {
            let (_, descriptor) = supervisor.receiveWithDescriptor()
            if let descriptor { close(descriptor) }
        }
        answering.start()
        #expect(try notifier.isHeard(withinMilliseconds: 30_000))
    }

    @Test(arguments: [(nil, true), ("0", false), ("512", true), ("x", false)] as [(String?, Bool)])
    func `knows whether descriptors may be kept`(limit: String?, keeps: Bool) {
        let notifier = SystemdNotifier(
            environment: limit.map { ["NOTIFY_SOCKET": "/x", "FDSTORE": $0] }
                ?? ["NOTIFY_SOCKET": "/x"])
        #expect(notifier?.keepsDescriptors == keeps)
    }

    private func pipeEnds() throws -> (reader: Int32, writer: Int32) {
        var ends: [Int32] = [-1, -1]
        // SAFETY: room for the two descriptors.
        try #require(unsafe pipe(&ends) == 0)
        return (ends[0], ends[1])
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
