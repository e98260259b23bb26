// SPDX-License-Identifier: Apache-2.0

import Glibc

/// A small text file, read whole: configuration, tokens, secrets.
struct TextFile {
    let text: String
    /// Whether users outside the file's owner and group may read it.
    let isReadableByOthers: Bool

    /// One configuration is a few KiB; a larger file is a mistake (a log, a device).
    static let byteCountMax = 1 << 20

    /// Why a file could not be read, as the end of the sentence "cannot be read: …".
    struct Fault: Error {
        let reason: String
    }

    /// Reads the file at `path`; refuses directories, devices and more than `byteCountMax` bytes.
    init(path: String) throws(Fault) {
        // SAFETY: the path is a NUL-terminated copy for the call; the descriptor is closed below.
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw Fault(reason: systemReason(errno)) }
        defer { close(descriptor) }
        var status = stat()
        // SAFETY: fstat(2) fills the one structure it is given.
        guard unsafe fstat(descriptor, &status) == 0 else {
            throw Fault(reason: systemReason(errno))
        }
        guard status.st_mode & S_IFMT == S_IFREG || status.st_mode & S_IFMT == S_IFIFO else {
            throw Fault(reason: "it is not a file")
        }
        isReadableByOthers = status.st_mode & S_IROTH != 0
        text = try String(decoding: Self.bytes(of: descriptor), as: UTF8.self)
    }

    private static func bytes(of descriptor: Int32) throws(Fault) -> [UInt8] {
        var bytes: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 16 << 10)
        while true {
            // SAFETY: read(2) writes at most the count of bytes that the array holds.
            let count = unsafe piece.withUnsafeMutableBytes { buffer in
                unsafe read(descriptor, buffer.baseAddress, buffer.count)
            }
            if count < 0 && errno == EINTR { continue }
            guard count >= 0 else { throw Fault(reason: systemReason(errno)) }
            if count == 0 { return bytes }
            bytes += piece[..<count]
            guard bytes.count <= byteCountMax else {
                throw Fault(reason: "it is larger than \(byteCountMax >> 20) MiB")
            }
        }
    }
}

/// What the system says about `code` (strerror_r(3)).
func systemReason(_ code: Int32) -> String {
    // SAFETY: strerror(3) returns a NUL-terminated text that the String copies at once; settings
    // are loaded on one thread, before any other starts.
    unsafe String(cString: strerror(code))
}

extension Surroundings {
    /// Those of this process: its first environment, its user and the host's name.
    package static func current() -> Surroundings {
        var environment: [String: String] = [:]
        for entry in contents(ofSystemFile: "/proc/self/environ").split(separator: "\0") {
            guard let equals = entry.firstIndex(of: "=") else { continue }
            environment[String(entry[..<equals])] = String(entry[entry.index(after: equals)...])
        }
        let host = contents(ofSystemFile: "/proc/sys/kernel/hostname").prefix { $0 != "\n" }
        return Surroundings(
            environment: environment, userID: geteuid(),
            hostName: host.isEmpty ? "localhost" : String(host))
    }

    private static func contents(ofSystemFile path: String) -> String {
        do {
            return try TextFile(path: path).text
        } catch {
            return ""  // No /proc: the defaults and flags still work.
        }
    }
}
