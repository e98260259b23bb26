// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Telemetry
internal import Wire

/// The handshake (docs/protocol.md, section 3).
extension Connection {
    /// Serves HELLO, which must be the first frame.
    nonisolated(nonsending) func serveHello() async throws(ConnectionEnd) -> Next {
        let deadline = reactor.now().adding(milliseconds: Limits.helloMillisecondsMax)
        try await receive(atLeast: FrameHeader.byteCount, deadline: deadline)
        let request = try await receiveHeader()
        guard request.header.verb == .hello else {
            return try await answerAndClose(request, .helloRequired, "HELLO must come first")
        }
        guard request.header.bodyByteCount <= Limits.inboxByteCount else {
            let fault = WireFault.bodySizeMismatch
            return try await answerAndClose(request, fault.status, fault.message)
        }
        try await receive(atLeast: request.header.bodyByteCount, deadline: deadline)
        let body = inbox.bytes.prefix(request.header.bodyByteCount)
        inbox.consume(request.header.bodyByteCount)
        node.metrics.add(.requestsHello)
        let hello: HelloRequest
        do throws(WireFault) {
            try request.header.verify(body: body)
            _ = try request.header.checkRequest()
            guard request.header.payloadByteCount == 0 else { throw .bodySizeMismatch }
            hello = try HelloRequest.decode(body)
        } catch {
            return try await answerAndClose(request, error.status, error.message)
        }
        return try await greet(request, hello)
    }

    private nonisolated(nonsending) func greet(
        _ request: Request, _ hello: HelloRequest
    ) async throws(ConnectionEnd) -> Next {
        guard let opened = node.namespaces.open(name: hello.namespace, token: hello.token) else {
            try await delayRefusal()
            return try await answerAndClose(
                request, .unauthorized,
                "wrong namespace or token: compare with the daemon's configuration")
        }
        namespace = opened.id
        var answer = HelloAnswer()
        answer.namespaceSecret = opened.secret
        answer.nodeID = node.nodeID
        answer.chunkByteCountMax = UInt64(node.chunkByteCountMax)
        answer.leaseMillisecondsMax = node.configuration.leaseMillisecondsMax
        answer.daemonName = node.configuration.daemonName
        guard hello.wanted.contains(.sharedMemory), stream.isLocal, opened.sharesMemory,
            let memory = node.sharedMemory
        else {
            try await self.answer(request) { answer.encode(&$0) }
            return .goOn
        }
        sharesMemory = true
        answer.granted = .sharedMemory
        answer.arenaByteCount = UInt64(memory.arenaByteCount)
        answer.stagingByteCountMax = UInt64(node.stagedChunkByteCountMax)
        var header = answerHeader(request, .ok)
        let frame = header.encode(into: outbox.bytes) { answer.encode(&$0) }
        try await send(frame, descriptor: memory.arenaDescriptor, deadline: request.deadline)
        return .goOn
    }

    /// Sends a frame together with a descriptor.
    nonisolated(nonsending) func send(
        _ frame: PinnedBytes, descriptor: Int32, deadline: Instant
    ) async throws(ConnectionEnd) {
        do throws(IOFault) {
            try await stream.send(frame, descriptor: descriptor, deadline: deadline)
        } catch {
            throw ConnectionEnd(error)
        }
        node.metrics.add(.bytesSent, frame.count)
    }

    /// Makes guessing slow.
    private nonisolated(nonsending) func delayRefusal() async throws(ConnectionEnd) {
        do throws(IOFault) {
            try await reactor.sleep(until: reactor.now().adding(milliseconds: 50))
        } catch {
            throw ConnectionEnd(error)
        }
    }
}
