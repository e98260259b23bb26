// SPDX-License-Identifier: Apache-2.0

package import Synchronization

/// One 64-bit cell for every `Metric`. Any thread; no operation allocates, locks or waits.
///
/// The order of updates to different cells is not kept: a snapshot is exact for each cell alone.
package final class Metrics: Sendable {
    @usableFromInline
    let cells: [112 of Atomic<UInt64>]

    /// All metrics at 0.
    package init() {
        precondition(Metric.allCases.count <= 112, "more metrics than cells")
        cells = InlineArray { _ in Atomic(0) }
    }

    /// Adds to a counter, or to a gauge that follows events; wraps around after 2^64.
    @inlinable
    package func add(_ metric: Metric, _ amount: Int = 1) {
        cells[metric.rawValue].wrappingAdd(UInt64(bitPattern: Int64(amount)), ordering: .relaxed)
    }

    /// Subtracts from a gauge that follows events.
    @inlinable
    package func subtract(_ metric: Metric, _ amount: Int = 1) {
        add(metric, -amount)
    }

    /// Sets a gauge.
    @inlinable
    package func set(_ metric: Metric, to value: UInt64) {
        cells[metric.rawValue].store(value, ordering: .relaxed)
    }

    /// What the metric shows now.
    @inlinable
    package func value(_ metric: Metric) -> UInt64 {
        cells[metric.rawValue].load(ordering: .relaxed)
    }

    /// All metrics in the order of their declaration, for STAT. Allocates the array.
    package func snapshot() -> [(name: String, value: UInt64)] {
        Metric.allCases.map { ($0.facts.name, value($0)) }
    }
}
