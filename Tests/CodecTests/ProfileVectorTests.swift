// SPDX-License-Identifier: Apache-2.0
import KVCore
import Kernels
import Testing

@testable import Codec

/// Containers that a second writer made from docs/container-format.md, each with its profile.
@Suite struct `A container of the vectors, with a profile` {
    private let workspace = CodecWorkspace(valueCountMax: 4_096)

    private func decoded(_ vector: ContainerVector) throws -> OwnedBytes {
        let container = vector.bytes
        defer { withExtendedLifetime(container) {} }
        let layout = try #require(try ContainerReader(container.bytes).layout)
        let known = bytesFromHexadecimal(vector.profile ?? "") ?? []
        return try CodecTests.decoded(container, workspace, try profile(known, layout))
    }

    private func profile(_ bytes: [UInt8], _ layout: KVLayout) throws(CodecFault) -> Profile {
        let memory = owned(bytes)
        defer { withExtendedLifetime(memory) {} }
        return try Profile(memory.bytes, for: layout)
    }

    @Test func `is decoded to its payload`() throws {
        let vectors = try ContainerVector.all("good-profile")
        #expect(vectors.count >= 19)
        for vector in vectors {
            let payload = try decoded(vector)
            #expect(
                array(payload) == vector.payload.flatMap(bytesFromHexadecimal), "\(vector.name)")
        }
    }

    @Test func `has the fault that it should have`() throws {
        let vectors = try ContainerVector.all("bad").filter { $0.profile != nil }
        #expect(vectors.count >= 26)
        for vector in vectors {
            do {
                _ = try decoded(vector)
                Issue.record("\(vector.name): is decoded")
            } catch let fault as CodecFault {
                #expect(fault.rawValue == vector.fault, "\(vector.name)")
            }
        }
    }

    @Test func `is refused, or decoded, but never read past, with any bit flipped`() throws {
        var numbers = SeededNumbers(seed: 12)
        for vector in try ContainerVector.all("good-profile") {
            let container = vector.bytes
            let whole = array(container)
            let known = bytesFromHexadecimal(vector.profile ?? "") ?? []
            let layout = try #require(try ContainerReader(container.bytes).layout)
            let profile = try profile(known, layout)
            for _ in 0..<60 {
                var damaged = whole
                damaged[Int.random(in: 0..<whole.count, using: &numbers)] ^=
                    1 << UInt8.random(in: 0..<8, using: &numbers)
                do {
                    _ = try CodecTests.decoded(owned(damaged), workspace, profile)
                } catch is CodecFault {}
                var changed = known
                let place = Int.random(in: 0..<known.count, using: &numbers)
                changed[place] ^= 1 << UInt8.random(in: 0..<8, using: &numbers)
                let other = try? self.profile(changed, layout)
                #expect(other?.hash != profile.hash, "\(vector.name), byte \(place), seed 12")
            }
            withExtendedLifetime(container) {}
        }
    }
}
