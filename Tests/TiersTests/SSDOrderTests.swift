// SPDX-License-Identifier: Apache-2.0
import KVCore
import LinuxIO
import Synchronization
import Testing

@testable import Tiers

/// What ran, in its order. Any thread.
private final class Journal: Sendable {
    private let lines = Mutex<[String]>([])

    var all: [String] { lines.withLock { $0 } }

    func note(_ line: String) { lines.withLock { $0.append(line) } }
}

extension SSDStore {
    /// A check, and in another function what depends on it, with a task that waits for its turn.
    fileprivate func checkAndAct(_ journal: Journal) async {
        journal.note("check")
        spawn { _ in journal.note("another task") }
        await act(journal)
    }

    fileprivate func act(_ journal: Journal) async { journal.note("act") }

    fileprivate func checkAndActOnOwnTask(_ journal: Journal) async {
        await onOwnTask { await $0.checkAndAct(journal) }
    }

    fileprivate func checkAndActInTime(_ journal: Journal, by deadline: Instant) async -> Bool {
        await onOwnTask(by: deadline, orElse: false) { store in
            await store.checkAndAct(journal)
            return true
        }
    }
}

@Suite struct `Calls of a store from a task of another thread` {
    @Test func `let nobody in between a check and what depends on it`() async throws {
        let directories = try TestDirectories()
        let other = try RingReactor(.small)
        defer {
            other.stop()
            other.join()
        }
        try await withStore(StoreOptions(directories)) { test in
            for round in 0..<20 {
                let journal = Journal()
                let (store, soon) = (test.store, test.soon)
                let task = Task(executorPreference: other.executor) {
                    guard round.isMultiple(of: 2) else {
                        return await store.checkAndActInTime(journal, by: soon)
                    }
                    await store.checkAndActOnOwnTask(journal)
                    return true
                }
                #expect(await task.value)
                try await test.until("the other task has run") { _ in journal.all.count == 3 }
                #expect(journal.all == ["check", "act", "another task"])
            }
        }
    }

    @Test func `give up at their deadline, and what they began goes on`() async throws {
        let directories = try TestDirectories()
        try await withStore(StoreOptions(directories)) { test in
            let journal = Journal()
            let gate = Outcome<Bool>()
            let soon = test.now.adding(milliseconds: 5)
            let isInTime = await test.store.onOwnTask(by: soon, orElse: false) { _ in
                _ = await gate.wait()
                journal.note("ended")
                return true
            }
            #expect(!isInTime && journal.all.isEmpty)
            gate.end(true)
            try await test.until("it goes on") { _ in journal.all == ["ended"] }
        }
    }
}
