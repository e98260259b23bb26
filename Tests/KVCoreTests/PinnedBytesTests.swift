// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import KVCore

@Suite struct `Pinned bytes` {
    @Test func `are sliced without copying`() {
        let memory = OwnedBytes(count: 16)
        let middle = memory.bytes.slice(offset: 4, count: 8)
        middle.fill(7)
        #expect(
            (0..<16).map { memory.bytes[$0] } == [0, 0, 0, 0] + Array(repeating: 7, count: 8)
                + [0, 0, 0, 0])
        #expect(middle.dropFirst(8).count == 0)
        #expect(middle.prefix(0).count == 0)
        #expect(memory.bytes.slice(offset: 16, count: 0).count == 0)
    }

    @Test func `copy from a run that overlaps them`() {
        let memory = OwnedBytes(count: 8)
        memory.bytes.withMutableBytes { span in
            for offset in 0..<8 {
                span.storeBytes(of: UInt8(offset), toByteOffset: offset, as: UInt8.self)
            }
        }
        memory.bytes.dropFirst(2).copy(from: memory.bytes.prefix(6))
        #expect((0..<8).map { memory.bytes[$0] } == [0, 1, 0, 1, 2, 3, 4, 5])
    }

    @Test func `are aligned and zero when fresh`() {
        let memory = OwnedBytes(count: 100, alignment: 4_096)
        // SAFETY: only the address is looked at.
        #expect(unsafe UInt(bitPattern: memory.bytes.start).isMultiple(of: 4_096))
        #expect(
            memory.bytes.withBytes { span in
                (0..<100).allSatisfy { offset in
                    // SAFETY: the load checks its bounds, and a byte takes any bits.
                    unsafe span.unsafeLoad(fromByteOffset: offset, as: UInt8.self) == 0
                }
            })
    }

    @Test func `trap when a slice begins before them`() async {
        await #expect(processExitsWith: .failure) {
            _ = OwnedBytes(count: 8).bytes.slice(offset: -1, count: 1)
        }
    }

    @Test func `trap when a slice ends behind them`() async {
        await #expect(processExitsWith: .failure) {
            _ = OwnedBytes(count: 8).bytes.slice(offset: 1, count: 8)
        }
    }

    @Test func `trap when a slice's end overflows`() async {
        await #expect(processExitsWith: .failure) {
            _ = OwnedBytes(count: 8).bytes.slice(offset: 8, count: .max)
        }
    }

    @Test func `trap when a slice begins far behind them`() async {
        await #expect(processExitsWith: .failure) {
            _ = OwnedBytes(count: 8).bytes.slice(offset: 9, count: 0)
        }
    }

    @Test func `trap when a byte outside is read`() async {
        await #expect(processExitsWith: .failure) {
            let memory = OwnedBytes(count: 8)
            _ = memory.bytes[8]
        }
        await #expect(processExitsWith: .failure) {
            let memory = OwnedBytes(count: 8)
            _ = memory.bytes[-1]
        }
    }

    @Test func `trap when a copy does not fit`() async {
        await #expect(processExitsWith: .failure) {
            let memory = OwnedBytes(count: 8)
            memory.bytes.prefix(3).copy(from: memory.bytes.prefix(4))
        }
    }

    @Test(arguments: 0..<8)
    func `hold little-endian fields at any offset`(offset: Int) {
        let memory = OwnedBytes(count: 16)
        memory.bytes.fill(0xee)
        memory.bytes.store(UInt64(0x0102_0304_0506_0708), at: offset)
        let expected: [UInt8] =
            Array(repeating: 0xee, count: offset) + [8, 7, 6, 5, 4, 3, 2, 1]
            + Array(repeating: 0xee, count: 8 - offset)
        #expect((0..<16).map { memory.bytes[$0] } == expected)
        #expect(memory.bytes.load(UInt64.self, at: offset) == 0x0102_0304_0506_0708)
        #expect(memory.bytes.load(UInt32.self, at: offset) == 0x0506_0708)
        #expect(memory.bytes.load(UInt8.self, at: offset + 7) == 1)
        memory.bytes.store(Int16(-2), at: offset)
        #expect(memory.bytes.load(Int16.self, at: offset) == -2)
        #expect(memory.bytes[offset] == 0xfe && memory.bytes[offset + 1] == 0xff)
    }

    @Test func `hold a field that ends with them`() {
        let memory = OwnedBytes(count: 8)
        memory.bytes.store(UInt32.max, at: 4)
        #expect(memory.bytes.load(UInt64.self, at: 0) == 0xffff_ffff_0000_0000)
    }

    @Test func `trap when a field lies outside`() async {
        await #expect(processExitsWith: .failure) {
            let memory = OwnedBytes(count: 8)
            _ = memory.bytes.load(UInt32.self, at: 5)
        }
        await #expect(processExitsWith: .failure) {
            let memory = OwnedBytes(count: 8)
            _ = memory.bytes.load(UInt16.self, at: -1)
        }
        await #expect(processExitsWith: .failure) {
            let memory = OwnedBytes(count: 2)
            memory.bytes.prefix(1).store(UInt16(1), at: 0)
        }
        await #expect(processExitsWith: .failure) {
            let memory = OwnedBytes(count: 8)
            memory.bytes.store(UInt64(1), at: .max)
        }
    }
}
