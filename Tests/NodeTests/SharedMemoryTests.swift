// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVClient
import KVCore
import Kernels
import LinuxIO
import Node
import Synchronization
import Telemetry
import Testing
import Tiers
import Wire

extension Client {
    /// The lease of one chunk.
    fileprivate func lease(
        one key: ChunkKey, milliseconds: UInt32 = 0, releasing: [UInt64] = []
    ) async throws -> LeasedChunk {
        let outcomes = try await lease(
            [key], milliseconds: milliseconds, releasing: releasing, deadline: soon)
        guard case .leased(let chunk) = outcomes[0] else { throw Status.noLease }
        return chunk
    }
}

@Suite struct `A lease` {
    @Test(arguments: WorldOptions.local)
    func `shows the chunk in place, and outlives its deletion`(
        options: WorldOptions
    ) async throws {
        try await withNode(options) { world in
            let client = world.client()
            let bytes = chunk(1, count: 300_000)
            _ = try await client.put(
                ChunkLabel(key: key(1)), bytes.bytes, deadline: client.soon)
            let leased = try await client.lease(one: key(1))
            #expect(leased.bytes.holds(sameAs: bytes.bytes))
            #expect(leased.checksum == Checksum.of(bytes.bytes))
            #expect(try await client.delete([key(1)], deadline: client.soon) == [.ok])
            #expect(leased.bytes.holds(sameAs: bytes.bytes))
            #expect(client.isGood(leased))
            #expect(world.node.tier.statistics().usedByteCount > 0)
            #expect(try await client.release([leased.id], deadline: client.soon) == 1)
            #expect(try await client.release([leased.id], deadline: client.soon) == 0)
            #expect(world.node.tier.statistics().usedByteCount == 0)
            client.close()
        }
    }

    @Test(arguments: WorldOptions.local)
    func `ends when its time is over, though the client stays`(
        options: WorldOptions
    ) async throws {
        try await withNode(options) { world in
            let client = world.client()
            let bytes = chunk(1, count: 1_000)
            _ = try await client.put(
                ChunkLabel(key: key(1)), bytes.bytes, deadline: client.soon)
            let leased = try await client.lease(one: key(1), milliseconds: 1)
            let long = try await client.lease(one: key(1))
            try await world.until("the lease ends") { $0.node.openLeaseCount == 1 }
            #expect(world.count(.leasesExpired) == 1)
            #expect(world.reactor.now() >= leased.expiry)
            #expect(try await client.release([leased.id], deadline: client.soon) == 0)
            #expect(try await client.release([long.id], deadline: client.soon) == 1)
            client.close()
        }
    }

    @Test(arguments: WorldOptions.local)
    func `ends on the way of another one, and with its client`(
        options: WorldOptions
    ) async throws {
        try await withNode(options) { world in
            let client = world.client()
            let bytes = chunk(1, count: 1_000)
            _ = try await client.put(
                ChunkLabel(key: key(1)), bytes.bytes, deadline: client.soon)
            var lease: [UInt64] = []
            for _ in 0..<20 {
                lease = [try await client.lease(one: key(1), releasing: lease).id]
                #expect(world.node.openLeaseCount == 1)
            }
            #expect(world.count(.leasesReleased) == 19)
            client.close()
            try await world.until("the lease ends") { $0.node.openLeaseCount == 0 }
            #expect(world.node.tier.statistics().holdCount == 0)
        }
    }

    @Test(arguments: WorldOptions.local)
    func `is refused as busy when there are too many`(options: WorldOptions) async throws {
        try await withNode(options) { world in
            let client = world.client()
            let bytes = chunk(1, count: 10)
            _ = try await client.put(
                ChunkLabel(key: key(1)), bytes.bytes, deadline: client.soon)
            let keys = [ChunkKey](repeating: key(1), count: 1_024)
            var ids: [UInt64] = []
            var busyCount = 0
            for _ in 0..<5 {
                for outcome in try await client.lease(keys, deadline: client.soon) {
                    switch outcome {
                    case .leased(let chunk): ids.append(chunk.id)
                    case .missed(let status):
                        #expect(status == .busy)
                        busyCount += 1
                    }
                }
            }
            #expect(ids.count == Limits.leaseCountPerConnectionMax)
            #expect(Set(ids).count == ids.count)
            #expect(busyCount == 5 * 1_024 - ids.count)
            #expect(world.node.openLeaseCount == ids.count)
            let other = world.client()
            _ = try await other.lease(one: key(1))
            other.close()
            client.close()
        }
    }

    @Test(arguments: WorldOptions.local)
    func `keeps its chunk from eviction, whatever is stored`(
        options: WorldOptions
    ) async throws {
        try await withNode(options.with { $0.budget = .mebibytes(16) }) { world in
            let client = world.client()
            var leases: [(LeasedChunk, OwnedBytes)] = []
            for number in 0..<10 as Range<UInt64> {
                let bytes = chunk(number, count: 100_000)
                _ = try await client.put(
                    ChunkLabel(key: key(number)), bytes.bytes, deadline: client.soon)
                leases.append((try await client.lease(one: key(number)), bytes))
            }
            let bytes = chunk(99, count: 400_000)
            for number in 100..<200 as Range<UInt64> {
                _ = try await client.put(
                    ChunkLabel(key: key(number)), bytes.bytes, deadline: client.soon)
            }
            #expect(world.node.tier.statistics().evictionCount > 0)
            for (leased, expected) in leases {
                #expect(leased.bytes.holds(sameAs: expected.bytes))
            }
            let found = try await client.lookup(
                (0..<10).map { key($0) }, .everyKey, deadline: client.soon)
            #expect(found.prefixCount == 10)
            client.close()
        }
    }
}

@Suite struct `A reservation` {
    @Test(arguments: WorldOptions.local)
    func `is filled and committed, or aborted, and its key is then free or taken`(
        options: WorldOptions
    ) async throws {
        try await withNode(options) { world in
            let client = world.client()
            let bytes = chunk(1, count: 700_000)
            let label = ChunkLabel(key: key(1))
            func reserve() async throws -> KVClient.Reservation? {
                try await client.reserve(label, byteCount: 700_000, deadline: client.soon)
            }
            let first = try #require(try await reserve())
            try await client.abort(first, deadline: client.soon)
            let ended = await clientError {
                _ = try await client.commit(first, deadline: client.soon)
            }
            #expect(ended?.status == .noLease)
            let second = try #require(try await reserve())
            let third = try #require(try await reserve())
            second.bytes.copy(from: bytes.bytes)
            third.bytes.fill(1)
            #expect(try await client.fetch(key(1), deadline: client.soon) == nil)
            #expect(try await client.commit(second, deadline: client.soon) == .stored)
            #expect(try await client.commit(third, deadline: client.soon) == .exists)
            #expect(try await reserve() == nil)
            let fetched = try await client.fetch(key(1), deadline: client.soon)
            #expect(fetched?.bytes.holds(sameAs: bytes.bytes) == true)
            client.close()
            try await world.until("staging ends") { $0.node.openStagingByteCount == 0 }
        }
    }

    @Test(arguments: WorldOptions.local)
    func `ends when its time is over, and cannot be committed then`(
        options: WorldOptions
    ) async throws {
        try await withNode(options.with { $0.node.leaseMillisecondsMax = 100 }) { world in
            let client = world.client()
            let label = ChunkLabel(key: key(1))
            let reserved = try await client.reserve(
                label, byteCount: 1_000, deadline: client.soon)
            let place = try #require(reserved)
            // Leases and reservations end four times a second: twice at least in this time.
            let (beat, expiry) = (world.shard.heartbeat, place.expiry)
            try await world.until("time passes") {
                $0.reactor.now() > expiry && $0.shard.heartbeat > beat + 2
            }
            let error = await clientError {
                _ = try await client.commit(place, deadline: client.soon)
            }
            #expect(error?.status == .noLease)
            #expect(world.node.tier.statistics().chunkCount == 0)
            client.close()
        }
    }

    @Test(arguments: WorldOptions.local)
    func `is refused as busy at its commit when all chunks are being read, and gone`(
        options: WorldOptions
    ) async throws {
        try await withNode(options.with { $0.budget = .mebibytes(16) }) { world in
            let client = world.client()
            let half = world.node.tier.chunkByteCountMax / 2 / 4_096 * 4_096
            let bytes = chunk(1, count: half)
            var ids: [UInt64] = []
            for number in 0..<2 as Range<UInt64> {
                _ = try await client.put(
                    ChunkLabel(key: key(number)), bytes.bytes, deadline: client.soon)
                ids.append(try await client.lease(one: key(number)).id)
            }
            let label = ChunkLabel(key: key(9))
            let small = chunk(9, count: 100_000)
            let error = await clientError {
                _ = try await client.putInPlace(label, small.bytes, deadline: client.soon)
            }
            #expect(error?.status == .busy)
            #expect(world.node.tier.statistics().openReservationCount == 0)
            #expect(try await client.release(ids, deadline: client.soon) == 2)
            #expect(
                try await client.putInPlace(label, small.bytes, deadline: client.soon)
                    == .stored)
            client.close()
        }
    }

    @Test(arguments: WorldOptions.local)
    func `is gone with its client`(options: WorldOptions) async throws {
        try await withNode(options) { world in
            for number in 0..<20 as Range<UInt64> {
                let client = world.client()
                let reserved = try await client.reserve(
                    ChunkLabel(key: key(number)), byteCount: 1 << 20, deadline: client.soon)
                #expect(reserved != nil)
                #expect(world.node.openStagingByteCount == 2 << 20)
                client.close()
                try await world.until("staging ends") { $0.node.openStagingByteCount == 0 }
            }
            #expect(world.node.tier.statistics().usedByteCount == 0)
        }
    }

    @Test(arguments: WorldOptions.local)
    func `whose bytes change after the checksum was said stores nothing`(
        options: WorldOptions
    ) async throws {
        try await withNode(options) { world in
            let client = world.client()
            let byteCount = 1 << 20
            for number in 0..<5 as Range<UInt64> {
                let reserved = try await client.reserve(
                    ChunkLabel(key: key(number)), byteCount: UInt64(byteCount),
                    deadline: client.soon)
                let place = try #require(reserved)
                place.bytes.fill(1)
                // The node stands still while the commit is on its way and the bytes change.
                let middle = place.bytes.slice(offset: byteCount / 2, count: 1)
                let gate = Gate()
                let door = world.door
                let blocking = Task { await door.run { gate.wait() } }
                try await world.until("the node stands still") { _ in gate.isReached }
                let scribble = Task {
                    _ = world
                    try await world.pause(milliseconds: 20)
                    middle.fill(2)
                    gate.open()
                }
                let error = await clientError {
                    _ = try await client.commit(place, deadline: client.soon)
                }
                try await scribble.value
                await blocking.value
                #expect(error?.status == .checksumMismatch)
                #expect(try await client.fetch(key(number), deadline: client.soon) == nil)
            }
            #expect(world.count(.checksumMismatches) == 5)
            client.close()
        }
    }

    @Test(arguments: WorldOptions.local)
    func `never becomes a chunk with other bytes than its checksum's, scribble as one may`(
        options: WorldOptions
    ) async throws {
        let seed = UInt64.random(in: 0 ... .max)
        try await withNode(options) { world in
            let client = world.client()
            var random = Lehmer(seed: seed)
            for number in 0..<40 as Range<UInt64> {
                let byteCount = 1 + Int(random.next() % (2 << 20))
                let reserved = try await client.reserve(
                    ChunkLabel(key: key(number)), byteCount: UInt64(byteCount),
                    deadline: client.soon)
                let place = try #require(reserved)
                place.bytes.fill(UInt8(truncatingIfNeeded: number))
                let scribbler = Scribbler(place.bytes, owner: place.owner, seed: random.next())
                let scribbling = Task.detached { await scribbler.run() }
                let error = await clientError {
                    _ = try await client.commit(place, deadline: client.soon)
                }
                scribbler.stop()
                await scribbling.value
                #expect(error == nil || error?.status == .checksumMismatch, "seed \(seed)")
                // Throws `damaged` when what is stored is not what its checksum says.
                let fetched = try await client.fetch(key(number), deadline: client.soon)
                #expect((fetched == nil) == (error != nil), "seed \(seed)")
            }
            client.close()
        }
    }
}

/// Stops a thread until somebody opens. Any thread.
final class Gate: Sendable {
    private let reached = Atomic<Bool>(false)
    private let opened = Atomic<Bool>(false)

    var isReached: Bool { reached.load(ordering: .acquiring) }

    func wait() {
        reached.store(true, ordering: .releasing)
        while !opened.load(ordering: .acquiring) { usleep(100) }
    }

    func open() { opened.store(true, ordering: .releasing) }
}

/// Changes bytes at random until it is told to stop. Any thread.
// SAFETY: races on the bytes are what it is for; the rest is atomic.
private final class Scribbler: @unchecked Sendable {
    private let bytes: PinnedBytes
    private let owner: AnyObject
    private let seed: UInt64
    private let isStopped = Atomic<Bool>(false)

    init(_ bytes: PinnedBytes, owner: AnyObject, seed: UInt64) {
        self.bytes = bytes
        self.owner = owner
        self.seed = seed
    }

    func run() async {
        var random = Lehmer(seed: seed)
        while !isStopped.load(ordering: .relaxed) {
            let offset = Int(random.next() % UInt64(bytes.count))
            bytes.slice(offset: offset, count: 1).fill(UInt8(truncatingIfNeeded: random.next()))
            // The pool has few threads, and the node's clients need them as well.
            if random.next() % 64 == 0 { await Task.yield() }
        }
    }

    func stop() { isStopped.store(true, ordering: .relaxed) }
}
