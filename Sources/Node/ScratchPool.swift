// SPDX-License-Identifier: Apache-2.0
internal import KVCore

/// Large buffers that the connections of a shard share, since few of them need one at a time.
///
/// Confined to its shard. Buffers are made when first needed and kept.
final class ScratchPool {
    private var buffers: [OwnedBytes] = []
    private var madeCount = 0
    private let bufferCountMax: Int
    private let byteCount: Int

    /// At most `bufferCountMax` buffers of `byteCount` bytes.
    init(bufferCountMax: Int, byteCount: Int) {
        self.bufferCountMax = bufferCountMax
        self.byteCount = byteCount
        buffers.reserveCapacity(bufferCountMax)
    }

    /// A buffer, to be given back; nil when all are in use.
    func take() -> OwnedBytes? {
        if let buffer = buffers.popLast() { return buffer }
        guard madeCount < bufferCountMax else { return nil }
        madeCount += 1
        return OwnedBytes(count: byteCount)
    }

    /// Takes a buffer back.
    func giveBack(_ buffer: OwnedBytes) {
        buffers.append(buffer)
    }
}
