// SPDX-License-Identifier: Apache-2.0
import Codec
import KVCore
import Testing

@testable import Node

@Suite struct `The plan for a level` {
    @Test func `decodes for raw, and leaves raw chunks alone`() {
        #expect(LevelPlan(stored: .raw, wanted: .raw) == .asStored)
        for stored in Level.allCases where stored != .raw {
            #expect(LevelPlan(stored: stored, wanted: .raw) == .decode)
        }
    }

    @Test func `never makes finer what is stored`() {
        for stored in Level.allCases {
            for wanted in Level.allCases where wanted != .raw {
                let plan = LevelPlan(stored: stored, wanted: wanted)
                #expect(plan == (stored >= wanted ? .asStored : .encode(wanted)))
            }
        }
    }
}

@Suite struct `The choice of a level` {
    private func choice(
        _ millisecondsLeft: UInt64, bytesPerSecond: UInt64, index: Int = 5, remaining: Int = 1,
        rawByteCount: Int = 10_000_000
    ) -> Level {
        LevelChoice(
            millisecondsLeft: millisecondsLeft, bytesPerSecond: bytesPerSecond, index: index,
            remainingCount: remaining, rawByteCount: rawByteCount, costs: LevelCosts()
        ).level()
    }

    @Test func `is raw when there is time`() {
        #expect(choice(1_000, bytesPerSecond: 100_000_000) == .raw)
        #expect(choice(10_000, bytesPerSecond: 100_000_000, remaining: 50) == .raw)
    }

    @Test func `gets coarser with less time, with a slower way and with more to send`() {
        let times: [UInt64] = [500, 120, 100, 40, 30, 20, 10, 1, 0]
        let byTime = times.map { choice($0, bytesPerSecond: 100_000_000) }
        #expect(byTime == byTime.sorted())
        #expect(Set(byTime).count > 3)
        let rates: [UInt64] = [1_000_000_000, 100_000_000, 30_000_000, 20_000_000, 1_000_000, 0]
        let byRate = rates.map { choice(120, bytesPerSecond: $0) }
        #expect(byRate == byRate.sorted())
        let byCount = [1, 2, 4, 8, 100].map {
            choice(200, bytesPerSecond: 100_000_000, remaining: $0)
        }
        #expect(byCount == byCount.sorted())
        #expect(byCount.first != byCount.last)
    }

    @Test func `is the coarsest when nothing helps`() {
        #expect(choice(0, bytesPerSecond: 1) == .coarsest)
    }

    @Test func `is a level finer for the first chunk`() {
        for milliseconds in 0..<150 as Range<UInt64> {
            let first = choice(milliseconds, bytesPerSecond: 100_000_000, index: 0)
            let later = choice(milliseconds, bytesPerSecond: 100_000_000, index: 1)
            #expect(first < later || later == .raw && first == .raw)
        }
    }

    @Test func `follows what was measured`() {
        var costs = LevelCosts()
        let before = costs[.standard]
        for _ in 0..<100 {
            costs.note(
                .standard, rawByteCount: 1_000_000, byteCount: 500_000, nanoseconds: 5_000_000)
        }
        #expect(abs(costs[.standard].share - 0.5) < 0.001)
        #expect(abs(costs[.standard].secondsPerByte - 5e-9) < 1e-11)
        #expect(costs[.standard] != before)
        costs.note(.raw, rawByteCount: 1, byteCount: 100, nanoseconds: 1)
        #expect(costs[.raw].share == 1)
    }

    @Test func `learns the rate of a connection, within bounds`() {
        var rate = SendRate()
        for _ in 0..<100 { rate.note(byteCount: 10_000_000, nanoseconds: 1_000_000_000) }
        #expect((9_900_000...10_100_000).contains(rate.bytesPerSecond))
        for _ in 0..<100 { rate.note(byteCount: Int.max / 2, nanoseconds: 0) }
        #expect(rate.bytesPerSecond <= 1_000_000_000_000)
    }
}

@Suite struct `An errand` {
    @Test func `has the value of who ends it first`() async {
        let errand = Errand<Int>()
        #expect(errand.isOpen)
        #expect(errand.end(1))
        #expect(!errand.isOpen)
        #expect(!errand.end(2))
        #expect(!errand.end(nil))
        #expect(await errand.wait() == 1)
    }

    @Test func `wakes who waits, also when it is given up`() async {
        for value in [nil, 7] as [Int?] {
            let errand = Errand<Int>()
            async let result = errand.wait()
            await Task.yield()
            errand.end(value)
            #expect(await result == value)
        }
    }
}
