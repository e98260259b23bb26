// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import KVClient
import KVCore
import Kernels
import LinuxIO

/// A daemon's address as people type it.
struct Address: ExpressibleByArgument, Sendable {
    let value: StreamAddress

    /// Reads `unix:PATH`, `tcp:HOST:PORT`, `tcp:[HOST]:PORT` or an absolute path.
    init?(argument: String) {
        if argument.hasPrefix("/") {
            value = .unix(path: argument)
        } else if argument.hasPrefix("unix:"), argument.count > 5 {
            value = .unix(path: String(argument.dropFirst(5)))
        } else if argument.hasPrefix("tcp:"), let colon = argument.lastIndex(of: ":"),
            let port = UInt16(argument[argument.index(after: colon)...]), port > 0
        {
            var host = argument[..<colon].dropFirst(4)
            if host.hasPrefix("["), host.hasSuffix("]") { host = host.dropFirst().dropLast() }
            guard !host.isEmpty else { return nil }
            value = .tcp(host: host == "localhost" ? "127.0.0.1" : String(host), port: port)
        } else {
            return nil
        }
    }

    /// The daemon's default Unix socket: the user's own daemon if it runs, else the system's.
    static var standard: StreamAddress {
        for variable in ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"] {
            guard let folder = environment(variable)?.prefix(while: { $0 != ":" }),
                !folder.isEmpty, fileExists("\(folder)/kvstored.sock")
            else { continue }
            return .unix(path: "\(folder)/kvstored.sock")
        }
        return .unix(path: "/run/kvstored/kvstored.sock")
    }
}

/// The options that every command with a daemon has.
struct ConnectionOptions: ParsableArguments {
    @Option(
        help: "The daemon: unix:PATH or tcp:HOST:PORT (default: $KVSTORE_ADDRESS, or its socket).")
    var address: Address?

    @Option(help: "The namespace (default: $KVSTORE_NAMESPACE, or 'default').")
    var namespace: String?

    @Option(help: "A file with the namespace's token (default: $KVSTORE_TOKEN_FILE, or none).")
    var tokenFile: String?

    @Option(help: ArgumentHelp("How long the command may take.", valueName: "seconds"))
    var timeout: Double = 10

    @Flag(help: "Print JSON.")
    var json = false

    func validate() throws {
        guard timeout > 0, timeout <= 600 else {
            throw ValidationError("--timeout takes more than 0 and up to 600 seconds")
        }
        if address == nil, let text = environment("KVSTORE_ADDRESS"),
            Address(argument: text) == nil
        {
            throw ValidationError(
                "KVSTORE_ADDRESS is '\(text)': use unix:PATH or tcp:HOST:PORT")
        }
    }

    /// The address to use.
    var resolvedAddress: StreamAddress {
        if let address { return address.value }
        return environment("KVSTORE_ADDRESS").flatMap { Address(argument: $0)?.value }
            ?? Address.standard
    }

    /// The namespace to use.
    var resolvedNamespace: String { namespace ?? environment("KVSTORE_NAMESPACE") ?? "" }

    var timeoutMilliseconds: UInt64 { UInt64(max(1, timeout * 1_000)) }

    /// Options for a client of the daemon at `address`.
    func clientOptions(_ address: StreamAddress) throws(Failure) -> ClientOptions {
        ClientOptions(
            address: address, namespace: resolvedNamespace, token: try token(), name: "kvctl")
    }

    private func token() throws(Failure) -> [UInt8] {
        guard let path = tokenFile ?? environment("KVSTORE_TOKEN_FILE"), !path.isEmpty else {
            return []
        }
        let file = try Descriptor.reading(path)
        let room = OwnedBytes(count: 1_024)
        let count = try file.read(into: room.bytes, of: path)
        var token = (0..<count).map { room.bytes[$0] }
        while let last = token.last, last == 10 || last == 13 { token.removeLast() }
        guard token.count <= Limits.tokenByteCountMax else {
            throw Failure(
                .usage, "\(path) holds more than \(Limits.tokenByteCountMax) bytes: no token")
        }
        return token
    }
}

/// Code that runs on a reactor of its own.
actor Worker {
    nonisolated let reactor: RingReactor
    /// What a benchmark runs here.
    var loops: [BenchLoop] = []

    nonisolated var unownedExecutor: UnownedSerialExecutor {
        // SAFETY: the reactor outlives the actor, which holds it.
        unsafe reactor.executor.asUnownedSerialExecutor()
    }

    private init(_ reactor: RingReactor) {
        self.reactor = reactor
    }

    /// Starts a reactor and its worker; `stop` ends both.
    static func start() throws(Failure) -> Worker {
        var options = ReactorOptions()
        options.name = "kvctl-io"
        options.operationCountMax = 4_096
        do throws(IOFault) {
            return Worker(try RingReactor(options))
        } catch {
            throw Failure(.file, "the system gives no I/O thread: \(error)")
        }
    }

    /// Ends the reactor after all its tasks have ended.
    nonisolated func stop() {
        reactor.stop()
        reactor.join()
    }

    /// Runs `body` here.
    func run<Result: Sendable>(
        _ body: @Sendable (isolated Worker) async throws(Failure) -> Result
    ) async throws(Failure) -> Result {
        try await body(self)
    }
}

/// A client as commands use it: one deadline for the whole command, failures to print. Confined to
/// its worker.
final class Calls {
    let client: Client<RingReactor>
    let address: StreamAddress
    let deadline: Instant

    init(_ client: Client<RingReactor>, deadline: Instant) {
        self.client = client
        self.deadline = deadline
        address = client.options.address
    }

    /// Runs one call and turns its error into a failure.
    func callAsFunction<Result>(
        _ call: (Client<RingReactor>, Instant) async throws(ClientError) -> Result
    ) async throws(Failure) -> Result {
        do throws(ClientError) {
            return try await call(client, deadline)
        } catch {
            throw Failure(error, at: address)
        }
    }
}

/// Connects as `options` say, runs `body` on a reactor and closes.
func withDaemon<Result: Sendable>(
    _ options: ConnectionOptions,
    _ body: @escaping @Sendable (isolated Worker, Calls) async throws(Failure) -> Result
) async throws(Failure) -> Result {
    let clientOptions = try options.clientOptions(options.resolvedAddress)
    let milliseconds = options.timeoutMilliseconds
    let worker = try Worker.start()
    defer { worker.stop() }
    return try await worker.run { worker throws(Failure) in
        let client = Client(reactor: worker.reactor, options: clientOptions)
        defer { client.close() }
        let calls = Calls(client, deadline: client.deadline(milliseconds: milliseconds))
        _ = try await calls { client, deadline throws(ClientError) in
            try await client.connect(deadline: deadline)
        }
        return try await body(worker, calls)
    }
}

/// A key as people name it: by its digits, or by a name from which it is derived.
enum KeyName: Sendable {
    case key(ChunkKey)
    case name(String)

    /// From `--key` or an argument, and `--name`; exactly one of them.
    init(hexadecimal: String?, name: String?) throws {
        switch (hexadecimal, name) {
        case (let text?, nil):
            guard let key = ChunkKey(hexadecimal: text) else {
                throw ValidationError(
                    "'\(text)' is no key: give 64 hexadecimal digits, or --name NAME")
            }
            self = .key(key)
        case (nil, let name?): self = .name(name)
        case (nil, nil): throw ValidationError("give a key of 64 hexadecimal digits, or --name")
        case (.some, .some): throw ValidationError("give a key or --name, not both")
        }
    }

    /// The key, in the namespace whose secret is `secret`.
    func key(secret: [UInt8]) -> ChunkKey {
        switch self {
        case .key(let key): return key
        case .name(let name): return opaqueKey(secret: secret, name: name)
        }
    }
}

/// The key of an opaque value (docs/key-derivation.md).
func opaqueKey(secret: [UInt8], name: String) -> ChunkKey {
    let hash = keyedHash(key: secret, message: Array("o1".utf8) + Array(name.utf8))
    guard let key = ChunkKey(bytes: hash) else { preconditionFailure("HMAC-SHA256 is a key") }
    return key
}

extension Calls {
    /// The key that `name` stands for on this connection.
    func key(_ name: KeyName) -> ChunkKey {
        name.key(secret: client.session?.secret ?? [UInt8](repeating: 0, count: 32))
    }
}
