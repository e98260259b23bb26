// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVClient
import KVCore
import LinuxIO
import Wire

/// A request whose allocations are counted.
enum GateOperation: String, CaseIterable {
    case ping, lookup, lease
    case getMiss = "get-miss"
    case getSmall = "get-4k"
    case getLarge = "get-1m"
    case putSmall = "put-4k"
    case putLarge = "put-1m"
    case respGetMiss = "resp-get-miss"
    case respGetSmall = "resp-get-4k"
    case respGetLarge = "resp-get-1m"
    case respSetSmall = "resp-set-4k"
    case respSetLarge = "resp-set-1m"
    /// Builds a list of names and values: the proof that the probe sees allocations.
    case statistics

    /// Allocations that hold for `GateWorld.requestCount` requests: none on the data path.
    var allocationCounts: ClosedRange<Int> {
        self == .statistics ? GateWorld.requestCount...Int.max : 0...0
    }

    var byteCount: Int {
        switch self {
        case .getLarge, .putLarge, .respGetLarge, .respSetLarge: 1 << 20
        default: 4_096
        }
    }
}

/// Sends requests of one kind from a reactor of its own.
actor GateDriver: Driver {
    private nonisolated let reactor: RingReactor
    private let client: Client<RingReactor>
    private let operation: GateOperation
    private let buffer = OwnedBytes(count: 1 << 20, alignment: 4_096)
    private var lease: [UInt64] = []

    nonisolated var unownedExecutor: UnownedSerialExecutor {
        // SAFETY: the driver keeps the reactor, and with it the executor, alive.
        unsafe reactor.executor.asUnownedSerialExecutor()
    }

    init(reactor: RingReactor, address: StreamAddress, operation: GateOperation) {
        self.reactor = reactor
        self.operation = operation
        var options = ClientOptions(address: address, name: "allocation-gate")
        options.mapper = MemoryMapper(
            map: { descriptor, byteCount, _ throws(IOFault) in
                let mapping = try SharedMapping(
                    descriptor: descriptor, byteCount: ByteCount(byteCount), access: .readOnly)
                return MappedMemory(bytes: mapping.bytes, owner: mapping)
            },
            discard: { Glibc.close($0) })
        client = Client(reactor: reactor, options: options)
    }

    private var deadline: Instant { client.deadline(milliseconds: 10_000) }

    /// The key that reads ask for.
    private var key: ChunkKey { ChunkKey(words: (UInt64(operation.byteCount), 1, 2, 3)) }

    func prepare() async throws {
        _ = try await client.put(
            ChunkLabel(key: key), buffer.bytes.prefix(operation.byteCount), deadline: deadline)
    }

    func run(count: Int) async throws {
        for _ in 0..<count { try await request() }
    }

    func close() {
        client.close()
    }

    private func request() async throws {
        switch operation {
        case .ping:
            try await client.ping(deadline: deadline)
        case .getSmall, .getLarge:
            _ = try await client.get(key, into: buffer.bytes, deadline: deadline)
        case .statistics:
            _ = try await client.nodeStatistics(deadline: deadline)
        case .getMiss:
            let absent = ChunkKey(words: (9, 9, 9, 9))
            _ = try await client.get(absent, into: buffer.bytes, deadline: deadline)
        case .lookup:
            _ = try await client.lookup([key], .everyKey, deadline: deadline)
        case .lease:
            let outcomes = try await client.lease([key], releasing: lease, deadline: deadline)
            lease = []
            if case .leased(let chunk) = outcomes[0] { lease.append(chunk.id) }
        case .respGetMiss, .respGetSmall, .respGetLarge, .respSetSmall, .respSetLarge:
            preconditionFailure("a RESPDriver sends these")
        case .putSmall, .putLarge:
            let fresh = ChunkKey(words: (reactor.randomBits(), reactor.randomBits(), 5, 6))
            _ = try await client.put(
                ChunkLabel(key: fresh), buffer.bytes.prefix(operation.byteCount),
                deadline: deadline)
        }
    }
}
