// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// What an lm client may ask for, with its number (docs/lm-protocol.md).
package enum LMCommand: Int32, CaseIterable, Sendable {
    case put = 1
    case get = 2
    case exist = 3
    case list = 4
    case health = 5
}

/// A request of the lm protocol, without its payload. A value; its parts lie in the bytes that it
/// was decoded from.
package struct LMRequest {
    package static let byteCount = 186
    /// Format, dtype, location and shape.
    package static let metadataByteCount = 28

    private static let metadataOffset = 8
    private static let keyOffset = 36

    package let command: LMCommand
    /// Bytes that follow a PUT.
    package let payloadByteCount: Int
    /// What the client wants back as it is.
    package let metadata: PinnedBytes
    /// Without the blanks at its end.
    package let key: PinnedBytes

    /// Reads the first 186 of `bytes`; nil when they are no request.
    package static func decode(_ bytes: PinnedBytes) -> LMRequest? {
        guard bytes.count >= byteCount,
            let command = LMCommand(rawValue: bytes.load(Int32.self, at: 0))
        else { return nil }
        let payloadByteCount = Int(bytes.load(Int32.self, at: 4))
        guard payloadByteCount >= 0 else { return nil }
        var end = byteCount
        while end > keyOffset, bytes[end - 1] == UInt8(ascii: " ") { end -= 1 }
        guard (keyOffset..<end).allSatisfy({ (0x20..<0x7f).contains(bytes[$0]) }) else {
            return nil
        }
        return LMRequest(
            command: command, payloadByteCount: command == .put ? payloadByteCount : 0,
            metadata: bytes.slice(offset: metadataOffset, count: metadataByteCount),
            key: bytes.slice(offset: keyOffset, count: end - keyOffset))
    }
}

/// Replies of the lm protocol. Their header has the location last, unlike a request's.
package enum LMReply {
    package static let byteCount = 36

    private static let found: Int32 = 200
    private static let notFound: Int32 = 400

    /// The header before a payload.
    package static func encode(
        into target: PinnedBytes, payloadByteCount: Int, metadata: PinnedBytes
    ) {
        target.store(found, at: 0)
        target.store(Int32(clamping: payloadByteCount), at: 4)
        target.dropFirst(8).copy(from: metadata.prefix(8))
        target.dropFirst(16).copy(from: metadata.dropFirst(12))
        target.dropFirst(32).copy(from: metadata.slice(offset: 8, count: 4))
    }

    /// A reply without a payload, with what the reference server says there.
    package static func encode(into target: PinnedBytes, isFound: Bool) {
        target.prefix(byteCount).fill(0)
        target.store(isFound ? found : notFound, at: 0)
        target.store(Int32(1), at: 8)
        target.store(Int32(2), at: 12)
    }
}
