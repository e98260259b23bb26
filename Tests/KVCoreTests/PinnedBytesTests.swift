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
}
