// SPDX-License-Identifier: Apache-2.0

/// What runs did, so that a test can tell that they tested something. A value.
package struct SSDSimulationTally: Hashable, Sendable, CustomStringConvertible {
    package enum Counter: Int, CaseIterable, Sendable {
        case crashes
        /// Before the node served.
        case crashesWhileOpening
        /// While a segment was being erased.
        case crashesWhileErasing
        case crashesWhileStopping
        case stops
        case puts, hits, misses, deletes, pins, faults
        /// Chunks that had to be found from then on, and hits that had to be.
        case promises, keptPromises
        case recordsWritten, bytesRead, evictions, reinsertions, expirations
        case bytesEncoded, chunksDecoded
        case chunksSkipped, writeFaults, readFaults, mismatches
        case checkpointsUsed, segmentsScanned, chunksRecovered, directoriesMissing
        /// Directories that went out of reach while the node used them.
        case directoriesLost
        /// Begun, and ended with an empty directory.
        case evacuations, directoriesLeft
        case jobsOnPool
        /// What the disk did; see `DiskFaultCounts`.
        case readErrors, writeErrors, synchronizeErrors, spaceErrors, rottenBits, slowTransfers
        case lostWrites, tornWrites, reorderedFiles
    }

    private var counts = [Int](repeating: 0, count: Counter.allCases.count)

    package init() {}

    package subscript(counter: Counter) -> Int {
        get { counts[counter.rawValue] }
        set { counts[counter.rawValue] = newValue }
    }

    /// Adds another run's counts.
    package static func += (left: inout SSDSimulationTally, right: SSDSimulationTally) {
        for index in left.counts.indices { left.counts[index] += right.counts[index] }
    }

    mutating func add(_ counts: DiskFaultCounts) {
        self[.readErrors] += counts.readErrors
        self[.writeErrors] += counts.writeErrors
        self[.synchronizeErrors] += counts.synchronizeErrors
        self[.spaceErrors] += counts.spaceErrors
        self[.rottenBits] += counts.rottenBits
        self[.slowTransfers] += counts.slowTransfers
        self[.lostWrites] += counts.lostWrites
        self[.tornWrites] += counts.tornWrites
        self[.reorderedFiles] += counts.reorderedFiles
    }

    package var description: String {
        Counter.allCases.map { "\($0)=\(self[$0])" }.joined(separator: " ")
    }
}
