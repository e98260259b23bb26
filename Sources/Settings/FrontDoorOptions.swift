// SPDX-License-Identifier: Apache-2.0

package import KVCore

/// The options of the listeners beside the native one: sections `resp` and `lm`.
enum FrontDoorOptions {
    static let respListen = Setting<StreamAddress?>(
        key: "resp.listen", kind: .endpointOrOff, fallback: .value(nil),
        summary: "TCP address and port of the RESP listener, such as 127.0.0.1:6379; off: none.",
        detail: "For Redis clients and LMCache's native client: docs/resp.md. An address that "
            + "other hosts can reach needs a password. Port 0 takes any free port.")

    static let respPassword = Setting<String?>(
        key: "resp.password", kind: .optionalText(byteCountMax: Limits.tokenByteCountMax),
        fallback: .value(nil), isSecret: true,
        summary: "The password that AUTH and HELLO ask for.",
        detail: "Prefer `resp.password_file`, which keeps it out of this file and of the list of "
            + "processes.")

    static let respPasswordFile = Setting<String?>(
        key: "resp.password_file", kind: .optionalPath, fallback: .value(nil),
        summary: "A file with passwords, one a line; any of them is right.",
        detail: "Lines that begin with # are comments.")

    static let respNamespace = Setting<String>(
        key: "resp.namespace", kind: .name(byteCountMax: Limits.namespaceByteCountMax),
        fallback: .value("resp"),
        summary: "The namespace of the listener's values.",
        detail: "Nobody else can open it, and none of `namespaces` may have its name.")

    static let respConnections = Setting<Int>(
        key: "resp.connections", kind: .count(1...10_000), fallback: .value(512),
        summary: "Open connections of the RESP listener; one more is refused at once.",
        detail: "They count for `limits.connections` too. Each takes 36 KiB.")

    static let respStrict = Setting<Bool>(
        key: "resp.lmcache_strict_replies", kind: .boolean, fallback: .value(false),
        summary: "Replies in the shapes that LMCache's native client insists on.",
        detail: "Its worker waits for ever for the rest of a nil. With this a miss is an error "
            + "line as long as the head that it expects, and what EXISTS found stays in memory "
            + "for `resp.lease`. Other clients take such a miss for an error.")

    static let respLease = Setting<Milliseconds>(
        key: "resp.lease",
        kind: .duration(Milliseconds(0)...Milliseconds(Limits.leaseMillisecondsMax)),
        fallback: .value(.seconds(5)),
        summary: "How long what EXISTS found stays in memory, with strict replies.",
        detail: "Long enough for the GET that follows.")

    static let respFlush = Setting<Bool>(
        key: "resp.flush", kind: .boolean, fallback: .value(false),
        summary: "Whether FLUSHDB is served.",
        detail: "It deletes all values of the listener's namespace, from all tiers.")

    static let respTransferDeadline = Setting<Milliseconds>(
        key: "resp.transfer_deadline",
        kind: .duration(.seconds(1)...Milliseconds(Limits.requestMillisecondsMax)),
        fallback: .value(.seconds(60)),
        summary: "Time for a request to arrive, or a reply to be taken, once it has begun.",
        detail: "A client that is slower is cut off. A connection that waits for a request is "
            + "never cut off, since LMCache's client does not connect again.")

    static let lmListen = Setting<StreamAddress?>(
        key: "lm.listen", kind: .endpointOrOff, fallback: .value(nil),
        summary: "TCP address and port for LMCache's lm:// protocol; off: none.",
        detail: "See docs/lm-protocol.md. The protocol has no authentication.")

    static let lmNamespace = Setting<String>(
        key: "lm.namespace", kind: .name(byteCountMax: Limits.namespaceByteCountMax),
        fallback: .value("lm"),
        summary: "The namespace of the listener's values.",
        detail: "Nobody else can open it, and none of `namespaces` may have its name.")

    static let lmTrustedNetwork = Setting<Bool>(
        key: "lm.trusted_network", kind: .boolean, fallback: .value(false),
        summary: "Whether lm.listen may be an address that other hosts can reach.",
        detail: "Everybody who can connect may then read, write and evict.")

    static let all: [any DeclaredSetting] = [
        respListen, respPassword, respPasswordFile, respNamespace, respConnections, respStrict,
        respLease, respFlush, respTransferDeadline, lmListen, lmNamespace, lmTrustedNetwork,
    ]
}

extension DaemonSettings {
    /// The RESP listener.
    package struct RESP: Hashable, Sendable {
        package var listen: StreamAddress
        /// Any of them is right; empty: none is asked for.
        package var passwords: [Secret]
        /// The position of its namespace in `namespaces`.
        package var namespaceNumber: Int
        package var connectionCount: Int
        package var isStrict: Bool
        package var lease: Milliseconds
        package var mayFlush: Bool
        package var transferDeadline: Milliseconds
    }

    /// The lm listener.
    package struct LM: Hashable, Sendable {
        package var listen: StreamAddress
        /// The position of its namespace in `namespaces`.
        package var namespaceNumber: Int
    }
}

/// Turns the options of sections `resp` and `lm` into settings. What is wrong goes to the resolver.
/// Their namespaces have no numbers yet.
struct FrontDoorLoader {
    private(set) var resp: DaemonSettings.RESP?
    private(set) var lm: DaemonSettings.LM?
    private(set) var respNamespace: String
    private(set) var lmNamespace: String

    init(_ resolver: inout SettingsResolver) {
        let listen = resolver.value(FrontDoorOptions.respListen)
        let passwords = Self.passwords(&resolver)
        respNamespace = resolver.value(FrontDoorOptions.respNamespace)
        lmNamespace = resolver.value(FrontDoorOptions.lmNamespace)
        let resp = DaemonSettings.RESP(
            listen: listen ?? .unix(path: ""), passwords: passwords, namespaceNumber: 0,
            connectionCount: resolver.value(FrontDoorOptions.respConnections),
            isStrict: resolver.value(FrontDoorOptions.respStrict),
            lease: resolver.value(FrontDoorOptions.respLease),
            mayFlush: resolver.value(FrontDoorOptions.respFlush),
            transferDeadline: resolver.value(FrontDoorOptions.respTransferDeadline))
        self.resp = listen == nil ? nil : resp
        if let listen, !listen.isHostLocal, passwords.isEmpty {
            resolver.complain(
                at: resolver.source(of: FrontDoorOptions.respListen.key),
                "resp.listen: other hosts can reach \(endpointText(listen)), and there is no "
                    + "password; set resp.password_file, or listen on 127.0.0.1")
        }
        let isTrusted = resolver.value(FrontDoorOptions.lmTrustedNetwork)
        guard let lmListen = resolver.value(FrontDoorOptions.lmListen) else { return }
        lm = DaemonSettings.LM(listen: lmListen, namespaceNumber: 0)
        if !lmListen.isHostLocal, !isTrusted {
            resolver.complain(
                at: resolver.source(of: FrontDoorOptions.lmListen.key),
                "lm.listen: other hosts can reach \(endpointText(lmListen)), and the protocol has "
                    + "no password; listen on 127.0.0.1, or set lm.trusted_network")
        }
    }

    /// Gives the listeners their namespaces, behind those that are declared.
    mutating func join(
        _ namespaces: inout [NamespaceSettings?], _ resolver: inout SettingsResolver
    ) {
        if resp != nil {
            resp?.namespaceNumber = namespaces.count
            append(respNamespace, FrontDoorOptions.respNamespace.key, &namespaces, &resolver)
        }
        if lm != nil {
            lm?.namespaceNumber = namespaces.count
            append(lmNamespace, FrontDoorOptions.lmNamespace.key, &namespaces, &resolver)
        }
    }

    private func append(
        _ name: String, _ key: String, _ namespaces: inout [NamespaceSettings?],
        _ resolver: inout SettingsResolver
    ) {
        let isTaken =
            name == NamespaceSettings.defaultName || namespaces.contains { $0?.name == name }
        if isTaken {
            resolver.complain(
                at: resolver.source(of: key),
                "\(key): namespace '\(name)' is somebody else's; choose another name")
        }
        namespaces.append(
            NamespaceSettings(
                name: name, tokens: [], secret: nil, sharesMemory: false, isOpenable: false))
    }

    private static func passwords(_ resolver: inout SettingsResolver) -> [Secret] {
        let password = resolver.value(FrontDoorOptions.respPassword)
        guard let path = resolver.value(FrontDoorOptions.respPasswordFile) else {
            return password.map { [Secret(bytes: Array($0.utf8))] } ?? []
        }
        let source = resolver.source(of: FrontDoorOptions.respPasswordFile.key)
        if password != nil {
            resolver.complain(
                at: source, "resp.password and resp.password_file are both set; keep one")
        }
        let text: String
        do {
            text = try TextFile(path: path).text
        } catch {
            resolver.complain(at: source, "\(path) cannot be read: \(error.reason)")
            return []
        }
        let lines = text.split(whereSeparator: \.isNewline).filter { !$0.hasPrefix("#") }
        let isGood = lines.allSatisfy { $0.utf8.count <= Limits.tokenByteCountMax }
        if !isGood || !(1...NamespaceLoader.tokenCountMax).contains(lines.count) {
            resolver.complain(
                at: source,
                "resp.password_file \(path) has \(lines.count) passwords; expected 1 to "
                    + "\(NamespaceLoader.tokenCountMax), one a line, each at most "
                    + "\(Limits.tokenByteCountMax) bytes")
        }
        return lines.map { Secret(bytes: Array($0.utf8)) }
    }
}
