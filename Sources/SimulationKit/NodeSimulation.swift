// SPDX-License-Identifier: Apache-2.0

internal import KVCore
internal import Logging
internal import Node
internal import Telemetry
internal import Tiers

/// What a run did, so that a test can tell that it tested something.
package struct NodeSimulationTally: Hashable, Sendable {
    package var putCount = 0
    package var hitCount = 0
    package var missCount = 0
    package var deleteCount = 0
    package var faultCount = 0
    package var evictionCount = 0
    package var dropCount = 0
    /// Jobs that left for the global pool; each costs production two thread changes.
    package var poolJobCount = 0

    package init() {}
}

/// One node and several clients in a simulated world, with a workload from the seed and a model
/// that checks every answer. Confined to the thread that makes it.
// SAFETY: as all of a simulation, confined to its scheduler's thread.
package final class NodeSimulation: @unchecked Sendable {
    static let address = StreamAddress.tcp(host: "10.0.0.1", port: 7_400)
    static let keyCount = 24

    package let world: SimulatedWorld
    package private(set) var tally = NodeSimulationTally()
    let model = ChunkModel(keyCount: keyCount)
    var scheduler: SimulatedScheduler { world.scheduler }
    private let node: Node
    private let metrics = Metrics()
    private let arena: OwnedBytes
    private let nodeReactor: SimulatedReactor
    private let clientReactors: [SimulatedReactor]
    private let requestCount: Int

    /// A world whose faults and sizes are drawn from `seed`.
    package init(seed: UInt64, faults: NetworkFaults? = nil, requestCount: Int = 60) {
        world = SimulatedWorld(seed: seed, network: faults ?? NetworkFaults(seed: seed))
        self.requestCount = requestCount
        var random = world.scheduler.forkRandom()
        nodeReactor = world.makeReactor(on: "node")
        let budget = ByteCount.kibibytes(random.within(96...256))
        guard let capacity = RAMTier.Capacity(budget: budget) else {
            preconditionFailure("a simulated arena has at least a granule")
        }
        arena = OwnedBytes(
            count: capacity.arenaByteCount, alignment: Limits.arenaGranuleByteCount)
        let tier = RAMTier(arena: arena.bytes, capacity: capacity, seed: random.next())
        node = Node(
            configuration: NodeConfiguration(), tier: tier, sharedMemory: nil, metrics: metrics,
            nodeID: random.next(), now: world.scheduler.now)
        let world = world
        clientReactors = (0..<random.within(1...6)).map { world.makeReactor(on: "client \($0)") }
    }

    /// Runs it to the end; throws the first thing that must not be.
    package func run() throws(SimulationFailure) {
        let shard = Shard(node: node, reactor: nodeReactor)
        let acceptor = Acceptor(
            shards: [shard], logger: Logger(label: "node") { _ in SwiftLogNoOpLogHandler() })
        nodeReactor.start { [self] in
            if case .failure(let fault) = await acceptor.listen(on: Self.address) {
                scheduler.fail("the node cannot listen: \(fault)")
            }
        }
        nodeReactor.start { await shard.maintain() }
        for (index, reactor) in clientReactors.enumerated() {
            let client = SimulatedClient(reactor: reactor, simulation: self, number: index)
            let count = requestCount
            reactor.start { await client.run(requestCount: count) }
        }
        schedulePartitions()
        try scheduler.run { clientReactors.allSatisfy(\.isIdle) }
        // The node learns late of connections that were cut half open; then nothing may be left.
        try scheduler.run(milliseconds: 120_000)
        try checkNothingIsLeft()
        tally.evictionCount = node.tier.statistics().evictionCount
        tally.dropCount = world.network.dropCount
        try world.end()
        tally.poolJobCount = scheduler.poolJobCount
    }

    private func schedulePartitions() {
        var random = scheduler.forkRandom()
        for index in clientReactors.indices where random.happens(permille: 300) {
            let network = world.network
            let milliseconds = random.below(3_000 as UInt64)
            scheduler.after(nanoseconds: random.below(2_000_000_000 as UInt64)) {
                network.partition("node", "client \(index)", milliseconds: milliseconds)
            }
        }
    }

    private func checkNothingIsLeft() throws(SimulationFailure) {
        let statistics = node.tier.statistics()
        for (what, count) in [
            ("reservations", statistics.openReservationCount), ("holds", statistics.holdCount),
            ("leases", node.openLeaseCount), ("connections", node.openConnectionCount),
            ("streams", nodeReactor.openStreamCount),
            ("client streams", clientReactors.reduce(0) { $0 + $1.openStreamCount }),
        ] where count != 0 {
            throw scheduler.failure("\(count) \(what) are left after all clients closed")
        }
    }

    func count(_ change: (inout NodeSimulationTally) -> Void) {
        change(&tally)
    }
}
