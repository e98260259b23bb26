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
}
