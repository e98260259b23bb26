// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVCore
import LinuxIO
import Testing

/// Runs `body` on a reactor with a fresh directory, and removes that with the files in it.
private func withDirectory(
    _ backend: ReactorOptions.Backend = .automatic,
    _ body: @Sendable (isolated Shard, RingDirectory) async throws -> Void
) async throws {
    // Not below /tmp: tmpfs does not do O_DIRECT everywhere.
    let path = "/var" + temporaryPath("directory")
    #expect(unsafe mkdir(path, 0o700) == 0)
    try await withShard(backend) { shard in
        let directory = try shard.reactor.openDirectory(path)
        try await body(shard, directory)
        for name in try directory.fileNames() { try directory.remove(name) }
        directory.close()
    }
    #expect(unsafe rmdir(path) == 0)
}

@Suite struct `A directory` {
    @Test func `is opened again`() async throws {
        try await withDirectory { shard, directory in
            _ = try directory.open("a", .readWrite)
            let again = try shard.reactor.openDirectory(directory.path)
            #expect(try again.fileNames() == ["a"])
        }
    }

    @Test func `is refused where something else is, and not made where it is missing`() async throws
    {
        try await withDirectory { shard, directory in
            let path = directory.path
            _ = try directory.open("a", .readWrite)
            #expect(throws: IOFault.system(ENOTDIR)) {
                _ = try shard.reactor.openDirectory(path + "/a")
            }
            #expect(throws: IOFault.system(ENOENT)) {
                _ = try shard.reactor.openDirectory(path + "/b")
            }
        }
    }

    @Test func `lists, renames and removes its regular files`() async throws {
        try await withDirectory { shard, directory in
            for name in ["a", "b"] { _ = try directory.open(name, .readWrite) }
            try directory.preallocate("b", byteCount: 10_000)
            #expect(unsafe mkdir(directory.path + "/inner", 0o700) == 0)
            #expect(unsafe symlink("a", directory.path + "/link") == 0)
            #expect(try directory.fileNames().sorted() == ["a", "b"])
            #expect(try directory.byteCount(of: "a") == 0)
            #expect(try directory.byteCount(of: "b") == 10_000)
            for name in ["c", "inner", "link"] {
                #expect(try directory.byteCount(of: name) == nil)
            }
            #expect(throws: IOFault.system(ELOOP)) { _ = try directory.open("link", .readOnly) }
            #expect(throws: IOFault.system(ENOENT)) { _ = try directory.open("c", .readOnly) }

            try directory.rename("b", to: "a")
            try directory.synchronize()
            #expect(try directory.fileNames() == ["a"])
            #expect(try directory.byteCount(of: "a") == 10_000)
            try directory.remove("a")
            #expect(throws: IOFault.system(ENOENT)) { try directory.remove("a") }
            #expect(throws: IOFault.system(ENOENT)) { try directory.rename("a", to: "b") }
            #expect(unsafe unlink(directory.path + "/link") == 0)
            #expect(unsafe rmdir(directory.path + "/inner") == 0)
        }
    }

    @Test func `reserves the blocks of a file, and keeps what is in it`() async throws {
        try await withDirectory { shard, directory in
            try directory.preallocate("a", byteCount: 1 << 20)
            var status = stat()
            #expect(unsafe stat(directory.path + "/a", &status) == 0)
            #expect(status.st_blocks * 512 >= 1 << 20)
            let file = shard.reactor.attach(try directory.open("a", .readWriteDirect))
            let bytes = OwnedBytes(count: 8_192, alignment: 4_096)
            bytes.fill(3)
            let written = bytes.bytes.prefix(4_096)
            try await file.write(written, at: 0)
            try directory.preallocate("a", byteCount: 4_096)
            #expect(try directory.byteCount(of: "a") == 1 << 20)
            try directory.preallocate("a", byteCount: 2 << 20)
            #expect(try directory.byteCount(of: "a") == 2 << 20)
            let read = OwnedBytes(count: 8_192, alignment: 4_096)
            try await file.read(into: read.bytes, at: 0)
            #expect(read.bytes.prefix(4_096).holds(sameAs: written))
            #expect(read.bytes.dropFirst(4_096).array.allSatisfy { $0 == 0 })
            file.close()
        }
    }

    @Test func `reserves all or nothing`() async throws {
        try await withDirectory { _, directory in
            // More than any file may be: refused before a block is taken, whatever the disk.
            #expect(throws: IOFault.system(EFBIG)) {
                try directory.preallocate("new", byteCount: .max)
            }
            try directory.preallocate("old", byteCount: 4_096)
            #expect(throws: IOFault.self) {
                try directory.preallocate("new", byteCount: 1 << 62)
            }
            #expect(throws: IOFault.self) {
                try directory.preallocate("old", byteCount: 1 << 62)
            }
            #expect(try directory.fileNames() == ["old"])
            #expect(try directory.byteCount(of: "old") == 4_096)
        }
    }

    @Test(arguments: backends)
    func `lends a file to several reactors, and after its removal`(
        backend: ReactorOptions.Backend
    ) async throws {
        try await withDirectory(backend) { shard, directory in
            let handle = try directory.open("a", .readWriteDirect)
            let file = shard.reactor.attach(handle)
            let written = OwnedBytes(count: 8_192, alignment: 4_096)
            written.fill(9)
            try await file.write(written.bytes, at: 4_096)
            file.close()
            try directory.remove("a")
            try await withShard(backend) { other in
                let file = other.reactor.attach(handle)
                let read = OwnedBytes(count: 8_192, alignment: 4_096)
                try await file.read(into: read.bytes, at: 4_096)
                #expect(read.bytes.holds(sameAs: written.bytes))
                file.close()
            }
        }
    }

    @Test func `closes a descriptor with the last that refers to it`() async throws {
        try await withDirectory { shard, directory in
            let path = directory.path + "/held"
            var handle: RingFileHandle? = try directory.open("held", .readWrite)
            let first = try shard.reactor.attach(#require(handle))
            let second = try shard.reactor.attach(#require(handle))
            first.close()
            #expect(descriptorCount(of: path) == 1)
            handle = nil
            #expect(descriptorCount(of: path) == 1)
            second.close()
            #expect(descriptorCount(of: path) == 0)
        }
    }

    @Test func `belongs to one at a time`() async throws {
        try await withDirectory { shard, directory in
            let first = try shard.reactor.openDirectory(directory.path)
            try first.lock()
            try first.lock()
            #expect(throws: IOFault.busy) { try directory.lock() }
            #expect(try directory.fileNames() == ["lock"])
            first.close()
            first.close()
            #expect(throws: IOFault.closed) { try first.lock() }
            #expect(throws: IOFault.closed) { _ = try first.fileNames() }
            #expect(throws: IOFault.closed) { _ = try first.byteCount(of: "lock") }
            try directory.lock()
            let third = try shard.reactor.openDirectory(directory.path)
            #expect(throws: IOFault.busy) { try third.lock() }
        }
    }

    @Test func `is given back also where a process that was forked has its lock`() async throws {
        try await withDirectory { shard, directory in
            let first = try shard.reactor.openDirectory(directory.path)
            try first.lock()
            // As the child has it between fork and exec.
            let copies = descriptors(of: directory.path + "/lock").map { dup($0) }
            #expect(copies.count == 1)
            first.close()
            try directory.lock()
            for copy in copies { close(copy) }
        }
    }

    @Test func `knows the room on its disk`() async throws {
        try await withDirectory { _, directory in
            let byteCount = try directory.freeByteCount()
            #expect(byteCount > 0)
        }
    }
}

private func descriptorCount(of path: String) -> Int { descriptors(of: path).count }

/// Descriptors of this process that refer to the file at `path`.
private func descriptors(of path: String) -> [Int32] {
    var file = stat()
    #expect(unsafe stat(path, &file) == 0)
    // The lowest free number is the next one, so that ours are among the first.
    return (0..<Int32(8_192)).filter { descriptor in
        var status = stat()
        // SAFETY: both calls fill a structure of ours.
        return unsafe fstat(descriptor, &status) == 0 && status.st_ino == file.st_ino
            && status.st_dev == file.st_dev
    }
}
