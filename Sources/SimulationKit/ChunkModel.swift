// SPDX-License-Identifier: Apache-2.0

internal import KVCore

/// What a store may say, given what its clients did and heard: the specification as a checker.
///
/// Every PUT is a version of its key with bytes of its own. A version may be seen from the moment
/// its PUT was sent, unless the PUT was refused, and until it is known to be gone: a DELETE or a
/// newer stored version began after the PUT's answer and was answered before. A PUT without an
/// answer may happen at any later time. Confined to the simulation's thread.
final class ChunkModel {
    /// One PUT.
    struct Version {
        let number: Int
        let byteCount: Int
        let began: Instant
        let timeToLive: UInt64?
        /// When the answer came; nil while there is none.
        var answered: Instant?
        /// The answer says that these bytes were not stored.
        var isRefused = false
        /// From then on it cannot be seen.
        var gone: Instant?

        /// Whether a request that ran from `began` to `ended` may see this version.
        func mayBeSeen(from began: Instant, to ended: Instant) -> Bool {
            guard !isRefused, self.began <= ended else { return false }
            if let gone, gone < began { return false }
            if let answered, let timeToLive,
                answered.adding(milliseconds: timeToLive) < began
            {
                return false
            }
            return true
        }
    }

    private var versions: [[Version]]
    private var versionCount = 0

    init(keyCount: Int) {
        versions = Array(repeating: [], count: keyCount)
    }

    /// A PUT is about to be sent; gives its number.
    func beginPut(
        key: Int, byteCount: Int, timeToLive: UInt64?, at now: Instant
    ) -> Int {
        versionCount += 1
        versions[key].append(
            Version(
                number: versionCount, byteCount: byteCount, began: now, timeToLive: timeToLive))
        return versionCount
    }

    /// The PUT was answered `ok`.
    func stored(_ number: Int, key: Int, at now: Instant) {
        guard let index = versions[key].firstIndex(where: { $0.number == number }) else { return }
        versions[key][index].answered = now
        let began = versions[key][index].began
        // Put-if-absent: what had been answered before this PUT began was gone by its answer.
        for other in versions[key].indices where other != index {
            if let answered = versions[key][other].answered, answered < began {
                versions[key][other].gone = min(versions[key][other].gone ?? now, now)
            }
        }
    }

    /// The PUT was answered with anything that says "not stored".
    func refused(_ number: Int, key: Int) {
        guard let index = versions[key].firstIndex(where: { $0.number == number }) else { return }
        versions[key][index].isRefused = true
    }

    /// A DELETE that began at `began` was answered, now.
    func deleted(key: Int, began: Instant, at now: Instant) {
        for index in versions[key].indices {
            if let answered = versions[key][index].answered, answered < began {
                versions[key][index].gone = min(versions[key][index].gone ?? now, now)
            }
        }
    }

    /// The versions that a request which ran from `began` to now may have seen.
    func visible(key: Int, from began: Instant, to now: Instant) -> [Version] {
        versions[key].filter { $0.mayBeSeen(from: began, to: now) }
    }
}
