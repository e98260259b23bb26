// SPDX-License-Identifier: Apache-2.0
internal import CLinux
package import KVCore

extension RingReactor {
    /// Opens a file; blocks for the time of open(2). New files are for the same user alone.
    package func openFile(_ path: String, _ mode: FileMode) throws(IOFault) -> RingFile {
        executor.checkThread()
        // SAFETY: the text lives during the call.
        let descriptor = unsafe path.withCString { unsafe clinux_file_open($0, mode.number) }
        try check(descriptor)
        return RingFile(reactor: self, handle: RingFileHandle(descriptor: descriptor))
    }
}

extension FileMode {
    /// The mode as CLinux counts it.
    var number: Int32 {
        let number =
            switch self {
            case .readOnly: CLINUX_OPEN_READ_ONLY
            case .readWrite: CLINUX_OPEN_READ_WRITE
            case .readWriteDirect: CLINUX_OPEN_DIRECT
            }
        return Int32(number)
    }
}

/// A file, confined to its reactor's executor. Any number of reads and writes at a time; they
/// complete in any order. On the poll backend each of them blocks the reactor's thread.
package final class RingFile: BlockFile {
    private let reactor: RingReactor
    private let descriptor: Int32
    /// Keeps the descriptor open; nil once the file was closed.
    private var handle: RingFileHandle?
    private var operationCount = 0

    init(reactor: RingReactor, handle: RingFileHandle) {
        self.reactor = reactor
        descriptor = handle.descriptor
        self.handle = handle
    }

    package nonisolated(nonsending) func read(
        into buffer: PinnedBytes, at offset: UInt64
    ) async throws(IOFault) {
        try await transfer(.read, buffer, offset)
    }

    package nonisolated(nonsending) func write(
        _ bytes: PinnedBytes, at offset: UInt64
    ) async throws(IOFault) {
        try await transfer(.write, bytes, offset)
    }

    private nonisolated(nonsending) func transfer(
        _ kind: OperationKind, _ bytes: PinnedBytes, _ offset: UInt64
    ) async throws(IOFault) {
        var done = 0
        while done < bytes.count {
            var operation = Operation(kind, descriptor: descriptor, bytes.dropFirst(done))
            operation.raw.offset = offset + UInt64(done)
            let moved = try await perform(operation)
            guard moved > 0 else { throw .closed }
            done += moved
        }
    }

    package nonisolated(nonsending) func synchronize() async throws(IOFault) {
        _ = try await perform(Operation(.synchronize, descriptor: descriptor))
    }

    private nonisolated(nonsending) func perform(
        _ operation: Operation
    ) async throws(IOFault) -> Int {
        while true {
            invariant(handle != nil, "a closed file was used")
            operationCount += 1
            let result = await reactor.perform(operation)
            operationCount -= 1
            if result >= 0 { return Int(result) }
            if result != -ErrorNumber.interrupted && result != -ErrorNumber.tryAgain {
                throw Outcome.fault(result)
            }
        }
    }

    package func close() {
        reactor.executor.checkThread()
        invariant(operationCount == 0, "a file was closed with operations under way")
        handle = nil
    }
}
