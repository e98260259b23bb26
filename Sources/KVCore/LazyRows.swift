// SPDX-License-Identifier: Apache-2.0
internal import Glibc

/// A fixed number of rows of a trivial type, zero at first, in memory that the kernel provides as
/// rows are first written: a table may be as large as it could ever get and costs what it holds.
///
/// Confined to its owner. Every access is checked.
@safe
package struct LazyRows<Row: BitwiseCopyable>: ~Copyable {
    // SAFETY: `count` rows from calloc(3), freed in `deinit`.
    @usableFromInline
    let rows: UnsafeMutablePointer<Row>
    package let count: Int

    /// Rows whose bytes are all zero, which must be a valid `Row`.
    package init(count: Int) {
        invariant(count > 0, "a table has rows")
        // SAFETY: fresh zeroed memory for `count` rows; `Row` is trivial, so zero bytes that its
        // user declared valid need no initialization. Large runs come from mmap(2), untouched.
        guard let start = unsafe calloc(count, MemoryLayout<Row>.stride) else {
            preconditionFailure("the address space is exhausted")
        }
        unsafe rows = start.bindMemory(to: Row.self, capacity: count)
        self.count = count
    }

    deinit {
        // SAFETY: from calloc in `init`.
        unsafe free(rows)
    }

    /// The row at `index`; traps outside `0..<count`.
    @inlinable
    package subscript(index: Int) -> Row {
        get {
            invariant(index >= 0 && index < count, "a row outside its table")
            // SAFETY: the index was just checked.
            return unsafe rows[index]
        }
        // Neither `_modify` nor `nonmutating`: Swift 6.3.1 fails with the thread sanitizer.
        set {
            invariant(index >= 0 && index < count, "a row outside its table")
            // SAFETY: the index was just checked.
            unsafe rows[index] = newValue
        }
    }
}

// SAFETY: owns its memory alone; moving it moves the right to use it.
extension LazyRows: @unchecked Sendable where Row: Sendable {}
