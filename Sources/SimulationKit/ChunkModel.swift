// SPDX-License-Identifier: Apache-2.0

internal import KVCore

/// What a store may say, given what its clients did and heard: the specification as a checker.
///
/// Every PUT is a version of its key with bytes of its own. A version may be seen from the moment
/// its PUT was sent, unless the PUT was refused, and until it is known to be gone: a DELETE or a
/// newer stored version began after the PUT's answer and was answered before. A PUT without an
/// answer may happen at any later time of the node's life.
///
/// What survives a restart: a deletion is final. Keys name content, so an older version may come
/// back in the place of a newer one. Confined to the simulation's thread.
final class ChunkModel {
    /// One PUT.
    struct Version {
        let number: Int
        let byteCount: Int
        let began: Instant
        let timeToLive: UInt64?
        /// When the answer came, or the end of what might have given one; nil while it may happen.
        var answered: Instant?
        /// The client waits for the answer.
        var isOpen = true
        /// The answer says that these bytes were not stored.
        var isRefused = false
        /// A deletion was answered then: it is never seen again.
        var deleted: Instant?
        /// A newer version was stored by then: it is not seen before the node's next start.
        var superseded: Instant?

        /// Whether a request that ran from `began` to `ended` may see this version.
        func mayBeSeen(from began: Instant, to ended: Instant) -> Bool {
            guard !isRefused, self.began <= ended else { return false }
            if let deleted, deleted < began { return false }
            if let superseded, superseded < began { return false }
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
    private var lastRestart = Instant(nanoseconds: 0)

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
        versions[key][index].isOpen = false
        let began = versions[key][index].began
        guard began > lastRestart else { return }
        // Put-if-absent: what had been answered before this PUT began was gone by its answer.
        for other in versions[key].indices where other != index {
            if let answered = versions[key][other].answered, answered < began {
                versions[key][other].superseded =
                    min(versions[key][other].superseded ?? now, now)
            }
        }
    }

    /// The PUT was answered with anything that says "not stored".
    func refused(_ number: Int, key: Int) {
        guard let index = versions[key].firstIndex(where: { $0.number == number }) else { return }
        versions[key][index].isRefused = true
        versions[key][index].isOpen = false
    }

    /// The PUT was answered, and its bytes may be there or not.
    func settled(_ number: Int, key: Int, at now: Instant) {
        guard let index = versions[key].firstIndex(where: { $0.number == number }) else { return }
        versions[key][index].answered = now
        versions[key][index].isOpen = false
    }

    /// The client waits no longer for an answer; the PUT may happen still.
    func gaveUp(_ number: Int, key: Int) {
        guard let index = versions[key].firstIndex(where: { $0.number == number }) else { return }
        versions[key][index].isOpen = false
    }

    /// A DELETE that began at `began` was answered, now, with a status that is no promise for the
    /// time after a restart.
    func deletedUntilRestart(key: Int, began: Instant, at now: Instant) {
        guard began > lastRestart else { return }
        for index in versions[key].indices {
            if let answered = versions[key][index].answered, answered < began {
                versions[key][index].superseded =
                    min(versions[key][index].superseded ?? now, now)
            }
        }
    }

    /// A DELETE that began at `began` was answered, now.
    func deleted(key: Int, began: Instant, at now: Instant) {
        for index in versions[key].indices {
            if let answered = versions[key][index].answered, answered < began {
                versions[key][index].deleted = min(versions[key][index].deleted ?? now, now)
            }
        }
    }

    /// The node's process ended: what it was asked for and did not answer has happened or never
    /// will. `keepingDeletions` is false where a disk may have lost what it confirmed.
    func restarted(at now: Instant, keepingDeletions: Bool) {
        lastRestart = now
        for key in versions.indices {
            for index in versions[key].indices {
                versions[key][index].superseded = nil
                // A request that a client waits for may yet be sent to the next process.
                if versions[key][index].answered == nil, !versions[key][index].isOpen {
                    versions[key][index].answered = now
                }
            }
        }
        if !keepingDeletions { forgetDeletions() }
    }

    /// Deletions so far may be lost: what said so is out of reach, or rotten.
    func forgetDeletions() {
        for key in versions.indices {
            for index in versions[key].indices { versions[key][index].deleted = nil }
        }
    }

    /// No version that a request from `began` to now may have seen expires before, on SSD either,
    /// where times end up to a second early.
    func earliestExpiry(key: Int, from began: Instant, to now: Instant) -> Instant {
        let ends = visible(key: key, from: began, to: now).compactMap { version -> Instant? in
            guard let timeToLive = version.timeToLive else { return nil }
            return timeToLive <= 1_000
                ? version.began : version.began.adding(milliseconds: timeToLive - 1_000)
        }
        return ends.min() ?? .distantFuture
    }

    /// The versions that a request which ran from `began` to now may have seen.
    func visible(key: Int, from began: Instant, to now: Instant) -> [Version] {
        versions[key].filter { $0.mayBeSeen(from: began, to: now) }
    }
}
