// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVCore
import Tiers

/// Why a file of a store is not read.
enum StoreFileFault: Error {
    case missing
    case unreadable
}

/// A regular file of a store that is only read, with blocking calls. Confined to its owner.
final class StoreFile {
    private let descriptor: Descriptor
    let byteCount: Int

    init(_ path: String) throws(StoreFileFault) {
        // Without O_NONBLOCK, opening a pipe would wait for somebody to write into it.
        // SAFETY: the text is valid during the call.
        let number = unsafe open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard number >= 0 else { throw errno == ENOENT ? .missing : .unreadable }
        let descriptor = Descriptor(number)
        guard let byteCount = descriptor.regularByteCount else { throw .unreadable }
        self.descriptor = descriptor
        self.byteCount = byteCount
    }

    /// Reads from `offset` until `room` is full or the file ends; returns how much, nil when the
    /// device does not give it.
    func read(into room: PinnedBytes, at offset: Int) -> Int? {
        var filled = 0
        while filled < room.count {
            let rest = room.dropFirst(filled)
            // SAFETY: the run is valid for its count during the call.
            let count = unsafe pread(descriptor.number, rest.start, rest.count, offset + filled)
            if count < 0 && errno == EINTR { continue }
            guard count >= 0 else { return nil }
            if count == 0 { break }
            filled += count
        }
        return filled
    }

    /// Reads whole blocks from block `number` on; false when the device or the file lacks any.
    func readBlocks(_ number: Int, into room: PinnedBytes) -> Bool {
        read(into: room, at: number * SSDFormat.blockByteCount) == room.count
    }

    /// Tells the kernel that it need not keep what was read, so that reading through a large store
    /// leaves the cache to others.
    func forget() {
        posix_fadvise(descriptor.number, 0, 0, POSIX_FADV_DONTNEED)
    }
}

/// The names in the directory at `path`; nil when it cannot be listed.
func namesInDirectory(_ path: String) -> [String]? {
    // SAFETY: the text is valid during the call; the stream is used here alone, and closed.
    guard let stream = unsafe opendir(path) else { return nil }
    defer { unsafe closedir(stream) }
    var names: [String] = []
    while true {
        errno = 0
        // SAFETY: the entry is valid until the next call on this stream, and copied before.
        guard let entry = unsafe readdir(stream) else { break }
        unsafe withUnsafePointer(to: &entry.pointee.d_name) { name in
            unsafe name.withMemoryRebound(to: CChar.self, capacity: Int(NAME_MAX) + 1) { text in
                unsafe names.append(String(cString: text))
            }
        }
    }
    return errno == 0 ? names : nil
}

/// Keeps a daemon from starting to use a directory, for as long as it lives.
final class DirectoryLock {
    private let descriptor: Descriptor?

    /// Locks the directory at `path`, where a daemon ever used it; throws `.refused` when one does
    /// now.
    init(_ path: String) throws(Failure) {
        let lockPath = "\(path)/lock"
        // SAFETY: the text is valid during the call.
        let number = unsafe open(lockPath, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard number >= 0 else {
            guard errno == ENOENT || errno == ENOTDIR else {
                throw Failure(.file, "cannot read \(lockPath): \(errorText(errno))")
            }
            descriptor = nil
            return
        }
        let descriptor = Descriptor(number)
        guard flock(number, LOCK_SH | LOCK_NB) == 0 else {
            guard errno == EWOULDBLOCK else {
                throw Failure(.file, "cannot lock \(lockPath): \(errorText(errno))")
            }
            throw Failure(
                .refused,
                "a daemon uses \(path): stop it, or say --while-running (what it writes meanwhile "
                    + "may look damaged); kvctl ssd scrub has the daemon check its chunks itself")
        }
        self.descriptor = consume descriptor
    }
}
