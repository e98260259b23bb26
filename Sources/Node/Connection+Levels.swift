// SPDX-License-Identifier: Apache-2.0
internal import Codec
internal import KVCore
internal import Telemetry
internal import Tiers
internal import Wire

/// Chunks at another level than they are stored at (docs/protocol.md, GET).
extension Connection {
    /// The chunk at the level that a GET wants, or why it is not there.
    nonisolated(nonsending) func atLevel(
        _ held: consuming HeldChunk, _ request: Request, _ get: GetRequest, _ index: Int
    ) async -> Found {
        let stored = held.description.level
        guard get.level != GetRequest.asStored, get.level != 0 || stored != .raw else {
            return .held(held)
        }
        let wanted = wantedLevel(held.bytes, stored, request, get, index)
        switch LevelPlan(stored: stored, wanted: wanted) {
        case .asStored: return .held(held)
        case .decode:
            switch await decoded(held.escape(), get.keys[index], request, get.range) {
            case .success(let form): return .held(node.tier.lend(form))
            case .failure(let status): return .missing(status)
            }
        case .encode(let level):
            guard let form = await encoded(held.holdAgain(), level, request) else {
                return .held(held)
            }
            return .held(node.tier.lend(form))
        }
    }

    private func wantedLevel(
        _ bytes: PinnedBytes, _ stored: Level, _ request: Request, _ get: GetRequest, _ index: Int
    ) -> Level {
        guard get.level == GetRequest.adaptive else { return Level(rawValue: get.level) ?? .raw }
        let raw = stored == .raw ? bytes.count : ChunkCoder.payloadByteCount(of: bytes)
        return LevelChoice(
            millisecondsLeft: reactor.now().milliseconds(until: request.deadline),
            bytesPerSecond: sendRate.bytesPerSecond, index: index,
            remainingCount: get.keys.count - index, rawByteCount: raw ?? bytes.count,
            costs: node.codec.levelCosts
        ).level()
    }

    /// The raw form of an encoded chunk, or of which `range` is right, which the caller releases.
    /// Takes `source` over. A chunk that turns out to be damaged is deleted.
    nonisolated(nonsending) func decoded(
        _ source: Hold, _ key: ChunkKey, _ request: Request, _ range: ByteRange? = nil
    ) async -> Result<Hold, Status> {
        let wanted = range?.within(chunkByteCount: UInt64(Limits.chunkByteCountMax))
        let bytes = wanted.map { Int($0.lowerBound)..<Int($0.upperBound) }
        switch await codec.decode(source, namespace, range: bytes, deadline: request.deadline) {
        case .success(let form): return .success(form)
        case .failure(.unsound):
            node.metrics.add(.codecQuarantined)
            _ = removeEverywhere(key, now: reactor.now())
            return .failure(.notFound)
        case .failure(.profileMissing), .failure(.unreadable): return .failure(.notFound)
        case .failure(.late), .failure(.queueFull), .failure(.noRoom), .failure(.noGain):
            return .failure(.deadlineExceeded)
        }
    }

    /// A form of a chunk at `level`, which the caller releases; nil: there is none, or not in time.
    /// Takes `source` over.
    private nonisolated(nonsending) func encoded(
        _ source: Hold, _ level: Level, _ request: Request
    ) async -> Hold? {
        var raw = source
        if node.tier.description(of: source).level != .raw {
            let again = node.tier.holdAgain(source)
            if let form = await codec.cut(again, namespace, to: level, deadline: request.deadline) {
                node.tier.release(source)
                return form
            }
            guard
                case .success(let form) = await codec.decode(
                    source, namespace, deadline: request.deadline)
            else { return nil }
            raw = form
        }
        let result = await codec.encode(
            raw, namespace, to: level, .request, deadline: request.deadline)
        guard case .success(let form) = result else { return nil }
        return form
    }

    // MARK: Containers from clients

    /// Why a chunk that a client sent cannot be kept at the level that it names; nil when it can.
    func refusal(of put: PutRequest, _ bytes: PinnedBytes) -> String? {
        guard put.level != 0 else { return nil }
        return ChunkCoder.refusal(
            of: bytes, level: put.level, layout: put.layout,
            payloadByteCountMax: node.chunkByteCountMax)
    }
}
