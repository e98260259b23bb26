// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// What is wrong with a frame. A value.
package enum WireFault: Error, Hashable, Sendable {
    /// Fewer bytes than a header has.
    case headerIncomplete(byteCount: Int)
    /// Not the beginning of a frame.
    case badMagic
    /// The header does not match its checksum.
    case headerDamaged
    /// The body does not match its checksum.
    case bodyDamaged
    /// A version that is not spoken here.
    case badVersion(UInt8)
    /// A reserved field is not zero.
    case reservedNotZero(offset: Int)
    /// The body is larger than any body may be.
    case bodyTooLarge(UInt32)
    /// The size of a body or payload is not what its verb and fields say.
    case bodySizeMismatch
    /// The body ends before its fields do.
    case bodyEndsEarly(offset: Int, needed: Int)
    /// The body goes on behind its last field.
    case bytesLeftOver(Int)
    /// A text or token is longer than it may be.
    case fieldTooLong(offset: Int)
    /// A text is not UTF-8.
    case notText(offset: Int)
    /// A field has a value that it cannot have; `offset` is where the field ends.
    case badValue(offset: Int)
    /// A place in shared memory lies outside the region; told to no peer, seen by clients.
    case rangeOutsideRegion(UInt64, byteCount: UInt64)
    /// A batch is empty, or larger than HELLO announced.
    case badCount(Int)
    /// A pin for no time, or for longer than pins may last.
    case badPinMilliseconds(UInt64)
    /// A verb that this version does not define, or not yet.
    case unknownVerb(UInt8)
    /// A flag that a frame of this kind cannot have.
    case unknownFlags(UInt16)
    /// A level, mode, scope, option, acknowledgement or operation that is not offered.
    case notOffered
    /// The chunk is larger than chunks may be.
    case badChunkByteCount(UInt64)

    /// The status that tells the sender.
    package var status: Status {
        switch self {
        case .headerIncomplete, .badMagic, .headerDamaged, .bodyDamaged, .reservedNotZero,
            .bodyTooLarge, .bodySizeMismatch, .bodyEndsEarly, .bytesLeftOver, .fieldTooLong,
            .notText, .badValue, .rangeOutsideRegion:
            .malformed
        case .badVersion: .versionMismatch
        case .unknownVerb, .unknownFlags, .notOffered: .unsupported
        case .badCount, .badPinMilliseconds: .limitExceeded
        case .badChunkByteCount: .tooLarge
        }
    }

    /// Whether the bytes that follow can no longer be understood.
    package var endsConnection: Bool {
        switch status {
        case .malformed, .versionMismatch: true
        default: false
        }
    }

    /// What is wrong, and what to do about it.
    package var message: String {
        switch self {
        case .headerIncomplete(let count):
            "\(count) bytes are no header: send \(FrameHeader.byteCount)"
        case .badMagic: "a frame begins with KVS1: is this a KVStore client?"
        case .headerDamaged: "the header does not match its checksum (XXH3-64, low 32 bits)"
        case .bodyDamaged: "the body does not match its checksum (XXH3-64, low 32 bits)"
        case .badVersion(let version):
            "version \(version) is not spoken here: use version 1"
        case .reservedNotZero(let offset):
            "the reserved byte at offset \(offset) is not zero: is the client newer?"
        case .bodyTooLarge(let count):
            "a body of \(count) bytes: send at most \(Limits.bodyByteCountMax)"
        case .bodySizeMismatch: "the sizes of body and payload do not fit their fields"
        case .bodyEndsEarly(let offset, let needed):
            "the body ends at offset \(offset), where a field of \(needed) bytes begins"
        case .bytesLeftOver(let count):
            "\(count) bytes follow the last field of the body"
        case .fieldTooLong(let offset):
            "the text at offset \(offset) is longer than docs/protocol.md allows"
        case .notText(let offset): "the text before offset \(offset) is not UTF-8"
        case .badValue(let offset):
            "the field before offset \(offset) has a value that docs/protocol.md forbids"
        case .rangeOutsideRegion(let offset, let byteCount):
            "\(byteCount) bytes at \(offset) are not within the shared region"
        case .badCount(let count):
            "\(count) keys or leases: send 1 to \(Limits.batchKeyCountMax)"
        case .badPinMilliseconds(let milliseconds):
            "a pin of \(milliseconds) ms: ask for 1 to \(Limits.pinMillisecondsMax)"
        case .unknownVerb(let verb): "verb \(verb) is not offered: see HELLO's version"
        case .unknownFlags(let flags): "flags \(flags) have no meaning here: send 0"
        case .notOffered:
            "this level, mode, scope, option, acknowledgement or operation is not offered here"
        case .badChunkByteCount(let count):
            "a chunk of \(count) bytes: send at most \(Limits.chunkByteCountMax)"
        }
    }
}
