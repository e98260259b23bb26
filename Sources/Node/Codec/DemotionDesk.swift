// SPDX-License-Identifier: Apache-2.0
internal import Codec
package import KVCore
internal import Telemetry
package import Tiers

/// Encodes chunks on their way to SSD, on the store's reactor.
package struct DemotionDesk<R: Reactor>: DemotionEncoder {
    private let desk: CodecDesk<R>
    private let memory: RAMTier
    private let level: Level
    private let rawNamespaces: Set<NamespaceID>

    /// Nil where chunks are written as they are. `reader` reads on the store's reactor.
    package init?(_ node: Node, _ reactor: R, reader: SSDReader<R>) {
        level = node.codec.configuration.demotion
        guard level != .raw else { return nil }
        rawNamespaces = node.codec.configuration.rawNamespaces
        memory = node.tier
        desk = CodecDesk(reactor, service: node.codec, memory: node.tier, reader: reader)
    }

    package nonisolated(nonsending) func encode(
        _ name: ChunkName, _ hold: Hold, _ description: ChunkDescription
    ) async -> Hold? {
        let blockCount = Self.blockCount(description.byteCount)
        guard blockCount > 1, !rawNamespaces.contains(name.namespace) else {
            memory.release(hold)
            return nil
        }
        let result = await desk.encode(
            hold, name.namespace, to: level, .background,
            deadline: desk.reactor.now().adding(milliseconds: demotionMillisecondsMax))
        guard case .success(let form) = result else { return nil }
        guard Self.blockCount(memory.byteCount(of: form)) < blockCount else {
            desk.service.metrics.add(.codecNoGain)
            memory.release(form)
            return nil
        }
        return form
    }

    private static func blockCount(_ byteCount: Int) -> Int {
        (byteCount + Limits.arenaGranuleByteCount - 1) / Limits.arenaGranuleByteCount
    }
}

/// A chunk that is not encoded after this time goes to SSD as it is: until it is written it can
/// neither be evicted nor survive a restart.
private let demotionMillisecondsMax: UInt64 = 2_000
