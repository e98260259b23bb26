// SPDX-License-Identifier: Apache-2.0
import KVClient
import KVCore
import LinuxIO

/// One connection of a benchmark: one request after the other. Confined to its worker.
final class BenchLoop {
    private let client: Client<RingReactor>
    private let value: OwnedBytes
    private var held: [UInt64] = []
    private var round: Int

    init(_ client: Client<RingReactor>, valueByteCount: Int, index: Int) {
        self.client = client
        round = index
        value = OwnedBytes(count: valueByteCount, alignment: 4_096)
        value.bytes.fill(UInt8(truncatingIfNeeded: 65 + index))
    }

    /// Connects; leases and reservations need a daemon that shares memory.
    func connect(_ plan: BenchPlan) async throws(Failure) {
        do throws(ClientError) {
            _ = try await client.connect(
                deadline: client.deadline(milliseconds: plan.timeoutMilliseconds))
        } catch {
            throw Failure(error, at: client.options.address)
        }
        guard plan.transport != .local || client.sharesMemory else {
            throw Failure(
                .refused,
                "the daemon does not share memory with this namespace: use --transport unix")
        }
    }

    func close() {
        client.close()
    }

    /// Runs until the plan's time or count is used up.
    func run(_ plan: BenchPlan) async throws(Failure) -> BenchTally {
        var tally = BenchTally()
        tally.begin = client.reactor.now()
        let end = tally.begin.adding(milliseconds: plan.milliseconds)
        var before = tally.begin
        var count = 0
        while before < end && count < plan.operationCountMax {
            do throws(ClientError) {
                let deadline = before.adding(milliseconds: plan.timeoutMilliseconds)
                switch plan.operation {
                case .get: try await get(plan, deadline)
                case .put: tally.stored.append(try await put(plan, deadline))
                }
            } catch {
                throw Failure(error, at: client.options.address)
            }
            let after = client.reactor.now()
            tally.latencies.record(nanoseconds: after.nanoseconds - before.nanoseconds)
            tally.byteCount += UInt64(plan.valueByteCount)
            before = after
            count += 1
        }
        tally.end = before
        return tally
    }

    private func get(_ plan: BenchPlan, _ deadline: Instant) async throws(ClientError) {
        let key = plan.keys[round % plan.keys.count]
        round += 1
        guard plan.transport == .local else {
            let found = try await client.get(key, into: value.bytes, deadline: deadline)
            if found == nil { throw Self.evicted }
            return
        }
        let outcomes = try await client.lease([key], releasing: held, deadline: deadline)
        held.removeAll(keepingCapacity: true)
        guard case .leased(let chunk) = outcomes[0] else { throw Self.evicted }
        held.append(chunk.id)
        // What an engine does: copy the bytes to where they are needed, then look at the clock.
        value.bytes.copy(from: chunk.bytes)
        guard client.isGood(chunk) else {
            throw ClientError(.damaged, message: "a lease ended while its chunk was read")
        }
    }

    private func put(
        _ plan: BenchPlan, _ deadline: Instant
    ) async throws(ClientError) -> ChunkKey {
        let label = ChunkLabel(
            key: freshKey(client.reactor), timeToLiveMilliseconds: benchMillisecondsToLive)
        if plan.transport == .local {
            _ = try await client.putInPlace(label, value.bytes, deadline: deadline)
        } else {
            _ = try await client.put(label, value.bytes, deadline: deadline)
        }
        return label.key
    }

    private static let evicted = ClientError(
        .refused, status: .busy, message: "a chunk of the benchmark was evicted meanwhile")
}

/// Chunks of a benchmark that did not get to delete them are forgotten after this time.
let benchMillisecondsToLive: UInt32 = 600_000

/// A key that nobody has used.
func freshKey(_ reactor: RingReactor) -> ChunkKey {
    ChunkKey(
        words: (
            reactor.randomBits(), reactor.randomBits(), reactor.randomBits(),
            reactor.randomBits()
        ))
}

extension Worker {
    /// Opens `count` connections for `plan`.
    func prepareLoops(
        _ plan: BenchPlan, _ options: ClientOptions, count: Int
    ) async throws(Failure) {
        for index in 0..<count {
            let loop = BenchLoop(
                Client(reactor: reactor, options: options), valueByteCount: plan.valueByteCount,
                index: index)
            loops.append(loop)
            try await loop.connect(plan)
        }
    }

    /// Runs all loops side by side.
    func runLoops(_ plan: BenchPlan) async throws(Failure) -> BenchTally {
        let results = await withTaskGroup(
            of: Result<BenchTally, Failure>.self, returning: [Result<BenchTally, Failure>].self
        ) { group in
            for index in loops.indices {
                group.addTask { await self.runLoop(index, plan) }
            }
            var results: [Result<BenchTally, Failure>] = []
            for await result in group { results.append(result) }
            return results
        }
        var total = BenchTally()
        for result in results { total.add(try result.get()) }
        return total
    }

    /// Closes the connections.
    func closeLoops() {
        for loop in loops { loop.close() }
        loops = []
    }

    private func runLoop(
        _ index: Int, _ plan: BenchPlan
    ) async -> Result<BenchTally, Failure> {
        do throws(Failure) {
            return .success(try await loops[index].run(plan))
        } catch {
            return .failure(error)
        }
    }
}
