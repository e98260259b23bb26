// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// What is wrong with a frame. A value.
package enum WireFault: Error, Hashable, Sendable {
    /// Not the beginning of a frame.
    case badMagic
    /// The header does not match its checksum.
    case headerDamaged
    /// The body does not match its checksum.
    case bodyDamaged
    /// A version that is not spoken here.
    case badVersion(UInt8)
    /// A reserved field is not zero.
    case reservedNotZero
    /// The body is larger than any body may be.
    case bodyTooLarge(UInt32)
    /// The body's size is not what its fields say, or the payload's is not what the body says.
    case bodySizeMismatch
    /// A text or token is longer than it may be.
    case fieldTooLong
    /// A text is not UTF-8.
    case notText
    /// A number stands for nothing in this place.
    case badValue
    /// A batch is empty, or larger than HELLO announced.
    case badCount(Int)
    /// A verb that this version does not define, or not yet.
    case unknownVerb(UInt8)
    /// A flag that a request cannot have.
    case unknownFlags(UInt16)
    /// A level, option or acknowledgement that is not offered.
    case notOffered
    /// The chunk is larger than chunks may be, or empty.
    case badChunkByteCount(UInt64)

    /// The status that tells the sender.
    package var status: Status {
        switch self {
        case .badMagic, .headerDamaged, .bodyDamaged, .reservedNotZero, .bodyTooLarge,
            .bodySizeMismatch, .fieldTooLong, .notText, .badValue:
            .malformed
        case .badVersion: .versionMismatch
        case .unknownVerb, .unknownFlags, .notOffered: .unsupported
        case .badCount: .limitExceeded
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
        case .badMagic: "a frame begins with KVS1: is this a KVStore client?"
        case .headerDamaged: "the header does not match its checksum (XXH3-64, low 32 bits)"
        case .bodyDamaged: "the body does not match its checksum (XXH3-64, low 32 bits)"
        case .badVersion(let version):
            "version \(version) is not spoken here: use version 1"
        case .reservedNotZero: "a reserved field is not zero: is the client newer?"
        case .bodyTooLarge(let count):
            "a body of \(count) bytes: send at most \(Limits.bodyByteCountMax)"
        case .bodySizeMismatch: "the sizes of body and payload do not fit their fields"
        case .fieldTooLong: "a text is longer than docs/protocol.md allows"
        case .notText: "a text is not UTF-8"
        case .badValue: "a field has a value that docs/protocol.md does not define"
        case .badCount(let count):
            "\(count) keys or leases: send 1 to \(Limits.batchKeyCountMax)"
        case .unknownVerb(let verb): "verb \(verb) is not offered: see HELLO's version"
        case .unknownFlags(let flags): "flags \(flags) are not defined for requests"
        case .notOffered: "this level, option or acknowledgement is not offered: use 0"
        case .badChunkByteCount(let count):
            "a chunk of \(count) bytes: send 1 to \(Limits.chunkByteCountMax)"
        }
    }
}
