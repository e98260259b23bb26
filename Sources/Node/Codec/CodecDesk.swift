// SPDX-License-Identifier: Apache-2.0
internal import Codec
package import KVCore
internal import Kernels
internal import Telemetry
package import Tiers

/// Why there is no other form of a chunk.
enum FormFault: Error, Hashable {
    /// It was not done in time.
    case late
    /// Too much is being encoded and decoded already.
    case queueFull
    /// Memory has no room for it.
    case noRoom
    /// What is encoded cannot be decoded: it is damaged.
    case unsound
    /// The profile that it was encoded with is not stored.
    case profileMissing
    /// A later release made it, or the profile does not fit it.
    case unreadable
    /// It would be no smaller.
    case noGain
}

/// The codec as one reactor uses it: hands chunks to the workers and waits for their other forms,
/// with what the namespace says of its layouts and profiles. On the reactor's executor.
package actor CodecDesk<R: Reactor> {
    nonisolated let reactor: R
    nonisolated let service: CodecService
    private nonisolated let memory: RAMTier
    /// Nil: there is no SSD tier.
    private nonisolated let reader: SSDReader<R>?
    private nonisolated let clock: ErrandClock<R>
    private nonisolated let coder: ChunkCoder

    package nonisolated var unownedExecutor: UnownedSerialExecutor {
        // SAFETY: the desk keeps its reactor, and with it the executor, alive.
        unsafe reactor.executor.asUnownedSerialExecutor()
    }

    package init(
        _ reactor: R, service: CodecService, memory: RAMTier, reader: SSDReader<R>?
    ) {
        self.reactor = reactor
        self.service = service
        self.memory = memory
        self.reader = reader
        clock = ErrandClock(reactor)
        coder = ChunkCoder(
            memory: memory, workspaces: service.workspaces, metrics: service.metrics)
    }

    // MARK: Forms

    /// The raw form of a chunk that is encoded. Takes `source` over; the caller releases the
    /// result.
    func decode(_ source: Hold, deadline: Instant) async -> Result<Hold, FormFault> {
        let coder = coder
        return await run(.request, source, until: deadline) { coder.decode(source) }
    }

    /// A form of a raw chunk at `level`, or at the finer one that can be had. Takes `source` over;
    /// the caller releases the result.
    func encode(
        _ source: Hold, _ namespace: NamespaceID, to level: Level,
        _ urgency: CodecService.Urgency, deadline: Instant
    ) async -> Result<Hold, FormFault> {
        let description = memory.description(of: source)
        let layout = await layout(namespace, description.layout, deadline)
        let coder = coder
        let began = reactor.now()
        let result = await run(urgency, source, until: deadline) {
            coder.encode(source, to: level, layout)
        }
        if case .success(let form) = result {
            service.note(
                level, rawByteCount: description.byteCount, byteCount: memory.byteCount(of: form),
                nanoseconds: reactor.now().nanoseconds - began.nanoseconds)
        }
        return result
    }

    /// Has `work` done by the workers; releases `source` when it is done or dropped.
    private func run(
        _ urgency: CodecService.Urgency, _ source: Hold, until deadline: Instant,
        _ work: @escaping @Sendable () -> Result<Hold, FormFault>
    ) async -> Result<Hold, FormFault> {
        let errand = Errand<Result<Hold, FormFault>>()
        let memory = memory
        let isTaken = service.submit(urgency) {
            let result: Result<Hold, FormFault>
            if errand.isOpen { result = work() } else { result = .failure(.late) }
            memory.release(source)
            // Nobody waits any more.
            if !errand.end(result), case .success(let form) = result { memory.release(form) }
        }
        guard isTaken else {
            memory.release(source)
            return .failure(.queueFull)
        }
        guard let result = await clock.wait(for: errand, until: deadline) else {
            service.metrics.add(.codecLate)
            return .failure(.late)
        }
        return result
    }

    // MARK: What the namespace says

    /// What chunks of a layout mean; nil when nobody said so.
    private func layout(
        _ namespace: NamespaceID, _ id: LayoutID, _ deadline: Instant
    ) async -> KVLayout? {
        guard id != .opaque, let keys = service.catalog.keys(of: namespace) else { return nil }
        let now = reactor.now()
        if let known = service.catalog.layout(namespace, id, now: now) { return known }
        var layout: KVLayout?
        if let text = await read(keys.descriptionKey(of: id), namespace, deadline),
            let described = KVLayout(description: text), described.id == id
        {
            layout = described
        }
        service.catalog.learn(namespace, id, layout, now: now)
        return layout
    }

    /// The bytes of a small chunk.
    private func read(
        _ key: ChunkKey, _ namespace: NamespaceID, _ deadline: Instant
    ) async -> [UInt8]? {
        guard let hold = await obtain(key, namespace, deadline) else { return nil }
        let held = memory.lend(hold)
        let bytes = held.bytes
        guard bytes.count <= Limits.bodyByteCountMax, held.description.level == .raw else {
            return nil
        }
        return (0..<bytes.count).map { bytes[$0] }
    }

    private func obtain(
        _ key: ChunkKey, _ namespace: NamespaceID, _ deadline: Instant
    ) async -> Hold? {
        guard let reader else {
            return memory.hold(namespace, key, now: reactor.now())?.escape()
        }
        let result = await reader.obtain(ChunkName(namespace, key), deadline: deadline)
        return if case .success(let hold) = result { hold } else { nil }
    }
}
