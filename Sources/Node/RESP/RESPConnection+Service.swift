// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Telemetry
internal import Tiers
internal import Wire

/// Commands about the connection and the server.
extension RESPConnection {
    // MARK: The connection

    nonisolated(nonsending) func servePing() async throws(ConnectionEnd) {
        shard.noteSmallRequest(at: arrival)
        guard parser.arguments.count > 1 else { return replies.simple("PONG") }
        try await reply(bytes: argument(1))
    }

    nonisolated(nonsending) func serveEcho() async throws(ConnectionEnd) {
        try await reply(bytes: argument(1))
    }

    private nonisolated(nonsending) func reply(bytes: PinnedBytes) async throws(ConnectionEnd) {
        try await makeRoom(bytes.count + replyRoom)
        replies.bulk(bytes)
    }

    nonisolated(nonsending) func serveAuthentication() async throws(ConnectionEnd) {
        let hasUser = parser.arguments.count == 3
        guard !settings.passwords.isEmpty || hasUser else {
            return replies.error(
                "ERR AUTH <password> called without any password configured for the default user")
        }
        let isRight = hasUser ? argument(1).isWord("default") : true
        if try await authenticate(argument(hasUser ? 2 : 1), isUserRight: isRight) {
            replies.simple("OK")
        }
    }

    /// Whether the password opens the listener; else an error is replied, after a while, which
    /// makes guessing slow.
    private nonisolated(nonsending) func authenticate(
        _ password: PinnedBytes, isUserRight: Bool
    ) async throws(ConnectionEnd) -> Bool {
        let number = settings.number(of: password)
        guard settings.passwords.isEmpty || number != nil, isUserRight else {
            node.metrics.add(.answersUnauthorized)
            guard await pause(milliseconds: refusalDelayMilliseconds) else { throw .closed }
            replies.error("WRONGPASS invalid username-password pair or user is disabled.")
            return false
        }
        parser.isAuthenticated = true
        passwordNumber = number
        return true
    }

    nonisolated(nonsending) func serveHello() async throws(ConnectionEnd) {
        var version = replies.version
        var name: PinnedBytes?
        if parser.arguments.count > 1 {
            guard let number = argument(1).decimal,
                let wanted = RESPWriter.Version(rawValue: number)
            else { return replies.error("NOPROTO unsupported protocol version") }
            version = wanted
        }
        var index = 2
        while index < parser.arguments.count {
            let rest = parser.arguments.count - index
            if argument(index).isWord("auth"), rest >= 3 {
                let isRight = argument(index + 1).isWord("default")
                guard try await authenticate(argument(index + 2), isUserRight: isRight) else {
                    return
                }
                index += 3
            } else if argument(index).isWord("setname"), rest >= 2 {
                name = argument(index + 1)
                index += 2
            } else {
                return replies.error("ERR syntax error in HELLO")
            }
        }
        guard parser.isAuthenticated else {
            return replies.error("NOAUTH HELLO must be called with AUTH default <password>")
        }
        if let name, !setName(name) { return }
        replies.version = version
        replies.map(7)
        replies.bulk("server")
        replies.bulk("kvstore")
        replies.bulk("version")
        replies.bulk(node.configuration.daemonVersion)
        replies.bulk("proto")
        replies.integer(version.rawValue)
        replies.bulk("id")
        replies.integer(Int(truncatingIfNeeded: id))
        replies.bulk("mode")
        replies.bulk("standalone")
        replies.bulk("role")
        replies.bulk("master")
        replies.bulk("modules")
        replies.array(0)
    }

    private func setName(_ name: PinnedBytes) -> Bool {
        let isPlain = (0..<name.count).allSatisfy { (0x21..<0x7f).contains(name[$0]) }
        guard isPlain, name.count <= clientNameByteCountMax else {
            replies.error(
                "ERR Client names cannot contain spaces, newlines or special characters.")
            return false
        }
        clientName = name.array
        return true
    }

    func serveSelect() {
        guard let number = argument(1).decimal else {
            return replies.error("ERR value is not an integer or out of range")
        }
        guard number == 0 else { return replies.error("ERR DB index is out of range") }
        replies.simple("OK")
    }

    nonisolated(nonsending) func serveClient() async throws(ConnectionEnd) {
        let word = argument(1)
        switch parser.arguments.count {
        case 2 where word.isWord("id"):
            replies.integer(Int(truncatingIfNeeded: id))
        case 2 where word.isWord("getname"):
            clientName.isEmpty
                ? replies.null() : replies.bulk(String(decoding: clientName, as: UTF8.self))
        case 3 where word.isWord("setname"):
            if setName(argument(2)) { replies.simple("OK") }
        case 4 where word.isWord("setinfo"):
            replies.simple("OK")
        default:
            replies.error("ERR unknown subcommand or wrong number of arguments for ", naming: word)
        }
    }

    // MARK: The server

    nonisolated(nonsending) func serveCommand() async throws(ConnectionEnd) {
        let count = parser.arguments.count
        guard count > 1 else { return try await reply(commands: RESPVerb.allCases) }
        let word = argument(1)
        if word.isWord("count"), count == 2 {
            replies.integer(RESPVerb.allCases.count)
        } else if word.isWord("docs") {
            replies.map(0)
        } else if word.isWord("list"), count == 2 {
            try await flush()
            replies.array(RESPVerb.allCases.count)
            for verb in RESPVerb.allCases { replies.bulk(verb.rawValue) }
        } else if word.isWord("info") {
            let verbs =
                count == 2
                ? RESPVerb.allCases.map { $0 } : (2..<count).map { RESPVerb.named(argument($0)) }
            try await reply(commands: verbs)
        } else {
            replies.error("ERR unknown subcommand or wrong number of arguments for ", naming: word)
        }
    }

    /// What clients want to know of commands: name, arity, flags and where keys stand.
    private nonisolated(nonsending) func reply(
        commands: [RESPVerb?]
    ) async throws(ConnectionEnd) {
        replies.array(commands.count)
        for verb in commands {
            try await makeRoom(replyRoom)
            guard let verb else {
                replies.null()
                continue
            }
            let counts = verb.argumentCounts
            replies.array(10)
            replies.bulk(verb.rawValue)
            replies.integer(
                counts.lowerBound == counts.upperBound ? counts.lowerBound : -counts.lowerBound)
            replies.array(1)
            replies.simple(verb.isWrite ? "write" : "readonly")
            replies.integer(verb.keyPositions.first)
            replies.integer(verb.keyPositions.last)
            replies.integer(verb.keyPositions.step)
            // Access categories, tips, key specifications and subcommands: none are told.
            for _ in 0..<4 { replies.array(0) }
        }
    }

    /// Clients ask for options of Redis that do not exist here.
    func serveConfiguration() {
        guard parser.arguments.count >= 3, argument(1).isWord("get") else {
            return replies.error("ERR only CONFIG GET is served")
        }
        replies.map(0)
    }

    nonisolated(nonsending) func serveInfo() async throws(ConnectionEnd) {
        let wanted = parser.arguments.count > 1 ? argument(1) : nil
        let statistics = node.statistics(now: arrival, ssd: ssd?.tier.statistics())
        func value(_ metric: Metric) -> UInt64 {
            statistics.first { $0.name == metric.facts.name }?.value ?? 0
        }
        let sections: [(name: StaticString, title: String, lines: [String])] = [
            (
                "server", "Server",
                [
                    "redis_version:7.0.0", "server_name:kvstore",
                    "kvstore_version:\(node.configuration.daemonVersion)", "redis_mode:standalone",
                    "uptime_in_seconds:\(value(.uptime) / 1_000)",
                ]
            ),
            (
                "clients", "Clients",
                [
                    "connected_clients:\(node.openConnectionCount)",
                    "maxclients:\(settings.connectionCountMax)",
                ]
            ),
            (
                "memory", "Memory",
                [
                    "used_memory:\(value(.memoryUsed))", "maxmemory:\(value(.memoryBudget))",
                    "maxmemory_policy:allkeys-lru",
                ]
            ),
            (
                "stats", "Stats",
                [
                    "total_connections_received:\(value(.connectionsAccepted))",
                    "total_commands_processed:\(value(.requestsRESP))",
                    "total_net_input_bytes:\(value(.bytesReceived))",
                    "total_net_output_bytes:\(value(.bytesSent))",
                    "keyspace_hits:\(value(.hits))", "keyspace_misses:\(value(.misses))",
                    "evicted_keys:\(value(.chunksEvicted))",
                    "expired_keys:\(value(.chunksExpired))",
                ]
            ),
            ("keyspace", "Keyspace", ["db0:keys=\(await countKeys()),expires=0,avg_ttl=0"]),
        ]
        var text = ""
        for section in sections where wanted?.isWord(section.name) ?? true {
            text += "# \(section.title)\r\n" + section.lines.joined(separator: "\r\n") + "\r\n\r\n"
        }
        try await makeRoom(text.utf8.count + replyRoom)
        replies.verbatim(text)
    }
}

/// Makes guessing slow.
private let refusalDelayMilliseconds: UInt64 = 50
private let clientNameByteCountMax = 64
