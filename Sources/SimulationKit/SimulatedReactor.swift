// SPDX-License-Identifier: Apache-2.0

package import KVCore

/// The reactor of one simulated process: the second implementation of the seam, beside `LinuxIO`.
///
/// Calls from another reactor's job trap, as they do in production.
// SAFETY: confined to its scheduler's thread, which each entry checks by `assertHere`.
package final class SimulatedReactor: Reactor, @unchecked Sendable {
    package let executor: SimulatedExecutor
    package let host: String
    package let index: Int
    let scheduler: SimulatedScheduler
    let network: SimulatedNetwork
    let disk: SimulatedDisk

    /// Runs up to this size are no transfers: they are over at once.
    private static let transferByteCountMin = 64 << 10

    private var random: SeededRandom
    private var operations: [SimulatedOperation] = []
    private(set) var isStopped = false
    /// Whether the process ended by a crash of its host: what is left of its code cannot touch the
    /// disk any more.
    private(set) var hasVanished = false
    var streams: [SimulatedStream] = []
    var listeners: [SimulatedListener] = []
    var openFileCountNow = 0
    private var root: Root?
    private var startedTaskCount = 0
    private var endedTaskCount = 0

    init(world: SimulatedWorld, host: String, disk: SimulatedDisk, index: Int) {
        scheduler = world.scheduler
        network = world.network
        executor = world.scheduler.makeExecutor()
        self.disk = disk
        self.host = host
        self.index = index
        random = world.scheduler.forkRandom()
        root = Root(executor: executor)
    }

    // MARK: The seam

    package func now() -> Instant {
        precondition(scheduler.isOnItsThread, "a simulated clock was read outside its thread")
        return scheduler.now
    }

    package func randomBits() -> UInt64 {
        precondition(scheduler.isOnItsThread, "simulated chance was drawn outside its thread")
        let bits = random.next()
        scheduler.record(.random, reactor: index, size: Int(truncatingIfNeeded: bits))
        return bits
    }

    package nonisolated(nonsending) func sleep(until instant: Instant) async throws(IOFault) {
        let result = await suspend(.sleep, deadline: instant) { _ in }
        guard case .failure(let fault) = result, fault != .deadlineExceeded else { return }
        throw fault
    }

    package nonisolated(nonsending) func yield() async {
        _ = await suspend(.yield, deadline: .distantFuture) { $0.end(.success(0)) }
    }

    package func listen(on address: StreamAddress) throws(IOFault) -> SimulatedListener {
        assertHere()
        guard !isStopped else { throw .cancelled }
        return try network.listen(on: address, by: self)
    }

    package nonisolated(nonsending) func connect(
        to address: StreamAddress, deadline: Instant
    ) async throws(IOFault) -> SimulatedStream {
        let handshake = SimulatedHandshake(address: address, client: self)
        _ = try await suspend(.connect, deadline: deadline) { network.begin(handshake, $0) }.get()
        return handshake.takeStream()
    }

    package func adopt(_ connection: SimulatedConnection) -> SimulatedStream {
        assertHere()
        return connection.take(by: self)
    }

    package func release(_ stream: SimulatedStream) -> SimulatedConnection? {
        assertHere()
        return stream.detach().map { SimulatedConnection($0) }
    }

    package func openFile(
        _ path: String, _ mode: FileMode
    ) throws(IOFault) -> SimulatedFile {
        assertHere()
        guard !isStopped else { throw .cancelled }
        return try SimulatedFile(reactor: self, blocks: disk.open(path, mode), mode: mode)
    }

    package func openDirectory(_ path: String) throws(IOFault) -> SimulatedDirectory {
        assertHere()
        guard !isStopped else { throw .cancelled }
        return try SimulatedDirectory(path: path, reactor: self)
    }

    package func attach(_ handle: SimulatedFileHandle) -> SimulatedFile {
        assertHere()
        if !handle.blocks.belongs(to: disk) {
            scheduler.fail("a file was attached on another host")
        }
        return SimulatedFile(reactor: self, blocks: handle.blocks, mode: handle.mode)
    }

    package var activeTransferCount: Int {
        operations.count {
            [.receive, .send].contains($0.kind) && $0.byteCountMax > Self.transferByteCountMin
        }
    }

    // MARK: For the test

    /// Starts a task on this reactor, with its executor as the task's preference, so that it
    /// resumes here and not on the global pool; `endedTaskCount` tells when it is over.
    package func start(_ body: @escaping @Sendable () async -> Void) {
        guard let root else { preconditionFailure("this reactor was stopped") }
        startedTaskCount += 1
        root.assumeIsolated { $0.start(body) { self.endedTaskCount += 1 } }
    }

    /// Whether every task that `start` started has ended.
    package var isIdle: Bool { startedTaskCount == endedTaskCount }

    /// Streams that were opened or adopted here and not closed.
    package var openStreamCount: Int { streams.count }

    /// Files that were opened or attached here and not closed.
    package var openFileCount: Int { openFileCountNow }

    /// Calls of the seam that are suspended now.
    package var suspendedOperationCount: Int { operations.count }

    /// Ends the reactor as its owner would: every call under way and every later one throws
    /// `.cancelled`, and its connections close.
    package func stop() {
        scheduler.record(.stopped, reactor: index)
        end { $0.close() }
    }

    /// The part of `SimulatedWorld.crash` that is this process.
    func vanish() {
        scheduler.record(.crashed, reactor: index)
        hasVanished = true
        end { $0.vanish() }
    }

    private func end(_ leave: (SimulatedStream) -> Void) {
        guard !isStopped else { return }
        isStopped = true
        for listener in listeners { listener.close() }
        for operation in operations { operation.end(.failure(.cancelled)) }
        for stream in streams { leave(stream) }
    }

    // MARK: Operations

    /// Suspends the caller until the operation that `begin` is given ends.
    nonisolated(nonsending) func suspend(
        _ kind: SimulatedOperation.Kind, deadline: Instant,
        _ begin: (SimulatedOperation) -> Void
    ) async -> Result<Int, IOFault> {
        assertHere()
        guard !isStopped else { return .failure(.cancelled) }
        scheduler.record(.suspended, reactor: index, size: kind.rawValue)
        return await withCheckedContinuation { continuation in
            let operation = SimulatedOperation(
                kind: kind, reactor: self, continuation: continuation)
            operations.append(operation)
            operation.expire(at: deadline)
            begin(operation)
        }
    }

    func forget(_ operation: SimulatedOperation) {
        guard let place = operations.firstIndex(where: { $0 === operation }) else { return }
        operations.remove(at: place)
    }

    /// Calls come from this reactor's jobs, or from the test between steps.
    func assertHere() {
        precondition(scheduler.isOnItsThread, "a simulated reactor was used outside its thread")
        precondition(
            scheduler.runningReactor == nil || scheduler.runningReactor == index,
            "an operation of one reactor was called on another")
    }

    /// The actor on which `start` begins tasks, so that not even their first job leaves.
    private actor Root {
        private let executor: SimulatedExecutor

        init(executor: SimulatedExecutor) {
            self.executor = executor
        }

        nonisolated var unownedExecutor: UnownedSerialExecutor {
            // SAFETY: the executor lives as long as this actor holds it.
            unsafe executor.asUnownedSerialExecutor()
        }

        func start(
            _ body: @escaping @Sendable () async -> Void, onEnd: @escaping @Sendable () -> Void
        ) {
            Task(executorPreference: executor) {
                // Names `self`, so that the task is this actor's from its first job on. `body` is
                // called here and not from a closure around it, which would not be isolated.
                _ = self
                await body()
                onEnd()
            }
        }
    }
}
