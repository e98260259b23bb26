// SPDX-License-Identifier: Apache-2.0
import CAllocationProbe
import KVCore
import LinuxIO
import Logging
import Node
import Telemetry
import Tiers

/// A node on one reactor, to be driven from another one over a Unix socket.
struct GateWorld {
    static let requestCount = 2_000
    private static let warmUpCount = 200

    private let arena: MemoryArena
    private let shard: Shard<RingReactor>
    private let acceptor: Acceptor<RingReactor>
    private let clientReactor: RingReactor
    private let address: StreamAddress
    private let respAddress: StreamAddress
    private let probe: ThreadProbe

    init() async throws {
        guard let capacity = RAMTier.Capacity(budget: .mebibytes(64)) else { throw IOFault.busy }
        arena = try MemoryArena(MemoryArena.Options(byteCount: ByteCount(capacity.arenaByteCount)))
        let reactor = try RingReactor()
        clientReactor = try RingReactor()
        let tier = RAMTier(
            arena: arena.bytes.prefix(capacity.arenaByteCount), capacity: capacity, seed: 1)
        let memory = SharedMemory(
            arenaDescriptor: arena.descriptor, arenaByteCount: arena.bytes.count
        ) { _ throws(IOFault) in throw .busy }
        var configuration = NodeConfiguration()
        configuration.resp = RESPConfiguration(namespace: .default)
        let node = Node(
            configuration: configuration, tier: tier, sharedMemory: memory,
            metrics: Metrics(), nodeID: 1, now: reactor.now())
        shard = Shard(node: node, reactor: reactor)
        acceptor = Acceptor(shards: [shard], logger: Logger(label: "allocation-gate"))
        probe = ThreadProbe(reactor: reactor)
        let path = "/tmp/kvstore-gate-\(reactor.randomBits()).sock"
        address = try await acceptor.listen(on: .unix(path: path)).get()
        respAddress = try await acceptor.listen(
            on: .unix(path: path + ".resp"), speaking: .resp
        ).get()
    }

    /// Allocations of the node's thread in `requestCount` requests of a kind, after a warm-up: the
    /// least of three windows, since buffers that grow once and for all may do so in any of them.
    func measure(_ operation: GateOperation) async throws -> Int {
        guard operation.respRequest == nil else {
            return try await measure(
                RESPDriver(reactor: clientReactor, address: respAddress, operation: operation))
        }
        return try await measure(
            GateDriver(reactor: clientReactor, address: address, operation: operation))
    }

    private func measure(_ driver: some Driver) async throws -> Int {
        try await driver.prepare()
        try await driver.run(count: Self.warmUpCount)
        var least = Int.max
        for _ in 0..<3 {
            await probe.begin()
            try await driver.run(count: Self.requestCount)
            least = min(least, await probe.end())
        }
        await driver.close()
        return least
    }
}

/// What sends requests of one kind.
protocol Driver: Actor {
    func prepare() async throws
    func run(count: Int) async throws
    func close()
}

/// Switches the counting of the node's thread, from that thread.
actor ThreadProbe {
    private nonisolated let reactor: RingReactor

    nonisolated var unownedExecutor: UnownedSerialExecutor {
        // SAFETY: the probe keeps the reactor, and with it the executor, alive.
        unsafe reactor.executor.asUnownedSerialExecutor()
    }

    init(reactor: RingReactor) {
        self.reactor = reactor
    }

    func begin() {
        allocation_probe_reset()
        allocation_probe_count_this_thread(1)
    }

    func end() -> Int {
        allocation_probe_count_this_thread(0)
        return allocation_probe_count()
    }
}
