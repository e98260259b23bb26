// SPDX-License-Identifier: Apache-2.0
import Foundation
import KVClient
import KVCore
import LinuxIO
import Testing
import Wire

/// What these tests need of a vector of Tests/Vectors/wire.
private struct Vector: Decodable {
    let name: String
    let frame: String
    let zeros: Int?
    let payload: String?
    let payloadByteCount: UInt64?
    /// Of a bad request: what the daemon answers.
    let status: String?
    let closes: Bool?

    /// Header and body.
    var bytes: [UInt8] {
        bytesFromHexadecimal(frame)! + [UInt8](repeating: 0, count: zeros ?? 0)
    }

    /// The same with the longest deadline, 600,000 ms: a loaded machine may not keep a shorter one.
    var patientBytes: [UInt8] { forged(bytes, at: 16, [0xc0, 0x27, 0x09, 0x00]) }

    /// The payload byte count of the header.
    var announced: UInt64 {
        bytes[32..<40].reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }

    /// Whether a daemon without an SSD tier may say that it does not do this.
    var needsSSD: Bool { Verb(rawValue: bytes[5]) == .control }

    static func all(_ name: String) throws -> [Vector] {
        let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .deletingLastPathComponent().appendingPathComponent("Vectors/wire")
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        return try decoder.decode(
            [Vector].self, from: Data(contentsOf: folder.appendingPathComponent(name)))
    }
}

private func connect(
    _ desk: isolated Desk, _ daemon: DaemonProcess
) async throws -> RawConnection {
    RawConnection(
        try await desk.reactor.connect(to: daemon.unixAddress, deadline: desk.soon),
        desk.reactor.now().adding(milliseconds: 600_000))
}

/// One that shares memory, so that every verb is offered. The descriptor that comes with the
/// answer is not taken.
private func sharingConnection(
    _ desk: isolated Desk, _ daemon: DaemonProcess
) async throws -> RawConnection {
    let connection = try await connect(desk, daemon)
    try await connection.send(hello { $0.wanted = .sharedMemory })
    let answer = try await connection.receive()
    #expect(answer?.header.status == .ok)
    return connection
}

@Suite struct `A daemon and the vectors` {
    @Test func `agree on what is wrong with bad requests`() async throws {
        let vectors = try Vector.all("bad-requests.json")
        try await withDaemon { desk, daemon in
            var connection = try await sharingConnection(desk, daemon)
            for vector in vectors {
                let isHello = vector.bytes[5] == Verb.hello.rawValue
                if isHello {
                    connection.close()
                    connection = try await connect(desk, daemon)
                }
                // The headers of others may be wrong on purpose.
                let hasSoundHeader = vector.status == "unsupported"
                try await connection.sendWhatIsTaken(
                    hasSoundHeader ? vector.patientBytes : vector.bytes)
                if vector.closes == false {
                    try await connection.send([UInt8](repeating: 0, count: Int(vector.announced)))
                }
                let answer = try await connection.receive()
                let status = answer.map { "\($0.header.status)" }
                #expect(status == vector.status, "\(vector.name)")
                if vector.closes == true || isHello {
                    #expect(answer?.header.closesConnection == true, "\(vector.name)")
                    #expect(try await connection.isClosedNext(), "\(vector.name)")
                    connection.close()
                    connection = try await sharingConnection(desk, daemon)
                } else {
                    #expect(answer?.header.closesConnection == false, "\(vector.name)")
                }
            }
            try await expectPong(connection)
            connection.close()
        }
    }

    @Test(arguments: [false, true])
    func `agree that sound requests are`(hasSSD: Bool) async throws {
        // PUTs come last, so that no GET is answered with a payload.
        let all = try Vector.all("requests.json")
        let vectors = all.filter { $0.payload == nil } + all.filter { $0.payload != nil }
        let isUnsound: Set<Status> = [
            .malformed, .unsupported, .versionMismatch, .helloRequired, .limitExceeded, .internal,
        ]
        let folder = try TemporaryFolder()
        let arguments =
            hasSSD
            ? [
                "--ssd-directories", folder.path("ssd"), "--ssd-capacity", "256MiB",
                "--ssd-reserve", "0B",
            ] : []
        try FileManager.default.createDirectory(
            atPath: folder.path("ssd"), withIntermediateDirectories: false)
        try await withDaemon(arguments) { desk, daemon in
            var connection = try await sharingConnection(desk, daemon)
            for vector in vectors {
                let isHello = vector.bytes[5] == Verb.hello.rawValue
                // The payload of the largest chunks is not in their vectors.
                if vector.payload == nil, vector.payloadByteCount != 0 { continue }
                if isHello {
                    connection.close()
                    connection = try await connect(desk, daemon)
                }
                try await connection.send(
                    vector.patientBytes + bytesFromHexadecimal(vector.payload ?? "")!)
                var hasMore = true
                while hasMore {
                    let answer = try await connection.receive()
                    guard let header = answer?.header else {
                        throw ProcessFault(description: "no answer to '\(vector.name)'")
                    }
                    #expect(
                        !isUnsound.contains(header.status)
                            || header.status == .unsupported && !hasSSD && vector.needsSSD,
                        "\(vector.name): \(header)")
                    #expect(header.verbNumber == vector.bytes[5], "\(vector.name)")
                    #expect(header.payloadByteCount == 0, "\(vector.name)")
                    hasMore = header.flags.contains(.more)
                    if header.closesConnection {
                        #expect(header.status == .unauthorized, "\(vector.name)")
                    }
                }
                if isHello {
                    connection.close()
                    connection = try await sharingConnection(desk, daemon)
                }
            }
            try await expectPong(connection)
            connection.close()
        }
    }

    private func expectPong(_ connection: RawConnection) async throws {
        try await connection.send(request(.ping, id: 77))
        #expect(try await connection.receive()?.header.requestID == 77)
    }
}
