// SPDX-License-Identifier: Apache-2.0
import KVCore
import Testing

@testable import Wire

@Suite struct `A named value` {
    private func chunk(_ value: [UInt8], _ metadata: [UInt8], _ name: [UInt8]) -> PinnedBytes {
        let byteCount = NamedValue.chunkByteCount(
            value: value.count, metadata: metadata.count, name: name.count)
        let chunk = keptBytes([UInt8](repeating: 0, count: byteCount))
        chunk.copy(from: keptBytes(value))
        NamedValue.finish(
            chunk, valueByteCount: value.count, metadata: keptBytes(metadata),
            name: keptBytes(name))
        return chunk
    }

    @Test func `comes back under its name alone`() throws {
        var numbers = SeededNumbers.fresh()
        for _ in 0..<200 {
            let value = numbers.bytes(Int.random(in: 0...50, using: &numbers))
            let metadata = numbers.bytes(Int.random(in: 0...28, using: &numbers))
            let name = numbers.bytes(Int.random(in: 0...60, using: &numbers))
            let chunk = chunk(value, metadata, name)
            let seed: Comment = "KVSTORE_SEED=\(numbers.seed)"
            let read = try #require(
                NamedValue.read(chunk, named: keptBytes(name)), seed)
            #expect(read.valueAndLineEnd.array == value + [13, 10], seed)
            #expect(read.metadata.array == metadata, seed)
            #expect(NamedValue.name(inEndOf: chunk)?.array == name, seed)
            #expect(NamedValue.read(chunk, named: keptBytes(name + [1])) == nil, seed)
            let tail = chunk.dropFirst(
                max(0, chunk.count - NamedValue.tailByteCountMax))
            #expect(NamedValue.name(inEndOf: tail)?.array == name, seed)
        }
    }

    @Test func `is told from other bytes`() {
        var numbers = SeededNumbers.fresh()
        for count in 0..<64 {
            let bytes = keptBytes(numbers.bytes(count))
            #expect(NamedValue.name(inEndOf: bytes) == nil)
        }
        // Sizes that reach before the beginning.
        let short = keptBytes([0, 0, 0xff, 0xff, 0x4b, 0x56, 0x4e, 0x31])
        #expect(NamedValue.name(inEndOf: short) == nil)
        let noValue = keptBytes([0, 0, 0, 0, 0x4b, 0x56, 0x4e, 0x31])
        #expect(NamedValue.read(noValue, named: keptBytes([])) == nil)
    }

    @Test func `has sizes that fit each other`() {
        let whole = NamedValue.chunkByteCount(value: 5, metadata: 28, name: 3)
        #expect(NamedValue.valueByteCount(chunk: whole, metadata: 28, name: 3) == 5)
        #expect(NamedValue.valueByteCount(chunk: 5, name: 3) == nil)
    }
}

@Suite struct `The lm protocol` {
    /// The example of docs/lm-protocol.md.
    private let put: [UInt8] =
        [1, 8, 1, 3, 0, 2, 4, 0, 0].flatMap { [$0, 0, 0, 0] } + Array("m@1@0@ff@bfloat16".utf8)
        + [UInt8](repeating: 0x20, count: 133)

    @Test func `reads the example`() throws {
        let request = try #require(LMRequest.decode(keptBytes(put)))
        #expect(request.command == .put)
        #expect(request.payloadByteCount == 8)
        #expect(request.key.array == Array("m@1@0@ff@bfloat16".utf8))
        let reply = keptBytes([UInt8](repeating: 0, count: LMReply.byteCount))
        LMReply.encode(into: reply, payloadByteCount: 8, metadata: request.metadata)
        #expect(reply.array == [200, 8, 1, 3, 2, 4, 0, 0, 0].flatMap { [$0, 0, 0, 0] })
    }

    @Test func `gives the location back in its other place`() throws {
        var bytes = put
        bytes[16] = 2
        let memory = keptBytes(bytes)
        let request = try #require(LMRequest.decode(memory))
        let reply = keptBytes([UInt8](repeating: 0, count: LMReply.byteCount))
        LMReply.encode(into: reply, payloadByteCount: 0, metadata: request.metadata)
        #expect(reply.array == [200, 0, 1, 3, 2, 4, 0, 0, 2].flatMap { [$0, 0, 0, 0] })
    }

    @Test func `answers without a payload as the reference server`() {
        let reply = keptBytes([UInt8](repeating: 0, count: LMReply.byteCount))
        LMReply.encode(into: reply, isFound: false)
        #expect(reply.load(Int32.self, at: 0) == 400)
        #expect(reply.load(Int32.self, at: 8) == 1)
        #expect(reply.load(Int32.self, at: 12) == 2)
    }

    @Test func `refuses what is no request`() {
        func isRequest(_ change: (inout [UInt8]) -> Void) -> Bool {
            var bytes = put
            change(&bytes)
            return LMRequest.decode(keptBytes(bytes)) != nil
        }
        #expect(isRequest { _ in })
        #expect(!isRequest { $0.removeLast() })
        #expect(!isRequest { $0[0] = 0 })
        #expect(!isRequest { $0[0] = 6 })
        #expect(!isRequest { $0[7] = 0x80 })
        #expect(!isRequest { $0[40] = 0 })
        #expect(!isRequest { $0[40] = 0xc3 })
        #expect(isRequest { $0.replaceSubrange(36..., with: [UInt8](repeating: 0x20, count: 150)) })
    }
}
