// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import KVClient
import KVCore
import LinuxIO

/// Measures throughput and latency of a daemon.
struct BenchCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench", abstract: "Measure how fast the daemon stores and serves chunks.",
        discussion: """
            One row per operation, size and number of connections; each connection sends one \
            request after the other. get: bytes are received and verified, or, with --transport \
            local, copied out of shared memory under a lease. put: every chunk has a new key; they \
            are deleted afterwards. GB are 10^9 bytes.
            """)

    @OptionGroup var connection: ConnectionOptions

    @Option(help: ArgumentHelp("Value sizes: 4KiB,1MiB,16MiB.", valueName: "list"))
    var sizes: SizeList = .standard

    @Option(help: ArgumentHelp("Numbers of connections: 1,4.", valueName: "list"))
    var connections: CountList = .one

    @Option(help: "What to do: get, put or both.")
    var direction = BenchDirection.both

    @Option(help: "How bytes travel: local (shared memory), unix or tcp (default: the address').")
    var transport: BenchTransport?

    @Option(help: "Measure each row for so long.")
    var seconds: Double = 3

    @Option(help: "Stop a row after so many operations of each connection.")
    var operations: Int?

    @Option(help: "I/O threads of this client.")
    var threads = 1

    func validate() throws {
        guard seconds > 0, seconds <= 3_600 else {
            throw ValidationError("--seconds takes more than 0 and up to 3600")
        }
        guard (operations ?? 1) > 0 else { throw ValidationError("--operations takes 1 or more") }
        guard (1...64).contains(threads) else {
            throw ValidationError("--threads takes 1 to 64")
        }
        if transport == .local || transport == .unix, case .tcp = connection.resolvedAddress {
            throw ValidationError("--transport \(transport?.rawValue ?? "") needs --address unix:…")
        }
        if transport == .tcp, case .unix = connection.resolvedAddress,
            connection.address != nil || environment("KVSTORE_ADDRESS") != nil
        {
            throw ValidationError("--transport tcp needs --address tcp:HOST:PORT")
        }
    }

    func run() async throws {
        let (address, transport) = resolvedTransport
        var options = try connection.clientOptions(address)
        options.name = "kvctl bench"
        if transport == .local { options.mapper = .system }
        let bench = try BenchRun(
            options: options, threadCount: threads,
            timeoutMilliseconds: connection.timeoutMilliseconds)
        defer { bench.stop() }
        let widths = BenchRow.heading.map { max($0.count, 9) }
        if !connection.json { writeOutput(Self.line(BenchRow.heading, widths)) }
        for plan in plans(transport) {
            let row = try await bench.measure(plan)
            writeOutput(
                connection.json ? row.json.text + "\n" : Self.line(row.cells, widths))
        }
    }

    private var resolvedTransport: (StreamAddress, BenchTransport) {
        let address = connection.resolvedAddress
        switch (address, transport) {
        case (.unix, .tcp): return (.tcp(host: "127.0.0.1", port: 7_411), .tcp)
        case (.unix, let transport): return (address, transport ?? .unix)
        case (.tcp, _): return (address, .tcp)
        }
    }

    private func plans(_ transport: BenchTransport) -> [BenchPlan] {
        var plans: [BenchPlan] = []
        for operation in direction.operations {
            for size in sizes.sizes {
                for count in connections.counts {
                    plans.append(
                        BenchPlan(
                            operation: operation, transport: transport,
                            valueByteCount: size.bytes, connectionCount: count,
                            milliseconds: UInt64(max(1, seconds * 1_000)),
                            operationCountMax: operations ?? .max,
                            timeoutMilliseconds: connection.timeoutMilliseconds))
                }
            }
        }
        return plans
    }

    private static func line(_ cells: [String], _ widths: [Int]) -> String {
        zip(cells, widths).map { cell, width in
            String(repeating: " ", count: max(0, width - cell.count)) + cell
        }.joined(separator: "  ") + "\n"
    }
}

/// The threads and connections of a benchmark.
struct BenchRun: Sendable {
    private let options: ClientOptions
    private let timeoutMilliseconds: UInt64
    private let workers: [Worker]

    init(
        options: ClientOptions, threadCount: Int, timeoutMilliseconds: UInt64
    ) throws(Failure) {
        self.options = options
        self.timeoutMilliseconds = timeoutMilliseconds
        var workers: [Worker] = []
        for _ in 0..<threadCount { workers.append(try Worker.start()) }
        self.workers = workers
    }

    func stop() {
        for worker in workers { worker.stop() }
    }

    /// Measures one row, and leaves nothing behind at the daemon.
    func measure(_ plan: BenchPlan) async throws(Failure) -> BenchRow {
        var plan = plan
        if plan.operation == .get { plan.keys = try await storeChunks(plan) }
        var stored = plan.keys
        do throws(Failure) {
            try await prepare(plan)
            let warmUp = try await runAll(plan.warmUp)
            stored += warmUp.stored
            let before = try await serverMicroseconds()
            let tally = try await runAll(plan)
            stored += tally.stored
            let after = try await serverMicroseconds()
            await closeAll()
            try await delete(stored)
            var used: UInt64?
            if let before, let after, after >= before { used = after - before }
            return BenchRow(plan: plan, tally: tally, serverMicroseconds: used)
        } catch {
            await closeAll()
            throw error
        }
    }

    private func prepare(_ plan: BenchPlan) async throws(Failure) {
        for (index, worker) in workers.enumerated() {
            let share = plan.connectionCount / workers.count
            let extra = index < plan.connectionCount % workers.count ? 1 : 0
            try await worker.prepareLoops(plan, options, count: share + extra)
        }
    }

    private func runAll(_ plan: BenchPlan) async throws(Failure) -> BenchTally {
        let results = await withTaskGroup(
            of: Result<BenchTally, Failure>.self, returning: [Result<BenchTally, Failure>].self
        ) { group in
            for worker in workers {
                group.addTask {
                    do throws(Failure) {
                        return .success(try await worker.runLoops(plan))
                    } catch {
                        return .failure(error)
                    }
                }
            }
            var results: [Result<BenchTally, Failure>] = []
            for await result in group { results.append(result) }
            return results
        }
        var total = BenchTally()
        for result in results { total.add(try result.get()) }
        return total
    }

    private func closeAll() async {
        for worker in workers { await worker.closeLoops() }
    }

    /// Runs calls on a connection of their own.
    private func control<Result: Sendable>(
        _ body: @Sendable (isolated Worker, Calls) async throws(Failure) -> Result
    ) async throws(Failure) -> Result {
        var options = options
        options.mapper = nil
        let fixedOptions = options
        let milliseconds = timeoutMilliseconds
        return try await workers[0].run { worker throws(Failure) in
            let client = Client(reactor: worker.reactor, options: fixedOptions)
            defer { client.close() }
            let calls = Calls(client, deadline: client.deadline(milliseconds: milliseconds))
            return try await body(worker, calls)
        }
    }

    private func serverMicroseconds() async throws(Failure) -> UInt64? {
        try await control { _, calls throws(Failure) in
            let statistics = try await calls { client, deadline throws(ClientError) in
                try await client.nodeStatistics(deadline: deadline)
            }
            return statistics.first { $0.name == "process_cpu_microseconds" }?.value
        }
    }

    /// Stores what a GET will fetch: up to 64 chunks, 256 MiB and half of the daemon's memory.
    private func storeChunks(_ plan: BenchPlan) async throws(Failure) -> [ChunkKey] {
        try await control { worker, calls throws(Failure) in
            let statistics = try await calls { client, deadline throws(ClientError) in
                try await client.nodeStatistics(deadline: deadline)
            }
            let budget = statistics.first { $0.name == "memory_budget_bytes" }?.value ?? .max
            let room = Int(min(256 << 20, budget / 2))
            let count = max(1, min(64, room / plan.valueByteCount))
            let value = OwnedBytes(count: plan.valueByteCount, alignment: 4_096)
            var keys: [ChunkKey] = []
            for index in 0..<count {
                value.bytes.fill(UInt8(truncatingIfNeeded: index))
                let label = ChunkLabel(
                    key: freshKey(worker.reactor),
                    timeToLiveMilliseconds: benchMillisecondsToLive)
                _ = try await calls { client, _ throws(ClientError) in
                    try await client.put(
                        label, value.bytes,
                        deadline: client.deadline(milliseconds: plan.timeoutMilliseconds))
                }
                keys.append(label.key)
            }
            return keys
        }
    }

    private func delete(_ keys: [ChunkKey]) async throws(Failure) {
        try await control { _, calls throws(Failure) in
            var first = 0
            while first < keys.count {
                let batch = Array(keys[first..<min(first + Limits.batchKeyCountMax, keys.count)])
                _ = try await calls { client, deadline throws(ClientError) in
                    try await client.delete(batch, deadline: deadline)
                }
                first += batch.count
            }
        }
    }
}
