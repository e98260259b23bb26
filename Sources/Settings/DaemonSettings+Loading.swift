// SPDX-License-Identifier: Apache-2.0

import KVCore

/// What the daemon is to do with its command line.
package enum LoadOutcome: Sendable {
    /// Serve. The warnings are for the log.
    case run(DaemonSettings, warnings: [String])
    /// Write this to standard output and exit with status 0.
    case print(String)
}

extension DaemonSettings {
    /// Reads flags, environment and file; `arguments` come without the program's name.
    ///
    /// Throws everything that is wrong at once. The daemon prints the fault to standard error and
    /// exits with `SettingsFault.exitStatus`.
    package static func load(
        arguments: [String], surroundings: Surroundings = .current()
    ) throws(SettingsFault) -> LoadOutcome {
        let flags = CommandLineFlags(arguments)
        if flags.commands.contains(.help) { return .print(DaemonHelp.text) }
        if flags.commands.contains(.version) { return .print("kvstored \(Release.version)") }
        if flags.commands.contains(.printSampleConfig) { return .print(Sample.yaml) }

        let loader = DaemonSettingsLoader(flags: flags, surroundings: surroundings)
        guard let settings = loader.settings, loader.problems.isEmpty else {
            throw SettingsFault(problems: loader.problems)
        }
        if flags.commands.contains(.printConfig) {
            return .print(EffectiveConfiguration.yaml(settings, loader.resolver))
        }
        if flags.commands.contains(.checkConfig) {
            let warnings = loader.warnings.map { "warning: \($0)\n" }.joined()
            let origin = loader.configPath ?? "environment, flags and defaults"
            return .print(warnings + "\(origin): configuration is good")
        }
        return .run(settings, warnings: loader.warnings)
    }
}

/// Loads a configuration once, and keeps what was learnt on the way for the tests and for
/// `--print-config`.
struct DaemonSettingsLoader {
    private(set) var resolver: SettingsResolver
    private(set) var settings: DaemonSettings?
    private(set) var problems: [SettingsProblem]
    private(set) var warnings: [String] = []
    /// The options that were asked for, those of `namespaces` included.
    private(set) var keysRead: Set<String> = []
    let configPath: String?

    init(flags: CommandLineFlags, surroundings: Surroundings) {
        let variables = EnvironmentVariables(surroundings.environment)
        configPath = flags.configPath ?? variables.configPath
        var file = ConfigurationFile(path: configPath ?? "defaults", text: "")
        problems = flags.problems + variables.problems
        if let configPath {
            do {
                file = try ConfigurationFile(
                    path: configPath, text: TextFile(path: configPath).text)
            } catch {
                let origin: SettingSource =
                    flags.configPath == nil
                    ? .environment(variable: configVariable)
                    : .flag(DaemonCommand.config.rawValue)
                problems.append(
                    SettingsProblem(at: origin, "\(configPath) cannot be read: \(error.reason)"))
            }
        }
        resolver = SettingsResolver(
            declared: DaemonOptions.all,
            layers: [file.assignments, variables.assignments, flags.assignments],
            surroundings: surroundings)
        let namespaces = NamespaceLoader(file: file, surroundings: surroundings)
        warnings = namespaces.warnings
        var settings = readOptions()
        var doors = FrontDoorLoader(&resolver)
        settings.namespaces = numbered(
            namespaces, settings.listen, isShared: doors.resp != nil || doors.lm != nil)
        doors.join(&settings.namespaces, &resolver)
        settings.resp = doors.resp
        settings.lm = doors.lm
        warnOfUnsharedMemory(settings, namespaces)
        check(settings, namespaces.namespaces)
        keysRead = resolver.keysRead.union(namespaces.keysRead)
        problems += file.problems + resolver.problems + namespaces.problems
        self.settings = settings
    }

    private mutating func readOptions() -> DaemonSettings {
        let unixSocket = resolver.value(DaemonOptions.unixSocket)
        let isStandard = resolver.source(of: DaemonOptions.unixSocket.key) == .standard
        let directory = unixSocket.flatMap { path in
            path.lastIndex(of: "/").map { String(path[..<$0]) }
        }
        let budget = resolver.value(DaemonOptions.memoryBudget)
        let chunk = resolver.given(DaemonOptions.chunkBytes)
        let chunkStandard = min(budget, ByteCount(Limits.chunkByteCountMax))
        let ssd = SSDLoader(&resolver)
        warnings += ssd.warnings
        return DaemonSettings(
            listen: DaemonSettings.Listen(
                unixSocket: unixSocket,
                unixSocketDirectory: isStandard ? directory : nil,
                unixSocketPermissions: resolver.value(DaemonOptions.unixSocketMode),
                tcp: resolver.value(DaemonOptions.tcp)),
            memory: DaemonSettings.Memory(
                budget: budget,
                prefault: resolver.value(DaemonOptions.memoryPrefault),
                hugePages: resolver.value(DaemonOptions.memoryHugePages),
                registration: resolver.value(DaemonOptions.memoryRegistration)),
            ssd: ssd.settings,
            codec: DaemonSettings.Codec(
                demotion: resolver.value(CodecOptions.demotion),
                workerCount: resolver.value(CodecOptions.workers),
                waitingCount: resolver.value(CodecOptions.queue),
                profileMemory: resolver.value(CodecOptions.profileMemory)),
            io: DaemonSettings.IO(
                backend: resolver.value(DaemonOptions.backend),
                shardCount: resolver.value(DaemonOptions.shards)),
            limits: DaemonSettings.RequestLimits(
                connectionCount: resolver.value(DaemonOptions.connections),
                chunkByteCount: chunk ?? chunkStandard,
                requestDeadline: resolver.value(DaemonOptions.requestDeadline),
                lease: resolver.value(DaemonOptions.lease)),
            log: DaemonSettings.Log(
                level: resolver.value(DaemonOptions.logLevel),
                format: resolver.value(DaemonOptions.logFormat)),
            shutdownGrace: resolver.value(DaemonOptions.shutdownGrace),
            nodeName: resolver.value(DaemonOptions.nodeName),
            readyFile: resolver.value(DaemonOptions.readyFile),
            namespaces: [])
    }

    /// Puts `default` first: as it is declared, else open while only this host can connect, else
    /// closed. A namespace that is alone shares memory unless it says otherwise; `isShared` says
    /// that other listeners have some too.
    private func numbered(
        _ loader: NamespaceLoader, _ listen: DaemonSettings.Listen, isShared: Bool
    ) -> [NamespaceSettings?] {
        let declared = loader.namespaces
        let name = NamespaceSettings.defaultName
        let isLocal = listen.tcp?.isHostLocal ?? true
        let open = NamespaceSettings(name: name, tokens: [], secret: nil, sharesMemory: false)
        let first = declared.first { $0.name == name } ?? (isLocal ? open : nil)
        let all = [first] + declared.filter { $0.name != name }
        let isAlone = all.count { $0 != nil } == 1 && !isShared
        return all.map { namespace in
            guard var namespace else { return nil }
            namespace.sharesMemory = loader.sharingByName[namespace.name] ?? isAlone
            return namespace
        }
    }

    /// A listener that is turned on changes how local clients of a namespace read that was alone
    /// until then, and nothing else tells them.
    private mutating func warnOfUnsharedMemory(
        _ settings: DaemonSettings, _ loader: NamespaceLoader
    ) {
        let openable = settings.namespaces.compactMap(\.self).filter(\.isOpenable)
        guard settings.listen.unixSocket != nil, settings.resp != nil || settings.lm != nil,
            openable.count == 1, loader.sharingByName[openable[0].name] == nil
        else { return }
        let (name, doors) = (openable[0].name, settings.resp == nil ? "lm" : "resp")
        warnings.append(
            "\(doors).listen is on, so local clients of namespace '\(name)' do not read in place "
                + "any more: they would see the listener's values, too; if they may, declare "
                + "'\(name)' under namespaces with shared_memory: true (false keeps it so without "
                + "this warning)")
    }

    /// What must hold between options.
    private mutating func check(_ settings: DaemonSettings, _ declared: [NamespaceSettings]) {
        let listen = settings.listen
        if listen.tcp == nil && listen.unixSocket == nil {
            resolver.complain(
                at: resolver.source(of: DaemonOptions.tcp.key),
                "nothing to listen on: listen.tcp and listen.unix_socket are both off; set one")
        }
        if settings.limits.chunkByteCount > settings.memory.budget {
            resolver.complain(
                at: resolver.source(of: DaemonOptions.chunkBytes.key),
                "limits.chunk_bytes is \(settings.limits.chunkByteCount), more than memory.budget "
                    + "(\(settings.memory.budget)); lower the first or raise the second")
        }
        guard let tcp = listen.tcp, !tcp.isHostLocal else { return }
        let source = resolver.source(of: DaemonOptions.tcp.key)
        let address = endpointText(tcp)
        if declared.isEmpty {
            resolver.complain(
                at: source,
                "listen.tcp: other hosts can reach \(address), and no namespace asks for a token; "
                    + "add 'namespaces' with a name and token_file to the file, or listen on "
                    + "127.0.0.1")
        }
        for namespace in declared where namespace.tokens.isEmpty {
            resolver.complain(
                at: source,
                "listen.tcp: other hosts can reach \(address), and namespace '\(namespace.name)' "
                    + "asks for no token; give it a token_file, or listen on 127.0.0.1")
        }
    }
}
