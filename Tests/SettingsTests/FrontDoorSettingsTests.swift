// SPDX-License-Identifier: Apache-2.0

import KVCore
import Testing

@testable import Settings

@Suite struct `Listeners beside the native one` {
    @Test func `are off unless they are given an address`() throws {
        let settings = try load(["--resp-flush", "true", "--lm-namespace", "x"])
        #expect(settings.resp == nil)
        #expect(settings.lm == nil)
        #expect(settings.namespaces.count == 1)
        #expect(settings.namespaces[0]?.sharesMemory == true)
    }

    @Test func `have namespaces of their own, which nobody else opens`() throws {
        let settings = try load([
            "--resp-listen", "127.0.0.1:6379", "--lm-listen", "127.0.0.1:0",
            "--resp-namespace", "redis",
        ])
        let resp = try #require(settings.resp)
        let lm = try #require(settings.lm)
        #expect(settings.namespaces.map { $0?.name } == ["default", "redis", "lm"])
        #expect(settings.namespaces.map { $0?.isOpenable } == [true, false, false])
        #expect(resp.namespaceNumber == 1)
        #expect(lm.namespaceNumber == 2)
        // The default namespace is not alone in the memory any more.
        #expect(settings.namespaces.allSatisfy { $0?.sharesMemory == false })
        #expect(resp.listen == .tcp(host: "127.0.0.1", port: 6379))
        #expect(resp.passwords.isEmpty)
        #expect(resp.connectionCount == 512)
        #expect(!resp.isStrict)
        #expect(!resp.mayFlush)
        #expect(resp.lease == .seconds(5))
        #expect(resp.transferDeadline == .seconds(60))
    }

    @Test(
        arguments: [
            (["--resp-listen", "127.0.0.1:1"], "", "resp.listen is on"),
            (["--lm-listen", "127.0.0.1:1"], "", "lm.listen is on"),
            (["--resp-listen", "127.0.0.1:1"], "  - name: default\n", "resp.listen is on"),
            (["--resp-listen", "127.0.0.1:1"], "  - {name: default, shared_memory: true}\n", nil),
            (["--resp-listen", "127.0.0.1:1"], "  - {name: default, shared_memory: false}\n", nil),
            // It was not alone before.
            (["--resp-listen", "127.0.0.1:1"], "  - name: team\n", nil),
            (["--resp-listen", "127.0.0.1:1", "--listen-unix-socket", "off"], "", nil),
            ([], "", nil),
        ] as [([String], String, String?)])
    func `warn of what they change for local clients of a namespace that was alone`(
        arguments: [String], namespaces: String, text: String?
    ) throws {
        let folder = try TemporaryFolder()
        let file = try folder.write(
            "kvstored.yaml", namespaces.isEmpty ? "" : "namespaces:\n\(namespaces)")
        var given = ["--config", file] + arguments
        if !arguments.contains("--listen-unix-socket") {
            given += ["--listen-unix-socket", "/tmp/x.sock"]
        }
        let outcome = try DaemonSettings.load(arguments: given, surroundings: quiet)
        guard case .run(_, let warnings) = outcome else {
            Issue.record("printed instead of running")
            return
        }
        #expect(warnings.count == (text == nil ? 0 : 1), "\(warnings)")
        if let text {
            #expect(warnings.first?.hasPrefix(text) == true)
            #expect(warnings.first?.contains("shared_memory: true") == true)
        }
    }

    @Test func `take passwords from a file`() throws {
        let folder = try TemporaryFolder()
        let file = try folder.write("passwords", "# old and new\nfirst\nsecond\n")
        let settings = try load([
            "--resp-listen", "0.0.0.0:6379", "--resp-password-file", file, "--listen-tcp", "off",
            "--listen-unix-socket", "/tmp/x.sock",
        ])
        let secrets = ["first", "second"].map { Secret(bytes: Array($0.utf8)) }
        #expect(settings.resp?.passwords == secrets)
    }

    @Test(arguments: [
        (["--resp-listen", "0.0.0.0:6379"], "there is no password"),
        (["--lm-listen", "0.0.0.0:6379"], "lm.trusted_network"),
        (["--resp-listen", "127.0.0.1:1", "--resp-namespace", "default"], "somebody else's"),
        (
            [
                "--resp-listen", "127.0.0.1:1", "--lm-listen", "127.0.0.1:2", "--lm-namespace",
                "resp",
            ], "somebody else's"
        ),
        (["--resp-password-file", "/nowhere/at/all"], "cannot be read"),
    ])
    func `refuse what would be open or mixed up`(arguments: [String], text: String) throws {
        let found = problems(arguments)
        #expect(found.count == 1)
        #expect(found.first?.contains(text) == true, "\(found)")
    }

    @Test func `may be open where the network is trusted`() throws {
        let settings = try load(["--lm-listen", "0.0.0.0:65432", "--lm-trusted-network", "true"])
        #expect(settings.lm?.listen == .tcp(host: "0.0.0.0", port: 65_432))
    }
}
