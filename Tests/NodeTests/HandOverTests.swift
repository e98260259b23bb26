// SPDX-License-Identifier: Apache-2.0
import KVCore
import Telemetry
import Testing
import Tiers

@testable import Node

private let key = (0..<HandOver.keyByteCount).map { UInt8($0) }

/// For nodes that store nothing.
private let arena = OwnedBytes(count: 1 << 20, alignment: 4_096)

private func node(_ change: (inout NodeConfiguration) -> Void) throws -> Node {
    var configuration = NodeConfiguration()
    change(&configuration)
    let capacity = try #require(RAMTier.Capacity(budget: .mebibytes(1)))
    return Node(
        configuration: configuration,
        tier: RAMTier(
            arena: arena.bytes.prefix(capacity.arenaByteCount), capacity: capacity, seed: 1),
        sharedMemory: nil,
        metrics: Metrics(), nodeID: 1, now: Instant(nanoseconds: 0))
}

private func refusal(_ name: String, _ node: Node) -> NotResumed? {
    do throws(NotResumed) {
        _ = try node.resume(name, HandOver(key: key, sizes: ValueSizes.Known(last: 1)))
        return nil
    } catch {
        return error
    }
}

@Suite struct `What one daemon tells the next` {
    @Test func `comes back as it went`() throws {
        var sizes = ValueSizes.Known(last: 123)
        for number in 0..<UInt64(Limits.respFamilyCountMax) {
            sizes.byteCountByFamily[number &* 0x9e37_79b9_7f4a_7c15] = Int(number) << 10
        }
        let memory = OwnedBytes(count: HandOver.byteCount)
        memory.bytes.fill(0xff)
        HandOver(key: key, sizes: sizes).encode(into: memory.bytes)
        let read = try #require(HandOver(memory.bytes))
        #expect(read.key == key)
        #expect(read.sizes == sizes)
        #expect(read.mark(of: [1, 2]) == HandOver.mark(of: [1, 2], key))
        withExtendedLifetime(memory) {}
    }

    @Test func `is refused when any byte of it has changed`() {
        let memory = OwnedBytes(count: HandOver.byteCount)
        let bytes = memory.bytes
        HandOver(key: key, sizes: ValueSizes.Known(last: 5)).encode(into: bytes)
        for offset in 0..<bytes.count where offset < 100 || offset.isMultiple(of: 97) {
            bytes.store(bytes[offset] ^ 0x10, at: offset)
            #expect(HandOver(bytes) == nil, "\(offset)")
            bytes.store(bytes[offset] ^ 0x10, at: offset)
        }
        #expect(HandOver(bytes) != nil)
        #expect(HandOver(bytes.prefix(bytes.count - 1)) == nil)
        withExtendedLifetime(memory) {}
    }

    @Test(arguments: [
        KeptSession(.lm), KeptSession(.resp(version: 2, .open)),
        KeptSession(.resp(version: 3, .password(mark: HandOver.mark(of: [7], key)))),
    ])
    func `has names that say where a connection stands`(session: KeptSession) {
        #expect(KeptSession(name: session.name) == session)
        // What systemd takes for a name (sd_pid_notify_with_fds(3)).
        #expect(session.name.utf8.count <= 64)
        #expect(session.name.utf8.allSatisfy { $0 > 32 && $0 < 127 && $0 != UInt8(ascii: ":") })
        for name in [session.name + "0", "x" + session.name, String(session.name.dropLast())] {
            #expect(KeptSession(name: name) == nil, "\(name)")
        }
        // All of them fit one environment variable.
        #expect(Limits.keptConnectionCountMax * (session.name.utf8.count + 1) < 100_000)
    }

    @Test func `is judged by the listeners and passwords there are now`() throws {
        let right: [UInt8] = [1, 2, 3]
        let mark = HandOver.mark(of: right, key)
        let closed = try node { _ in }
        let open = try node {
            $0.resp = RESPConfiguration(namespace: NamespaceID(number: 1))
            $0.lm = LMConfiguration(namespace: NamespaceID(number: 2))
        }
        let guarded = try node {
            $0.resp = RESPConfiguration(namespace: NamespaceID(number: 1))
            $0.resp?.passwords = [[9], right]
        }
        let (lm, free) = ("kvstored-1-lm", "kvstored-1-resp-3-open")
        #expect(refusal(lm, open) == nil)
        #expect(refusal(free, open) == nil)
        #expect(refusal("kvstored-1-resp-2-\(mark)", open) == nil)
        #expect(refusal("kvstored-1-resp-2-\(mark)", guarded) == nil)
        #expect(refusal(free, guarded) == .password)
        let other = HandOver.mark(of: [4], key)
        #expect(refusal("kvstored-1-resp-2-\(other)", guarded) == .password)
        for name in [lm, free] { #expect(refusal(name, closed) == .noListener) }
        #expect(refusal(lm, guarded) == .noListener)
        #expect(refusal("kvstored-1-native", open) == .unknown)
    }

    @Test(arguments: [
        ("0.0.0.0", 1, true), ("::", 1, true), ("127.0.0.1", 1, true), ("127.0.0.1", 2, false),
        ("10.0.0.7", 1, false), ("0.0.0.0", 2, false),
    ])
    func `is about listeners that would have accepted it`(
        host: String, port: UInt16, expected: Bool
    ) {
        let own = StreamAddress.tcp(host: "127.0.0.1", port: 1)
        #expect(StreamAddress.tcp(host: host, port: port).covers(own) == expected)
        #expect(!StreamAddress.unix(path: "/x").covers(own))
    }
}
