// SPDX-License-Identifier: Apache-2.0
import KVCore
import Kernels
import Testing

@testable import Wire

/// KVSTORE_SEED repeats a failure.
@Suite struct `Any message` {
    @Test func `comes back from its bytes`() throws {
        var numbers = SeededNumbers.fresh()
        let memory = OwnedBytes(count: FrameHeader.byteCount + Limits.bodyByteCountMax)
        for round in 0..<4 {
            for verb in Verb.allCases {
                let place: Comment = "KVSTORE_SEED=\(numbers.seed), round \(round), \(verb)"
                let request = Fields.randomRequest(verb, &numbers)
                var header = FrameHeader(
                    verbNumber: verb.rawValue, requestID: numbers.number(UInt64.self),
                    deadlineMilliseconds: numbers.number(UInt32.self))
                header.payloadByteCount = verb == .put ? request.chunkByteCount! + 8 : 0
                let frame = encoded(&header, memory) {
                    try Codec.encodeRequest(verb, request, &$0)
                }
                let read = try Codec.decodeRequest(frame)
                #expect(read.header == header, place)
                #expect(read.fields == request, place)

                let answer = Fields.randomAnswer(verb, &numbers)
                header = FrameHeader(
                    verbNumber: verb.rawValue, flags: .response,
                    requestID: numbers.number(UInt64.self))
                header.payloadByteCount = verb == .get ? answer.chunkByteCount! : 0
                let answerFrame = encoded(&header, memory) {
                    try Codec.encodeAnswer(verb, answer, &$0)
                }
                let readAnswer = try Codec.decodeAnswer(answerFrame, scope: 0)
                #expect(readAnswer.header == header, place)
                #expect(readAnswer.fields == answer, place)
            }
        }
    }

    @Test func `with a refusal comes back from its bytes`() throws {
        var numbers = SeededNumbers.fresh()
        let memory = OwnedBytes(count: 1_024)
        for status in Status.allCases.dropFirst() {
            var fields = Fields(errorText: numbers.text(atMost: Limits.messageByteCountMax))
            var header = FrameHeader(
                verbNumber: Verb.get.rawValue, flags: .response, requestID: 1,
                statusNumber: status.rawValue)
            if header.answersOneKey(ofRange: false) { fields.index = numbers.number(UInt32.self) }
            let frame = encoded(&header, memory) { try Codec.encodeAnswer(.get, fields, &$0) }
            let place: Comment = "KVSTORE_SEED=\(numbers.seed), \(status)"
            #expect(try Codec.decodeAnswer(frame, scope: 0).fields == fields, place)
        }
    }

    private func encoded(
        _ header: inout FrameHeader, _ memory: OwnedBytes,
        _ body: (inout FieldWriter) throws -> Void
    ) -> PinnedBytes {
        header.encode(into: memory.bytes) { writer in
            do {
                try body(&writer)
            } catch {
                Issue.record(error)
            }
        }
    }
}

@Suite struct `Any bytes` {
    /// Sound frames of all shapes, none long.
    private static func frames() throws -> [(name: String, bytes: [UInt8], scope: UInt8?)] {
        let requests = try vectors("wire/requests.json", of: RequestVector.self)
            .map { ($0.name, bytesFromHexadecimal($0.frame)!, UInt8?.none) }
        let answers = try vectors("wire/answers.json", of: AnswerVector.self)
            .map { ($0.name, bytesFromHexadecimal($0.frame)!, UInt8?.some($0.scope)) }
        return (requests + answers).filter { $0.1.count <= 250 }
    }

    private static func isRefused(_ bytes: [UInt8], scope: UInt8?) -> Bool {
        do throws(WireFault) {
            try withPinned(bytes) { frame throws(WireFault) in
                if let scope {
                    _ = try Codec.decodeAnswer(frame, scope: scope)
                } else {
                    _ = try Codec.decodeRequest(frame)
                }
            }
            return false
        } catch {
            return true
        }
    }

    @Test func `with one bit flipped are refused`() throws {
        for frame in try Self.frames() {
            var bytes = frame.bytes
            for bit in 0..<bytes.count * 8 {
                bytes[bit / 8] ^= 1 << UInt8(bit % 8)
                if !Self.isRefused(bytes, scope: frame.scope) {
                    Issue.record("accepted: \(frame.name) with bit \(bit) flipped")
                }
                bytes[bit / 8] ^= 1 << UInt8(bit % 8)
            }
        }
    }

    @Test func `cut short are refused`() throws {
        for frame in try Self.frames() {
            for count in 0..<frame.bytes.count
            where !Self.isRefused(Array(frame.bytes.prefix(count)), scope: frame.scope) {
                Issue.record("accepted: the first \(count) bytes of \(frame.name)")
            }
        }
    }

    @Test func `in a body are read or refused`() throws {
        var numbers = SeededNumbers.fresh()
        let frames = try Self.frames().map(\.bytes)
        for _ in 0..<800 {
            // Of a sound body, some bytes are replaced; or all are random.
            var body = Array(frames.randomElement(using: &numbers)!.dropFirst(48))
            for _ in 0..<Int.random(in: 0...4, using: &numbers) where !body.isEmpty {
                body[Int.random(in: 0..<body.count, using: &numbers)] =
                    UInt8.random(in: 0...255, using: &numbers)
            }
            if numbers.next() % 8 == 0 {
                body = numbers.bytes(Int.random(in: 0...200, using: &numbers))
            }
            for verb in Verb.allCases { Self.readAll(verb, body) }
        }
    }

    /// Reads `body` as everything that it may be; a trap would end the process.
    private static func readAll(_ verb: Verb, _ body: [UInt8]) {
        let memory = pinned(body)
        let bytes = memory.bytes.prefix(body.count)
        for scope in [UInt8?.none, 0, 1] {
            do throws(WireFault) {
                if let scope {
                    _ = try Codec.decodeAnswerBody(verb, bytes, scope)
                } else {
                    _ = try Codec.decodeRequestBody(verb, bytes, 9)
                }
            } catch {
                #expect(error.message.utf8.count <= Limits.messageByteCountMax)
            }
        }
        withExtendedLifetime(memory) {}
    }

    @Test func `are no header unless they are one`() {
        var numbers = SeededNumbers.fresh()
        for _ in 0..<800 {
            var bytes = numbers.bytes(Int.random(in: 0...96, using: &numbers))
            if bytes.count >= 4, Bool.random(using: &numbers) {
                bytes.replaceSubrange(0..<4, with: Array("KVS1".utf8))
            }
            #expect(
                Self.isRefused(bytes, scope: nil), "KVSTORE_SEED=\(numbers.seed): \(bytes)")
        }
    }
}
