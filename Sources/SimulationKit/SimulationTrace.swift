// SPDX-License-Identifier: Apache-2.0

package import KVCore

/// What happened in a run, as one hash and the last lines. A value.
///
/// Two runs of one seed must have equal hashes; the first difference is a leak of nondeterminism.
package struct SimulationTrace: Sendable {
    package enum Kind: UInt64, Sendable {
        case job = 1
        case event, suspended, resumed, failed, listened, connected, refused, accepted
        case segmentArrived, endArrived, dropped, noticed, closed, stopped, crashed
        case fileRead, fileWritten, fileSynchronized, bitRotted, random
        case note
        case filePreallocated, fileRemoved, fileRenamed, directoryLocked
    }

    /// One line of the trace.
    package struct Entry: Sendable, CustomStringConvertible {
        package let time: Instant
        package let reactor: Int
        package let kind: Kind
        package let size: UInt64

        package var description: String {
            "\(time.nanoseconds) ns, reactor \(reactor): \(kind) \(size)"
        }
    }

    /// Lines kept for a failure's report.
    static let recentCountMax = 48

    /// Over everything so far, in order.
    package private(set) var hash: UInt64 = 0xcbf2_9ce4_8422_2325
    package private(set) var entryCount = 0
    private var recentRing: [Entry] = []

    mutating func add(_ entry: Entry) {
        for word in [
            entry.time.nanoseconds, UInt64(truncatingIfNeeded: entry.reactor), entry.kind.rawValue,
            entry.size,
        ] {
            // FNV-1a over words, with a fold so that high bits reach low ones.
            hash = (hash ^ word) &* 0x0000_0100_0000_01b3
            hash ^= hash >> 29
        }
        if recentRing.count < Self.recentCountMax {
            recentRing.append(entry)
        } else {
            recentRing[entryCount % Self.recentCountMax] = entry
        }
        entryCount += 1
    }

    /// The last lines, oldest first.
    package var recent: [Entry] {
        guard recentRing.count == Self.recentCountMax else { return recentRing }
        let split = entryCount % Self.recentCountMax
        return Array(recentRing[split...] + recentRing[..<split])
    }
}
