// SPDX-License-Identifier: Apache-2.0
package import KVCore
internal import Kernels

/// K or V. A model with one latent vector per token has K alone.
package enum KVKind: UInt8, Hashable, Sendable, CaseIterable {
    case keys = 0
    case values = 1
}

/// What the fields of a layout description say about the tensor in a payload
/// (docs/container-format.md, section 3). A value; any thread.
package struct KVLayout: Hashable, Sendable {
    /// Hash of the description.
    package let id: LayoutID
    /// The canonical description.
    package let description: [UInt8]
    package let type: ValueType
    package let layerCount: Int
    package let headCount: Int
    /// Channels of a head of K.
    package let keyChannelCount: Int
    /// Channels of a head of V; 0 when there is no V.
    package let valueChannelCount: Int
    /// How K is rotated; nil when it is not, or nobody knows how.
    package let rotation: RotationRule?
    let axes: AxisOrder
    /// Tokens of a block; 0 when tokens are not in blocks.
    let blockTokenCount: Int
    let leadByteCount: Int
    let leadByteCountPerToken: Int
    let sectionLeadByteCount: Int

    /// Reads a canonical description; nil when it does not say where each value stands, or is not
    /// canonical. Allocates.
    package init?(description: [UInt8]) {
        guard let fields = LayoutFields(description), let type = fields.text("dtype"),
            let type = ValueType(name: type), let axes = fields.text("axes"),
            let axes = AxisOrder(axes), let layers = fields.number("layers", 1...4_096),
            let heads = fields.number("kv_heads", 1...65_536, default: 1),
            let channels = fields.number("head_dim", 1...65_536),
            let valueChannels = fields.number("value_dim", 1...65_536, default: channels),
            let block = fields.number(
                "block_tokens", 1...Self.tokenCountMax,
                default: axes.keys.contains(.block) ? nil : 0),
            let lead = fields.number("lead_bytes", 0...Limits.chunkByteCountMax, default: 0),
            let leadPerToken = fields.number("lead_bytes_per_token", 0...65_536, default: 0),
            let sectionLead = fields.number("section_lead_bytes", 0...65_536, default: 0),
            heads * max(channels, valueChannels) <= Self.columnCountMax,
            sectionLead == 0 || axes.hasRunsOfSections, heads == 1 || axes.hasHeads
        else { return nil }
        self.description = description
        id = Self.id(of: description)
        self.type = type
        self.axes = axes
        layerCount = layers
        headCount = heads
        keyChannelCount = channels
        valueChannelCount = axes.values.isEmpty ? 0 : valueChannels
        blockTokenCount = axes.keys.contains(.block) ? block : 0
        leadByteCount = lead
        leadByteCountPerToken = leadPerToken
        sectionLeadByteCount = sectionLead
        rotation = RotationRule(fields, channelCount: channels)
    }

    /// Columns of a section.
    package static let columnCountMax = 65_536
    /// Tokens of a chunk.
    package static let tokenCountMax = 1 << 20
    /// Values of a section: what a decoder needs memory for.
    package static let sectionValueCountMax = 1 << 22

    package static func id(of description: [UInt8]) -> LayoutID {
        guard let id = LayoutID(bytes: Array(secureHash(description).prefix(LayoutID.byteCount)))
        else { preconditionFailure("SHA-256 gives 32 bytes") }
        return id
    }

    /// K, and V if there is one.
    package var kinds: [KVKind] { valueChannelCount == 0 ? [.keys] : [.keys, .values] }

    package func channelCount(_ kind: KVKind) -> Int {
        kind == .keys ? keyChannelCount : valueChannelCount
    }

    /// C: values of a token in one layer.
    package func columnCount(_ kind: KVKind) -> Int { headCount * channelCount(kind) }

    /// T of a payload; nil when no number of tokens has this byte count.
    package func tokenCount(payloadByteCount: Int) -> Int? {
        let values = layerCount * (columnCount(.keys) + columnCount(.values))
        let perToken = leadByteCountPerToken + values * type.byteCount
        let fixed = leadByteCount + sectionLeadByteCount * layerCount * kinds.count
        let (count, rest) = (payloadByteCount - fixed).quotientAndRemainder(dividingBy: perToken)
        guard payloadByteCount > fixed, rest == 0, count <= Self.tokenCountMax,
            count * max(columnCount(.keys), columnCount(.values)) <= Self.sectionValueCountMax,
            blockTokenCount == 0 || count.isMultiple(of: blockTokenCount)
        else { return nil }
        return count
    }
}

/// The rotary embedding of K, as a description tells it.
package struct RotationRule: Hashable, Sendable {
    package let theta: Double
    package let isInterleaved: Bool
    /// Channels of a head that turn, an even number, and the first of them.
    package let channelCount: Int
    package let firstChannel: Int

    /// Nil without `rope_theta`, with scaled frequencies, or where the numbers do not fit.
    init?(_ fields: LayoutFields, channelCount: Int) {
        guard let theta = fields.real("rope_theta"), theta.isFinite, theta > 0,
            (fields.text("rope_scaling") ?? "none") == "none",
            let count = fields.number("rope_dim", 2...channelCount, default: channelCount),
            let first = fields.number("rope_offset", 0...channelCount, default: 0),
            count.isMultiple(of: 2), count >= 2, first + count <= channelCount
        else { return nil }
        switch fields.text("rope_pairing") ?? "half" {
        case "half": isInterleaved = false
        case "interleaved": isInterleaved = true
        default: return nil
        }
        self.theta = theta
        self.channelCount = count
        firstChannel = first
    }
}
