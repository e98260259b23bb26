// SPDX-License-Identifier: Apache-2.0
import KVCore

@testable import Wire

/// Both directions of every message, between `Fields` and bytes, as a daemon and a client do it.
enum Codec {
    // MARK: Requests

    static func encodeRequest(_ verb: Verb, _ fields: Fields, _ writer: inout FieldWriter) throws {
        switch verb {
        case .hello: try hello(fields).encode(&writer)
        case .ping: break
        case .put, .reserve:
            PutRequest(
                key: try fields.chunkKey(), layout: try fields.layoutID(),
                chunkByteCount: Int(try fields.unwrapped(\.chunkByteCount)),
                timeToLiveMilliseconds: UInt32(try fields.unwrapped(\.timeToLiveMs)),
                level: try fields.unwrapped(\.level),
                acknowledge: Acknowledge(rawValue: try fields.unwrapped(\.acknowledge))!,
                firstPosition: fields.firstPosition
            ).encode(&writer)
        case .get:
            let keys = try fields.chunkKeys()
            GetRequest.encode(
                &writer, keyCount: keys.count,
                layout: try fields.unwrapped(\.options) & 1 == 1 ? try fields.layoutID() : nil,
                level: try fields.unwrapped(\.level), range: try fields.byteRange())
            for key in keys { writer.append(key) }
        case .lookup:
            let keys = try fields.chunkKeys()
            LookupRequest.encode(
                &writer, keyCount: keys.count,
                mode: LookupRequest.Mode(rawValue: try fields.unwrapped(\.mode))!)
            for key in keys { writer.append(key) }
        case .delete, .unpin:
            let keys = try fields.chunkKeys()
            DeleteRequest.encode(&writer, keyCount: keys.count)
            for key in keys { writer.append(key) }
        case .pin:
            let keys = try fields.chunkKeys()
            PinRequest.encode(
                &writer, keyCount: keys.count, milliseconds: try fields.unwrapped(\.pinMs))
            for key in keys { writer.append(key) }
        case .control:
            ControlRequest(
                ControlRequest.Operation(rawValue: try fields.unwrapped(\.operation))!,
                argument: try fields.unwrapped(\.argument)
            ).encode(&writer)
        case .stat:
            let isNode = try fields.unwrapped(\.scope) == 0
            (isNode ? StatRequest.node : .chunk(try fields.chunkKey())).encode(&writer)
        case .lease:
            let keys = try fields.chunkKeys()
            let released = try fields.unwrapped(\.released)
            LeaseRequest.encode(
                &writer, keyCount: keys.count, releasedCount: released.count,
                milliseconds: try fields.unwrapped(\.leaseMs))
            for id in released { writer.append(id) }
            for key in keys { writer.append(key) }
        case .release:
            let leases = try fields.unwrapped(\.leases)
            ReleaseRequest.encode(&writer, leaseCount: leases.count)
            for id in leases { writer.append(id) }
        case .commit:
            CommitRequest(
                reservationID: try fields.unwrapped(\.reservationId),
                checksum: try fields.unwrapped(\.checksum)
            ).encode(&writer)
        case .abort:
            AbortRequest(reservationID: try fields.unwrapped(\.reservationId)).encode(&writer)
        }
    }

    private static func hello(_ fields: Fields) throws -> HelloRequest {
        var hello = HelloRequest()
        hello.lowestVersion = try fields.unwrapped(\.lowestVersion)
        hello.highestVersion = try fields.unwrapped(\.highestVersion)
        hello.wanted = Features(rawValue: try fields.unwrapped(\.wantedFeatures))
        hello.namespace = try fields.unwrapped(\.namespace)
        hello.token = bytesFromHexadecimal(try fields.unwrapped(\.token))!
        hello.clientName = try fields.unwrapped(\.clientName)
        return hello
    }

    /// What a daemon does with header and body of a request.
    static func decodeRequest(
        _ frame: PinnedBytes
    ) throws(WireFault) -> (header: FrameHeader, fields: Fields) {
        let header = try FrameHeader.decode(frame)
        let body = frame.dropFirst(FrameHeader.byteCount)
        try header.verify(body: body)
        let verb = try header.checkRequest()
        return (header, try decodeRequestBody(verb, body, header.payloadByteCount))
    }

    static func decodeRequestBody(
        _ verb: Verb, _ body: PinnedBytes, _ payloadByteCount: UInt64
    ) throws(WireFault) -> Fields {
        switch verb {
        case .hello: return Fields(try HelloRequest.decode(body))
        case .ping:
            guard body.count == 0 else { throw .bytesLeftOver(body.count) }
            return Fields()
        case .put:
            let put = try PutRequest.decode(body)
            try put.check(payloadByteCount: payloadByteCount)
            return Fields(put)
        case .reserve: return Fields(try PutRequest.decode(body))
        case .get:
            let get = try GetRequest.decode(body)
            return Fields(
                layout: (get.layout ?? .opaque).description, level: get.level,
                options: (get.layout == nil ? 0 : 1) | (get.range == nil ? 0 : 2),
                keys: get.keys.descriptions, rangeOffset: get.range?.offset,
                rangeByteCount: get.range?.byteCount)
        case .lookup:
            let lookup = try LookupRequest.decode(body)
            return Fields(mode: lookup.mode.rawValue, keys: lookup.keys.descriptions)
        case .delete, .unpin:
            return Fields(keys: try DeleteRequest.decode(body).keys.descriptions)
        case .pin:
            let pin = try PinRequest.decode(body)
            return Fields(keys: pin.keys.descriptions, pinMs: pin.milliseconds)
        case .control:
            let control = try ControlRequest.decode(body)
            return Fields(operation: control.operation.rawValue, argument: control.argument)
        case .stat:
            switch try StatRequest.decode(body) {
            case .node: return Fields(scope: 0)
            case .chunk(let key): return Fields(key: key.description, scope: 1)
            }
        case .lease:
            let lease = try LeaseRequest.decode(body)
            return Fields(
                keys: lease.keys.descriptions, leaseMs: lease.milliseconds,
                released: lease.released.array)
        case .release: return Fields(leases: try ReleaseRequest.decode(body).leaseIDs.array)
        case .commit:
            let commit = try CommitRequest.decode(body)
            return Fields(reservationId: commit.reservationID, checksum: commit.checksum)
        case .abort: return Fields(reservationId: try AbortRequest.decode(body).reservationID)
        }
    }

    // MARK: Answers

    /// What a client does with header and body of an answer; `scope` is that of its STAT,
    /// `rangeByteCount` that of the range that its GET asked for.
    static func decodeAnswer(
        _ frame: PinnedBytes, scope: UInt8, rangeByteCount: UInt64? = nil
    ) throws(WireFault) -> (header: FrameHeader, fields: Fields) {
        let header = try FrameHeader.decode(frame)
        try header.checkAnswer()
        let body = frame.dropFirst(FrameHeader.byteCount)
        try header.verify(body: body)
        guard header.status == .ok else {
            if header.verb == .get, header.answersOneKey(ofRange: rangeByteCount != nil) {
                let refusal = try ChunkRefusal.decode(body)
                return (header, Fields(index: refusal.index, errorText: refusal.message))
            }
            var reader = FieldReader(body)
            let text = try reader.readErrorText()
            try reader.finish()
            return (header, Fields(errorText: text))
        }
        guard let verb = header.verb else { throw .unknownVerb(header.verbNumber) }
        let fields = try decodeAnswerBody(verb, body, scope)
        if verb == .get {
            let chunkByteCount = fields.chunkByteCount!
            let expected = rangeByteCount ?? chunkByteCount
            guard header.payloadByteCount == expected, expected <= chunkByteCount else {
                throw .bodySizeMismatch
            }
        }
        return (header, fields)
    }

    static func decodeAnswerBody(
        _ verb: Verb, _ body: PinnedBytes, _ scope: UInt8
    ) throws(WireFault) -> Fields {
        switch verb {
        case .hello: return Fields(try HelloAnswer.decode(body))
        case .ping, .put, .commit, .abort:
            guard body.count == 0 else { throw .bytesLeftOver(body.count) }
            return Fields()
        case .get: return Fields(try ChunkAnswer.decode(body))
        case .lookup: return Fields(try LookupAnswer.decode(body))
        case .delete:
            let answer = try KeyStatusesAnswer.decode(body)
            return Fields(
                deletedCount: UInt32(answer.okCount),
                statuses: answer.statuses.map(\.rawValue))
        case .pin, .unpin:
            let answer = try KeyStatusesAnswer.decode(body)
            return Fields(
                statuses: answer.statuses.map(\.rawValue), okCount: UInt32(answer.okCount))
        case .control:
            let answer = try ControlAnswer.decode(body)
            return Fields(texts: answer.pairs.map { .init(name: $0.name, text: $0.text) })
        case .stat where scope == 1: return Fields(try ChunkAnswer.decode(body))
        case .stat:
            let answer = try StatAnswer.decode(body)
            return Fields(pairs: answer.pairs.map { .init(name: $0.name, value: $0.value) })
        case .lease: return Fields(try LeaseAnswer.decode(body))
        case .release:
            return Fields(releasedCount: try ReleaseAnswer.decode(body).releasedCount)
        case .reserve:
            let answer = try ReserveAnswer.decode(body)
            return Fields(
                reservationId: answer.reservationID, expiryNs: answer.expiry.nanoseconds,
                stagingOffset: answer.stagingOffset, stagingByteCount: answer.stagingByteCount)
        }
    }
}
