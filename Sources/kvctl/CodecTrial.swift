// SPDX-License-Identifier: Apache-2.0
import Codec
import Glibc
import KVCore

/// What became of one chunk at one level. A value.
struct LevelTrial: Sendable {
    let level: Level
    let mode: ContainerMode
    let byteCount: Int
    /// Of the payload, as bytes per second.
    let encodeRate: Double
    let decodeRate: Double
    /// Root mean square of the error, divided by that of the values; nil where the layout is not
    /// known.
    let relativeError: Double?
    /// The largest error of a value.
    let largestError: Double?
}

/// Encodes and decodes one chunk at every level, as the daemon would.
struct CodecTrial {
    let payload: PinnedBytes
    let layout: KVLayout?
    let firstPosition: UInt32?
    let profile: Profile?
    private let workspace: CodecWorkspace
    /// Values of a chunk with a known layout.
    let valueCount: Int?

    init(
        _ payload: PinnedBytes, _ layout: KVLayout?, firstPosition: UInt32?, profile: Profile?
    ) {
        self.payload = payload
        self.profile = profile
        let tokenCount = layout?.tokenCount(payloadByteCount: payload.count)
        // A payload that does not fit its layout is opaque to the codec.
        let fitting = tokenCount == nil ? nil : layout
        self.layout = fitting
        self.firstPosition = firstPosition
        let columnCount = fitting.map { $0.columnCount(.keys) + $0.columnCount(.values) } ?? 0
        let largest = fitting.map { max($0.columnCount(.keys), $0.columnCount(.values)) } ?? 1
        valueCount = fitting.map { (tokenCount ?? 0) * columnCount * $0.layerCount }
        workspace = CodecWorkspace(valueCountMax: largest * (tokenCount ?? 1))
    }

    /// Tries the levels from `zstd` on; each is encoded and decoded for about `milliseconds`.
    func run(milliseconds: Int) throws(Failure) -> [LevelTrial] {
        let original = try sections(at: .lossless)
        var trials: [LevelTrial] = []
        for level in Level.allCases where level != .raw {
            trials.append(try trial(of: level, original, nanoseconds: milliseconds * 1_000_000))
        }
        return trials
    }

    private func trial(
        of level: Level, _ original: [[Float]]?, nanoseconds: Int
    ) throws(Failure) -> LevelTrial {
        let room = OwnedBytes(count: roomByteCount)
        var encoded = try encode(level, into: room.bytes)
        let encodeTime = try best(nanoseconds) { () throws(Failure) in
            encoded = try encode(level, into: room.bytes)
        }
        let container = room.bytes.prefix(encoded.byteCount)
        let back = OwnedBytes(count: payload.count)
        let decodeTime = try best(nanoseconds) { () throws(Failure) in
            try decode(container, into: back.bytes)
        }
        var errors: (relative: Double, largest: Double)?
        if let original, let approximate = try sections(of: container) {
            errors = Self.errors(original, approximate)
        }
        withExtendedLifetime((room, back)) {}
        return LevelTrial(
            level: level, mode: encoded.mode, byteCount: encoded.byteCount,
            encodeRate: Double(payload.count) / encodeTime,
            decodeRate: Double(payload.count) / decodeTime, relativeError: errors?.relative,
            largestError: errors?.largest)
    }

    private var roomByteCount: Int {
        ChunkCodec.containerByteCountMax(payloadByteCount: payload.count, layout: layout)
    }

    private func encode(
        _ level: Level, into room: PinnedBytes
    ) throws(Failure) -> EncodedChunk {
        let plan = EncodingPlan(
            level: level, layout: layout, firstPosition: firstPosition, profile: profile)
        do throws(CodecFault) {
            return try ChunkCodec.encode(payload, plan, into: room, workspace)
        } catch {
            throw Failure(.defect, "level \(level): not encoded: \(error.rawValue)")
        }
    }

    private func decode(_ container: PinnedBytes, into target: PinnedBytes) throws(Failure) {
        do throws(CodecFault) {
            try ChunkCodec.decode(
                try ContainerReader(container), into: target, workspace, profile: profile)
        } catch {
            throw Failure(.defect, "what was encoded was not decoded: \(error.rawValue)")
        }
    }

    /// Seconds of the fastest run of those that fit the time; one at least.
    private func best(
        _ nanoseconds: Int, _ body: () throws(Failure) -> Void
    ) throws(Failure) -> Double {
        var fastest = UInt64.max
        let end = monotonicNanoseconds() + UInt64(nanoseconds)
        repeat {
            let began = monotonicNanoseconds()
            try body()
            fastest = min(fastest, monotonicNanoseconds() - began)
        } while monotonicNanoseconds() < end
        return Double(max(fastest, 1)) / 1e9
    }

    // MARK: Errors

    /// The values of each layer's K and V, from a container of that level.
    private func sections(at level: Level) throws(Failure) -> [[Float]]? {
        guard layout != nil else { return nil }
        let room = OwnedBytes(count: roomByteCount)
        let encoded = try encode(level, into: room.bytes)
        let sections = try sections(of: room.bytes.prefix(encoded.byteCount))
        withExtendedLifetime(room) {}
        return sections
    }

    private func sections(of container: PinnedBytes) throws(Failure) -> [[Float]]? {
        guard let layout else { return nil }
        do throws(CodecFault) {
            let reader = try ContainerReader(container)
            // Packed as opaque bytes: nothing to look at by layers.
            guard !reader.header.mode.isOpaque else { return nil }
            var sections: [[Float]] = []
            for layer in 0..<layout.layerCount {
                for kind in layout.kinds {
                    let count = reader.header.tokenCount * layout.columnCount(kind)
                    let values = OwnedBytes(count: 4 * count)
                    try ChunkCodec.decode(
                        reader, layer: layer, kind, as: .float32, into: values.bytes, workspace,
                        profile: profile)
                    let bytes = values.bytes
                    sections.append(
                        (0..<count).map { Float(bitPattern: bytes.load(UInt32.self, at: 4 * $0)) })
                    withExtendedLifetime(values) {}
                }
            }
            return sections
        } catch {
            throw Failure(.defect, "what was encoded was not decoded: \(error.rawValue)")
        }
    }

    private static func errors(
        _ original: [[Float]], _ approximate: [[Float]]
    ) -> (relative: Double, largest: Double) {
        var (error, power, largest) = (0.0, 0.0, 0.0)
        for (exact, near) in zip(original, approximate) {
            for (left, right) in zip(exact, near) where left.isFinite && right.isFinite {
                let difference = abs(Double(left) - Double(right))
                error += difference * difference
                power += Double(left) * Double(left)
                largest = max(largest, difference)
            }
        }
        return (power == 0 ? 0 : (error / power).squareRoot(), largest)
    }
}

/// The monotonic clock (clock_gettime(2)).
func monotonicNanoseconds() -> UInt64 {
    var time = timespec()
    // SAFETY: the structure is valid during the call.
    unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}
