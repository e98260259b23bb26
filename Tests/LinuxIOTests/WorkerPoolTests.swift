// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVCore
import Synchronization
import Testing

@testable import LinuxIO

@Suite struct `A worker pool` {
    @Test(arguments: [1, 3])
    func `runs all that it took, once`(threadCount: Int) throws {
        var options = WorkerPool.Options()
        options.threadCount = threadCount
        options.waitingCountMax = 1_000
        options.niceness = 1
        let pool = try WorkerPool(options)
        let box = Box(counts: [Int](repeating: 0, count: 1_000))
        for number in 0..<1_000 { #expect(pool.submit { box.count(number) }) }
        pool.stop()
        pool.join()
        #expect(box.all == [Int](repeating: 1, count: 1_000))
        #expect(pool.waitingCount == 0)
    }

    @Test func `takes no more than may wait, and goes on when there is room`() throws {
        var options = WorkerPool.Options()
        options.waitingCountMax = 3
        let pool = try WorkerPool(options)
        let (gate, hasBegun) = (Gate(), Gate())
        let box = Box(counts: [0])
        #expect(
            pool.submit {
                hasBegun.open()
                gate.wait()
            })
        hasBegun.wait()
        for _ in 0..<3 { #expect(pool.submit { box.count(0) }) }
        #expect(pool.waitingCount == 3)
        #expect(!pool.submit { box.count(0) })
        gate.open()
        pool.stop()
        pool.join()
        #expect(box.all == [3])
    }

    @Test func `takes nothing after its stop, and finishes what waits`() throws {
        let pool = try WorkerPool(WorkerPool.Options())
        let gate = Gate()
        let box = Box(counts: [0])
        #expect(pool.submit { gate.wait() })
        #expect(pool.submit { box.count(0) })
        pool.stop()
        #expect(!pool.submit { box.count(0) })
        gate.open()
        pool.join()
        #expect(box.all == [1])
    }
}

/// Counters for closures on other threads.
private final class Box: Sendable {
    private let counts: Mutex<[Int]>

    init(counts: [Int]) { self.counts = Mutex(counts) }

    func count(_ place: Int) { counts.withLock { $0[place] += 1 } }
    var all: [Int] { counts.withLock { $0 } }
}

/// What a thread waits at until another opens it.
private final class Gate: Sendable {
    private let isOpen = Atomic<Bool>(false)

    func open() { isOpen.store(true, ordering: .releasing) }

    func wait() {
        while !isOpen.load(ordering: .acquiring) { sched_yield() }
    }
}
