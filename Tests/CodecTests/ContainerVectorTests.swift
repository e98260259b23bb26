// SPDX-License-Identifier: Apache-2.0
import Codec
import Foundation
import KVCore
import Kernels
import Testing

/// A container of Tests/Vectors/container, sound or damaged.
struct ContainerVector: Decodable, CustomTestStringConvertible {
    let name: String
    let container: String
    let profile: String?
    let payloadByteCount: Int?
    let payloadSha256: String?
    let payload: String?
    let fault: String?

    var testDescription: String { name }

    static func all(_ name: String) throws -> [ContainerVector] {
        let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .deletingLastPathComponent().appendingPathComponent("Vectors/container")
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        let data = try Data(contentsOf: folder.appendingPathComponent("\(name).json"))
        return try decoder.decode([ContainerVector].self, from: data)
    }

    /// The container's bytes, in memory of exactly their count.
    var bytes: OwnedBytes { owned(bytesFromHexadecimal(container) ?? []) }
}

func owned(_ bytes: [UInt8]) -> OwnedBytes {
    let memory = OwnedBytes(count: bytes.count)
    for (offset, byte) in bytes.enumerated() { memory.bytes.store(byte, at: offset) }
    return memory
}

@Suite struct `A container of the vectors` {
    private let workspace = CodecWorkspace(valueCountMax: 4_096)

    @Test func `is decoded to its payload`() throws {
        let vectors = try ContainerVector.all("good")
        #expect(vectors.count >= 22)
        for vector in vectors {
            let payload = try decoded(vector.bytes, workspace)
            #expect(payload.bytes.count == vector.payloadByteCount, "\(vector.name)")
            let hash = secureHash(payload.bytes).description
            #expect(hash == vector.payloadSha256, "\(vector.name)")
            if let expected = vector.payload.flatMap(bytesFromHexadecimal) {
                #expect(array(payload) == expected, "\(vector.name)")
            }
            withExtendedLifetime(payload) {}
        }
    }

    @Test func `has the fault that it should have`() throws {
        // Those with a profile belong to the modes that read one.
        let vectors = try ContainerVector.all("bad").filter { $0.profile == nil }
        #expect(vectors.count >= 90)
        for vector in vectors {
            let bytes = vector.bytes
            do {
                _ = try decoded(bytes, workspace)
                Issue.record("\(vector.name): is decoded")
            } catch let fault as CodecFault {
                #expect(fault.rawValue == vector.fault, "\(vector.name)")
            }
        }
    }

    @Test func `is refused, or decoded, but never read past, with any bit flipped`() throws {
        var numbers = SeededNumbers(seed: 11)
        for vector in try ContainerVector.all("good") where vector.payload != nil {
            let whole = bytesFromHexadecimal(vector.container) ?? []
            for _ in 0..<60 {
                var damaged = whole
                let place = Int.random(in: 0..<whole.count, using: &numbers)
                damaged[place] ^= 1 << UInt8.random(in: 0..<8, using: &numbers)
                do {
                    _ = try decoded(owned(damaged), workspace)
                    // Nobody looks at what stands between sections.
                    #expect(whole[place] == 0, "\(vector.name), byte \(place), seed 11")
                } catch is CodecFault {}
            }
            for count in stride(from: 0, to: whole.count, by: 7) {
                #expect(throws: CodecFault.self) {
                    try decoded(owned(Array(whole.prefix(count))), workspace)
                }
            }
        }
    }
}
