// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

@testable import Settings

/// With KVSTORE_GENERATE=1 in the environment these tests write the files instead (dev/generate).
@Suite struct `The generated files` {
    @Test(arguments: [
        (Reference.path, Reference.markdown), (Sample.path, Sample.yaml),
    ])
    func `are those that the declarations make`(path: String, expected: String) throws {
        let root = URL(filePath: #filePath).deletingLastPathComponent()
            .deletingLastPathComponent().deletingLastPathComponent()
        let file = root.appending(path: path)
        if ProcessInfo.processInfo.environment["KVSTORE_GENERATE"] == "1" {
            try FileManager.default.createDirectory(
                at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
            try expected.write(to: file, atomically: true, encoding: .utf8)
        }
        let found = try String(contentsOf: file, encoding: .utf8)
        #expect(found == expected, "\(path) is stale: run dev/generate and commit the result")
    }

    @Test func `hold a sample that is good as it is and with every line made active`() throws {
        let folder = try TemporaryFolder()
        let commented = try folder.write("commented.yaml", Sample.yaml)
        #expect(problems(["--config", commented]) == [])

        let active = Sample.yaml.split(separator: "\n", omittingEmptySubsequences: false)
            .map { line in
                let isOption = line.wholeMatch(of: /\x20 # [a-z_]+: .+/) != nil
                return isOption ? line.replacing("  # ", with: "  ", maxReplacements: 1) : line[...]
            }
        let file = try folder.write("active.yaml", active.joined(separator: "\n"))
        #expect(problems(["--config", file]) == [])
        let loader = DaemonSettingsLoader(
            flags: CommandLineFlags(["--config", file]), surroundings: quiet)
        let given = DaemonOptions.all.filter { loader.resolver.source(of: $0.key) != .standard }
        // The others have no default that could stand in a file.
        #expect(given.count >= DaemonOptions.all.count - 7)
    }
}
