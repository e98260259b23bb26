// SPDX-License-Identifier: Apache-2.0
package import KVCore
internal import Synchronization
internal import Telemetry
internal import Tiers
internal import Wire

/// One reactor's part of a node: its connections, and the buffers they share.
///
/// An actor whose executor is the reactor, so that everything here, and every connection, runs on
/// one thread and never hops. A connection stays on its shard for life.
package actor Shard<R: Reactor> {
    package nonisolated let reactor: R
    nonisolated let node: Node
    private nonisolated let ssd: SSDAccess<R>?
    private nonisolated let codec: CodecDesk<R>
    /// Connections here or on their way here.
    private nonisolated let expectedCount = Atomic<Int>(0)
    /// Rises while the shard runs; see `maintain`.
    private nonisolated let beat = Atomic<UInt64>(0)
    /// Connections by slot; a slot is used again when its connection has ended.
    private var slots: [ServedConnection<R>?] = []
    private var unusedSlots: [Int] = []
    private var isStopped = false
    /// Connections that are being told why they are not served.
    private var refusalCount = 0
    private let context = ShardContext()
    /// Connections that have outlived the shard.
    private var kept: [KeptConnection<R>] = []

    package nonisolated var unownedExecutor: UnownedSerialExecutor {
        // SAFETY: the shard keeps its reactor, and with it the executor, alive.
        unsafe reactor.executor.asUnownedSerialExecutor()
    }

    /// A shard of `node` that runs on `reactor`.
    package init(node: Node, reactor: R, ssd: SSDAccess<R>? = nil) {
        self.node = node
        self.ssd = ssd
        self.reactor = reactor
        codec = CodecDesk(reactor, service: node.codec, memory: node.tier, reader: ssd?.reader)
    }

    /// How many connections the shard has. Any thread.
    nonisolated var load: Int { expectedCount.load(ordering: .relaxed) }

    /// A number that rises four times a second while the shard runs. Any thread.
    package nonisolated var heartbeat: UInt64 { beat.load(ordering: .relaxed) }

    /// Counts a connection that is about to be handed to `serve`. Any thread.
    nonisolated func expectConnection() {
        expectedCount.add(1, ordering: .relaxed)
    }

    /// Serves an accepted connection until either side ends it; returns at once. The caller has
    /// called `expectConnection`. `session` is what another daemon knew of it.
    package func serve(
        _ accepted: R.Listener.Connection, speaking door: FrontDoor = .native,
        resuming session: ResumedSession? = nil
    ) {
        let seat = Seat(
            stream: reactor.adopt(accepted), reactor: reactor, node: node, shard: context,
            ssd: ssd, codec: codec)
        let connection = connection(seat, door)
        if let session { connection.resume(session) }
        let slot = unusedSlots.popLast() ?? slots.count
        if slot == slots.count { slots.append(connection) } else { slots[slot] = connection }
        let isWelcome = !isStopped && node.connectionBegan(door)
        node.metrics.add(isWelcome ? .connectionsAccepted : .connectionsRefused)
        Task(executorPreference: reactor.executor) {
            await isWelcome ? self.run(slot, door) : self.refuse(slot)
        }
    }

    private func connection(_ seat: Seat<R>, _ door: FrontDoor) -> ServedConnection<R> {
        switch door {
        case .native: return Connection(seat)
        case .resp:
            guard let settings = node.configuration.resp else {
                preconditionFailure("a RESP listener needs its configuration")
            }
            return RESPConnection(seat, settings)
        case .lm:
            guard let settings = node.configuration.lm else {
                preconditionFailure("an lm listener needs its configuration")
            }
            return LMConnection(seat, settings)
        }
    }

    private func run(_ slot: Int, _ door: FrontDoor) async {
        await slots[slot]?.run()
        if let one = slots[slot]?.kept { kept.append(one) }
        node.connectionEnded(door)
        forget(slot)
    }

    private func refuse(_ slot: Int) async {
        refusalCount += 1
        if refusalCount > refusalCountMax {
            slots[slot]?.close()
        } else {
            await slots[slot]?.refuse(isStopped ? .stopping : .tooMany)
        }
        refusalCount -= 1
        forget(slot)
    }

    private func forget(_ slot: Int) {
        slots[slot] = nil
        unusedSlots.append(slot)
        expectedCount.subtract(1, ordering: .relaxed)
    }

    private var isEmpty: Bool { unusedSlots.count == slots.count }

    /// Ends leases that are over, and forgets expired chunks, four times a
    /// second; runs until the reactor or the shard stops.
    package func maintain() async {
        while !isStopped {
            let next = reactor.now().adding(milliseconds: maintenanceMilliseconds)
            do throws(IOFault) {
                try await reactor.sleep(until: next)
            } catch {
                return
            }
            beat.add(1, ordering: .relaxed)
            let now = reactor.now()
            for connection in slots { connection?.endExpiredLeases(by: now) }
            endReadLeases { $0.endExpired(by: now, $1) }
            node.tier.sweep(entryCount: sweepEntryCount, now: now)
        }
    }

    /// Ends idle connections, and takes no new ones. The others end after the request that they
    /// are at. The node's `beginStop` has been called.
    package func beginStop() {
        isStopped = true
        endIdle()
    }

    private func endIdle() {
        for case let connection? in slots where connection.isIdle { connection.endIdle() }
    }

    /// The connections that have outlived the shard, once.
    package func takeKept() -> [KeptConnection<R>] {
        defer { kept = [] }
        return kept
    }

    /// Waits until no connection is left; closes those that are at `deadline`.
    package func stop(by deadline: Instant) async {
        while !isEmpty, reactor.now() < deadline {
            // Again: the ring may have been too full to interrupt all of them.
            endIdle()
            guard await pause(milliseconds: 5) else { break }
        }
        for connection in slots { connection?.close() }
        while !isEmpty {
            guard await pause(milliseconds: 1) else { break }
        }
        endReadLeases { $0.endAll($1) }
    }

    /// Ends the leases that `end` chooses.
    private func endReadLeases(
        _ end: (inout ReadLeases, (Hold, Int) -> Void) -> Void
    ) {
        end(&context.readLeases) { hold, byteCount in
            node.metrics.add(.leasesExpired)
            node.readLeaseEnded(byteCount: byteCount)
            node.tier.release(hold)
        }
    }

    private func pause(milliseconds: UInt64) async -> Bool {
        do throws(IOFault) {
            try await reactor.sleep(until: reactor.now().adding(milliseconds: milliseconds))
            return true
        } catch {
            return false
        }
    }
}

/// Connections told at once why they are not served; more are closed without a word.
private let refusalCountMax = 256
/// How often leases and expiry are looked after.
private let maintenanceMilliseconds: UInt64 = 250
/// Slots looked at in one round: 64 K slots take 16 rounds, 4 seconds.
private let sweepEntryCount = 4_096

/// What the connections of one shard share. Confined to the shard.
final class ShardContext {
    /// Bodies and replies that do not fit a connection's own buffers.
    let scratch = ScratchPool(
        bufferCountMax: 64, byteCount: Limits.bodyByteCountMax + 2 * FrameHeader.byteCount)
    /// Two for each RESP connection that says much at once.
    let respBuffers = ScratchPool(
        bufferCountMax: Limits.respLargeBufferCountMax, byteCount: Limits.bodyByteCountMax)
    /// Takes what nobody wants: the payload of a refused PUT.
    let discard = OwnedBytes(count: Limits.pieceByteCountShared)
    /// What clients were told is there.
    var readLeases = ReadLeases()
    private var lastSmallRequest = Instant(nanoseconds: 0)

    /// A request with little to transfer has begun: large transfers go in small pieces for a while.
    func noteSmallRequest(at now: Instant) {
        lastSmallRequest = now
    }

    /// The same, where the request transfers so much.
    func noteRequest(at now: Instant, byteCount: Int) {
        if byteCount <= smallByteCountMax { noteSmallRequest(at: now) }
    }

    /// Bytes to transfer in one operation.
    func pieceByteCount(at now: Instant) -> Int {
        lastSmallRequest.adding(milliseconds: 10) > now
            ? Limits.pieceByteCountShared : Limits.pieceByteCountAlone
    }
}

/// Transfers up to this size count as small.
private let smallByteCountMax = 64 << 10
