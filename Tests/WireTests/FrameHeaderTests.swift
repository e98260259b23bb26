// SPDX-License-Identifier: Apache-2.0
import KVCore
import Testing

@testable import Wire

@Suite struct `A frame header` {
    /// The PING of docs/protocol.md, section 9.
    private let ping = bytesFromHexadecimal(
        "4b565331010200000700000000000000e80300000000000000000000c294d338"
            + "000000000000000000000000b2bcad49")!

    @Test func `is that of the text's example`() throws {
        let header = try withPinned(ping, FrameHeader.decode)
        #expect(header.verb == .ping)
        #expect(header.requestID == 7)
        #expect(header.deadlineMilliseconds == 1_000)
        let memory = OwnedBytes(count: FrameHeader.byteCount)
        header.encode(into: memory.bytes)
        #expect(memory.bytes.array == ping)
    }

    @Test func `is refused when bytes are missing`() {
        #expect(throws: WireFault.headerIncomplete(byteCount: 47)) {
            try withPinned(Array(ping.prefix(47)), FrameHeader.decode)
        }
    }

    @Test func `says where a reserved byte is set`() {
        #expect(throws: WireFault.reservedNotZero(offset: 20)) {
            try FrameHeader(verbNumber: 2, requestID: 1, statusNumber: 1).checkRequest()
        }
    }

    @Test func `of a request has no flag`() {
        for bit in 0..<16 {
            let flags = FrameFlags(rawValue: 1 << UInt16(bit))
            #expect(throws: WireFault.unknownFlags(flags.rawValue)) {
                try FrameHeader(verbNumber: 2, flags: flags, requestID: 1).checkRequest()
            }
        }
    }

    @Test func `with a verb that nobody knows is refused, and the connection goes on`() {
        for number in UInt8.min...UInt8.max where Verb(rawValue: number) == nil {
            do throws(WireFault) {
                _ = try FrameHeader(verbNumber: number, requestID: 1).checkRequest()
                Issue.record("verb \(number) was accepted")
            } catch {
                #expect(error.status == .unsupported)
                #expect(!error.endsConnection)
            }
        }
    }

    @Test func `of an answer about one key has one of four statuses, and is not the last word`() {
        let ofOneKey: Set<Status> = [.ok, .notFound, .layoutMismatch, .deadlineExceeded]
        for status in Status.allCases {
            var header = FrameHeader(
                verbNumber: 0x11, flags: .response, requestID: 1, statusNumber: status.rawValue)
            #expect(header.answersOneKey(ofRange: false) == ofOneKey.contains(status))
            let mayBeOutside = ofOneKey.contains(status) || status == .limitExceeded
            #expect(header.answersOneKey(ofRange: true) == mayBeOutside)
            header.flags.insert(.finalBad)
            #expect(!header.answersOneKey(ofRange: true))
            #expect(header.closesConnection)
        }
    }

    @Test func `with a status of a later version counts as internal`() {
        #expect(FrameHeader(verbNumber: 2, requestID: 1, statusNumber: 18).status == .internal)
    }

    @Test func `does not take another body than its own`() {
        let header = FrameHeader(verbNumber: 2, requestID: 1)
        #expect(throws: WireFault.bodySizeMismatch) {
            try withPinned([0]) { body throws(WireFault) in try header.verify(body: body) }
        }
    }
}

@Suite struct `A range of bytes` {
    @Test func `lies within a chunk that has all of its bytes`() {
        let range = ByteRange(offset: 4, byteCount: 3)
        #expect(range.within(chunkByteCount: 7) == 4..<7)
        #expect(range.within(chunkByteCount: 1 << 28) == 4..<7)
        #expect(range.within(chunkByteCount: 6) == nil)
        #expect(range.within(chunkByteCount: 1) == nil)
    }

    @Test func `is behind every chunk when its end has no number`() {
        for (offset, byteCount) in [(UInt64.max, UInt64(1)), (1, .max), (.max, .max)] {
            let range = ByteRange(offset: offset, byteCount: byteCount)
            #expect(range.within(chunkByteCount: .max) == nil)
        }
        #expect(ByteRange(offset: 0, byteCount: .max).within(chunkByteCount: .max) != nil)
    }

    @Test func `has bytes`() async {
        await #expect(processExitsWith: .failure) {
            _ = ByteRange(offset: 1, byteCount: 0)
        }
    }
}

@Suite struct `Little-endian fields` {
    @Test func `cut texts between characters`() throws {
        let memory = OwnedBytes(count: 600)
        for (text, kept) in [
            (String(repeating: "a", count: 600), 512), (String(repeating: "é", count: 300), 512),
            ("a" + String(repeating: "é", count: 300), 511),
            (String(repeating: "🔑", count: 129), 512),
            ("abc" + String(repeating: "🔑", count: 129), 511), ("", 0),
        ] {
            var writer = FieldWriter(memory.bytes)
            writer.append(errorText: text)
            #expect(writer.count == kept + 2)
            var reader = FieldReader(memory.bytes.prefix(writer.count))
            #expect(text.hasPrefix(try reader.readErrorText()))
        }
    }

    @Test func `are little-endian whatever the offset`() throws {
        let memory = OwnedBytes(count: 16)
        var writer = FieldWriter(memory.bytes)
        writer.append(UInt8(1))
        writer.append(UInt16(0x0302))
        writer.append(UInt32(0x0706_0504))
        writer.append(UInt64(0x0F0E_0D0C_0B0A_0908))
        #expect(memory.bytes.prefix(15).array == Array(1...15))
        var reader = FieldReader(memory.bytes.prefix(15))
        #expect(try reader.read(UInt8.self) == 1)
        #expect(try reader.read(UInt16.self) == 0x0302)
        #expect(try reader.read(UInt32.self) == 0x0706_0504)
        #expect(try reader.read(UInt64.self) == 0x0F0E_0D0C_0B0A_0908)
        #expect(throws: WireFault.bodyEndsEarly(offset: 15, needed: 1)) {
            try reader.read(UInt8.self)
        }
        try reader.finish()
    }

    @Test func `do not fit beyond their memory`() async {
        await #expect(processExitsWith: .failure) {
            var writer = FieldWriter(OwnedBytes(count: 4).bytes.prefix(3))
            writer.append(UInt32(0))
        }
    }

    @Test func `of HELLO are never cut to another namespace`() async {
        await #expect(processExitsWith: .failure) {
            var hello = HelloRequest()
            hello.namespace = String(repeating: "n", count: Limits.namespaceByteCountMax + 1)
            var writer = FieldWriter(OwnedBytes(count: 600).bytes)
            hello.encode(&writer)
        }
    }

    @Test func `of CONTROL are never cut to another argument`() async {
        await #expect(processExitsWith: .failure) {
            let argument = String(repeating: "/", count: Limits.argumentByteCountMax + 1)
            var writer = FieldWriter(OwnedBytes(count: 8_192).bytes)
            ControlRequest(.ssdEvacuate, argument: argument).encode(&writer)
        }
    }
}
