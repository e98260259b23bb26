// SPDX-License-Identifier: Apache-2.0
import CKVStore
import CodecLibrary
import Testing

// The library as a C program sees it. Tests/C and clients/python have more, and the daemon.

private let description = Array(
    """
    kvstore_layout=1
    axes=layer,kv,token,head,channel
    dtype=float16
    head_dim=8
    kv_heads=2
    layers=2

    """.utf8)

/// Values from 1 to 2 of 32 tokens.
private let payload: [UInt16] = (0..<2 * 2 * 32 * 16).map { 0x3c00 + UInt16($0 * 37 % 1_024) }

/// Runs `body` with a codec for that payload.
private func withCodec(_ body: (OpaquePointer) throws -> Void) throws {
    var made: OpaquePointer?
    // SAFETY: the description lives through the call, and the codec through `body`.
    let status = unsafe kvsc_open(
        description, description.count, UInt64(2 * payload.count), &made)
    #expect(status == KVSC_OK)
    let codec = try unsafe #require(made)
    defer { unsafe kvsc_close(codec) }
    try unsafe body(codec)
}

/// The container of the payload at a level.
private func container(_ codec: OpaquePointer, _ level: kvs_level) -> [UInt8] {
    var count: UInt64 = 0
    // SAFETY: all arrays live through the calls, with the counts that are told.
    let capacity = unsafe kvsc_container_byte_count_maximum(codec, UInt64(2 * payload.count))
    var made = [UInt8](repeating: 0, count: Int(capacity))
    let status = unsafe kvsc_encode(
        codec, payload, UInt64(2 * payload.count), level, 0, &made, capacity, &count)
    #expect(status == KVSC_OK)
    return Array(made[..<Int(count)])
}

@Suite struct `The codec's library` {
    @Test func `gives back what it was given, without loss where that is asked for`() throws {
        try unsafe withCodec { codec in
            // SAFETY: as in `container`.
            #expect(unsafe kvsc_knows_layout(codec) == 1)
            for level in [KVS_LEVEL_ZSTD, KVS_LEVEL_LOSSLESS, KVS_LEVEL_Q2] {
                let made = unsafe container(codec, level)
                var info = kvsc_info()
                #expect(unsafe kvsc_inspect(codec, made, UInt64(made.count), &info) == KVSC_OK)
                #expect(info.level == UInt8(level.rawValue))
                #expect(info.payload_byte_count == UInt64(2 * payload.count))
                var back = [UInt16](repeating: 0, count: payload.count)
                let status = unsafe kvsc_decode(
                    codec, made, UInt64(made.count), &back, UInt64(2 * payload.count))
                #expect(status == KVSC_OK)
                let error = zip(payload, back).map { abs(Int($0) - Int($1)) }.max() ?? 0
                #expect(level == KVS_LEVEL_Q2 ? (1..<0x300).contains(error) : error == 0)
            }
        }
    }

    @Test func `says what is wrong with a container`() throws {
        try unsafe withCodec { codec in
            // SAFETY: as in `container`.
            var made = unsafe container(codec, KVS_LEVEL_LOSSLESS)
            made[made.count - 1] ^= 1
            var back = [UInt16](repeating: 0, count: payload.count)
            let status = unsafe kvsc_decode(
                codec, made, UInt64(made.count), &back, UInt64(2 * payload.count))
            #expect(status == KVSC_SECTION_CHECKSUM)
            #expect(unsafe String(cString: kvsc_status_text(status)) == "section checksum")
            #expect(
                unsafe String(cString: kvsc_last_error_text(codec))
                    == "a section of the container is damaged")
            #expect(unsafe kvsc_decode(codec, nil, 1, &back, 1) == KVSC_INVALID_ARGUMENT)
            #expect(unsafe kvsc_decode(nil, made, 1, &back, 1) == KVSC_INVALID_ARGUMENT)
        }
    }
}
