// SPDX-License-Identifier: Apache-2.0

internal import KVCore
internal import Telemetry
internal import Tiers

/// A node with an SSD tier that crashes and starts again, while clients go on: sizes, faults and
/// workload from the seed, and models that check every answer over all lives. Confined to the
/// thread that makes it.
// SAFETY: as all of a simulation, confined to its scheduler's thread.
package final class SSDSimulation: @unchecked Sendable {
    package let world: SimulatedWorld
    package let plan: SSDSimulationPlan
    package private(set) var tally = SSDSimulationTally()
    let model = ChunkModel(keyCount: SSDSimulationPlan.keyCount)
    let promises = PromiseModel(keyCount: SSDSimulationPlan.keyCount)
    let history = SimulationHistory()
    var scheduler: SimulatedScheduler { world.scheduler }
    private var random: SeededRandom
    private let clientReactors: [SimulatedReactor]
    private let auditor: SimulatedReactor
    /// All lives of the node. Tasks of dead ones may use their memory still.
    private var lives: [SimulatedNode] = []
    private var livingNode: SimulatedNode?
    /// Evictions in earlier lives, and restarts at which one may have happened uncounted.
    private var evictionCountBefore = 0

    /// A stop may take this long beyond what it was given: a slow disk's last transfers.
    private static let stopMillisecondsMax: UInt64 = 60_000
    /// Longer than a codec thread takes for a chunk.
    private static let settleMillisecondsMax: UInt64 = 10_000

    /// Steps of a life at most. Where the network carries segments of 64 bytes, and of all lives
    /// the last one has most of the requests, hundreds of thousands are used; a livelock uses up
    /// whatever there is.
    private static var limits: RunLimits {
        var limits = RunLimits()
        limits.stepCountMax = 3_000_000
        return limits
    }

    /// A world that follows from `seed`, or from `plan` where that is given.
    package init(seed: UInt64, plan given: SSDSimulationPlan? = nil) {
        let plan = given ?? SSDSimulationPlan(seed: seed)
        self.plan = plan
        world = SimulatedWorld(seed: seed, network: plan.network, disk: plan.disk)
        random = world.scheduler.forkRandom()
        let world = world
        clientReactors = (0..<plan.clientCount).map { world.makeReactor(on: "client \($0)") }
        auditor = world.makeReactor(on: "auditor")
    }

    /// Runs it to the end; throws the first thing that must not be.
    package func run() throws(SimulationFailure) {
        let disk = world.disk(of: SimulatedNode.host)
        defer {
            tally.add(disk.faultCounts)
            disk.discard()
        }
        do throws(SimulationFailure) {
            try runLives()
            try runLastLife()
            try world.end()
        } catch {
            throw SimulationFailure(
                seed: error.seed, reason: "\(error.reason)\nhistory:\n\(history.report)",
                recent: error.recent)
        }
        tally[.jobsOnPool] = scheduler.poolJobCount
        tally[.promises] = promises.promiseCount
        tally[.keptPromises] = promises.keptCount
        guard scheduler.poolJobCount == 0 else {
            throw scheduler.failure("\(scheduler.poolJobCount) jobs left their reactors")
        }
    }

    // MARK: For the clients

    /// Evictions so far, in all lives.
    var evictionCount: Int {
        evictionCountBefore + (livingNode?.tier.statistics().evictionCount ?? 0)
    }

    func count(_ counter: SSDSimulationTally.Counter) { tally[counter] += 1 }

    func note(_ text: @autoclosure () -> String, key: Int? = nil) {
        history.note(text(), key: key, at: scheduler.now)
    }

    func fail(_ reason: String, key: Int) {
        history.fail(key: key)
        scheduler.fail(reason)
    }

    // MARK: Lives

    /// How a life ends. A value.
    private enum End {
        /// After so many more operations of the disk.
        case crash(afterOperations: Int)
        case crashLater(milliseconds: UInt64)
        case stop(milliseconds: UInt64)
    }

    private func drawEnd() -> End {
        switch random.below(10) {
        case ..<6: .crash(afterOperations: random.below(1 << random.within(1...10)))
        case ..<8: .crashLater(milliseconds: random.below(3_000 as UInt64))
        default: .stop(milliseconds: random.below(3_000 as UInt64))
        }
    }

    private func runLives() throws(SimulationFailure) {
        for (index, reactor) in clientReactors.enumerated() {
            let client = SSDClient(reactor: reactor, simulation: self, number: index)
            let count = plan.requestCount
            reactor.start { await client.run(requestCount: count) }
        }
        for number in 1...plan.lifeCountMax {
            let node = startNode()
            let isLast = number == plan.lifeCountMax
            try live(node, until: isLast ? nil : drawEnd())
            guard !clientsAreDone else { break }
            if random.below(2) == 0 { try scheduler.run(milliseconds: random.below(500)) }
        }
    }

    private var clientsAreDone: Bool { clientReactors.allSatisfy(\.isIdle) }

    private func startNode() -> SimulatedNode {
        damageDisk()
        // Weak: tasks that a crash left waiting for ever hold what they were given.
        let node = SimulatedNode(world: world, plan: plan, random: &random) { [weak self] event in
            self?.note("node: \(event.path): \(event.message)")
            if event.message.hasPrefix("the directory is empty") {
                self?.count(.directoriesLeft)
            }
        }
        lives.append(node)
        livingNode = node
        note("life \(lives.count) begins")
        node.start()
        return node
    }

    /// Runs a life to its end; nil: until the clients are done, and beyond.
    private func live(_ node: SimulatedNode, until end: End?) throws(SimulationFailure) {
        let disk = world.disk(of: SimulatedNode.host)
        var operationCountMax = Int.max
        var isDue = false
        switch end {
        case .crash(let count): operationCountMax = disk.operationCount + count
        case .crashLater(let milliseconds), .stop(let milliseconds):
            scheduler.at(scheduler.now.adding(milliseconds: milliseconds)) { isDue = true }
        case nil: break
        }
        try scheduler.run(limits: Self.limits) {
            node.isServing || isDue || disk.operationCount >= operationCountMax
        }
        if node.isServing { noteOpening(node) }
        forgive(node)
        if node.isServing, random.below(2) == 0 { startAudit() }
        if node.isServing, random.below(4) == 0 { startScrub(node) }
        if node.isServing, plan.rotsChunks { rotChunks(node) }
        if node.isServing, plan.losesDirectories { loseDirectory(node) }
        if node.isServing, plan.evacuates { evacuate(node) }
        try scheduler.run(limits: Self.limits) {
            isDue || disk.operationCount >= operationCountMax || clientsAreDone
        }
        if case .stop? = end, node.isServing, !clientsAreDone {
            try stop(node, mayCrash: true)
        } else if end != nil, !clientsAreDone {
            crash(node)
        }
    }

    private func noteOpening(_ node: SimulatedNode) {
        guard let found = node.found else { return }
        note(
            "the node serves: \(found.directoryCount) directories, \(found.chunkCount) chunks, "
                + "\(found.scannedSegmentCount) of \(found.segmentCount) segments scanned, "
                + (found.hasCheckpoint ? "with a checkpoint" : "without a checkpoint"))
        notePlaces(node)
        tally[.checkpointsUsed] += found.hasCheckpoint ? 1 : 0
        tally[.segmentsScanned] += found.scannedSegmentCount
        tally[.chunksRecovered] += found.chunkCount
        let missingCount = plan.directoryCount - found.directoryCount
        tally[.directoriesMissing] += missingCount
        guard missingCount > 0 else { return }
        if !plan.isDestructive, plan.disk.writeErrorPermille == 0, !plan.isShortOfSpace {
            scheduler.fail("\(missingCount) directories are missing, and the disk was good")
        }
    }

    /// What nobody may count on any more when a node had to start without some of its directories:
    /// chunks in them, and deletions noted in them of chunks that lie elsewhere.
    private func forgive(_ node: SimulatedNode) {
        guard let found = node.found, found.directoryCount < plan.directoryCount else { return }
        promises.forgetAll()
        model.forgetDeletions()
    }

    /// Where the chunks lie on the disk.
    private func notePlaces(_ node: SimulatedNode) {
        let segments = node.tier.segments()
        let list = segments.map {
            "\($0.directory)/\($0.fileSlot) \($0.state) \($0.serial) \($0.liveCount)"
        }
        note("segments (serial, chunks): \(list.joined(separator: "; "))")
        for key in 0..<SSDSimulationPlan.keyCount {
            let located = node.tier.locate(
                .default, ChunkKey(simulated: key), now: scheduler.now, asUse: .doesNotCount)
            guard let place = located?.place else { continue }
            let segment = segments[Int(place.segment)]
            note(
                "lies at block \(place.block) of segment \(segment.fileSlot) (serial "
                    + "\(segment.serial), \(segment.state)) of directory \(segment.directory)",
                key: key)
        }
    }

    private func startAudit() {
        let client = SSDClient(reactor: auditor, simulation: self, number: plan.clientCount)
        auditor.start { await client.audit() }
    }

    /// Flips bits in records of chunks, some time from now.
    private func rotChunks(_ node: SimulatedNode) {
        for _ in 0..<random.within(1...3) {
            var random = random.fork()
            scheduler.after(nanoseconds: random.below(2_000_000_000 as UInt64)) { [self] in
                guard livingNode === node, node.found?.directoryCount == plan.directoryCount
                else { return }
                let key = random.below(SSDSimulationPlan.keyCount)
                guard
                    let located = node.tier.locate(
                        .default, ChunkKey(simulated: key), now: scheduler.now,
                        asUse: .doesNotCount)
                else { return }
                let segment = node.tier.segments()[Int(located.place.segment)]
                let path =
                    plan.directories[segment.directory] + "/"
                    + SSDFormat.segmentName(slot: segment.fileSlot)
                let bitCount = (4_096 + located.description.byteCount) * 8
                let bit = Int(located.place.block) * 4_096 * 8 + random.below(bitCount)
                note("bit \(bit) of \(path) flips", key: key)
                world.disk(of: SimulatedNode.host).rot(path, bit: UInt64(bit))
            }
        }
    }

    /// Takes a directory out of reach while the node uses it, and perhaps gives it back.
    private func loseDirectory(_ node: SimulatedNode) {
        guard random.below(3) == 0 else { return }
        let path = plan.directories[random.below(plan.directoryCount)]
        let begin = random.below(2_000_000_000 as UInt64)
        let end = begin + random.below(4_000_000_000 as UInt64)
        let disk = world.disk(of: SimulatedNode.host)
        scheduler.after(nanoseconds: begin) { [self] in
            guard livingNode === node else { return }
            tally[.directoriesLost] += 1
            note("\(path) goes out of reach")
            disk.lostDirectories.insert(path)
        }
        scheduler.after(nanoseconds: end) { [self] in
            guard livingNode === node else { return }
            note("\(path) is there again")
            disk.lostDirectories.remove(path)
        }
    }

    /// Has the node move a directory's chunks to the others and leave it, as an operator would; the
    /// next life begins it anew.
    private func evacuate(_ node: SimulatedNode) {
        guard random.below(3) == 0 else { return }
        let path = plan.directories[random.below(plan.directoryCount)]
        scheduler.after(nanoseconds: random.below(3_000_000_000 as UInt64)) { [self] in
            guard livingNode === node else { return }
            node.storeReactor.start { [self] in
                let status = await node.store.beginEvacuation(path)
                note("evacuation of \(path): \(status)")
                if status == .ok { tally[.evacuations] += 1 }
            }
        }
    }

    private func startScrub(_ node: SimulatedNode) {
        let store = node.store
        node.storeReactor.start { await store.requestScrub(rate: nil) }
    }

    /// What happens to a disk between two lives.
    private func damageDisk() {
        let disk = world.disk(of: SimulatedNode.host)
        disk.lostDirectories = []
        if plan.losesDirectories, random.below(4) == 0 {
            let lost = plan.directories[random.below(plan.directoryCount)]
            disk.lostDirectories = [lost]
            note("\(lost) is out of reach")
        }
        if random.below(8) == 0 {
            for directory in plan.directories
            where disk.removeIfThere(directory + "/checkpoint.kvs") {
                note("the checkpoint of \(directory) is removed")
            }
        }
    }

    /// Without faults: after a last crash or stop, everything that must be there is, and the node
    /// works and stops.
    private func runLastLife() throws(SimulationFailure) {
        guard let node = livingNode else { return }
        try scheduler.run(limits: Self.limits) { node.isServing }
        var calm = DiskFaults()
        calm.pageCountMax = plan.disk.pageCountMax
        world.disk(of: SimulatedNode.host).faults = calm
        world.network.faults = NetworkFaults()
        if random.below(2) == 0 { crash(node) } else { try stop(node, mayCrash: false) }
        let last = startNode()
        try scheduler.run(limits: Self.limits) { last.isServing }
        noteOpening(last)
        forgive(last)
        startAudit()
        try scheduler.run(limits: Self.limits) { auditor.isIdle }
        try stop(last, mayCrash: false)
    }

    // MARK: Ends

    private func crash(_ node: SimulatedNode) {
        tally[.crashes] += 1
        if !node.isServing { tally[.crashesWhileOpening] += 1 }
        if node.isErasing { tally[.crashesWhileErasing] += 1 }
        note("life \(lives.count) ends by a crash")
        countLife(node)
        world.crash(SimulatedNode.host)
    }

    private func stop(_ node: SimulatedNode, mayCrash: Bool) throws(SimulationFailure) {
        let (grace, rest) = (random.below(500 as UInt64), random.below(2_000 as UInt64))
        note("life \(lives.count) stops")
        let bound = scheduler.now.adding(milliseconds: grace + rest + Self.stopMillisecondsMax)
        let disk = world.disk(of: SimulatedNode.host)
        let crashesAt =
            mayCrash && random.below(4) == 0 ? disk.operationCount + random.below(40) : Int.max
        node.stop(graceMilliseconds: grace, storeMilliseconds: rest)
        try scheduler.run(limits: Self.limits) {
            node.hasStopped || disk.operationCount >= crashesAt || scheduler.now > bound
        }
        guard node.hasStopped else {
            guard scheduler.now <= bound else {
                throw scheduler.failure("the node did not stop\n\(node.condition)")
            }
            tally[.crashesWhileStopping] += 1
            return crash(node)
        }
        tally[.stops] += 1
        note("life \(lives.count) has stopped")
        // The codec's threads may be at something that nobody waits for any more; the daemon lets
        // them end it.
        let settled = scheduler.now.adding(milliseconds: Self.settleMillisecondsMax)
        if node.leftover != nil {
            try scheduler.run(limits: Self.limits) {
                node.leftover == nil || scheduler.now > settled
            }
        }
        if let leftover = node.leftover { throw scheduler.failure(leftover) }
        countLife(node)
        node.stopReactors()
    }

    /// Takes over what a life counted, before the next one.
    private func countLife(_ node: SimulatedNode) {
        notePlaces(node)
        let statistics = node.tier.statistics()
        evictionCountBefore = evictionCount + (node.isErasing ? 1 : 0)
        livingNode = nil
        tally[.recordsWritten] += statistics.recordCount
        tally[.bytesRead] += statistics.readByteCount
        tally[.evictions] += statistics.evictionCount
        tally[.reinsertions] += statistics.reinsertionCount
        tally[.expirations] += statistics.expirationCount
        tally[.chunksSkipped] += statistics.skippedCount
        tally[.writeFaults] += statistics.writeFaultCount
        tally[.readFaults] += statistics.readFaultCount
        tally[.mismatches] += statistics.checksumMismatchCount
        tally[.bytesEncoded] += Int(node.metrics.value(.codecZstdIn))
        tally[.chunksDecoded] += Int(node.metrics.value(.codecDecodes))
        model.restarted(at: scheduler.now, keepingDeletions: !plan.rotsDeletions)
        promises.restarted(at: scheduler.now)
    }
}
