// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVCore
import LinuxIO
import Synchronization

/// Every call that a store makes to its disk, counted, and what becomes of one of them, or of all
/// from one on. Any thread.
final class DiskCalls: Sendable {
    enum Kind: Hashable, CaseIterable, Sendable {
        case openDirectory, lock, fileNames, byteCount, open, preallocate, remove, rename
        case synchronizeDirectory, freeByteCount, read, write, synchronize
    }

    /// What becomes of a call.
    enum Fault: Hashable, Sendable {
        /// It does nothing, and says so.
        case failure(Int32)
        /// It does its work in full, and says that it failed.
        case late
        /// A write does half of its work and fails; a read meets the end of the file; no space is
        /// free.
        case short
    }

    private struct State {
        var counts: [Kind: Int] = [:]
        var armed: (kind: Kind, number: Int, fault: Fault, isForGood: Bool)?
        var hasMetFault = false
        var freeByteCountMax = UInt64.max
    }

    private let state = Mutex(State())

    /// How many calls of each kind there were so far.
    var counts: [Kind: Int] { state.withLock { $0.counts } }

    /// Whether a call has failed.
    var hasMetFault: Bool { state.withLock { $0.hasMetFault } }

    /// Makes the call of `kind` after `number` others of its kind fail, and with `isForGood` all
    /// calls of any kind from then on.
    func arm(_ fault: Fault, _ kind: Kind, after number: Int, isForGood: Bool = false) {
        state.withLock { $0.armed = (kind, number, fault, isForGood) }
    }

    func disarm() { state.withLock { $0.armed = nil } }

    /// What the file system says to have left, at most.
    func limitFreeSpace(to byteCount: UInt64) {
        state.withLock { $0.freeByteCountMax = byteCount }
    }

    var freeByteCountMax: UInt64 { state.withLock { $0.freeByteCountMax } }

    /// Counts a call; what becomes of it.
    func next(_ kind: Kind) -> Fault? {
        state.withLock { state in
            defer { state.counts[kind, default: 0] += 1 }
            guard let armed = state.armed else { return nil }
            let isIt = kind == armed.kind && state.counts[kind, default: 0] == armed.number
            guard isIt || armed.isForGood && state.hasMetFault else { return nil }
            state.hasMetFault = true
            return armed.fault
        }
    }

    /// Runs a call that has nothing to be cut short.
    func run<Result>(
        _ kind: Kind, _ body: () throws(IOFault) -> Result
    ) throws(IOFault) -> Result {
        switch next(kind) {
        case nil: return try body()
        case .failure(let number): throw .system(number)
        case .late:
            _ = try body()
            throw .system(EIO)
        case .short: throw .system(EIO)
        }
    }
}

/// The system's reactor, whose disks fail as `calls` says.
final class FaultyReactor: Reactor {
    typealias Executor = RingReactor.Executor
    typealias Stream = RingReactor.Stream
    typealias Listener = RingReactor.Listener

    let base: RingReactor
    let calls: DiskCalls

    init(_ options: ReactorOptions, calls: DiskCalls) throws(IOFault) {
        base = try RingReactor(options)
        self.calls = calls
    }

    nonisolated var executor: Executor { base.executor }

    func now() -> Instant { base.now() }

    func randomBits() -> UInt64 { base.randomBits() }

    nonisolated(nonsending) func sleep(until instant: Instant) async throws(IOFault) {
        try await base.sleep(until: instant)
    }

    nonisolated(nonsending) func yield() async { await base.yield() }

    func listen(on address: StreamAddress) throws(IOFault) -> Listener {
        try base.listen(on: address)
    }

    nonisolated(nonsending) func connect(
        to address: StreamAddress, deadline: Instant
    ) async throws(IOFault) -> Stream {
        try await base.connect(to: address, deadline: deadline)
    }

    func adopt(_ connection: Listener.Connection) -> Stream { base.adopt(connection) }

    func release(_ stream: Stream) -> Listener.Connection? { base.release(stream) }

    func openFile(_ path: String, _ mode: FileMode) throws(IOFault) -> FaultyFile {
        FaultyFile(try base.openFile(path, mode), calls)
    }

    func openDirectory(_ path: String) throws(IOFault) -> FaultyDirectory {
        try calls.run(.openDirectory) { () throws(IOFault) in
            FaultyDirectory(try base.openDirectory(path), calls)
        }
    }

    func attach(_ handle: RingFileHandle) -> FaultyFile {
        FaultyFile(base.attach(handle), calls)
    }

    var activeTransferCount: Int { base.activeTransferCount }

    func stop() { base.stop() }

    func join() { base.join() }
}

/// A directory of a `FaultyReactor`.
final class FaultyDirectory: BlockDirectory {
    private let base: RingDirectory
    private let calls: DiskCalls

    init(_ base: RingDirectory, _ calls: DiskCalls) {
        self.base = base
        self.calls = calls
    }

    var path: String { base.path }

    func fileNames() throws(IOFault) -> [String] {
        try calls.run(.fileNames) { () throws(IOFault) in try base.fileNames() }
    }

    func byteCount(of name: String) throws(IOFault) -> UInt64? {
        try calls.run(.byteCount) { () throws(IOFault) in try base.byteCount(of: name) }
    }

    func open(_ name: String, _ mode: FileMode) throws(IOFault) -> RingFileHandle {
        try calls.run(.open) { () throws(IOFault) in try base.open(name, mode) }
    }

    func preallocate(_ name: String, byteCount: UInt64) throws(IOFault) {
        try calls.run(.preallocate) { () throws(IOFault) in
            try base.preallocate(name, byteCount: byteCount)
        }
    }

    func remove(_ name: String) throws(IOFault) {
        try calls.run(.remove) { () throws(IOFault) in try base.remove(name) }
    }

    func rename(_ name: String, to newName: String) throws(IOFault) {
        try calls.run(.rename) { () throws(IOFault) in try base.rename(name, to: newName) }
    }

    func synchronize() throws(IOFault) {
        try calls.run(.synchronizeDirectory) { () throws(IOFault) in try base.synchronize() }
    }

    func freeByteCount() throws(IOFault) -> UInt64 {
        switch calls.next(.freeByteCount) {
        case nil: return min(try base.freeByteCount(), calls.freeByteCountMax)
        case .failure(let number): throw .system(number)
        case .late: throw .system(EIO)
        case .short: return 0
        }
    }

    func lock() throws(IOFault) {
        try calls.run(.lock) { () throws(IOFault) in try base.lock() }
    }

    func close() { base.close() }
}

/// A file of a `FaultyReactor`.
final class FaultyFile: BlockFile {
    private let base: RingFile
    private let calls: DiskCalls

    init(_ base: RingFile, _ calls: DiskCalls) {
        self.base = base
        self.calls = calls
    }

    nonisolated(nonsending) func read(
        into buffer: PinnedBytes, at offset: UInt64
    ) async throws(IOFault) {
        switch calls.next(.read) {
        case nil: try await base.read(into: buffer, at: offset)
        case .failure(let number): throw .system(number)
        case .late: throw .system(EIO)
        case .short: throw .closed
        }
    }

    nonisolated(nonsending) func write(
        _ bytes: PinnedBytes, at offset: UInt64
    ) async throws(IOFault) {
        switch calls.next(.write) {
        case nil: try await base.write(bytes, at: offset)
        case .failure(let number): throw .system(number)
        case .late:
            try await base.write(bytes, at: offset)
            throw .system(EIO)
        case .short:
            let byteCount = bytes.count / 8_192 * 4_096
            if byteCount > 0 { try await base.write(bytes.prefix(byteCount), at: offset) }
            throw .system(EIO)
        }
    }

    nonisolated(nonsending) func synchronize() async throws(IOFault) {
        switch calls.next(.synchronize) {
        case nil: try await base.synchronize()
        case .failure(let number): throw .system(number)
        case .late, .short:
            try await base.synchronize()
            throw .system(EIO)
        }
    }

    func close() { base.close() }
}
