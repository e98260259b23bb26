// SPDX-License-Identifier: Apache-2.0

import KVCore
import Testing

@testable import Settings

@Suite struct `Namespaces` {
    private static let secret = String(repeating: "0f", count: 32)

    @Test func `come with their tokens and secrets, numbered after the default one`() throws {
        let folder = try TemporaryFolder()
        _ = try folder.write("a.token", "# old and new\nsesame\n  open-up  \n")
        _ = try folder.write("a.secret", Self.secret + "\n")
        let file = try folder.write(
            "kvstored.yaml",
            """
            namespaces:
              - name: team-a
                token_file: a.token
                secret_file: \(folder.path)/a.secret
              - name: team-b
                token: "123"
            """)
        let namespaces = try load(["--config", file]).namespaces
        #expect(namespaces.map { $0?.name } == ["default", "team-a", "team-b"])
        let first = try #require(namespaces[1])
        #expect(first.tokens.count == 2)
        #expect(first.tokens[1].matches(Array("open-up".utf8)))
        #expect(first.secret == Secret(bytes: [UInt8](repeating: 15, count: 32)))
        #expect(namespaces[2]?.tokens == [Secret(bytes: Array("123".utf8))])
    }

    @Test func `need tokens as soon as other hosts can connect`() throws {
        let bare = problems(["--listen-tcp", "0.0.0.0:7411"])
        #expect(bare.count == 1)
        #expect(bare.first?.contains("add 'namespaces' with a name and token_file") == true)

        let folder = try TemporaryFolder()
        let open = try folder.write("open.yaml", "namespaces:\n  - name: a\n")
        let found = problems(["--config", open, "--listen-tcp", "[::]:7411"])
        #expect(found.first?.contains("namespace 'a' asks for no token") == true, "\(found)")

        let closed = try folder.write(
            "closed.yaml", "namespaces:\n  - name: a\n    token: sesame\n")
        let settings = try load(["--config", closed, "--listen-tcp", "10.0.0.1:7411"])
        #expect(settings.namespaces.map { $0?.name } == [nil, "a"])
    }

    @Test func `share memory when they are alone or say so`() throws {
        let folder = try TemporaryFolder()
        let one = try folder.write("one.yaml", "namespaces:\n- name: a\n  token: x\n")
        let both = try folder.write(
            "both.yaml", "namespaces:\n- name: a\n- name: b\n  shared_memory: true\n")
        #expect(try load([]).namespaces.map { $0?.sharesMemory } == [true])
        #expect(try load(["--config", one]).namespaces.map { $0?.sharesMemory } == [false, false])
        let alone = try load(["--config", one, "--listen-tcp", "10.0.0.1:1"]).namespaces
        #expect(alone.map { $0?.sharesMemory } == [nil, true])
        let chosen = try load(["--config", both]).namespaces
        #expect(chosen.map { $0?.sharesMemory } == [false, false, true])
    }

    @Test(arguments: [
        ("- token: x", "an entry without 'name'"), ("- name: a b", "is not valid"),
        ("- name: a\n- name: a", "stands here twice"), ("- name: a\n  tokn: x", "did you mean"),
        ("- name: a\n  token: x\n  token_file: y", "keep one of them"),
        ("- name: a\n  token_file: nowhere", "cannot be read: No such file"),
        ("- name: a\n  token_file: empty", "has 0 tokens"),
        ("- name: a\n  secret: sesame", "the value is not valid"),
        ("- name: a\n  secret_file: words", "has no valid secret"),
        ("- a", "expected an entry"),
    ])
    func `are refused with a reason`(entry: String, part: String) throws {
        let folder = try TemporaryFolder()
        _ = try folder.write("empty", "\n# none\n")
        _ = try folder.write("words", "sesame\n")
        let file = try folder.write("kvstored.yaml", "namespaces:\n" + entry + "\n")
        let found = problems(["--config", file])
        #expect(found.contains { $0.contains(part) }, "\(found)")
        #expect(!found.contains { $0.contains("sesame") })
    }

    @Test func `warn when any user may read a secret`() throws {
        let folder = try TemporaryFolder()
        _ = try folder.write("t", "sesame\n", permissions: 0o644)
        let file = try folder.write("kvstored.yaml", "namespaces:\n- name: a\n  token_file: t\n")
        let outcome = try DaemonSettings.load(
            arguments: ["--config", file], surroundings: quiet)
        guard case .run(_, let warnings) = outcome else {
            Issue.record("did not run")
            return
        }
        #expect(warnings.count == 1)
        #expect(warnings.first?.contains("chmod o-r \(folder.path)/t") == true)
    }

    @Test func `keep their secrets out of every description`() {
        let secret = Secret(bytes: Array("sesame".utf8))
        #expect("\(secret) \(String(reflecting: secret))" == "******** ********")
        #expect(secret.matches(Array("sesame".utf8)))
        #expect(!secret.matches(Array("sesamf".utf8)))
        #expect(!secret.matches(Array("sesamesesame".utf8)))
        #expect(!secret.matches([]))
        #expect(!Secret(bytes: []).matches([1]))
    }
}
