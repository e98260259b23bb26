// SPDX-License-Identifier: Apache-2.0
internal import Glibc

/// Why an I/O operation did not happen. A value; its text is for logs.
package enum IOFault: Error, Hashable, Sendable, CustomStringConvertible {
    /// The other side closed, or reset, the connection; or it was closed here.
    case closed
    /// The operation's deadline passed first.
    case deadlineExceeded
    /// The reactor is stopping, or the operation was cancelled.
    case cancelled
    /// The operation's table or queue is full.
    case busy
    /// The kernel refused: an `errno` value (errno(3)).
    case system(Int32)

    /// ENOSPC: the file system is full.
    package static var noSpace: IOFault { .system(28) }
    /// EIO: the device does not do what it should.
    package static var inputOutput: IOFault { .system(5) }
    /// EROFS: the file system takes no changes, perhaps since a fault.
    package static var readOnlyFileSystem: IOFault { .system(30) }
    /// EINVAL: what the call asks for does not exist here, O_DIRECT for example.
    package static var invalidArgument: IOFault { .system(22) }

    package var description: String {
        switch self {
        case .closed: "closed, or at its end"
        case .deadlineExceeded: "the deadline passed"
        case .cancelled: "cancelled"
        case .busy: "busy"
        case .system(let number):
            // SAFETY: the text is the thread's own (strerror(3)), and copied at once.
            unsafe "\(String(cString: strerror(number))), errno \(number)"
        }
    }
}

/// The outcome of a request, with the numbers of docs/protocol.md and of `kvs_status` in kvstore.h.
///
/// Numbers are stable: never reused, never changed.
package enum Status: UInt16, Error, Hashable, Sendable, CaseIterable {
    case ok = 0
    /// No such chunk for this namespace: never stored, evicted, expired, or deleted.
    case notFound = 1
    /// The chunk is there already; chunks are immutable, so the new bytes were dropped.
    case exists = 2
    /// No room or no slot just now; nothing was queued. Compute, or try again later.
    case busy = 3
    /// The value is larger than the daemon takes.
    case tooLarge = 4
    /// The request's deadline passed, or could not have been met.
    case deadlineExceeded = 5
    /// The bytes do not match their checksum; nothing was stored or returned.
    case checksumMismatch = 6
    /// The namespace or its token is wrong.
    case unauthorized = 7
    /// A verb, flag, level or feature that this daemon does not offer on this connection.
    case unsupported = 8
    /// The frame breaks the protocol; the connection is closed after this answer.
    case malformed = 9
    /// No protocol version in common.
    case versionMismatch = 10
    /// A request came before a successful HELLO.
    case helloRequired = 11
    /// The lease or reservation is unknown, expired, or not this connection's.
    case noLease = 12
    /// The daemon is stopping; use another, or recompute.
    case shuttingDown = 13
    /// A count is over the limit that HELLO announced, or a range is not within its chunk.
    case limitExceeded = 14
    /// The stored chunk has another layout than the one asked for.
    case layoutMismatch = 15
    /// A defect of the daemon; its log says more.
    case `internal` = 16
    /// Done in memory, but not on stable storage: a restart may undo it.
    case notDurable = 17
}
