// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// What local clients may map: the arena, read only, and staging regions of their own. A value.
package struct SharedMemory: Sendable {
    /// The arena's descriptor, sealed against writing by others.
    package let arenaDescriptor: Int32
    package let arenaByteCount: Int
    /// Makes a staging region of the given size; blocking for as long as mmap(2) takes.
    package let makeStagingRegion: @Sendable (Int) throws(IOFault) -> StagingMemory

    package init(
        arenaDescriptor: Int32, arenaByteCount: Int,
        makeStagingRegion: @escaping @Sendable (Int) throws(IOFault) -> StagingMemory
    ) {
        self.arenaDescriptor = arenaDescriptor
        self.arenaByteCount = arenaByteCount
        self.makeStagingRegion = makeStagingRegion
    }
}

/// A region that a local client may write. Unmapped when the last copy of the value goes.
package struct StagingMemory: Sendable {
    package let bytes: PinnedBytes
    package let descriptor: Int32
    private let owner: any AnyObject & Sendable

    /// `owner` keeps the memory mapped and the descriptor open.
    package init(bytes: PinnedBytes, descriptor: Int32, owner: any AnyObject & Sendable) {
        self.bytes = bytes
        self.descriptor = descriptor
        self.owner = owner
    }
}
