// SPDX-License-Identifier: Apache-2.0
import Foundation
import KVCore
import Testing

/// A store of Tests/Vectors/ssd as files in a folder of its own.
private struct StoreFolder {
    let folder: TemporaryFolder
    let directories: [String]

    init(_ name: String) throws {
        folder = try TemporaryFolder()
        var files: [String: Data] = [:]
        var path = ""
        let text = try String(contentsOf: Self.vector("\(name).store"), encoding: .utf8)
        for line in text.split(separator: "\n") {
            let words = line.split(separator: " ").map(String.init)
            if words[0] == "file" {
                path = words[1]
                files[path] = Data(count: try #require(Int(words[2])))
            } else {
                let offset = try #require(Int(words[0], radix: 16))
                let bytes = try #require(bytesFromHexadecimal(words[1]))
                files[path]?.replaceSubrange(offset..<offset + bytes.count, with: bytes)
            }
        }
        var directories: Set<String> = []
        for (path, data) in files {
            let url = URL(filePath: folder.path(path))
            let directory = url.deletingLastPathComponent()
            try FileManager.default.createDirectory(
                at: directory, withIntermediateDirectories: true)
            try data.write(to: url)
            directories.insert(directory.path)
        }
        self.directories = directories.sorted()
    }

    static func vector(_ file: String) -> URL {
        URL(filePath: #filePath).deletingLastPathComponent()
            .appending(path: "../Vectors/ssd/\(file)")
    }

    /// Runs `kvctl ssd` with the directories behind the command.
    func callAsFunction(_ command: String, _ options: String...) throws -> CommandResult {
        try runProduct(.kvctl, ["ssd", command] + directories + options)
    }
}

@Suite struct `kvctl over the files of a store` {
    @Test(arguments: ["good", "two-directories", "record-torn", "checkpoint-page"])
    func `prints what the second reader prints`(name: String) throws {
        let store = try StoreFolder(name)
        let expected = try String(
            contentsOf: StoreFolder.vector("\(name).jsonl"), encoding: .utf8)
        let result = try store(
            "inspect", "--json", "--verify", "--recover", "--now", "1800000000000")
        #expect(result.output == expected)
        #expect(result.exitCode == (expected.contains(#""type": "fault""#) ? 5 : 0))
    }

    @Test func `shows the whole to people, and the parts when asked`() throws {
        let store = try StoreFolder("good")
        let brief = try store("inspect")
        #expect(brief.exitCode == 0)
        #expect(brief.output.contains("directory 0: \(store.directories[0])\n"))
        #expect(brief.output.contains("segment: directory 0, segment 0, state sealed, serial 2,"))
        #expect(brief.output.contains("summary: directories 1, segments 4, records 11,"))
        #expect(!brief.output.contains("\nrecord: "))
        let full = try store("inspect", "--records", "--segment", "1")
        #expect(full.output.contains("\nrecord: directory 0, segment 1, block 1,"))
        #expect(!full.output.contains("segment 0"))
    }

    @Test func `verifies, and says what is damaged`() throws {
        let sound = try StoreFolder("good")("verify", "--json")
        #expect(sound.exitCode == 0)
        #expect(sound.output.contains(#""verified_payloads": 8, "#))
        #expect(sound.output.split(separator: "\n").count == 2)

        let damaged = try StoreFolder("payload-damaged")("verify")
        #expect(damaged.exitCode == 5)
        #expect(damaged.output.contains("fault: what payload-damaged, directory 0, segment 0"))
        #expect(damaged.errors.contains("found 1 payload-damaged, 1 stripe-damaged"))

        let absent = try runProduct(.kvctl, ["ssd", "verify", "/nonexistent/directory"])
        #expect(absent.exitCode == 7)
        #expect(absent.output.contains("fault: what directory-unreadable, directory 0"))
        #expect(try runProduct(.kvctl, ["ssd", "verify"]).exitCode == 2)
    }

    @Test func `does not verify what a daemon uses, unless told to`() throws {
        let store = try StoreFolder("examples")
        // SAFETY: the text is valid during the call.
        let lock = unsafe open("\(store.directories[0])/lock", O_RDWR | O_CREAT, 0o600)
        try #require(lock >= 0)
        defer { close(lock) }
        #expect(try store("verify").exitCode == 0)
        try #require(flock(lock, LOCK_EX | LOCK_NB) == 0)
        let refused = try store("verify")
        #expect(refused.exitCode == 4)
        #expect(refused.errors.contains("--while-running"))
        #expect(refused.output.isEmpty)
        #expect(try store("verify", "--while-running").exitCode == 0)
        #expect(try store("inspect").exitCode == 0)
    }
}
