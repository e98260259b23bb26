// SPDX-License-Identifier: Apache-2.0
import Codec
import Glibc
import KVCore
import LinuxIO
import Logging
import Node
import Settings
import Telemetry
import Tiers

/// How the memory budget is spent: the tier's arena and tables, staging for local writers, and what
/// many connections need beyond the 64 MiB that the process may have on top of the budget.
struct DaemonMemory {
    /// Code, stacks, log and I/O tables; 27 MB were measured.
    private static let processByteCount = 32 << 20
    /// An idle connection: its task, inbox and outbox; 5.7 KiB were measured.
    private static let connectionByteCount = 6 << 10
    /// What one of the RESP listener has beyond that: two buffers.
    private static let respConnectionByteCount = 2 * Limits.respBufferByteCount
    /// What the process may hold on top of the budget.
    private static let allowanceByteCount = 64 << 20
    /// Local writers get at most an eighth of the budget, and at most this.
    private static let stagingByteCountMax = 256 << 20

    let capacity: RAMTier.Capacity
    let stagingByteCount: Int
    let arena: MemoryArena

    init(_ settings: DaemonSettings, _ logger: Logger) throws(StartFault) {
        let budget = settings.memory.budget
        stagingByteCount =
            settings.listen.unixSocket == nil
            ? 0 : min(budget.bytes / 8, Self.stagingByteCountMax)
        let overhead =
            Self.processByteCount + settings.limits.connectionCount * Self.connectionByteCount
            + Self.respByteCount(settings) + Self.codecByteCount(settings)
        // Never more than a quarter: a small budget is kept by lowering limits.connections.
        let connectionByteCount = min(
            max(0, overhead - Self.allowanceByteCount), budget.bytes / 4)
        let indexByteCount = try Self.indexByteCount(settings)
        guard
            let capacity = RAMTier.Capacity(
                budget: ByteCount(
                    budget.bytes - stagingByteCount - connectionByteCount - indexByteCount))
        else { throw StartFault(message: "memory.budget \(budget) is too small: use 1MiB or more") }
        self.capacity = capacity
        var options = MemoryArena.Options(byteCount: ByteCount(capacity.arenaByteCount))
        options.prefaults = settings.memory.prefault
        switch settings.memory.hugePages {
        case .auto: break
        case .require: options.backings = [.reservedHugePages, .transparentHugePages]
        case .off: options.backings = [.smallPages]
        }
        do throws(IOFault) {
            arena = try MemoryArena(options)
        } catch {
            throw StartFault(
                message: """
                    no memory arena of \(budget) (\(error)): lower memory.budget, or reserve huge \
                    pages if memory.huge_pages is require
                    """)
        }
        logger.event(
            .info, .memoryReserved, "memory reserved",
            ["budget": budget.description, "backing": arena.backing.rawValue])
        for warning in arena.warnings { logger.event(.warning, .memoryDegraded, "\(warning)") }
    }

    /// What the connections of the RESP listener have beyond those of others.
    private static func respByteCount(_ settings: DaemonSettings) -> Int {
        guard let resp = settings.resp else { return 0 }
        return resp.connectionCount * respConnectionByteCount
            + settings.shardCount * Limits.respLargeBufferCountMax * Limits.bodyByteCountMax
    }

    /// What the codec's threads have when each is at a chunk of large sections, and profiles.
    private static func codecByteCount(_ settings: DaemonSettings) -> Int {
        let workspace =
            settings.sectionValueCountMax * CodecWorkspace.byteCountPerValue
            + CodecWorkspace.byteCountBesides
        return settings.codecThreadCount * workspace + settings.codec.profileMemory.bytes
    }

    /// Memory of the SSD tier's index when it is full: at most a quarter of the budget.
    private static func indexByteCount(_ settings: DaemonSettings) throws(StartFault) -> Int {
        guard let ssd = settings.ssd else { return 0 }
        let byteCount = SSDTier.indexByteCount(entryCountMax: ssd.entryCountMax)
        guard byteCount <= settings.memory.budget.bytes / 4 else {
            throw StartFault(
                message: """
                    the index of \(ssd.entryCountMax) chunks on SSD takes \(byteCount >> 20) MiB \
                    of memory, more than a quarter of memory.budget \
                    (\(settings.memory.budget)): raise memory.budget, or lower ssd.capacity
                    """)
        }
        return byteCount
    }

    /// What local clients may map.
    func shared(with arena: MemoryArena) -> SharedMemory {
        SharedMemory(
            arenaDescriptor: arena.descriptor, arenaByteCount: arena.bytes.count
        ) { byteCount throws(IOFault) in
            let region = try StagingRegion(byteCount: ByteCount(byteCount))
            return StagingMemory(
                bytes: region.bytes, descriptor: region.descriptor, owner: region)
        }
    }
}

extension DaemonSettings {
    /// What the node is told.
    func nodeConfiguration(stagingByteCount: Int) -> NodeConfiguration {
        var configuration = NodeConfiguration()
        configuration.namespaces = namespaces.map { namespace in
            namespace.map {
                NamespaceConfiguration(
                    name: $0.name, tokens: $0.tokens.map(\.bytes), secret: $0.secret?.bytes,
                    sharesMemory: $0.sharesMemory, isOpenable: $0.isOpenable)
            }
        }
        configuration.resp = resp.map { resp in
            var door = RESPConfiguration(
                namespace: NamespaceID(number: UInt16(resp.namespaceNumber)))
            door.passwords = resp.passwords.map(\.bytes)
            door.connectionCountMax = resp.connectionCount
            door.isStrict = resp.isStrict
            door.leaseMilliseconds = resp.lease.count
            door.mayFlush = resp.mayFlush
            door.transferMilliseconds = resp.transferDeadline.count
            return door
        }
        configuration.lm = lm.map {
            LMConfiguration(namespace: NamespaceID(number: UInt16($0.namespaceNumber)))
        }
        configuration.codec.demotion = codec.demotion.level
        configuration.codec.sectionValueCountMax = sectionValueCountMax
        configuration.codec.profileByteCountMax = codec.profileMemory.bytes
        configuration.connectionCountMax = limits.connectionCount
        configuration.chunkByteCountMax = limits.chunkByteCount.bytes
        configuration.leaseMillisecondsMax = limits.lease.count
        configuration.admitsPrefixesOnly = ssd?.admission == .prefix
        configuration.userID = geteuid()
        configuration.requestMillisecondsDefault = limits.requestDeadline.count
        configuration.stagingByteCountMax = stagingByteCount
        configuration.daemonName = "kvstored \(Release.version)"
        return configuration
    }

    /// Processors that are online (sysconf(3)).
    fileprivate var processorCount: Int { max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN))) }

    /// Data threads to start.
    var shardCount: Int {
        io.shardCount > 0
            ? io.shardCount : min(processorCount, IO.shardCountAutomaticMax)
    }
}

extension DaemonSettings {
    /// Threads of the codec for requests, and as many for the way to SSD where there are any.
    var codecWorkerCount: Int {
        codec.workerCount > 0 ? codec.workerCount : min(max(1, processorCount / 4), 64)
    }

    /// Whether chunks are encoded on their way to SSD.
    var encodesDemotions: Bool { ssd != nil && codec.demotion != .raw }

    var codecThreadCount: Int { codecWorkerCount * (encodesDemotions ? 2 : 1) }

    /// Values of the largest section that is encoded as a tensor: the threads take an eighth of the
    /// budget at most.
    var sectionValueCountMax: Int {
        let share =
            memory.budget.bytes / 8 / codecThreadCount / CodecWorkspace.byteCountPerValue
        return min(1 << 20, max(share, 1 << 12))
    }
}
