// SPDX-License-Identifier: Apache-2.0

import KVCore
import Testing

@testable import Settings

@Suite struct `SSD settings` {
    private static let two = ["--ssd-directories", "/a,/b", "--ssd-capacity", "1TiB"]

    @Test func `are off when no directory is set, or when that is said`() throws {
        #expect(try load([]).ssd == nil)
        #expect(try load(["--ssd-directories", "off", "--ssd-capacity", "1TiB"]).ssd == nil)
    }

    @Test func `need no more than directories and a capacity`() throws {
        let ssd = try #require(try load(Self.two).ssd)
        #expect(
            ssd
                == DaemonSettings.SSD(
                    directories: ["/a", "/b"], capacity: ByteCount(1 << 40),
                    segmentByteCount: .mebibytes(256), reserve: .gibibytes(1), admission: .all,
                    promotion: .secondUse, scrubByteCountPerSecond: .mebibytes(16),
                    directIO: .auto))
    }

    @Test func `come from the file, each to its place`() throws {
        let folder = try TemporaryFolder()
        let file = try folder.write(
            "kvstored.yaml",
            """
            ssd:
              directories:
                - /mnt/one/kvstored
                - /mnt/two/kvstored
              capacity: 800GiB
              segment_bytes: 32MiB
              reserve: 0
              admission: second_use
              promotion: always
              scrub_rate: 0
              direct_io: require
            """)
        let ssd = try #require(try load(["--config", file]).ssd)
        #expect(
            ssd
                == DaemonSettings.SSD(
                    directories: ["/mnt/one/kvstored", "/mnt/two/kvstored"],
                    capacity: .gibibytes(800), segmentByteCount: .mebibytes(32),
                    reserve: ByteCount(0), admission: .secondUse, promotion: .always,
                    scrubByteCountPerSecond: ByteCount(0), directIO: .require))
    }

    @Test(arguments: [
        "[/a, /b]", "/a,/b", "'/a, /b '", "\n    - /a\n    - /b", "[/a/, //b/.]",
    ])
    func `read a list in each of its spellings`(text: String) throws {
        let folder = try TemporaryFolder()
        let file = try folder.write(
            "kvstored.yaml", "ssd:\n  capacity: 1GiB\n  directories: \(text)\n")
        #expect(try load(["--config", file]).ssd?.directories == ["/a", "/b"])
    }

    @Test func `read a list from a variable`() throws {
        var surroundings = quiet
        surroundings.environment = [
            "KVSTORED_SSD_DIRECTORIES": "/a,/b", "KVSTORED_SSD_CAPACITY": "1GiB",
        ]
        #expect(try load([], surroundings).ssd?.directories == ["/a", "/b"])
    }

    @Test(arguments: [
        ("64MiB", ByteCount.mebibytes(4)), ("100MiB", .mebibytes(6)), ("1GiB", .mebibytes(64)),
        ("4GiB", .mebibytes(256)), ("16TiB", .mebibytes(256)),
    ])
    func `take a segment that suits the capacity`(capacity: String, segment: ByteCount) throws {
        let settings = try load(["--ssd-directories", "/a", "--ssd-capacity", capacity])
        #expect(settings.ssd?.segmentByteCount == segment)
    }

    @Test(arguments: [
        ("--ssd-capacity", "63MiB"), ("--ssd-capacity", "17TiB"), ("--ssd-capacity", "all"),
        ("--ssd-segment-bytes", "1536KiB"), ("--ssd-segment-bytes", "257MiB"),
        ("--ssd-segment-bytes", "0"), ("--ssd-reserve", "10%"), ("--ssd-reserve", "-1"),
        ("--ssd-admission", "none"), ("--ssd-promotion", "never"), ("--ssd-scrub-rate", "fast"),
        ("--ssd-direct-io", "true"), ("--ssd-directories", "/a,,/b"), ("--ssd-directories", ""),
    ])
    func `refuse a value that is none`(flag: String, text: String) throws {
        let found = problems(Self.two + ["\(flag)=\(text)"])
        #expect(found.count == 1)
        let problem = try #require(found.first)
        #expect(problem.contains("'\(text)' is not valid; expected "), "\(problem)")
        #expect(problem.hasPrefix("flag \(flag): "), "\(problem)")
    }

    @Test func `say what is wrong with a directory`() {
        let many = (1...17).map { "/\($0)" }.joined(separator: ",")
        let sixteen = (1...16).map { "/\($0)" }.joined(separator: ",")
        let cases = [
            ("data/ssd", "ssd.directories: 'data/ssd' is a relative path; write it from '/' on"),
            ("/a,/b,/a//./", "ssd.directories: '/a' stands here twice; keep one"),
            (many, "ssd.directories: 17 directories; at most 16, one for each device"),
        ]
        for (text, problem) in cases {
            #expect(
                problems(["--ssd-directories", text, "--ssd-capacity", "1GiB"])
                    == ["flag --ssd-directories: " + problem])
        }
        #expect(problems(["--ssd-directories", sixteen, "--ssd-capacity", "1GiB"]) == [])
    }

    @Test(arguments: [
        ("[]", "ssd.directories has no value; remove the line"),
        ("[/a, ]]", "not readable as YAML"), ("[[/a]]", "each entry of the list is one value"),
        ("[/a, ~]", "each entry of the list is one value"),
        ("['/a,b']", "each entry of the list is one value without a comma in it"),
        ("{a: /a}", "ssd.directories: expected a value or a list, not a section"),
    ])
    func `refuse a list that is not of their shape`(text: String, part: String) throws {
        let folder = try TemporaryFolder()
        let file = try folder.write(
            "kvstored.yaml", "ssd:\n  directories: \(text)\n")
        let found = problems(["--config", file])
        #expect(found.count == 1)
        #expect(found.first?.contains(part) == true, "\(found)")
        #expect(found.first?.hasPrefix("\(file):2: ") == true, "\(found)")
    }

    @Test func `agree among themselves`() {
        #expect(
            problems(["--ssd-directories", "/a"]) == [
                "flag --ssd-directories: ssd.directories is set, and ssd.capacity is not: say how "
                    + "much of each directory kvstored may use"
            ])
        let small = ["--ssd-directories", "/a", "--ssd-capacity", "64MiB"]
        #expect(
            problems(small + ["--ssd-segment-bytes", "17MiB"]) == [
                "flag --ssd-segment-bytes: ssd.segment_bytes is 17MiB, more than a quarter of "
                    + "ssd.capacity (64MiB); lower the first or raise the second"
            ])
        #expect(problems(small + ["--ssd-segment-bytes", "16MiB"]) == [])
    }

    @Test func `warn when they are set for no tier, unless it is off on purpose`() throws {
        #expect(
            try printed(["--check-config", "--ssd-capacity", "1TiB"]).hasPrefix(
                "warning: ssd.capacity is set, and ssd.directories is not: there is no SSD tier"))
        let off = ["--check-config", "--ssd-capacity", "1TiB", "--ssd-directories", "off"]
        #expect(try !printed(off).contains("warning"))
        #expect(try !printed(["--check-config"]).contains("warning"))
    }

    @Test func `are printed so that they are read back`() throws {
        let text = try printed(Self.two + ["--print-config"])
        #expect(text.contains("  directories: '/a,/b'  # flag --ssd-directories\n"))
        #expect(text.contains("  segment_bytes: 256MiB  # default\n"))
        let folder = try TemporaryFolder()
        let again = try load(["--config", try folder.write("kvstored.yaml", text)])
        #expect(again.ssd == (try load(Self.two).ssd))
        #expect(try printed(["--print-config"]).contains("  # segment_bytes:   # default\n"))
    }
}
