// SPDX-License-Identifier: Apache-2.0
internal import CLinux

/// What a test makes an operation do.
package enum InjectedFault: Hashable, Sendable {
    /// The operation does not reach the kernel and fails with this errno value.
    case failure(errorNumber: Int32)
    /// The operation moves at most this many bytes, as kernels may do at any time.
    case short(byteCount: UInt32)
}

/// The faults that are armed on a reactor; empty outside of tests. Confined to its thread.
struct FaultInjector {
    private struct Armed {
        let fault: InjectedFault
        let kind: OperationKind
        var skipCount: Int
    }

    private var armed: [Armed] = []

    /// Whether there is anything to look at: all that an operation pays in production.
    var isArmed: Bool { !armed.isEmpty }

    mutating func arm(_ fault: InjectedFault, kind: OperationKind, skipCount: Int) {
        armed.append(Armed(fault: fault, kind: kind, skipCount: skipCount))
    }

    /// Changes the operation if its turn has come.
    /// - Returns: the result to report in place of the kernel's; 0: none.
    mutating func apply(to operation: inout Operation) -> Int32 {
        guard let kind = operation.kind else { return 0 }
        for index in armed.indices where armed[index].kind == kind {
            if armed[index].skipCount > 0 {
                armed[index].skipCount -= 1
                continue
            }
            switch armed.remove(at: index).fault {
            case .failure(let errorNumber):
                operation.raw.opcode = OperationKind.nothing.rawValue
                return -errorNumber
            case .short(let byteCount):
                operation.raw.length = min(operation.raw.length, byteCount)
                return 0
            }
        }
        return 0
    }
}
