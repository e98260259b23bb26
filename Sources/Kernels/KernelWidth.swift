// SPDX-License-Identifier: Apache-2.0
internal import CKernels

/// A vector unit that the codec's kernels are written for. All give the same bytes.
package enum KernelWidth: UInt32, Hashable, Sendable, CaseIterable {
    case scalar = 0
    case neon = 1
    case avx2 = 2
    case avx512 = 3
    /// With sums of products of bytes.
    case avx512VNNI = 4

    /// Whether this CPU has it.
    package var isAvailable: Bool { ckernels_has_width(rawValue) != 0 }

    /// What kernels run on unless told otherwise.
    package static let widest = allCases.last { $0.isAvailable } ?? .scalar
}
