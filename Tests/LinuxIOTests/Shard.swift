// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVCore
import LinuxIO

/// An actor that lives on a reactor, as those of the daemon do.
actor Shard {
    nonisolated let reactor: RingReactor
    nonisolated var unownedExecutor: UnownedSerialExecutor {
        unsafe reactor.executor.asUnownedSerialExecutor()
    }

    init(_ reactor: RingReactor) { self.reactor = reactor }

    /// Runs `body` on the reactor.
    func run<Result: Sendable>(
        _ body: @Sendable (isolated Shard) async throws -> Result
    ) async rethrows -> Result {
        try await body(self)
    }

    /// Starts `body` on the reactor.
    nonisolated func start<Result: Sendable>(
        _ body: @escaping @Sendable (isolated Shard) async throws -> Result
    ) -> Task<Result, any Error> {
        Task { try await self.run(body) }
    }
}

/// Runs `body` on a fresh reactor and ends that.
func withShard<Result: Sendable>(
    _ backend: ReactorOptions.Backend,
    operationCountMax: Int = 4_096,
    _ body: @Sendable (isolated Shard) async throws -> Result
) async throws -> Result {
    var options = ReactorOptions()
    options.backend = backend
    options.operationCountMax = operationCountMax
    let shard = Shard(try RingReactor(options))
    defer {
        shard.reactor.stop()
        shard.reactor.join()
    }
    return try await shard.run(body)
}

let backends: [ReactorOptions.Backend] = [.ioUring, .olderIOUring, .poll]

/// A directory of the test's own.
func temporaryPath(_ name: String) -> String {
    "/tmp/linuxio-\(UInt64.random(in: 0 ... .max))-\(name)"
}

/// The outcome of an operation that may fail, comparable.
func fault(_ body: () async throws -> Void) async -> IOFault? {
    do {
        try await body()
        return nil
    } catch {
        return error as? IOFault
    }
}

/// Both ends of a connection over `address`.
func connectedPair(
    _ reactor: RingReactor, _ address: StreamAddress
) async throws -> (RingStream, RingStream) {
    let listener = try reactor.listen(on: address)
    let client = try await reactor.connect(to: listener.address, deadline: soon(reactor))
    let server = reactor.adopt(try await listener.accept())
    listener.close()
    return (client, server)
}

/// A deadline that only a hanging operation meets.
func soon(_ reactor: RingReactor) -> Instant { reactor.now().adding(milliseconds: 60_000) }

enum Family: CaseIterable {
    case tcp4, tcp6, unix

    var address: StreamAddress {
        switch self {
        case .tcp4: .tcp(host: "127.0.0.1", port: 0)
        case .tcp6: .tcp(host: "::1", port: 0)
        case .unix: .unix(path: temporaryPath("socket"))
        }
    }
}

extension OwnedBytes {
    func fill(_ seed: UInt8) {
        bytes.withMutableBytes { span in
            for index in 0..<span.byteCount {
                span.storeBytes(
                    of: seed &+ UInt8(truncatingIfNeeded: index &* 31), toByteOffset: index,
                    as: UInt8.self)
            }
        }
    }
}

extension PinnedBytes {
    var array: [UInt8] {
        withBytes { span in
            (0..<span.byteCount).map { unsafe span.unsafeLoad(fromByteOffset: $0, as: UInt8.self) }
        }
    }
}
