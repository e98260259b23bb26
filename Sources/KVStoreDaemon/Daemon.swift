// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVCore
import LinuxIO
import Logging
import Node
import Settings
import Telemetry
import Tiers

/// Why the daemon could not start; the message names the cure.
struct StartFault: Error {
    let message: String
}

/// A running daemon: memory, reactors, node, listeners. Built in this order, ended in the reverse.
final class Daemon {
    private let settings: DaemonSettings
    private let log: DaemonLog
    private let arena: MemoryArena
    private let node: Node
    private let reactors: [RingReactor]
    private let shards: [Shard<RingReactor>]
    private let acceptor: Acceptor<RingReactor>
    private let addresses: [BoundAddress]
    private let notifier: SystemdNotifier?
    private let codec: DaemonCodec
    private let ssd: DaemonSSD?
    private let store: DescriptorStore?

    private var logger: Logger { log.logger }

    init(_ settings: DaemonSettings, _ log: DaemonLog) throws(StartFault) {
        self.settings = settings
        self.log = log
        let logger = log.logger
        let passed = DescriptorStore.passed()
        logger.event(
            .notice, .starting, "kvstored starts", ["version": Release.version, "pid": getpid()])
        Self.raiseDescriptorLimit(settings, logger)
        let memory = try DaemonMemory(settings, logger)
        arena = memory.arena
        let options = Self.reactorOptions(settings, arena)
        reactors = try Self.startReactors(settings, options, logger)
        let now = reactors[0].now()
        let tier = RAMTier(
            arena: arena.bytes.prefix(memory.capacity.arenaByteCount), capacity: memory.capacity,
            seed: reactors[0].randomBits(), admission: settings.ssd?.ramAdmission ?? .none)
        notifier = SystemdNotifier(environment: Surroundings.current().environment)
        store = DescriptorStore(notifier, logger)
        log.metrics.set(.memoryBudget, to: UInt64(settings.memory.budget.bytes))
        log.metrics.set(.shards, to: UInt64(reactors.count))
        log.metrics.set(.hugePages, to: arena.backing == .smallPages ? 0 : 1)
        log.metrics.set(.startTime, to: UInt64(WallClockTime.now().milliseconds / 1_000))
        codec = try DaemonCodec(settings)
        let node = Node(
            configuration: settings.nodeConfiguration(stagingByteCount: memory.stagingByteCount),
            tier: tier, sharedMemory: memory.shared(with: arena), metrics: log.metrics,
            nodeID: reactors[0].randomBits(), now: now, codecWorkers: codec.workers)
        self.node = node
        ssd =
            if let ssd = settings.ssd {
                try DaemonSSD(settings, ssd, node: node, options: options, logger)
            } else {
                nil
            }
        let ssd = ssd
        shards = reactors.map { Shard(node: node, reactor: $0, ssd: ssd?.access(on: $0)) }
        Self.notify(.status("reading what is on SSD"), notifier, logger)
        ssd?.open()
        acceptor = Acceptor(shards: shards, logger: logger)
        addresses = try Self.listen(settings, acceptor)
        DescriptorStore.resume(passed, node, acceptor, notifier, logger)
    }

    // MARK: Start

    private static func raiseDescriptorLimit(_ settings: DaemonSettings, _ logger: Logger) {
        do throws(IOFault) {
            let limit = try ProcessLimits.raiseDescriptorCount()
            guard limit < settings.limits.connectionCount + 64 else { return }
            logger.event(
                .warning, .ioDegraded,
                "fewer descriptors than connections: raise LimitNOFILE or lower limits.connections",
                ["descriptors": limit, "connections": settings.limits.connectionCount])
        } catch {
            logger.event(.warning, .ioDegraded, "the descriptor limit cannot be read: \(error)")
        }
    }

    private static func reactorOptions(
        _ settings: DaemonSettings, _ arena: MemoryArena
    ) -> ReactorOptions {
        var options = ReactorOptions()
        // Registering touches every page, so small pages are registered only if prefaulted.
        let isResident = settings.memory.prefault || arena.backing != .smallPages
        if settings.memory.registration == .auto, isResident {
            options.fixedBuffers = [arena.bytes]
        }
        options.socketFileMode = settings.listen.unixSocketPermissions.bits
        options.backend =
            switch settings.io.backend {
            case .auto: .automatic
            case .ioUring: .ioUring
            case .poll: .poll
            }
        return options
    }

    private static func startReactors(
        _ settings: DaemonSettings, _ standard: ReactorOptions, _ logger: Logger
    ) throws(StartFault) -> [RingReactor] {
        var options = standard
        var reactors: [RingReactor] = []
        for index in 0..<settings.shardCount {
            options.name = "kvstored-\(index)"
            do throws(IOFault) {
                reactors.append(try RingReactor(options))
            } catch {
                throw StartFault(
                    message: """
                        no I/O ring for shard \(index) (\(error)): allow io_uring, or set \
                        io.backend to poll
                        """)
            }
        }
        logger.event(
            .info, .ioBackendChosen, "data threads run",
            ["backend": reactors[0].backendDescription, "shards": reactors.count])
        for warning in reactors[0].warnings { logger.event(.warning, .ioDegraded, "\(warning)") }
        return reactors
    }

    private static func listen(
        _ settings: DaemonSettings, _ acceptor: Acceptor<RingReactor>
    ) throws(StartFault) -> [BoundAddress] {
        var wanted: [BoundAddress] = []
        if let path = settings.listen.unixSocket {
            if let directory = settings.listen.unixSocketDirectory {
                // SAFETY: the string lives through the call. An error shows when binding.
                _ = unsafe mkdir(directory, 0o755)
            }
            wanted.append(BoundAddress(door: .native, address: .unix(path: path)))
        }
        if let tcp = settings.listen.tcp {
            wanted.append(BoundAddress(door: .native, address: tcp))
        }
        if let resp = settings.resp {
            wanted.append(BoundAddress(door: .resp, address: resp.listen))
        }
        if let lm = settings.lm { wanted.append(BoundAddress(door: .lm, address: lm.listen)) }
        var addresses: [BoundAddress] = []
        for one in wanted {
            let result = blocking { await acceptor.listen(on: one.address, speaking: one.door) }
            switch result {
            case .success(let bound):
                addresses.append(BoundAddress(door: one.door, address: bound))
            case .failure(let fault):
                throw StartFault(
                    message: """
                        cannot listen on \(one.address) (\(fault)): is another kvstored running, \
                        or the address not ours?
                        """)
            }
        }
        return addresses
    }

    /// Tells the log, the ready file and systemd that requests are served.
    func announce() throws(StartFault) {
        for one in addresses {
            logger.event(
                .notice, .listening, "listening",
                ["address": one.address.description, "protocol": one.door.rawValue])
        }
        if let path = settings.readyFile {
            try ReadyFile(addresses: addresses, nodeName: settings.nodeName).write(to: path)
        }
        let places = addresses.map(\.address.description).joined(separator: ", ")
        notify(.ready(status: "serving on \(places)"))
        logger.event(.notice, .ready, "kvstored serves")
    }

    // MARK: Run and stop

    /// Serves until a signal comes, then stops within the grace period.
    func run(until signals: SignalQueue) {
        for shard in shards {
            Task(executorPreference: shard.reactor.executor) { await shard.maintain() }
        }
        let watchdogMilliseconds = (notifier?.watchdogMicroseconds).map { Int($0 / 1_000) }
        var lastBeats = shards.map { _ in UInt64.max }
        while !signals.wait(milliseconds: min(watchdogMilliseconds ?? 1_000, 1_000)) {
            let beats = shards.map(\.heartbeat)
            if zip(beats, lastBeats).contains(where: { $0 == $1 }) {
                // No watchdog message: systemd restarts a daemon that stays like this.
                logger.event(.error, .shardStalled, "a data thread has not run for a second")
            } else if watchdogMilliseconds != nil {
                notify(.watchdog)
            }
            lastBeats = beats
        }
        stop()
    }

    private func stop() {
        logger.event(
            .notice, .stopping, "kvstored stops", ["connections": node.openConnectionCount])
        notify(.stopping)
        let key = (0..<HandOver.keyByteCount).map { _ in
            UInt8(truncatingIfNeeded: reactors[0].randomBits())
        }
        node.beginStop(keepingConnectionsUnder: store == nil ? nil : key)
        let deadline = reactors[0].now().adding(milliseconds: UInt64(settings.shutdownGrace.count))
        let (acceptor, shards) = (acceptor, shards)
        let kept = blocking {
            await acceptor.close()
            for shard in shards { await shard.beginStop() }
            for shard in shards { await shard.stop(by: deadline) }
            var kept: [KeptConnection<RingReactor>] = []
            for shard in shards { kept += await shard.takeKept() }
            return kept
        }
        if let handOver = node.handOver { store?.keep(kept, handOver) }
        ssd?.stop(by: deadline.adding(milliseconds: ssdStopMilliseconds))
        codec.stop()
        for reactor in reactors { reactor.stop() }
        for reactor in reactors { reactor.join() }
        if let path = settings.readyFile { ReadyFile.remove(path) }
        logger.event(.notice, .stopped, "kvstored has stopped")
    }

    private func notify(_ message: SystemdNotifier.Message) {
        Self.notify(message, notifier, logger)
    }

    private static func notify(
        _ message: SystemdNotifier.Message, _ notifier: SystemdNotifier?, _ logger: Logger
    ) {
        do throws(SystemdNotifier.Fault) {
            try notifier?.notify(message)
        } catch {
            logger.event(.warning, .ioDegraded, "systemd cannot be told: \(error)")
        }
    }
}

/// What the SSD tier has for writing what waits, beyond the grace for requests.
private let ssdStopMilliseconds: UInt64 = 5_000
