// SPDX-License-Identifier: Apache-2.0
internal import CKVStore
internal import Codec
internal import KVCore

/// What stands behind a `kvsc_codec`: a layout, profiles, a workspace, and why the last call failed.
/// One thread at a time.
final class CodecHandle {
    let payloadByteCountMax: Int
    private let layout: KVLayout?
    private let layoutID: LayoutID
    /// By hash; the last one that was added is written with.
    private var profiles: [ProfileHash: Profile] = [:]
    private var profile: Profile?
    private var workspace: CodecWorkspace?
    private let errorMemory = OwnedBytes(count: 256)
    private var missing = ProfileHash.none

    init(description: [UInt8], payloadByteCountMax: Int) {
        self.payloadByteCountMax = payloadByteCountMax
        layout = KVLayout(description: description)
        layoutID = description.isEmpty ? .opaque : KVLayout.id(of: description)
    }

    var knowsLayout: Bool { layout != nil }

    /// The text of the last error, ended by a zero.
    var errorText: PinnedBytes { errorMemory.bytes }

    /// Runs a call: its fault becomes a status, and a text for `errorText`.
    func answer(_ body: () throws(CodecFault) -> kvsc_status) -> kvsc_status {
        do throws(CodecFault) {
            let status = try body()
            note(status == KVSC_OK ? "" : "an argument is out of its range")
            return status
        } catch {
            note(error == .profileMissing ? missingText : error.text)
            return error.status
        }
    }

    private func note(_ text: String) {
        let bytes = Array(text.utf8.prefix(errorText.count - 1)) + [0]
        for (offset, byte) in bytes.enumerated() { errorText.store(byte, at: offset) }
    }

    /// Which profile is missing, as it is named in the namespace.
    private var missingText: String {
        let digits = profileBytes(of: missing).map { byte in
            (byte < 16 ? "0" : "") + String(byte, radix: 16)
        }
        return "the container needs profile \(digits.joined()), which this codec has not: add it"
    }

    // MARK: The work

    func addProfile(_ bytes: PinnedBytes) throws(CodecFault) -> ProfileHash {
        guard let layout else { throw .profileUnsuitable }
        let profile = try Profile(bytes, for: layout)
        profiles[profile.hash] = profile
        self.profile = profile
        return profile.hash
    }

    func containerByteCountMax(payloadByteCount: Int) -> Int {
        ChunkCodec.containerByteCountMax(payloadByteCount: payloadByteCount, layout: layout)
    }

    func encode(
        _ payload: PinnedBytes, _ level: Level, firstPosition: UInt32?, into target: PinnedBytes
    ) throws(CodecFault) -> Int {
        let workspace = try workspace(for: layout, payload.count)
        let plan = EncodingPlan(
            level: level, layout: layout, layoutID: layoutID, firstPosition: firstPosition,
            profile: profile)
        return try ChunkCodec.encode(payload, plan, into: target, workspace).byteCount
    }

    func read(_ container: PinnedBytes) throws(CodecFault) -> ContainerReader {
        try ContainerReader(container, known: layout)
    }

    func decode(_ container: PinnedBytes, into payload: PinnedBytes) throws(CodecFault) {
        let reader = try read(container)
        try ChunkCodec.decode(
            reader, into: payload, try workspace(of: reader), profile: try profile(of: reader))
    }

    /// False when the container has no such layers.
    func decode(
        _ container: PinnedBytes, layers: Range<Int>, into payload: PinnedBytes
    ) throws(CodecFault) -> Bool {
        let reader = try read(container)
        guard reader.layout != nil else { throw .layout }
        guard layers.upperBound <= reader.header.layerCount else { return false }
        try ChunkCodec.decode(
            reader, layers: layers, into: payload, try workspace(of: reader),
            profile: try profile(of: reader))
        return true
    }

    /// False when the container has no such layer or kind, or `target` another byte count.
    func decode(
        _ container: PinnedBytes, layer: Int, _ kind: KVKind, as type: ValueType,
        into target: PinnedBytes
    ) throws(CodecFault) -> Bool {
        let reader = try read(container)
        guard let layout = reader.layout else { throw .layout }
        let valueCount = reader.header.tokenCount * layout.columnCount(kind)
        guard layer < reader.header.layerCount, layout.kinds.contains(kind),
            target.count == valueCount * type.byteCount
        else { return false }
        try ChunkCodec.decode(
            reader, layer: layer, kind, as: type, into: target, try workspace(of: reader),
            profile: try profile(of: reader))
        return true
    }

    // MARK: What it works with

    private func profile(of reader: ContainerReader) throws(CodecFault) -> Profile? {
        guard reader.header.profile != .none else { return nil }
        guard let profile = profiles[reader.header.profile] else {
            missing = reader.header.profile
            throw .profileMissing
        }
        return profile
    }

    private func workspace(of reader: ContainerReader) throws(CodecFault) -> CodecWorkspace {
        try workspace(for: reader.layout, reader.header.payloadByteCount)
    }

    /// A workspace for payloads of that layout, made anew when the one at hand is too small.
    private func workspace(
        for layout: KVLayout?, _ payloadByteCount: Int
    ) throws(CodecFault) -> CodecWorkspace {
        guard payloadByteCount <= payloadByteCountMax else { throw .workspaceTooSmall }
        let tokenCount = layout?.tokenCount(payloadByteCount: payloadByteCount) ?? 0
        let columnCount = layout.map { max($0.columnCount(.keys), $0.columnCount(.values)) } ?? 0
        let wanted = max(1, tokenCount * columnCount)
        if let workspace, workspace.valueCountMax >= wanted { return workspace }
        workspace = nil
        let made = CodecWorkspace(valueCountMax: wanted)
        workspace = made
        return made
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
