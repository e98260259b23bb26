// SPDX-License-Identifier: Apache-2.0

import KVCore

/// deploy/systemd/kvstored.yaml: every option at its default, commented out.
enum Sample {
    static let path = "deploy/systemd/kvstored.yaml"

    static var yaml: String {
        var lines = [
            "# SPDX-License-Identifier: Apache-2.0",
            "# Configuration of kvstored. Made by dev/generate; docs/configuration.md says more.",
            "# Every option stands here at its default: remove the # of its line to change it.",
            "# Check the result with: kvstored --config kvstored.yaml --check-config",
        ]
        for (section, options) in sections(DaemonOptions.all) {
            lines += ["", "\(section):"]
            for option in options {
                lines.append("  # \(option.summary)")
                lines += line(option)
            }
        }
        lines += ["", "# Tenants; docs/configuration.md says when they need tokens."]
        lines += namespaces.split(separator: "\n").map { "# " + $0 }
        return lines.joined(separator: "\n") + "\n"
    }

    /// An example of the list.
    static let namespaces = """
        namespaces:
          - name: team-a
            token_file: /etc/kvstored/team-a.token
            secret_file: /etc/kvstored/team-a.secret
        """

    private static func line(_ option: any DeclaredSetting) -> [String] {
        // A default that depends on the host is prose, and no value.
        guard option.accepts(option.defaultText), !option.defaultText.contains(" ") else {
            let fallback = option.defaultText.isEmpty ? "none" : option.defaultText
            return wrapped("Default: \(fallback).", to: 90).map { "  # " + $0 }
                + ["  # \(option.nameInSection):"]
        }
        return ["  # \(option.nameInSection): \(quoted(option.defaultText))"]
    }

    /// `text` as a YAML scalar that is read back as it stands.
    static func quoted(_ text: String) -> String {
        let isPlain = text.utf8.allSatisfy { byte in
            (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20)
                || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
                || "/._-:".utf8.contains(byte)
        }
        guard !isPlain || text.isEmpty || text.hasSuffix(":") || "-:".contains(text.prefix(1))
        else {
            return text
        }
        let escaped = text.split(separator: "'", omittingEmptySubsequences: false)
        return "'" + escaped.joined(separator: "''") + "'"
    }
}

/// `kvstored --print-config`.
enum EffectiveConfiguration {
    /// The configuration in force as YAML, each line with its source, secrets masked.
    static func yaml(_ settings: DaemonSettings, _ resolver: SettingsResolver) -> String {
        var lines: [String] = []
        for (section, options) in sections(DaemonOptions.all) {
            lines.append("\(section):")
            for option in options {
                let source = resolver.source(of: option.key)
                let text = text(option, settings, resolver)
                let name = text.isEmpty ? "# \(option.nameInSection)" : option.nameInSection
                lines.append("  \(name): \(text.isEmpty ? "" : Sample.quoted(text))  # \(source)")
            }
        }
        lines.append("namespaces:")
        for namespace in settings.namespaces.compactMap({ $0 }) where namespace.isOpenable {
            lines.append("  - name: \(namespace.name)")
            lines.append("    shared_memory: \(namespace.sharesMemory)")
            for token in namespace.tokens { lines.append("    # token: \(token)") }
            if let secret = namespace.secret { lines.append("    # secret: \(secret)") }
        }
        if settings.namespaces.first == .some(nil) {
            lines.append("  # default: closed, because other hosts can reach listen.tcp")
        }
        return lines.joined(separator: "\n")
    }

    /// The value in force; the default of some options depends on another one.
    private static func text(
        _ option: any DeclaredSetting, _ settings: DaemonSettings, _ resolver: SettingsResolver
    ) -> String {
        switch option.key {
        case DaemonOptions.chunkBytes.key: settings.limits.chunkByteCount.description
        case DaemonOptions.ssdSegmentBytes.key:
            settings.ssd?.segmentByteCount.description ?? resolver.text(option)
        default: resolver.text(option)
        }
    }
}
