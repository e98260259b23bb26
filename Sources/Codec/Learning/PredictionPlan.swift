// SPDX-License-Identifier: Apache-2.0

/// Which sections of a layout are predicted from which (docs/container-format.md, section 10). A
/// value.
struct PredictionPlan {
    /// One layer's K or V.
    struct Section {
        let layer: Int
        let kind: KVKind
        let columnCount: Int
    }

    /// In the order of the layout.
    let sections: [Section]
    let group: Int
    let lookback: Int

    init(_ layout: KVLayout, group: Int, lookback: Int) {
        sections = (0..<layout.layerCount).flatMap { layer in
            layout.kinds.map {
                Section(layer: layer, kind: $0, columnCount: layout.columnCount($0))
            }
        }
        self.group = group
        self.lookback = lookback
    }

    /// The places of the sections that one is predicted from, in the order of the matrix' rows.
    func sources(of index: Int) -> [Int] {
        let own = sections[index]
        let before = own.kind == .values ? [index - 1] : []
        let earlier = (1...lookback).map { own.layer - $0 }
            .filter { $0 >= own.layer / group * group }
        return before
            + earlier.flatMap { layer in sections.indices.filter { sections[$0].layer == layer } }
    }

    /// References of a section.
    func referenceCount(of index: Int) -> Int {
        sources(of: index).reduce(0) { $0 + sections[$1].columnCount }
    }

    /// Of the section that has most.
    var referenceCountMax: Int {
        sections.indices.reduce(0) { max($0, referenceCount(of: $1)) }
    }

    /// Bytes that the predictors of all sections take in a profile.
    var byteCount: Int {
        sections.indices.reduce(0) { sum, index in
            let count = sections[index].columnCount
            return sum + count * (13 + referenceCount(of: index) + 6 * count)
        }
    }

    /// Whether a later section is predicted from this one.
    func isReferredTo(_ index: Int) -> Bool {
        let end = min(sections.count, index + 2 + 2 * lookback)
        return (index + 1..<max(index + 1, end)).contains { sources(of: $0).contains(index) }
    }
}
