// SPDX-License-Identifier: Apache-2.0
package import Codec
package import KVCore
import Kernels

/// Chunks that are encoded before they are sent, and decoded after they came.
extension Client {
    /// What the namespace knows of a layout, ready to work with: its description, and the profile
    /// that its chunks are to be encoded with; each if it is there and sound.
    package func codec(
        for layout: LayoutID, deadline: Instant
    ) async throws(ClientError) -> LayoutCodec {
        // Connects, if nothing did so yet: keys need the namespace's secret.
        if session == nil { try await ping(deadline: deadline) }
        let keys = KeyDerivation(
            secret: session?.secret
                ?? [UInt8](repeating: 0, count: KeyDerivation.secretByteCount))
        let text = try await fetch(keys.descriptionKey(of: layout), deadline: deadline)
        let described = text.flatMap { KVLayout(description: $0.copied) }
        let codec = LayoutCodec(described?.id == layout ? described : nil, id: layout)
        let choice = try await fetch(keys.profileChoiceKey(of: layout), deadline: deadline)
        guard codec.layout != nil, let choice = choice?.copied, choice.count == 32 else {
            return codec
        }
        try await addProfile(Array(choice[..<16]), to: codec, deadline: deadline)
        return codec
    }

    /// Adds the profile of a hash from the namespace, if it is there and suits the codec's layout.
    /// For chunks that were encoded with it; what is encoded from now on is, too.
    package func addProfile(
        _ hash: [UInt8], to codec: LayoutCodec, deadline: Instant
    ) async throws(ClientError) {
        guard let secret = session?.secret else { return }
        let key = KeyDerivation(secret: secret).profileKey(hash: hash)
        guard let profile = try await fetch(key, deadline: deadline),
            Array(secureHash(profile.copied).prefix(hash.count)) == hash
        else { return }
        do throws(CodecFault) {
            _ = try codec.addProfile(profile.bytes)
        } catch {
            // The daemon does without it, too.
        }
        withExtendedLifetime(profile) {}
    }

    /// Encodes `bytes` at `level` and stores the container, or the bytes where it is no smaller.
    ///
    /// The label's layout must be the codec's; its level is not looked at. Errors as for `put`
    /// without a codec, and `unusable` for more bytes than the codec takes. Encoding blocks the
    /// thread, and is not bounded by the deadline.
    package func put(
        _ label: ChunkLabel, _ bytes: PinnedBytes, at level: Level, by codec: LayoutCodec,
        deadline: Instant
    ) async throws(ClientError) -> PutOutcome {
        var label = label
        label.level = Level.raw.rawValue
        // What is no smaller than the bytes has no room.
        guard level != .raw, bytes.count > 1 else {
            return try await put(label, bytes, deadline: deadline)
        }
        let room = OwnedBytes(count: bytes.count - 1)
        defer { withExtendedLifetime(room) {} }
        let container: PinnedBytes
        do throws(CodecFault) {
            let encoded = try codec.encode(
                bytes, level, firstPosition: label.firstPosition, into: room.bytes)
            container = room.bytes.prefix(encoded.byteCount)
            label.level = level.rawValue
        } catch .targetTooSmall {
            container = bytes
        } catch {
            throw .unusable(.tooLarge, "the codec does not encode it: \(error.rawValue)")
        }
        return try await put(label, container, deadline: deadline)
    }

    /// Brings the payload of `key` into fresh memory, in a container of a level as in
    /// `GetOptions`, which is decoded here; nil for a miss.
    ///
    /// Throws `damaged` for a container that the codec refuses, and as `fetch` does. Decoding
    /// blocks the thread.
    package func fetch(
        _ key: ChunkKey, at level: UInt8, by codec: LayoutCodec, deadline: Instant
    ) async throws(ClientError) -> OwnedBytes? {
        let fetched = try await fetch([key], GetOptions(level: level), deadline: deadline)[0]
        guard let found = try found(fetched.outcome), let container = fetched.memory else {
            return nil
        }
        guard found.level != Level.raw.rawValue else { return container }
        defer { withExtendedLifetime(container) {} }
        do throws(CodecFault) {
            let reader = try codec.read(container.bytes)
            let payload = OwnedBytes(count: reader.header.payloadByteCount, alignment: 4_096)
            try codec.decode(reader, into: payload.bytes)
            return payload
        } catch {
            throw ClientError(
                .damaged, status: .checksumMismatch,
                message: "the container is not decoded: \(error.rawValue)")
        }
    }
}

extension OwnedBytes {
    /// A copy of the bytes.
    fileprivate var copied: [UInt8] {
        defer { withExtendedLifetime(self) {} }
        return (0..<bytes.count).map { bytes[$0] }
    }
}
