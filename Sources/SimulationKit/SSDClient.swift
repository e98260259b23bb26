// SPDX-License-Identifier: Apache-2.0

internal import KVClient
internal import KVCore
internal import Wire

/// A client of a node that crashes: does what its seed says, and has models judge what it hears.
actor SSDClient {
    private let reactor: SimulatedReactor
    private let simulation: SSDSimulation
    private let client: Client<SimulatedReactor>
    private let memory: OwnedBytes
    private let number: Int
    private var random: SeededRandom

    /// A call may end this long after its deadline: jobs take time here.
    private static let slackMilliseconds: UInt64 = 5

    init(reactor: SimulatedReactor, simulation: SSDSimulation, number: Int) {
        self.reactor = reactor
        self.simulation = simulation
        self.number = number
        memory = OwnedBytes(count: simulation.plan.chunkByteCountMax)
        random = SeededRandom(seed: reactor.randomBits())
        client = Client(
            reactor: reactor,
            options: ClientOptions(address: SimulatedNode.address, name: "client \(number)"))
    }

    nonisolated var unownedExecutor: UnownedSerialExecutor {
        // SAFETY: this actor keeps the reactor, and that its executor.
        unsafe reactor.executor.asUnownedSerialExecutor()
    }

    func run(requestCount: Int) async {
        for _ in 0..<requestCount {
            let deadline = reactor.now().adding(milliseconds: UInt64(random.within(50...4_000)))
            await request(deadline: deadline)
            checkIsInTime(deadline)
            if random.happens(permille: 200) { await pause() }
            if random.happens(permille: 30) { client.close() }
        }
        client.close()
    }

    /// Asks for every key once.
    func audit() async {
        let keys = Array(0..<SSDSimulationPlan.keyCount)
        for first in stride(from: 0, to: keys.count, by: 6) {
            let some = Array(keys[first..<min(first + 6, keys.count)])
            let deadline = reactor.now().adding(milliseconds: 60_000)
            await judged { client throws(ClientError) in
                try await client.lookup(some, deadline)
                try await client.get(some, nil, deadline)
            }
        }
        client.close()
    }

    /// Stores a chunk durably, trying again for a while.
    /// - Returns: whether that could be done.
    func storeInTheEnd(_ key: Int) async -> Bool {
        let end = reactor.now().adding(milliseconds: 150_000)
        while reactor.now() < end {
            let kept = simulation.promises.promiseCount
            await judged { client throws(ClientError) in
                try await client.put(
                    key, byteCount: 1_000, timeToLive: nil, .ssd,
                    client.reactor.now().adding(milliseconds: 10_000))
            }
            if simulation.promises.promiseCount > kept {
                client.close()
                return true
            }
            await pause()
        }
        client.close()
        return false
    }

    private func checkIsInTime(_ deadline: Instant) {
        if reactor.now() > deadline.adding(milliseconds: Self.slackMilliseconds) {
            simulation.scheduler.fail("a request of client \(number) ended after its deadline")
        }
    }

    private func request(deadline: Instant) async {
        let key = random.below(SSDSimulationPlan.keyCount)
        await judged { client throws(ClientError) in
            switch client.random.below(100) {
            case ..<34: try await client.put(key, deadline)
            case ..<52: try await client.get([key], nil, deadline)
            case ..<60: try await client.get(client.keys(), nil, deadline)
            case ..<68: try await client.getPart(key, deadline)
            case ..<76: try await client.lookup(client.keys(), deadline)
            case ..<87: try await client.delete([key], deadline)
            case ..<90: try await client.delete(client.keys(), deadline)
            case ..<96: try await client.pin(key, deadline)
            default: try await client.unpin(key, deadline)
            }
        }
    }

    /// Different keys.
    private func keys() -> [Int] {
        var keys = Array(0..<SSDSimulationPlan.keyCount)
        random.shuffle(&keys)
        return Array(keys.prefix(random.within(1...6)))
    }

    /// Runs `body`; errors that a faultless node and client never give fail the run.
    private func judged(
        _ body: (isolated SSDClient) async throws(ClientError) -> Void
    ) async {
        do throws(ClientError) {
            try await body(self)
        } catch {
            simulation.count(.faults)
            switch error.kind {
            case .unreachable, .connectionLost, .deadlineExceeded: break
            case .refused where Self.refusals.contains(error.status): break
            case .refused, .damaged, .brokenAnswer, .unusable:
                simulation.scheduler.fail("a client got an error that must not be: \(error)")
            }
        }
    }

    private static let refusals: [Status?] = [
        .busy, .deadlineExceeded, .tooLarge, .notDurable, .shuttingDown,
    ]

    private func pause() async {
        let milliseconds = random.below(random.below(4) == 0 ? 2_000 : 200 as UInt64)
        do throws(IOFault) {
            try await reactor.sleep(until: reactor.now().adding(milliseconds: milliseconds))
        } catch {
            // The world ended.
        }
    }

    private func note(_ text: @autoclosure () -> String, _ key: Int) {
        simulation.note("client \(number): " + text(), key: key)
    }

    private func fail(_ reason: String, _ key: Int) {
        note(reason, key)
        simulation.fail("client \(number), key \(key): \(reason)", key: key)
    }

    // MARK: Storing

    private func put(_ key: Int, _ deadline: Instant) async throws(ClientError) {
        let most = random.below(3) == 0 ? simulation.plan.chunkByteCountMax : 6_000
        let byteCount = 1 + random.below(min(most, simulation.plan.chunkByteCountMax))
        let timeToLive =
            random.happens(permille: 200)
            ? UInt64(random.within(1...(random.below(2) == 0 ? 800 : 9_000))) : nil
        try await put(
            key, byteCount: byteCount, timeToLive: timeToLive,
            random.below(2) == 0 ? .memory : .ssd, deadline)
    }

    private func put(
        _ key: Int, byteCount: Int, timeToLive: UInt64?, _ acknowledge: Acknowledge,
        _ deadline: Instant
    ) async throws(ClientError) {
        let began = reactor.now()
        // What is evicted while the answer is on its way may be this chunk.
        let evictionCount = simulation.evictionCount
        let version = simulation.model.beginPut(
            key: key, byteCount: byteCount, timeToLive: timeToLive, at: began)
        let bytes = memory.bytes.prefix(byteCount)
        bytes.fill(pattern: UInt64(version))
        let label = ChunkLabel(
            key: ChunkKey(simulated: key), layout: Self.layout(ofVersion: version),
            timeToLiveMilliseconds: UInt32(timeToLive ?? 0), acknowledge: acknowledge)
        note(
            "PUT \(acknowledge) version \(version), \(byteCount) bytes, time to live "
                + "\(timeToLive ?? 0) ms", key)
        do throws(ClientError) {
            let outcome =
                random.below(8) == 0
                ? try await putInParts(label, bytes, deadline)
                : try await client.put(label, bytes, deadline: deadline)
            note("PUT of version \(version): \(outcome)", key)
            judge(outcome, version, key, began)
            if acknowledge == .ssd { promise(key, began, evictionCount) }
        } catch {
            note("PUT of version \(version): \(error)", key)
            if error.kind == .refused, error.status == .notDurable {
                simulation.model.settled(version, key: key, at: reactor.now())
            } else if error.kind == .refused && error.status != .deadlineExceeded
                || error.kind == .unreachable
            {
                simulation.model.refused(version, key: key)
            } else {
                simulation.model.gaveUp(version, key: key)
            }
            throw error
        }
    }

    private func putInParts(
        _ label: ChunkLabel, _ bytes: PinnedBytes, _ deadline: Instant
    ) async throws(ClientError) -> PutOutcome {
        try await client.beginPut(label, byteCount: UInt64(bytes.count), deadline: deadline)
        var sent = 0
        while sent < bytes.count {
            let count = min(bytes.count - sent, 1 + random.below(16_384))
            try await client.addPart(bytes.slice(offset: sent, count: count))
            sent += count
        }
        return try await client.finishPut()
    }

    private func judge(_ outcome: PutOutcome, _ version: Int, _ key: Int, _ began: Instant) {
        simulation.count(.puts)
        switch outcome {
        case .stored:
            simulation.model.stored(version, key: key, at: reactor.now())
            checkMayBeMissing(key, began, "PUT stored")
        case .exists:
            simulation.model.refused(version, key: key)
            if simulation.model.visible(key: key, from: began, to: reactor.now()).isEmpty {
                fail("PUT says `exists`, but nothing can be there", key)
            }
        }
    }

    private func promise(_ key: Int, _ began: Instant, _ evictionCount: Int) {
        let now = reactor.now()
        let until = simulation.model.earliestExpiry(key: key, from: began, to: now)
        simulation.promises.stored(
            key, began: began, at: now, until: until, evictionCount: evictionCount)
    }

    private static func layout(ofVersion version: Int) -> LayoutID {
        version.isMultiple(of: 3) ? .opaque : LayoutID(words: (UInt64(version % 3), 7))
    }

    // MARK: Removing and keeping

    private func delete(_ keys: [Int], _ deadline: Instant) async throws(ClientError) {
        let began = reactor.now()
        for key in keys {
            simulation.promises.beginDelete(key)
            note("DELETE", key)
        }
        do throws(ClientError) {
            let statuses = try await client.delete(
                keys.map(ChunkKey.init(simulated:)), deadline: deadline)
            let now = reactor.now()
            simulation.count(.deletes)
            for (key, status) in zip(keys, statuses) {
                note("DELETE: \(status)", key)
                simulation.promises.endDelete(key, at: now, isLost: false)
                switch status {
                case .ok, .notFound: simulation.model.deleted(key: key, began: began, at: now)
                case .notDurable:
                    simulation.model.deletedUntilRestart(key: key, began: began, at: now)
                default: fail("DELETE says \(status)", key)
                }
            }
        } catch {
            for key in keys {
                note("DELETE: \(error)", key)
                simulation.promises.endDelete(key, at: reactor.now(), isLost: error.mayHappen)
            }
            throw error
        }
    }

    private func pin(_ key: Int, _ deadline: Instant) async throws(ClientError) {
        let milliseconds = UInt64(random.within(1...20_000))
        try await changePin(key, until: milliseconds) { client throws(ClientError) in
            try await client.pin(
                [ChunkKey(simulated: key)], milliseconds: milliseconds, deadline: deadline)
        }
    }

    private func unpin(_ key: Int, _ deadline: Instant) async throws(ClientError) {
        try await changePin(key, until: nil) { client throws(ClientError) in
            try await client.unpin([ChunkKey(simulated: key)], deadline: deadline)
        }
    }

    private func changePin(
        _ key: Int, until milliseconds: UInt64?,
        _ call: (Client<SimulatedReactor>) async throws(ClientError) -> [Status]
    ) async throws(ClientError) {
        let began = reactor.now()
        let what = milliseconds.map { "PIN for \($0) ms" } ?? "UNPIN"
        simulation.promises.beginPin(key)
        note(what, key)
        do throws(ClientError) {
            let status = try await call(client)[0]
            note("\(what): \(status)", key)
            simulation.count(.pins)
            simulation.promises.endPin(
                key, began: began, at: reactor.now(), isLost: false,
                pinnedUntil: status == .ok
                    ? milliseconds.map { began.adding(milliseconds: $0) } : nil,
                evictionCount: simulation.evictionCount)
            if ![.ok, .notFound, .busy, .notDurable].contains(status) {
                fail("\(what) says \(status)", key)
            }
            if status == .notFound { checkMayBeMissing(key, began, what) }
        } catch {
            note("\(what): \(error)", key)
            simulation.promises.endPin(
                key, began: began, at: reactor.now(), isLost: error.mayHappen)
            throw error
        }
    }

    // MARK: Reading

    private func getPart(_ key: Int, _ deadline: Instant) async throws(ClientError) {
        let offset = random.below(random.below(2) == 0 ? 1_000 : simulation.plan.chunkByteCountMax)
        let range = ByteRange(
            offset: UInt64(offset), byteCount: UInt64(random.within(1...9_000)))
        try await get([key], range, deadline)
    }

    private func get(
        _ keys: [Int], _ range: ByteRange?, _ deadline: Instant
    ) async throws(ClientError) {
        let began = reactor.now()
        let chunks: [FetchedChunk]
        do throws(ClientError) {
            chunks = try await client.fetch(
                keys.map(ChunkKey.init(simulated:)), GetOptions(range: range), deadline: deadline)
        } catch {
            for key in keys { note("GET: \(error)", key) }
            throw error
        }
        for (key, chunk) in zip(keys, chunks) {
            switch chunk.outcome {
            case .found(let found):
                if let memory = chunk.memory {
                    withExtendedLifetime(memory) {
                        check(memory.bytes, found, range, key, began)
                    }
                }
            case .missed(let status): checkMiss(status, range, key, began)
            case .damaged, .skipped: fail("a chunk came damaged", key)
            }
        }
    }

    /// The bytes of a hit are those of a version that can be there.
    private func check(
        _ bytes: PinnedBytes, _ found: FoundChunk, _ range: ByteRange?, _ key: Int,
        _ began: Instant
    ) {
        simulation.count(.hits)
        let start = Int(range?.offset ?? 0)
        let candidates = simulation.model.visible(key: key, from: began, to: reactor.now())
        let version = candidates.first {
            $0.byteCount == found.byteCount && bytes.has(pattern: UInt64($0.number), from: start)
                && found.layout == Self.layout(ofVersion: $0.number)
        }
        guard let version else {
            return fail(
                "GET gave \(bytes.count) bytes from \(start) on, of \(found.byteCount), that are "
                    + "of no version that may be there since \(began.nanoseconds) ns", key)
        }
        note("GET: version \(version.number)", key)
        if (found.timeToLiveMilliseconds == nil) != (version.timeToLive == nil) {
            fail("GET of version \(version.number) tells another time to live", key)
        }
        simulation.promises.found(
            key, began: began, at: reactor.now(), evictionCount: simulation.evictionCount)
    }

    private func checkMiss(
        _ status: Status, _ range: ByteRange?, _ key: Int, _ began: Instant
    ) {
        note("GET: \(status)", key)
        simulation.count(.misses)
        switch status {
        case .notFound: checkMayBeMissing(key, began, "GET")
        case .busy, .deadlineExceeded: break
        case .limitExceeded:
            let candidates = simulation.model.visible(key: key, from: began, to: reactor.now())
            let isShort = candidates.contains { version in
                range?.within(chunkByteCount: UInt64(version.byteCount)) == nil
            }
            if range == nil || !isShort { fail("GET says \(status)", key) }
        default: fail("GET says \(status)", key)
        }
    }

    /// Fails the run when somebody was promised that the chunk is there.
    private func checkMayBeMissing(_ key: Int, _ began: Instant, _ what: String) {
        guard !simulation.plan.isDestructive,
            let promise = simulation.promises.brokenPromise(
                key, began: began, at: reactor.now(), evictionCount: simulation.evictionCount)
        else { return }
        fail(
            "\(what), but the chunk was durable at \(promise.since.nanoseconds) ns, and nobody "
                + "asked for its end", key)
    }

    private func lookup(_ keys: [Int], _ deadline: Instant) async throws(ClientError) {
        let began = reactor.now()
        let answer = try await client.lookup(
            keys.map(ChunkKey.init(simulated:)), .everyKey, deadline: deadline)
        for (key, record) in zip(keys, answer.records) {
            note("LOOKUP: \(record.status)", key)
            guard record.status == .ok else {
                checkMayBeMissing(key, began, "LOOKUP: absent")
                continue
            }
            let candidates = simulation.model.visible(key: key, from: began, to: reactor.now())
            // What is encoded is smaller.
            let fits: (UInt64) -> Bool =
                record.level == 0
                ? { $0 == record.chunkByteCount } : { $0 > record.chunkByteCount }
            if !candidates.contains(where: { fits(UInt64($0.byteCount)) }) {
                fail("LOOKUP found \(record.chunkByteCount) bytes that cannot be there", key)
            }
        }
    }
}

extension ClientError {
    /// Whether the node may do what was asked for, later.
    fileprivate var mayHappen: Bool { kind != .refused && kind != .unreachable }
}
