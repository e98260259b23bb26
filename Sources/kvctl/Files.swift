// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVCore

/// An open descriptor of this process, closed when it goes.
struct Descriptor: ~Copyable {
    let number: Int32

    init(_ number: Int32) {
        self.number = number
    }

    deinit {
        if number > 2 { Glibc.close(number) }
    }

    /// Opens `path` for reading; `-` is standard input.
    static func reading(_ path: String) throws(Failure) -> Descriptor {
        if path == "-" { return Descriptor(0) }
        // SAFETY: the text is valid during the call.
        let number = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard number >= 0 else {
            throw Failure(.file, "cannot read \(path): \(errorText(errno))")
        }
        return Descriptor(number)
    }

    /// The size, when this is a regular file; nil for a pipe, a terminal, …
    var regularByteCount: Int? {
        var facts = stat()
        // SAFETY: the structure is valid during the call.
        guard unsafe fstat(number, &facts) == 0, facts.st_mode & S_IFMT == S_IFREG else {
            return nil
        }
        return Int(facts.st_size)
    }

    /// Reads into `room` until it is full or the file ends; returns how much.
    func read(into room: PinnedBytes, of path: String) throws(Failure) -> Int {
        var filled = 0
        while filled < room.count {
            let rest = room.dropFirst(filled)
            // SAFETY: the run is valid for its count during the call.
            let count = unsafe Glibc.read(number, rest.start, rest.count)
            if count < 0 && errno == EINTR { continue }
            guard count >= 0 else {
                throw Failure(.file, "cannot read \(path): \(errorText(errno))")
            }
            if count == 0 { break }
            filled += count
        }
        return filled
    }

    /// Writes all of `bytes`.
    func write(_ bytes: PinnedBytes, to path: String) throws(Failure) {
        var written = 0
        while written < bytes.count {
            let rest = bytes.dropFirst(written)
            // SAFETY: the run is valid for its count during the call.
            let count = unsafe Glibc.write(number, rest.start, rest.count)
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else {
                throw Failure(.file, "cannot write \(path): \(errorText(errno))")
            }
            written += count
        }
    }
}

/// Writes `bytes` to the file at `path`, all or nothing: under another name first, then renamed.
/// `-` is standard output.
func writeFile(_ path: String, _ bytes: PinnedBytes) throws(Failure) {
    if path == "-" { return try Descriptor(1).write(bytes, to: "standard output") }
    let temporary = "\(path).kvctl-\(getpid())"
    do throws(Failure) {
        try writeNew(temporary, bytes, for: path)
        // SAFETY: the texts are valid during the call.
        guard unsafe rename(temporary, path) == 0 else {
            throw Failure(.file, "cannot write \(path): \(errorText(errno))")
        }
    } catch {
        // SAFETY: the text is valid during the call.
        unsafe unlink(temporary)
        throw error
    }
}

private func writeNew(
    _ temporary: String, _ bytes: PinnedBytes, for path: String
) throws(Failure) {
    // SAFETY: the text is valid during the call.
    let number = unsafe open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o666)
    guard number >= 0 else {
        throw Failure(.file, "cannot write \(path): \(errorText(errno))")
    }
    let file = Descriptor(number)
    try file.write(bytes, to: path)
    guard fsync(file.number) == 0 else {
        throw Failure(.file, "cannot write \(path): \(errorText(errno))")
    }
}

/// Whether there is something at `path`.
func fileExists(_ path: String) -> Bool {
    // SAFETY: the text is valid during the call.
    unsafe access(path, F_OK) == 0
}

/// Reads standard input, or another file whose size is not known, up to `byteCountMax`.
func readAll(
    _ file: borrowing Descriptor, of path: String, byteCountMax: Int
) throws(Failure) -> [OwnedBytes] {
    let pieceByteCount = 1 << 20
    var pieces: [OwnedBytes] = []
    var total = 0
    while true {
        let piece = OwnedBytes(count: pieceByteCount)
        let count = try file.read(into: piece.bytes, of: path)
        total += count
        guard total <= byteCountMax else {
            throw Failure(
                .refused, "\(path) is larger than a chunk may be (\(byteCountMax) bytes)")
        }
        if count == pieceByteCount {
            pieces.append(piece)
            continue
        }
        if count > 0 {
            let last = OwnedBytes(count: count)
            last.bytes.copy(from: piece.bytes.prefix(count))
            pieces.append(last)
        }
        return pieces
    }
}

/// The value of an environment variable; nil when it is not set.
func environment(_ name: String) -> String? {
    // SAFETY: the text is copied at once, and this process never changes its environment.
    guard let value = unsafe getenv(name) else { return nil }
    return unsafe String(cString: value)
}
