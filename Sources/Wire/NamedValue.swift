// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// How values whose names are no chunk keys lie in chunks: value, line end, metadata, name, and
/// what tells their sizes (docs/resp.md).
package enum NamedValue {
    /// What stands in a chunk beside value, metadata and name.
    package static let frameByteCount = 10
    /// Bytes at a chunk's end in which its name lies, whatever its length.
    package static let tailByteCountMax =
        endByteCount + Limits.respKeyByteCountMax + LMRequest.metadataByteCount

    private static let endByteCount = 8
    /// "KVN1".
    private static let magic: UInt32 = 0x314e_564b

    /// The size of a chunk.
    package static func chunkByteCount(
        value: Int, metadata: Int = 0, name: Int
    ) -> Int {
        value + metadata + name + frameByteCount
    }

    /// The size of the value in a chunk of that size; nil when it has none.
    package static func valueByteCount(
        chunk: Int, metadata: Int = 0, name: Int
    ) -> Int? {
        let count = chunk - metadata - name - frameByteCount
        return count >= 0 ? count : nil
    }

    /// Writes all that follows the value, of which `chunk` has `valueByteCount` bytes.
    /// - Returns: what was written.
    @discardableResult
    package static func finish(
        _ chunk: PinnedBytes, valueByteCount: Int, metadata: PinnedBytes? = nil, name: PinnedBytes
    ) -> PinnedBytes {
        let metadataByteCount = metadata?.count ?? 0
        let rest = chunk.dropFirst(valueByteCount)
        invariant(
            rest.count == metadataByteCount + name.count + frameByteCount,
            "the chunk has room for its value, and for nothing else")
        rest.store(UInt8(ascii: "\r"), at: 0)
        rest.store(UInt8(ascii: "\n"), at: 1)
        if let metadata { rest.dropFirst(2).copy(from: metadata) }
        rest.dropFirst(2 + metadataByteCount).copy(from: name)
        let end = rest.count - endByteCount
        rest.store(UInt16(metadataByteCount), at: end)
        rest.store(UInt16(name.count), at: end + 2)
        rest.store(magic, at: end + 4)
        return rest
    }

    /// The name in a chunk, or in the end of one; nil when it is not of this form.
    package static func name(inEndOf chunk: PinnedBytes) -> PinnedBytes? {
        parts(chunk)?.name
    }

    /// The value in a chunk, with its line end, and its metadata; nil when the chunk is not of this
    /// form, or has another name.
    package static func read(
        _ chunk: PinnedBytes, named name: PinnedBytes
    ) -> (valueAndLineEnd: PinnedBytes, metadata: PinnedBytes)? {
        guard let parts = parts(chunk), parts.name.holds(sameAs: name) else { return nil }
        let end = chunk.count - endByteCount - name.count - parts.metadata.count
        guard end >= 2 else { return nil }
        return (chunk.prefix(end), parts.metadata)
    }

    private static func parts(
        _ chunk: PinnedBytes
    ) -> (metadata: PinnedBytes, name: PinnedBytes)? {
        let end = chunk.count - endByteCount
        guard end >= 0, chunk.load(UInt32.self, at: end + 4) == magic else { return nil }
        let metadataByteCount = Int(chunk.load(UInt16.self, at: end))
        let nameByteCount = Int(chunk.load(UInt16.self, at: end + 2))
        guard metadataByteCount + nameByteCount <= end else { return nil }
        let first = end - nameByteCount - metadataByteCount
        return (
            chunk.slice(offset: first, count: metadataByteCount),
            chunk.slice(offset: first + metadataByteCount, count: nameByteCount)
        )
    }
}
