// SPDX-License-Identifier: Apache-2.0

/// `kvstored --help`.
enum DaemonHelp {
    static var text: String {
        var lines = [
            "kvstored: holds KV-cache chunks for LLM engines, and gives them back fast.",
            "",
            "Usage: kvstored [--config FILE] [--OPTION VALUE]...",
            "",
        ]
        for command in DaemonCommand.allCases {
            let flag = command.rawValue + (command.valueName.map { " " + $0 } ?? "")
            lines.append("  " + padded(flag, to: 26) + command.summary)
        }
        lines += [
            "",
            "Every option can stand in the file (memory: budget: 1GiB), in the environment",
            "(\(DaemonOptions.memoryBudget.environmentVariable)=1GiB) or here; what stands here "
                + "comes first.",
        ]
        for (section, options) in sections(DaemonOptions.all) {
            lines += ["", "\(section):"]
            for option in options {
                lines.append("  \(option.flag) <\(option.kindName)>")
                lines.append("      \(option.summary)")
                let fallback = option.defaultText.isEmpty ? "none" : option.defaultText
                lines += wrapped("Default: \(fallback)", to: 92).map { "      " + $0 }
            }
        }
        return lines.joined(separator: "\n")
    }
}

/// docs/configuration.md.
enum Reference {
    static let path = "docs/configuration.md"

    static var markdown: String {
        var lines = [
            "<!-- Made by dev/generate from Sources/Settings/DaemonOptions.swift; edit that. -->",
            "# Configuration",
            "",
            "`kvstored` takes each option from the first of these that has it: a flag, an "
                + "environment variable, the YAML file (`--config FILE` or `\(configVariable)`), "
                + "the default. An option that nobody knows is an error, wherever it stands. "
                + "`kvstored --check-config` tells everything that is wrong with a configuration, "
                + "`--print-config` what is in force and why, and `--print-sample-config` makes a "
                + "file to start from.",
            "",
            "Without any configuration the daemon listens on a Unix socket and on 127.0.0.1 only, "
                + "where one namespace, `\(NamespaceSettings.defaultName)`, is open without a "
                + "token.",
            "",
        ]
        for (section, options) in sections(DaemonOptions.all) {
            lines += ["## \(section)", ""]
            for option in options { lines += entry(option) }
        }
        lines += ["## \(NamespaceOptions.listKey)", "", namespaceText, ""]
        lines += ["```yaml", Sample.namespaces, "```", ""]
        for option in NamespaceOptions.all {
            lines += ["### `\(option.nameInSection)`", ""] + body(option)
            lines += ["Value: \(option.expectation). Default: \(code(option.defaultText)).", ""]
        }
        return lines.joined(separator: "\n")
    }

    private static let namespaceText =
        "A list of tenants, in the file only. A namespace sees its own chunks alone. When other "
        + "hosts can reach `listen.tcp`, every namespace needs a token, and clients that name no "
        + "namespace are refused unless `\(NamespaceSettings.defaultName)` is in the list. Secrets "
        + "are never printed or logged."

    private static func entry(_ option: any DeclaredSetting) -> [String] {
        let rows = [
            "| value | \(escaped(option.expectation)) |",
            "| default | \(code(escaped(option.defaultText))) |",
            "| flag | `\(option.flag)` |",
            "| environment | `\(option.environmentVariable)` |",
            "| a change takes effect | \(option.effectText) |",
        ]
        return ["### `\(option.key)`", ""] + body(option) + ["| | |", "|---|---|"] + rows + [""]
    }

    private static func body(_ option: any DeclaredSetting) -> [String] {
        [option.summary] + (option.detail.isEmpty ? [""] : ["", option.detail, ""])
    }

    private static func code(_ text: String) -> String {
        text.isEmpty ? "none" : text.contains(" ") ? text : "`\(text)`"
    }

    private static func escaped(_ text: String) -> String {
        text.split(separator: "|", omittingEmptySubsequences: false).joined(separator: "\\|")
    }
}

/// The options by section, both in the order of their declaration.
func sections(
    _ options: [any DeclaredSetting]
) -> [(section: String, options: [any DeclaredSetting])] {
    var result: [(section: String, options: [any DeclaredSetting])] = []
    for option in options {
        if result.last?.section == option.section {
            result[result.count - 1].options.append(option)
        } else {
            result.append((option.section, [option]))
        }
    }
    return result
}

/// `text` in lines of at most `width` characters, broken at blanks.
func wrapped(_ text: String, to width: Int) -> [String] {
    var lines: [String] = []
    for word in text.split(separator: " ") {
        if let last = lines.last, last.count + 1 + word.count <= width {
            lines[lines.count - 1] = last + " " + word
        } else {
            lines.append(String(word))
        }
    }
    return lines
}

private func padded(_ text: String, to width: Int) -> String {
    text + String(repeating: " ", count: max(1, width - text.count))
}
