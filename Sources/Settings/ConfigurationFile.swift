// SPDX-License-Identifier: Apache-2.0

import Yams

/// One value as some source gave it, not yet understood.
struct Assignment: Hashable, Sendable {
    let key: String
    let text: String
    let source: SettingSource
}

/// The configuration file, taken apart: which keys have which text on which line.
struct ConfigurationFile {
    let path: String
    private(set) var assignments: [Assignment] = []
    /// The entries of `namespaces`, each with its fields by their full keys.
    private(set) var namespaces: [[Assignment]] = []
    private(set) var problems: [SettingsProblem] = []

    /// Where line 1 is; the source of what concerns the file as a whole.
    var top: SettingSource { .file(path: path, line: 1) }

    /// Reads the YAML in `text`; `path` only names it. Never fails: see `problems`.
    init(path: String, text: String) {
        self.path = path
        do {
            guard let root = try compose(yaml: text) else { return }
            guard case .mapping(let mapping) = root else {
                complain(at: root, "expected sections such as 'memory:' with options below them")
                return
            }
            for (key, value) in mapping { readTop(key, value) }
        } catch let error as YamlError {
            problems.append(Self.problem(error, path: path))
        } catch {
            problems.append(SettingsProblem(at: top, "not readable as YAML: \(error)"))
        }
    }

    private mutating func readTop(_ keyNode: Node, _ value: Node) {
        let section = keyNode.scalar?.string ?? ""
        if section == NamespaceOptions.listKey {
            readNamespaces(value)
        } else if !DaemonOptions.all.contains(where: { $0.section == section }) {
            let sections = Set(DaemonOptions.all.map(\.section)).union([NamespaceOptions.listKey])
            complainUnknown(keyNode, section, among: sections.sorted())
        } else if case .mapping(let mapping) = value {
            for (key, value) in mapping { readOption(key, value, section: section) }
        } else if !isEmpty(value) {
            complain(at: value, "'\(section)' is a section; expected its options, indented below")
        }
    }

    private mutating func readOption(_ keyNode: Node, _ value: Node, section: String) {
        let key = section + "." + (keyNode.scalar?.string ?? "")
        let known = DaemonOptions.all.map(\.key)
        guard known.contains(key) else {
            complainUnknown(keyNode, key, among: known)
            return
        }
        if let assignment = assignment(key, value) { assignments.append(assignment) }
    }

    private mutating func readNamespaces(_ value: Node) {
        if isEmpty(value) { return }
        guard case .sequence(let entries) = value else {
            complain(at: value, "'namespaces' is a list; begin each entry with '- name: …'")
            return
        }
        for entry in entries {
            guard case .mapping(let fields) = entry else {
                complain(at: entry, "expected an entry that begins with 'name: …'")
                continue
            }
            var namespace: [Assignment] = []
            for (keyNode, value) in fields {
                let key = "namespaces." + (keyNode.scalar?.string ?? "")
                let known = NamespaceOptions.all.map(\.key)
                guard known.contains(key) else {
                    complainUnknown(keyNode, key, among: known)
                    continue
                }
                if let field = assignment(key, value) { namespace.append(field) }
            }
            namespaces.append(namespace)
        }
    }

    private mutating func assignment(_ key: String, _ value: Node) -> Assignment? {
        let takesList = DaemonOptions.all.contains { $0.key == key && $0.takesList }
        if takesList, case .sequence(let entries) = value { return list(key, value, entries) }
        guard case .scalar(let scalar) = value else {
            let expected = takesList ? "a value or a list, not" : "one value, not a list or"
            complain(at: value, "\(key): expected \(expected) a section")
            return nil
        }
        guard !isEmpty(value) else {
            complain(at: value, "\(key) has no value; remove the line to get the default")
            return nil
        }
        return Assignment(key: key, text: scalar.string, source: source(of: value))
    }

    /// A list as the one text that a flag would give.
    private mutating func list(
        _ key: String, _ value: Node, _ entries: Node.Sequence
    ) -> Assignment? {
        guard !entries.isEmpty else {
            complain(at: value, "\(key) has no value; remove the line to get the default")
            return nil
        }
        var texts: [String] = []
        for entry in entries {
            guard case .scalar(let scalar) = entry, !isEmpty(entry), !scalar.string.contains(",")
            else {
                complain(
                    at: entry, "\(key): each entry of the list is one value without a comma in it")
                return nil
            }
            texts.append(scalar.string)
        }
        return Assignment(
            key: key, text: texts.joined(separator: ","), source: source(of: value))
    }

    private func isEmpty(_ value: Node) -> Bool {
        guard case .scalar(let scalar) = value else { return false }
        return scalar.style == .plain && ["", "~", "null"].contains(scalar.string)
    }

    private func source(of node: Node) -> SettingSource {
        .file(path: path, line: node.mark?.line ?? 1)
    }

    private mutating func complain(at node: Node, _ message: String) {
        problems.append(SettingsProblem(at: source(of: node), message))
    }

    private mutating func complainUnknown(_ node: Node, _ key: String, among known: [String]) {
        let cure = nearest(to: key, among: known).map { "did you mean \($0)?" }
        problems.append(
            SettingsProblem(
                at: source(of: node),
                "unknown option '\(key)'; "
                    + (cure ?? "docs/configuration.md lists all; remove or correct it")))
    }

    private static func problem(_ error: YamlError, path: String) -> SettingsProblem {
        switch error {
        case .scanner(_, let problem, let mark, _), .parser(_, let problem, let mark, _),
            .composer(_, let problem, let mark, _):
            let source = SettingSource.file(path: path, line: mark.line)
            return SettingsProblem(at: source, "not readable as YAML: \(problem)")
        case .duplicatedKeysInMapping(let duplicates, let context):
            let source = SettingSource.file(path: path, line: context.mark.line)
            let keys = duplicates.map { "'\($0)'" }.joined(separator: ", ")
            return SettingsProblem(
                at: source, "given twice in the section that begins here: \(keys); keep one")
        default:
            let source = SettingSource.file(path: path, line: 1)
            return SettingsProblem(at: source, "not readable as YAML: \(error)")
        }
    }
}
