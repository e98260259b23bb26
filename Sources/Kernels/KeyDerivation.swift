// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// Names chunks as docs/key-derivation.md says: HMAC-SHA256 under the namespace's secret. A value;
/// any thread. Allocates.
package struct KeyDerivation: Sendable {
    package static let secretByteCount = 32
    /// Tokens per chunk unless the layout says otherwise.
    package static let chunkTokenCountDefault = 256

    private let secret: [UInt8]

    /// Derives keys under the 32 bytes that HELLO gave; traps for another count.
    package init(secret: [UInt8]) {
        invariant(secret.count == Self.secretByteCount, "a namespace's secret has 32 bytes")
        self.secret = secret
    }

    /// The keys of a prompt's complete chunks, in order; tokens behind the last one have none.
    ///
    /// One hash over each chunk's tokens; each key names all tokens before it, too.
    package func prefixKeys(
        layout: LayoutID, tokens: [UInt32], chunkTokenCount: Int = chunkTokenCountDefault
    ) -> [ChunkKey] {
        invariant(chunkTokenCount > 0, "a chunk has tokens")
        var keys: [ChunkKey] = []
        keys.reserveCapacity(tokens.count / chunkTokenCount)
        var parent = [UInt8](repeating: 0, count: ChunkKey.byteCount)
        var end = chunkTokenCount
        while end <= tokens.count {
            var message: [UInt8] = Array("p1".utf8)
            message += layout.bytes
            message += parent
            message.append(tokens: tokens[end - chunkTokenCount..<end])
            parent = keyedHash(key: secret, message: message)
            keys.append(key(parent))
            end += chunkTokenCount
        }
        return keys
    }

    /// The key of a run of tokens wherever it stands in a prompt.
    package func positionIndependentKey(layout: LayoutID, tokens: [UInt32]) -> ChunkKey {
        var message: [UInt8] = Array("c1".utf8)
        message += layout.bytes
        message.append(tokens: tokens[...])
        return key(keyedHash(key: secret, message: message))
    }

    /// The key of a value that is named rather than computed; `name` is any bytes.
    package func opaqueKey(name: [UInt8]) -> ChunkKey {
        key(keyedHash(key: secret, message: Array("o1".utf8) + name))
    }

    /// The key under which the description of a layout is kept (docs/container-format.md, 12).
    package func descriptionKey(of layout: LayoutID) -> ChunkKey {
        key(keyedHash(key: secret, message: Array("l1".utf8) + layout.bytes))
    }

    /// The key under which a profile is kept, by the first 16 bytes of its SHA-256.
    package func profileKey(hash: [UInt8]) -> ChunkKey {
        key(keyedHash(key: secret, message: Array("f1".utf8) + hash))
    }

    /// The key under which stands which profile a layout's chunks are to be encoded with.
    package func profileChoiceKey(of layout: LayoutID) -> ChunkKey {
        key(keyedHash(key: secret, message: Array("f2".utf8) + layout.bytes))
    }

    private func key(_ digest: [UInt8]) -> ChunkKey {
        guard let key = ChunkKey(bytes: digest) else {
            preconditionFailure("SHA-256 gives 32 bytes")
        }
        return key
    }
}

extension [UInt8] {
    fileprivate mutating func append(tokens: ArraySlice<UInt32>) {
        reserveCapacity(count + 4 * tokens.count)
        for token in tokens {
            append(UInt8(truncatingIfNeeded: token))
            append(UInt8(truncatingIfNeeded: token >> 8))
            append(UInt8(truncatingIfNeeded: token >> 16))
            append(UInt8(truncatingIfNeeded: token >> 24))
        }
    }
}
