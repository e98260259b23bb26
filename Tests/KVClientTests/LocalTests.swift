// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVClient
import KVCore
import Kernels
import LinuxIO
import Synchronization
import Testing
import Wire

/// Maps as kvctl does, and counts what was thrown away.
private final class CountingMapper: Sendable {
    let discardedCount = Mutex(0)

    var mapper: MemoryMapper {
        MemoryMapper(
            map: { descriptor, byteCount, access throws(IOFault) in
                let mapping = try SharedMapping(
                    descriptor: descriptor, byteCount: ByteCount(byteCount),
                    access: access == .readOnly ? .readOnly : .readWrite)
                return MappedMemory(bytes: mapping.bytes, owner: mapping)
            },
            discard: { descriptor in
                Glibc.close(descriptor)
                self.discardedCount.withLock { $0 += 1 }
            })
    }
}

/// 1 MiB.
private let regionByteCount = 1 << 20

private func leaseAnswer(_ offset: UInt64, _ byteCount: UInt64, expiry: Instant) -> [UInt8] {
    var record = LeaseRecord(status: .ok)
    record.leaseID = 11
    record.arenaOffset = offset
    record.chunkByteCount = byteCount
    return answer(.lease, id: 2) {
        LeaseAnswer.encode(&$0, recordCount: 1, expiry: expiry)
        record.encode(&$0)
    }
}

@Suite struct `Shared memory` {
    @Test func `is not asked for without a mapper`() async throws {
        try await withClient([greeted([.awaitClose])]) { _, client in
            let error = await clientError {
                _ = try await client.lease([key(1)], deadline: client.soon)
            }
            #expect(error?.kind == .unusable)
            #expect(error?.status == .unsupported)
        }
    }

    @Test func `is read in place under a lease`() async throws {
        let region = try StagingRegion(byteCount: ByteCount(regionByteCount))
        region.bytes.slice(offset: 4_096, count: 5).copy(from: pinned([1, 2, 3, 4, 5]))
        let counting = CountingMapper()
        let script: [Step] = [
            .read, .share(welcome(arena: UInt64(regionByteCount)), region.descriptor), .read,
            .send(leaseAnswer(4_096, 5, expiry: .distantFuture)),
        ]
        try await withClient([script], mapper: counting.mapper) { bench, client in
            let outcomes = try await client.lease(
                [key(1)], releasing: [3], deadline: client.soon)
            guard case .leased(let chunk) = outcomes[0] else {
                Issue.record("no lease")
                return
            }
            #expect(chunk.id == 11)
            #expect(chunk.bytes.array == [1, 2, 3, 4, 5])
            #expect(client.isGood(chunk))
            let sent = try LeaseRequest.decode(pinned(bench.requests[1].body))
            #expect(sent.released[0] == 3)
            #expect(sent.keys[0] == key(1))
        }
        #expect(counting.discardedCount.withLock { $0 } == 0)
        withExtendedLifetime(region) {}
    }

    @Test func `says when a lease ended and the bytes are others`() async throws {
        let region = try StagingRegion(byteCount: ByteCount(regionByteCount))
        let script: [Step] = [
            .read, .share(welcome(arena: UInt64(regionByteCount)), region.descriptor), .read,
            .send(leaseAnswer(0, 5, expiry: Instant(nanoseconds: 1))),
        ]
        try await withClient([script], mapper: CountingMapper().mapper) { _, client in
            let outcomes = try await client.lease([key(1)], deadline: client.soon)
            guard case .leased(let chunk) = outcomes[0] else {
                Issue.record("no lease")
                return
            }
            // The record's checksum, 0, is not that of five zero bytes.
            #expect(!client.isGood(chunk))
        }
        withExtendedLifetime(region) {}
    }

    @Test(arguments: [
        (UInt64(1) << 20, UInt64(1)), (UInt64(0), UInt64(1) << 20 + 1),
        (UInt64.max, UInt64(2)), (UInt64(1), UInt64.max),
    ])
    func `is never read outside the region`(offset: UInt64, byteCount: UInt64) async throws {
        let region = try StagingRegion(byteCount: ByteCount(regionByteCount))
        let script: [Step] = [
            .read, .share(welcome(arena: UInt64(regionByteCount)), region.descriptor), .read,
            .send(leaseAnswer(offset, byteCount, expiry: .distantFuture)), .awaitClose,
        ]
        try await withClient([script], mapper: CountingMapper().mapper) { _, client in
            let error = await clientError {
                _ = try await client.lease([key(1)], deadline: client.soon)
            }
            #expect(error?.kind == .brokenAnswer)
        }
        withExtendedLifetime(region) {}
    }

    @Test func `is written in place: reserve, fill, commit`() async throws {
        let arena = try StagingRegion(byteCount: ByteCount(regionByteCount))
        let staging = try StagingRegion(byteCount: ByteCount(regionByteCount))
        let place = ReserveAnswer(
            reservationID: 21, stagingOffset: 8_192, stagingByteCount: UInt64(regionByteCount),
            expiry: .distantFuture)
        let script: [Step] = [
            .read, .share(welcome(arena: UInt64(regionByteCount)), arena.descriptor), .read,
            .share(answer(.reserve, id: 2, body: place.encode), staging.descriptor), .read,
            .send(answer(.commit, id: 3)),
        ]
        try await withClient([script], mapper: CountingMapper().mapper) { bench, client in
            let outcome = try await client.putInPlace(
                ChunkLabel(key: key(1)), pinned([7, 8, 9]), deadline: client.soon)
            #expect(outcome == .stored)
            let commit = try CommitRequest.decode(pinned(bench.requests[2].body))
            #expect(commit.reservationID == 21)
            #expect(commit.checksum == Checksum.of(pinned([7, 8, 9])))
        }
        #expect(staging.bytes.slice(offset: 8_192, count: 3).array == [7, 8, 9])
        withExtendedLifetime(arena) {}
    }

    @Test func `descriptors that nobody asked for are closed`() async throws {
        let region = try StagingRegion(byteCount: ByteCount(regionByteCount))
        let counting = CountingMapper()
        let refused = refusal(.hello, id: 1, .unauthorized)
        try await withClient(
            [
                [.read, .share(refused, region.descriptor), .awaitClose],
                [.read, .share(Array(welcome().prefix(60)), region.descriptor), .close],
            ], mapper: counting.mapper
        ) { _, client in
            let first = await clientError {
                _ = try await client.connect(deadline: client.soon)
            }
            #expect(first?.status == .unauthorized)
            let second = await clientError {
                _ = try await client.connect(deadline: client.soon)
            }
            #expect(second?.kind == .connectionLost)
        }
        #expect(counting.discardedCount.withLock { $0 } == 2)
        withExtendedLifetime(region) {}
    }
}
