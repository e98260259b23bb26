// SPDX-License-Identifier: Apache-2.0

/// One option of the daemon's configuration, declared once.
///
/// The configuration file, the environment variable, the flag, `--help`, the sample file and
/// docs/configuration.md all derive from this value. Declarations stand in `DaemonOptions`.
struct Setting<Value: Sendable>: Sendable {
    /// Where the option stands in the file: `section.name`, words joined by underscores.
    let key: String
    let kind: ValueKind<Value>
    let fallback: Fallback<Value>
    var isSecret = false
    var takesEffect = TakesEffect.afterRestart
    /// One sentence for `--help`.
    let summary: String
    /// What an operator should know before changing it; may be empty.
    var detail = ""
}

/// What an option is when nobody sets it.
enum Fallback<Value: Sendable>: Sendable {
    case value(Value)
    /// Depends on where the daemon runs; `text` says how, for people.
    case computed(text: String, @Sendable (Surroundings) -> Value)
    /// The entry cannot do without it.
    case required
}

/// When a changed value is used.
enum TakesEffect: String, Sendable {
    case afterRestart = "after a restart"
}

/// What the process finds around it; the tests bring their own.
package struct Surroundings: Sendable {
    package var environment: [String: String]
    package var userID: UInt32
    package var hostName: String

    package init(environment: [String: String], userID: UInt32, hostName: String) {
        self.environment = environment
        self.userID = userID
        self.hostName = hostName
    }
}

/// A `Setting` whose type of value does not matter: what the reference and the loader need.
protocol DeclaredSetting: Sendable {
    var key: String { get }
    var isSecret: Bool { get }
    var summary: String { get }
    var detail: String { get }
    /// The type, for the reference: `size`, `duration`, `path`.
    var kindName: String { get }
    /// Whether the file may give a list.
    var takesList: Bool { get }
    /// What a value must be, as the end of the sentence "expected …".
    var expectation: String { get }
    /// The default, for people.
    var defaultText: String { get }
    /// When a change takes effect, for the reference.
    var effectText: String { get }
    /// The default for a process in these surroundings, as the configuration would spell it.
    func standardText(_ surroundings: Surroundings) -> String
    /// Whether `text` is a valid value.
    func accepts(_ text: String) -> Bool
}

extension Setting: DeclaredSetting {
    var kindName: String { kind.name }
    var takesList: Bool { kind.takesList }
    var expectation: String { kind.expectation }
    var effectText: String { takesEffect.rawValue }

    var defaultText: String {
        switch fallback {
        case .value(let value): kind.render(value)
        case .computed(let text, _): text
        case .required: "none; must be given"
        }
    }

    func standardText(_ surroundings: Surroundings) -> String {
        switch fallback {
        case .value(let value): kind.render(value)
        case .computed(_, let compute): kind.render(compute(surroundings))
        case .required: ""
        }
    }

    func accepts(_ text: String) -> Bool { kind.parse(text) != nil }
}

extension DeclaredSetting {
    /// The part of the key before the first dot.
    var section: String { String(key.prefix { $0 != "." }) }

    /// The part of the key after the first dot.
    var nameInSection: String { String(key.drop { $0 != "." }.dropFirst()) }

    /// `--memory-budget` for `memory.budget`.
    var flag: String {
        "--" + String(key.map { $0 == "." || $0 == "_" ? "-" : $0 })
    }

    /// `KVSTORED_MEMORY_BUDGET` for `memory.budget`.
    var environmentVariable: String {
        environmentPrefix + String(key.map { $0 == "." ? "_" : $0 }).uppercased()
    }
}

/// What the names of the daemon's environment variables begin with.
let environmentPrefix = "KVSTORED_"
