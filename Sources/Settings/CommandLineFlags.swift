// SPDX-License-Identifier: Apache-2.0

/// What the daemon can be asked besides its options; declared once, like them.
enum DaemonCommand: String, CaseIterable, Sendable {
    case config = "--config"
    case checkConfig = "--check-config"
    case printConfig = "--print-config"
    case printSampleConfig = "--print-sample-config"
    case version = "--version"
    case help = "--help"

    /// How the flag's value is named in the help; nil: it takes none.
    var valueName: String? { self == .config ? "FILE" : nil }

    var summary: String {
        switch self {
        case .config: "Read options from this YAML file (also \(configVariable))."
        case .checkConfig: "Check the configuration and exit: 0 when good, 78 when not."
        case .printConfig: "Print the configuration in force, with each value's source."
        case .printSampleConfig: "Print a configuration file with all options, commented out."
        case .version: "Print the version."
        case .help: "Print this text."
        }
    }
}

/// Names the configuration file where a flag cannot be given.
let configVariable = environmentPrefix + "CONFIG"

/// The command line, taken apart: options by key, and what was asked for.
struct CommandLineFlags {
    private(set) var assignments: [Assignment] = []
    private(set) var commands: Set<DaemonCommand> = []
    private(set) var configPath: String?
    private(set) var problems: [SettingsProblem] = []

    /// Reads `--flag value` and `--flag=value`; `arguments` come without the program's name.
    init(_ arguments: [String]) {
        var rest = arguments[...]
        while let argument = rest.popFirst() {
            let flag = argument == "-h" ? "--help" : String(argument.prefix { $0 != "=" })
            let attached = argument.firstIndex(of: "=").map { argument[$0...].dropFirst() }
            if let command = DaemonCommand(rawValue: flag) {
                commands.insert(command)
                if command.valueName != nil {
                    configPath = value(of: flag, attached, &rest) ?? configPath
                } else if attached != nil {
                    complain(flag, "takes no value; leave out '=' and what follows")
                }
            } else if let option = DaemonOptions.all.first(where: { $0.flag == flag }) {
                guard let text = value(of: flag, attached, &rest) else { continue }
                assignments.append(Assignment(key: option.key, text: text, source: .flag(flag)))
            } else {
                complainUnknown(argument, flag)
            }
        }
    }

    private mutating func value(
        of flag: String, _ attached: Substring?, _ rest: inout ArraySlice<String>
    ) -> String? {
        if let attached { return String(attached) }
        guard let next = rest.first, !next.hasPrefix("--") else {
            complain(flag, "needs a value; write '\(flag) VALUE' or '\(flag)=VALUE'")
            return nil
        }
        return rest.popFirst()
    }

    private mutating func complain(_ flag: String, _ message: String) {
        problems.append(SettingsProblem(at: .flag(flag), message))
    }

    private mutating func complainUnknown(_ argument: String, _ flag: String) {
        guard argument.hasPrefix("-") else {
            problems.append(
                SettingsProblem(
                    place: "command line",
                    "unexpected '\(argument)'; kvstored takes flags only, see --help"))
            return
        }
        let known = DaemonCommand.allCases.map(\.rawValue) + DaemonOptions.all.map(\.flag)
        let cure = nearest(to: flag, among: known).map { "did you mean \($0)?" }
        complain(flag, "unknown; " + (cure ?? "kvstored --help lists all"))
    }
}

/// The daemon's environment variables, taken apart.
struct EnvironmentVariables {
    private(set) var assignments: [Assignment] = []
    private(set) var configPath: String?
    private(set) var problems: [SettingsProblem] = []

    init(_ environment: [String: String]) {
        let options = DaemonOptions.all
        for (variable, text) in environment.sorted(by: { $0.key < $1.key })
        where variable.hasPrefix(environmentPrefix) && !Self.isServiceLink(variable) {
            if variable == configVariable {
                configPath = text
            } else if let option = options.first(where: { $0.environmentVariable == variable }) {
                let source = SettingSource.environment(variable: variable)
                assignments.append(Assignment(key: option.key, text: text, source: source))
            } else {
                let known = options.map(\.environmentVariable) + [configVariable]
                let cure = nearest(to: variable, among: known).map { "did you mean \($0)?" }
                problems.append(
                    SettingsProblem(
                        at: .environment(variable: variable),
                        "unknown option; "
                            + (cure ?? "docs/configuration.md lists all; unset or correct it")))
            }
        }
    }

    /// Kubernetes gives every pod such variables for a service that is called `kvstored`; they
    /// are its words, not an operator's.
    private static func isServiceLink(_ variable: String) -> Bool {
        let rest = variable.dropFirst(environmentPrefix.count)
        return rest == "PORT" || rest.hasPrefix("PORT_") || rest.hasPrefix("SERVICE_")
    }
}
