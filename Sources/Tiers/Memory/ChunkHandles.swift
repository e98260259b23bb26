// SPDX-License-Identifier: Apache-2.0
package import Codec
package import KVCore

/// Where a chunk came from when it became visible in memory.
package enum ChunkOrigin: Hashable, Sendable {
    /// A client stored it.
    case writer
    /// It was read from SSD, and is there still; a cold one is the first to go.
    case ssd(isCold: Bool)
}

/// Space for a chunk that is being written; invisible until `commit`. Dropping it frees the space.
///
/// One owner, any thread; nobody else touches the bytes meanwhile.
package struct Reservation: ~Copyable, Sendable {
    private var isOpen = true
    private let tier: RAMTier
    private let slot: UInt32
    private let generation: UInt32
    /// Where the chunk's bytes go: exactly its size.
    package let bytes: PinnedBytes

    init(tier: RAMTier, slot: UInt32, generation: UInt32, bytes: PinnedBytes) {
        self.tier = tier
        self.slot = slot
        self.generation = generation
        self.bytes = bytes
    }

    /// Makes the chunk visible. The caller has verified the bytes against `checksum`.
    /// - Returns: `.ok`, or `.exists` when another writer was first; the space is free then.
    package consuming func commit(
        checksum: UInt64, from origin: ChunkOrigin = .writer
    ) -> Status {
        isOpen = false
        return tier.commit(slot, generation, checksum: checksum, origin)
    }

    /// The same, and keeps the chunk for the caller, who releases the hold once: a cold chunk could
    /// be evicted before anybody else gets one. Nil when another was first.
    consuming func commitHeld(checksum: UInt64, from origin: ChunkOrigin) -> Hold? {
        isOpen = false
        let hold = Hold(slot: slot, generation: generation)
        let status = tier.commit(slot, generation, checksum: checksum, origin, holds: true)
        return status == .ok ? hold : nil
    }

    /// Makes the chunk visible in the place of another; see `RAMTier.Replacement` for what may come
    /// of it besides `.ok`. The space is free then.
    package consuming func replace(
        _ replacement: RAMTier.Replacement, checksum: UInt64, expiry: Instant, now: Instant
    ) -> Status {
        isOpen = false
        return tier.replace(
            slot, generation, replacement, checksum: checksum, expiry: expiry, now: now)
    }

    /// Keeps the first `byteCount` bytes as a form of the chunk `original` that nobody can find,
    /// until the caller releases the hold. The caller has their `checksum`.
    package consuming func keepUnlisted(
        formOf original: ChunkDescription, _ level: Level, byteCount: Int, checksum: UInt64
    ) -> Hold {
        invariant(byteCount > 0 && byteCount <= bytes.count, "what is kept lies within the space")
        isOpen = false
        let form = ChunkDescription(
            byteCount: byteCount, checksum: checksum, layout: original.layout, level: level,
            expiry: original.expiry, firstPosition: original.firstPosition)
        tier.keepUnlisted(slot, generation, bytes.prefix(byteCount), form)
        return Hold(slot: slot, generation: generation)
    }

    deinit {
        if isOpen { tier.abort(slot, generation) }
    }
}

/// A hold on a chunk that outlives a `HeldChunk`: what a lease keeps. Released by
/// `RAMTier.release`.
package struct Hold: Hashable, Sendable {
    let slot: UInt32
    let generation: UInt32
}

/// A chunk lent to a reader: its bytes stay in place and unchanged until this value is dropped.
package struct HeldChunk: ~Copyable, Sendable {
    private var isOpen = true
    private let hold: Hold
    private let tier: RAMTier
    package let bytes: PinnedBytes
    package let description: ChunkDescription

    init(
        hold: Hold, tier: RAMTier, bytes: PinnedBytes, description: ChunkDescription
    ) {
        self.hold = hold
        self.tier = tier
        self.bytes = bytes
        self.description = description
    }

    /// Whether others can still find the chunk.
    package var isFindable: Bool { tier.isLive(hold) }

    /// A second hold, which outlives this value: the caller must `release` it exactly once.
    package func holdAgain() -> Hold { tier.holdAgain(hold) }

    /// Keeps the chunk held beyond this value: the caller must `release` the result exactly once.
    package consuming func escape() -> Hold {
        isOpen = false
        return hold
    }

    deinit {
        if isOpen { tier.release(hold) }
    }
}
