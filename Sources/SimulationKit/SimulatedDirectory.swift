// SPDX-License-Identifier: Apache-2.0

internal import Glibc
package import KVCore

/// A file of a simulated disk that any reactor of its host may attach.
// SAFETY: the blocks are touched on the scheduler's thread alone, as all of a simulated world is.
package struct SimulatedFileHandle: @unchecked Sendable {
    let blocks: SimulatedBlocks
    let mode: FileMode
}

/// A directory of a simulated disk: the file `name` of it is the disk's file `path/name`.
///
/// Calls take no virtual time, and every change is durable at once. Any reactor of the process may
/// call it. After a crash of the host all calls throw `.cancelled` and change nothing; after the
/// mere stop of its reactor they work, as in production, except that the lock counts as given back.
// SAFETY: confined to its scheduler's thread, which each call checks.
package final class SimulatedDirectory: BlockDirectory, @unchecked Sendable {
    package let path: String
    let reactor: SimulatedReactor
    private let disk: SimulatedDisk
    private var isOpen = true

    init(path: String, reactor: SimulatedReactor) throws(IOFault) {
        try reactor.disk.openDirectory(path)
        self.path = path
        self.reactor = reactor
        disk = reactor.disk
    }

    package func fileNames() throws(IOFault) -> [String] {
        try check()
        return disk.fileNames(in: path)
    }

    package func byteCount(of name: String) throws(IOFault) -> UInt64? {
        try disk.byteCount(of: filePath(name))
    }

    package func open(
        _ name: String, _ mode: FileMode
    ) throws(IOFault) -> SimulatedFileHandle {
        try SimulatedFileHandle(blocks: disk.open(filePath(name), mode), mode: mode)
    }

    package func preallocate(_ name: String, byteCount: UInt64) throws(IOFault) {
        let path = try filePath(name)
        guard byteCount <= UInt64(Int64.max) else { throw .system(EFBIG) }
        record(.filePreallocated, size: Int(byteCount))
        try disk.preallocate(path, byteCount: byteCount)
    }

    package func remove(_ name: String) throws(IOFault) {
        let path = try filePath(name)
        record(.fileRemoved)
        try disk.remove(path)
    }

    package func rename(_ name: String, to newName: String) throws(IOFault) {
        let path = try filePath(name)
        let newPath = try filePath(newName)
        record(.fileRenamed)
        try disk.rename(path, to: newPath)
    }

    package func synchronize() throws(IOFault) {
        try check()
    }

    package func freeByteCount() throws(IOFault) -> UInt64 {
        try check()
        return disk.freeByteCount
    }

    package func lock() throws(IOFault) {
        let file = try filePath("lock")
        record(.directoryLocked)
        _ = try disk.open(file, .readWrite)
        try disk.lock(path, for: self)
    }

    package func close() {
        guard isOpen else { return }
        isOpen = false
        disk.unlock(self)
    }

    private func filePath(_ name: String) throws(IOFault) -> String {
        try check()
        return path + "/" + name
    }

    private func check() throws(IOFault) {
        precondition(
            reactor.scheduler.isOnItsThread, "a simulated directory was used outside its thread")
        guard !reactor.hasVanished else { throw .cancelled }
        guard isOpen else { throw .closed }
        guard !disk.isLost(path) else { throw .system(EIO) }
    }

    private func record(_ kind: SimulationTrace.Kind, size: Int = 0) {
        disk.operationCount += 1
        reactor.scheduler.record(kind, reactor: reactor.index, size: size)
    }
}
