// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// What may be done with mapped memory.
package enum MappingAccess: Hashable, Sendable {
    case readOnly
    case readWrite
}

/// Memory of another process, mapped here for as long as `owner` lives.
package struct MappedMemory {
    package let bytes: PinnedBytes
    /// Unmaps when the last reference goes.
    package let owner: AnyObject

    /// Names `bytes`, which `owner` keeps mapped.
    package init(bytes: PinnedBytes, owner: AnyObject) {
        self.bytes = bytes
        self.owner = owner
    }
}

/// How to map descriptors that the daemon sends; the executable hands in the system's way, since
/// this module makes no system calls.
package struct MemoryMapper: Sendable {
    /// Maps `byteCount` bytes of `descriptor` and takes the descriptor over, even when it throws.
    package let map:
        @Sendable (
            _ descriptor: Int32, _ byteCount: Int, _ access: MappingAccess
        ) throws(IOFault) -> MappedMemory
    /// Closes a descriptor that nobody asked for.
    package let discard: @Sendable (_ descriptor: Int32) -> Void

    /// A mapper of these two functions.
    package init(
        map: @escaping @Sendable (Int32, Int, MappingAccess) throws(IOFault) -> MappedMemory,
        discard: @escaping @Sendable (Int32) -> Void
    ) {
        self.map = map
        self.discard = discard
    }
}
