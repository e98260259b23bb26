// SPDX-License-Identifier: Apache-2.0
package import KVCore
package import Tiers

/// The SSD tier as one shard uses it: what is where, who reads, who writes. Any thread.
package struct SSDAccess<R: Reactor>: Sendable {
    package let store: SSDStore<R>
    package let reader: SSDReader<R>

    package init(store: SSDStore<R>, reader: SSDReader<R>) {
        self.store = store
        self.reader = reader
    }

    package var tier: SSDTier { store.tier }
}

/// Chunks of a request that are being read from SSD ahead of their turn. Confined to a connection,
/// which calls `cancel` when it does not take all of them.
struct ReadAhead<R: Reactor>: ~Copyable {
    private let access: SSDAccess<R>
    private let memory: RAMTier
    private let namespace: NamespaceID
    private let deadline: Instant
    private var reads: [Int: Task<Result<Hold, Status>, Never>] = [:]
    private var byteCounts: [Int: Int] = [:]
    private var byteCountAhead = 0
    private let byteCountAheadMax: Int
    private var nextIndex = 0

    /// Chunks ahead of the one whose turn it is, and what they may take of the arena: others read
    /// ahead too.
    private static var windowCount: Int { 16 }
    private static var arenaShare: Int { 16 }

    init(
        _ access: SSDAccess<R>, memory: RAMTier, namespace: NamespaceID, deadline: Instant
    ) {
        self.access = access
        self.memory = memory
        self.namespace = namespace
        self.deadline = deadline
        byteCountAheadMax = memory.chunkByteCountMax / Self.arenaShare
    }

    /// Begins to read those of the next keys that are not in memory.
    mutating func prepare(from index: Int, keyCount: Int, _ key: (Int) -> ChunkKey) {
        let end = min(index + Self.windowCount, keyCount)
        while nextIndex < end {
            let name = ChunkName(namespace, key(nextIndex))
            if !memory.isResident(name) {
                let byteCount = access.tier.byteCount(of: name)
                guard reads.isEmpty || byteCountAhead + byteCount <= byteCountAheadMax else {
                    return
                }
                byteCountAhead += byteCount
                byteCounts[nextIndex] = byteCount
                let (reader, deadline) = (access.reader, deadline)
                reads[nextIndex] = Task(executorPreference: reader.reactor.executor) {
                    await reader.obtain(name, deadline: deadline)
                }
            }
            nextIndex += 1
        }
    }

    /// What came of the chunk at `index`; nil when it was in memory. The caller releases a hold.
    mutating func take(_ index: Int) async -> Result<Hold, Status>? {
        guard let read = reads.removeValue(forKey: index) else { return nil }
        byteCountAhead -= byteCounts.removeValue(forKey: index) ?? 0
        return await read.value
    }

    /// Waits for what was begun and not taken, and lets go of it.
    mutating func cancel() async {
        for read in reads.values {
            if case .success(let hold) = await read.value { memory.release(hold) }
        }
        reads = [:]
        byteCounts = [:]
        byteCountAhead = 0
    }
}

/// A chunk for a reader, or why there is none.
enum Found: ~Copyable {
    case held(HeldChunk)
    case missing(Status)
}
