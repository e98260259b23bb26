// SPDX-License-Identifier: Apache-2.0

import KVCore
import SimulationKit
import Testing

private let page: UInt64 = 4_096
private let noDirectory: Int32 = 20

/// Disk faults with room for `pageCount` pages.
private func room(_ pageCount: Int) -> DiskFaults {
    var faults = DiskFaults()
    faults.pageCountMax = pageCount
    return faults
}

@Suite struct `A simulated directory` {
    @Test func `lists, renames and removes its files`() throws {
        let world = SimulatedWorld(seed: 1)
        let fault = try perform(world) { reactor throws(IOFault) in
            let directory = try reactor.openDirectory("d")
            for name in ["a", "b"] { _ = try directory.open(name, .readWrite) }
            _ = try reactor.openDirectory("d/inner").open("c", .readWrite)
            _ = try reactor.openFile("dd", .readWrite)
            #expect(try directory.fileNames() == ["a", "b"])
            try directory.preallocate("b", byteCount: 10_000)
            try directory.rename("b", to: "a")
            #expect(try directory.fileNames() == ["a"])
            #expect(try directory.byteCount(of: "a") == 10_000)
            #expect(try directory.byteCount(of: "b") == nil)
            try directory.remove("a")
            #expect(try directory.fileNames().isEmpty)
            try directory.remove("a")
        }
        #expect(fault == .system(noEntry))
        #expect(
            try perform(world) { reactor throws(IOFault) in
                _ = try reactor.openDirectory("dd")
            } == .system(noDirectory))
        #expect(
            try perform(world) { reactor throws(IOFault) in
                _ = try reactor.openDirectory("d").open("a", .readOnly)
            } == .system(noEntry))
    }

    @Test func `lends a file to several reactors, and after its removal`() throws {
        let world = SimulatedWorld(seed: 2)
        let handle = Box<SimulatedFileHandle?>(nil)
        let fault = try perform(world) { reactor throws(IOFault) in
            let directory = try reactor.openDirectory("d")
            let opened = try directory.open("a", .readWriteDirect)
            handle.value = opened
            let file = reactor.attach(opened)
            try await file.write(block(seed: 1), at: 4_096)
            file.close()
            try directory.remove("a")
            #expect(reactor.openFileCount == 0)
        }
        #expect(fault == nil)
        let lent = try #require(handle.value)
        let read = block(seed: 0)
        let again = try perform(world) { reactor throws(IOFault) in
            try await reactor.attach(lent).read(into: read, at: 4_096)
        }
        #expect(again == nil)
        #expect(read.equals(block(seed: 1)))
    }

    @Test func `reserves pages that read as zeros, and keeps what is written`() throws {
        let world = SimulatedWorld(seed: 3, disk: room(4))
        let read = block(seed: 0, count: 16_384)
        let fault = try perform(world) { reactor throws(IOFault) in
            let directory = try reactor.openDirectory("d")
            let file = reactor.attach(try directory.open("a", .readWriteDirect))
            // The second page counts once, written or reserved.
            try await file.write(block(seed: 1, count: 4_096), at: page)
            try await file.synchronize()
            #expect(try directory.freeByteCount() == 3 * page)
            try directory.preallocate("a", byteCount: 4 * page)
            try directory.preallocate("a", byteCount: page)
            #expect(try directory.freeByteCount() == 0)
            #expect(try directory.byteCount(of: "a") == 4 * page)
            try await file.read(into: read, at: 0)
            // The disk is full, and what is reserved can be written.
            try await file.write(block(seed: 2), at: 2 * page)
            try await file.write(block(seed: 2, count: 4_096), at: 4 * page)
        }
        #expect(fault == .system(noSpace))
        let zeros = [UInt8](repeating: 0, count: 8_192)
        #expect(
            read.array == zeros.prefix(4_096) + block(seed: 1, count: 4_096).array + zeros)
    }

    @Test func `reserves all or nothing, and has the room of a removed file again`() throws {
        let world = SimulatedWorld(seed: 4, disk: room(8))
        let fault = try perform(world) { reactor throws(IOFault) in
            let directory = try reactor.openDirectory("d")
            try directory.preallocate("a", byteCount: 6 * page)
            for name in ["a", "b"] {
                #expect(throws: IOFault.system(noSpace)) {
                    try directory.preallocate(name, byteCount: 9 * page)
                }
            }
            #expect(try directory.fileNames() == ["a"])
            #expect(try directory.byteCount(of: "a") == 6 * page)
            #expect(try directory.freeByteCount() == 2 * page)
            let file = reactor.attach(try directory.open("a", .readWrite))
            try await file.write(block(seed: 1), at: 6 * page)
            try directory.remove("a")
            #expect(try directory.freeByteCount() == 8 * page)
            try directory.preallocate("b", byteCount: 8 * page)
            // The removed file takes no room, however much is written to it.
            try await file.write(block(seed: 1), at: 20 * page)
            try await file.synchronize()
            #expect(try directory.freeByteCount() == 0)
            try directory.preallocate("c", byteCount: 0)
            try directory.rename("c", to: "b")
            #expect(try directory.freeByteCount() == 8 * page)
        }
        #expect(fault == nil)
    }

    @Test func `reserves a terabyte without taking memory for it`() throws {
        let world = SimulatedWorld(seed: 5)
        let read = block(seed: 0)
        let fault = try perform(world) { reactor throws(IOFault) in
            let directory = try reactor.openDirectory("d")
            let free = try directory.freeByteCount()
            try directory.preallocate("a", byteCount: 1 << 40)
            #expect(try directory.freeByteCount() == free)
            let file = reactor.attach(try directory.open("a", .readWriteDirect))
            try await file.read(into: read, at: 1 << 39)
        }
        #expect(fault == nil)
        #expect(read.array.allSatisfy { $0 == 0 })
    }

    @Test func `fails to reserve by plan`() throws {
        var faults = DiskFaults()
        faults.preallocateErrorPermille = 1_000
        let world = SimulatedWorld(seed: 6, disk: faults)
        let names = Box<[String]>([])
        let fault = try perform(world) { reactor throws(IOFault) in
            let directory = try reactor.openDirectory("d")
            defer { names.value = (try? directory.fileNames()) ?? ["unknown"] }
            try directory.preallocate("a", byteCount: page)
        }
        #expect(fault == .system(noSpace))
        #expect(names.value == [])
    }

    @Test func `belongs to one process at a time, until that stops, closes or crashes`() throws {
        let world = SimulatedWorld(seed: 7)
        let holder = Box<SimulatedDirectory?>(nil)
        func lock() throws -> (reactor: SimulatedReactor, fault: IOFault?) {
            let index = world.reactors.count
            let fault = try perform(world) { reactor throws(IOFault) in
                let directory = try reactor.openDirectory("d")
                try directory.lock()
                try directory.lock()
                holder.value = directory
            }
            return (world.reactors[index], fault)
        }
        let first = try lock()
        #expect(first.fault == nil)
        #expect(try lock().fault == .busy)
        first.reactor.stop()
        #expect(try lock().fault == nil)
        #expect(try lock().fault == .busy)
        try #require(holder.value).close()
        #expect(try lock().fault == nil)
        world.crash("host")
        #expect(try lock().fault == nil)
        #expect(try lock().fault == .busy)
        #expect(world.disk(of: "host").byteCount(of: "d/lock") == 0)
    }

    @Test func `keeps names and reserved room over a crash, out of reach of what crashed`() throws {
        let world = SimulatedWorld(seed: 8, disk: room(8))
        let old = Box<SimulatedDirectory?>(nil)
        let fault = try perform(world) { reactor throws(IOFault) in
            let directory = try reactor.openDirectory("d")
            old.value = directory
            try directory.preallocate("a", byteCount: 3 * page)
        }
        #expect(fault == nil)
        world.crash("host")
        let crashed = try #require(old.value)
        #expect(throws: IOFault.cancelled) { try crashed.remove("a") }
        #expect(throws: IOFault.cancelled) { try crashed.preallocate("b", byteCount: 1) }
        let again = try perform(world) { reactor throws(IOFault) in
            let directory = try reactor.openDirectory("d")
            #expect(try directory.fileNames() == ["a"])
            #expect(try directory.byteCount(of: "a") == 3 * page)
            #expect(try directory.freeByteCount() == 5 * page)
            directory.close()
            _ = try directory.fileNames()
        }
        #expect(again == .closed)
    }
}

@Suite struct `A slow simulated disk` {
    /// Virtual nanoseconds that 32 writes and as many reads take.
    private func duration(_ faults: DiskFaults) throws -> UInt64 {
        let world = SimulatedWorld(seed: 9, disk: faults)
        let start = world.scheduler.now
        let fault = try perform(world) { reactor throws(IOFault) in
            let file = try reactor.openFile("a", .readWrite)
            let bytes = OwnedBytes(count: 512)
            for _ in 0..<32 {
                try await file.write(bytes, at: 0)
                try await file.read(into: bytes, at: 0)
            }
        }
        #expect(fault == nil)
        return world.scheduler.now.nanoseconds - start.nanoseconds
    }

    @Test func `takes up to its maximum per transfer`() throws {
        var faults = DiskFaults()
        let quick = try duration(faults)
        faults.slowPermille = 1_000
        faults.slowMillisecondsMax = 50
        let slow = try duration(faults)
        #expect(slow > quick + 64 * 5_000_000)
        #expect(slow < quick + 64 * 51_000_000)
    }
}
