// SPDX-License-Identifier: Apache-2.0
internal import CLinux
package import KVCore

extension RingReactor {
    /// Starts to listen. Blocks for the few microseconds of bind(2); for a Unix socket whose file
    /// is there already it also tries to connect, and takes the path over if nobody answers.
    package func listen(on address: StreamAddress) throws(IOFault) -> RingListener {
        executor.checkThread()
        // SAFETY: the scratch is this function's until it is given back; no call keeps it.
        let scratch = unsafe takeScratch()
        defer { unsafe giveBack(scratch) }
        let length = try unsafe write(address, to: scratch)
        let descriptor = unsafe clinux_socket_open(scratch)
        guard descriptor >= 0 else { throw .system(-descriptor) }
        do throws(IOFault) {
            try unsafe bind(descriptor, address, scratch, length)
            try check(clinux_socket_listen(descriptor))
            if isPolling { try check(clinux_descriptor_set_nonblocking(descriptor)) }
        } catch {
            clinux_close(descriptor)
            throw error
        }
        return RingListener(reactor: self, descriptor: descriptor, requested: address)
    }

    private func bind(
        _ descriptor: Int32,
        _ address: StreamAddress,
        _ scratch: UnsafeMutablePointer<clinux_scratch>,
        _ length: Int32
    ) throws(IOFault) {
        // SAFETY: scratch and path live during each call, and no call keeps them.
        guard case .unix(let path) = address else {
            return try check(unsafe clinux_socket_bind(descriptor, scratch, length))
        }
        var result = unsafe clinux_socket_bind(descriptor, scratch, length)
        if result == -ErrorNumber.addressInUse {
            guard unsafe isStale(path, scratch, length) else {
                throw .system(ErrorNumber.addressInUse)
            }
            try check(unsafe path.withCString { unsafe clinux_file_remove($0) })
            result = unsafe clinux_socket_bind(descriptor, scratch, length)
        }
        try check(result)
        // Nobody can connect before listen(2), so the mode is in force from the first moment.
        let mode = options.socketFileMode
        try check(unsafe path.withCString { unsafe clinux_file_set_mode($0, mode) })
    }

    /// Whether a Unix socket's file is left over from a process that is gone.
    private func isStale(
        _ path: String, _ scratch: UnsafeMutablePointer<clinux_scratch>, _ length: Int32
    ) -> Bool {
        // A connect to another kind of file is refused, too.
        guard unsafe path.withCString({ unsafe clinux_file_is_socket($0) }) == 1 else {
            return false
        }
        // SAFETY: as in `bind`.
        let probe = unsafe clinux_socket_open(scratch)
        guard probe >= 0 else { return false }
        defer { clinux_close(probe) }
        _ = clinux_descriptor_set_nonblocking(probe)
        return unsafe clinux_socket_connect(probe, scratch, length) == -ErrorNumber
            .connectionRefused
    }

    package nonisolated(nonsending) func connect(
        to address: StreamAddress, deadline: Instant
    ) async throws(IOFault) -> RingStream {
        executor.checkThread()
        // SAFETY: the scratch is this function's, also while it is suspended, until it is given
        // back.
        let scratch = unsafe takeScratch()
        defer { unsafe giveBack(scratch) }
        let length = try unsafe write(address, to: scratch)
        let descriptor = unsafe clinux_socket_open(scratch)
        guard descriptor >= 0 else { throw .system(-descriptor) }
        let operation = unsafe Operation(
            .connect, descriptor: descriptor, scratch: scratch, length: length)
        let result = await perform(operation, deadline: deadline)
        guard result >= 0 else {
            clinux_close(descriptor)
            throw Outcome.fault(result)
        }
        return RingStream(reactor: self, descriptor: descriptor)
    }

    package func adopt(_ connection: AcceptedSocket) -> RingStream {
        executor.checkThread()
        return RingStream(reactor: self, descriptor: connection.take())
    }

    package func release(_ stream: RingStream) -> AcceptedSocket? {
        stream.release()
    }

    /// Takes over a connected stream socket, for instance one end of socketpair(2).
    package func adopt(descriptor: Int32) -> RingStream {
        executor.checkThread()
        return RingStream(reactor: self, descriptor: descriptor)
    }

    /// Writes `address` as the kernel wants it; throws `.system(EINVAL)` for what is no address.
    private func write(
        _ address: StreamAddress, to scratch: UnsafeMutablePointer<clinux_scratch>
    ) throws(IOFault) -> Int32 {
        // SAFETY: the scratch has room for any socket address; the text lives during the call.
        let length =
            switch address {
            case .unix(let path):
                unsafe path.withCString { unsafe clinux_address_unix(scratch, $0) }
            case .tcp(let host, let port):
                unsafe host.withCString { unsafe clinux_address_tcp(scratch, $0, port) }
            }
        try check(length)
        return length
    }
}

/// Throws the errno value that a negative `result` carries.
func check(_ result: Int32) throws(IOFault) {
    if result < 0 { throw .system(-result) }
}

/// The text and port of a TCP socket's own or peer's endpoint; nil when it has none.
func endpoint(of descriptor: Int32, peer: Bool) -> (host: String, port: UInt16)? {
    var port: UInt16 = 0
    let text = unsafe withUnsafeTemporaryAllocation(
        of: CChar.self, capacity: Int(CLINUX_ADDRESS_TEXT_BYTE_COUNT)
    ) { buffer -> String? in
        // SAFETY: the buffer has the size that the call expects, and ends up 0-terminated.
        guard let start = buffer.baseAddress else { return nil }
        guard unsafe clinux_socket_name(descriptor, peer, start, &port) == 0 else { return nil }
        return unsafe String(cString: start)
    }
    return text.map { ($0, port) }
}
