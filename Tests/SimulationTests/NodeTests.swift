// SPDX-License-Identifier: Apache-2.0

import SimulationKit
import Testing

private func nodeHash(seed: UInt64) throws -> UInt64 {
    let simulation = NodeSimulation(seed: seed)
    try simulation.run()
    return simulation.world.scheduler.trace.hash
}

@Suite struct `A node and its clients` {
    @Test(arguments: Seeds.fixed)
    func `agree with the model while connections drop`(seed: UInt64) throws {
        try NodeSimulation(seed: seed).run()
    }

    @Test(arguments: Seeds.fresh(10))
    func `agree with the model under fresh seeds`(seed: UInt64) throws {
        try NodeSimulation(seed: seed).run()
    }

    @Test func `hit, miss, evict and lose connections, over some seeds`() throws {
        var tally = NodeSimulationTally()
        for seed in Seeds.fixed.prefix(10) {
            let simulation = NodeSimulation(seed: seed)
            try simulation.run()
            tally.putCount += simulation.tally.putCount
            tally.hitCount += simulation.tally.hitCount
            tally.missCount += simulation.tally.missCount
            tally.deleteCount += simulation.tally.deleteCount
            tally.faultCount += simulation.tally.faultCount
            tally.evictionCount += simulation.tally.evictionCount
            tally.dropCount += simulation.tally.dropCount
            tally.poolJobCount += simulation.tally.poolJobCount
        }
        #expect(tally.putCount > 0 && tally.hitCount > 0 && tally.missCount > 0)
        #expect(tally.deleteCount > 0 && tally.faultCount > 0)
        #expect(tally.evictionCount > 0 && tally.dropCount > 0)
    }

    @Test func `have no faults on a network without faults`() throws {
        let simulation = NodeSimulation(seed: 11, faults: NetworkFaults())
        try simulation.run()
        #expect(simulation.world.network.dropCount == 0)
        #expect(simulation.tally.hitCount > 0)
    }

    @Test func `keep every job on their reactors`() throws {
        let simulation = NodeSimulation(seed: 12, faults: NetworkFaults())
        try simulation.run()
        // A task that is started without its reactor's executor as its preference resumes on the
        // global pool first (Sources/SimulationKit/DESIGN.md).
        #expect(simulation.tally.poolJobCount == 0)
    }

    @Test func `do the same in every process`() async throws {
        let result = await #expect(
            processExitsWith: .success, observing: [\.standardOutputContent]
        ) {
            for seed in 31..<36 as Range<UInt64> { print("hash", try nodeHash(seed: seed)) }
        }
        let there = String(decoding: result?.standardOutputContent ?? [], as: UTF8.self)
            .split(separator: "\n").filter { $0.contains("hash ") }.map(String.init)
        let here = try (31..<36).map { "hash \(try nodeHash(seed: UInt64($0)))" }
        #expect(there == here)
    }

    @Test(arguments: [21, 22, 23] as [UInt64])
    func `do the same twice under one seed`(seed: UInt64) throws {
        let first = NodeSimulation(seed: seed)
        try first.run()
        let second = NodeSimulation(seed: seed)
        try second.run()
        #expect(first.world.scheduler.trace.hash == second.world.scheduler.trace.hash)
        #expect(first.tally == second.tally)
    }
}
