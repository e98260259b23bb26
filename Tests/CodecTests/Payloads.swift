// SPDX-License-Identifier: Apache-2.0

import Codec
import KVCore
import Kernels

/// Numbers that come again with the same seed (SplitMix64).
struct SeededNumbers: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }

    /// About normal: the sum of twelve uniform numbers, less their mean.
    mutating func normal() -> Float {
        (0..<12).reduce(-6) { sum, _ in sum + Float.random(in: 0..<1, using: &self) }
    }
}

/// A layout made from fields, in their canonical form.
func layout(_ fields: [String: LayoutDescription.Value]) throws -> KVLayout {
    var description = LayoutDescription()
    for (name, value) in fields { try description.set(name, value) }
    guard let layout = KVLayout(description: Array(description.canonicalForm.utf8)) else {
        throw Refused()
    }
    return layout
}

/// A description that says nothing of a tensor.
struct Refused: Error {}

/// A small layout of `axes`: 3 layers, 2 heads of 8 channels, V with `valueChannelCount`.
func layout(
    _ axes: String, type: String = "bfloat16", _ more: [String: LayoutDescription.Value] = [:]
) throws -> KVLayout {
    let fields: [String: LayoutDescription.Value] = [
        "dtype": .text(type), "layers": .whole(3), "kv_heads": .whole(2), "head_dim": .whole(8),
        "axes": .text(axes),
    ]
    return try layout(fields.merging(more) { _, new in new })
}

/// The orders of axes that engines have, and what else their descriptions say.
let engineLayouts: [(name: String, axes: String, more: [String: LayoutDescription.Value])] = [
    ("LMCache", "kv,layer,token,head,channel", ["lead_bytes": .whole(512)]),
    ("vLLM, NHD", "layer,kv,block,token,head,channel", ["block_tokens": .whole(4)]),
    ("vLLM, HND", "layer,kv,block,head,token,channel", ["block_tokens": .whole(4)]),
    ("FlashInfer", "layer,block,kv,token,head,channel", ["block_tokens": .whole(4)]),
    (
        "vLLM on a CPU", "layer,block,head,kv(channel,token|token,channel)",
        ["block_tokens": .whole(4)]
    ),
    (
        "MLA", "layer,block,token,channel",
        [
            "block_tokens": .whole(4), "kv_heads": .whole(1), "head_dim": .whole(24),
            "rope_offset": .whole(16), "rope_dim": .whole(8),
        ]
    ),
    ("SGLang, page first", "kv,token,layer,head,channel", ["value_dim": .whole(4)]),
    (
        "SGLang, page head", "kv,block,head,token,layer,channel",
        ["block_tokens": .whole(4), "value_dim": .whole(12)]
    ),
    (
        "llama.cpp", "kv,layer,token,head,channel",
        [
            "lead_bytes": .whole(24), "lead_bytes_per_token": .whole(12),
            "section_lead_bytes": .whole(12), "rope_pairing": .text("interleaved"),
        ]
    ),
    (
        "llama.cpp, V transposed", "kv(layer,token,head,channel|layer,head,channel,token)",
        [
            "lead_bytes": .whole(24), "lead_bytes_per_token": .whole(12),
            "section_lead_bytes": .whole(12), "value_dim": .whole(4),
        ]
    ),
    ("layers with leads", "layer,kv,token,head,channel", ["section_lead_bytes": .whole(5)]),
    ("side by side", "layer,token,head,kv,channel", ["value_dim": .whole(4)]),
]

/// A payload of values that look like KV: a mean and a spread for each column.
func payload(
    of layout: KVLayout, tokenCount: Int, seed: UInt64, scale: Float = 1,
    edit: (inout [Float], KVKind, Int) -> Void = { _, _, _ in }
) -> OwnedBytes {
    var numbers = SeededNumbers(seed: seed)
    let memory = OwnedBytes(count: payloadByteCount(layout, tokenCount))
    for offset in 0..<memory.bytes.count {
        memory.bytes.store(UInt8.random(in: 0...255, using: &numbers), at: offset)
    }
    for kind in layout.kinds {
        let columnCount = layout.columnCount(kind)
        let columns = (0..<columnCount).map { _ in
            (scale * 2 * numbers.normal(), scale * (0.1 + numbers.normal().magnitude))
        }
        for layer in 0..<layout.layerCount {
            var values = (0..<tokenCount * columnCount).map { index in
                columns[index % columnCount].0
                    + columns[index % columnCount].1 * numbers.normal()
            }
            edit(&values, kind, layer)
            store(values, layer: layer, kind, of: layout, tokenCount, into: memory.bytes)
        }
    }
    return memory
}

func payloadByteCount(_ layout: KVLayout, _ tokenCount: Int) -> Int {
    (1...1 << 22).first { layout.tokenCount(payloadByteCount: $0) == tokenCount } ?? 0
}

/// Puts values, row by row, where the layout has them, rounded to its type.
func store(
    _ values: [Float], layer: Int, _ kind: KVKind, of layout: KVLayout, _ tokenCount: Int,
    into payload: PinnedBytes
) {
    forEachPlace(layer: layer, kind, of: layout, tokenCount) { index, place in
        let bits = layout.type.narrowed(values[index])
        // What is not finite has no bits of its own in the codec.
        let raw = values[index].isFinite ? bits : layout.type.notFinite
        for byte in 0..<layout.type.byteCount {
            payload.store(UInt8(truncatingIfNeeded: raw >> UInt32(8 * byte)), at: place + byte)
        }
    }
}

/// The values of one section, row by row.
func values(
    layer: Int, _ kind: KVKind, of layout: KVLayout, _ tokenCount: Int, in payload: PinnedBytes
) -> [Float] {
    var values = [Float](repeating: 0, count: tokenCount * layout.columnCount(kind))
    forEachPlace(layer: layer, kind, of: layout, tokenCount) { index, place in
        let bits = (0..<layout.type.byteCount).reduce(UInt32(0)) { bits, byte in
            bits | UInt32(payload[place + byte]) << UInt32(8 * byte)
        }
        values[index] = layout.type.widened(bits)
    }
    return values
}

func forEachPlace(
    layer: Int, _ kind: KVKind, of layout: KVLayout, _ tokenCount: Int,
    _ body: (_ index: Int, _ place: Int) -> Void
) {
    let places = layout.places(kind, tokenCount: tokenCount)
    var index = 0
    for token in 0..<tokenCount {
        for head in 0..<places.headCount {
            for channel in 0..<places.channelCount {
                body(
                    index,
                    places.row(layer: layer, token: token) + head * places.headStride
                        + channel * places.channelStride)
                index += 1
            }
        }
    }
}

extension ValueType {
    /// Bits of a NaN.
    var notFinite: UInt32 {
        switch self {
        case .float16: 0x7e01
        case .bfloat16: 0x7fc1
        case .float32: 0x7fc0_0001
        case .float8E4M3, .float8E5M2: 0x7f
        }
    }

    var name: String {
        switch self {
        case .float16: "float16"
        case .bfloat16: "bfloat16"
        case .float32: "float32"
        case .float8E4M3: "float8_e4m3"
        case .float8E5M2: "float8_e5m2"
        }
    }
}

/// Encodes with room for the worst case, and gives the container's bytes.
func encoded(
    _ payload: PinnedBytes, _ plan: EncodingPlan, _ workspace: CodecWorkspace
) throws -> (container: OwnedBytes, mode: ContainerMode) {
    let target = OwnedBytes(
        count: ChunkCodec.containerByteCountMax(
            payloadByteCount: payload.count, layout: plan.layout))
    let result = try ChunkCodec.encode(payload, plan, into: target.bytes, workspace)
    let container = OwnedBytes(count: result.byteCount)
    container.bytes.copy(from: target.bytes.prefix(result.byteCount))
    withExtendedLifetime(target) {}
    return (container, result.mode)
}

/// Decodes a container into fresh memory.
func decoded(
    _ container: OwnedBytes, _ workspace: CodecWorkspace, _ profile: Profile? = nil
) throws -> OwnedBytes {
    let reader = try ContainerReader(container.bytes)
    let payload = OwnedBytes(count: reader.header.payloadByteCount)
    payload.bytes.fill(0xa5)
    try ChunkCodec.decode(reader, into: payload.bytes, workspace, profile: profile)
    withExtendedLifetime(container) {}
    return payload
}

func array(_ bytes: OwnedBytes) -> [UInt8] {
    (0..<bytes.bytes.count).map { bytes.bytes[$0] }
}

/// Whether both hold the same bytes, which live until it is known.
func same(_ left: OwnedBytes, _ right: OwnedBytes) -> Bool {
    withExtendedLifetime((left, right)) { left.bytes.holds(sameAs: right.bytes) }
}
