// SPDX-License-Identifier: Apache-2.0

import KVCore

/// Turns the entries of `namespaces` into settings, reading the files they name.
struct NamespaceLoader {
    let file: ConfigurationFile
    let surroundings: Surroundings
    private(set) var namespaces: [NamespaceSettings] = []
    /// What the file says about sharing memory, by the namespace's name.
    private(set) var sharingByName: [String: Bool] = [:]
    private(set) var problems: [SettingsProblem] = []
    private(set) var warnings: [String] = []
    /// The options that were asked for, over all entries.
    private(set) var keysRead: Set<String> = []

    /// A namespace is numbered in 16 bits; far fewer are of use to one node.
    static let countMax = 1_024
    /// Old and new token of a few clients; more is a user database, which this is not.
    static let tokenCountMax = 64

    init(file: ConfigurationFile, surroundings: Surroundings) {
        self.file = file
        self.surroundings = surroundings
        var names: Set<String> = []
        for entry in file.namespaces {
            guard let namespace = load(entry) else { continue }
            if !names.insert(namespace.name).inserted {
                complain(entry, "namespace '\(namespace.name)' stands here twice; keep one")
            }
            namespaces.append(namespace)
        }
        if namespaces.count > Self.countMax {
            complain(
                file.namespaces.last ?? [],
                "\(namespaces.count) namespaces; a node serves at most \(Self.countMax)")
        }
    }

    private mutating func load(_ entry: [Assignment]) -> NamespaceSettings? {
        var resolver = SettingsResolver(
            declared: NamespaceOptions.all, layers: [entry], surroundings: surroundings)
        let name = resolver.given(NamespaceOptions.name)
        let token = resolver.value(NamespaceOptions.token)
        let tokenFile = resolver.value(NamespaceOptions.tokenFile)
        let secret = resolver.value(NamespaceOptions.secret)
        let secretFile = resolver.value(NamespaceOptions.secretFile)
        let sharesMemory = resolver.given(NamespaceOptions.sharedMemory)
        keysRead.formUnion(resolver.keysRead)
        problems += resolver.problems

        guard let name else {
            if resolver.problems.isEmpty { complain(entry, "an entry without 'name'; add one") }
            return nil
        }
        if token != nil && tokenFile != nil {
            complain(entry, "namespace '\(name)' has token and token_file; keep one of them")
        }
        if secret != nil && secretFile != nil {
            complain(entry, "namespace '\(name)' has secret and secret_file; keep one of them")
        }
        if (token ?? secret) != nil, case .file(let path, _)? = entry.first?.source {
            warnIfReadable(path)
        }
        let tokens = tokenFile.map { self.tokens(inFile: $0, entry) } ?? token.map { [$0] } ?? []
        let bytes =
            secretFile.map { secretBytes(inFile: $0, entry) }
            ?? secret.flatMap { NamespaceOptions.secretBytes($0) }
        sharingByName[name] = sharesMemory
        return NamespaceSettings(
            name: name, tokens: tokens.map { Secret(bytes: Array($0.utf8)) },
            secret: bytes.map { Secret(bytes: $0) }, sharesMemory: false)
    }

    private mutating func tokens(inFile path: String, _ entry: [Assignment]) -> [String] {
        let tokens = lines(ofFile: path, entry)
        let isGood = (tokens ?? []).allSatisfy { $0.utf8.count <= Limits.tokenByteCountMax }
        if let tokens, !isGood || !(1...Self.tokenCountMax).contains(tokens.count) {
            complain(
                entry,
                "token_file \(path) has \(tokens.count) tokens; expected 1 to "
                    + "\(Self.tokenCountMax), one a line, each at most "
                    + "\(Limits.tokenByteCountMax) bytes")
        }
        return tokens ?? []
    }

    private mutating func secretBytes(inFile path: String, _ entry: [Assignment]) -> [UInt8] {
        guard let lines = lines(ofFile: path, entry) else { return [] }
        guard lines.count == 1, let bytes = NamespaceOptions.secretBytes(lines[0]) else {
            complain(
                entry,
                "secret_file \(path) has no valid secret; expected "
                    + "\(NamespaceOptions.secret.expectation) on one line")
            return []
        }
        return bytes
    }

    /// The lines that say something; nil, and a problem, when the file cannot be read.
    private mutating func lines(ofFile path: String, _ entry: [Assignment]) -> [String]? {
        let directory = file.path.lastIndex(of: "/").map { file.path[...$0] } ?? ""
        let full = path.hasPrefix("/") ? path : directory + path
        do {
            let contents = try TextFile(path: full)
            if contents.isReadableByOthers { warnAbout(full) }
            return contents.text.split(whereSeparator: \.isNewline)
                .map { String($0.drop(while: \.isWhitespace)) }
                .map { line in String(line.reversed().drop(while: \.isWhitespace).reversed()) }
                .filter { !$0.isEmpty && !$0.hasPrefix("#") }
        } catch {
            complain(entry, "\(full) cannot be read: \(error.reason)")
            return nil
        }
    }

    private mutating func warnIfReadable(_ path: String) {
        do {
            if try TextFile(path: path).isReadableByOthers { warnAbout(path) }
        } catch {
            // It was read a moment ago; that it went away since is no concern of this warning.
            return
        }
    }

    private mutating func warnAbout(_ path: String) {
        let warning = "\(path) holds secrets and any user may read it; chmod o-r \(path)"
        if !warnings.contains(warning) { warnings.append(warning) }
    }

    private mutating func complain(_ entry: [Assignment], _ message: String) {
        problems.append(SettingsProblem(at: entry.first?.source ?? file.top, message))
    }
}
