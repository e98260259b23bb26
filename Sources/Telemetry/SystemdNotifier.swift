// SPDX-License-Identifier: Apache-2.0

import Glibc

/// Tells systemd how the service is doing, as sd_notify(3) describes it, without libsystemd.
///
/// A value; any thread. Each message is one datagram, sent at once or not at all.
package struct SystemdNotifier: Sendable {
    /// What is to be told.
    package enum Message: Hashable, Sendable {
        /// Start-up is done; `status` is shown by `systemctl status`.
        case ready(status: String)
        case status(String)
        case stopping
        /// The service is alive; due every `watchdogMicroseconds`.
        case watchdog

        var text: String {
            switch self {
            case .ready(let status): "READY=1\nSTATUS=\(Self.line(status))"
            case .status(let status): "STATUS=\(Self.line(status))"
            case .stopping: "STOPPING=1"
            case .watchdog: "WATCHDOG=1"
            }
        }

        /// A line feed would begin another assignment.
        private static func line(_ text: String) -> String {
            String(text.map { $0.isNewline ? " " : $0 })
        }
    }

    /// Why a message was not sent.
    package enum Fault: Error, Hashable, Sendable {
        /// NOTIFY_SOCKET names no Unix socket, or one whose path is too long.
        case badAddress(String)
        /// The kernel refused: an `errno` value.
        case system(Int32)
    }

    private let address: String

    /// How often `.watchdog` is due: half of what systemd allows, as sd_watchdog_enabled(3)
    /// recommends. Nil when the unit sets no WatchdogSec= for this process.
    package let watchdogMicroseconds: UInt64?

    /// From the variables that systemd sets; nil when it did not start this process.
    package init?(environment: [String: String], processID: Int32 = getpid()) {
        guard let address = environment["NOTIFY_SOCKET"], !address.isEmpty else { return nil }
        self.address = address
        let isForUs = environment["WATCHDOG_PID"].map { $0 == "\(processID)" } ?? true
        let allowed = environment["WATCHDOG_USEC"].flatMap { UInt64($0) } ?? 0
        watchdogMicroseconds = isForUs && allowed > 0 ? max(1, allowed / 2) : nil
    }

    /// Sends `message`. Waits at most a second for a supervisor that is behind.
    package func notify(_ message: Message) throws(Fault) {
        var target = try socketAddress()
        let descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | O_CLOEXEC, 0)
        guard descriptor >= 0 else { throw .system(errno) }
        defer { close(descriptor) }
        var patience = timeval(tv_sec: 1, tv_usec: 0)
        // SAFETY: the option's value is one timeval, as its length says.
        unsafe setsockopt(
            descriptor, SOL_SOCKET, SO_SNDTIMEO, &patience, UInt32(MemoryLayout<timeval>.size))
        // The address ends with the path: an abstract name is not NUL-terminated.
        let length = UInt32(MemoryLayout<sa_family_t>.size + address.utf8.count)
        let bytes = Array(message.text.utf8)
        // SAFETY: both runs are alive for the call, and no length exceeds its run: the path's
        // was checked by `socketAddress`. A sockaddr_un may be seen as a sockaddr by design.
        let count = unsafe withUnsafePointer(to: &target) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { generic in
                unsafe sendto(
                    descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL), generic, length)
            }
        }
        guard count == bytes.count else { throw .system(errno) }
    }

    /// `/path` or `@name`; the latter is an abstract socket, whose name begins with a NUL byte.
    private func socketAddress() throws(Fault) -> sockaddr_un {
        var target = sockaddr_un()
        target.sun_family = sa_family_t(AF_UNIX)
        var path = Array(address.utf8)
        guard path.first == UInt8(ascii: "/") || path.first == UInt8(ascii: "@"),
            (2...MemoryLayout.size(ofValue: target.sun_path)).contains(path.count)
        else { throw .badAddress(address) }
        if path[0] == UInt8(ascii: "@") { path[0] = 0 }
        // SAFETY: the path was just checked to fit the field.
        unsafe withUnsafeMutableBytes(of: &target.sun_path) { field in
            unsafe field.copyBytes(from: path)
        }
        return target
    }
}
