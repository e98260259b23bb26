// SPDX-License-Identifier: Apache-2.0

/// How mode cachegen chooses its steps at a level. A value.
///
/// Steps are uniform and entropy coding does the rest, so CacheGen's numbers of bins become steps
/// per standard deviation: K gets finer ones than V, early layers finer ones than late layers, and
/// each row of V follows its own spread. Measured (docs/container-format.md, section 13): on
/// SmolLM2, at the same bytes, rows of V with one step have three times the divergence, layers with
/// one step nearly twice. Columns of K with steps of their own, a little, gain nothing there, but a
/// third on Gemma 3, some of whose channels are far larger than the others.
package struct QuantisationRule: Hashable, Sendable {
    /// The base step over the root mean square of a section's values without their means.
    package var keyStep: Float
    package var valueStep: Float
    /// Of the first, the middle and the last third of the layers.
    package var layerFactors: [Float]
    /// How far a column's step follows its own spread, in eighths of its logarithm.
    package var keySlope: UInt8
    package var valueSlope: UInt8
    /// How far a row's step follows its own spread: 0 not at all, 1 wholly.
    package var valueRowExponent: Float

    package init(
        keyStep: Float, valueStep: Float, layerFactors: [Float] = [0.7, 1, 1.3],
        keySlope: UInt8 = 2, valueSlope: UInt8 = 0, valueRowExponent: Float = 1
    ) {
        self.keyStep = keyStep
        self.valueStep = valueStep
        self.layerFactors = layerFactors
        self.keySlope = keySlope
        self.valueSlope = valueSlope
        self.valueRowExponent = valueRowExponent
    }

    /// The rule of a lossy level; nil for a level without loss.
    package init?(_ level: Level) {
        switch level {
        case .raw, .zstd, .lossless: return nil
        case .fine: self.init(keyStep: 0.20, valueStep: 0.25)
        case .standard: self.init(keyStep: 0.30, valueStep: 0.40)
        case .coarse: self.init(keyStep: 0.60, valueStep: 0.75)
        case .coarsest: self.init(keyStep: 1.20, valueStep: 1.40)
        }
    }

    /// What the rule says about one layer's K or V.
    func layerRule(_ kind: KVKind, layer: Int, of layerCount: Int) -> Quantised.LayerRule {
        let third = layerFactors[min(2, 3 * layer / layerCount)]
        return switch kind {
        case .keys:
            Quantised.LayerRule(step: third * keyStep, slope: keySlope, rowExponent: 0)
        case .values:
            Quantised.LayerRule(
                step: third * valueStep, slope: valueSlope, rowExponent: valueRowExponent)
        }
    }
}
