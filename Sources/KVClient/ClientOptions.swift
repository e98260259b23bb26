// SPDX-License-Identifier: Apache-2.0
package import KVCore
import Wire

/// Where and how a `Client` connects. A value.
package struct ClientOptions: Sendable {
    /// The daemon's address.
    package var address: StreamAddress
    /// The namespace to work in, at most 64 bytes of UTF-8; empty: `default`.
    package var namespace: String
    /// The namespace's token, at most 256 bytes; empty: none.
    package var token: [UInt8]
    /// This client's name, at most 64 bytes of UTF-8, for the daemon's log.
    package var name: String
    /// How to map shared memory; nil: do not ask for it.
    package var mapper: MemoryMapper?
    /// Delay before a second attempt to connect after one that failed.
    package var backOffMillisecondsMin: UInt64 = 20
    /// The delay doubles with each failure in a row, up to this.
    package var backOffMillisecondsMax: UInt64 = 2_000
    /// Most memory that one `fetch` allocates for what it brings back.
    package var fetchByteCountMax = 1 << 30

    /// Options for a client of the daemon at `address`; set the rest afterwards.
    package init(
        address: StreamAddress, namespace: String = "", token: [UInt8] = [],
        name: String = "kvclient"
    ) {
        self.address = address
        self.namespace = namespace
        self.token = token
        self.name = name
    }
}

/// What the daemon said in HELLO. A value; it holds for one connection.
package struct Session: Sendable {
    /// The namespace's secret for the derivation of keys, 32 bytes; zero where none is configured.
    package let secret: [UInt8]
    /// Random, and the same for as long as the daemon runs.
    package let nodeID: UInt64
    /// Keys in one request.
    package let batchKeyCountMax: Int
    /// Bytes of one chunk.
    package let chunkByteCountMax: UInt64
    /// Longest life of a lease.
    package let leaseMillisecondsMax: UInt32
    /// Bytes of the arena that this connection may read in place; 0: not shared.
    package let arenaByteCount: UInt64
    /// Largest `reserve` that can succeed.
    package let stagingByteCountMax: UInt64
    /// The daemon's name and version, for people.
    package let daemonName: String

    init(_ hello: HelloAnswer) {
        let shares = hello.granted.contains(.sharedMemory)
        secret = hello.namespaceSecret
        nodeID = hello.nodeID
        batchKeyCountMax = Int(hello.batchKeyCountMax)
        chunkByteCountMax = hello.chunkByteCountMax
        leaseMillisecondsMax = hello.leaseMillisecondsMax
        arenaByteCount = shares ? hello.arenaByteCount : 0
        stagingByteCountMax = shares ? hello.stagingByteCountMax : 0
        daemonName = hello.daemonName
    }
}
