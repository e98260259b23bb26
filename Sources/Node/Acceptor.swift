// SPDX-License-Identifier: Apache-2.0
package import KVCore
package import Logging
internal import Telemetry

/// Accepts connections on the first shard's reactor, and gives each to the shard that has fewest.
package actor Acceptor<R: Reactor> {
    private nonisolated let shards: [Shard<R>]
    private let logger: Logger
    private var listeners: [(listener: R.Listener, door: FrontDoor)] = []
    private var isClosed = false

    package nonisolated var unownedExecutor: UnownedSerialExecutor {
        // SAFETY: the shard keeps its reactor, and with it the executor, alive.
        unsafe shards[0].reactor.executor.asUnownedSerialExecutor()
    }

    /// Accepts for `shards`, of which there is at least one.
    package init(shards: [Shard<R>], logger: Logger) {
        invariant(!shards.isEmpty, "somebody must serve what is accepted")
        self.shards = shards
        self.logger = logger
    }

    /// Listens and accepts from now on. The node is configured for what is spoken there.
    /// - Returns: the address, with the port that was chosen.
    package func listen(
        on address: StreamAddress, speaking door: FrontDoor = .native
    ) -> Result<StreamAddress, IOFault> {
        do throws(IOFault) {
            let listener = try shards[0].reactor.listen(on: address)
            listeners.append((listener, door))
            let index = listeners.count - 1
            Task(executorPreference: shards[0].reactor.executor) {
                await self.accept(onListener: index)
            }
            return .success(listener.address)
        } catch {
            return .failure(error)
        }
    }

    /// Stops listening.
    package func close() {
        isClosed = true
        for one in listeners { one.listener.close() }
    }

    /// Goes on with a connection of the daemon before, whose address on this side is `ownAddress`.
    /// - Returns: whether something listens here that would have accepted it; else it is dropped.
    package func resume(
        _ connection: R.Listener.Connection, _ session: ResumedSession,
        ownAddress: StreamAddress
    ) async -> Bool {
        let isOurs = listeners.contains {
            $0.door == session.door && $0.listener.address.covers(ownAddress)
        }
        guard isOurs else { return false }
        let shard = leastLoadedShard()
        shard.expectConnection()
        await shard.serve(connection, speaking: session.door, resuming: session)
        return true
    }

    private func accept(onListener index: Int) async {
        let (listener, door) = listeners[index]
        while true {
            do throws(IOFault) {
                let accepted = try await listener.accept()
                let shard = leastLoadedShard()
                shard.expectConnection()
                await shard.serve(accepted, speaking: door)
            } catch {
                guard !isClosed, error != .cancelled else { return }
                // Out of descriptors or memory, or a peer that was gone before it was accepted:
                // connections wait in the backlog meanwhile.
                logger.event(
                    .error, .acceptFailed, "cannot accept: raise LimitNOFILE?",
                    ["fault": "\(error)", "address": listener.address.description])
                guard await pause() else { return }
            }
        }
    }

    private func leastLoadedShard() -> Shard<R> {
        var best = shards[0]
        for shard in shards.dropFirst() where shard.load < best.load { best = shard }
        return best
    }

    private func pause() async -> Bool {
        let reactor = shards[0].reactor
        do throws(IOFault) {
            try await reactor.sleep(until: reactor.now().adding(milliseconds: 100))
            return true
        } catch {
            return false
        }
    }
}
