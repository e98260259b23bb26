// SPDX-License-Identifier: Apache-2.0
import Foundation
import KVCore
import LinuxIO
import Node
import Tiers

/// A directory of a test's own, removed with the object.
final class SSDFolder: Sendable {
    let path = "/tmp/node-tests-\(UInt64.random(in: 0 ... .max))"

    init() throws {
        try FileManager.default.createDirectory(
            atPath: path, withIntermediateDirectories: false)
    }

    deinit {
        do {
            try FileManager.default.removeItem(atPath: path)
        } catch {
            // What stays is a few files in /tmp, and not what the test is about.
        }
    }
}

/// How a node's SSD tier is built. A value.
struct SSDOptions: Sendable {
    let folder: SSDFolder
    var admission = RAMTier.Admission.all
    var promotion = SSDReader<RingReactor>.Promotion.always
    var pinnedByteCountMax = Int.max
    var capacity = ByteCount.mebibytes(64)

    /// One in a fresh directory.
    init() throws { folder = try SSDFolder() }
}

/// The SSD tier of a node, on a reactor of its own as in the daemon.
final class StoreOfWorld: Sendable {
    let reactor: RingReactor
    let tier: SSDTier
    private let options: SSDOptions
    private let memory: RAMTier
    private let files = SSDFiles<RingFileHandle>()
    private let store: SSDStore<RingReactor>

    init(
        _ options: SSDOptions, node: Node, _ reactorOptions: ReactorOptions
    ) throws {
        self.options = options
        memory = node.tier
        reactor = try RingReactor(reactorOptions)
        tier = SSDTier(
            SSDTier.Configuration(
                namespaces: [SSDTag(namespace: "default"), SSDTag(namespace: "resp")],
                entryCountMax: 4_096,
                wallOffsetMilliseconds: 1_800_000_000_000,
                pinnedByteCountMax: options.pinnedByteCountMax),
            seed: 2)
        let reader = SSDReader(
            reactor: reactor, tier: tier, memory: memory, files: files, promotion: .always,
            report: { _ in })
        store = SSDStore(
            SSDStore<RingReactor>.Configuration(
                directories: [options.folder.path], capacity: options.capacity,
                segmentByteCount: .mebibytes(1), roundMilliseconds: 5),
            tier: tier, memory: memory, reactor: reactor, files: files,
            encoder: DemotionDesk(node, reactor, reader: reader), report: { _ in })
    }

    func open() async {
        _ = await store.open()
        await store.start()
    }

    func access(on reactor: RingReactor) -> SSDAccess<RingReactor> {
        SSDAccess(
            store: store,
            reader: SSDReader(
                reactor: reactor, tier: tier, memory: memory, files: files,
                promotion: options.promotion, report: { _ in }))
    }

    func stop(by deadline: Instant) async { await store.stop(by: deadline) }
}

extension World {
    /// Takes chunks out of memory alone.
    nonisolated func forget(_ numbers: Range<UInt64>) {
        for number in numbers {
            _ = node.tier.remove(.default, key(number), now: door.reactor.now())
        }
    }

    /// Whether a chunk can be read from SSD.
    nonisolated func isOnSSD(_ number: UInt64) -> Bool {
        let now = door.reactor.now()
        return ssd?.tier.locate(.default, key(number), now: now, asUse: .doesNotCount) != nil
    }

    /// Bytes that were read from SSD.
    nonisolated var ssdReadByteCount: Int { ssd?.tier.statistics().readByteCount ?? 0 }
}
