// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// The options of section `codec`.
enum CodecOptions {
    static let demotion = Setting<DaemonSettings.Codec.Demotion>(
        key: "codec.demotion", kind: .choice, fallback: .value(.raw),
        summary: "How chunks are encoded when they are written to SSD.",
        detail: "`raw`: as they are. `zstd` and `lossless` lose nothing. `q1` (finest) to `q4` are "
            + "lossy: what is read back from SSD differs within the level's error. Chunks whose "
            + "layout nobody described, and those that do not become smaller, are written by zstd "
            + "or as they are; those of the RESP and lm listeners always as they are. See "
            + "docs/operations/codec.md.")

    static let workers = Setting<Int>(
        key: "codec.workers", kind: .count(0...64), fallback: .value(0),
        summary: "Threads that encode and decode for requests, and as many for the way to SSD.",
        detail: "0 takes one for each four cores, at least one. The latter run only when nothing "
            + "else wants the processor (nice 19).")

    static let queue = Setting<Int>(
        key: "codec.queue", kind: .count(1...4_096), fallback: .value(64),
        summary: "Chunks that may wait for each kind of these threads.",
        detail: "With one more, a chunk is written as it is, and a GET that needs it decoded is "
            + "answered that it could not be done in time.")

    static let profileMemory = Setting<ByteCount>(
        key: "codec.profile_memory", kind: .size(.mebibytes(1)...ByteCount(1 << 40)),
        fallback: .value(.mebibytes(32)),
        summary: "Memory for the profiles of models, out of `memory.budget`.",
        detail: "A profile takes about its own size. One that is larger is not used, as if it were "
            + "missing (`codec_profiles_too_large`).")

    static let all: [any DeclaredSetting] = [demotion, workers, queue, profileMemory]
}

extension DaemonSettings {
    /// Encoding and decoding of chunks.
    package struct Codec: Hashable, Sendable {
        package var demotion: Demotion
        /// Threads of each kind; 0: by the number of cores.
        package var workerCount: Int
        /// Chunks that may wait for each kind.
        package var waitingCount: Int
        package var profileMemory: ByteCount

        /// A level, by its name.
        package enum Demotion: String, CaseIterable, Sendable {
            case raw, zstd, lossless, q1, q2, q3, q4
        }
    }
}
