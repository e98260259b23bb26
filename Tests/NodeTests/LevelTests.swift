// SPDX-License-Identifier: Apache-2.0
import Codec
import Glibc
import KVClient
import KVCore
import Kernels
import LinuxIO
import Telemetry
import Testing
import Tiers
import Wire

@testable import Node

private let byteCount = 100_001

extension WorldOptions {
    /// With an SSD tier to which chunks go at `level`.
    fileprivate func demoting(
        to level: Level, _ change: (inout WorldOptions) -> Void = { _ in }
    ) throws -> WorldOptions {
        let ssd = try SSDOptions()
        return with { options in
            options.ssd = ssd
            options.node.userID = getuid()
            options.node.codec.demotion = level
            change(&options)
        }
    }
}

/// Bytes that pack well and depend on `seed`.
private func repetitive(_ seed: UInt64, count: Int = byteCount) -> OwnedBytes {
    let memory = OwnedBytes(count: count)
    memory.bytes.withMutableBytes { span in
        for index in 0..<count {
            let byte = UInt8(truncatingIfNeeded: (UInt64(index) >> 6) &* (2 * seed + 1))
            span.storeBytes(of: byte, toByteOffset: index, as: UInt8.self)
        }
    }
    return memory
}

/// A container of `payload`.
private func container(
    of payload: OwnedBytes, _ level: Level = .zstd, layout: LayoutID = .opaque
) throws -> OwnedBytes {
    let room = OwnedBytes(
        count: ChunkCodec.containerByteCountMax(payloadByteCount: payload.bytes.count))
    let made = try ChunkCodec.encode(
        payload.bytes, EncodingPlan(level: level, layoutID: layout), into: room.bytes,
        CodecWorkspace(valueCountMax: 1))
    let container = OwnedBytes(count: made.byteCount)
    container.bytes.copy(from: room.bytes.prefix(made.byteCount))
    return container
}

extension Client {
    /// Stores a chunk that is not there yet.
    fileprivate func store(
        _ number: UInt64, _ bytes: OwnedBytes, level: Level = .raw, isDurable: Bool = false
    ) async throws {
        let label = ChunkLabel(
            key: key(number), acknowledge: isDurable ? .ssd : .memory, level: level.rawValue)
        let outcome = try await put(label, bytes.bytes, deadline: soon)
        withExtendedLifetime(bytes) {}
        #expect(outcome == .stored)
    }

    /// What a GET of one chunk brings.
    fileprivate func get(
        _ number: UInt64, level: UInt8 = 0, _ range: ByteRange? = nil
    ) async throws -> FetchedChunk {
        try await fetch([key(number)], GetOptions(range: range, level: level), deadline: soon)[0]
    }
}

extension LeaseOutcome {
    fileprivate var lease: LeasedChunk? {
        if case .leased(let chunk) = self { chunk } else { nil }
    }
}

extension FetchedChunk {
    fileprivate var level: UInt8? {
        if case .found(let chunk) = outcome { chunk.level } else { nil }
    }

    /// Whether it brought these bytes; both owners live through the comparison.
    fileprivate func holds(_ expected: OwnedBytes, _ range: Range<Int>? = nil) -> Bool {
        withExtendedLifetime((memory, expected)) {
            let wanted = range.map { expected.bytes.slice(offset: $0.lowerBound, count: $0.count) }
            return memory?.bytes.holds(sameAs: wanted ?? expected.bytes) == true
        }
    }
}

@Suite struct `Chunks at a level` {
    // MARK: On their way to SSD

    @Test(arguments: WorldOptions.local)
    func `are smaller on SSD, and come back as they were`(options: WorldOptions) async throws {
        try await withNode(options.demoting(to: .zstd)) { world in
            let client = world.client()
            defer { client.close() }
            let bytes = repetitive(1)
            try await client.store(1, bytes, isDurable: true)
            let stored = try #require(
                world.ssd?.tier.locate(
                    .default, key(1), now: world.door.reactor.now(), asUse: .doesNotCount))
            #expect(stored.description.level == .zstd)
            #expect(stored.description.byteCount < byteCount / 10)
            #expect(world.count(.codecZstdIn) == byteCount)
            #expect(world.count(.codecZstdOut) == stored.description.byteCount)

            world.forget(1..<2)
            for _ in 0..<2 {
                let raw = try await client.get(1)
                #expect(raw.level == 0)
                #expect(raw.holds(bytes))
            }
            #expect(world.count(.codecDecodes) == 2)

            let asStored = try await client.get(1, level: GetRequest.asStored)
            #expect(asStored.level == Level.zstd.rawValue)
            let memory = try #require(asStored.memory)
            let reader = try ContainerReader(memory.bytes)
            #expect(reader.header.payloadByteCount == byteCount)
            withExtendedLifetime(memory) {}

            let part = try await client.get(1, ByteRange(offset: 70_001, byteCount: 999))
            #expect(part.holds(bytes, 70_001..<71_000))
            #expect(try await client.get(1, ByteRange(offset: 100_000, byteCount: 2)).memory == nil)
        }
    }

    @Test func `are read in place as they were`() async throws {
        try await withNode(WorldOptions().demoting(to: .zstd)) { world in
            let client = world.client()
            defer { client.close() }
            let bytes = repetitive(2)
            try await client.store(2, bytes, isDurable: true)
            world.forget(2..<3)
            for _ in 0..<2 {
                let leased = try await client.lease([key(2), key(3)], deadline: client.soon)
                let lease = try #require(leased[0].lease)
                #expect(lease.level == 0)
                #expect(withExtendedLifetime(bytes) { lease.bytes.holds(sameAs: bytes.bytes) })
                #expect(leased[1].lease == nil)
                _ = try await client.release([lease.id], deadline: client.soon)
            }
            #expect(world.count(.codecDecodes) == 2)
        }
    }

    @Test func `go as they are when they do not become smaller, or fit one block`() async throws {
        try await withNode(WorldOptions().demoting(to: .standard)) { world in
            let client = world.client()
            defer { client.close() }
            try await client.store(1, chunk(1, count: byteCount), isDurable: true)
            try await client.store(2, repetitive(1, count: 4_096), isDurable: true)
            for number in 1...2 as ClosedRange<UInt64> {
                let found = world.ssd?.tier.locate(
                    .default, key(number), now: world.door.reactor.now(), asUse: .doesNotCount)
                #expect(found?.description.level == .raw)
            }
            #expect(world.count(.codecNoGain) == 1)
        }
    }

    @Test func `go as they are when nobody can encode them`() async throws {
        let options = try WorldOptions().demoting(to: .zstd) { $0.codecWaitingCountMax = 0 }
        try await withNode(options) { world in
            let client = world.client()
            defer { client.close() }
            let bytes = repetitive(1)
            try await client.store(1, bytes, isDurable: true)
            #expect(world.count(.codecQueueFull) == 1)
            world.forget(1..<2)
            #expect(try await client.get(1).holds(bytes))
        }
    }

    // MARK: In answers

    @Test func `are made for one answer, and no coarser chunk is made finer`() async throws {
        try await withNode { world in
            let client = world.client()
            defer { client.close() }
            let bytes = repetitive(7)
            try await client.store(1, bytes)
            let encoded = try await client.get(1, level: Level.zstd.rawValue)
            #expect(encoded.level == Level.zstd.rawValue)
            let memory = try #require(encoded.memory)
            #expect(memory.bytes.count < byteCount / 10)
            #expect(try await client.get(1, level: GetRequest.asStored).level == 0)

            try await client.store(2, memory, level: .zstd)
            #expect(try await client.get(2, level: Level.zstd.rawValue).level == 1)
            // From what it decodes to.
            let coarser = try await client.get(2, level: Level.standard.rawValue)
            #expect(coarser.level == Level.standard.rawValue)
            #expect(try await client.get(2).holds(bytes))
            // Nothing gained: as it is.
            try await client.store(3, chunk(3, count: byteCount))
            #expect(try await client.get(3, level: Level.coarse.rawValue).level == 0)
        }
    }

    @Test func `are raw when there is time for it`() async throws {
        try await withNode { world in
            let client = world.client()
            defer { client.close() }
            try await client.store(1, repetitive(1))
            #expect(try await client.get(1, level: GetRequest.adaptive).level == 0)
        }
    }

    @Test func `are missed, not waited for, when nobody can decode them`() async throws {
        try await withNode(WorldOptions().with { $0.codecWaitingCountMax = 0 }) { world in
            let client = world.client()
            defer { client.close() }
            try await client.store(1, container(of: repetitive(1)), level: .zstd)
            #expect(try await client.get(1).outcome == .missed(.deadlineExceeded))
            #expect(try await client.get(1, level: GetRequest.asStored).level == 1)
            let leased = try await client.lease([key(1)], deadline: client.soon)
            #expect(leased[0].lease == nil)
        }
    }

    // MARK: From clients

    @Test(arguments: [true, false])
    func `come back from containers that clients send`(sharesMemory: Bool) async throws {
        try await withNode(WorldOptions(isLocal: sharesMemory)) { world in
            let client = world.client()
            defer { client.close() }
            let bytes = repetitive(5)
            let packed = try container(of: bytes)
            let label = ChunkLabel(key: key(1), level: Level.zstd.rawValue)
            if sharesMemory {
                _ = try await client.putInPlace(label, packed.bytes, deadline: client.soon)
            } else {
                _ = try await client.put(label, packed.bytes, deadline: client.soon)
            }
            withExtendedLifetime(packed) {}
            let back = try await client.get(1, level: GetRequest.asStored)
            #expect(back.holds(packed))
            #expect(try await client.get(1).holds(bytes))
        }
    }

    @Test func `are refused when they are no sound containers of that level and layout`()
        async throws
    {
        try await withNode { world in
            let client = world.client()
            defer { client.close() }
            let good = try container(of: repetitive(5))
            let damaged = try container(of: repetitive(5))
            damaged.bytes.prefix(20).dropFirst(19).fill(0xff)
            let foreign = try container(of: repetitive(5), layout: LayoutID(words: (1, 2)))
            let cut = OwnedBytes(count: good.bytes.count - 1)
            cut.bytes.copy(from: good.bytes.prefix(cut.bytes.count))
            let wrong: [(OwnedBytes, Level)] = [
                (good, .standard), (damaged, .zstd), (foreign, .zstd), (cut, .zstd),
                (repetitive(1), .zstd),
            ]
            for (bytes, level) in wrong {
                let error = await clientError {
                    try await client.store(1, bytes, level: level)
                }
                #expect(error?.status == .unsupported)
                let local = await clientError {
                    _ = try await client.putInPlace(
                        ChunkLabel(key: key(1), level: level.rawValue), bytes.bytes,
                        deadline: client.soon)
                }
                withExtendedLifetime(bytes) {}
                #expect(local?.status == .unsupported)
            }
            #expect(try await client.get(1, level: GetRequest.asStored).memory == nil)
            try await client.store(1, good, level: .zstd)
        }
    }

    @Test func `are deleted when they turn out to be damaged`() async throws {
        try await withNode(WorldOptions().demoting(to: .raw)) { world in
            let client = world.client()
            defer { client.close() }
            // Header and directory are good, and so is the checksum on the wire.
            let packed = try container(of: repetitive(5))
            packed.bytes.dropFirst(packed.bytes.count - 1).fill(0x5a)
            try await client.store(1, packed, level: .zstd, isDurable: true)
            #expect(try await client.get(1).outcome == .missed(.notFound))
            #expect(world.count(.codecQuarantined) == 1)
            #expect(world.count(.codecFaults) == 1)
            #expect(
                try await client.get(1, level: GetRequest.asStored).outcome == .missed(.notFound))
            #expect(!world.isOnSSD(1))
        }
    }
}
