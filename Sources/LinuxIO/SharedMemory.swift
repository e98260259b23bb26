// SPDX-License-Identifier: Apache-2.0
internal import CLinux
package import KVCore

/// Memory of another process, mapped here from a descriptor that it passed (unix(7), SCM_RIGHTS).
///
/// Only files whose size is sealed are mapped, so that the other side cannot turn an access into
/// SIGBUS by shrinking the file. What the bytes say may change at any time under `readWrite` peers:
/// copy first, then judge. The mapping lives as long as the object; any thread.
@safe
package final class SharedMapping: Sendable {
    package enum Access: Sendable {
        case readOnly
        case readWrite
    }

    /// The memory; with `.readOnly`, a write to it is a SIGSEGV.
    package let bytes: PinnedBytes

    /// Maps the first `byteCount` bytes of `descriptor`, which it takes over and closes.
    ///
    /// Throws `.system(EINVAL)` when the file is no memfd with a sealed size or is shorter than
    /// that, `.system(EPERM)` when it is sealed against writing and `access` is `.readWrite`.
    package init(
        descriptor: Int32, byteCount: ByteCount, access: Access
    ) throws(IOFault) {
        defer { clinux_close(descriptor) }
        guard byteCount.bytes > 0, clinux_memory_is_fixed(descriptor) == 1,
            clinux_file_byte_count(descriptor) >= Int64(byteCount.bytes)
        else { throw .system(ErrorNumber.invalid) }
        bytes = try mapMemory(
            descriptor, byteCount: byteCount.bytes, writable: access == .readWrite)
    }

    deinit {
        // SAFETY: mapped in `init` with this size; whoever uses the bytes keeps the object alive.
        let result = unsafe clinux_memory_unmap(bytes.start, bytes.count)
        invariant(result == 0, "shared memory could not be unmapped")
    }
}

/// Memory that this process and the one that it passes the descriptor to both write: a place for
/// a local writer to put bytes that the other side takes over. Its size is sealed.
@safe
package final class StagingRegion: Sendable {
    /// The memory, writable here and by whoever maps the descriptor.
    package let bytes: PinnedBytes
    /// The memfd to pass on. Owned by the region.
    package let descriptor: Int32

    /// Makes a region of zeroes. Throws `.system` when descriptors or memory are short.
    package init(byteCount: ByteCount) throws(IOFault) {
        let file = try MappedFile(name: "kvstore-staging", byteCount: byteCount.bytes)
        try file.seal(readOnlyForOthers: false)
        let region = file.release()
        descriptor = region.descriptor
        bytes = region.bytes
    }

    deinit {
        // SAFETY: mapped in `init` with this size; whoever uses the bytes keeps the object alive.
        let result = unsafe clinux_memory_unmap(bytes.start, bytes.count)
        invariant(result == 0, "a staging region could not be unmapped")
        clinux_close(descriptor)
    }
}
