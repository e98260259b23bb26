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
        case chunksSkipped, writeFaults, readFaults, mismatches
        case checkpointsUsed, segmentsScanned, chunksRecovered, directoriesMissing
        case jobsOnPool
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

    package var description: String {
        Counter.allCases.map { "\($0)=\(self[$0])" }.joined(separator: " ")
    }
}
