// SPDX-License-Identifier: Apache-2.0
internal import CKVStore
internal import Codec
internal import KVCore

/// What stands behind a `kvsc_codec`: a codec, and why the last call failed. One thread at a time.
final class CodecHandle {
    let codec: LayoutCodec
    private let errorMemory = OwnedBytes(count: 256)

    init(description: [UInt8], payloadByteCountMax: Int) {
        codec = LayoutCodec(
            KVLayout(description: description),
            id: description.isEmpty ? .opaque : KVLayout.id(of: description),
            payloadByteCountMax: payloadByteCountMax)
    }

    /// The text of the last error, ended by a zero.
    var errorText: PinnedBytes { errorMemory.bytes }

    /// Runs a call: its fault becomes a status, and a text for `errorText`.
    func answer(_ body: () throws(CodecFault) -> kvsc_status) -> kvsc_status {
        do throws(CodecFault) {
            let status = try body()
            switch status {
            case KVSC_OK: note("")
            case KVSC_NO_COEFFICIENTS:
                note("the section has a method without coefficients: decode it to values")
            default: note("an argument is out of its range")
            }
            return status
        } catch {
            note(error.text)
            return error.status
        }
    }

    /// The same for a call over a container, whose profile is named where it is missing.
    func answer(
        reading container: PinnedBytes, _ body: (ContainerReader) throws(CodecFault) -> kvsc_status
    ) -> kvsc_status {
        var missing = ProfileHash.none
        let status = answer { () throws(CodecFault) in
            let reader = try codec.read(container)
            missing = reader.header.profile
            return try body(reader)
        }
        if status == KVSC_PROFILE_MISSING {
            let digits = profileBytes(of: missing).map { byte in
                (byte < 16 ? "0" : "") + String(byte, radix: 16)
            }
            note("the container needs profile \(digits.joined()), which this codec has not: add it")
        }
        return status
    }

    /// Says why a call failed; cut to what `errorText` holds.
    func note(_ text: String) {
        let bytes = Array(text.utf8.prefix(errorText.count - 1)) + [0]
        for (offset, byte) in bytes.enumerated() { errorText.store(byte, at: offset) }
    }
}

extension CodecFault {
    /// The number of kvstore_codec.h.
    var status: kvsc_status {
        switch self {
        case .truncated: KVSC_TRUNCATED
        case .magic: KVSC_MAGIC
        case .checksum: KVSC_CHECKSUM
        case .version: KVSC_VERSION
        case .header: KVSC_HEADER
        case .directory: KVSC_DIRECTORY
        case .length: KVSC_LENGTH
        case .sectionChecksum: KVSC_SECTION_CHECKSUM
        case .section: KVSC_SECTION
        case .layout: KVSC_LAYOUT
        case .profileMissing: KVSC_PROFILE_MISSING
        case .profileUnsuitable: KVSC_PROFILE_UNSUITABLE
        case .profileDamaged: KVSC_PROFILE_DAMAGED
        case .targetTooSmall: KVSC_TARGET_TOO_SMALL
        case .workspaceTooSmall: KVSC_WORKSPACE_TOO_SMALL
        }
    }

    /// What is wrong, and what helps.
    var text: String {
        switch self {
        case .truncated: "the container is cut off"
        case .magic: "the bytes are no container, or no profile"
        case .checksum: "the container's header or directory is damaged"
        case .version: "the container was made by a later release; use that one"
        case .header: "a field of the container's header is out of range"
        case .directory: "the container's directory breaks a rule of the format"
        case .length: "there are bytes behind the container's end"
        case .sectionChecksum: "a section of the container is damaged"
        case .section: "a section of the container contradicts itself"
        case .layout: "the container has no layers, or its description does not fit"
        case .profileMissing: "the container needs a profile that this codec has not"
        case .profileUnsuitable: "the profile is of another model than the layout, or lacks a level"
        case .profileDamaged: "the profile is damaged"
        case .targetTooSmall: "the target has not the right size"
        case .workspaceTooSmall: "more bytes than the codec was opened for"
        }
    }
}
