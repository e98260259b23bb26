// SPDX-License-Identifier: Apache-2.0
internal import Codec
internal import KVCore
internal import Kernels
internal import Synchronization
internal import Telemetry
internal import Tiers

/// What a worker does with one chunk. On any thread; blocks it for as long as the work takes.
struct ChunkCoder: Sendable {
    let memory: RAMTier
    let workspaces: WorkspacePool
    let metrics: Metrics

    /// The payload that the container in `source` decodes to, as a chunk of its own; where only
    /// `range` is wanted, other bytes of it are undefined.
    func decode(
        _ source: Hold, _ profile: Profile?, range: Range<Int>?
    ) -> Result<Hold, FormFault> {
        memory.withHeld(source) { bytes in
            do throws(CodecFault) {
                let reader = try ContainerReader(bytes)
                let byteCount = reader.header.payloadByteCount
                guard let room = takeRoom(byteCount) else { return .failure(.noRoom) }
                let target = room.bytes
                try workspaces.with(reader.layout, byteCount) {
                    workspace throws(CodecFault) in
                    guard let range, range.upperBound <= byteCount else {
                        return try ChunkCodec.decode(
                            reader, into: target, workspace, profile: profile)
                    }
                    try ChunkCodec.decode(
                        reader, bytes: range, into: target, workspace, profile: profile)
                }
                metrics.add(.codecDecodes)
                metrics.add(.codecDecodedBytes, byteCount)
                return .success(
                    room.keepUnlisted(
                        formOf: memory.description(of: source), .raw, byteCount: byteCount,
                        checksum: Checksum.of(target)))
            } catch {
                let fault = FormFault(error)
                metrics.add(fault == .profileMissing ? .codecProfilesMissing : .codecFaults)
                return .failure(fault)
            }
        }
    }

    /// A container of the raw chunk in `source`, as a chunk of its own that is smaller.
    func encode(
        _ source: Hold, to level: Level, _ layout: KVLayout?, _ profile: Profile?
    ) -> Result<Hold, FormFault> {
        let description = memory.description(of: source)
        return memory.withHeld(source) { bytes in
            // What is no smaller has no room, and so is given up early.
            guard let room = takeRoom(bytes.count) else {
                metrics.add(.codecNoRoom)
                return .failure(.noRoom)
            }
            let target = room.bytes
            let plan = EncodingPlan(
                level: level, layout: layout, layoutID: description.layout,
                firstPosition: description.firstPosition, profile: profile)
            do throws(CodecFault) {
                let encoded = try workspaces.with(layout, bytes.count) {
                    workspace throws(CodecFault) in
                    try ChunkCodec.encode(bytes, plan, into: target, workspace)
                }
                guard encoded.byteCount < bytes.count, encoded.mode != .raw else {
                    metrics.add(.codecNoGain)
                    return .failure(.noGain)
                }
                note(encoded, of: bytes.count, plan)
                return .success(
                    room.keepUnlisted(
                        formOf: description, level, byteCount: encoded.byteCount,
                        checksum: Checksum.of(target.prefix(encoded.byteCount))))
            } catch {
                metrics.add(.codecNoGain)
                return .failure(.noGain)
            }
        }
    }

    /// The embedded container in `source` without the refinements behind the first few.
    func cut(_ source: Hold, refinementCount: Int) -> Result<Hold, FormFault> {
        let description = memory.description(of: source)
        return memory.withHeld(source) { bytes in
            guard let room = takeRoom(bytes.count) else {
                metrics.add(.codecNoRoom)
                return .failure(.noRoom)
            }
            let target = room.bytes
            do throws(CodecFault) {
                let byteCount = try ContainerReader(bytes).coarser(
                    refinementCount: refinementCount, into: target)
                metrics.add(.codecCuts)
                return .success(
                    room.keepUnlisted(
                        formOf: description, description.level, byteCount: byteCount,
                        checksum: Checksum.of(target.prefix(byteCount))))
            } catch {
                return .failure(FormFault(error))
            }
        }
    }

    private func note(_ encoded: EncodedChunk, of byteCount: Int, _ plan: EncodingPlan) {
        let (input, output): (Metric, Metric)
        switch encoded.mode {
        case .raw, .zstd: (input, output) = (.codecZstdIn, .codecZstdOut)
        case .lossless: (input, output) = (.codecLosslessIn, .codecLosslessOut)
        case .cachegen: (input, output) = (.codecCachegenIn, .codecCachegenOut)
        case .scalar: (input, output) = (.codecScalarIn, .codecScalarOut)
        case .predictive: (input, output) = (.codecPredictiveIn, .codecPredictiveOut)
        }
        metrics.add(input, byteCount)
        metrics.add(output, encoded.byteCount)
        if plan.layout == nil, plan.level > .zstd { metrics.add(.codecLayoutsUnknown) }
        if plan.profile != nil, plan.firstPosition == nil, encoded.mode == .cachegen {
            metrics.add(.codecPositionsUnknown)
        }
    }

    /// Room in the arena that nobody can find; nil when there is none.
    private func takeRoom(_ byteCount: Int) -> Reservation? {
        while true {
            switch memory.reserveScratch(byteCount: byteCount) {
            case .reserved(let room): return room
            case .callAgain: continue
            case .refused: return nil
            }
        }
    }

    // MARK: On the shards: what is looked at without decoding

    /// The byte count of the payload of a container; nil when it is none.
    static func payloadByteCount(of container: PinnedBytes) -> Int? {
        do throws(CodecFault) {
            return try ContainerReader(container).header.payloadByteCount
        } catch {
            return nil
        }
    }

    /// The profile that a container names, and its layout; nil when it names none.
    static func profile(of container: PinnedBytes) -> (hash: ProfileHash, layout: KVLayout)? {
        // Most have none, which is quickly seen.
        guard container.count >= ContainerHeader.byteCount,
            container.load(UInt64.self, at: 32) | container.load(UInt64.self, at: 40) != 0
        else { return nil }
        do throws(CodecFault) {
            let reader = try ContainerReader(container)
            guard reader.header.profile != .none, let layout = reader.layout else { return nil }
            return (reader.header.profile, layout)
        } catch {
            // Whoever decodes it says what is wrong.
            return nil
        }
    }

    /// Whether refinements can be cut off a container.
    static func isEmbedded(_ container: PinnedBytes) -> Bool {
        do throws(CodecFault) {
            return try ContainerReader(container).header.isEmbedded
        } catch {
            return false
        }
    }

    /// The profile of that hash in `bytes`; nil when they are another, damaged, or do not fit.
    static func profile(
        in bytes: PinnedBytes, _ hash: ProfileHash, _ layout: KVLayout
    ) -> Profile? {
        do throws(CodecFault) {
            let profile = try Profile(bytes, for: layout)
            return profile.hash == hash ? profile : nil
        } catch {
            return nil
        }
    }

    /// Why `container` cannot be kept as a chunk of that level and layout; nil when it can.
    static func refusal(
        of container: PinnedBytes, level: UInt8, layout: LayoutID, payloadByteCountMax: Int
    ) -> String? {
        let header: ContainerHeader
        do throws(CodecFault) {
            header = try ContainerReader(container).header
        } catch {
            return "no container that this daemon can read: \(error.rawValue)"
        }
        if header.level.rawValue != level {
            return "the container is of level \(header.level.rawValue)"
        }
        if header.layout != layout { return "the container is of another layout" }
        if header.payloadByteCount > payloadByteCountMax {
            return "it decodes to \(header.payloadByteCount) bytes; at most \(payloadByteCountMax)"
        }
        return nil
    }
}

extension FormFault {
    /// What a fault of the codec means for a chunk.
    fileprivate init(_ fault: CodecFault) {
        switch fault {
        case .profileMissing: self = .profileMissing
        // The chunk may be good: what it was made with is not here.
        case .version, .profileUnsuitable, .profileDamaged: self = .unreadable
        case .targetTooSmall, .workspaceTooSmall: self = .noRoom
        case .truncated, .magic, .checksum, .header, .directory, .length, .sectionChecksum,
            .section, .layout:
            self = .unsound
        }
    }
}

/// The memory in which chunks are encoded and decoded: one workspace for each thread that does so,
/// made when it is needed. Any thread.
final class WorkspacePool: Sendable {
    // SAFETY: whoever took a workspace out of the pool has it alone until it is given back.
    private struct Unused: @unchecked Sendable {
        let workspace: CodecWorkspace
    }

    private let unused = Mutex<[Unused]>([])
    /// Sections with more values are encoded as opaque bytes.
    let valueCountMax: Int

    init(valueCountMax: Int) { self.valueCountMax = valueCountMax }

    /// Runs `body` with a workspace for a payload of that layout.
    func with<Result>(
        _ layout: KVLayout?, _ payloadByteCount: Int,
        _ body: (CodecWorkspace) throws(CodecFault) -> Result
    ) throws(CodecFault) -> Result {
        let wanted = Self.valueCount(layout, payloadByteCount)
        guard wanted <= valueCountMax else { throw .workspaceTooSmall }
        let found = unused.withLock { $0.popLast() }
        var workspace = found?.workspace
        // The smaller one goes, so that there are no more than threads.
        if let small = workspace, small.valueCountMax < wanted { workspace = nil }
        let used = workspace ?? CodecWorkspace(valueCountMax: wanted)
        let box = Unused(workspace: used)
        defer { unused.withLock { $0.append(box) } }
        return try body(used)
    }

    /// Values of the largest section.
    private static func valueCount(_ layout: KVLayout?, _ payloadByteCount: Int) -> Int {
        guard let layout, let count = layout.tokenCount(payloadByteCount: payloadByteCount) else {
            return 1
        }
        return count * max(layout.columnCount(.keys), layout.columnCount(.values))
    }
}

extension ProfileHash {
    /// From the value that says which profile a layout's chunks are to be encoded with
    /// (docs/container-format.md, section 12); nil when it is none.
    init?(choice: [UInt8]) {
        guard choice.count == 32, choice[16...].allSatisfy({ $0 == 0 }) else { return nil }
        func word(_ start: Int) -> UInt64 {
            choice[start..<start + 8].reversed().reduce(0) { $0 << 8 | UInt64($1) }
        }
        self.init(words: (word(0), word(8)))
    }

    /// The 16 bytes in order.
    var bytes: [UInt8] {
        [words.0, words.1].flatMap { word in
            (0..<8).map { UInt8(truncatingIfNeeded: word >> (8 * UInt64($0))) }
        }
    }
}
