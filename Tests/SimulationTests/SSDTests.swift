// SPDX-License-Identifier: Apache-2.0

import SimulationKit
import Testing

@Suite struct `A node with an SSD tier that crashes` {
    @Test(arguments: [1, 2, 3] as [UInt64])
    func `does the same twice under one seed`(seed: UInt64) {
        func run() -> (hash: UInt64, tally: SSDSimulationTally, failure: String?) {
            let simulation = SSDSimulation(seed: seed)
            var failure: String?
            do throws(SimulationFailure) {
                try simulation.run()
            } catch {
                failure = error.description
            }
            return (simulation.world.scheduler.trace.hash, simulation.tally, failure)
        }
        let (first, second) = (run(), run())
        #expect(first.hash == second.hash)
        #expect(first.tally == second.tally)
        #expect(first.failure == second.failure)
        #expect(first.tally[.puts] > 0)
    }

    /// Seeds under which it broke a promise once:
    /// - 593: a durable PUT went on in a store that had closed its directories;
    /// - 1037: a checkpoint waited for an evacuation that waited for reclaim, which waited for it;
    /// - 1156: a deletion had a smaller number than a chunk in a directory that was missing;
    /// - 4096: notes that found no room were queued once more with each segment emptied in vain;
    /// - 4574: a part of a chunk was read while reclaim moved the chunk;
    /// - 4808: a reader joined a read that had begun before the chunk's time was over;
    /// - 5867: a checkpoint left out a chunk whose deletion was not durable;
    /// - 6127: a chunk was pinned when its segment was about to be erased;
    /// - 7340: a checkpoint listed a chunk whose write had failed, and no footer did;
    /// - 9024: a refused connect came after its deadline.
    @Test(
        arguments: [593, 1_037, 1_156, 4_096, 4_574, 4_808, 5_867, 6_127, 7_340, 9_024] as [UInt64])
    func `keeps what it promised`(seed: UInt64) {
        let simulation = SSDSimulation(seed: seed)
        #expect(throws: Never.self) { try simulation.run() }
        #expect(simulation.tally[.hits] > 0)
    }
}
