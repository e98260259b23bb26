// SPDX-License-Identifier: Apache-2.0
import KVCore
import Kernels
import Testing

@testable import Wire

@Suite struct `The vectors of the wire` {
    @Test func `hold for requests, byte by byte in both directions`() throws {
        for vector in try vectors("wire/requests.json", of: RequestVector.self) {
            let verb = try #require(number(of: vector.verb))
            let frame = try #require(bytesFromHexadecimal(vector.frame))
            let memory = OwnedBytes(count: frame.count)
            var header = FrameHeader(
                verbNumber: verb.rawValue, requestID: vector.requestId,
                deadlineMilliseconds: vector.deadlineMs)
            header.payloadByteCount = vector.payloadByteCount
            var failure: (any Error)?
            let written = header.encode(into: memory.bytes) { writer in
                do {
                    try Codec.encodeRequest(verb, vector.fields, &writer)
                } catch {
                    failure = error
                }
            }
            #expect(failure == nil, "\(vector.name)")
            #expect(written.array == frame, "\(vector.name)")

            let decoded = try withPinned(frame, Codec.decodeRequest)
            #expect(decoded.header == header, "\(vector.name)")
            #expect(decoded.fields == vector.fields, "\(vector.name)")
        }
    }

    @Test func `hold for answers, byte by byte in both directions`() throws {
        for vector in try vectors("wire/answers.json", of: AnswerVector.self) {
            let verb = try #require(number(of: vector.verb))
            let frame = try #require(bytesFromHexadecimal(vector.frame))
            let status = try #require(Status(rawValue: vector.statusNumber))
            let memory = OwnedBytes(count: frame.count)
            var header = FrameHeader(
                verbNumber: verb.rawValue, flags: FrameFlags(rawValue: vector.flags),
                requestID: vector.requestId, statusNumber: vector.statusNumber)
            header.payloadByteCount = vector.payloadByteCount
            var failure: (any Error)?
            let written = header.encode(into: memory.bytes) { writer in
                do {
                    try Codec.encodeAnswer(verb, vector.fields, &writer)
                } catch {
                    failure = error
                }
            }
            #expect(failure == nil, "\(vector.name)")
            #expect(written.array == frame, "\(vector.name)")

            let decoded = try withPinned(frame) { bytes throws(WireFault) in
                try Codec.decodeAnswer(
                    bytes, scope: vector.scope, rangeByteCount: vector.rangeByteCount)
            }
            #expect(decoded.header == header, "\(vector.name)")
            #expect(decoded.header.closesConnection == vector.closes, "\(vector.name)")
            #expect("\(status)" == vector.status, "\(vector.name)")
            #expect(decoded.fields == vector.fields, "\(vector.name)")
        }
    }

    @Test func `are refused with the status that the text gives, for bad requests`() throws {
        for vector in try vectors("wire/bad-requests.json", of: BadVector.self) {
            do throws(WireFault) {
                _ = try withPinned(vector.bytes, Codec.decodeRequest)
                Issue.record("accepted: \(vector.name)")
            } catch {
                #expect("\(error.status)" == vector.status, "\(vector.name): \(error)")
                // A payload that is too large to be read past closes too; the node sees to that.
                if vector.closes == false { #expect(!error.endsConnection, "\(vector.name)") }
                if error.endsConnection { #expect(vector.closes == true, "\(vector.name)") }
                #expect(error.message.utf8.count <= Limits.messageByteCountMax)
            }
        }
    }

    @Test func `are refused, for bad answers`() throws {
        for vector in try vectors("wire/bad-answers.json", of: BadVector.self) {
            #expect(throws: WireFault.self, "\(vector.name)") {
                try withPinned(vector.bytes) { bytes throws(WireFault) in
                    try Codec.decodeAnswer(
                        bytes, scope: vector.scope, rangeByteCount: vector.rangeByteCount)
                }
            }
        }
    }

    @Test func `are no longer refused as they were, for outgrown requests`() throws {
        for vector in try vectors("wire/outgrown-requests.json", of: BadVector.self) {
            do throws(WireFault) {
                _ = try withPinned(vector.bytes, Codec.decodeRequest)
            } catch {
                #expect("\(error.status)" != vector.status, "\(vector.name): \(error)")
            }
        }
    }

    @Test func `carry their chunk and its checksum behind a PUT`() throws {
        var count = 0
        for vector in try vectors("wire/requests.json", of: RequestVector.self) {
            guard let payload = vector.payload.flatMap({ bytesFromHexadecimal($0) }) else {
                continue
            }
            count += 1
            #expect(payload.count == Int(vector.payloadByteCount))
            let memory = pinned(payload)
            let checksum = Checksum.of(memory.bytes.prefix(payload.count - 8))
            var trailer = FieldReader(memory.bytes.dropFirst(payload.count - 8))
            #expect(try trailer.read(UInt64.self) == checksum, "\(vector.name)")
        }
        #expect(count > 0)
    }

    @Test func `cover every verb in both directions, and every status`() throws {
        let requests = try vectors("wire/requests.json", of: RequestVector.self)
        let answers = try vectors("wire/answers.json", of: AnswerVector.self)
        for verb in Verb.allCases {
            #expect(requests.contains { $0.verb == "\(verb)".uppercased() })
            #expect(answers.contains { $0.verb == "\(verb)".uppercased() && $0.status == "ok" })
        }
        for status in Status.allCases {
            #expect(answers.contains { $0.statusNumber == status.rawValue })
        }
    }

    private func number(of name: String) -> Verb? {
        Verb.allCases.first { "\($0)".uppercased() == name }
    }
}
