// SPDX-License-Identifier: Apache-2.0

import Foundation
import Telemetry
import Testing

@Suite struct `The metrics` {
    @Test func `count, go up and down, and are told in order`() {
        let metrics = Metrics()
        metrics.add(.hits)
        metrics.add(.hits, 41)
        metrics.add(.connectionsOpen, 3)
        metrics.subtract(.connectionsOpen)
        metrics.set(.memoryBudget, to: 1 << 30)
        let snapshot = metrics.snapshot()
        #expect(snapshot.map(\.name) == Metric.allCases.map(\.facts.name))
        let values = Dictionary(uniqueKeysWithValues: snapshot.map { ($0.name, $0.value) })
        #expect(values["hits"] == 42)
        #expect(values["connections_open"] == 2)
        #expect(values["memory_budget_bytes"] == 1 << 30)
        #expect(values["misses"] == 0)
    }

    @Test func `lose nothing when several threads count`() {
        let metrics = Metrics()
        DispatchQueue.concurrentPerform(iterations: 4) { _ in
            for _ in 0..<10_000 { metrics.add(.requestsGet) }
        }
        #expect(metrics.value(.requestsGet) == 40_000)
    }

    @Test func `have plain, distinct names that fit the wire`() {
        let names = Metric.allCases.map(\.facts.name)
        #expect(Set(names).count == names.count)
        for name in names {
            #expect(name.wholeMatch(of: /[a-z][a-z0-9_]{1,62}/) != nil, "\(name)")
        }
    }
}
