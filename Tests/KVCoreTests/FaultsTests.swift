// SPDX-License-Identifier: Apache-2.0
import Glibc
import KVCore
import Testing

@Suite struct `An I/O fault` {
    @Test func `has words for an operator, and the kernel's number`() {
        #expect("\(IOFault.noSpace)" == "No space left on device, errno \(ENOSPC)")
        #expect("\(IOFault.readOnlyFileSystem)" == "Read-only file system, errno \(EROFS)")
        #expect("\(IOFault.inputOutput)" == "Input/output error, errno \(EIO)")
        #expect("\(IOFault.invalidArgument)" == "Invalid argument, errno \(EINVAL)")
        let others: [IOFault] = [.closed, .deadlineExceeded, .cancelled, .busy]
        #expect(Set(others.map { "\($0)" }).count == others.count)
    }
}
