// SPDX-License-Identifier: Apache-2.0
import Foundation
import KVCore

@testable import Wire

/// Reads Tests/Vectors/`path`.
func vectors<Vector: Decodable>(_ path: String, of type: Vector.Type) throws -> [Vector] {
    let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .deletingLastPathComponent().appendingPathComponent("Vectors")
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    return try decoder.decode(
        [Vector].self, from: Data(contentsOf: folder.appendingPathComponent(path)))
}

struct RequestVector: Decodable {
    let name: String
    let verb: String
    let requestId: UInt64
    let deadlineMs: UInt32
    let payloadByteCount: UInt64
    let fields: Fields
    let frame: String
    let payload: String?
}

struct AnswerVector: Decodable {
    let name: String
    let verb: String
    let requestId: UInt64
    let status: String
    let statusNumber: UInt16
    let flags: UInt16
    let closes: Bool
    let scope: UInt8
    let rangeByteCount: UInt64?
    let payloadByteCount: UInt64
    let fields: Fields
    let frame: String
    let payload: String?
}

struct BadVector: Decodable {
    let name: String
    let frame: String
    let zeros: Int
    let scope: UInt8
    let rangeByteCount: UInt64?
    let status: String?
    let closes: Bool?

    var bytes: [UInt8] {
        bytesFromHexadecimal(frame)! + [UInt8](repeating: 0, count: zeros)
    }
}

/// The body of any message, by the names of Tests/Vectors/README.md.
struct Fields: Decodable, Equatable {
    struct Record: Decodable, Equatable {
        var status: UInt16?
        var tier: UInt8?
        var level: UInt8?
        var loadUs: UInt32?
        var chunkByteCount: UInt64?
        var timeToLiveMs: UInt64?
        var leaseId: UInt64?
        var arenaOffset: UInt64?
        var checksum: UInt64?
    }

    struct Pair: Decodable, Equatable {
        var name: String
        var value: UInt64
    }

    struct Text: Decodable, Equatable {
        var name: String
        var text: String
    }

    var lowestVersion: UInt8?
    var highestVersion: UInt8?
    var wantedFeatures: UInt64?
    var namespace: String?
    var token: String?
    var clientName: String?
    var key: String?
    var layout: String?
    var chunkByteCount: UInt64?
    var timeToLiveMs: UInt64?
    var level: UInt8?
    var acknowledge: UInt8?
    var firstPosition: UInt32?
    var options: UInt8?
    var mode: UInt8?
    var scope: UInt8?
    var keys: [String]?
    var leaseMs: UInt32?
    var released: [UInt64]?
    var leases: [UInt64]?
    var reservationId: UInt64?
    var checksum: UInt64?

    var version: UInt8?
    var grantedFeatures: UInt64?
    var secret: String?
    var nodeId: UInt64?
    var bodyByteCountLimit: UInt32?
    var batchKeyCountLimit: UInt32?
    var chunkByteCountLimit: UInt64?
    var inFlightLimit: UInt32?
    var leaseMsLimit: UInt32?
    var arenaByteCount: UInt64?
    var stagingByteCountLimit: UInt64?
    var daemonName: String?
    var index: UInt32?
    var errorText: String?
    var prefixCount: UInt32?
    var records: [Record]?
    var deletedCount: UInt32?
    var statuses: [UInt16]?
    var pairs: [Pair]?
    var expiryNs: UInt64?
    var releasedCount: UInt32?
    var stagingOffset: UInt64?
    var stagingByteCount: UInt64?

    var rangeOffset: UInt64?
    var rangeByteCount: UInt64?
    var pinMs: UInt64?
    var operation: UInt16?
    var argument: String?
    var okCount: UInt32?
    var texts: [Text]?
}

extension Fields {
    func unwrapped<Value>(_ path: KeyPath<Fields, Value?>) throws -> Value {
        guard let value = self[keyPath: path] else { throw MissingField(path: "\(path)") }
        return value
    }

    func chunkKey() throws -> ChunkKey {
        guard let key = ChunkKey(hexadecimal: try unwrapped(\.key)) else {
            throw MissingField(path: "key")
        }
        return key
    }

    func chunkKeys() throws -> [ChunkKey] {
        try unwrapped(\.keys).map { text in
            guard let key = ChunkKey(hexadecimal: text) else { throw MissingField(path: "keys") }
            return key
        }
    }

    func layoutID() throws -> LayoutID {
        guard let bytes = bytesFromHexadecimal(try unwrapped(\.layout)),
            let layout = LayoutID(bytes: bytes)
        else { throw MissingField(path: "layout") }
        return layout
    }
}

extension Fields {
    /// The range of a GET with option bit 1.
    func byteRange() throws -> ByteRange? {
        guard try unwrapped(\.options) & 2 == 2 else { return nil }
        return ByteRange(
            offset: try unwrapped(\.rangeOffset), byteCount: try unwrapped(\.rangeByteCount))
    }
}

struct MissingField: Error {
    let path: String
}

/// `bytes` in memory that does not move.
func pinned(_ bytes: [UInt8]) -> OwnedBytes {
    let memory = OwnedBytes(count: max(bytes.count, 1))
    memory.bytes.withMutableBytes { span in
        for (offset, byte) in bytes.enumerated() {
            span.storeBytes(of: byte, toByteOffset: offset, as: UInt8.self)
        }
    }
    return memory
}

/// Runs `body` over exactly `bytes`, in memory that ends where they end.
func withPinned<Result>(
    _ bytes: [UInt8], _ body: (PinnedBytes) throws(WireFault) -> Result
) throws(WireFault) -> Result {
    let memory = pinned(bytes)
    defer { withExtendedLifetime(memory) {} }
    return try body(memory.bytes.prefix(bytes.count))
}

extension PinnedBytes {
    var array: [UInt8] { (0..<count).map { self[$0] } }
}
