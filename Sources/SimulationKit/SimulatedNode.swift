// SPDX-License-Identifier: Apache-2.0

internal import KVCore
internal import Logging
internal import Node
internal import Telemetry
internal import Tiers

/// One life of a node with an SSD tier: its process, from the start to the crash or stop. Built as
/// the daemon builds it. Confined to the simulation's thread.
// SAFETY: as all of a simulation, confined to its scheduler's thread.
final class SimulatedNode: @unchecked Sendable {
    static let host = "node"
    static let address = StreamAddress.tcp(host: "10.0.0.1", port: 7_400)

    let storeReactor: SimulatedReactor
    let tier: SSDTier
    let store: SSDStore<SimulatedReactor>
    let memory: RAMTier
    private let shardReactors: [SimulatedReactor]
    private let arena: OwnedBytes
    private let node: Node
    private let shards: [Shard<SimulatedReactor>]
    private let acceptor: Acceptor<SimulatedReactor>
    private let scheduler: SimulatedScheduler
    /// What `open` found; nil before.
    private(set) var found: SSDStore<SimulatedReactor>.Found?
    private(set) var isServing = false
    private(set) var hasStopped = false
    private var haveShardsStopped = false

    /// A process on the world's node host that does nothing yet. `report` hears the tier's events.
    init(
        world: SimulatedWorld, plan: SSDSimulationPlan, random: inout SeededRandom,
        report: @escaping @Sendable (SSDEvent) -> Void
    ) {
        scheduler = world.scheduler
        storeReactor = world.makeReactor(on: Self.host)
        shardReactors = (0..<plan.shardCount).map { _ in world.makeReactor(on: Self.host) }
        guard let capacity = RAMTier.Capacity(budget: ByteCount(plan.memoryByteCount)) else {
            preconditionFailure("a simulated arena has at least a granule")
        }
        arena = OwnedBytes(
            count: capacity.arenaByteCount, alignment: Limits.arenaGranuleByteCount)
        memory = RAMTier(
            arena: arena.bytes, capacity: capacity, seed: random.next(),
            admission: plan.admitsAll ? .all : .secondUse)
        tier = SSDTier(
            SSDTier.Configuration(
                namespaces: [SSDTag(namespace: "default")], entryCountMax: plan.entryCountMax,
                wallOffsetMilliseconds: SSDSimulationPlan.wallOffsetMilliseconds,
                pinnedByteCountMax: plan.capacity.bytes * plan.directoryCount / 2),
            seed: random.next())
        let files = SSDFiles<SimulatedFileHandle>()
        let (tier, memory) = (tier, memory)
        var configuration = NodeConfiguration()
        configuration.codec.demotion = plan.demotion
        let workers = SimulatedWorkers(
            world.scheduler, waitingCountMax: plan.codecWaitingCountMax,
            microsecondsMax: plan.codecMicrosecondsMax)
        let node = Node(
            configuration: configuration, tier: memory, sharedMemory: nil, metrics: Metrics(),
            nodeID: random.next(), now: world.scheduler.now,
            codecWorkers: CodecWorkers(requests: workers, background: workers))
        self.node = node
        let storeReader = SSDReader(
            reactor: storeReactor, tier: tier, memory: memory, files: files, promotion: .always,
            report: report)
        let store = SSDStore(
            plan.storeConfiguration, tier: tier, memory: memory, reactor: storeReactor,
            files: files, encoder: DemotionDesk(node, storeReactor, reader: storeReader),
            report: report)
        self.store = store
        shards = shardReactors.map { reactor in
            let reader = SSDReader(
                reactor: reactor, tier: tier, memory: memory, files: files,
                promotion: plan.promotesAlways ? .always : .secondUse, report: report)
            return Shard(
                node: node, reactor: reactor, ssd: SSDAccess(store: store, reader: reader))
        }
        acceptor = Acceptor(
            shards: shards, logger: Logger(label: "node") { _ in SwiftLogNoOpLogHandler() })
    }

    /// What the node counts.
    var metrics: Metrics { node.metrics }

    /// Reads the disk, and serves when that is done.
    func start() {
        storeReactor.start { [self] in
            found = await store.open()
            await store.start()
            guard !storeReactor.isStopped else { return }
            switch await acceptor.listen(on: Self.address) {
            case .success: isServing = true
            case .failure(.cancelled): break
            case .failure(let fault): scheduler.fail("the node cannot listen: \(fault)")
            }
        }
        for shard in shards { shard.reactor.start { await shard.maintain() } }
    }

    /// Ends requests, then the store, as a signal has the daemon do; `hasStopped` tells the end.
    func stop(graceMilliseconds: UInt64, storeMilliseconds: UInt64) {
        node.beginStop()
        let deadline = scheduler.now.adding(milliseconds: graceMilliseconds)
        shardReactors[0].start { [self] in
            await acceptor.close()
            for shard in shards { await shard.beginStop() }
            for shard in shards { await shard.stop(by: deadline) }
            haveShardsStopped = true
            await store.stop(by: deadline.adding(milliseconds: storeMilliseconds))
            hasStopped = true
        }
    }

    /// The last part of a stop.
    func stopReactors() {
        for reactor in shardReactors { reactor.stop() }
        storeReactor.stop()
    }

    /// Whether reclaim was about to erase something, or tried in vain: at a restart what it held
    /// may be there or not.
    var isErasing: Bool {
        tier.segments().contains { $0.state == .erasing || $0.state == .stuck }
    }

    /// The store's state in words, for the report of a failure.
    var condition: String {
        let status = store.assumeIsolated { store in
            store.status().map { "  \($0.name)=\($0.value)" }
        }
        let segments = tier.segments().enumerated().map { slot, segment in
            "  segment \(slot): \(segment.state), directory \(segment.directory), serial "
                + "\(segment.serial), \(segment.liveCount) chunks"
        }
        let shards = haveShardsStopped ? "  the shards have stopped" : "  the shards run"
        return ([shards] + status + segments).joined(separator: "\n")
    }

    /// What must not be left after a stop; nil when all is well.
    var leftover: String? {
        let statistics = memory.statistics()
        for (what, count) in [
            ("reservations", statistics.openReservationCount), ("holds", statistics.holdCount),
            ("leases", node.openLeaseCount), ("connections", node.openConnectionCount),
            ("streams", shardReactors.reduce(0) { $0 + $1.openStreamCount }),
            ("open files", storeReactor.openFileCount),
            ("operations", storeReactor.suspendedOperationCount),
        ] where count != 0 {
            return "\(count) \(what) are left after the node stopped"
        }
        let segments = tier.segments()
        let (live, counted) = (
            segments.reduce(0) { $0 + $1.liveCount }, tier.statistics().chunkCount
        )
        guard live == counted, !segments.contains(where: { $0.liveCount < 0 }) else {
            return "the segments have \(live) chunks, the index \(counted)"
        }
        return nil
    }
}

extension SSDSimulationPlan {
    fileprivate var storeConfiguration: SSDStore<SimulatedReactor>.Configuration {
        var configuration = SSDStore<SimulatedReactor>.Configuration(
            directories: directories, capacity: capacity,
            segmentByteCount: ByteCount(segmentByteCount))
        configuration.checkpointSegmentCount = checkpointSegmentCount
        return configuration
    }
}
