// SPDX-License-Identifier: Apache-2.0
internal import Codec
internal import KVCore
internal import Wire

/// What has to be done with a chunk so that it is at the level that a client wants. A value.
enum LevelPlan: Hashable {
    case asStored
    case decode
    /// Encode, from what it decodes to where it is encoded.
    case encode(Level)

    /// What is stored at a coarser level is never made finer: that would take room and bring
    /// nothing back.
    init(stored: Level, wanted: Level) {
        self =
            if wanted == .raw {
                stored == .raw ? .asStored : .decode
            } else {
                stored >= wanted ? .asStored : .encode(wanted)
            }
    }
}

/// What is known when a level is chosen for the next chunk of a request. A value.
struct LevelChoice: Hashable {
    /// Until the request's deadline.
    var millisecondsLeft: UInt64
    /// What this connection took of late.
    var bytesPerSecond: UInt64
    /// Place of the chunk among the request's keys.
    var index: Int
    /// Keys from this one on.
    var remainingCount: Int
    /// Of the chunk as its writer stored it; the others are taken to be as large.
    var rawByteCount: Int
    /// What levels cost and bring.
    var costs: LevelCosts

    /// The finest level at which all that remains is likely to arrive in time, or the coarsest when
    /// none does. The first chunks of a request are one level finer: what stands there, the system
    /// prompt above all, is looked at by everything behind it.
    func level() -> Level {
        let candidates = Level.inOrderOfSize
        let fitting = candidates.firstIndex { isInTime($0) } ?? candidates.count - 1
        return candidates[index < Self.fineChunkCount ? max(0, fitting - 1) : fitting]
    }

    private func isInTime(_ level: Level) -> Bool {
        let cost = costs[level]
        let raw = Double(rawByteCount)
        let seconds =
            raw * cost.share / Double(max(1, bytesPerSecond)) + raw * cost.secondsPerByte
        // A tenth is kept back: what arrives too late is worth nothing.
        return seconds * Double(remainingCount) <= Double(millisecondsLeft) / 1_000 * 0.9
    }

    private static let fineChunkCount = 1
}

/// What each level costs, measured as the node runs. A value.
struct LevelCosts: Hashable {
    struct Cost: Hashable {
        /// Bytes of the form for each byte of the chunk.
        var share: Double
        /// Time until the form is there, for each byte of the chunk.
        var secondsPerByte: Double
    }

    private var costs: [Cost]

    /// What is assumed until something was measured.
    init() {
        costs = Level.allCases.map { level in
            switch level {
            case .raw: Cost(share: 1, secondsPerByte: 0)
            case .zstd: Cost(share: 0.85, secondsPerByte: 2e-9)
            case .lossless: Cost(share: 0.7, secondsPerByte: 1e-9)
            case .fine: Cost(share: 0.26, secondsPerByte: 1e-9)
            case .standard: Cost(share: 0.22, secondsPerByte: 1e-9)
            case .coarse: Cost(share: 0.17, secondsPerByte: 1e-9)
            case .coarsest: Cost(share: 0.12, secondsPerByte: 1e-9)
            }
        }
    }

    subscript(level: Level) -> Cost { costs[Int(level.rawValue)] }

    /// Takes a measurement in, an eighth at a time.
    mutating func note(
        _ level: Level, rawByteCount: Int, byteCount: Int, nanoseconds: UInt64
    ) {
        guard level != .raw, rawByteCount > 0 else { return }
        let place = Int(level.rawValue)
        let raw = Double(rawByteCount)
        costs[place].share += (Double(byteCount) / raw - costs[place].share) / 8
        costs[place].secondsPerByte +=
            (Double(nanoseconds) / 1e9 / raw - costs[place].secondsPerByte) / 8
    }
}

/// How fast a connection takes what it is sent. A value.
struct SendRate: Hashable {
    /// Assumed of a connection that has not shown it: a gigabit network.
    private(set) var bytesPerSecond: UInt64 = 125_000_000

    /// Takes a transfer of at least `byteCountMin` bytes in, a quarter at a time.
    mutating func note(byteCount: Int, nanoseconds: UInt64) {
        let rate = Double(byteCount) / (Double(max(1, nanoseconds)) / 1e9)
        let next = Double(bytesPerSecond) + (rate - Double(bytesPerSecond)) / 4
        bytesPerSecond = UInt64(min(max(next, 1), 1e12))
    }

    /// Smaller transfers say more of the buffers in between than of the way.
    static let byteCountMin = 1 << 20
}

extension Level {
    /// Those among which the choice is, from the largest form to the smallest.
    static let inOrderOfSize: [Level] = [
        .raw, .lossless, .fine, .standard, .coarse, .coarsest,
    ]
}
