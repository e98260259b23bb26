// SPDX-License-Identifier: Apache-2.0

package import KVCore

/// What `kvstored` was told, checked and complete. A value; modules take the parts they need.
package struct DaemonSettings: Sendable {
    package var listen: Listen
    package var memory: Memory
    /// The tier on SSD; nil: there is none.
    package var ssd: SSD?
    package var codec: Codec
    /// The listener for Redis clients; nil: there is none.
    package var resp: RESP?
    /// The listener for LMCache's lm clients; nil: there is none.
    package var lm: LM?
    package var io: IO
    package var limits: RequestLimits
    package var log: Log
    /// How long requests under way may take after SIGTERM before they are cut off.
    package var shutdownGrace: Milliseconds
    /// The node's name in logs and answers.
    package var nodeName: String
    /// Where the daemon writes its addresses, as JSON, once it serves; nil: nowhere.
    package var readyFile: String?
    /// Who may use the daemon. The position is the `NamespaceID` number: the first entry is
    /// `default`, or nil when nobody may use the default namespace; the last ones are those of the
    /// other listeners.
    package var namespaces: [NamespaceSettings?]

    /// Where the daemon listens; at least one of the two is given.
    package struct Listen: Hashable, Sendable {
        package var unixSocket: String?
        /// A directory to create with mode 0755 when it is missing, before the socket is bound.
        package var unixSocketDirectory: String?
        package var unixSocketPermissions: FilePermissions
        package var tcp: StreamAddress?
    }

    package struct Memory: Hashable, Sendable {
        package var budget: ByteCount
        package var prefault: Bool
        package var hugePages: HugePages
        package var registration: Registration
    }

    package struct IO: Hashable, Sendable {
        package var backend: Backend
        /// Data threads; 0: one a core, at most `shardCountAutomaticMax`.
        package var shardCount: Int
        package static let shardCountAutomaticMax = 8
    }

    package struct RequestLimits: Hashable, Sendable {
        package var connectionCount: Int
        package var chunkByteCount: ByteCount
        /// The deadline of a request that names none.
        package var requestDeadline: Milliseconds
        package var lease: Milliseconds
    }

    package struct Log: Hashable, Sendable {
        package var level: LogLevel
        package var format: LogFormat
    }
}

/// How the memory arena asks for huge pages.
package enum HugePages: String, CaseIterable, Sendable {
    case auto, require, off
}

/// Whether the memory arena is registered with the I/O ring, which locks it in memory.
package enum Registration: String, CaseIterable, Sendable {
    case auto, off
}

/// What carries the data threads' I/O.
package enum Backend: String, CaseIterable, Sendable {
    case auto
    case ioUring = "io_uring"
    case poll
}

/// The least severe event that is logged; the raw values are swift-log's level names.
package enum LogLevel: String, CaseIterable, Sendable {
    case trace, debug, info, notice, warning, error, critical
}

/// How a log line is written; `auto`: text on a terminal, else JSON.
package enum LogFormat: String, CaseIterable, Sendable {
    case auto, json, text
}

/// A tenant of the daemon.
package struct NamespaceSettings: Hashable, Sendable {
    package var name: String
    /// Any one of them opens the namespace; empty: no token is asked for.
    package var tokens: [Secret]
    /// The 32 bytes from which clients derive keys (docs/key-derivation.md); nil: none is set.
    package var secret: Secret?
    /// Whether local clients may map the arena, and so see the chunks of all that share it.
    package var sharesMemory: Bool
    /// Whether clients may open it by its name; not that of a listener with names of its own.
    package var isOpenable: Bool

    package init(
        name: String, tokens: [Secret], secret: Secret?, sharesMemory: Bool,
        isOpenable: Bool = true
    ) {
        self.isOpenable = isOpenable
        self.name = name
        self.tokens = tokens
        self.secret = secret
        self.sharesMemory = sharesMemory
    }

    /// The name of the namespace of a client that names none.
    package static let defaultName = "default"
}

/// Bytes that must not appear in a log: every description of them is masked.
package struct Secret: Hashable, Sendable, CustomStringConvertible, CustomDebugStringConvertible {
    package let bytes: [UInt8]

    package init(bytes: [UInt8]) { self.bytes = bytes }

    package var description: String { "********" }
    package var debugDescription: String { description }

    /// Whether `candidate` is this secret, in a time that depends on its length alone.
    package func matches(_ candidate: [UInt8]) -> Bool {
        var difference: UInt8 = candidate.count == bytes.count ? 0 : 1
        for index in candidate.indices where !bytes.isEmpty {
            difference |= candidate[index] ^ bytes[index % bytes.count]
        }
        return difference == 0
    }
}
