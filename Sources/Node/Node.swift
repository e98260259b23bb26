// SPDX-License-Identifier: Apache-2.0
package import KVCore
internal import Kernels
internal import Synchronization
package import Telemetry
package import Tiers

/// What a node is told at its start. A value.
package struct NodeConfiguration: Sendable {
    /// The tenants; the first is number 0. One namespace named `default` unless configured.
    package var namespaces: [NamespaceConfiguration?] = [NamespaceConfiguration(name: "default")]
    /// Connections served at once; one more is answered `busy` and closed.
    package var connectionCountMax = 12_000
    /// Largest chunk; at most `Limits.chunkByteCountMax`.
    package var chunkByteCountMax = Limits.chunkByteCountMax
    /// Longest life of a lease or reservation.
    package var leaseMillisecondsMax = Limits.leaseMillisecondsMax
    /// Deadline of a request that names none.
    package var requestMillisecondsDefault = Limits.requestMillisecondsDefault
    /// Memory for local writers' staging regions, all connections together; 0: none.
    package var stagingByteCountMax = 0
    /// Whether a chunk counts as used, for its way to SSD, only with all that stand before it.
    package var admitsPrefixesOnly = false
    /// The user as whom the node runs, who may control it.
    package var userID: UInt32 = 0
    /// Name and version, told in HELLO.
    package var daemonName = "kvstored"
    /// The RESP listener; nil: there is none.
    package var resp: RESPConfiguration?
    /// The lm listener; nil: there is none.
    package var lm: LMConfiguration?
    /// What is encoded.
    package var codec = CodecConfiguration()

    package init() {}
}

/// What all shards of a node share: the tiers, the tenants, the counters, and the limits that hold
/// for the node as a whole. Any thread.
package final class Node: Sendable {
    package let configuration: NodeConfiguration
    package let tier: RAMTier
    package let metrics: Metrics
    package let codec: CodecService
    let namespaces: NamespaceRegistry
    let sharedMemory: SharedMemory?
    /// Random, for this run of the daemon; tells clients that everything they knew is gone.
    let nodeID: UInt64
    /// What strict clients of the RESP listener expect.
    let valueSizes = ValueSizes()
    private let startInstant: Instant

    private let connectionCount = Atomic<Int>(0)
    private let respConnectionCount = Atomic<Int>(0)
    private let connectionNumber = Atomic<UInt64>(0)
    private let leaseCount = Atomic<Int>(0)
    private let readLeaseByteCount = Atomic<Int>(0)
    private let stagingByteCount = Atomic<Int>(0)
    private let stopping = Atomic<Bool>(false)
    private let keptConnectionCount = Atomic<Int>(0)
    /// Set where connections may outlive the node.
    private let handOverKey = Mutex<[UInt8]?>(nil)

    /// A node over `tier`. `sharedMemory` is nil where local clients cannot map the arena,
    /// `codecWorkers` where nothing is encoded or decoded.
    package init(
        configuration: NodeConfiguration, tier: RAMTier, sharedMemory: SharedMemory?,
        metrics: Metrics, nodeID: UInt64, now: Instant, codecWorkers: CodecWorkers? = nil
    ) {
        Limits.check()
        self.configuration = configuration
        self.tier = tier
        self.sharedMemory = sharedMemory
        self.metrics = metrics
        self.nodeID = nodeID
        startInstant = now
        namespaces = NamespaceRegistry(configuration.namespaces)
        var codec = configuration.codec
        for door in [configuration.resp?.namespace, configuration.lm?.namespace] {
            if let door { codec.rawNamespaces.insert(door) }
        }
        self.codec = CodecService(
            codec, codecWorkers, metrics,
            secrets: configuration.namespaces.map { namespace in
                namespace.map { KeyDerivation(secret: $0.secret) }
            })
    }

    /// The largest chunk that this node takes.
    var chunkByteCountMax: Int { min(configuration.chunkByteCountMax, tier.chunkByteCountMax) }

    /// The largest chunk that a local writer can reserve room for, while nobody else does: whole
    /// granules of the staging budget.
    var stagedChunkByteCountMax: Int {
        let granule = Limits.arenaGranuleByteCount
        return min(configuration.stagingByteCountMax / granule * granule, chunkByteCountMax)
    }

    /// Whether the node is on its way out: requests that have not begun are refused.
    package var isStopping: Bool { stopping.load(ordering: .acquiring) }

    /// Refuses new requests from now on. The shards end their connections, or let go of those that
    /// the next daemon can go on with, if it is given `HandOver.keyByteCount` random
    /// bytes.
    package func beginStop(keepingConnectionsUnder key: [UInt8]? = nil) {
        handOverKey.withLock { $0 = key }
        stopping.store(true, ordering: .releasing)
    }

    /// What the next daemon is told; nil when no connection is kept.
    package var handOver: HandOver? {
        handOverKey.withLock { $0 }.map { HandOver(key: $0, sizes: valueSizes.known) }
    }

    /// Whether connections outlive the node, as far as they can.
    var keepsConnections: Bool { isStopping && handOverKey.withLock { $0 != nil } }

    /// Counts a connection in that is kept; false when there are too many.
    func connectionIsKept() -> Bool {
        take(1, of: keptConnectionCount, limit: Limits.keptConnectionCountMax)
    }

    /// Connections being served.
    package var openConnectionCount: Int { connectionCount.load(ordering: .relaxed) }

    /// Leases that clients hold.
    package var openLeaseCount: Int { leaseCount.load(ordering: .relaxed) }

    /// Bytes of staging regions.
    package var openStagingByteCount: Int { stagingByteCount.load(ordering: .relaxed) }

    // MARK: Limits of the whole node

    /// Counts a connection in; false when there are too many. Pair with `connectionEnded`.
    func connectionBegan(_ door: FrontDoor) -> Bool {
        guard take(1, of: connectionCount, limit: configuration.connectionCountMax) else {
            return false
        }
        let limit = configuration.resp?.connectionCountMax ?? 0
        guard door != .resp || take(1, of: respConnectionCount, limit: limit) else {
            give(1, to: connectionCount)
            return false
        }
        return true
    }

    func connectionEnded(_ door: FrontDoor) {
        if door == .resp { give(1, to: respConnectionCount) }
        give(1, to: connectionCount)
    }

    /// A number that no other connection of this run has.
    func nextConnectionNumber() -> UInt64 {
        connectionNumber.add(1, ordering: .relaxed).newValue
    }

    /// Counts a lease in that keeps `byteCount` bytes in memory for clients that were only told of
    /// them; false when there are too many, or they take too much. Pair with `readLeaseEnded`.
    func readLeaseBegan(byteCount: Int) -> Bool {
        let limit = tier.chunkByteCountMax / readLeaseShare
        guard take(byteCount, of: readLeaseByteCount, limit: limit) else { return false }
        guard leaseBegan() else {
            give(byteCount, to: readLeaseByteCount)
            return false
        }
        return true
    }

    func readLeaseEnded(byteCount: Int) {
        give(byteCount, to: readLeaseByteCount)
        leaseEnded()
    }

    /// Counts a lease in; false when there are too many. Pair with `leaseEnded`.
    func leaseBegan() -> Bool {
        take(1, of: leaseCount, limit: Limits.leaseCountMax)
    }

    func leaseEnded() {
        give(1, to: leaseCount)
    }

    /// Counts staging memory in; false when it is over the budget. Pair with `stagingEnded`.
    func stagingBegan(byteCount: Int) -> Bool {
        take(byteCount, of: stagingByteCount, limit: configuration.stagingByteCountMax)
    }

    func stagingEnded(byteCount: Int) {
        give(byteCount, to: stagingByteCount)
    }

    private func take(_ amount: Int, of counter: borrowing Atomic<Int>, limit: Int) -> Bool {
        let (_, sum) = counter.add(amount, ordering: .relaxed)
        guard sum > limit else { return true }
        give(amount, to: counter)
        return false
    }

    private func give(_ amount: Int, to counter: borrowing Atomic<Int>) {
        let (_, rest) = counter.subtract(amount, ordering: .relaxed)
        invariant(rest >= 0, "nothing is given back twice")
    }

    // MARK: Statistics

    /// The pairs of STAT: every metric, with the gauges brought up to date.
    func statistics(
        now: Instant, ssd: SSDTier.Statistics?
    ) -> [(name: String, value: UInt64)] {
        if let ssd { metrics.set(ssd) }
        let memory = tier.statistics()
        metrics.set(.uptime, to: startInstant.milliseconds(until: now))
        metrics.set(.memoryUsed, to: UInt64(memory.usedByteCount))
        metrics.set(.chunks, to: UInt64(memory.chunkCount))
        metrics.set(.chunksEvicted, to: UInt64(memory.evictionCount))
        metrics.set(.chunksExpired, to: UInt64(memory.expirationCount))
        metrics.set(.reservationsOpen, to: UInt64(memory.openReservationCount))
        metrics.set(.holdsOpen, to: UInt64(memory.holdCount))
        metrics.set(.connectionsOpen, to: UInt64(openConnectionCount))
        metrics.set(.leasesOpen, to: UInt64(openLeaseCount))
        metrics.set(.stagingUsed, to: UInt64(openStagingByteCount))
        metrics.set(.codecWaiting, to: UInt64(codec.waitingCount))
        metrics.set(.processCPU, to: ProcessUsage.cpuMicroseconds())
        return metrics.snapshot()
    }
}

/// Read leases take one part of the memory in so many.
private let readLeaseShare = 4

extension NodeConfiguration {
    /// The last word of the daemon's name.
    var daemonVersion: String {
        daemonName.split(separator: " ").last.map { String($0) } ?? daemonName
    }
}

extension Metrics {
    /// Brings the metrics of the SSD tier up to date.
    fileprivate func set(_ ssd: SSDTier.Statistics) {
        set(.ssdChunks, to: UInt64(ssd.chunkCount))
        set(.ssdChunkBytes, to: UInt64(ssd.chunkByteCount))
        set(.ssdSegments, to: UInt64(ssd.segmentCount))
        set(.ssdSegmentsFree, to: UInt64(ssd.freeSegmentCount))
        set(.ssdPins, to: UInt64(ssd.pinCount))
        set(.ssdChunksEvicted, to: UInt64(ssd.evictionCount))
        set(.ssdChunksExpired, to: UInt64(ssd.expirationCount))
        set(.ssdChunksMoved, to: UInt64(ssd.reinsertionCount))
        set(.ssdChunksSkipped, to: UInt64(ssd.skippedCount))
        set(.ssdRecordsWritten, to: UInt64(ssd.recordCount))
        set(.ssdPayloadWritten, to: UInt64(ssd.payloadWrittenByteCount))
        set(.ssdWritten, to: UInt64(ssd.writtenByteCount))
        set(.ssdRead, to: UInt64(ssd.readByteCount))
        set(.ssdScrubbed, to: UInt64(ssd.scrubbedByteCount))
        set(.ssdReadFaults, to: UInt64(ssd.readFaultCount))
        set(.ssdWriteFaults, to: UInt64(ssd.writeFaultCount))
        set(.ssdChecksumMismatches, to: UInt64(ssd.checksumMismatchCount))
        set(.ssdDirectoriesFailed, to: UInt64(ssd.failedDirectoryCount))
        set(.ssdForeignFiles, to: UInt64(ssd.foreignFileCount))
        set(.ssdNotesWaiting, to: UInt64(ssd.notesWaitingCount))
    }
}
