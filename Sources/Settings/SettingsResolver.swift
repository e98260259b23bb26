// SPDX-License-Identifier: Apache-2.0

/// Picks each option's value from all sources: flags before environment before file before
/// default. Collects what is wrong instead of stopping at the first.
struct SettingsResolver {
    let surroundings: Surroundings
    private(set) var problems: [SettingsProblem] = []
    /// The options that were asked for; a test holds them against those that are declared.
    private(set) var keysRead: Set<String> = []
    /// The options for which some source gave a value that is none.
    private(set) var keysRefused: Set<String> = []
    private var winners: [String: Assignment] = [:]

    /// `layers` go from the least to the most important source.
    init(
        declared: [any DeclaredSetting], layers: [[Assignment]], surroundings: Surroundings
    ) {
        self.surroundings = surroundings
        for assignment in layers.joined() {
            guard let setting = declared.first(where: { $0.key == assignment.key }) else {
                continue  // The source has complained about it.
            }
            if setting.accepts(assignment.text) {
                winners[assignment.key] = assignment
            } else {
                keysRefused.insert(setting.key)
                let shown = setting.isSecret ? "the value" : "'\(assignment.text)'"
                complain(
                    at: assignment.source,
                    "\(setting.key): \(shown) is not valid; expected \(setting.expectation)")
            }
        }
    }

    /// The value in force.
    mutating func value<Value>(_ setting: Setting<Value>) -> Value where Value: Sendable {
        guard let value = given(setting) else { return standard(setting) }
        return value
    }

    /// The value that some source gave; nil when none did.
    mutating func given<Value>(_ setting: Setting<Value>) -> Value? where Value: Sendable {
        keysRead.insert(setting.key)
        return winners[setting.key].flatMap { setting.kind.parse($0.text) }
    }

    /// Where the value in force came from.
    func source(of key: String) -> SettingSource { winners[key]?.source ?? .standard }

    /// The value in force as the configuration would spell it; masked when it is a secret.
    func text(_ setting: any DeclaredSetting) -> String {
        if setting.isSecret { return Secret(bytes: []).description }
        return winners[setting.key]?.text ?? setting.standardText(surroundings)
    }

    mutating func complain(at source: SettingSource, _ message: String) {
        problems.append(SettingsProblem(at: source, message))
    }

    mutating func complain(_ problem: SettingsProblem) {
        problems.append(problem)
    }

    private func standard<Value>(_ setting: Setting<Value>) -> Value where Value: Sendable {
        switch setting.fallback {
        case .value(let value): return value
        case .computed(_, let compute): return compute(surroundings)
        case .required: preconditionFailure("a required option is read with given(_:)")
        }
    }
}
