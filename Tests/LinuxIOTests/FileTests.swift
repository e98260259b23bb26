// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVCore
import LinuxIO
import Testing

@Suite struct `A file` {
    @Test(arguments: backends, [FileMode.readWrite, .readWriteDirect])
    func `gives back what was written`(
        backend: ReactorOptions.Backend, mode: FileMode
    ) async throws {
        // Not below /tmp: tmpfs does not do O_DIRECT everywhere.
        let path = "/var" + temporaryPath("blocks")
        try await withShard(backend) { shard in
            let reactor = shard.reactor
            let file = try reactor.openFile(path, mode)
            let written = OwnedBytes(count: 1 << 20, alignment: 4_096)
            let read = OwnedBytes(count: 1 << 20, alignment: 4_096)
            written.fill(5)
            try await file.write(written.bytes, at: 8_192)
            try await file.synchronize()
            try await file.read(into: read.bytes, at: 8_192)
            #expect(read.bytes.holds(sameAs: written.bytes))
            let part = read.bytes.prefix(4_096)
            try await file.read(into: part, at: 8_192 + 65_536)
            #expect(part.holds(sameAs: written.bytes.slice(offset: 65_536, count: 4_096)))
            let beyond = await fault { try await file.read(into: read.bytes, at: 8_192 + 4_096) }
            #expect(beyond == .closed)
            file.close()

            let again = try reactor.openFile(path, .readOnly)
            try await again.read(into: read.bytes, at: 8_192)
            #expect(read.bytes.holds(sameAs: written.bytes))
            let refused = await fault { try await again.write(written.bytes, at: 0) }
            #expect(refused == .system(EBADF))
            again.close()
        }
        #expect(unsafe unlink(path) == 0)
    }

    @Test(arguments: backends)
    func `has many operations under way at a time`(
        backend: ReactorOptions.Backend
    ) async throws {
        let path = "/var" + temporaryPath("parallel")
        try await withShard(backend) { shard in
            let reactor = shard.reactor
            let file = try reactor.openFile(path, .readWriteDirect)
            let source = OwnedBytes(count: 64 * 4_096, alignment: 4_096)
            let target = OwnedBytes(count: 64 * 4_096, alignment: 4_096)
            source.fill(11)
            let writes = (0..<64).map { index in
                Task {
                    _ = shard
                    let piece = source.bytes.slice(offset: index * 4_096, count: 4_096)
                    try await file.write(piece, at: UInt64(index * 4_096))
                }
            }
            for write in writes { try await write.value }
            try await file.synchronize()
            let reads = (0..<64).map { index in
                Task {
                    _ = shard
                    let piece = target.bytes.slice(offset: index * 4_096, count: 4_096)
                    try await file.read(into: piece, at: UInt64(index * 4_096))
                }
            }
            for read in reads { try await read.value }
            #expect(target.bytes.holds(sameAs: source.bytes))
            file.close()
        }
        #expect(unsafe unlink(path) == 0)
    }

    @Test(arguments: backends)
    func `is missing when it must exist`(backend: ReactorOptions.Backend) async throws {
        try await withShard(backend) { shard in
            _ = #expect(throws: IOFault.system(ENOENT)) {
                _ = try shard.reactor.openFile(temporaryPath("none"), .readOnly)
            }
        }
    }

    @Test func `is read and written through a registered arena`() async throws {
        let path = "/var" + temporaryPath("fixed")
        let arena = try MemoryArena(.init(byteCount: .mebibytes(4)))
        var options = ReactorOptions()
        options.fixedBuffers = [arena.bytes]
        let shard = Shard(try RingReactor(options))
        #expect(shard.reactor.warnings.isEmpty)
        try await shard.run { shard in
            let file = try shard.reactor.openFile(path, .readWriteDirect)
            let source = arena.bytes.prefix(1 << 20)
            let target = arena.bytes.slice(offset: 2 << 20, count: 1 << 20)
            source.withMutableBytes { span in
                for index in stride(from: 0, to: span.byteCount, by: 8) {
                    span.storeBytes(of: UInt64(index), toByteOffset: index, as: UInt64.self)
                }
            }
            try await file.write(source, at: 0)
            try await file.read(into: target, at: 0)
            #expect(target.holds(sameAs: source))
            // Memory outside of the arena does as well.
            let other = OwnedBytes(count: 1 << 20, alignment: 4_096)
            try await file.read(into: other.bytes, at: 0)
            #expect(other.bytes.holds(sameAs: source))
            file.close()
        }
        shard.reactor.join()
        #expect(unsafe unlink(path) == 0)
    }
}
