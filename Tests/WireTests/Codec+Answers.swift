// SPDX-License-Identifier: Apache-2.0
import KVCore

@testable import Wire

extension Codec {
    /// What a daemon writes; `fields` decides between the shapes of an answer.
    static func encodeAnswer(_ verb: Verb, _ fields: Fields, _ writer: inout FieldWriter) throws {
        if let text = fields.errorText {
            guard let index = fields.index else { return writer.append(errorText: text) }
            return ChunkRefusal(index: index, message: text).encode(&writer)
        }
        switch verb {
        case .hello: try hello(answer: fields).encode(&writer)
        case .ping, .put, .commit, .abort: break
        case .get: try chunk(fields).encode(&writer)
        case .lookup:
            writer.append(try fields.unwrapped(\.prefixCount))
            let records = try fields.unwrapped(\.records)
            writer.append(UInt32(records.count))
            for record in records {
                LookupRecord(
                    status: Status(rawValue: record.status!)!, tier: record.tier!,
                    level: record.level!, loadMicroseconds: record.loadUs!,
                    chunkByteCount: record.chunkByteCount!,
                    timeToLiveMilliseconds: record.timeToLiveMs!
                ).encode(&writer)
            }
        case .delete, .pin, .unpin:
            let statuses = try fields.unwrapped(\.statuses)
            writer.append(
                try fields.unwrapped(verb == .delete ? \.deletedCount : \.okCount))
            writer.append(UInt32(statuses.count))
            for status in statuses { writer.append(status) }
        case .control:
            ControlAnswer(pairs: try fields.unwrapped(\.texts).map { ($0.name, $0.text) })
                .encode(&writer)
        case .stat where fields.pairs == nil: try chunk(fields).encode(&writer)
        case .stat:
            StatAnswer(pairs: try fields.unwrapped(\.pairs).map { ($0.name, $0.value) })
                .encode(&writer)
        case .lease:
            let records = try fields.unwrapped(\.records)
            LeaseAnswer.encode(
                &writer, recordCount: records.count,
                expiry: Instant(nanoseconds: try fields.unwrapped(\.expiryNs)))
            for record in records { lease(record).encode(&writer) }
        case .release:
            ReleaseAnswer(releasedCount: try fields.unwrapped(\.releasedCount)).encode(&writer)
        case .reserve:
            ReserveAnswer(
                reservationID: try fields.unwrapped(\.reservationId),
                stagingOffset: try fields.unwrapped(\.stagingOffset),
                stagingByteCount: try fields.unwrapped(\.stagingByteCount),
                expiry: Instant(nanoseconds: try fields.unwrapped(\.expiryNs))
            ).encode(&writer)
        }
    }

    private static func lease(_ record: Fields.Record) -> LeaseRecord {
        var answer = LeaseRecord(status: Status(rawValue: record.status!)!)
        answer.level = record.level!
        answer.leaseID = record.leaseId!
        answer.arenaOffset = record.arenaOffset!
        answer.chunkByteCount = record.chunkByteCount!
        answer.checksum = record.checksum!
        answer.timeToLiveMilliseconds = record.timeToLiveMs!
        return answer
    }

    private static func chunk(_ fields: Fields) throws -> ChunkAnswer {
        ChunkAnswer(
            index: try fields.unwrapped(\.index), level: try fields.unwrapped(\.level),
            chunkByteCount: try fields.unwrapped(\.chunkByteCount),
            checksum: try fields.unwrapped(\.checksum), layout: try fields.layoutID(),
            timeToLiveMilliseconds: try fields.unwrapped(\.timeToLiveMs))
    }

    private static func hello(answer fields: Fields) throws -> HelloAnswer {
        var hello = HelloAnswer()
        hello.version = try fields.unwrapped(\.version)
        hello.granted = Features(rawValue: try fields.unwrapped(\.grantedFeatures))
        hello.namespaceSecret = bytesFromHexadecimal(try fields.unwrapped(\.secret))!
        hello.nodeID = try fields.unwrapped(\.nodeId)
        hello.bodyByteCountMax = try fields.unwrapped(\.bodyByteCountLimit)
        hello.batchKeyCountMax = try fields.unwrapped(\.batchKeyCountLimit)
        hello.chunkByteCountMax = try fields.unwrapped(\.chunkByteCountLimit)
        hello.requestCountMax = try fields.unwrapped(\.inFlightLimit)
        hello.leaseMillisecondsMax = try fields.unwrapped(\.leaseMsLimit)
        hello.arenaByteCount = try fields.unwrapped(\.arenaByteCount)
        hello.stagingByteCountMax = try fields.unwrapped(\.stagingByteCountLimit)
        hello.daemonName = try fields.unwrapped(\.daemonName)
        return hello
    }
}

extension KeyList {
    var descriptions: [String] { (0..<count).map { self[$0].description } }
}

extension LeaseIDList {
    var array: [UInt64] { (0..<count).map { self[$0] } }
}

extension Fields {
    init(_ hello: HelloRequest) {
        self.init()
        lowestVersion = hello.lowestVersion
        highestVersion = hello.highestVersion
        wantedFeatures = hello.wanted.rawValue
        namespace = hello.namespace
        token = hexadecimal(hello.token)
        clientName = hello.clientName
    }

    init(_ put: PutRequest) {
        self.init()
        key = put.key.description
        layout = put.layout.description
        chunkByteCount = UInt64(put.chunkByteCount)
        timeToLiveMs = UInt64(put.timeToLiveMilliseconds)
        level = put.level
        acknowledge = put.acknowledge.rawValue
        firstPosition = put.firstPosition
    }

    init(_ hello: HelloAnswer) {
        self.init()
        version = hello.version
        grantedFeatures = hello.granted.rawValue
        secret = hexadecimal(hello.namespaceSecret)
        nodeId = hello.nodeID
        bodyByteCountLimit = hello.bodyByteCountMax
        batchKeyCountLimit = hello.batchKeyCountMax
        chunkByteCountLimit = hello.chunkByteCountMax
        inFlightLimit = hello.requestCountMax
        leaseMsLimit = hello.leaseMillisecondsMax
        arenaByteCount = hello.arenaByteCount
        stagingByteCountLimit = hello.stagingByteCountMax
        daemonName = hello.daemonName
    }

    init(_ chunk: ChunkAnswer) {
        self.init()
        index = chunk.index
        level = chunk.level
        chunkByteCount = chunk.chunkByteCount
        checksum = chunk.checksum
        layout = chunk.layout.description
        timeToLiveMs = chunk.timeToLiveMilliseconds
    }

    init(_ answer: LookupAnswer) {
        self.init()
        prefixCount = UInt32(answer.prefixCount)
        records = answer.records.map { record in
            Record(
                status: record.status.rawValue, tier: record.tier, level: record.level,
                loadUs: record.loadMicroseconds, chunkByteCount: record.chunkByteCount,
                timeToLiveMs: record.timeToLiveMilliseconds)
        }
    }

    init(_ answer: LeaseAnswer) {
        self.init()
        expiryNs = answer.expiry.nanoseconds
        records = answer.records.map { record in
            Record(
                status: record.status.rawValue, level: record.level,
                chunkByteCount: record.chunkByteCount,
                timeToLiveMs: record.timeToLiveMilliseconds, leaseId: record.leaseID,
                arenaOffset: record.arenaOffset, checksum: record.checksum)
        }
    }
}
