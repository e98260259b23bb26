// SPDX-License-Identifier: Apache-2.0

import KVCore
import SimulationKit
import Synchronization
import Testing

/// Runs the echo world under `seed` and gives the hash of everything that happened.
private func echoHash(seed: UInt64) throws -> UInt64 {
    try EchoWorld(seed: seed, faults: NetworkFaults(seed: seed)).run().hash
}

@Suite struct `A seed` {
    @Test(arguments: [7, 8, 9] as [UInt64])
    func `gives the same run twice in one process`(seed: UInt64) throws {
        #expect(try echoHash(seed: seed) == echoHash(seed: seed))
    }

    @Test func `gives another run than its neighbours`() throws {
        let hashes = try (100..<120).map { try echoHash(seed: $0) }
        #expect(Set(hashes).count == hashes.count)
    }

    @Test func `gives the same run in every process`() async throws {
        var outputs: [[UInt8]] = []
        for _ in 0..<2 {
            let result = await #expect(
                processExitsWith: .success, observing: [\.standardOutputContent]
            ) {
                for seed in 40..<45 as Range<UInt64> { print("hash", try echoHash(seed: seed)) }
            }
            outputs.append(result?.standardOutputContent ?? [])
        }
        func hashLines(_ output: [UInt8]) -> [Substring] {
            String(decoding: output, as: UTF8.self).split(separator: "\n")
                .filter { $0.contains("hash ") }
        }
        let here = try (40..<45).map { "hash \(try echoHash(seed: UInt64($0)))" }
        #expect(hashLines(outputs[0]).map(String.init) == here)
        #expect(hashLines(outputs[1]).map(String.init) == here)
    }
}

/// Has no executor of its own, so its jobs belong to the global pool.
private actor Elsewhere {
    func nothing() {}
}

@MainActor private func onMain() {}

@concurrent private func leave() async {}

@Suite struct `A run` {
    /// The reason for which a run of `body` fails, nil when it does not.
    private func failure(
        of body: @escaping @Sendable (SimulatedReactor) async -> Void
    ) -> String? {
        let world = SimulatedWorld(seed: 5)
        let reactor = world.makeReactor(on: "one")
        reactor.start { await body(reactor) }
        var limits = RunLimits()
        limits.stepCountMax = 10_000
        do throws(SimulationFailure) {
            try world.scheduler.run(limits: limits) { reactor.isIdle }
            return nil
        } catch {
            return error.description
        }
    }

    @Test func `keeps detached tasks, default actors and concurrent functions`() {
        let reason = failure { reactor in
            await Task.detached { await Elsewhere().nothing() }.value
            await Elsewhere().nothing()
            await leave()
            await reactor.yield()
        }
        #expect(reason == nil)
    }

    @Test func `traps when a reactor is used from the pool`() async {
        await #expect(processExitsWith: .failure) {
            let world = SimulatedWorld(seed: 5)
            let reactor = world.makeReactor(on: "one")
            reactor.start { await Task.detached { await reactor.yield() }.value }
            try world.scheduler.run { reactor.isIdle }
        }
    }

    @Test func `fails when a job goes to the main actor`() {
        let reason = failure { _ in await onMain() }
        #expect(reason?.contains("seed=5") == true)
    }

    @Test func `fails when a task sleeps by Swift's own clock`() {
        let reason = failure { _ in
            do { try await Task.sleep(for: .seconds(3_600)) } catch { return }
        }
        #expect(reason?.contains("stuck") == true)
    }

    @Test func `keeps structured tasks and plain tasks of an actor`() {
        let reason = failure { reactor in
            async let first: Void = Elsewhere().nothing()
            await withTaskGroup(of: Void.self) { group in
                for _ in 0..<3 { group.addTask { await leave() } }
            }
            await first
            await Task.yield()
            await reactor.yield()
        }
        #expect(reason == nil)
    }

    @Test func `is stuck when nothing will happen any more`() {
        let reason = failure { reactor in
            await withCheckedContinuation { (never: CheckedContinuation<Void, Never>) in
                kept.withLock { $0.append(never) }
            }
        }
        #expect(reason?.contains("nothing is ready") == true)
    }

    @Test func `is stuck when it takes too many steps`() {
        let reason = failure { reactor in while true { await reactor.yield() } }
        #expect(reason?.contains("over 10000 steps") == true)
    }

    @Test func `passes time only as far as the code asks`() throws {
        let world = SimulatedWorld(seed: 1)
        let reactor = world.makeReactor(on: "one")
        let begin = reactor.now()
        reactor.start {
            do throws(IOFault) {
                try await reactor.sleep(until: begin.adding(milliseconds: 1_800_000))
            } catch {
                Issue.record("sleep was cut short: \(error)")
            }
        }
        try world.scheduler.run { reactor.isIdle }
        #expect(begin.milliseconds(until: reactor.now()) == 1_800_000)
    }

    @Test func `cancels sleepers when their reactor stops`() throws {
        let world = SimulatedWorld(seed: 1)
        let reactor = world.makeReactor(on: "one")
        let outcome = Box<IOFault?>(nil)
        reactor.start {
            do throws(IOFault) {
                try await reactor.sleep(until: .distantFuture)
            } catch {
                outcome.value = error
            }
        }
        try world.scheduler.runUntilQuiescent()
        try world.end()
        #expect(outcome.value == .cancelled)
    }
}

/// Continuations that nobody resumes, kept so that the runtime does not complain of a leak.
private let kept = Mutex<[CheckedContinuation<Void, Never>]>([])
