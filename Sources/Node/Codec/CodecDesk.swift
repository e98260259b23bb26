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

    /// The raw form of a chunk that is encoded, or of which `range` is right. Takes `source` over;
    /// the caller releases the result.
    func decode(
        _ source: Hold, _ namespace: NamespaceID, range: Range<Int>? = nil, deadline: Instant
    ) async -> Result<Hold, FormFault> {
        let profile = await profile(ofContainer: source, namespace, deadline)
        let coder = coder
        return await form(.request, source, until: deadline) {
            coder.decode(source, profile, range: range)
        }
    }

    /// A form of a raw chunk at `level`, or at the finer one that can be had. Takes `source` over;
    /// the caller releases the result.
    func encode(
        _ source: Hold, _ namespace: NamespaceID, to level: Level,
        _ urgency: CodecService.Urgency, deadline: Instant
    ) async -> Result<Hold, FormFault> {
        let description = memory.description(of: source)
        let layout = await layout(namespace, description.layout, deadline)
        var profile: Profile?
        if let layout, level > .zstd {
            profile = await self.profile(for: layout, namespace, urgency, deadline)
        }
        let (coder, known) = (coder, profile)
        let began = reactor.now()
        let result = await form(urgency, source, until: deadline) {
            coder.encode(source, to: level, layout, known)
        }
        if case .success(let form) = result {
            service.note(
                level, rawByteCount: description.byteCount, byteCount: memory.byteCount(of: form),
                nanoseconds: reactor.now().nanoseconds - began.nanoseconds)
        }
        return result
    }

    /// An embedded container without the refinements that `level` can do without; nil: it is none,
    /// or has nothing as good. Takes `source` over; the caller releases the result.
    func cut(
        _ source: Hold, _ namespace: NamespaceID, to level: Level, deadline: Instant
    ) async -> Hold? {
        let stored = memory.description(of: source).level
        guard memory.withHeld(source, { ChunkCoder.isEmbedded($0) }),
            let profile = await profile(ofContainer: source, namespace, deadline),
            let count = profile.refinementCount(of: stored, for: level)
        else {
            memory.release(source)
            return nil
        }
        let coder = coder
        let result = await form(.request, source, until: deadline) {
            coder.cut(source, refinementCount: count)
        }
        guard case .success(let form) = result else { return nil }
        return form
    }

    /// Has `work` done by the workers; releases `source` when it is done or dropped.
    private func form(
        _ urgency: CodecService.Urgency, _ source: Hold, until deadline: Instant,
        _ work: @escaping @Sendable () -> Result<Hold, FormFault>
    ) async -> Result<Hold, FormFault> {
        let memory = memory
        return await perform(urgency, until: deadline) { isWanted in
            defer { memory.release(source) }
            return isWanted ? work() : .failure(.late)
        } drop: { result in
            if case .success(let form) = result { memory.release(form) }
        } notTaken: {
            memory.release(source)
            return .failure(.queueFull)
        } late: {
            .failure(.late)
        }
    }

    /// Has `work` done by the workers, and waits for it until `deadline`. `drop` gets a result that
    /// nobody waits for any more.
    private func perform<Value: Sendable>(
        _ urgency: CodecService.Urgency, until deadline: Instant,
        _ work: @escaping @Sendable (_ isWanted: Bool) -> Value,
        drop: @escaping @Sendable (Value) -> Void, notTaken: () -> Value, late: () -> Value
    ) async -> Value {
        let errand = Errand<Value>()
        let isTaken = service.submit(urgency) {
            let value = work(errand.isOpen)
            if !errand.end(value) { drop(value) }
        }
        guard isTaken else { return notTaken() }
        if let value = await clock.wait(for: errand, until: deadline) { return value }
        service.metrics.add(.codecLate)
        return late()
    }

    // MARK: What the namespace says

    /// What chunks of a layout mean; nil when nobody said so.
    private func layout(
        _ namespace: NamespaceID, _ id: LayoutID, _ deadline: Instant
    ) async -> KVLayout? {
        guard id != .opaque, let keys = service.catalog.keys(of: namespace) else { return nil }
        let name = CodecCatalog.LayoutName(namespace: namespace, layout: id)
        let now = reactor.now()
        if let known = service.catalog.layouts.look(name, now: now) { return known }
        var layout: KVLayout?
        if let text = await read(keys.descriptionKey(of: id), namespace, deadline),
            let described = KVLayout(description: text), described.id == id
        {
            layout = described
        }
        service.catalog.layouts.learn(name, layout, now: now)
        return layout
    }

    /// What a layout's chunks are to be encoded with; nil when the namespace names no profile, or
    /// it is not at hand.
    private func profile(
        for layout: KVLayout, _ namespace: NamespaceID, _ urgency: CodecService.Urgency,
        _ deadline: Instant
    ) async -> Profile? {
        guard let keys = service.catalog.keys(of: namespace) else { return nil }
        let name = CodecCatalog.LayoutName(namespace: namespace, layout: layout.id)
        let now = reactor.now()
        let choice: ProfileHash?
        if let known = service.catalog.choices.look(name, now: now) {
            choice = known
        } else {
            let bytes = await read(keys.profileChoiceKey(of: layout.id), namespace, deadline)
            choice = bytes.flatMap { ProfileHash(choice: $0) }
            service.catalog.choices.learn(name, choice, now: now)
        }
        guard let choice else { return nil }
        let found = await profile(choice, layout, namespace, urgency, deadline)
        if found == nil { service.metrics.add(.codecProfilesMissing) }
        return found
    }

    /// The profile that a container names; nil when it names none, or it is not at hand.
    private func profile(
        ofContainer source: Hold, _ namespace: NamespaceID, _ deadline: Instant
    ) async -> Profile? {
        guard let named = memory.withHeld(source, { ChunkCoder.profile(of: $0) }) else {
            return nil
        }
        return await profile(named.hash, named.layout, namespace, .request, deadline)
    }

    private func profile(
        _ hash: ProfileHash, _ layout: KVLayout, _ namespace: NamespaceID,
        _ urgency: CodecService.Urgency, _ deadline: Instant
    ) async -> Profile? {
        let name = CodecCatalog.ProfileName(
            layout: CodecCatalog.LayoutName(namespace: namespace, layout: layout.id), hash: hash)
        let now = reactor.now()
        if let known = service.catalog.profiles.look(name, now: now) { return known }
        guard let keys = service.catalog.keys(of: namespace) else { return nil }
        var profile: Profile?
        if let hold = await obtain(keys.profileKey(hash: hash.bytes), namespace, deadline) {
            let memory = memory
            let read: Profile?? = await perform(urgency, until: deadline) { isWanted in
                defer { memory.release(hold) }
                guard isWanted else { return .none }
                return .some(memory.withHeld(hold) { ChunkCoder.profile(in: $0, hash, layout) })
            } drop: { _ in
            } notTaken: {
                memory.release(hold)
                return .none
            } late: {
                .none
            }
            // Not read in time says nothing of what is there.
            guard let read else { return nil }
            profile = read
        }
        let size = profile?.memoryByteCount ?? 0
        if size > service.catalog.profiles.sizeMax {
            service.metrics.add(.codecProfilesTooLarge)
            profile = nil
        }
        service.catalog.profiles.learn(name, profile, size: size, now: now)
        return profile
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
