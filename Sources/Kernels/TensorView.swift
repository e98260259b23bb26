// SPDX-License-Identifier: Apache-2.0
internal import CKernels
package import KVCore

/// One layer's K or V as kernels see it: [row, head, channel], channels side by side. A value.
package struct TensorView {
    package enum Element: UInt32, Hashable, Sendable {
        case float16 = 0
        case bfloat16 = 1
        case float32 = 2
        /// Symbols as they are; to restore into only.
        case int8 = 3
        /// Any format of a byte; to split and join only.
        case float8 = 4

        package var byteCount: Int {
            switch self {
            case .float16, .bfloat16: 2
            case .float32: 4
            case .int8, .float8: 1
            }
        }
    }

    package struct Shape: Hashable, Sendable {
        package var rowCount: Int
        package let headCount: Int
        package let headWidth: Int
        package let element: Element

        package init(rowCount: Int, headCount: Int, headWidth: Int, element: Element) {
            self.rowCount = rowCount
            self.headCount = headCount
            self.headWidth = headWidth
            self.element = element
        }

        package var columnCount: Int { headCount * headWidth }
    }

    package let bytes: PinnedBytes
    package let shape: Shape
    package let rowStride: Int
    package let headStride: Int

    /// A view from the first of `bytes` on, strides in bytes; traps when a value lies outside.
    package init(_ bytes: PinnedBytes, _ shape: Shape, rowStride: Int, headStride: Int) {
        let byteCount = shape.headWidth * shape.element.byteCount
        let rows = max(shape.rowCount - 1, 0) * rowStride
        let last = rows + (shape.headCount - 1) * headStride + byteCount
        invariant(rowStride >= 0 && headStride >= 0, "strides go forward")
        invariant(shape.rowCount == 0 || last <= bytes.count, "the tensor lies within its bytes")
        self.bytes = bytes
        self.shape = shape
        self.rowStride = rowStride
        self.headStride = headStride
    }

    /// A view of values that lie side by side.
    package init(dense bytes: PinnedBytes, _ shape: Shape) {
        let head = shape.headWidth * shape.element.byteCount
        self.init(bytes, shape, rowStride: head * shape.headCount, headStride: head)
    }

    /// Runs `body` with the view as C knows it.
    func withTensor<Result>(_ body: (UnsafePointer<ckernels_tensor>) -> Result) -> Result {
        // SAFETY: `init` has checked that all values lie within the bytes; the pointer does not
        // outlive the call.
        var tensor = unsafe ckernels_tensor(
            start: bytes.start.assumingMemoryBound(to: UInt8.self), row_stride: rowStride,
            head_stride: headStride, row_count: UInt32(shape.rowCount),
            head_count: UInt32(shape.headCount), head_width: UInt32(shape.headWidth),
            element: shape.element.rawValue)
        return unsafe withUnsafePointer(to: &tensor) { unsafe body($0) }
    }
}

/// The list of values whose symbols are escapes: 8 bytes each, place (row * columns + column) and
/// value, both little-endian.
package enum EscapeList {
    package static let entryByteCount = 8

    /// Sorts the first `count` entries by place.
    static func sort(_ list: PinnedBytes, count: Int) {
        invariant(list.count >= count * entryByteCount, "entries lie within their bytes")
        // SAFETY: the count was just checked; kernels wrote entries of this type.
        var entries = unsafe UnsafeMutableBufferPointer(
            start: list.start.assumingMemoryBound(to: ckernels_escape.self), count: count)
        unsafe entries.sort { $0.position < $1.position }
    }
}
