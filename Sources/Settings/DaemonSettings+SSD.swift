// SPDX-License-Identifier: Apache-2.0

package import KVCore

extension DaemonSettings {
    /// The tier on SSD.
    package struct SSD: Hashable, Sendable {
        /// Absolute paths, each once, without a slash at the end; at least one.
        package var directories: [String]
        /// What may be used of each directory, everything included.
        package var capacity: ByteCount
        /// Whole MiB; for a store that is made, since one that exists keeps its own.
        package var segmentByteCount: ByteCount
        /// Free space that each directory's file system keeps.
        package var reserve: ByteCount
        package var admission: Admission
        package var promotion: Promotion
        /// Bytes a second that the background check reads; 0: no check.
        package var scrubByteCountPerSecond: ByteCount
        package var directIO: DirectIO

        /// More devices than a host has; each costs descriptors and a writer's buffers.
        package static let directoryCountMax = 16

        /// A store wants several segments: those that are full, one that is written and one that
        /// is being emptied.
        package static let segmentCountMin = 4

        /// What is written to SSD.
        package enum Admission: String, CaseIterable, Sendable {
            case all
            case secondUse = "second_use"
            case prefix
        }

        /// When a chunk read from SSD takes a warm place in memory.
        package enum Promotion: String, CaseIterable, Sendable {
            case always
            case secondUse = "second_use"
        }

        /// Whether files are read and written past the page cache (O_DIRECT).
        package enum DirectIO: String, CaseIterable, Sendable {
            case auto, require, off
        }
    }
}

/// Turns the options of section `ssd` into settings. What is wrong goes to the resolver.
struct SSDLoader {
    /// nil: there is no such tier, or its options do not make one.
    private(set) var settings: DaemonSettings.SSD?
    private(set) var warnings: [String] = []

    init(_ resolver: inout SettingsResolver) {
        let directories = Self.directories(&resolver)
        let capacity = resolver.value(DaemonOptions.ssdCapacity)
        let segment = resolver.value(DaemonOptions.ssdSegmentBytes)
        let reserve = resolver.value(DaemonOptions.ssdReserve)
        let admission = resolver.value(DaemonOptions.ssdAdmission)
        let promotion = resolver.value(DaemonOptions.ssdPromotion)
        let scrubRate = resolver.value(DaemonOptions.ssdScrubRate)
        let directIO = resolver.value(DaemonOptions.ssdDirectIO)
        guard !directories.isEmpty else {
            warnings = Self.idle(resolver).map { [$0] } ?? []
            return
        }
        guard let capacity else {
            if !resolver.keysRefused.contains(DaemonOptions.ssdCapacity.key) {
                resolver.complain(
                    at: resolver.source(of: DaemonOptions.ssdDirectories.key),
                    "ssd.directories is set, and ssd.capacity is not: say how much of each "
                        + "directory kvstored may use")
            }
            return
        }
        let largest = ByteCount(capacity.bytes / DaemonSettings.SSD.segmentCountMin)
        if let segment, segment > largest {
            resolver.complain(
                at: resolver.source(of: DaemonOptions.ssdSegmentBytes.key),
                "ssd.segment_bytes is \(segment), more than a quarter of ssd.capacity "
                    + "(\(capacity)); lower the first or raise the second")
        }
        settings = DaemonSettings.SSD(
            directories: directories, capacity: capacity,
            segmentByteCount: segment ?? Self.segmentStandard(capacity), reserve: reserve,
            admission: admission, promotion: promotion, scrubByteCountPerSecond: scrubRate,
            directIO: directIO)
    }

    /// A sixteenth of the capacity in whole MiB, at most 256 MiB. The smallest capacity is 64 MiB,
    /// so it is never less than 4 MiB.
    private static func segmentStandard(_ capacity: ByteCount) -> ByteCount {
        .mebibytes(min(256, capacity.bytes / (16 << 20)))
    }

    /// The directories as they are compared: two spellings of one path are one directory.
    private static func directories(_ resolver: inout SettingsResolver) -> [String] {
        let key = DaemonOptions.ssdDirectories.key
        let paths = resolver.value(DaemonOptions.ssdDirectories)
        let source = resolver.source(of: key)
        if paths.count > DaemonSettings.SSD.directoryCountMax {
            resolver.complain(
                at: source,
                "\(key): \(paths.count) directories; at most "
                    + "\(DaemonSettings.SSD.directoryCountMax), one for each device")
        }
        var directories: [String] = []
        for path in paths {
            let names = path.split(separator: "/").filter { $0 != "." }
            let directory = "/" + names.joined(separator: "/")
            if !path.hasPrefix("/") {
                resolver.complain(
                    at: source, "\(key): '\(path)' is a relative path; write it from '/' on")
            } else if directories.contains(directory) {
                resolver.complain(
                    at: source, "\(key): '\(directory)' stands here twice; keep one")
            }
            directories.append(directory)
        }
        return directories
    }

    /// What to say when options are set that no tier uses; nil when that is meant (`off`).
    private static func idle(_ resolver: SettingsResolver) -> String? {
        let section = DaemonOptions.ssdDirectories.section
        let directories = DaemonOptions.ssdDirectories.key
        guard resolver.source(of: directories) == .standard else { return nil }
        let given = DaemonOptions.all.filter {
            $0.section == section && resolver.source(of: $0.key) != .standard
        }
        guard let first = given.first else { return nil }
        return "\(first.key) is set, and \(directories) is not: there is no SSD tier; set "
            + "\(directories), or remove the line"
    }
}
