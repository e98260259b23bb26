// SPDX-License-Identifier: Apache-2.0
internal import CLinux
package import KVCore
internal import Synchronization

/// A descriptor that whoever started this process passed to it (sd_listen_fds(3)), with its name.
/// Owns it; any thread.
package final class PassedDescriptor: Sendable {
    /// The first that is passed, by convention.
    private static let first: Int32 = 3

    package let name: String
    private let descriptor: Atomic<Int32>

    private init(name: String, descriptor: Int32) {
        self.name = name
        self.descriptor = Atomic(descriptor)
    }

    deinit {
        let left = descriptor.load(ordering: .relaxed)
        if left >= 0 { clinux_close(left) }
    }

    /// Takes over those that LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES tell the process of. Once.
    package static func all(
        environment: [String: String], processID: Int32
    ) -> [PassedDescriptor] {
        // The variables may have come by way of a parent that they were meant for.
        guard environment["LISTEN_PID"].flatMap({ Int32($0) }) == processID,
            let count = environment["LISTEN_FDS"].flatMap({ Int32($0) }),
            (1...Int32(Limits.passedDescriptorCountMax)).contains(count)
        else { return [] }
        let names = (environment["LISTEN_FDNAMES"] ?? "")
            .split(separator: ":", omittingEmptySubsequences: false)
        return (0..<count).compactMap { index in
            guard clinux_descriptor_claim(first + index) == 0 else { return nil }
            let name = Int(index) < names.count ? String(names[Int(index)]) : ""
            return PassedDescriptor(name: name, descriptor: first + index)
        }
    }

    /// Takes the connection out, with the address of this side; nil, once and for all, when it is
    /// no TCP socket, or not connected any more.
    package func takeConnection() -> (connection: AcceptedSocket, ownAddress: StreamAddress)? {
        let taken = descriptor.exchange(-1, ordering: .relaxed)
        guard taken >= 0 else { return nil }
        let connection = AcceptedSocket(descriptor: taken)
        guard clinux_socket_is_tcp_connection(taken) == 1,
            let own = endpoint(of: taken, peer: false)
        else { return nil }
        return (connection, .tcp(host: own.host, port: own.port))
    }

    /// Maps the first `byteCount` bytes of the memory file that this is, for reading. Throws
    /// `.system(EINVAL)` when it is none with a sealed size, or shorter. Once.
    package func takeMemory(byteCount: ByteCount) throws(IOFault) -> SharedMapping {
        let taken = descriptor.exchange(-1, ordering: .relaxed)
        guard taken >= 0 else { throw .system(ErrorNumber.invalid) }
        return try SharedMapping(descriptor: taken, byteCount: byteCount, access: .readOnly)
    }
}
