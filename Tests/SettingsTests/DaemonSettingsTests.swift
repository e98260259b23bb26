// SPDX-License-Identifier: Apache-2.0

import KVCore
import Testing

@testable import Settings

@Suite struct `Daemon settings` {
    @Test func `listen on this host alone when nothing is configured`() throws {
        let settings = try load([])
        #expect(settings.listen.tcp == .tcp(host: "127.0.0.1", port: 7411))
        #expect(settings.listen.unixSocket == nil)
        #expect(settings.memory.budget == .gibibytes(1))
        #expect(settings.namespaces.map { $0?.name } == ["default"])
        #expect(settings.nodeName == "host-1")
        #expect(settings.limits.chunkByteCount.bytes == Limits.chunkByteCountMax)
    }

    @Test func `come from a flag before a variable before the file before the default`() throws {
        let folder = try TemporaryFolder()
        let file = try folder.write(
            "kvstored.yaml", "memory:\n  budget: 2GiB\n  prefault: true\nio:\n  shards: 2\n")
        var surroundings = quiet
        surroundings.environment = ["KVSTORED_MEMORY_BUDGET": "3GiB", "KVSTORED_IO_SHARDS": "3"]
        let settings = try load(
            ["--config", file, "--memory-budget", "4GiB"], surroundings)
        #expect(settings.memory.budget == .gibibytes(4))
        #expect(settings.io.shardCount == 3)
        #expect(settings.memory.prefault)
        #expect(settings.limits.connectionCount == 12_000)
    }

    @Test func `find the file by a variable too`() throws {
        let folder = try TemporaryFolder()
        let file = try folder.write("kvstored.yaml", "io:\n  shards: 5\n")
        var surroundings = quiet
        surroundings.environment = ["KVSTORED_CONFIG": file]
        #expect(try load([], surroundings).io.shardCount == 5)
    }

    @Test(arguments: [
        (["--listen-tcp", "0.0.0.0"], "0.0.0.0"), (["--listen-tcp=localhost:1"], "localhost:1"),
        (["--memory-budget", "1GB"], "1GB"), (["--memory-budget", "1KiB"], "1KiB"),
        (["--io-shards", "-1"], "-1"), (["--io-backend", "epoll"], "epoll"),
        (["--limits-lease", "1h"], "1h"), (["--limits-lease", "31s"], "31s"),
        (["--listen-unix-socket-mode", "660"], "660"), (["--memory-prefault", "yes"], "yes"),
        (["--node-name", "a b"], "a b"),
    ])
    func `refuse a value that is none`(arguments: [String], text: String) throws {
        let found = problems(arguments)
        #expect(found.count == 1)
        let problem = try #require(found.first)
        #expect(problem.contains("'\(text)' is not valid; expected "), "\(problem)")
        #expect(problem.hasPrefix("flag --"), "\(problem)")
    }

    @Test func `name every mistake at once, each with its place and its cure`() throws {
        let folder = try TemporaryFolder()
        let file = try folder.write(
            "kvstored.yaml",
            """
            memory:
              bugdet: 2GiB
              prefault: maybe
            netwrok:
              port: 1
            log:
              level:
            """)
        var surroundings = quiet
        surroundings.environment = ["KVSTORED_LISTEN_TPC": "off"]
        let found = problems(["--config", file, "--memory-bugdet", "1GiB"], surroundings)
        #expect(
            found == [
                "flag --memory-bugdet: unknown; did you mean --memory-budget?",
                "command line: unexpected '1GiB'; kvstored takes flags only, see --help",
                "environment variable KVSTORED_LISTEN_TPC: unknown option; "
                    + "did you mean KVSTORED_LISTEN_TCP?",
                "\(file):2: unknown option 'memory.bugdet'; did you mean memory.budget?",
                "\(file):4: unknown option 'netwrok'; "
                    + "docs/configuration.md lists all; remove or correct it",
                "\(file):7: log.level has no value; remove the line to get the default",
                "\(file):3: memory.prefault: 'maybe' is not valid; expected true or false",
            ])
    }

    @Test(arguments: [
        ("memory: [", ":2: not readable as YAML"),
        ("memory:\n  budget: 1GiB\n  budget: 2GiB\n", "given twice"),
        ("- a\n", ":1: expected sections"), ("memory: 5\n", "'memory' is a section"),
        ("memory:\n  budget: [1]\n", "memory.budget: expected one value"),
        ("namespaces: x\n", "'namespaces' is a list"),
    ])
    func `refuse a file that is not of their shape`(text: String, part: String) throws {
        let folder = try TemporaryFolder()
        let found = problems(["--config", try folder.write("kvstored.yaml", text)])
        #expect(found.count == 1)
        #expect(found.first?.contains(part) == true, "\(found)")
    }

    @Test(arguments: ["", "\n# nothing\n", "memory:\n", "namespaces:\n", "---\n{}\n"])
    func `take an empty file as the defaults`(text: String) throws {
        let folder = try TemporaryFolder()
        #expect(problems(["--config", try folder.write("kvstored.yaml", text)]) == [])
    }

    @Test func `say which file cannot be read, and why`() {
        #expect(
            problems(["--config", "/nowhere.yaml"]) == [
                "flag --config: /nowhere.yaml cannot be read: No such file or directory"
            ])
        #expect(
            problems(["--config", "/tmp"]) == [
                "flag --config: /tmp cannot be read: it is not a file"
            ])
        #expect(
            problems(["--config"]) == [
                "flag --config: needs a value; write '--config VALUE' or '--config=VALUE'"
            ])
    }

    @Test func `put the socket where systemd, root or the user's session wants it`() throws {
        var surroundings = quiet
        surroundings.environment = ["XDG_RUNTIME_DIR": "/run/user/1000"]
        #expect(try load([], surroundings).listen.unixSocket == "/run/user/1000/kvstored.sock")
        surroundings.userID = 0
        #expect(try load([], surroundings).listen.unixSocket == "/run/kvstored/kvstored.sock")
        #expect(try load([], surroundings).listen.unixSocketDirectory == "/run/kvstored")
        surroundings.environment["RUNTIME_DIRECTORY"] = "/run/a:/run/b"
        #expect(try load([], surroundings).listen.unixSocket == "/run/a/kvstored.sock")
        let chosen = try load(["--listen-unix-socket", "/tmp/x.sock"], surroundings)
        #expect(chosen.listen.unixSocket == "/tmp/x.sock")
        #expect(chosen.listen.unixSocketDirectory == nil)
        #expect(try load(["--listen-unix-socket=off"], surroundings).listen.unixSocket == nil)
    }

    @Test func `leave alone what Kubernetes says about a service of the same name`() throws {
        var surroundings = quiet
        surroundings.environment = [
            "KVSTORED_PORT": "tcp://10.0.0.1:7411", "KVSTORED_SERVICE_HOST": "10.0.0.1",
            "KVSTORED_PORT_7411_TCP": "tcp://10.0.0.1:7411",
        ]
        #expect(problems([], surroundings) == [])
    }

    @Test func `agree among themselves`() {
        #expect(
            problems(["--listen-tcp", "off"]).first?.contains("nothing to listen on") == true)
        #expect(
            problems(["--memory-budget", "1MiB", "--limits-chunk-bytes", "2MiB"]).first?
                .contains("lower the first or raise the second") == true)
        #expect(problems(["--memory-budget", "1MiB"]) == [])
    }

    @Test func `read every option that is declared, and no other`() throws {
        let folder = try TemporaryFolder()
        let file = try folder.write("kvstored.yaml", "namespaces:\n  - name: a\n")
        let loader = DaemonSettingsLoader(
            flags: CommandLineFlags(["--config", file]), surroundings: quiet)
        let declared = (DaemonOptions.all + NamespaceOptions.all).map(\.key)
        #expect(loader.keysRead == Set(declared))
        #expect(Set(declared).count == declared.count)
    }

    @Test func `tell what they are and where each value came from`() throws {
        let folder = try TemporaryFolder()
        let file = try folder.write(
            "kvstored.yaml",
            "io:\n  shards: 2\nnamespaces:\n  - name: a\n    token: sesame\n")
        let text = try printed(["--config", file, "--print-config", "--memory-budget=64MiB"])
        #expect(text.contains("  budget: 64MiB  # flag --memory-budget\n"))
        #expect(text.contains("  shards: 2  # \(file):2\n"))
        #expect(text.contains("  chunk_bytes: 64MiB  # default\n"))
        #expect(text.contains("# token: ********"))
        #expect(!text.contains("sesame"))
    }

    @Test func `answer check, version and help without serving`() throws {
        #expect(try printed(["--check-config"]).hasSuffix("configuration is good"))
        #expect(try printed(["--version"]) == "kvstored \(Release.version)")
        let help = try printed(["-h"])
        for option in DaemonOptions.all { #expect(help.contains("  \(option.flag) <")) }
    }
}

@Suite struct `A duration` {
    @Test(arguments: ["0ms", "1ms", "1500ms", "2s", "3min"])
    func `is written as it is read`(text: String) {
        #expect(Milliseconds(text: text)?.description == text)
    }

    @Test(arguments: ["", "1", "s", "1h", "-1s", "1.5s", "99999999min", "4294967296ms"])
    func `is refused when it is none`(text: String) {
        #expect(Milliseconds(text: text) == nil)
    }
}
