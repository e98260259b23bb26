// SPDX-License-Identifier: Apache-2.0
import KVCore
import Telemetry
import Testing
import Tiers
import Wire

@testable import Node

/// Time begins.
private let start = Instant(nanoseconds: 0)

private func after(_ milliseconds: UInt64) -> Instant { start.adding(milliseconds: milliseconds) }

/// A tier with one chunk, of which there are as many holds as one wants.
private struct Holds {
    let arena: OwnedBytes
    let tier: RAMTier

    init() throws {
        let capacity = try #require(RAMTier.Capacity(budget: .mebibytes(1)))
        arena = OwnedBytes(count: capacity.arenaByteCount, alignment: 4_096)
        tier = RAMTier(arena: arena.bytes, capacity: capacity, seed: 1)
        let proposal = ChunkProposal(
            namespace: .default, key: key(1), layout: .opaque, byteCount: 10)
        guard case .reserved(let reservation) = tier.reserve(proposal, now: start) else {
            Issue.record("no room")
            return
        }
        #expect(reservation.commit(checksum: 1) == .ok)
    }

    func take() throws -> Hold {
        guard let held = tier.hold(.default, key(1), now: start) else { throw Status.notFound }
        return held.escape()
    }

    var count: Int { tier.statistics().holdCount }
}

@Suite struct `A lease table` {
    @Test func `hands a hold back when its lease ends, once`() throws {
        let holds = try Holds()
        var table = LeaseTable()
        let id = table.grant(try holds.take(), until: after(10))
        #expect(id != 0)
        let granted = table.count
        #expect(granted == 1)
        let hold = try required(table.end(id))
        holds.tier.release(hold)
        let again = table.end(id)
        #expect(again == nil)
        let left = table.count
        #expect(left == 0)
        #expect(holds.count == 0)
    }

    @Test func `knows no lease that it did not grant`() throws {
        let holds = try Holds()
        var table = LeaseTable()
        let before = table.end(1 << 16)
        #expect(before == nil)
        let id = table.grant(try holds.take(), until: after(10))
        for other in [0, id + 1, id ^ 1 << 16, id | 0xffff, .max] as [UInt64] {
            let ended = table.end(other)
            #expect(ended == nil, "\(other)")
        }
        table.endAll { holds.tier.release($0) }
        #expect(holds.count == 0)
    }

    @Test func `uses slots again, and no id of their past ends what is in them now`() throws {
        let holds = try Holds()
        var table = LeaseTable()
        var past: [UInt64] = []
        for _ in 0..<100 {
            let id = table.grant(try holds.take(), until: after(10))
            #expect(id & 0xffff == 0, "the one slot is used again")
            for stale in past {
                let ended = table.end(stale)
                #expect(ended == nil)
            }
            holds.tier.release(try required(table.end(id)))
            past.append(id)
        }
        #expect(Set(past).count == past.count)
        #expect(holds.count == 0)
    }

    @Test func `ends leases at their expiry, not before`() throws {
        let holds = try Holds()
        var table = LeaseTable()
        var ids: [UInt64] = []
        for milliseconds in 1...10 as ClosedRange<UInt64> {
            ids.append(table.grant(try holds.take(), until: after(milliseconds)))
        }
        table.endExpired(by: after(4)) { holds.tier.release($0) }
        let left = table.count
        #expect(left == 6)
        #expect(holds.count == 6)
        let expired = table.end(ids[3])
        #expect(expired == nil)
        let live = try required(table.end(ids[4]))
        holds.tier.release(live)
        table.endAll { holds.tier.release($0) }
        #expect(holds.count == 0)
    }

    @Test func `agrees with a dictionary, whatever happens`() throws {
        let seed = UInt64.random(in: 0 ... .max)
        var random = Lehmer(seed: seed)
        let holds = try Holds()
        var table = LeaseTable()
        var model: [UInt64: UInt64] = [:]
        var past: [UInt64] = []
        for step in 0..<5_000 as Range<UInt64> {
            switch random.next() % 8 {
            case 0..<4:
                let expiry = step + random.next() % 200
                let id = table.grant(try holds.take(), until: after(expiry))
                #expect(model.updateValue(expiry, forKey: id) == nil, "seed \(seed)")
                past.append(id)
            case 4..<7:
                guard let id = past.randomElement(using: &random) else { continue }
                let ended = table.end(id)
                #expect((ended != nil) == (model.removeValue(forKey: id) != nil), "seed \(seed)")
                if let ended { holds.tier.release(ended) }
            default:
                table.endExpired(by: after(step)) { holds.tier.release($0) }
                model = model.filter { $0.value > step }
            }
            let count = table.count
            #expect(count == model.count && holds.count == model.count, "seed \(seed)")
        }
        table.endAll { holds.tier.release($0) }
        #expect(holds.count == 0)
    }
}

@Suite struct `Namespaces` {
    private let registry = NamespaceRegistry([
        NamespaceConfiguration(name: "default"), nil,
        NamespaceConfiguration(
            name: "team", tokens: [[1, 2, 3], [4, 5]], secret: [UInt8](repeating: 9, count: 32),
            sharesMemory: false),
        NamespaceConfiguration(name: "other", tokens: [[7]]),
    ])

    @Test func `have default as the name of the empty name`() {
        for name in ["", "default"] {
            #expect(registry.open(name: name, token: [])?.id == .default)
            // A namespace without tokens is open to everybody.
            #expect(registry.open(name: name, token: [1])?.id == .default)
        }
    }

    @Test func `open with any of their own tokens, and with nothing else`() {
        for token in [[1, 2, 3], [4, 5]] as [[UInt8]] {
            let opened = registry.open(name: "team", token: token)
            #expect(opened?.id == NamespaceID(number: 2))
            #expect(opened?.secret == [UInt8](repeating: 9, count: 32))
            #expect(opened?.sharesMemory == false)
        }
        for token in [[], [1, 2], [1, 2, 3, 0], [4], [7], [0, 0, 0]] as [[UInt8]] {
            #expect(registry.open(name: "team", token: token) == nil, "\(token)")
        }
        #expect(registry.open(name: "other", token: [7])?.id == NamespaceID(number: 3))
    }

    @Test(arguments: ["Default", "tea", "team ", "teams", "nobody", "team\0"])
    func `are found by their whole name only`(name: String) {
        #expect(registry.open(name: name, token: [1, 2, 3]) == nil)
    }

    @Test func `that nobody may use keep their number`() {
        let registry = NamespaceRegistry([nil, NamespaceConfiguration(name: "a")])
        #expect(registry.open(name: "", token: []) == nil)
        #expect(registry.open(name: "a", token: [])?.id == NamespaceID(number: 1))
    }
}

@Suite struct `A scratch pool` {
    @Test func `makes so many buffers and no more, and uses them again`() throws {
        let pool = ScratchPool(bufferCountMax: 3, byteCount: 100)
        let buffers = try (0..<3).map { _ in try #require(pool.take()) }
        #expect(buffers.allSatisfy { $0.bytes.count == 100 })
        #expect(Set(buffers.map { ObjectIdentifier($0) }).count == 3)
        #expect(pool.take() == nil)
        pool.giveBack(buffers[1])
        #expect(pool.take() === buffers[1])
        #expect(pool.take() == nil)
    }
}

@Suite struct `A node's limits` {
    @Test func `refuse one connection too many, until one has ended`() throws {
        let world = try BareNode { $0.connectionCountMax = 2 }
        #expect(world.node.connectionBegan(.native))
        #expect(world.node.connectionBegan(.native))
        #expect(!world.node.connectionBegan(.native))
        #expect(world.node.openConnectionCount == 2)
        world.node.connectionEnded(.native)
        #expect(world.node.connectionBegan(.native))
    }

    @Test func `refuse one RESP connection too many, and count it for nothing`() throws {
        let world = try BareNode {
            $0.resp = RESPConfiguration(namespace: NamespaceID(number: 0))
            $0.resp?.connectionCountMax = 1
        }
        #expect(world.node.connectionBegan(.resp))
        #expect(!world.node.connectionBegan(.resp))
        #expect(world.node.connectionBegan(.lm))
        #expect(world.node.openConnectionCount == 2)
        world.node.connectionEnded(.resp)
        #expect(world.node.connectionBegan(.resp))
    }

    @Test func `refuse one lease too many, until one has ended`() throws {
        let node = try BareNode().node
        for _ in 0..<Limits.leaseCountMax { #expect(node.leaseBegan()) }
        #expect(!node.leaseBegan())
        #expect(node.openLeaseCount == Limits.leaseCountMax)
        node.leaseEnded()
        #expect(node.leaseBegan())
    }

    @Test func `count staging memory in whole`() throws {
        let node = try BareNode { $0.stagingByteCountMax = 100 }.node
        #expect(node.stagingBegan(byteCount: 60))
        #expect(!node.stagingBegan(byteCount: 41))
        #expect(node.stagingBegan(byteCount: 40))
        node.stagingEnded(byteCount: 100)
        #expect(node.openStagingByteCount == 0)
    }
}

/// A generator that is the same everywhere (Lehmer's, 128 bits of state).
struct Lehmer: RandomNumberGenerator {
    private var state: UInt128

    init(seed: UInt64) { state = UInt128(seed) << 1 | 1 }

    mutating func next() -> UInt64 {
        state = state &* 0xda94_2042_e4dd_58b5
        return UInt64(truncatingIfNeeded: state >> 64)
    }
}

/// The value of an optional that a test expects to be there; as `#require`, which cannot call what
/// cannot be copied.
func required<Value>(_ value: Value?) throws -> Value {
    guard let value else { throw Status.notFound }
    return value
}
