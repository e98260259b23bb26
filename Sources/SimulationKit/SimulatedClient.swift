// SPDX-License-Identifier: Apache-2.0

internal import KVClient
internal import KVCore
internal import Wire

/// A client that does what its seed says and has the model judge what it hears.
actor SimulatedClient {
    private let reactor: SimulatedReactor
    private let simulation: NodeSimulation
    private let client: Client<SimulatedReactor>
    private let memory = OwnedBytes(count: byteCountMax)
    private var random: SeededRandom

    private static let byteCountMax = 48 << 10
    /// A call may end this long after its deadline: jobs take time here.
    private static let slackMilliseconds: UInt64 = 5

    init(reactor: SimulatedReactor, simulation: NodeSimulation, number: Int) {
        self.reactor = reactor
        self.simulation = simulation
        random = SeededRandom(seed: reactor.randomBits())
        client = Client(
            reactor: reactor,
            options: ClientOptions(address: NodeSimulation.address, name: "client \(number)"))
    }

    nonisolated var unownedExecutor: UnownedSerialExecutor {
        // SAFETY: this actor keeps the reactor, and that its executor.
        unsafe reactor.executor.asUnownedSerialExecutor()
    }

    func run(requestCount: Int) async {
        for _ in 0..<requestCount {
            let deadline = reactor.now().adding(milliseconds: UInt64(random.within(20...2_000)))
            await request(deadline: deadline)
            if reactor.now() > deadline.adding(milliseconds: Self.slackMilliseconds) {
                simulation.scheduler.fail("a request ended after its deadline")
            }
            if random.happens(permille: 100) { await pause(until: .distantFuture) }
            if random.happens(permille: 30) { client.close() }
        }
        client.close()
    }

    private func request(deadline: Instant) async {
        let key = random.below(NodeSimulation.keyCount)
        do throws(ClientError) {
            switch random.below(100) {
            case ..<35: try await put(key, deadline)
            case ..<45: try await putInParts(key, deadline)
            case ..<70: try await get(key, deadline)
            case ..<78: try await fetchSeveral(deadline)
            case ..<88: try await lookup(key, deadline)
            default: try await delete(key, deadline)
            }
        } catch {
            judge(error)
        }
    }

    /// Errors that a faultless node and client never give.
    private func judge(_ error: ClientError) {
        simulation.count { $0.faultCount += 1 }
        switch error.kind {
        case .unreachable, .connectionLost, .deadlineExceeded: break
        case .refused where [.busy, .deadlineExceeded, .tooLarge].contains(error.status): break
        case .refused, .damaged, .brokenAnswer, .unusable:
            simulation.scheduler.fail("a client got an error that must not be: \(error)")
        }
    }

    private func pause(until deadline: Instant) async {
        let end = reactor.now().adding(milliseconds: random.below(500 as UInt64))
        do throws(IOFault) {
            try await reactor.sleep(until: min(end, deadline))
        } catch {
            // The world ended.
        }
    }

    // MARK: Storing

    /// A version that is about to be put: its label, and its bytes in `memory`.
    private func prepare(_ key: Int) -> (label: ChunkLabel, version: Int, bytes: PinnedBytes) {
        let byteCount = 1 + random.below(random.below(3) == 0 ? Self.byteCountMax : 4_096)
        let timeToLive = random.happens(permille: 200) ? UInt64(random.within(1...800)) : nil
        let version = simulation.model.beginPut(
            key: key, byteCount: byteCount, timeToLive: timeToLive, at: reactor.now())
        let bytes = memory.bytes.prefix(byteCount)
        bytes.fill(pattern: UInt64(version))
        let label = ChunkLabel(
            key: ChunkKey(simulated: key), timeToLiveMilliseconds: UInt32(timeToLive ?? 0))
        return (label, version, bytes)
    }

    private func put(_ key: Int, _ deadline: Instant) async throws(ClientError) {
        let (label, version, bytes) = prepare(key)
        let began = reactor.now()
        do throws(ClientError) {
            note(try await client.put(label, bytes, deadline: deadline), version, key, began)
        } catch {
            noteRefusal(error, version, key)
            throw error
        }
    }

    private func putInParts(_ key: Int, _ deadline: Instant) async throws(ClientError) {
        let (label, version, bytes) = prepare(key)
        let began = reactor.now()
        let givesUp = random.happens(permille: 200)
        do throws(ClientError) {
            try await client.beginPut(label, byteCount: UInt64(bytes.count), deadline: deadline)
            var sent = 0
            while sent < bytes.count {
                let count = min(bytes.count - sent, 1 + random.below(8_192))
                if givesUp, random.below(3) == 0 {
                    client.abandonPut()
                    simulation.model.refused(version, key: key)
                    return
                }
                try await client.addPart(bytes.slice(offset: sent, count: count))
                sent += count
                if random.happens(permille: 100) { await pause(until: deadline) }
            }
            note(try await client.finishPut(), version, key, began)
        } catch {
            noteRefusal(error, version, key)
            throw error
        }
    }

    private func note(_ outcome: PutOutcome, _ version: Int, _ key: Int, _ began: Instant) {
        simulation.count { $0.putCount += 1 }
        switch outcome {
        case .stored:
            simulation.model.stored(version, key: key, at: reactor.now())
        case .exists:
            simulation.model.refused(version, key: key)
            let others = simulation.model.visible(key: key, from: began, to: reactor.now())
            if others.isEmpty {
                simulation.scheduler.fail("PUT says `exists`, but nothing can be there")
            }
        }
    }

    private func noteRefusal(_ error: ClientError, _ version: Int, _ key: Int) {
        guard error.kind == .refused || error.kind == .unreachable else { return }
        simulation.model.refused(version, key: key)
    }

    private func delete(_ key: Int, _ deadline: Instant) async throws(ClientError) {
        let began = reactor.now()
        _ = try await client.delete([ChunkKey(simulated: key)], deadline: deadline)
        simulation.model.deleted(key: key, began: began, at: reactor.now())
        simulation.count { $0.deleteCount += 1 }
    }

    // MARK: Reading

    private func get(_ key: Int, _ deadline: Instant) async throws(ClientError) {
        let began = reactor.now()
        guard
            let found = try await client.get(
                ChunkKey(simulated: key), into: memory.bytes, deadline: deadline)
        else {
            simulation.count { $0.missCount += 1 }
            return
        }
        check(memory.bytes.prefix(found.byteCount), key, began)
    }

    private func fetchSeveral(_ deadline: Instant) async throws(ClientError) {
        let keys = (0..<random.within(1...5)).map { _ in random.below(NodeSimulation.keyCount) }
        let began = reactor.now()
        let chunks = try await client.fetch(keys.map(ChunkKey.init(simulated:)), deadline: deadline)
        for (key, chunk) in zip(keys, chunks) {
            switch chunk.outcome {
            case .found:
                if let memory = chunk.memory {
                    withExtendedLifetime(memory) { check(memory.bytes, key, began) }
                }
            case .missed: simulation.count { $0.missCount += 1 }
            case .damaged, .skipped: simulation.scheduler.fail("a chunk came damaged")
            }
        }
    }

    private func lookup(_ key: Int, _ deadline: Instant) async throws(ClientError) {
        let began = reactor.now()
        let answer = try await client.lookup(
            [ChunkKey(simulated: key)], .everyKey, deadline: deadline)
        guard let record = answer.records.first, record.status == .ok else { return }
        let candidates = simulation.model.visible(key: key, from: began, to: reactor.now())
        if !candidates.contains(where: { UInt64($0.byteCount) == record.chunkByteCount }) {
            simulation.scheduler.fail(
                "LOOKUP found \(record.chunkByteCount) bytes that cannot be there")
        }
    }

    /// The bytes of a hit are those of a version that can be there.
    private func check(_ bytes: PinnedBytes, _ key: Int, _ began: Instant) {
        simulation.count { $0.hitCount += 1 }
        let candidates = simulation.model.visible(key: key, from: began, to: reactor.now())
        let isKnown = candidates.contains {
            $0.byteCount == bytes.count && bytes.has(pattern: UInt64($0.number))
        }
        if !isKnown {
            simulation.scheduler.fail(
                "GET of key \(key) gave \(bytes.count) bytes that are of no version it may have"
            )
        }
    }
}
