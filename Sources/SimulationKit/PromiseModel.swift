// SPDX-License-Identifier: Apache-2.0

internal import KVCore

/// Which chunks must be found, given what clients were promised: a PUT that was to be on stable
/// storage and was answered so holds until somebody asks for the chunk's deletion, or its time is
/// over, or the node evicts. Confined to the simulation's thread.
final class PromiseModel {
    /// A chunk that must be found. A value.
    struct Promise {
        /// Requests that begin later must find it.
        let since: Instant
        /// Until then.
        let until: Instant
        /// Evictions of the node before the PUT; the promise ends with the next one,
        let evictionCount: Int
        /// except that a pinned chunk is not evicted until then.
        var pinnedUntil = Instant(nanoseconds: 0)
    }

    /// Requests of one kind about one key, which may change what is promised. A value.
    private struct Changes {
        /// Clients wait for them.
        var openCount = 0
        /// Clients gave them up; the node's process may have them still.
        var lostCount = 0
        /// When the last one ended that can have happened.
        var lastEnd = Instant(nanoseconds: 0)
        private var secondLastEnd = Instant(nanoseconds: 0)

        /// Whether none happens after `began`, except one that ended at `end`.
        func areOver(before began: Instant, besidesOneAt end: Instant? = nil) -> Bool {
            openCount == 0 && lostCount == 0
                && (lastEnd == end ? secondLastEnd : lastEnd) < began
        }

        mutating func end(at now: Instant, isLost: Bool) {
            openCount -= 1
            if isLost { lostCount += 1 }
            (secondLastEnd, lastEnd) = (lastEnd, now)
        }

        mutating func restarted(at now: Instant) {
            if lostCount > 0 { lastEnd = now }
            lostCount = 0
        }
    }

    private struct Key {
        var promise: Promise?
        var deletions = Changes()
        /// Pins and unpins.
        var pins = Changes()
    }

    private var keys: [Key]
    /// Promises that a request found kept.
    private(set) var keptCount = 0
    private(set) var promiseCount = 0

    init(keyCount: Int) {
        keys = Array(repeating: Key(), count: keyCount)
    }

    // MARK: What clients do

    /// A PUT for stable storage that began at `began` was answered so, now.
    func stored(
        _ key: Int, began: Instant, at now: Instant, until: Instant, evictionCount: Int
    ) {
        guard keys[key].deletions.areOver(before: began) else { return }
        promiseCount += 1
        var promise = Promise(since: now, until: until, evictionCount: evictionCount)
        if let old = keys[key].promise, old.until >= until {
            promise.pinnedUntil = old.pinnedUntil
        }
        keys[key].promise = promise
    }

    /// A DELETE is about to be sent.
    func beginDelete(_ key: Int) {
        keys[key].promise = nil
        keys[key].deletions.openCount += 1
    }

    /// It was answered or never sent, or else `isLost`.
    func endDelete(_ key: Int, at now: Instant, isLost: Bool) {
        keys[key].deletions.end(at: now, isLost: isLost)
    }

    /// A PIN or UNPIN is about to be sent.
    func beginPin(_ key: Int) {
        keys[key].promise?.pinnedUntil = Instant(nanoseconds: 0)
        keys[key].pins.openCount += 1
    }

    /// It was answered or never sent, or else `isLost`; `pinnedUntil` where it promises that.
    func endPin(
        _ key: Int, began: Instant, at now: Instant, isLost: Bool, pinnedUntil: Instant? = nil,
        evictionCount: Int = 0
    ) {
        keys[key].pins.end(at: now, isLost: isLost)
        guard let pinnedUntil, keys[key].pins.areOver(before: began, besidesOneAt: now),
            let promise = keys[key].promise, promise.since < began,
            promise.evictionCount == evictionCount
        else { return }
        keys[key].promise?.pinnedUntil = pinnedUntil
    }

    // MARK: What ends promises

    /// The node's process ended: what it was asked for and did not answer will not happen later.
    func restarted(at now: Instant) {
        for key in keys.indices {
            keys[key].deletions.restarted(at: now)
            keys[key].pins.restarted(at: now)
        }
    }

    /// The disk broke more than a store can survive.
    func forgetAll() {
        for key in keys.indices { keys[key].promise = nil }
    }

    // MARK: Judging

    /// The promise that is broken when a request that began at `began` and ends now says that the
    /// chunk is not there; nil when it may say so.
    func brokenPromise(
        _ key: Int, began: Instant, at now: Instant, evictionCount: Int
    ) -> Promise? {
        guard let promise = keys[key].promise, promise.since < began, now < promise.until,
            promise.evictionCount == evictionCount || now < promise.pinnedUntil
        else { return nil }
        return promise
    }

    /// A request found the chunk.
    func found(_ key: Int, began: Instant, at now: Instant, evictionCount: Int) {
        if brokenPromise(key, began: began, at: now, evictionCount: evictionCount) != nil {
            keptCount += 1
        }
    }
}
