// SPDX-License-Identifier: Apache-2.0

/// A directory of block files on one file system, owned by one process: opens, reserves, renames
/// and removes files by their names in it. A name is one path component.
///
/// Every call blocks for the time of its system calls, which a full or slow disk can make seconds:
/// for start-up and for the disk's own thread. Any thread, any number of them at a time. Errors are
/// `.system` with the `errno` value, and `.closed` after `close`. Only regular files are seen:
/// symbolic links are neither listed nor followed.
package protocol BlockDirectory: AnyObject, Sendable {
    /// An open file that every reactor of the process may use, by `Reactor.attach`. Closed when
    /// nobody refers to it: neither a holder of the handle nor a view that is not closed.
    associatedtype Handle: Sendable

    /// The path that it was opened by.
    var path: String { get }

    /// The names of the files, in no order, with that of the lock (see `lock`). Names that are no
    /// UTF-8 are left out. Takes time and memory by the number of entries.
    func fileNames() throws(IOFault) -> [String]

    /// The size of a file; nil when there is none of that name.
    func byteCount(of name: String) throws(IOFault) -> UInt64?

    /// Opens a file; new ones are for the same user alone. `.readWriteDirect` throws
    /// `.system(EINVAL)` where the file system has no O_DIRECT (the file may be there all the
    /// same, empty).
    func open(_ name: String, _ mode: FileMode) throws(IOFault) -> Handle

    /// Makes the file at least `byteCount` long, creating it when missing, with all blocks up to
    /// there reserved (fallocate(2)) and its size durable. What was never written reads as zeros.
    ///
    /// Throws `.system(ENOSPC)` when there is not that much space and `.system(EOPNOTSUPP)` where
    /// the file system cannot reserve. After an error the file is as long as before; one that was
    /// created here is removed again.
    func preallocate(_ name: String, byteCount: UInt64) throws(IOFault)

    /// Removes a file; throws `.system(ENOENT)` when there is none of that name. Open handles of
    /// it stay good, and its space is free when the last of them is closed.
    func remove(_ name: String) throws(IOFault)

    /// Gives a file another name, atomically, over what has that name already (rename(2)).
    func rename(_ name: String, to newName: String) throws(IOFault)

    /// Makes creations, renames and removals so far durable (fsync(2) of the directory).
    func synchronize() throws(IOFault)

    /// The space of the file system that unprivileged users may still fill (f_bavail of
    /// statvfs(3)).
    func freeByteCount() throws(IOFault) -> UInt64

    /// Takes the directory for this process, until `close` or the end of the process, by flock(2)
    /// on its file `lock`, which is created when missing and must never be removed.
    ///
    /// Throws `.busy` when another process has it, or another object that was opened on the same
    /// directory. Does nothing when this object has it already.
    func lock() throws(IOFault)

    /// Ends the use of the directory and gives its lock back. Handles stay good. May be called
    /// twice.
    func close()
}
