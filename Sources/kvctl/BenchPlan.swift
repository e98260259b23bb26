// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import KVCore

/// What a benchmark does.
enum BenchOperation: String, Sendable {
    case get
    case put
}

/// What `--direction` takes.
enum BenchDirection: String, ExpressibleByArgument, CaseIterable, Sendable {
    case get
    case put
    case both

    var operations: [BenchOperation] {
        switch self {
        case .get: [.get]
        case .put: [.put]
        case .both: [.put, .get]
        }
    }
}

/// How a benchmark's bytes travel.
enum BenchTransport: String, ExpressibleByArgument, CaseIterable, Sendable {
    /// Shared memory, on the same host.
    case local
    /// A Unix socket.
    case unix
    /// TCP.
    case tcp
}

/// A list of sizes as people type it: `4KiB,4MiB`.
struct SizeList: ExpressibleByArgument, Sendable {
    let sizes: [ByteCount]

    static let standard = SizeList(
        sizes: [.kibibytes(4), .mebibytes(1), .mebibytes(16)])

    private init(sizes: [ByteCount]) {
        self.sizes = sizes
    }

    var defaultValueDescription: String { sizes.map(\.description).joined(separator: ",") }

    init?(argument: String) {
        var sizes: [ByteCount] = []
        for text in argument.split(separator: ",") {
            guard let size = ByteCount(text: String(text)), size.bytes > 0,
                size.bytes <= Limits.chunkByteCountMax
            else { return nil }
            sizes.append(size)
        }
        guard !sizes.isEmpty else { return nil }
        self.sizes = sizes
    }
}

/// A list of connection counts as people type it: `1,4,16`.
struct CountList: ExpressibleByArgument, Sendable {
    static let countMax = 1_024
    let counts: [Int]

    static let one = CountList(counts: [1])

    private init(counts: [Int]) {
        self.counts = counts
    }

    var defaultValueDescription: String {
        counts.map(\.description).joined(separator: ",")
    }

    init?(argument: String) {
        var counts: [Int] = []
        for text in argument.split(separator: ",") {
            guard let count = Int(text), (1...Self.countMax).contains(count) else { return nil }
            counts.append(count)
        }
        guard !counts.isEmpty else { return nil }
        self.counts = counts
    }
}

/// One row of a benchmark.
struct BenchPlan: Sendable {
    let operation: BenchOperation
    let transport: BenchTransport
    let valueByteCount: Int
    let connectionCount: Int
    /// Stop after this time…
    let milliseconds: UInt64
    /// … or after this many operations of each connection, whichever comes first.
    let operationCountMax: Int
    /// How long one operation may take.
    let timeoutMilliseconds: UInt64
    /// The chunks that a GET fetches, one after the other.
    var keys: [ChunkKey] = []

    /// A short run before the one that counts.
    var warmUp: BenchPlan {
        BenchPlan(
            operation: operation, transport: transport, valueByteCount: valueByteCount,
            connectionCount: connectionCount, milliseconds: min(200, milliseconds),
            operationCountMax: max(1, min(100, operationCountMax / 10)),
            timeoutMilliseconds: timeoutMilliseconds, keys: keys)
    }
}

/// What one or more connections did.
struct BenchTally: Sendable {
    var latencies = LatencyHistogram()
    var byteCount: UInt64 = 0
    var begin = Instant.distantFuture
    var end = Instant(nanoseconds: 0)
    /// The chunks that were stored, to be deleted.
    var stored: [ChunkKey] = []

    mutating func add(_ other: BenchTally) {
        latencies.add(other.latencies)
        byteCount += other.byteCount
        begin = min(begin, other.begin)
        end = max(end, other.end)
        stored += other.stored
    }
}

/// The result of one row.
struct BenchRow: Sendable {
    let plan: BenchPlan
    let tally: BenchTally
    /// CPU time that the daemon used meanwhile; nil when it does not tell.
    let serverMicroseconds: UInt64?

    private var gigabytes: Double { Double(tally.byteCount) / 1e9 }

    private var gigabytesPerSecond: Double {
        let nanoseconds = Double(tally.end.nanoseconds) - Double(tally.begin.nanoseconds)
        return nanoseconds > 0 ? Double(tally.byteCount) / nanoseconds : 0
    }

    private var serverSecondsPerGigabyte: Double? {
        guard let serverMicroseconds, gigabytes > 0 else { return nil }
        return Double(serverMicroseconds) / 1e6 / gigabytes
    }

    var json: JSONValue {
        .object([
            ("operation", .text(plan.operation.rawValue)),
            ("transport", .text(plan.transport.rawValue)),
            ("value_bytes", .integer(UInt64(plan.valueByteCount))),
            ("connections", .integer(UInt64(plan.connectionCount))),
            ("gigabytes_per_second", .number(gigabytesPerSecond)),
            ("p50_microseconds", .number(tally.latencies.microseconds(quantile: 0.5))),
            ("p99_microseconds", .number(tally.latencies.microseconds(quantile: 0.99))),
            ("p999_microseconds", .number(tally.latencies.microseconds(quantile: 0.999))),
            (
                "server_cpu_seconds_per_gigabyte",
                serverSecondsPerGigabyte.map { .number($0) } ?? .null
            ),
        ])
    }

    static let heading = [
        "operation", "transport", "value", "connections", "GB/s", "p50", "p99", "p99.9",
        "server CPU s/GB", "operations",
    ]

    var cells: [String] {
        [
            plan.operation.rawValue, plan.transport.rawValue,
            readableSize(UInt64(plan.valueByteCount)), "\(plan.connectionCount)",
            fixed(gigabytesPerSecond, 3),
            readableTime(microseconds: tally.latencies.microseconds(quantile: 0.5)),
            readableTime(microseconds: tally.latencies.microseconds(quantile: 0.99)),
            readableTime(microseconds: tally.latencies.microseconds(quantile: 0.999)),
            serverSecondsPerGigabyte.map { fixed($0, 3) } ?? "-", "\(tally.latencies.count)",
        ]
    }
}
