// SPDX-License-Identifier: Apache-2.0
internal import CLinux
package import KVCore

/// The memory that holds chunks: one memfd, mapped once, writable here and nowhere else.
///
/// The file cannot change its size, and once `init` has returned no further writable mapping of it
/// can be made (F_SEAL_FUTURE_WRITE, fcntl(2)): a client that gets the descriptor can only read.
/// Backed by the largest pages that the machine gives: 2 MiB pages doubled the bandwidth of SSD
/// reads at a fifth of the processor time. The mapping lives as long as the object; any thread may
/// hold it, who writes where is its user's affair.
@safe
package final class MemoryArena: Sendable {
    /// The pages behind the arena, best first.
    package enum Backing: String, Sendable, CaseIterable {
        /// Reserved 2 MiB pages (MFD_HUGETLB, sysctl vm.nr_hugepages).
        case reservedHugePages = "huge pages"
        /// Transparent 2 MiB pages of shared memory (shmem_enabled).
        case transparentHugePages = "transparent huge pages"
        /// 4 KiB pages.
        case smallPages = "4 KiB pages"
    }

    /// How an arena is built.
    package struct Options: Sendable {
        /// Rounded up to whole 2 MiB pages.
        package var byteCount: ByteCount
        /// The backings to try, in this order.
        package var backings = Backing.allCases
        /// Touch all pages at start, so that no request pays for page faults: 0.05 s per GiB of
        /// huge pages, 1 s per GiB of 4 KiB pages.
        package var prefaults = false

        package init(byteCount: ByteCount) { self.byteCount = byteCount }
    }

    /// All of the memory, writable.
    package let bytes: PinnedBytes
    /// The memfd, for clients on this host. Owned by the arena.
    package let descriptor: Int32
    package let backing: Backing
    /// Sentences for the log about what is worse than it could be, with the cure.
    package let warnings: [String]

    static let pageByteCount = 2 << 20

    /// Maps a new arena of zeroes. Throws `.system` when the machine has not that much memory, or
    /// none of the backings can be had.
    package init(_ options: Options) throws(IOFault) {
        let pages = (options.byteCount.bytes + Self.pageByteCount - 1) / Self.pageByteCount
        let byteCount = max(pages, 1) * Self.pageByteCount
        var made: (descriptor: Int32, bytes: PinnedBytes, backing: Backing)?
        var last = IOFault.system(ErrorNumber.noMemory)
        for backing in options.backings where made == nil {
            do throws(IOFault) {
                let file = try Self.make(byteCount, backing, options.prefaults).release()
                made = (file.descriptor, file.bytes, backing)
            } catch {
                last = error
            }
        }
        guard let made else { throw last }
        descriptor = made.descriptor
        bytes = made.bytes
        backing = made.backing
        warnings = made.backing == .smallPages ? [Self.smallPagesWarning(pages)] : []
    }

    deinit {
        // SAFETY: mapped in `init` with this size; whoever uses the bytes keeps the arena alive.
        let result = unsafe clinux_memory_unmap(bytes.start, bytes.count)
        invariant(result == 0, "an arena could not be unmapped")
        clinux_close(descriptor)
    }

    private static func make(
        _ byteCount: Int, _ backing: Backing, _ prefaults: Bool
    ) throws(IOFault) -> MappedFile {
        if backing == .transparentHugePages && !transparentHugePagesAreAllowed() {
            throw .system(ErrorNumber.notSupported)
        }
        let file = try MappedFile(
            name: "kvstore-arena", byteCount: byteCount, huge: backing == .reservedHugePages)
        if backing == .transparentHugePages { try file.adviseHugePages() }
        if prefaults { try file.populate() }
        try file.seal(readOnlyForOthers: true)
        return file
    }

    /// Whether `shmem_enabled` lets MADV_HUGEPAGE have an effect on a memfd
    /// (Documentation/admin-guide/mm/transhuge.rst): `[always]`, `[within_size]`, `[advise]`,
    /// `[force]`, but not `[never]` or `[deny]`.
    static func transparentHugePagesAreAllowed() -> Bool {
        let setting = readText("/sys/kernel/mm/transparent_hugepage/shmem_enabled") ?? "[never]"
        return !setting.contains("[never]") && !setting.contains("[deny]")
    }

    private static func smallPagesWarning(_ pages: Int) -> String {
        """
        The arena lies in 4 KiB pages: reads from SSD run at half the bandwidth and cost five \
        times the processor time. Reserve huge pages (sysctl vm.nr_hugepages=\(pages)) or allow \
        transparent ones (echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled), then \
        restart.
        """
    }
}

/// The start of a small text file, at most 4,095 bytes; nil when it cannot be read.
func readText(_ path: String) -> String? {
    let capacity = 4_096
    return unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: capacity) { buffer in
        guard let start = buffer.baseAddress else { return nil }
        // SAFETY: reads at most `capacity - 1` bytes into the buffer and ends it with a zero.
        let count = unsafe path.withCString { path in
            unsafe clinux_file_read_text(path, start, UInt32(capacity - 1))
        }
        guard count >= 0 else { return nil }
        unsafe buffer[Int(count)] = 0
        return unsafe String(cString: start)
    }
}
