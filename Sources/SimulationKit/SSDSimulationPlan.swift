// SPDX-License-Identifier: Apache-2.0

package import Codec
internal import KVCore
internal import Tiers

/// Sizes and faults of one run with an SSD tier, drawn from its seed. A value.
package struct SSDSimulationPlan: Sendable {
    // MARK: Sizes

    package var shardCount: Int
    package var directoryCount: Int
    package var segmentBlockCount: Int
    /// Segments that the capacity of a directory allows.
    package var segmentCount: Int
    package var entryCountMax: Int
    package var memoryByteCount: Int
    package var admitsAll: Bool
    package var promotesAlways: Bool
    /// Segments sealed between checkpoints.
    package var checkpointSegmentCount: Int
    package var clientCount: Int
    package var requestCount: Int
    package var chunkByteCountMax: Int
    /// The level at which chunks go to SSD.
    package var demotion = Level.raw
    package var codecWaitingCountMax = 4
    package var codecMicrosecondsMax: UInt64 = 1_000

    // MARK: Faults

    package var disk = DiskFaults()
    package var network = NetworkFaults()
    /// Single bits of chunks that flip, between lives and during them.
    package var rotsChunks = false
    /// Directories that are out of reach for a life of the node, or a part of it.
    package var losesDirectories = false
    /// An operator has directories evacuated.
    package var evacuates = false
    /// Lives of the node at most.
    package var lifeCountMax: Int

    package static let keyCount = 40

    /// Draws from `seed`.
    package init(seed: UInt64) {
        var random = SeededRandom(seed: seed ^ 0x5353_445f_706c_616e)
        shardCount = random.within(1...2)
        directoryCount = random.below(2) == 0 ? 1 : random.within(1...3)
        segmentBlockCount = random.within(16...(random.below(2) == 0 ? 24 : 64))
        segmentCount = random.below(2) == 0 ? random.within(3...7) : random.within(12...32)
        entryCountMax = random.happens(permille: 100) ? random.within(8...30) : 256
        memoryByteCount = random.within(96...512) << 10
        admitsAll = random.below(2) == 0
        promotesAlways = random.below(2) == 0
        checkpointSegmentCount = random.within(1...4)
        clientCount = random.within(2...4)
        requestCount = random.within(40...120)
        chunkByteCountMax = 1 << random.within(12...16)
        lifeCountMax = random.within(3...9)
        drawFaults(&random)
        var later = SeededRandom(seed: seed ^ 0x6576_6163_7561_7465)
        evacuates = directoryCount > 1 && later.below(4) == 0
        var coded = SeededRandom(seed: seed ^ 0x636f_6465_636c_766c)
        if coded.below(2) == 0 {
            demotion = coded.below(2) == 0 ? .zstd : .standard
            codecWaitingCountMax = coded.within(1...8)
            // Now and then so long that nobody waits for the end.
            codecMicrosecondsMax = 1 << (coded.within(6...12) as Int)
            if coded.below(4) == 0 { codecMicrosecondsMax = 4_000_000 }
        }
    }

    private mutating func drawFaults(_ random: inout SeededRandom) {
        func weight(_ most: Int) -> Int { random.below(3) == 0 ? random.within(1...most) : 0 }
        let seed = random.next()
        if random.below(3) == 0 { network = NetworkFaults(seed: seed) }
        disk.latencyMicrosecondsMax = 1 << random.within(3...14)
        disk.bytesPerSecond = 1 << random.within(25...32)
        disk.writeErrorPermille = weight(40)
        disk.preallocateErrorPermille = weight(300)
        disk.slowPermille = weight(60)
        disk.slowMillisecondsMax = 1 << random.within(4...12)
        if random.below(4) == 0 {
            // Identity, lock and two checkpoints of a page beside the segments.
            let most = directoryCount * (segmentCount * segmentBlockCount + 520)
            disk.pageCountMax = random.within((most / 4)...most)
        }
        guard random.happens(permille: 400) else { return }
        disk.readErrorPermille = weight(30)
        disk.synchronizeErrorPermille = weight(40)
        disk.bitRotPermille = weight(30)
        rotsChunks = random.below(3) == 0
        losesDirectories = directoryCount > 1 && random.below(3) == 0
    }

    // MARK: What follows

    /// Whether a durable chunk can be lost by the disk's fault.
    package var isDestructive: Bool {
        disk.readErrorPermille > 0 || disk.synchronizeErrorPermille > 0
            || disk.bitRotPermille > 0 || rotsChunks || losesDirectories
            || entryCountMax < Self.keyCount
    }

    /// Whether what the disk confirmed may rot, deletions too.
    var rotsDeletions: Bool { disk.bitRotPermille > 0 }

    /// Whether the file system has no room for what the capacity allows.
    var isShortOfSpace: Bool { disk.pageCountMax < Int.max }

    var segmentByteCount: Int { segmentBlockCount * 4_096 }

    /// The capacity of a directory: its segments and what the store keeps beside them.
    var capacity: ByteCount {
        ByteCount(
            4_096 + 2 * (4_096 + CheckpointLayout.pageByteCount)
                + segmentCount * segmentByteCount)
    }

    var directories: [String] { (0..<directoryCount).map { "disk\($0)" } }

    /// Milliseconds between the virtual clock and the wall's, the same for all lives.
    static let wallOffsetMilliseconds: Int64 = 1_760_000_000_000
}
