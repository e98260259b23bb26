// SPDX-License-Identifier: Apache-2.0

/// Every bound of the wire and of a node, with its reason. Settings may lower some of them.
///
/// Those that each request meets are computed in place: a stored constant of another module is
/// reached through a call that asks whether it has been made.
package enum Limits {
    /// Body of one frame. 1,024 keys of a batch and their fields fit, and a scratch buffer stays
    /// small.
    package static let bodyByteCountMax = 64 << 10
    /// Keys in one GET, LOOKUP, DELETE, LEASE or PIN: a 256 K-token prompt in 256-token chunks.
    @inlinable
    package static var batchKeyCountMax: Int { 1_024 }
    /// One chunk. The largest real chunk seen is 80 MB (70B models, 256 tokens, fp16).
    package static let chunkByteCountMax = 256 << 20
    /// Requests of one connection that a client may have sent without an answer.
    package static let requestCountInFlightMax = 64
    /// Leases and reservations that one connection may hold at once.
    package static let leaseCountPerConnectionMax = 4_096
    /// Leases that a node grants at once, over all connections.
    package static let leaseCountMax = 65_536
    /// Longest life of a lease or a reservation. A dead reader blocks eviction no longer than this.
    package static let leaseMillisecondsMax: UInt32 = 30_000
    /// Longest life of a pin: 35 years. Sums with the clock's time stay far from their end.
    package static let pinMillisecondsMax: UInt64 = 1 << 40
    /// Argument of CONTROL: a path fits (PATH_MAX).
    package static let argumentByteCountMax = 4_096
    /// Deadline of a request that names none.
    package static let requestMillisecondsDefault: UInt32 = 10_000
    /// Longest deadline a request may ask for.
    package static let requestMillisecondsMax: UInt32 = 600_000
    /// From the first byte of a frame to the end of its body: a slow sender is cut off here.
    package static let frameMillisecondsMax: UInt64 = 5_000
    /// From accept to a successful HELLO.
    package static let helloMillisecondsMax: UInt64 = 5_000
    /// The buffer each connection owns: a header and a small body, so that an idle one stays cheap.
    package static let inboxByteCount = 1_024
    /// Bytes sent or received per operation while other requests wait on the same shard.
    package static let pieceByteCountShared = 256 << 10
    /// Bytes per operation when a connection has the shard for itself.
    package static let pieceByteCountAlone = 1 << 20
    /// Namespace name in HELLO.
    package static let namespaceByteCountMax = 64
    /// Token in HELLO.
    package static let tokenByteCountMax = 256
    /// Error text in a response.
    package static let messageByteCountMax = 512
    /// A key of a RESP client. LMCache's longest is under 400 bytes.
    @inlinable
    package static var respKeyByteCountMax: Int { 1_024 }
    /// Arguments of a RESP request: its name and a full batch of keys.
    @inlinable
    package static var respArgumentCountMax: Int { 2 + batchKeyCountMax }
    /// A bulk string of a RESP request that is read at all: Redis' own limit.
    @inlinable
    package static var respBulkByteCountMax: Int { 512 << 20 }
    /// An argument that is kept for its command; a longer one is read past.
    @inlinable
    package static var respArgumentByteCountMax: Int { 8 << 10 }
    /// The two buffers that each RESP connection owns: a pipeline of small requests comes in one
    /// piece, and its replies leave in one.
    @inlinable
    package static var respBufferByteCount: Int { 16 << 10 }
    /// Large buffers of one shard's RESP connections, two each, of `bodyByteCountMax` bytes.
    package static let respLargeBufferCountMax = 64
    /// Families of keys whose value's size is known, for strict replies.
    package static let respFamilyCountMax = 1_024
    /// Entries that one SCAN looks at.
    package static let respScanCountMax = 1_000
    /// Connections that a daemon hands over to the next one. Their names stand in one environment
    /// variable, which execve(2) bounds at 128 KiB.
    package static let keptConnectionCountMax = 1_024
    /// Descriptors that are taken from whoever starts the daemon; more were passed by mistake.
    package static let passedDescriptorCountMax = 16_384
    /// Granule of the arena: one page, and the alignment that O_DIRECT wants.
    @inlinable
    package static var arenaGranuleByteCount: Int { 4_096 }

    /// Checks that hold *between* limits; called at start and by a test.
    package static func check() {
        invariant(
            batchKeyCountMax * ChunkKey.byteCount + 64 <= bodyByteCountMax,
            "a full batch of keys must fit one body")
        invariant(inboxByteCount >= 256, "a header and a one-key body must fit the inbox")
        invariant(pieceByteCountShared <= pieceByteCountAlone, "pieces only shrink under load")
        invariant(
            pieceByteCountShared.isMultiple(of: arenaGranuleByteCount), "pieces are whole pages")
    }
}
