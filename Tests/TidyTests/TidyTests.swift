// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

/// Reads what git tracks, and what it would track.
private func checkout() throws -> Repository {
    let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()
    let git = Process()
    git.executableURL = URL(filePath: "/usr/bin/env")
    git.arguments = [
        "git", "-C", root.path, "ls-files", "-z", "--cached", "--others", "--exclude-standard",
    ]
    let output = Pipe()
    git.standardOutput = output
    try git.run()
    let names = try #require(try output.fileHandleForReading.readToEnd())
    git.waitUntilExit()
    try #require(git.terminationStatus == 0)

    var files: [SourceFile] = []
    var others: [String] = []
    for name in names.split(separator: 0) {
        let path = String(decoding: name, as: UTF8.self)
        let url = root.appending(path: path)
        guard FileManager.default.fileExists(atPath: url.path) else { continue }
        if let text = try? String(contentsOf: url, encoding: .utf8), !text.utf8.contains(0) {
            files.append(SourceFile(path: path, text: text))
        } else {
            others.append(path)
        }
    }
    return Repository(files: files, otherPaths: others)
}

@Suite struct `The repository` {
    /// What is known and not mended yet. The list only shrinks.
    private static let pending: [(path: String, part: String)] = [
        ("Package.swift", "no test imports Sources/Node")
    ]

    @Test func `keeps its own rules`() throws {
        let repository = try checkout()
        #expect(repository.files.count > 50, "git listed too little")
        var findings: [Finding] = []
        for file in repository.files {
            let rules = TextRules.all + (file.suffix == "swift" ? SwiftRules.all : [])
            findings += rules.flatMap { $0(file) }
        }
        findings += RepositoryRules.all.flatMap { $0(repository) }
        findings.removeAll { finding in
            Self.pending.contains {
                finding.path.hasPrefix($0.path) && finding.message.contains($0.part)
            }
        }
        let list = findings.map(\.description).sorted().joined(separator: "\n")
        #expect(findings.isEmpty, "\(findings.count) findings:\n\(list)")
    }
}
