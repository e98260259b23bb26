// SPDX-License-Identifier: Apache-2.0

internal import Glibc
package import KVCore

/// An open file on a simulated disk. Confined to its reactor.
package final class SimulatedFile: BlockFile {
    private let reactor: SimulatedReactor
    private let blocks: SimulatedBlocks
    private let mode: FileMode
    private var isOpen = true

    init(reactor: SimulatedReactor, blocks: SimulatedBlocks, mode: FileMode) {
        self.reactor = reactor
        self.blocks = blocks
        self.mode = mode
        reactor.openFileCountNow += 1
    }

    package nonisolated(nonsending) func read(
        into buffer: PinnedBytes, at offset: UInt64
    ) async throws(IOFault) {
        try check(buffer, offset: offset)
        let disk = reactor.disk
        _ = try await reactor.suspend(.read, deadline: .distantFuture) { operation in
            let delay = disk.transferDelay(byteCount: buffer.count)
            disk.scheduler.after(nanoseconds: delay) { [self] in
                guard operation.isUnderWay else { return }
                disk.operationCount += 1
                disk.scheduler.record(.fileRead, reactor: reactor.index, size: buffer.count)
                guard !disk.random.happens(permille: disk.faults.readErrorPermille),
                    !disk.isLost(blocks.path)
                else {
                    disk.faultCounts.readErrors += 1
                    return operation.end(.failure(.system(EIO)))
                }
                guard offset + UInt64(buffer.count) <= blocks.byteCount else {
                    return operation.end(.failure(.closed))
                }
                if disk.random.happens(permille: disk.faults.bitRotPermille), buffer.count > 0 {
                    let bit = offset * 8 + disk.random.below(UInt64(buffer.count) * 8)
                    disk.scheduler.record(
                        .bitRotted, reactor: reactor.index, size: Int(truncatingIfNeeded: bit))
                    blocks.flip(bit: bit)
                }
                blocks.read(into: buffer, at: offset)
                operation.end(.success(buffer.count))
            }
        }.get()
    }

    package nonisolated(nonsending) func write(
        _ bytes: PinnedBytes, at offset: UInt64
    ) async throws(IOFault) {
        guard mode != .readOnly else { throw .system(EBADF) }
        try check(bytes, offset: offset)
        let disk = reactor.disk
        let write = SimulatedBlocks.WriteUnderWay(offset: offset, source: bytes)
        _ = try await reactor.suspend(.write, deadline: .distantFuture) { operation in
            blocks.begin(write)
            operation.onEnd = { [blocks] in blocks.forget(write) }
            let delay = disk.transferDelay(byteCount: bytes.count)
            disk.scheduler.after(nanoseconds: delay) { [self] in
                guard operation.isUnderWay else { return }
                disk.operationCount += 1
                disk.scheduler.record(.fileWritten, reactor: reactor.index, size: bytes.count)
                guard !disk.isLost(blocks.path) else {
                    disk.faultCounts.writeErrors += 1
                    return operation.end(.failure(.system(EIO)))
                }
                guard blocks.reserve(offset: offset, byteCount: bytes.count) else {
                    disk.faultCounts.spaceErrors += 1
                    return operation.end(.failure(.system(ENOSPC)))
                }
                let fails = disk.random.happens(permille: disk.faults.writeErrorPermille)
                if fails { disk.faultCounts.writeErrors += 1 }
                // A write that failed may be there all the same.
                if !fails || disk.random.below(2) == 0 { blocks.land(write) }
                operation.end(fails ? .failure(.system(EIO)) : .success(bytes.count))
            }
        }.get()
    }

    package nonisolated(nonsending) func synchronize() async throws(IOFault) {
        let disk = reactor.disk
        // Covers what was written before the call, not what is written meanwhile.
        let number = blocks.writeNumber
        _ = try await reactor.suspend(.synchronize, deadline: .distantFuture) { operation in
            disk.scheduler.after(nanoseconds: disk.delay(byteCount: 0)) { [self] in
                guard operation.isUnderWay else { return }
                disk.operationCount += 1
                disk.scheduler.record(.fileSynchronized, reactor: reactor.index)
                guard !disk.random.happens(permille: disk.faults.synchronizeErrorPermille),
                    !disk.isLost(blocks.path)
                else {
                    disk.faultCounts.synchronizeErrors += 1
                    blocks.doom(upTo: number)
                    return operation.end(.failure(.system(EIO)))
                }
                blocks.makeDurable(upTo: number)
                operation.end(.success(0))
            }
        }.get()
    }

    package func close() {
        guard isOpen else { return }
        isOpen = false
        reactor.openFileCountNow -= 1
    }

    private func check(_ bytes: PinnedBytes, offset: UInt64) throws(IOFault) {
        if !isOpen { reactor.scheduler.fail("a file was used after close()") }
        guard mode == .readWriteDirect else { return }
        // SAFETY: the address is looked at, not followed.
        let address = unsafe UInt(bitPattern: bytes.start)
        let unit = UInt(SimulatedBlocks.pageByteCount)
        guard address.isMultiple(of: unit), UInt(bytes.count).isMultiple(of: unit),
            UInt(offset).isMultiple(of: unit)
        else { throw .system(EINVAL) }
    }
}
