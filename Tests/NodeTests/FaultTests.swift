// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVClient
import KVCore
import LinuxIO
import Node
import Testing
import Tiers
import Wire

/// Every kind of operation that a node's reactor performs, and how many of each the workload needs
/// at most.
private struct FaultPlan: Sendable, CustomTestStringConvertible {
    let options: WorldOptions
    let kind: OperationKind
    let skipCountMax: Int

    var testDescription: String { "\(options.testDescription), \(kind)" }

    static let all = WorldOptions.all.flatMap { options in
        [(OperationKind.accept, 1), (.receive, 14), (.send, 12), (.sendMessage, 4)].map {
            FaultPlan(options: options, kind: $0.0, skipCountMax: $0.1)
        }
    }
}

/// A bit of everything that clients ask for. Checks what it gets; throws what fails.
private struct Workload {
    let client: Client<RingReactor>
    let deadline: Instant
    private let byteCount = 150_000
    private let number: UInt64

    init(_ client: Client<RingReactor>, number: UInt64) {
        self.client = client
        self.number = number
        deadline = client.soon
    }

    /// Does every step, also after one that failed.
    /// - Returns: the errors.
    func run() async -> [any Error] {
        var errors: [any Error] = []
        for step in [store, read, readInPlace, writeInPlace, look] {
            do {
                try await step()
            } catch {
                errors.append(error)
            }
        }
        return errors
    }

    private func store() async throws {
        let bytes = chunk(number, count: byteCount)
        _ = try await client.put(
            ChunkLabel(key: key(number)), bytes.bytes, deadline: deadline)
        withExtendedLifetime(bytes) {}
    }

    private func check(_ bytes: PinnedBytes, _ number: UInt64) {
        let expected = chunk(number, count: byteCount)
        #expect(bytes.holds(sameAs: expected.bytes))
    }

    private func read() async throws {
        guard let found = try await client.fetch(key(number), deadline: deadline) else { return }
        check(found.bytes, number)
        withExtendedLifetime(found) {}
    }

    private func readInPlace() async throws {
        _ = try await client.connect(deadline: deadline)
        guard client.sharesMemory else { return }
        let outcomes = try await client.lease([key(number)], deadline: deadline)
        guard case .leased(let leased) = outcomes[0] else { return }
        check(leased.bytes, number)
        // Half of the leases end with their connection instead.
        guard number.isMultiple(of: 2) else { return }
        _ = try await client.release([leased.id], deadline: deadline)
    }

    private func writeInPlace() async throws {
        _ = try await client.connect(deadline: deadline)
        guard client.sharesMemory else { return }
        let bytes = chunk(number + 1_000, count: byteCount)
        _ = try await client.putInPlace(
            ChunkLabel(key: key(number + 1_000)), bytes.bytes, deadline: deadline)
        guard let found = try await client.fetch(key(number + 1_000), deadline: deadline)
        else { return }
        check(found.bytes, number + 1_000)
        withExtendedLifetime(found) {}
    }

    private func look() async throws {
        let keys = [key(number), key(number + 1)]
        _ = try await client.lookup(keys, .everyKey, deadline: deadline)
        _ = try await client.chunkStatistics(keys[0], deadline: deadline)
        _ = try await client.delete([keys[1]], deadline: deadline)
        try await client.ping(deadline: deadline)
    }
}

@Suite struct `A fault in any operation of a node` {
    private static let failures = [EIO, ECONNRESET, ENOBUFS, EMFILE].map {
        InjectedFault.failure(errorNumber: $0)
    }

    @Test(arguments: FaultPlan.all)
    private func `costs at most the connection`(plan: FaultPlan) async throws {
        for skipCount in 0...plan.skipCountMax {
            let fault = Self.failures[skipCount % Self.failures.count]
            try await run(plan, fault, skipCount: skipCount)
        }
    }

    @Test(arguments: FaultPlan.all.filter { $0.kind == .receive || $0.kind == .send })
    private func `that only cuts a transfer short is not noticed`(
        plan: FaultPlan
    ) async throws {
        for skipCount in 0...plan.skipCountMax {
            for byteCount in [1, 50] as [UInt32] {
                try await withNode(plan.options) { world in
                    await world.door.inject(
                        .short(byteCount: byteCount), into: plan.kind, skipCount: skipCount)
                    let client = world.client()
                    let errors = await Workload(client, number: 1).run()
                    #expect(errors.isEmpty, "\(plan.kind) \(skipCount): \(errors)")
                    client.close()
                }
            }
        }
    }

    @Test(arguments: WorldOptions.all)
    private func `lets it accept again, whatever the kernel said`(
        options: WorldOptions
    ) async throws {
        for number in [EMFILE, ENFILE, ENOMEM, ECONNABORTED, ECONNRESET, EPROTO, EPIPE, EINTR] {
            try await withNode(options) { world in
                // The first accept is under way: the fault meets the second.
                await world.door.inject(
                    .failure(errorNumber: number), into: .accept, skipCount: 0)
                for _ in 0..<3 {
                    let client = world.client()
                    try await client.ping(deadline: client.soon)
                    client.close()
                }
            }
        }
    }

    private func run(
        _ plan: FaultPlan, _ fault: InjectedFault, skipCount: Int
    ) async throws {
        let what = Comment("\(plan.testDescription): \(fault) after \(skipCount)")
        try await withNode(plan.options) { world in
            await world.door.inject(fault, into: plan.kind, skipCount: skipCount)
            let client = world.client()
            for error in await Workload(client, number: UInt64(skipCount)).run() {
                let kind = (error as? ClientError)?.kind
                #expect(kind != .damaged && kind != .brokenAnswer && kind != nil, what)
                #expect(kind != .deadlineExceeded, what)
            }
            client.close()
            try await world.until(what) { $0.node.openConnectionCount == 0 }
            world.expectNothingHeld(what)
            // The fault may still be to come, but it comes once.
            var errors: [any Error] = []
            for attempt in 0..<2 as Range<UInt64> {
                let fresh = world.client()
                errors = await Workload(fresh, number: 100 + attempt).run()
                fresh.close()
                if errors.isEmpty { break }
            }
            #expect(errors.isEmpty, what)
        }
    }
}
