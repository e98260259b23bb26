// SPDX-License-Identifier: Apache-2.0
import KVCore
import LinuxIO

extension GateOperation {
    /// What a client of the RESP listener sends, and how many bytes it gets; nil for other kinds.
    var respRequest: (bytes: [UInt8], replyByteCount: Int)? {
        let value = [UInt8](repeating: 7, count: byteCount)
        let key = Array("key-\(byteCount)".utf8)
        return switch self {
        case .respGetMiss: (Self.request([Array("GET".utf8), Array("absent".utf8)]), 5)
        case .respGetSmall, .respGetLarge:
            (
                Self.request([Array("GET".utf8), key]),
                "$\(byteCount)\r\n\r\n".utf8.count + byteCount
            )
        case .respSetSmall, .respSetLarge: (Self.request([Array("SET".utf8), key, value]), 5)
        default: nil
        }
    }

    static func request(_ words: [[UInt8]]) -> [UInt8] {
        words.reduce(Array("*\(words.count)\r\n".utf8)) {
            $0 + Array("$\($1.count)\r\n".utf8) + $1 + Array("\r\n".utf8)
        }
    }
}

/// Sends requests of one kind to the RESP listener, from a reactor of its own.
actor RESPDriver: Driver {
    private nonisolated let reactor: RingReactor
    private let address: StreamAddress
    private let operation: GateOperation
    private let request: OwnedBytes
    private let reply: OwnedBytes
    private var stream: RingReactor.Stream?

    nonisolated var unownedExecutor: UnownedSerialExecutor {
        // SAFETY: the driver keeps the reactor, and with it the executor, alive.
        unsafe reactor.executor.asUnownedSerialExecutor()
    }

    init(reactor: RingReactor, address: StreamAddress, operation: GateOperation) {
        guard let (bytes, replyByteCount) = operation.respRequest else {
            preconditionFailure("not an operation of the RESP listener")
        }
        self.reactor = reactor
        self.address = address
        self.operation = operation
        request = Self.memory(bytes)
        reply = OwnedBytes(count: replyByteCount)
    }

    private static func memory(_ bytes: [UInt8]) -> OwnedBytes {
        let memory = OwnedBytes(count: bytes.count)
        for (offset, byte) in bytes.enumerated() { memory.bytes.store(byte, at: offset) }
        return memory
    }

    private var deadline: Instant { reactor.now().adding(milliseconds: 10_000) }

    func prepare() async throws {
        let stream = try await reactor.connect(to: address, deadline: deadline)
        self.stream = stream
        let value = [UInt8](repeating: 7, count: operation.byteCount)
        let key = Array("key-\(operation.byteCount)".utf8)
        let set = Self.memory(GateOperation.request([Array("SET".utf8), key, value]))
        try await stream.send(set.bytes, deadline: deadline)
        _ = try await stream.receive(into: reply.bytes.prefix(5), minimum: 5, deadline: deadline)
    }

    func run(count: Int) async throws {
        guard let stream else { throw IOFault.closed }
        for _ in 0..<count {
            try await stream.send(request.bytes, deadline: deadline)
            _ = try await stream.receive(
                into: reply.bytes, minimum: reply.bytes.count, deadline: deadline)
            guard reply.bytes[0] != UInt8(ascii: "-") else { throw IOFault.busy }
        }
    }

    func close() {
        stream?.close()
    }
}
