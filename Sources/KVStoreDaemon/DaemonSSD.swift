// SPDX-License-Identifier: Apache-2.0
import KVCore
import LinuxIO
import Logging
import Node
import Settings
import Telemetry
import Tiers

/// The SSD tier of the daemon: its index, and a reactor of its own for the store.
final class DaemonSSD {
    private let settings: DaemonSettings.SSD
    private let logger: Logger
    private let reactor: RingReactor
    private let tier: SSDTier
    private let memory: RAMTier
    private let files = SSDFiles<RingFileHandle>()
    private let store: SSDStore<RingReactor>

    /// `options` are those of the data threads' reactors.
    init(
        _ settings: DaemonSettings, _ ssd: DaemonSettings.SSD, node: Node,
        options: ReactorOptions, _ logger: Logger
    ) throws(StartFault) {
        self.settings = ssd
        self.logger = logger
        memory = node.tier
        var options = options
        options.name = "kvstored-ssd"
        do throws(IOFault) {
            reactor = try RingReactor(options)
        } catch {
            throw StartFault(message: "no I/O ring for the SSD tier (\(error)): allow io_uring")
        }
        let wall = WallClockTime.now().milliseconds
        let names = settings.namespaces.map { $0?.name ?? NamespaceSettings.defaultName }
        let capacity = ssd.capacity.bytes * ssd.directories.count
        tier = SSDTier(
            SSDTier.Configuration(
                namespaces: names.map { SSDTag(namespace: $0) },
                entryCountMax: ssd.entryCountMax,
                wallOffsetMilliseconds: wall - Int64(reactor.now().nanoseconds / 1_000_000),
                pinnedByteCountMax: capacity / 2),
            seed: reactor.randomBits())
        let report = Self.reporter(logger)
        let reader = SSDReader(
            reactor: reactor, tier: tier, memory: memory, files: files, promotion: .always,
            report: report)
        store = SSDStore(
            ssd.storeConfiguration, tier: tier, memory: memory, reactor: reactor, files: files,
            encoder: DemotionDesk(node, reactor, reader: reader), report: report)
    }

    /// Rebuilds the index; the daemon serves afterwards.
    func open() {
        let store = store
        let began = reactor.now()
        let found = blocking { await store.open() }
        let milliseconds = began.milliseconds(until: reactor.now())
        logger.event(
            found.directoryCount == settings.directories.count ? .notice : .error, .ssdOpened,
            found.directoryCount == 0
                ? "the SSD tier has no directory that can be used: chunks stay in memory"
                : "the SSD tier is open",
            [
                "directories": found.directoryCount, "segments": found.segmentCount,
                "chunks": found.chunkCount, "scanned_segments": found.scannedSegmentCount,
                "checkpoint": found.hasCheckpoint, "milliseconds": milliseconds,
            ])
        blocking { await store.start() }
    }

    /// What the shard on `reactor` needs.
    func access(on reactor: RingReactor) -> SSDAccess<RingReactor> {
        SSDAccess(
            store: store,
            reader: SSDReader(
                reactor: reactor, tier: tier, memory: memory, files: files,
                promotion: settings.promotion == .always ? .always : .secondUse,
                report: Self.reporter(logger)))
    }

    /// Writes what waits and closes the store; the shards have stopped.
    func stop(by deadline: Instant) {
        let store = store
        blocking { await store.stop(by: deadline) }
        reactor.stop()
        reactor.join()
    }

    private static func reporter(_ logger: Logger) -> @Sendable (SSDEvent) -> Void {
        { event in
            let (level, name): (Logger.Level, EventName) =
                switch event.kind {
                case .unavailable: (.error, .ssdUnavailable)
                case .foreignFile: (.warning, .ssdForeignFile)
                case .bufferedIO: (.warning, .ssdBufferedIO)
                case .fault: (.error, .ssdFault)
                case .checksumMismatch: (.error, .ssdChecksumMismatch)
                case .recovered: (.notice, .ssdRecovered)
                case .diskFull: (.warning, .ssdDiskFull)
                case .finished: (.info, .ssdFinished)
                }
            logger.event(level, name, "\(event.message)", ["path": event.path])
        }
    }
}

extension DaemonSettings.SSD {
    /// Chunks that the index has room for: as many as fit the capacity at 128 KiB each, and for a
    /// small store as many as fit at all.
    var entryCountMax: Int {
        let byteCount = capacity.bytes * directories.count
        return min(max(byteCount / (128 << 10), 65_536), byteCount / (8 << 10))
    }

    var storeConfiguration: SSDStore<RingReactor>.Configuration {
        SSDStore<RingReactor>.Configuration(
            directories: directories, capacity: capacity, segmentByteCount: segmentByteCount,
            reserve: reserve, scrubByteCountPerSecond: scrubByteCountPerSecond.bytes,
            directIO: directIO == .auto ? .automatic : directIO == .require ? .required : .off)
    }

    var ramAdmission: RAMTier.Admission {
        admission == .all ? .all : .secondUse
    }
}
