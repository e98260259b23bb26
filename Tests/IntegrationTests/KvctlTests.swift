// SPDX-License-Identifier: Apache-2.0
import Foundation
import KVCore
import Testing

/// kvctl with one daemon's address.
private struct Tool {
    let environment: [String: String]

    init(_ address: StreamAddress) {
        environment = ["KVSTORE_ADDRESS": "\(address)"]
    }

    func callAsFunction(_ arguments: String..., input: String? = nil) throws -> CommandResult {
        try runProduct(.kvctl, arguments, input: input, environment: environment)
    }
}

private func object(_ result: CommandResult) throws -> [String: Any] {
    let data = Data(result.output.utf8)
    return try #require(try JSONSerialization.jsonObject(with: data) as? [String: Any])
}

@Suite struct `kvctl` {
    @Test func `stores, shows, fetches and deletes`() async throws {
        try await withDaemon { _, daemon in
            let kvctl = Tool(daemon.unixAddress)
            let file = daemon.folder.path("greeting.txt")
            let copy = daemon.folder.path("copy.txt")
            try "good morning\n".write(toFile: file, atomically: false, encoding: .utf8)

            let put = try kvctl("put", file, "--json")
            #expect(put.exitCode == 0)
            #expect(try object(put)["stored"] as? Bool == true)
            let key = try #require(try object(put)["key"] as? String)
            #expect(key.count == 64)
            let again = try kvctl("put", file)
            #expect(again.exitCode == 0)
            #expect(again.output.contains("was there already"))

            #expect(try kvctl("get", key, "-o", copy).exitCode == 0)
            #expect(try String(contentsOfFile: copy, encoding: .utf8) == "good morning\n")
            #expect(try kvctl("get", "--name", "greeting.txt").output == "good morning\n")

            let looked = try kvctl("lookup", "--name", "greeting.txt", "--json")
            #expect(looked.exitCode == 0)
            #expect(try object(looked)["prefix_count"] as? Int == 1)
            let facts = try object(try kvctl("stat", key, "--json"))
            #expect(facts["value_bytes"] as? Int == 13)
            #expect(facts["time_to_live_milliseconds"] is NSNull)

            #expect(try kvctl("rm", key).exitCode == 0)
            #expect(try kvctl("rm", key).exitCode == 1)
            #expect(try kvctl("lookup", key).exitCode == 1)
            #expect(try kvctl("stat", key).exitCode == 1)
        }
    }

    @Test func `takes standard input and a time to live`() async throws {
        try await withDaemon { _, daemon in
            let kvctl = Tool(daemon.tcpAddress)
            let put = try kvctl("put", "-", "--name", "piped", "--ttl", "10min", input: "abc")
            #expect(put.exitCode == 0)
            #expect(try kvctl("get", "--name", "piped").output == "abc")
            let facts = try object(try kvctl("stat", "--name", "piped", "--json"))
            let milliseconds = try #require(facts["time_to_live_milliseconds"] as? Int)
            #expect((1...600_000).contains(milliseconds))
        }
    }

    @Test func `leaves no file behind when there is nothing to fetch`() async throws {
        try await withDaemon { _, daemon in
            let kvctl = Tool(daemon.unixAddress)
            let folder = daemon.folder.path("out")
            try FileManager.default.createDirectory(
                atPath: folder, withIntermediateDirectories: false)
            let miss = try kvctl("get", "--name", "nothing", "-o", folder + "/file")
            #expect(miss.exitCode == 1)
            #expect(miss.errors.contains("not stored"))
            #expect(miss.output.isEmpty)
            #expect(try FileManager.default.contentsOfDirectory(atPath: folder).isEmpty)
        }
    }

    @Test func `tells how the daemon is`() async throws {
        try await withDaemon { _, daemon in
            let kvctl = Tool(daemon.unixAddress)
            let status = try kvctl("status", "--json")
            #expect(status.exitCode == 0)
            let statistics = try #require(try object(status)["statistics"] as? [String: Any])
            #expect(statistics["memory_budget_bytes"] as? Int == 64 << 20)
            #expect(try kvctl("status").output.contains("memory"))
            #expect(try object(try kvctl("stat", "--json"))["connections_open"] is Int)
            let ping = try object(try kvctl("ping", "--count", "3", "--json"))
            #expect(ping["count"] as? Int == 3)
        }
    }

    @Test(arguments: ["local", "unix", "tcp"])
    func `measures`(transport: String) async throws {
        try await withDaemon { _, daemon in
            let address = transport == "tcp" ? daemon.tcpAddress : daemon.unixAddress
            let result = try Tool(address)(
                "bench", "--sizes", "4KiB,100000", "--connections", "1,2", "--operations", "20",
                "--seconds", "5", "--transport", transport, "--json")
            #expect(result.exitCode == 0, "\(result.errors)")
            let rows = result.output.split(separator: "\n")
            #expect(rows.count == 8)
            for row in rows {
                let fields = try #require(
                    try JSONSerialization.jsonObject(with: Data(row.utf8)) as? [String: Any])
                #expect(
                    Set(fields.keys) == [
                        "operation", "transport", "value_bytes", "connections",
                        "gigabytes_per_second", "p50_microseconds", "p99_microseconds",
                        "p999_microseconds", "server_cpu_seconds_per_gigabyte",
                    ])
                #expect(fields["transport"] as? String == transport)
                #expect(try #require(fields["p50_microseconds"] as? Double) > 0)
            }
            // It leaves nothing behind.
            let kvctl = Tool(daemon.unixAddress)
            let status = try object(try kvctl("status", "--json"))
            let chunks = (status["statistics"] as? [String: Any])?["chunks"] as? Int
            // The bystander may have one at the moment.
            #expect(try #require(chunks) <= 1)
        }
    }

    @Test func `ends with the code that its page promises`() async throws {
        try await withDaemon { _, daemon in
            let kvctl = Tool(daemon.unixAddress)
            #expect(try kvctl("get", "xyz").exitCode == 2)
            #expect(try kvctl("no-such-command").exitCode == 2)
            #expect(try kvctl("ping", "--address", "nowhere").exitCode == 2)
            #expect(try kvctl("put", "/nonexistent/file").exitCode == 7)
            let wrong = try kvctl("ping", "--namespace", "nobody")
            #expect(wrong.exitCode == 4)
            #expect(wrong.errors.contains("--token-file"))
            let help = try kvctl("--help")
            #expect(help.exitCode == 0)
            #expect(help.output.contains("exit-codes"))
            #expect(try kvctl("exit-codes", "--json").exitCode == 0)
            #expect(try kvctl("--generate-completion-script", "bash").exitCode == 0)
        }
        let nowhere = Tool(.unix(path: "/nonexistent/kvstored.sock"))
        let unreachable = try nowhere("ping")
        #expect(unreachable.exitCode == 3)
        #expect(unreachable.errors.contains("KVSTORE_ADDRESS"))
        #expect(unreachable.output.isEmpty)
    }

    @Test func `refuses what makes no sense before it asks the daemon`() throws {
        let nowhere = Tool(.unix(path: "/nonexistent/kvstored.sock"))
        let key = String(repeating: "ab", count: 32)
        for arguments in [
            ["pin", key], ["pin", key, "--for", "0s"], ["pin", key, "--for", "10"],
            ["pin", key, "--for", "13000d"], ["pin", "--for", "1h"], ["unpin"],
            ["get", key, "--range", "5"], ["get", key, "--range", "5:0"],
            ["get", key, "--range", "5:1:2"], ["put", "/dev/null", "--ttl", "50d"],
            ["ssd", "scrub", "--rate", "0"], ["ssd", "evacuate"], ["ssd", "evacuate", ""],
            ["ssd", "status", "--address", "tcp:127.0.0.1:1"], ["ssd", "no-such-command"],
        ] {
            let result = try runProduct(.kvctl, arguments, environment: nowhere.environment)
            #expect(result.exitCode == 2, "\(arguments): \(result.errors)")
            #expect(result.output.isEmpty)
        }
        for arguments in [["pin", key, "--for", "10m"], ["get", key, "--range", "4KiB:1"]] {
            let result = try runProduct(.kvctl, arguments, environment: nowhere.environment)
            #expect(result.exitCode == 3, "\(arguments): \(result.errors)")
        }
    }

    @Test func `stores for good, fetches parts and pins`() throws {
        let stub = try StubProcess("honest")
        let kvctl = Tool(stub.address)
        let names = ["one", "two", "three", "four", "five"]
        for name in names {
            let put = try kvctl("put", "-", "--name", name, "--durable", input: "0123456789")
            #expect(put.exitCode == 0, "\(put.errors)")
        }
        let part = try kvctl("get", "--name", "one", "--range", "2:3")
        #expect(part.output == "234")
        let behind = try kvctl("get", "--name", "one", "--range", "8:3")
        #expect(behind.exitCode == 4)
        #expect(behind.errors.contains("the range ends behind the chunk"))

        let all = names.flatMap { ["--name", $0] }
        #expect(try kvctl("pin", "--name", "one", "--for", "10m").exitCode == 0)
        // The stub pins four chunks at most.
        let pinned = try runProduct(
            .kvctl, ["pin", "--for", "30d", "--json"] + all, environment: kvctl.environment)
        #expect(pinned.exitCode == 4)
        let records = try #require(try object(pinned)["records"] as? [[String: Any]])
        #expect(records.map { $0["pinned"] as? Bool } == [true, true, true, true, false])
        #expect(records.last?["status"] as? String == "busy")
        #expect(try kvctl("unpin", "--name", "one", "--name", "absent").exitCode == 1)
        #expect(try kvctl("pin", "--name", "five", "--for", "1h").output.contains("pinned"))
        #expect(try kvctl("rm", "--name", "one").exitCode == 0)
    }

    @Test func `tells what a restart would undo`() throws {
        let stub = try StubProcess("forgetful")
        let kvctl = Tool(stub.address)
        let put = try kvctl("put", "-", "--name", "one", "--durable", input: "abc")
        #expect(put.exitCode == 4)
        #expect(put.errors.contains("in memory only"))
        #expect(try kvctl("get", "--name", "one").output == "abc")
        let pin = try kvctl("pin", "--name", "one", "--for", "1h")
        #expect(pin.exitCode == 0)
        #expect(pin.output.contains("a restart forgets it"))
        let removed = try kvctl("rm", "--name", "one", "--json")
        #expect(removed.exitCode == 4)
        let records = try #require(try object(removed)["records"] as? [[String: Any]])
        #expect(records.first?["deleted"] as? Bool == true)
        #expect(records.first?["status"] as? String == "notDurable")
        #expect(try kvctl("get", "--name", "one").exitCode == 1)
    }

    @Test func `looks after the SSD tier`() throws {
        let stub = try StubProcess("honest")
        let kvctl = Tool(stub.address)
        let status = try object(try kvctl("ssd", "--json"))
        #expect(status["operation"] as? Int == 1)
        #expect(status["argument"] as? String == "")
        #expect(try kvctl("ssd", "status").output.contains("used_bytes  3.0 MiB"))
        let scrub = try object(try kvctl("ssd", "scrub", "--rate", "2MiB", "--json"))
        #expect(scrub["operation"] as? Int == 2)
        #expect(scrub["argument"] as? Int == 2 << 20)
        let evacuate = try object(try kvctl("ssd", "evacuate", "/srv/größer", "--json"))
        #expect(evacuate["operation"] as? Int == 3)
        #expect(evacuate["argument"] as? String == "/srv/größer")
        let unknown = try kvctl("ssd", "evacuate", "/srv/other")
        #expect(unknown.exitCode == 1)
        #expect(unknown.output.isEmpty)
    }

    @Test func `says that without an SSD tier nothing is durable`() async throws {
        try await withDaemon { _, daemon in
            let kvctl = Tool(daemon.unixAddress)
            let put = try kvctl("put", "-", "--name", "safe", "--durable", input: "abc")
            #expect(put.exitCode == 4)
            #expect(put.output.isEmpty)
            #expect(try kvctl("ssd", "status").exitCode == 4)
        }
    }

    @Test func `says when a value is larger than a chunk may be`() async throws {
        try await withDaemon(["--limits-chunk-bytes", "64KiB"]) { _, daemon in
            let file = daemon.folder.path("big")
            try Data(count: 100_000).write(to: URL(fileURLWithPath: file))
            let result = try Tool(daemon.unixAddress)("put", file)
            #expect(result.exitCode == 4)
            #expect(result.errors.contains("tooLarge"))
        }
    }
}
