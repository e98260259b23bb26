// SPDX-License-Identifier: Apache-2.0
internal import CLinux
package import KVCore

/// A connected TCP or Unix socket, confined to its reactor's executor.
///
/// An idle stream costs this object (under 100 bytes) and, while it receives, one slot of its
/// reactor; messages borrow the reactor's scratch. The descriptor is closed when `close` was
/// called and the last operation has ended, never before, so that its number cannot be reused
/// under an operation.
package final class RingStream: ByteStream {
    package let isLocal: Bool
    private let reactor: RingReactor
    private let descriptor: Int32
    private var receiveID: UInt64?
    private var sendID: UInt64?
    private var isReceiving = false
    private var isSending = false
    private var isClosed = false
    private var isDescriptorClosed = false

    /// Takes `descriptor` over. Socket options that the kernel refuses are left as they are.
    init(reactor: RingReactor, descriptor: Int32) {
        self.reactor = reactor
        self.descriptor = descriptor
        isLocal = clinux_socket_is_local(descriptor) == 1
        if !isLocal {
            _ = clinux_socket_set_stream_options(
                descriptor, ReactorLimits.keepAliveIdleSeconds,
                ReactorLimits.keepAliveIntervalSeconds, ReactorLimits.keepAliveProbeCount)
        }
    }

    deinit {
        if !isDescriptorClosed { clinux_close(descriptor) }
    }

    // MARK: Receiving

    package nonisolated(nonsending) func receive(
        into buffer: PinnedBytes, minimum: Int, deadline: Instant
    ) async throws(IOFault) -> Int {
        invariant(minimum >= 1 && minimum <= buffer.count, "a minimum within the buffer")
        // What may come counts as little: a connection that waits for a request transfers nothing.
        try beginReceiving(minimum)
        defer { endReceiving(minimum) }
        var received = 0
        while received < minimum {
            let rest = buffer.dropFirst(received)
            // Where exactly the rest is wanted, the kernel waits for all of it.
            let flags = minimum == buffer.count ? clinux_flag_wait_all : 0
            let operation = Operation(.receive, descriptor: descriptor, rest, flags: flags)
            received += try await performReceive(operation, deadline)
            if received < minimum { try checkTime(deadline) }
        }
        return received
    }

    package nonisolated(nonsending) func receiveWithDescriptor(
        into buffer: PinnedBytes, deadline: Instant
    ) async throws(IOFault) -> (byteCount: Int, descriptor: Int32?) {
        invariant(buffer.count > 0, "room for at least one byte")
        try beginReceiving(1)
        defer { endReceiving(1) }
        let scratch = unsafe reactor.takeScratch()
        defer { unsafe reactor.giveBack(scratch) }
        // SAFETY: scratch and buffer stay as they are until the completion.
        unsafe clinux_message_set(scratch, buffer.run, clinux_run())
        unsafe clinux_message_expect(scratch)
        let operation = unsafe Operation(
            .receiveMessage, descriptor: descriptor, scratch: scratch,
            flags: clinux_flag_close_on_exec)
        let byteCount = try await performReceive(operation, deadline)
        let passed = unsafe clinux_message_take(scratch)
        return (byteCount, passed >= 0 ? passed : nil)
    }

    /// One receive; throws `.closed` at the end of the stream.
    private nonisolated(nonsending) func performReceive(
        _ operation: Operation, _ deadline: Instant
    ) async throws(IOFault) -> Int {
        while true {
            let result = await reactor.perform(operation, deadline: deadline) { receiveID = $0 }
            receiveID = nil
            if isClosed || result == 0 { throw .closed }
            if result > 0 { return Int(result) }
            if result != -ErrorNumber.interrupted { throw Outcome.fault(result) }
        }
    }

    private func beginReceiving(_ byteCount: Int) throws(IOFault) {
        reactor.executor.checkThread()
        invariant(!isReceiving, "two receives on one stream")
        guard !isClosed else { throw .closed }
        isReceiving = true
        if byteCount > ReactorLimits.transferByteCountMin { reactor.activeTransferCount += 1 }
    }

    private func endReceiving(_ byteCount: Int) {
        isReceiving = false
        if byteCount > ReactorLimits.transferByteCountMin { reactor.activeTransferCount -= 1 }
        if isClosed { closeDescriptor() }
    }

    // MARK: Sending

    package nonisolated(nonsending) func send(
        _ bytes: PinnedBytes, deadline: Instant
    ) async throws(IOFault) {
        try beginSending(bytes.count)
        defer { endSending(bytes.count) }
        try await sendRest(bytes, deadline)
    }

    package nonisolated(nonsending) func send(
        _ first: PinnedBytes, _ second: PinnedBytes, deadline: Instant
    ) async throws(IOFault) {
        try beginSending(first.count + second.count)
        defer { endSending(first.count + second.count) }
        let scratch = unsafe reactor.takeScratch()
        defer { unsafe reactor.giveBack(scratch) }
        var sent = 0
        while sent < first.count {
            // SAFETY: scratch and both runs stay as they are until the completion.
            unsafe clinux_message_set(scratch, first.dropFirst(sent).run, second.run)
            let operation = unsafe Operation(
                .sendMessage, descriptor: descriptor, scratch: scratch, flags: Self.sendFlags)
            sent += try await performSend(operation, deadline)
            if sent < first.count { try checkTime(deadline) }
        }
        try await sendRest(second.dropFirst(sent - first.count), deadline)
    }

    package nonisolated(nonsending) func send(
        _ bytes: PinnedBytes, descriptor passed: Int32, deadline: Instant
    ) async throws(IOFault) {
        guard isLocal else { throw .system(ErrorNumber.notSupported) }
        invariant(bytes.count > 0, "a descriptor travels with at least one byte")
        try beginSending(bytes.count)
        defer { endSending(bytes.count) }
        let scratch = unsafe reactor.takeScratch()
        defer { unsafe reactor.giveBack(scratch) }
        // SAFETY: scratch and bytes stay as they are until the completion.
        unsafe clinux_message_set(scratch, bytes.run, clinux_run())
        unsafe clinux_message_attach(scratch, passed)
        let operation = unsafe Operation(
            .sendMessage, descriptor: descriptor, scratch: scratch,
            flags: clinux_flag_no_signal)
        let sent = try await performSend(operation, deadline)
        try await sendRest(bytes.dropFirst(sent), deadline)
    }

    private static var sendFlags: UInt32 { clinux_flag_no_signal | clinux_flag_wait_all }

    private nonisolated(nonsending) func sendRest(
        _ bytes: PinnedBytes, _ deadline: Instant
    ) async throws(IOFault) {
        var rest = bytes
        while rest.count > 0 {
            let operation = Operation(.send, descriptor: descriptor, rest, flags: Self.sendFlags)
            rest = rest.dropFirst(try await performSend(operation, deadline))
            if rest.count > 0 { try checkTime(deadline) }
        }
    }

    private nonisolated(nonsending) func performSend(
        _ operation: Operation, _ deadline: Instant
    ) async throws(IOFault) -> Int {
        while true {
            let result = await reactor.perform(operation, deadline: deadline) { sendID = $0 }
            sendID = nil
            if isClosed { throw .closed }
            if result >= 0 { return Int(result) }
            if result != -ErrorNumber.interrupted { throw Outcome.fault(result) }
        }
    }

    private func beginSending(_ byteCount: Int) throws(IOFault) {
        reactor.executor.checkThread()
        invariant(!isSending, "two sends on one stream")
        guard !isClosed else { throw .closed }
        isSending = true
        if byteCount > ReactorLimits.transferByteCountMin { reactor.activeTransferCount += 1 }
    }

    private func endSending(_ byteCount: Int) {
        isSending = false
        if byteCount > ReactorLimits.transferByteCountMin { reactor.activeTransferCount -= 1 }
        if isClosed { closeDescriptor() }
    }

    /// A short operation may be one that its deadline cut off: then there is no next one.
    private func checkTime(_ deadline: Instant) throws(IOFault) {
        guard deadline != .distantFuture, reactor.now() >= deadline else { return }
        throw .deadlineExceeded
    }

    // MARK: The rest

    package var peerDescription: String {
        // The descriptor's number may be another connection's by now.
        guard !isDescriptorClosed else { return isLocal ? "unix:closed" : "tcp:closed" }
        if isLocal {
            guard let peer = peerCredentials else { return "unix:unknown" }
            return "unix:pid=\(peer.process),uid=\(peer.user)"
        }
        guard let name = endpoint(of: descriptor, peer: true) else { return "tcp:unknown" }
        return StreamAddress.tcp(host: name.host, port: name.port).description
    }

    package var peerUser: UInt32? {
        isLocal && !isDescriptorClosed ? peerCredentials?.user : nil
    }

    private var peerCredentials: (process: Int32, user: UInt32)? {
        var process: Int32 = 0
        var user: UInt32 = 0
        // SAFETY: the call fills the two numbers and keeps neither address.
        let result = unsafe clinux_socket_peer(descriptor, &process, &user)
        return result == 0 ? (process, user) : nil
    }

    package func interrupt() {
        reactor.executor.checkThread()
        if let id = receiveID { reactor.cancel(id) }
    }

    /// Lets go of the descriptor, which stays open.
    func release() -> AcceptedSocket? {
        reactor.executor.checkThread()
        guard !isClosed, !isLocal, !isReceiving, !isSending else { return nil }
        isClosed = true
        isDescriptorClosed = true
        return AcceptedSocket(descriptor: descriptor)
    }

    package func close() {
        reactor.executor.checkThread()
        guard !isClosed else { return }
        isClosed = true
        clinux_socket_shutdown(descriptor)
        if let id = receiveID { reactor.cancel(id) }
        if let id = sendID { reactor.cancel(id) }
        closeDescriptor()
    }

    private func closeDescriptor() {
        guard !isReceiving && !isSending && !isDescriptorClosed else { return }
        isDescriptorClosed = true
        clinux_close(descriptor)
    }
}

extension PinnedBytes {
    /// The run as C sees it.
    var run: clinux_run {
        // SAFETY: only stored in a message; its user keeps the memory alive.
        unsafe clinux_run(start: start, count: count)
    }
}
