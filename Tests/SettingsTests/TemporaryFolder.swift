// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

@testable import Settings

/// A folder of a test's own, gone with it.
final class TemporaryFolder {
    let path: String

    init() throws {
        path = NSTemporaryDirectory() + "/kvstore-settings-" + UUID().uuidString
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    /// Writes a file that its owner alone may read, and returns its path.
    func write(_ name: String, _ text: String, permissions: Int = 0o600) throws -> String {
        let file = path + "/" + name
        try text.write(toFile: file, atomically: true, encoding: .utf8)
        try FileManager.default.setAttributes([.posixPermissions: permissions], ofItemAtPath: file)
        return file
    }
}

let quiet = Surroundings(environment: [:], userID: 1_000, hostName: "host-1")

/// The settings that `arguments` lead to; throws the fault otherwise.
func load(_ arguments: [String], _ surroundings: Surroundings = quiet) throws -> DaemonSettings {
    switch try DaemonSettings.load(arguments: arguments, surroundings: surroundings) {
    case .run(let settings, _): return settings
    case .print(let text):
        Issue.record("printed instead of running: \(text)")
        throw SettingsFault(problems: [])
    }
}

/// What is wrong with a configuration, one line each; empty when nothing is.
func problems(
    _ arguments: [String], _ surroundings: Surroundings = quiet
) -> [String] {
    do throws(SettingsFault) {
        _ = try DaemonSettings.load(arguments: arguments, surroundings: surroundings)
        return []
    } catch {
        return error.problems.map(\.description)
    }
}

/// What is printed instead of serving.
func printed(_ arguments: [String], _ surroundings: Surroundings = quiet) throws -> String {
    guard
        case .print(let text) = try DaemonSettings.load(
            arguments: arguments, surroundings: surroundings)
    else { return "" }
    return text
}
