// SPDX-License-Identifier: Apache-2.0
import KVClient
import KVCore
import LinuxIO
import Synchronization
import Wire

/// What the scripted daemon does next on a connection.
enum Step: Sendable {
    /// Reads one request: header, body and payload.
    case read
    /// Sends these bytes.
    case send([UInt8])
    /// Sends these bytes one by one.
    case trickle([UInt8])
    /// Sends the first byte together with a descriptor, then the rest.
    case share([UInt8], Int32)
    /// Waits until the client closes.
    case awaitClose
    /// Closes at once.
    case close
}

/// One request as it arrived.
struct ReceivedRequest: Sendable {
    let header: FrameHeader
    let body: [UInt8]
    let payload: [UInt8]
}

/// A daemon that does as it is told, on the same reactor as the client under test. A script per
/// connection; a connection for which there is none is closed.
actor Bench {
    nonisolated let reactor: RingReactor
    nonisolated let path = "/tmp/kvclient-\(UInt64.random(in: 0 ... .max)).sock"
    private(set) var requests: [ReceivedRequest] = []
    private(set) var connectionCount = 0

    nonisolated var unownedExecutor: UnownedSerialExecutor {
        unsafe reactor.executor.asUnownedSerialExecutor()
    }

    init(_ reactor: RingReactor) { self.reactor = reactor }

    func serve(_ scripts: [[Step]], on listener: RingReactor.Listener) async {
        for script in scripts {
            do throws(IOFault) {
                let stream = reactor.adopt(try await listener.accept())
                connectionCount += 1
                await play(script, on: stream)
                stream.close()
            } catch {
                return
            }
        }
    }

    private func play(_ script: [Step], on stream: RingReactor.Stream) async {
        let deadline = reactor.now().adding(milliseconds: 20_000)
        do throws(IOFault) {
            for step in script {
                switch step {
                case .read: requests.append(try await readRequest(stream, deadline))
                case .send(let bytes):
                    try await stream.send(pinned(bytes), deadline: deadline)
                case .trickle(let bytes):
                    for byte in bytes {
                        try await stream.send(pinned([byte]), deadline: deadline)
                        await reactor.yield()
                    }
                case .share(let bytes, let descriptor):
                    try await stream.send(
                        pinned(bytes), descriptor: descriptor, deadline: deadline)
                case .awaitClose:
                    let room = OwnedBytes(count: 1 << 16)
                    while true {
                        _ = try await stream.receive(
                            into: room.bytes, minimum: 1, deadline: deadline)
                    }
                case .close: return
                }
            }
        } catch {
            return
        }
    }

    private func readRequest(
        _ stream: RingReactor.Stream, _ deadline: Instant
    ) async throws(IOFault) -> ReceivedRequest {
        let head = OwnedBytes(count: FrameHeader.byteCount)
        _ = try await stream.receive(
            into: head.bytes, minimum: FrameHeader.byteCount, deadline: deadline)
        let header: FrameHeader
        do throws(WireFault) {
            header = try FrameHeader.decode(head.bytes)
        } catch {
            preconditionFailure("the client sent a header that is none: \(error)")
        }
        func bytes(_ count: Int) async throws(IOFault) -> [UInt8] {
            guard count > 0 else { return [] }
            let room = OwnedBytes(count: count)
            _ = try await stream.receive(into: room.bytes, minimum: count, deadline: deadline)
            return room.bytes.array
        }
        let body = try await bytes(header.bodyByteCount)
        return ReceivedRequest(
            header: header, body: body, payload: try await bytes(Int(header.payloadByteCount)))
    }
}

/// Runs `body` with a client of a daemon that plays `scripts`, one per connection.
func withClient<Result: Sendable>(
    _ scripts: [[Step]], mapper: MemoryMapper? = nil,
    _ body: @escaping @Sendable (isolated Bench, Client<RingReactor>) async throws -> Result
) async throws -> Result {
    let bench = Bench(try RingReactor())
    defer {
        bench.reactor.stop()
        bench.reactor.join()
    }
    return try await run(bench, scripts, mapper, body)
}

private func run<Result: Sendable>(
    _ bench: isolated Bench, _ scripts: [[Step]], _ mapper: MemoryMapper?,
    _ body: @escaping @Sendable (isolated Bench, Client<RingReactor>) async throws -> Result
) async throws -> Result {
    let listener = try bench.reactor.listen(on: .unix(path: bench.path))
    let server = Task { await bench.serve(scripts, on: listener) }
    var options = ClientOptions(address: .unix(path: bench.path), namespace: "tests")
    options.mapper = mapper
    options.backOffMillisecondsMin = 1
    let client = Client(reactor: bench.reactor, options: options)
    do {
        let result = try await body(bench, client)
        client.close()
        listener.close()
        await server.value
        return result
    } catch {
        client.close()
        listener.close()
        await server.value
        throw error
    }
}

/// A frame from the daemon.
func answer(
    _ verb: Verb, id: UInt64, _ status: Status = .ok, flags: FrameFlags = [],
    payload: [UInt8] = [], body: (inout FieldWriter) -> Void = { _ in }
) -> [UInt8] {
    var header = FrameHeader(
        verbNumber: verb.rawValue, flags: flags.union(.response), requestID: id,
        statusNumber: status.rawValue)
    header.payloadByteCount = UInt64(payload.count)
    let room = OwnedBytes(count: FrameHeader.byteCount + Limits.bodyByteCountMax)
    return withExtendedLifetime(room) {
        header.encode(into: room.bytes, body: body).array + payload
    }
}

/// A refusal with an error text.
func refusal(
    _ verb: Verb, id: UInt64, _ status: Status, _ text: String = "because",
    flags: FrameFlags = []
) -> [UInt8] {
    answer(verb, id: id, status, flags: flags) { $0.append(errorText: text) }
}

/// The answer to HELLO that most tests want.
func welcome(arena: UInt64 = 0) -> [UInt8] {
    var hello = HelloAnswer()
    hello.chunkByteCountMax = 64 << 20
    hello.leaseMillisecondsMax = 30_000
    hello.nodeID = 7
    hello.daemonName = "scripted 1"
    if arena > 0 {
        hello.granted = .sharedMemory
        hello.arenaByteCount = arena
        hello.stagingByteCountMax = 1 << 20
    }
    return answer(.hello, id: 1, body: hello.encode)
}

/// A connection that has said HELLO, and then does `steps`.
func greeted(_ steps: [Step]) -> [Step] {
    [.read, .send(welcome())] + steps
}

/// The error of a call that is expected to fail.
func clientError(_ body: () async throws -> Void) async -> ClientError? {
    do {
        try await body()
        return nil
    } catch {
        return error as? ClientError
    }
}

/// Memory with these bytes, which stays for as long as the tests run.
func pinned(_ bytes: [UInt8]) -> PinnedBytes {
    let memory = OwnedBytes(count: max(bytes.count, 1))
    kept.withLock { $0.append(memory) }
    let room = memory.bytes.prefix(bytes.count)
    var writer = FieldWriter(room)
    writer.append(contentsOf: bytes)
    return room
}

private let kept = Mutex<[OwnedBytes]>([])

extension PinnedBytes {
    var array: [UInt8] { (0..<count).map { self[$0] } }
}

extension Client {
    /// Far enough for any test.
    var soon: Instant { deadline(milliseconds: 15_000) }
}

func key(_ seed: UInt64) -> ChunkKey { ChunkKey(words: (seed, 1, 2, 3)) }
