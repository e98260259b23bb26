// SPDX-License-Identifier: Apache-2.0

internal import CLinux
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
        /// Keep the descriptor that comes along, and pass it to the next process of the service.
        case keep(name: String)
        /// Let go of all that is kept under this name.
        case forget(name: String)
        /// Close the descriptor that comes along, now that all before it has been taken in.
        case barrier

        var text: String {
            switch self {
            case .ready(let status): "READY=1\nSTATUS=\(Self.line(status))"
            case .status(let status): "STATUS=\(Self.line(status))"
            case .stopping: "STOPPING=1"
            case .watchdog: "WATCHDOG=1"
            case .keep(let name): "FDSTORE=1\nFDNAME=\(Self.line(name))"
            case .forget(let name): "FDSTOREREMOVE=1\nFDNAME=\(Self.line(name))"
            case .barrier: "BARRIER=1"
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
    /// Whether descriptors may be kept. A systemd before 254 does not tell: it closes what it may
    /// not keep.
    package let keepsDescriptors: Bool

    /// From the variables that systemd sets; nil when it did not start this process.
    package init?(environment: [String: String], processID: Int32 = getpid()) {
        guard let address = environment["NOTIFY_SOCKET"], !address.isEmpty else { return nil }
        self.address = address
        let isForUs = environment["WATCHDOG_PID"].map { $0 == "\(processID)" } ?? true
        let allowed = environment["WATCHDOG_USEC"].flatMap { UInt64($0) } ?? 0
        watchdogMicroseconds = isForUs && allowed > 0 ? max(1, allowed / 2) : nil
        keepsDescriptors = environment["FDSTORE"].map { (UInt64($0) ?? 0) > 0 } ?? true
    }

    /// Sends `message`, with a copy of `descriptor` where one is given. Waits at most a second for
    /// a supervisor that is behind.
    package func notify(_ message: Message, descriptor: Int32? = nil) throws(Fault) {
        // A path, or `@` and the name of an abstract socket.
        let path = Array(address.utf8)
        guard path.first == UInt8(ascii: "/") || path.first == UInt8(ascii: "@"),
            (2...MemoryLayout.size(ofValue: sockaddr_un().sun_path)).contains(path.count)
        else { throw .badAddress(address) }
        var text = Array(message.text.utf8)
        let result = unsafe path.withUnsafeBytes { path in
            unsafe text.withUnsafeMutableBytes { text in
                // SAFETY: both runs are alive for the call, which keeps neither.
                unsafe clinux_datagram_send(
                    path.baseAddress, path.count,
                    clinux_run(start: text.baseAddress, count: text.count), descriptor ?? -1)
            }
        }
        guard result == 0 else { throw .system(-result) }
    }

    /// Waits until the supervisor has taken in all that it was told; false when that takes longer
    /// than so many milliseconds. Blocks.
    package func isHeard(withinMilliseconds milliseconds: Int32) throws(Fault) -> Bool {
        var ends: [Int32] = [-1, -1]
        // SAFETY: the array has room for the two descriptors.
        let made = unsafe socketpair(
            AF_UNIX, Int32(SOCK_STREAM.rawValue) | O_CLOEXEC, 0, &ends)
        guard made == 0 else { throw .system(errno) }
        defer { close(ends[0]) }
        do throws(Fault) {
            try notify(.barrier, descriptor: ends[1])
        } catch {
            close(ends[1])
            throw error
        }
        close(ends[1])
        // Readable at its end, too, which comes when nobody has the other descriptor any more.
        var waiting = pollfd(fd: ends[0], events: Int16(POLLIN), revents: 0)
        // SAFETY: one structure, as the count says.
        return unsafe poll(&waiting, 1, milliseconds) == 1
    }
}
