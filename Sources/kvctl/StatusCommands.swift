// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import KVClient
import KVCore
import LinuxIO

/// Shows the daemon's numbers about itself.
struct StatusCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Show what the daemon holds and does.")

    @OptionGroup var connection: ConnectionOptions

    func run() async throws {
        let options = connection
        let (session, statistics) = try await withDaemon(options) { _, calls throws(Failure) in
            let session = try await calls { client, deadline throws(ClientError) in
                try await client.connect(deadline: deadline)
            }
            let statistics = try await calls { client, deadline throws(ClientError) in
                try await client.nodeStatistics(deadline: deadline)
            }
            return (session, statistics)
        }
        writeOutput(
            options.json
                ? Self.json(options, session, statistics).text + "\n"
                : Self.page(options, session, statistics))
    }

    private static func json(
        _ options: ConnectionOptions, _ session: Session, _ statistics: [NodeStatistic]
    ) -> JSONValue {
        .object([
            ("address", .text("\(options.resolvedAddress)")),
            ("daemon", .text(session.daemonName)),
            ("node_id", .text(hexadecimal(bigEndian(session.nodeID)))),
            ("chunk_byte_count_max", .integer(session.chunkByteCountMax)),
            ("statistics", .object(statistics.map { ($0.name, .integer($0.value)) })),
        ])
    }

    private static func page(
        _ options: ConnectionOptions, _ session: Session, _ statistics: [NodeStatistic]
    ) -> String {
        let values = Dictionary(
            statistics.map { ($0.name, $0.value) }, uniquingKeysWith: { first, _ in first })
        var head = [
            ["daemon", "\(session.daemonName) at \(options.resolvedAddress)"],
            ["node", hexadecimal(bigEndian(session.nodeID))],
            ["chunks up to", readableSize(session.chunkByteCountMax)],
        ]
        if let used = values["memory_used_bytes"], let budget = values["memory_budget_bytes"] {
            let share = budget == 0 ? 0 : Double(used) * 100 / Double(budget)
            head.append([
                "memory",
                "\(readableSize(used)) of \(readableSize(budget)) (\(fixed(share, 1)) %)",
            ])
        }
        if let hits = values["hits"], let misses = values["misses"], hits + misses > 0 {
            let share = Double(hits) * 100 / Double(hits + misses)
            head.append(["hit rate", "\(fixed(share, 1)) % of \(hits + misses) keys"])
        }
        let rows = statistics.map { [$0.name, readableValue($0.value, named: $0.name)] }
        return table(head) + "\n" + table(rows, rightAligned: [1])
    }

    private static func bigEndian(_ number: UInt64) -> [UInt8] {
        (0..<8).map { UInt8(truncatingIfNeeded: number >> (56 - 8 * UInt64($0))) }
    }
}

/// Measures round trips.
struct PingCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ping", abstract: "Ask whether the daemon answers, and how fast.")

    @OptionGroup var connection: ConnectionOptions

    @Option(name: .shortAndLong, help: "How many round trips.")
    var count = 4

    func validate() throws {
        guard (1...1_000_000).contains(count) else {
            throw ValidationError("--count takes 1 to 1000000")
        }
    }

    func run() async throws {
        let options = connection
        let count = count
        let times = try await withDaemon(options) { worker, calls throws(Failure) in
            var histogram = LatencyHistogram()
            for _ in 0..<count {
                let begin = worker.reactor.now()
                try await calls { client, deadline throws(ClientError) in
                    try await client.ping(deadline: deadline)
                }
                histogram.record(
                    nanoseconds: worker.reactor.now().nanoseconds
                        - begin.nanoseconds)
            }
            return histogram
        }
        let facts = [("min", 0.0), ("p50", 0.5), ("p99", 0.99), ("max", 1.0)]
            .map { ($0.0, times.microseconds(quantile: $0.1)) }
        if options.json {
            let members = facts.map { ("\($0.0)_microseconds", JSONValue.number($0.1)) }
            writeOutput(
                JSONValue.object(
                    [
                        ("address", .text("\(options.resolvedAddress)")),
                        ("count", .integer(UInt64(count))),
                    ] + members
                ).text + "\n")
        } else {
            let text = facts.map { "\($0.0) \(readableTime(microseconds: $0.1))" }
            writeOutput(
                "\(options.resolvedAddress) answers, \(count) round trips: "
                    + text.joined(separator: ", ") + "\n")
        }
    }
}
