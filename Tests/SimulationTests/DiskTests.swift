// SPDX-License-Identifier: Apache-2.0

import KVCore
import SimulationKit
import Testing

/// Runs `body` on a fresh reactor of `host` and gives what it threw.
func perform(
    _ world: SimulatedWorld, on host: String = "host",
    _ body: @escaping @Sendable (SimulatedReactor) async throws(IOFault) -> Void
) throws -> IOFault? {
    let reactor = world.makeReactor(on: host)
    let outcome = Box<IOFault?>(nil)
    reactor.start {
        do throws(IOFault) {
            try await body(reactor)
        } catch {
            outcome.value = error
        }
    }
    try world.scheduler.run { reactor.isIdle }
    return outcome.value
}

/// `count` bytes that only `seed` gives, aligned for direct access.
func block(seed: UInt64, count: Int = 8_192) -> OwnedBytes {
    let bytes = OwnedBytes(count: count, alignment: 4_096)
    bytes.bytes.fill(seed: seed)
    return bytes
}

let ioError: Int32 = 5
let noEntry: Int32 = 2
let invalidArgument: Int32 = 22
let noSpace: Int32 = 28

/// The seam with memory that lives as long as the call.
extension SimulatedFile {
    nonisolated(nonsending) func write(
        _ memory: OwnedBytes, at offset: UInt64
    ) async throws(IOFault) {
        defer { withExtendedLifetime(memory) {} }
        try await write(memory.bytes, at: offset)
    }

    nonisolated(nonsending) func read(
        into memory: OwnedBytes, at offset: UInt64
    ) async throws(IOFault) {
        defer { withExtendedLifetime(memory) {} }
        try await read(into: memory.bytes, at: offset)
    }
}

@Suite struct `A simulated disk` {
    @Test func `reads back what was written, synchronized or not`() throws {
        let world = SimulatedWorld(seed: 1)
        let fault = try perform(world) { reactor throws(IOFault) in
            let file = try reactor.openFile("a", .readWriteDirect)
            let first = block(seed: 1)
            let second = block(seed: 2, count: 4_096)
            try await file.write(first, at: 4_096)
            try await file.synchronize()
            try await file.write(second, at: 8_192)
            let read = OwnedBytes(count: 12_288, alignment: 4_096)
            try await file.read(into: read, at: 0)
            let expected =
                [UInt8](repeating: 0, count: 4_096) + first.array.prefix(4_096)
                + second.array
            #expect(read.array == expected)
            file.close()
            #expect(reactor.openFileCount == 0)
        }
        #expect(fault == nil)
    }

    @Test func `refuses what a real file refuses`() throws {
        let world = SimulatedWorld(seed: 1)
        #expect(
            try perform(world) { reactor throws(IOFault) in
                _ = try reactor.openFile("missing", .readOnly)
            } == .system(noEntry))
        #expect(
            try perform(world) { reactor throws(IOFault) in
                let file = try reactor.openFile("a", .readWriteDirect)
                try await file.write(block(seed: 1, count: 512), at: 0)
            } == .system(invalidArgument))
        #expect(
            try perform(world) { reactor throws(IOFault) in
                let file = try reactor.openFile("b", .readWrite)
                try await file.write(block(seed: 1, count: 100), at: 0)
                try await file.read(into: OwnedBytes(count: 101), at: 0)
            } == .closed)
    }

    @Test(arguments: Seeds.fixed)
    func `keeps what was synchronized over a crash, and tears the rest`(seed: UInt64) throws {
        let world = SimulatedWorld(seed: seed)
        let old = block(seed: seed)
        let new = block(seed: seed &+ 1)
        let fault = try perform(world) { reactor throws(IOFault) in
            let file = try reactor.openFile("a", .readWriteDirect)
            try await file.write(old, at: 0)
            try await file.write(old, at: 8_192)
            try await file.synchronize()
            try await file.write(new, at: 8_192)
        }
        #expect(fault == nil)
        world.crash("host")
        let read = OwnedBytes(count: 16_384, alignment: 4_096)
        let again = try perform(world) { reactor throws(IOFault) in
            let file = try reactor.openFile("a", .readWriteDirect)
            try await file.read(into: read, at: 0)
        }
        #expect(again == nil)
        let (oldArray, newArray, found) = (old.array, new.array, read.array)
        #expect(found[..<8_192] == oldArray[...])
        for start in stride(from: 0, to: 8_192, by: 512) {
            let sector = Array(found[(8_192 + start)..<(8_192 + start + 512)])
            let isOld = sector[...] == oldArray[start..<start + 512]
            let isNew = sector[...] == newArray[start..<start + 512]
            #expect(isOld || isNew)
        }
    }

    @Test func `loses, keeps and tears, each under some seed`() throws {
        var outcomes: Set<String> = []
        for seed in Seeds.fixed {
            let world = SimulatedWorld(seed: seed)
            _ = try perform(world) { reactor throws(IOFault) in
                let file = try reactor.openFile("a", .readWrite)
                try await file.write(block(seed: 0), at: 0)
                try await file.synchronize()
                try await file.write(block(seed: 1), at: 0)
            }
            world.crash("host")
            let read = OwnedBytes(count: 8_192)
            _ = try perform(world) { reactor throws(IOFault) in
                try await reactor.openFile("a", .readWrite).read(into: read, at: 0)
            }
            let isLost = read.equals(block(seed: 0))
            let isKept = read.equals(block(seed: 1))
            outcomes.insert(isLost ? "lost" : isKept ? "kept" : "torn")
        }
        #expect(outcomes == ["lost", "kept", "torn"])
    }

    @Test func `lands a write under way at a crash in part at most`() throws {
        let world = SimulatedWorld(seed: 4)
        let reactor = world.makeReactor(on: "host")
        let bytes = block(seed: 1)
        let outcome = Box<IOFault?>(nil)
        reactor.start {
            do throws(IOFault) {
                let file = try reactor.openFile("a", .readWriteDirect)
                try await file.write(bytes, at: 0)
            } catch {
                outcome.value = error
            }
        }
        try world.scheduler.run { reactor.suspendedOperationCount == 1 }
        world.crash("host")
        try world.scheduler.run { reactor.isIdle }
        #expect(outcome.value == .cancelled)
    }

    @Test func `fails by plan`() throws {
        var faults = DiskFaults()
        faults.pageCountMax = 2
        var world = SimulatedWorld(seed: 1, disk: faults)
        #expect(
            try perform(world) { reactor throws(IOFault) in
                let file = try reactor.openFile("a", .readWrite)
                try await file.write(block(seed: 1), at: 0)
                try await file.write(block(seed: 1), at: 0)
                try await file.write(block(seed: 1, count: 1), at: 8_192)
            } == .system(noSpace))
        faults = DiskFaults()
        faults.readErrorPermille = 1_000
        world = SimulatedWorld(seed: 1, disk: faults)
        #expect(
            try perform(world) { reactor throws(IOFault) in
                let file = try reactor.openFile("a", .readWrite)
                try await file.write(block(seed: 1), at: 0)
                try await file.read(into: OwnedBytes(count: 1), at: 0)
            } == .system(ioError))
        faults = DiskFaults()
        faults.synchronizeErrorPermille = 1_000
        world = SimulatedWorld(seed: 1, disk: faults)
        #expect(
            try perform(world) { reactor throws(IOFault) in
                try await reactor.openFile("a", .readWrite).synchronize()
            } == .system(ioError))
    }

    @Test(arguments: Seeds.fixed)
    func `keeps what was written over a write that it dropped`(seed: UInt64) throws {
        let world = SimulatedWorld(seed: seed)
        let dropped = block(seed: 1, count: 12_288)
        let kept = block(seed: 2, count: 4_096)
        world.disk(of: "host").faults.synchronizeErrorPermille = 1_000
        let fault = try perform(world) { reactor throws(IOFault) in
            let file = try reactor.openFile("a", .readWrite)
            try await file.write(dropped, at: 0)
            try await file.synchronize()
        }
        #expect(fault == .system(ioError))
        world.disk(of: "host").faults.synchronizeErrorPermille = 0
        let read = OwnedBytes(count: 12_288)
        let middle = OwnedBytes(count: 4_096)
        _ = try perform(world) { reactor throws(IOFault) in
            let file = try reactor.openFile("a", .readWrite)
            try await file.write(kept, at: 4_096)
            try await file.synchronize()
            try await file.read(into: read, at: 0)
        }
        #expect(
            read.array == dropped.array[..<4_096] + kept.array + dropped.array[8_192...])
        world.crash("host")
        _ = try perform(world) { reactor throws(IOFault) in
            try await reactor.openFile("a", .readWrite).read(into: middle, at: 4_096)
        }
        #expect(middle.equals(kept))
    }

    @Test func `rots a bit for good`() throws {
        var faults = DiskFaults()
        faults.bitRotPermille = 1_000
        let world = SimulatedWorld(seed: 1, disk: faults)
        let read = OwnedBytes(count: 8_192)
        let again = OwnedBytes(count: 8_192)
        _ = try perform(world) { reactor throws(IOFault) in
            let file = try reactor.openFile("a", .readWrite)
            try await file.write(block(seed: 1), at: 0)
            try await file.synchronize()
            try await file.read(into: read, at: 0)
        }
        world.disk(of: "host").faults = DiskFaults()
        _ = try perform(world) { reactor throws(IOFault) in
            try await reactor.openFile("a", .readWrite).read(into: again, at: 0)
        }
        let differing = zip(read.array, block(seed: 1).array).filter { $0 != $1 }
        #expect(differing.count == 1)
        #expect(read.equals(again))
    }
}
