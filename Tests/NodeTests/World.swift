// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVClient
import KVCore
import LinuxIO
import Logging
import Node
import Telemetry
import Testing
import Tiers

/// How a node and the way to it are built.
struct WorldOptions: Sendable, CustomTestStringConvertible {
    var backend = ReactorOptions.Backend.ioUring
    var isLocal = true
    var budget = ByteCount.mebibytes(8)
    var node = NodeConfiguration()
    /// The SSD tier; nil: none.
    var ssd: SSDOptions?
    /// Chunks that may wait for the codec's thread; 0: there is none.
    var codecWaitingCountMax = 16

    init(_ backend: ReactorOptions.Backend = .ioUring, isLocal: Bool = true) {
        self.backend = backend
        self.isLocal = isLocal
        node.stagingByteCountMax = 8 << 20
    }

    var testDescription: String { "\(backend.rawValue), \(isLocal ? "unix" : "tcp")" }

    /// Both backends, each over both kinds of sockets.
    static let all: [WorldOptions] = [
        WorldOptions(.ioUring), WorldOptions(.poll), WorldOptions(.ioUring, isLocal: false),
        WorldOptions(.poll, isLocal: false),
    ]
    /// Both backends over a Unix socket, so that memory is shared.
    static let local: [WorldOptions] = [WorldOptions(.ioUring), WorldOptions(.poll)]

    /// The same with one thing changed.
    func with(_ change: (inout WorldOptions) -> Void) -> WorldOptions {
        var options = self
        change(&options)
        return options
    }
}

/// What runs on the node's reactor on a test's behalf.
actor Door {
    nonisolated let reactor: RingReactor

    nonisolated var unownedExecutor: UnownedSerialExecutor {
        unsafe reactor.executor.asUnownedSerialExecutor()
    }

    init(_ reactor: RingReactor) { self.reactor = reactor }

    func inject(_ fault: InjectedFault, into kind: OperationKind, skipCount: Int) {
        reactor.inject(fault, into: kind, skipCount: skipCount)
    }

    /// Runs `body` while nothing else runs on the node.
    func run(_ body: @Sendable () -> Void) { body() }
}

/// A node on one reactor; the test and its clients on another one.
actor World {
    nonisolated let reactor: RingReactor
    nonisolated let node: Node
    nonisolated let door: Door
    nonisolated let address: StreamAddress
    /// Where the node speaks RESP, if it does.
    nonisolated let respAddress: StreamAddress?
    nonisolated let shard: Shard<RingReactor>
    nonisolated let ssd: StoreOfWorld?
    nonisolated let codecPool: WorkerPool?
    private nonisolated let acceptor: Acceptor<RingReactor>
    private nonisolated let arena: MemoryArena

    nonisolated var unownedExecutor: UnownedSerialExecutor {
        unsafe reactor.executor.asUnownedSerialExecutor()
    }

    init(_ options: WorldOptions) async throws {
        let capacity = try #require(RAMTier.Capacity(budget: options.budget))
        var memory = MemoryArena.Options(byteCount: ByteCount(capacity.arenaByteCount))
        memory.backings = [.smallPages]
        arena = try MemoryArena(memory)
        let nodeReactor = try RingReactor(options.reactor)
        reactor = try RingReactor(options.reactor)
        let tier = RAMTier(
            arena: arena.bytes.prefix(capacity.arenaByteCount), capacity: capacity, seed: 1,
            admission: options.ssd?.admission ?? .none)
        let shared = SharedMemory(
            arenaDescriptor: arena.descriptor, arenaByteCount: arena.bytes.count
        ) { byteCount throws(IOFault) in
            let region = try StagingRegion(byteCount: ByteCount(byteCount))
            return StagingMemory(
                bytes: region.bytes, descriptor: region.descriptor, owner: region)
        }
        var pool = WorkerPool.Options()
        pool.waitingCountMax = max(1, options.codecWaitingCountMax)
        codecPool = options.codecWaitingCountMax > 0 ? try WorkerPool(pool) : nil
        let node = Node(
            configuration: options.node, tier: tier, sharedMemory: shared, metrics: Metrics(),
            nodeID: 1, now: nodeReactor.now(),
            codecWorkers: codecPool.map { CodecWorkers(requests: $0, background: $0) })
        self.node = node
        door = Door(nodeReactor)
        let ssd = try options.ssd.map { try StoreOfWorld($0, node: node, options.reactor) }
        self.ssd = ssd
        await ssd?.open()
        let shard = Shard(node: node, reactor: nodeReactor, ssd: ssd?.access(on: nodeReactor))
        self.shard = shard
        acceptor = Acceptor(shards: [shard], logger: Logger(label: "tests") { _ in Silence() })
        address = try await acceptor.listen(on: options.address).get()
        respAddress =
            options.node.resp == nil
            ? nil : try await acceptor.listen(on: options.address, speaking: .resp).get()
        Task(executorPreference: nodeReactor.executor) { await shard.maintain() }
    }

    /// Runs `body` on the clients' reactor.
    func run<Result: Sendable>(
        _ body: @Sendable (isolated World) async throws -> Result
    ) async rethrows -> Result {
        try await body(self)
    }

    // MARK: The end

    /// Refuses new requests and ends idle connections, as the daemon does first.
    func beginStop() async {
        node.beginStop()
        await acceptor.close()
        await shard.beginStop()
    }

    /// Checks that the node holds nothing once its clients are gone, and ends it.
    func end() async throws {
        try await until("connections are closed") { $0.node.openConnectionCount == 0 }
        await beginStop()
        await shard.stop(by: soon)
        await ssd?.stop(by: soon)
        expectNothingHeld()
    }

    nonisolated func join() {
        codecPool?.stop()
        codecPool?.join()
        for reactor in [door.reactor, ssd?.reactor, reactor].compactMap(\.self) {
            reactor.stop()
            reactor.join()
        }
    }

    /// Checks that no request, and no client, holds anything of the node.
    nonisolated func expectNothingHeld(
        _ comment: Comment? = nil, sourceLocation: SourceLocation = #_sourceLocation
    ) {
        let statistics = node.tier.statistics()
        let held = [
            "reservations": statistics.openReservationCount, "holds": statistics.holdCount,
            "leases": node.openLeaseCount, "staging": node.openStagingByteCount,
        ].filter { $0.value != 0 }
        #expect(held.isEmpty, comment, sourceLocation: sourceLocation)
    }

    // MARK: Time

    /// A deadline that only a hanging operation meets.
    nonisolated var soon: Instant { reactor.now().adding(milliseconds: 30_000) }

    func pause(milliseconds: UInt64) async throws {
        try await reactor.sleep(until: reactor.now().adding(milliseconds: milliseconds))
    }

    /// Waits until `condition` holds; an issue when it never does.
    func until(
        _ what: Comment, sourceLocation: SourceLocation = #_sourceLocation,
        _ condition: (isolated World) -> Bool
    ) async throws {
        let end = soon
        while !condition(self) {
            guard reactor.now() < end else {
                Issue.record(what, sourceLocation: sourceLocation)
                return
            }
            try await pause(milliseconds: 5)
        }
    }

    // MARK: Clients

    /// A client of the node; the test closes it.
    func client(
        _ change: (inout ClientOptions) -> Void = { _ in }
    ) -> Client<RingReactor> {
        var options = ClientOptions(address: address, name: "tests")
        options.mapper = .ofThisProcess
        options.backOffMillisecondsMin = 1
        change(&options)
        return Client(reactor: reactor, options: options)
    }

    /// A connection on which a test may say anything.
    func rawConnection() async throws -> RawConnection {
        RawConnection(try await reactor.connect(to: address, deadline: soon), soon)
    }

    /// What the node counted.
    nonisolated func count(_ metric: Metric) -> Int { Int(node.metrics.value(metric)) }
}

/// Runs `body` with a fresh node, and checks afterwards that the node holds nothing.
func withNode(
    _ options: WorldOptions = WorldOptions(),
    _ body: @Sendable (isolated World) async throws -> Void
) async throws {
    let world = try await World(options)
    do {
        try await world.run(body)
        try await world.end()
    } catch {
        await world.beginStop()
        await world.shard.stop(by: world.reactor.now())
        await world.ssd?.stop(by: world.reactor.now())
        world.join()
        throw error
    }
    world.join()
}

extension WorldOptions {
    var reactor: ReactorOptions {
        var reactor = ReactorOptions()
        reactor.backend = backend
        reactor.operationCountMax = 4_096
        return reactor
    }

    var address: StreamAddress {
        isLocal
            ? .unix(path: "/tmp/node-tests-\(UInt64.random(in: 0 ... .max)).sock")
            : .tcp(host: "127.0.0.1", port: 0)
    }
}

extension MemoryMapper {
    /// Maps what another thread of this process passes, as kvctl does.
    static var ofThisProcess: MemoryMapper {
        MemoryMapper(
            map: { descriptor, byteCount, access throws(IOFault) in
                let mapping = try SharedMapping(
                    descriptor: descriptor, byteCount: ByteCount(byteCount),
                    access: access == .readOnly ? .readOnly : .readWrite)
                return MappedMemory(bytes: mapping.bytes, owner: mapping)
            },
            discard: { Glibc.close($0) })
    }
}

/// Drops what the node logs.
struct Silence: LogHandler {
    var metadata: Logger.Metadata = [:]
    var logLevel = Logger.Level.critical

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {}
}

extension Client {
    /// Far enough for any test.
    var soon: Instant { deadline(milliseconds: 30_000) }
}

/// The error of a call that is expected to fail.
func clientError(_ body: () async throws -> Void) async -> ClientError? {
    do {
        try await body()
        return nil
    } catch {
        return error as? ClientError
    }
}

func key(_ number: UInt64) -> ChunkKey {
    ChunkKey(words: (number &* 0x9e37_79b9_7f4a_7c15, number, 3, 4))
}

/// `count` bytes that depend on `seed`.
func chunk(_ seed: UInt64, count: Int) -> OwnedBytes {
    let memory = OwnedBytes(count: count)
    memory.bytes.withMutableBytes { span in
        var state = seed &* 0x9e37_79b9_7f4a_7c15 | 1
        for index in 0..<count {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            span.storeBytes(
                of: UInt8(truncatingIfNeeded: state >> 56), toByteOffset: index, as: UInt8.self)
        }
    }
    return memory
}
