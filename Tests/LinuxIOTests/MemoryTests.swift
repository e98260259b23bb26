// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVCore
import Testing

@testable import LinuxIO

@Suite struct `An arena` {
    @Test(arguments: MemoryArena.Backing.allCases)
    func `is zeroed memory that others can only read`(backing: MemoryArena.Backing) throws {
        var options = MemoryArena.Options(byteCount: .mebibytes(3))
        options.backings = [backing]
        let arena: MemoryArena
        do {
            arena = try MemoryArena(options)
        } catch {
            // This machine gives no such pages; then the fault says so.
            #expect(backing != .smallPages)
            #expect(error == .system(ENOMEM) || error == .system(EOPNOTSUPP))
            return
        }
        #expect(arena.backing == backing)
        #expect(arena.warnings.isEmpty == (backing != .smallPages))
        #expect(arena.bytes.count == 4 << 20)
        let zeroes = OwnedBytes(count: 4 << 20)
        #expect(arena.bytes.holds(sameAs: zeroes.bytes))
        withExtendedLifetime(zeroes) {}
        arena.bytes.withMutableBytes {
            $0.storeBytes(of: 77, toByteOffset: 4_096, as: UInt8.self)
        }
        let reader = try SharedMapping(
            descriptor: dup(arena.descriptor), byteCount: .mebibytes(4), access: .readOnly)
        #expect(reader.bytes.holds(sameAs: arena.bytes))
        #expect(throws: IOFault.system(EPERM)) {
            _ = try SharedMapping(
                descriptor: dup(arena.descriptor), byteCount: .mebibytes(4), access: .readWrite)
        }
        // Nor by the back doors: mprotect(2), write(2), ftruncate(2), further seals.
        #expect(unsafe mprotect(reader.bytes.start, 4_096, PROT_READ | PROT_WRITE) == -1)
        #expect(unsafe write(arena.descriptor, "x", 1) == -1)
        #expect(ftruncate(arena.descriptor, 4_096) == -1)
        #expect(ftruncate(arena.descriptor, 8 << 20) == -1)
        // The arena's own mapping stays writable.
        arena.bytes.withMutableBytes {
            $0.storeBytes(of: 78, toByteOffset: 4_096, as: UInt8.self)
        }
        #expect(reader.bytes.slice(offset: 4_096, count: 1).array == [78])
    }

    @Test func `falls back to the pages that there are, and says what would be better`() throws {
        var options = MemoryArena.Options(byteCount: .mebibytes(2))
        options.prefaults = true
        let arena = try MemoryArena(options)
        if arena.backing == .smallPages {
            #expect(arena.warnings.count == 1)
            #expect(arena.warnings[0].contains("vm.nr_hugepages=1"))
        } else {
            #expect(arena.warnings.isEmpty)
        }
        options.backings = []
        #expect(throws: IOFault.system(ENOMEM)) { _ = try MemoryArena(options) }
    }

    @Test func `is refused when it is larger than the address space`() {
        #expect(throws: IOFault.self) {
            _ = try MemoryArena(.init(byteCount: ByteCount(1 << 60)))
        }
    }
}

@Suite struct `Shared memory` {
    @Test func `is written from both sides of a staging region`() throws {
        let region = try StagingRegion(byteCount: .kibibytes(8))
        let other = try SharedMapping(
            descriptor: dup(region.descriptor), byteCount: .kibibytes(8), access: .readWrite)
        other.bytes.withMutableBytes { $0.storeBytes(of: 5, toByteOffset: 8_191, as: UInt8.self) }
        #expect(region.bytes.holds(sameAs: other.bytes))
        #expect(ftruncate(region.descriptor, 4_096) == -1)
        #expect(ftruncate(region.descriptor, 1 << 20) == -1)
    }

    @Test func `is not mapped when it could shrink, is too short, or is no memfd`() throws {
        let unsealed = try MappedFile(name: "unsealed", byteCount: 8_192).release().descriptor
        #expect(throws: IOFault.system(EINVAL)) {
            _ = try SharedMapping(
                descriptor: unsealed, byteCount: .kibibytes(8), access: .readOnly)
        }
        let region = try StagingRegion(byteCount: .kibibytes(8))
        #expect(throws: IOFault.system(EINVAL)) {
            _ = try SharedMapping(
                descriptor: dup(region.descriptor), byteCount: .kibibytes(12), access: .readOnly)
        }
        #expect(throws: IOFault.system(EINVAL)) {
            _ = try SharedMapping(
                descriptor: dup(region.descriptor), byteCount: ByteCount(0), access: .readOnly)
        }
        #expect(throws: IOFault.system(EINVAL)) {
            _ = try SharedMapping(
                descriptor: unsafe open("/dev/null", O_RDONLY), byteCount: .kibibytes(4),
                access: .readOnly)
        }
    }

    @Test func `leaves no descriptor behind`() throws {
        let before = try ProcessLimits.raiseDescriptorCount()
        #expect(before >= 1_024)
        // More than the limit in total, so that a leak would be noticed.
        for _ in 0..<min(before + 10, 3_000) {
            let region = try StagingRegion(byteCount: .kibibytes(4))
            _ = try SharedMapping(
                descriptor: dup(region.descriptor), byteCount: .kibibytes(4), access: .readWrite)
        }
    }
}
