// SPDX-License-Identifier: Apache-2.0
internal import CLinux
internal import KVCore

/// A memfd and its writable mapping while they are being set up; unmapped and closed unless
/// `release` hands them over. Blocking calls; any thread.
struct MappedFile: ~Copyable {
    private let descriptor: Int32
    private let bytes: PinnedBytes

    /// Makes and maps a memfd of `byteCount` bytes; `huge`: of reserved 2 MiB pages, and then
    /// mmap(2) throws `.system(ENOMEM)` when there are not enough of them.
    init(name: String, byteCount: Int, huge: Bool = false) throws(IOFault) {
        // SAFETY: the name lives during the call.
        let file = unsafe name.withCString { unsafe clinux_memory_file($0, byteCount, huge) }
        try check(file)
        do throws(IOFault) {
            bytes = try mapMemory(file, byteCount: byteCount, writable: true)
        } catch {
            clinux_close(file)
            throw error
        }
        descriptor = file
    }

    deinit {
        // SAFETY: mapped in `init` with this size, and not handed over.
        _ = unsafe clinux_memory_unmap(bytes.start, bytes.count)
        clinux_close(descriptor)
    }

    func adviseHugePages() throws(IOFault) {
        // SAFETY: the mapping is ours.
        try check(unsafe clinux_memory_advise_huge(bytes.start, bytes.count))
    }

    func populate() throws(IOFault) {
        // SAFETY: the mapping is ours.
        try check(unsafe clinux_memory_populate(bytes.start, bytes.count))
    }

    /// Fixes the size for good; with `readOnlyForOthers` this mapping stays the only writable one.
    func seal(readOnlyForOthers: Bool) throws(IOFault) {
        try check(clinux_memory_seal(descriptor, readOnlyForOthers, true))
    }

    /// Hands descriptor and mapping over.
    consuming func release() -> (descriptor: Int32, bytes: PinnedBytes) {
        let handed = (descriptor, bytes)
        discard self
        return handed
    }
}

/// Maps the first `byteCount` bytes of a memfd, shared.
func mapMemory(
    _ descriptor: Int32, byteCount: Int, writable: Bool
) throws(IOFault) -> PinnedBytes {
    var start: UnsafeMutableRawPointer?
    // SAFETY: writes one pointer; the mapping is valid for `byteCount` bytes if it succeeded.
    try check(unsafe clinux_memory_map(descriptor, byteCount, writable, &start))
    guard let start = unsafe start else { throw .system(ErrorNumber.noMemory) }
    return unsafe PinnedBytes(start: start, count: byteCount)
}
