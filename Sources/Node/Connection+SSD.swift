// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Telemetry
internal import Tiers
internal import Wire

/// What connections do with the SSD tier, beside memory.
extension Connection {
    /// How a read of a chunk counts, by whether all that stand before it in its request were found.
    func use(_ isPrefix: Bool) -> RAMTier.Use {
        isPrefix || !node.configuration.admitsPrefixesOnly ? .counts : .countsInMemory
    }

    // MARK: Storing

    /// The status of a chunk that is in memory, or was there already, once it is as durable as its
    /// writer wants it.
    nonisolated(nonsending) func settle(
        _ request: Request, _ put: PutRequest, _ status: Status
    ) async -> Status {
        if status == .ok { ssd?.store.bell.ring() }
        guard put.acknowledge == .ssd else { return status }
        guard let ssd else { return .notDurable }
        let name = ChunkName(namespace, put.key)
        if await ssd.store.store(name, deadline: request.deadline) { return status }
        return reactor.now() < request.deadline ? .notDurable : .deadlineExceeded
    }

    // MARK: Deleting and pinning

    /// Makes chunks unfindable in all tiers, durably.
    nonisolated(nonsending) func serveDelete(
        _ request: Request, _ body: PinnedBytes
    ) async throws(ConnectionEnd) -> Next {
        let keys: KeyList
        do throws(WireFault) {
            keys = try DeleteRequest.decode(body).keys
        } catch {
            return try await refuse(request, error)
        }
        shard.noteSmallRequest(at: request.arrival)
        return try await answerStatuses(request, keys) { key in
            let outcome = removeEverywhere(key, now: request.arrival)
            if outcome.status == .ok { node.metrics.add(.chunksDeleted) }
            return outcome
        }
    }

    nonisolated(nonsending) func servePin(
        _ request: Request, _ body: PinnedBytes
    ) async throws(ConnectionEnd) -> Next {
        let pin: PinRequest
        do throws(WireFault) {
            pin = try PinRequest.decode(body)
        } catch {
            return try await refuse(request, error)
        }
        let end = request.arrival.adding(milliseconds: pin.milliseconds)
        // A pin that outlives a restart needs a chunk that does.
        let next = try await answerStatuses(request, pin.keys, storing: true) { key in
            self.pin(key, until: end, now: request.arrival)
        }
        ssd?.store.bell.ring()
        return next
    }

    nonisolated(nonsending) func serveUnpin(
        _ request: Request, _ body: PinnedBytes
    ) async throws(ConnectionEnd) -> Next {
        let keys: KeyList
        do throws(WireFault) {
            keys = try DeleteRequest.decode(body).keys
        } catch {
            return try await refuse(request, error)
        }
        return try await answerStatuses(request, keys) { key in
            self.pin(key, until: request.arrival, now: request.arrival)
        }
    }

    /// Answers with a status for each key, once what `perform` did is durable and, if `storing`,
    /// the chunks are.
    private nonisolated(nonsending) func answerStatuses(
        _ request: Request, _ keys: KeyList, storing: Bool = false,
        _ perform: (ChunkKey) -> KeyOutcome
    ) async throws(ConnectionEnd) -> Next {
        try await answerRows(request, rowByteCountMax: 2 * keys.count) { rows in
            var notes: [(index: Int, sequence: UInt64)] = []
            for index in 0..<keys.count {
                var (status, note) = perform(keys[index])
                switch note {
                case .nothing: break
                case .noted(let sequence): notes.append((index, sequence))
                case .refused: status = .notDurable
                }
                rows.store(status.rawValue, at: 2 * index)
            }
            if let ssd, !notes.isEmpty {
                let areDurable = await ssd.store.awaitNotes(
                    notes.map(\.sequence), deadline: request.deadline)
                for (note, isDurable) in zip(notes, areDurable) where !isDurable {
                    rows.store(Status.notDurable.rawValue, at: 2 * note.index)
                }
            }
            if let ssd, storing {
                let kept = (0..<keys.count).filter { rows.isOK($0) }
                let areStored = await ssd.store.store(
                    kept.map { ChunkName(namespace, keys[$0]) }, deadline: request.deadline)
                for (index, isStored) in zip(kept, areStored) where !isStored {
                    rows.store(Status.notDurable.rawValue, at: 2 * index)
                }
            }
            return Rows(
                firstCount: UInt32((0..<keys.count).count { rows.isOK($0) }),
                secondCount: UInt32(keys.count), byteCount: 2 * keys.count)
        }
    }

    /// Pins a chunk in the tiers that have it, until `end`; in the past: no longer.
    private func pin(_ key: ChunkKey, until end: Instant, now: Instant) -> KeyOutcome {
        let name = ChunkName(namespace, key)
        guard let (description, _) = describe(key, now: now, asUse: .doesNotCount) else {
            return (.notFound, .nothing)
        }
        // Before anything is changed: an earlier pin holds when there is no room for this one.
        if let ssd, end > now, !ssd.tier.mayPin(name, byteCount: description.byteCount) {
            return (.busy, .nothing)
        }
        let inMemory = node.tier.pin(name, until: end, now: now)
        guard inMemory != .busy else { return (.busy, .nothing) }
        guard let ssd else { return (inMemory == .ok ? .notDurable : inMemory, .nothing) }
        return (.ok, ssd.tier.pin(name, until: end, now: now))
    }

    // MARK: The operator's requests

    nonisolated(nonsending) func serveControl(
        _ request: Request, _ body: PinnedBytes
    ) async throws(ConnectionEnd) -> Next {
        let control: ControlRequest
        do throws(WireFault) {
            control = try ControlRequest.decode(body)
        } catch {
            return try await refuse(request, error)
        }
        guard let user = stream.peerUser, user == 0 || user == node.configuration.userID else {
            return try await answerAndClose(
                request, .unauthorized,
                "only root and kvstored's own user may, over the Unix socket: try sudo")
        }
        guard let ssd else {
            return try await refuse(
                request, .unsupported, "there is no SSD tier: set ssd.directories")
        }
        let pairs: [(name: String, text: String)]
        switch control.operation {
        case .ssdStatus:
            pairs = await ssd.store.status().map { ($0.name, $0.value) } + usage(ssd.tier)
        case .ssdScrub:
            let rate = Int(control.argument)
            guard control.argument.isEmpty || (rate ?? 0) > 0 else {
                return try await refuse(
                    request, .unsupported, "the rate is bytes a second, a whole number")
            }
            await ssd.store.requestScrub(rate: rate)
            pairs = []
        case .ssdEvacuate:
            let status = await ssd.store.beginEvacuation(control.argument)
            guard status == .ok else {
                return try await refuse(request, status, evacuationRefusal(status))
            }
            pairs = []
        }
        let answer = ControlAnswer(pairs: pairs)
        return try await answerLarge(request, bodyByteCount: Limits.bodyByteCountMax) {
            answer.encode(&$0)
        }
    }

    /// What each namespace has on SSD.
    private func usage(_ tier: SSDTier) -> [(name: String, text: String)] {
        node.configuration.namespaces.enumerated().flatMap { number, namespace in
            guard let namespace else { return [(name: String, text: String)]() }
            let usage = tier.usage(of: NamespaceID(number: UInt16(number)))
            return [
                ("namespace_\(namespace.name)_chunks", "\(usage.chunkCount)"),
                ("namespace_\(namespace.name)_chunk_bytes", "\(usage.byteCount)"),
            ]
        }
    }

    private func evacuationRefusal(_ status: Status) -> String {
        switch status {
        case .notFound: "no such directory is in use: kvctl ssd status lists them"
        case .busy: "it is being evacuated already"
        default: "no other directory takes chunks: add one to ssd.directories and restart"
        }
    }
}

extension PinnedBytes {
    /// Whether row `index` of an answer, each a status, is `ok`.
    fileprivate func isOK(_ index: Int) -> Bool {
        load(UInt16.self, at: 2 * index) == Status.ok.rawValue
    }
}
