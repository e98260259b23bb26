// SPDX-License-Identifier: Apache-2.0
import Codec
import KVCore

/// Chunks on their way into a profile: what was used, what was left out and why. Confined to its
/// owner.
struct LearningRun {
    private let layout: KVLayout
    private let sample: LearningSample
    private var positionlessCount = 0
    private var absentCount = 0
    private var otherLayoutCount = 0

    init(_ layout: KVLayout, turnsKeysBack: Bool, byteCountMax: Int) throws(Failure) {
        self.layout = layout
        do throws(LearningFault) {
            sample = try LearningSample(
                layout, turnsKeysBack: turnsKeysBack, byteCountMax: byteCountMax)
        } catch {
            throw Self.failure(error, layout, leftOut: "")
        }
    }

    /// Takes a chunk's tokens. The list's position comes before the daemon's, and that before
    /// `fallback`.
    mutating func add(
        _ chunk: ReadChunk, of source: ChunkSource, at fallback: UInt32?
    ) throws(Failure) {
        switch chunk {
        case .absent: absentCount += 1
        case .otherLayout: otherLayoutCount += 1
        case .found(let payload, let known):
            defer { withExtendedLifetime(payload) {} }
            do throws(LearningFault) {
                try sample.add(
                    payload.bytes, firstPosition: source.position ?? known ?? fallback)
            } catch {
                switch error {
                case .positionMissing: positionlessCount += 1
                case .payloadDoesNotFit:
                    throw Failure(
                        .usage,
                        "\(source.name) has \(payload.bytes.count) bytes, which no number of "
                            + "tokens of this layout has: is it a whole chunk, as kvctl get "
                            + "writes it, and is --layout that of this chunk?")
                default: throw Self.failure(error, layout, leftOut: leftOut)
                }
            }
        }
    }

    /// What the profile says it was learnt from, where nobody says otherwise.
    var note: String {
        "\(sample.tokenCount) of \(sample.seenTokenCount) tokens of \(sample.chunkCount) chunks; "
            + "without gradients"
    }

    /// Learns, telling standard error how far it is.
    func learn(_ options: LearningOptions) throws(Failure) -> LearntProfile {
        for line in leftOutLines { writeError("kvctl: \(line)\n") }
        writeError(
            "kvctl: \(sample.tokenCount) of \(sample.seenTokenCount) tokens, "
                + "\(readableSize(UInt64(sample.tokenCount * sample.tokenByteCount)))\n")
        do throws(LearningFault) {
            let bytes = try ProfileLearner(sample, options) { writeError("kvctl: \($0)\n") }
                .learn()
            return LearntProfile(
                bytes: bytes, hash: Profile.hash(of: bytes.bytes), layout: layout.id,
                tokenCount: sample.tokenCount, seenTokenCount: sample.seenTokenCount,
                chunkCount: sample.chunkCount,
                leftOutCount: positionlessCount + absentCount + otherLayoutCount)
        } catch {
            throw Self.failure(error, layout, leftOut: leftOut)
        }
    }

    // MARK: What went wrong

    private var leftOutLines: [String] {
        [
            (
                positionlessCount,
                "whose position nobody knows were left out: tell it by --list or --position, or "
                    + "learn with --keys-as-stored"
            ),
            (absentCount, "are not stored: never, or no longer"),
            (otherLayoutCount, "are of another layout and were left out"),
        ].filter { $0.0 > 0 }.map { "\($0.0) chunks \($0.1)" }
    }

    private var leftOut: String { leftOutLines.map { "; \($0)" }.joined() }

    private static func failure(
        _ fault: LearningFault, _ layout: KVLayout, leftOut: String
    ) -> Failure {
        switch fault {
        case .tooFewTokens(let found, let needed):
            Failure(
                .usage,
                "\(found) tokens to learn from, and \(needed) are needed: give more chunks, or "
                    + "more --memory to keep more of them, or leave predictors out with "
                    + "--no-predictors" + leftOut)
        case .tooLittleMemory(let needed):
            Failure(
                .usage,
                "--memory is too small: what these options ask for needs "
                    + "\(ByteCount(needed)) (\(readableSize(UInt64(needed))))")
        case .typeTooNarrow:
            Failure(
                .usage,
                "values of one byte are not quantised: the layout's dtype needs no profile")
        case .profileTooLarge(let byteCount):
            Failure(
                .usage,
                "the profile would have \(readableSize(UInt64(byteCount))), more than a chunk may "
                    + "have: leave predictors out with --no-predictors")
        case .notLearnable(let layer, let kind):
            Failure(
                .damaged,
                "\(kind == .keys ? "K" : "V") of layer \(layer) is the same in all tokens: is "
                    + "--layout that of these chunks?")
        case .payloadDoesNotFit, .positionMissing:
            Failure(.usage, "the chunks are not of this layout")
        }
    }
}

/// A profile that was learnt, and from how much.
struct LearntProfile: Sendable {
    let bytes: OwnedBytes
    let hash: ProfileHash
    let layout: LayoutID
    let tokenCount: Int
    let seenTokenCount: Int
    let chunkCount: Int
    let leftOutCount: Int

    var json: String {
        JSONValue.object([
            ("hash", .text(hexadecimal(hash.bytes))), ("layout", .text("\(layout)")),
            ("value_bytes", .count(bytes.bytes.count)), ("tokens", .count(tokenCount)),
            ("tokens_seen", .count(seenTokenCount)), ("chunks", .count(chunkCount)),
            ("chunks_left_out", .count(leftOutCount)),
        ]).text + "\n"
    }

    func text(_ output: String) -> String {
        "\(hexadecimal(hash.bytes))  \(readableSize(UInt64(bytes.bytes.count)))  \(output)\n"
    }
}
