// SPDX-License-Identifier: Apache-2.0

/// Where a node's code runs and does its I/O: one thread with one ring in production
/// (`LinuxIO`), one seeded scheduler in simulation (`SimulationKit`).
///
/// An actor whose `unownedExecutor` is the reactor's executor may call everything here; all
/// operations run on, and resume on, that executor. An operation that is called elsewhere traps.
/// Nothing here allocates per operation once the reactor has warmed up.
package protocol Reactor: AnyObject, Sendable {
    /// Tasks of the reactor prefer it too (`Task(executorPreference:)`): a continuation of a task
    /// without the preference resumes on the global pool first, two thread changes away.
    associatedtype Executor: SerialExecutor, TaskExecutor
    associatedtype Stream: ByteStream
    associatedtype Listener: StreamListener
    associatedtype File: BlockFile
    associatedtype Directory: BlockDirectory

    /// The serial executor of this reactor; hand it to the actors that live here.
    nonisolated var executor: Executor { get }

    /// The monotonic clock; virtual in simulation. Any thread.
    nonisolated func now() -> Instant

    /// Random bits: the system's in production, the seed's in simulation. Any thread.
    nonisolated func randomBits() -> UInt64

    /// Suspends until `instant`, or throws `.cancelled` when the reactor stops before.
    nonisolated(nonsending) func sleep(until instant: Instant) async throws(IOFault)

    /// Lets other ready jobs of this reactor run first. About 0.5 µs when there are none.
    nonisolated(nonsending) func yield() async

    /// Starts to listen; throws `.system` with the reason (address in use, no permission).
    func listen(on address: StreamAddress) throws(IOFault) -> Listener

    /// Opens a connection to `address` before `deadline`.
    nonisolated(nonsending) func connect(
        to address: StreamAddress, deadline: Instant
    ) async throws(IOFault) -> Stream

    /// Takes over a connection that a listener of any reactor accepted.
    func adopt(_ connection: Listener.Connection) -> Stream

    /// The opposite of `adopt`: the connection goes on, and the stream is closed. Nil, and nothing
    /// happens, when the stream is closed, not TCP, or has an operation under way.
    func release(_ stream: Stream) -> Listener.Connection?

    /// Opens the file at `path`; blocking, at start-up and on the control path only.
    func openFile(_ path: String, _ mode: FileMode) throws(IOFault) -> File

    /// Opens the directory at `path`; blocking, as `openFile`. It may then be used on any thread.
    /// Throws `.system(ENOENT)` when there is none: it is not made, since it may lie on a device
    /// that is not mounted, and `.system(ENOTDIR)` when something else is there.
    func openDirectory(_ path: String) throws(IOFault) -> Directory

    /// A view of an open file for this reactor, to be closed like a file of `openFile`; the
    /// descriptor closes when the last view and the last reference to `handle` are gone.
    func attach(_ handle: Directory.Handle) -> File

    /// Operations that have begun and not ended; 0 or 1 tells a connection that it is alone.
    var activeTransferCount: Int { get }
}

/// Where a stream goes to or comes from.
package enum StreamAddress: Hashable, Sendable, CustomStringConvertible {
    /// A Unix socket, by its path (unix(7); at most 107 bytes).
    case unix(path: String)
    /// A TCP endpoint: an IPv4 or IPv6 address in text, no name to resolve, and a port (0: choose).
    case tcp(host: String, port: UInt16)

    package var description: String {
        switch self {
        case .unix(let path): "unix:\(path)"
        case .tcp(let host, let port) where host.contains(":"): "tcp:[\(host)]:\(port)"
        case .tcp(let host, let port): "tcp:\(host):\(port)"
        }
    }
}

/// A connected byte stream, confined to its reactor's executor.
///
/// At most one receive and one send are under way at a time. After an error the stream is only good
/// for `close`, except for `.deadlineExceeded`, and `.cancelled` by `interrupt`, of a receive that
/// has got nothing.
package protocol ByteStream: AnyObject {
    /// Receives at least `minimum` bytes (1...buffer.count), at most `buffer.count`, and returns
    /// how many. Throws `.closed` when the other side ends first, `.deadlineExceeded` in time.
    nonisolated(nonsending) func receive(
        into buffer: PinnedBytes, minimum: Int, deadline: Instant
    ) async throws(IOFault) -> Int

    /// Sends all of `bytes`.
    nonisolated(nonsending) func send(
        _ bytes: PinnedBytes, deadline: Instant
    ) async throws(IOFault)

    /// Sends all of `first`, then all of `second`, in one system call where possible.
    nonisolated(nonsending) func send(
        _ first: PinnedBytes, _ second: PinnedBytes, deadline: Instant
    ) async throws(IOFault)

    /// Sends all of `bytes` together with a copy of `descriptor` (SCM_RIGHTS, unix(7)).
    /// Throws `.system(EOPNOTSUPP)` when the stream is not local.
    nonisolated(nonsending) func send(
        _ bytes: PinnedBytes, descriptor: Int32, deadline: Instant
    ) async throws(IOFault)

    /// Receives at least one byte, and the descriptor that came along, if any; the caller owns it.
    nonisolated(nonsending) func receiveWithDescriptor(
        into buffer: PinnedBytes, deadline: Instant
    ) async throws(IOFault) -> (byteCount: Int, descriptor: Int32?)

    /// Whether the other side is on this host behind a Unix socket, so that regions can be shared.
    var isLocal: Bool { get }

    /// Who is there, for logs: an address and port, or the peer's process and user id.
    var peerDescription: String { get }

    /// The user id of the process at the other end of a Unix socket when it connected
    /// (SO_PEERCRED, unix(7)); nil for TCP, and after `close`. A system call.
    var peerUser: UInt32? { get }

    /// Ends a receive under way: it throws `.cancelled`, unless something has just come. Nothing
    /// happens where there is none.
    func interrupt()

    /// Ends both directions now: operations under way throw `.closed`. May be called twice.
    func close()
}

/// Accepts connections.
package protocol StreamListener: AnyObject {
    /// An accepted connection on its way to the reactor that will serve it.
    associatedtype Connection: Sendable

    /// The address with the port that was chosen.
    var address: StreamAddress { get }

    /// The next connection; throws `.closed` after `close`, `.system(EMFILE)` when out of
    /// descriptors.
    nonisolated(nonsending) func accept() async throws(IOFault) -> Connection

    /// Stops to listen and wakes `accept`. A Unix socket's path is removed.
    func close()
}

/// How a file is opened.
package enum FileMode: Hashable, Sendable {
    /// Must exist.
    case readOnly
    /// Created when missing.
    case readWrite
    /// Created when missing, and not cached by the kernel (O_DIRECT): 4 KiB-aligned access only.
    case readWriteDirect
}

/// A file of blocks, confined to its reactor's executor.
package protocol BlockFile: AnyObject {
    /// Fills all of `buffer` from `offset`; throws `.closed` when the file ends before.
    nonisolated(nonsending) func read(
        into buffer: PinnedBytes, at offset: UInt64
    ) async throws(IOFault)

    /// Writes all of `bytes` at `offset`. Durable only after `synchronize`.
    nonisolated(nonsending) func write(
        _ bytes: PinnedBytes, at offset: UInt64
    ) async throws(IOFault)

    /// Puts what was written on stable storage (fdatasync(2)).
    nonisolated(nonsending) func synchronize() async throws(IOFault)

    /// Ends the use of the file; nothing is under way. Closes its descriptor, unless a directory's
    /// handle shares it.
    func close()
}
