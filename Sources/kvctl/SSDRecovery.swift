// SPDX-License-Identifier: Apache-2.0
import KVCore
import Tiers

/// What counts, of all the chunks and notes that were read: docs/ssd-format.md, section 7. Takes
/// them in any order.
struct RecoveredStore {
    private struct Name: Hashable {
        let key: ChunkKey
        let namespace: SSDTag
    }

    private struct Place {
        let directory: Int
        let segment: UInt32
        let entry: FooterEntry
    }

    private var chunks: [Name: Place] = [:]
    private var deletes: [Name: UInt64] = [:]
    private var pins: [Name: (sequence: UInt64, until: UInt64)] = [:]

    /// Takes what a footer says, or what a record says in the same words.
    mutating func take(_ entry: FooterEntry, in segment: InspectedSegment) {
        let name = Name(key: entry.key, namespace: entry.namespace)
        switch entry.kind {
        case .chunk:
            if let known = chunks[name], known.entry.sequence >= entry.sequence { return }
            chunks[name] = Place(
                directory: segment.directory, segment: segment.header.slot, entry: entry)
        case .delete:
            deletes[name] = max(deletes[name] ?? 0, entry.sequence)
        case .pin:
            if let known = pins[name], known.sequence >= entry.sequence { return }
            pins[name] = (entry.sequence, entry.expiry)
        }
    }

    /// The end of the pin that holds, which no later delete cancelled; 0 without one.
    private func pinnedUntil(_ name: Name) -> UInt64 {
        guard let pin = pins[name], pin.sequence > deletes[name] ?? 0 else { return 0 }
        return pin.until
    }

    /// What a recovery at the wall time `now` finds, by key and namespace tag.
    func lines(now: UInt64) -> [InspectionLine] {
        let alive = chunks.filter { name, place in
            let isDeleted = deletes[name].map { $0 > place.entry.sequence } ?? false
            let hasExpired = place.entry.expiry != 0 && place.entry.expiry <= now
            return !isDeleted && !hasExpired
        }
        return alive.map { name, place in
            (order: "\(name.key)\(name.namespace)", name: name, place: place)
        }
        .sorted { $0.order < $1.order }
        .map { _, name, place in
            InspectionLine(
                "recovered",
                [
                    ("key", .name(name.key)), ("namespace", .name(name.namespace)),
                    ("directory", .count(place.directory)), ("segment", .count(place.segment)),
                    ("block", .count(place.entry.block)),
                    ("sequence", .integer(place.entry.sequence)),
                    ("byte_count", .count(place.entry.byteCount)),
                    ("checksum", .digits(place.entry.checksum)),
                    ("expiry_ms", .integer(place.entry.expiry)),
                    ("pinned_until_ms", .integer(pinnedUntil(name))),
                ])
        }
    }
}
