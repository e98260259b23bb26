// SPDX-License-Identifier: Apache-2.0

import Codec
import Kernels
import Testing

@Suite struct `A layout` {
    @Test(arguments: engineLayouts.indices)
    func `gives every byte of the payload to one value or to the rest`(index: Int) throws {
        let engine = engineLayouts[index]
        let layout = try layout(engine.axes, engine.more)
        let byteCount = payloadByteCount(layout, 8)
        #expect(layout.tokenCount(payloadByteCount: byteCount) == 8)
        var uses = [Int](repeating: 0, count: byteCount)
        for kind in layout.kinds {
            for layer in 0..<layout.layerCount {
                forEachPlace(layer: layer, kind, of: layout, 8) { _, place in
                    for byte in 0..<layout.type.byteCount { uses[place + byte] += 1 }
                }
            }
        }
        for run in layout.restRuns(tokenCount: 8) { for byte in run { uses[byte] += 1 } }
        #expect(uses.allSatisfy { $0 == 1 }, "\(engine.name)")
    }

    @Test func `of vLLM on a CPU has K transposed within a block, and V not`() throws {
        let layout = try layout(
            "layer,block,head,kv(channel,token|token,channel)", type: "bfloat16",
            ["block_tokens": .whole(128), "kv_heads": .whole(3), "head_dim": .whole(64)])
        let keys = layout.places(.keys, tokenCount: 256)
        let values = layout.places(.values, tokenCount: 256)
        #expect(keys.tokenStride == 2)
        #expect(keys.channelStride == 256)
        #expect(values.tokenStride == 128)
        #expect(values.channelStride == 2)
        #expect(values.start - keys.start == 2 * 64 * 128)
        #expect(keys.headStride == 2 * 128 * 128)
        #expect(keys.blockStride == 3 * 2 * 128 * 128)
        #expect(keys.layerStride == 2 * keys.blockStride)
    }

    @Test func `has only the payloads of a whole number of tokens and blocks`() throws {
        let layout = try layout(
            "layer,kv,block,token,head,channel", ["block_tokens": .whole(4)])
        let perToken = 3 * 2 * 2 * 8 * 2
        #expect(layout.tokenCount(payloadByteCount: 4 * perToken) == 4)
        #expect(layout.tokenCount(payloadByteCount: 5 * perToken) == nil)
        #expect(layout.tokenCount(payloadByteCount: 4 * perToken + 1) == nil)
        #expect(layout.tokenCount(payloadByteCount: 0) == nil)
    }

    @Test(arguments: [
        "", "layer", "layer,token", "layer,token,channel,", "layer,token,channel,layer",
        "token,block,layer,channel", "layer,kv(token,channel)", "layer,kv(token,channel|token)",
        "layer,kv(token,channel|token,channel", "layer,kv(token,channel|token,channel)x",
        "kv,layer,kv(token,channel|token,channel)", "layer,token,channels",
        "layer,kv(block,token,channel|token,channel)", "layer,kv,token,channel",
        "layer,kv(head,token,channel|token,channel)",
    ])
    func `is refused with axes that are none`(axes: String) {
        #expect(throws: Refused.self) {
            try layout(axes, ["block_tokens": .whole(4)])
        }
    }

    @Test(arguments: [
        ("dtype", LayoutDescription.Value.text("int4")), ("layers", .whole(0)),
        ("layers", .whole(4_097)), ("layers", .text("03")), ("kv_heads", .whole(65_537)),
        ("head_dim", .real(8)), ("section_lead_bytes", .whole(-1)), ("lead_bytes", .text("")),
    ])
    func `is refused with a field that is out of range`(
        name: String, value: LayoutDescription.Value
    ) {
        #expect(throws: Refused.self) {
            try layout("layer,kv,token,head,channel", [name: value])
        }
    }

    @Test(arguments: [
        "", "kvstore_layout=1", "kvstore_layout=2\n", "kvstore_layout=1\nb=1\na=1\n",
        "kvstore_layout=1\na=1\na=1\n", "kvstore_layout=1\nA=1\n", "kvstore_layout=1\n=1\n",
        "kvstore_layout=1\na\n", "kvstore_layout=1\na=1\r\n", "kvstore_layout=1\n\n",
    ])
    func `is refused when its description is not canonical`(start: String) throws {
        let good = try layout("layer,kv,token,head,channel").description
        let lines = String(decoding: good, as: UTF8.self).split(separator: "\n").dropFirst()
        let text = start + lines.map { $0 + "\n" }.joined()
        #expect(KVLayout(description: Array(text.utf8)) == nil)
    }

    @Test func `knows how K is rotated, unless frequencies are scaled`() throws {
        let axes = "layer,kv,token,head,channel"
        #expect(try layout(axes).rotation == nil)
        let plain = try layout(axes, ["rope_theta": .real(10_000)]).rotation
        #expect(plain?.channelCount == 8)
        #expect(plain?.isInterleaved == false)
        let scaled = try layout(
            axes, ["rope_theta": .real(10_000), "rope_scaling": .text("yarn")])
        #expect(scaled.rotation == nil)
        let odd = try layout(axes, ["rope_theta": .real(10_000), "rope_dim": .whole(3)])
        #expect(odd.rotation == nil)
    }
}
