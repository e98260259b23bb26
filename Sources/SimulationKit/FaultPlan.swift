// SPDX-License-Identifier: Apache-2.0

/// What goes wrong on the network, and how often. A value; the default is a network without
/// faults, but with delays and short receives.
package struct NetworkFaults: Sendable {
    /// Connections that are cut after a random number of bytes, both directions together.
    package var dropPermille = 0
    /// A cut comes after less than this many bytes.
    package var dropByteCountMax = 256 << 10
    /// Cuts of which one side learns late: half open for up to `halfOpenMillisecondsMax`.
    package var halfOpenPermille = 0
    package var halfOpenMillisecondsMax = 20_000
    /// Connects that are refused although somebody listens.
    package var refusePermille = 0
    /// Connections at a thousandth of the bandwidth.
    package var slowPermille = 0
    /// One way.
    package var latencyMicrosecondsMax = 200
    package var bytesPerSecond = 1 << 30
    /// Bytes that travel and arrive together, at most.
    package var segmentByteCountMax = 64 << 10
    /// Bytes on their way or unread in one direction; a sender waits beyond.
    package var bufferByteCount = 256 << 10

    package init() {}

    /// Weights of a run, drawn from its seed: some runs are calm, some are terrible.
    package init(seed: UInt64) {
        var random = SeededRandom(seed: seed ^ 0x6e65_7477_6f72_6b21)
        func weight(_ most: Int) -> Int { random.below(3) == 0 ? 0 : random.below(most + 1) }
        dropPermille = weight(700)
        dropByteCountMax = 1 << random.within(6...20)
        halfOpenPermille = weight(600)
        refusePermille = weight(200)
        slowPermille = weight(500)
        latencyMicrosecondsMax = 1 << random.within(3...14)
        bytesPerSecond = 1 << random.within(24...32)
        segmentByteCountMax = 1 << random.within(6...17)
        bufferByteCount = 1 << random.within(10...18)
    }
}

/// What goes wrong on a disk, and how often. A value; the default is a disk without faults.
package struct DiskFaults: Sendable {
    /// Reads, writes and synchronizations that fail with `EIO`.
    package var readErrorPermille = 0
    package var writeErrorPermille = 0
    package var synchronizeErrorPermille = 0
    /// Preallocations that fail with `ENOSPC` although there is room.
    package var preallocateErrorPermille = 0
    /// Reads before which one stored bit of the range flips for good.
    package var bitRotPermille = 0
    /// Pages in all files together, written or preallocated; beyond is `ENOSPC`.
    package var pageCountMax = Int.max
    /// Reads and writes that take up to `slowMillisecondsMax` more, as on a disk that ails.
    package var slowPermille = 0
    package var slowMillisecondsMax = 1_000
    package var latencyMicrosecondsMax = 500
    package var bytesPerSecond = 1 << 30

    package init() {}

    /// Weights of a run, drawn from its seed.
    package init(seed: UInt64) {
        var random = SeededRandom(seed: seed ^ 0x6469_736b_2164_6973)
        func weight(_ most: Int) -> Int { random.below(2) == 0 ? 0 : random.below(most + 1) }
        readErrorPermille = weight(50)
        writeErrorPermille = weight(50)
        synchronizeErrorPermille = weight(50)
        bitRotPermille = weight(50)
        latencyMicrosecondsMax = 1 << random.within(3...16)
        bytesPerSecond = 1 << random.within(24...32)
        // New weights are drawn last, so that a seed's older ones stay what they were.
        preallocateErrorPermille = weight(200)
        slowPermille = weight(50)
        slowMillisecondsMax = 1 << random.within(0...12)
    }
}

/// How often a disk did what a disk must not: shows what runs went through. A value.
package struct DiskFaultCounts: Hashable, Sendable {
    /// Reads, writes and synchronizations that failed with `EIO`.
    package var readErrors = 0
    package var writeErrors = 0
    package var synchronizeErrors = 0
    /// `ENOSPC`, of preallocations and writes.
    package var spaceErrors = 0
    /// Stored bits that flipped.
    package var rottenBits = 0
    /// Transfers that took longer than the disk's latency explains.
    package var slowTransfers = 0
    /// Writes that a crash undid, and such as it left in part.
    package var lostWrites = 0
    package var tornWrites = 0
    /// Files of which a crash kept a write, in part at least, and not all of an earlier one.
    package var reorderedFiles = 0

    package init() {}
}
