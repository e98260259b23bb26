// SPDX-License-Identifier: Apache-2.0
internal import CLinux
package import KVCore
internal import Synchronization

extension RingReactor {
    /// Opens a directory, which must exist; blocks for the time of open(2).
    package func openDirectory(_ path: String) throws(IOFault) -> RingDirectory {
        executor.checkThread()
        return try RingDirectory(path: path)
    }

    /// A view of the file for this reactor.
    package func attach(_ handle: RingFileHandle) -> RingFile {
        executor.checkThread()
        return RingFile(reactor: self, handle: handle)
    }
}

/// An open descriptor, closed when nobody refers to it. Any thread.
package final class RingFileHandle: Sendable {
    let descriptor: Int32

    /// Takes `descriptor` over.
    init(descriptor: Int32) { self.descriptor = descriptor }

    deinit { clinux_close(descriptor) }
}

/// A directory by its descriptor, so that it stays the same one whatever happens to its path. Any
/// thread: each call holds the descriptor while it runs, and `close` only lets go of it.
package final class RingDirectory: BlockDirectory {
    private struct State: Sendable {
        var directory: RingFileHandle?
        var lock: RingFileHandle?
    }

    package let path: String
    private let state: Mutex<State>

    fileprivate init(path: String) throws(IOFault) {
        // SAFETY: the text lives during the call.
        let descriptor = unsafe path.withCString { unsafe clinux_directory_open($0) }
        try check(descriptor)
        self.path = path
        state = Mutex(State(directory: RingFileHandle(descriptor: descriptor)))
    }

    package func fileNames() throws(IOFault) -> [String] {
        var names: [String] = []
        // SAFETY: the listing is closed once, and a name is copied before the next is asked for.
        try call { directory in
            var listing: OpaquePointer?
            let error = unsafe clinux_listing_open(directory, &listing)
            guard error == 0 else { return error }
            defer { unsafe clinux_listing_close(listing) }
            while true {
                var name: UnsafePointer<CChar>?
                let result = unsafe clinux_listing_next(listing, &name)
                guard result > 0, let name = unsafe name else { return result }
                if let name = unsafe String(validatingCString: name) { names.append(name) }
            }
        }
        return names
    }

    package func byteCount(of name: String) throws(IOFault) -> UInt64? {
        do throws(IOFault) {
            // SAFETY: the text lives during the call.
            return try UInt64(
                call { directory in
                    unsafe name.withCString { unsafe clinux_directory_byte_count(directory, $0) }
                })
        } catch .system(ErrorNumber.noEntry) {
            return nil
        }
    }

    package func open(
        _ name: String, _ mode: FileMode
    ) throws(IOFault) -> RingFileHandle {
        // SAFETY: the text lives during the call.
        let descriptor = try call { directory in
            unsafe name.withCString { unsafe clinux_file_open_in(directory, $0, mode.number) }
        }
        return RingFileHandle(descriptor: descriptor)
    }

    package func preallocate(_ name: String, byteCount: UInt64) throws(IOFault) {
        // SAFETY: the text lives during the call.
        try call { directory in
            unsafe name.withCString {
                unsafe clinux_directory_preallocate(directory, $0, byteCount)
            }
        }
    }

    package func remove(_ name: String) throws(IOFault) {
        // SAFETY: the text lives during the call.
        try call { directory in
            unsafe name.withCString { unsafe clinux_directory_remove(directory, $0) }
        }
    }

    package func rename(_ name: String, to newName: String) throws(IOFault) {
        // SAFETY: the texts live during the call.
        try call { directory in
            unsafe name.withCString { name in
                unsafe newName.withCString { newName in
                    unsafe clinux_directory_rename(directory, name, newName)
                }
            }
        }
    }

    package func synchronize() throws(IOFault) {
        try call { clinux_directory_synchronize($0) }
    }

    package func freeByteCount() throws(IOFault) -> UInt64 {
        try UInt64(call { clinux_directory_free_byte_count($0) })
    }

    package func lock() throws(IOFault) {
        let result = state.withLock { state -> Int32? in
            guard let directory = state.directory else { return nil }
            guard state.lock == nil else { return 0 }
            // SAFETY: the text lives during the call.
            let descriptor = unsafe clinux_directory_lock(directory.descriptor, "lock")
            guard descriptor >= 0 else { return descriptor }
            state.lock = RingFileHandle(descriptor: descriptor)
            return 0
        }
        guard let result else { throw .closed }
        if result == -ErrorNumber.tryAgain { throw .busy }
        try check(result)
    }

    package func close() {
        state.withLock { state in
            if let lock = state.lock { clinux_directory_unlock(lock.descriptor) }
            state = State()
        }
    }

    /// Runs `body` with the descriptor, which stays open meanwhile; a negative result is an errno.
    @discardableResult
    private func call<Number: SignedInteger>(
        _ body: (Int32) -> Number
    ) throws(IOFault) -> Number {
        guard let directory = state.withLock({ $0.directory }) else { throw .closed }
        let result = withExtendedLifetime(directory) { body(directory.descriptor) }
        guard result >= 0 else { throw .system(Int32(-result)) }
        return result
    }
}
