// SPDX-License-Identifier: Apache-2.0
internal import CLinux
internal import KVCore

/// What an operation does; the numbers are those of CLinux.h.
package enum OperationKind: UInt8, CaseIterable, Sendable {
    case nothing = 0
    case accept = 1
    case connect = 2
    case receive = 3
    case send = 4
    case receiveMessage = 5
    case sendMessage = 6
    case read = 7
    case write = 8
    case synchronize = 9
}

/// One operation, ready to be submitted to either backend. A value without ownership: whoever
/// submits it keeps descriptor and memory alive until its completion.
struct Operation {
    var raw = clinux_operation()

    init(_ kind: OperationKind, descriptor: Int32) {
        raw.opcode = kind.rawValue
        raw.descriptor = descriptor
        raw.buffer_index = UInt16(CLINUX_NO_BUFFER_INDEX)
    }

    /// The operation on a run of at most `ReactorLimits.operationByteCountMax` bytes.
    init(_ kind: OperationKind, descriptor: Int32, _ bytes: PinnedBytes, flags: UInt32 = 0) {
        self.init(kind, descriptor: descriptor)
        // SAFETY: only stored; the submitter keeps the run alive until the completion.
        raw.address = unsafe UInt64(UInt(bitPattern: bytes.start))
        raw.length = UInt32(min(bytes.count, ReactorLimits.operationByteCountMax))
        raw.flags = flags
    }

    /// The operation on a message or an address of `length` bytes in `scratch`.
    init(
        _ kind: OperationKind,
        descriptor: Int32,
        scratch: UnsafeMutablePointer<clinux_scratch>,
        length: Int32 = 0,
        flags: UInt32 = 0
    ) {
        self.init(kind, descriptor: descriptor)
        // SAFETY: only stored; the submitter keeps the scratch alive until the completion.
        raw.address = UInt64(UInt(bitPattern: scratch))
        raw.length = UInt32(length)
        raw.flags = flags
    }

    var kind: OperationKind? { OperationKind(rawValue: raw.opcode) }
}

/// Results: what a completion says, in one number.
///
/// Not negative: the kernel's count or descriptor. -4095...-1: an errno value. Below: ours.
enum Outcome {
    static let deadlineExceeded: Int32 = -10_001
    static let cancelled: Int32 = -10_002
    static let busy: Int32 = -10_003

    /// The fault that a negative `result` stands for.
    static func fault(_ result: Int32) -> IOFault {
        switch result {
        case deadlineExceeded: .deadlineExceeded
        case cancelled: .cancelled
        case busy: .busy
        case -ErrorNumber.connectionReset, -ErrorNumber.brokenPipe, -ErrorNumber.notConnected:
            .closed
        default: .system(-result)
        }
    }
}

/// The errno values that this module looks at (errno(3); the same on all Linux machines we run on).
enum ErrorNumber {
    static let noEntry: Int32 = 2
    static let interrupted: Int32 = 4
    static let tryAgain: Int32 = 11
    static let noMemory: Int32 = 12
    static let invalid: Int32 = 22
    static let brokenPipe: Int32 = 32
    static let noSystemCall: Int32 = 38
    static let notPermitted: Int32 = 1
    static let accessDenied: Int32 = 13
    static let deviceBusy: Int32 = 16
    static let timeExpired: Int32 = 62
    static let notSupported: Int32 = 95
    static let addressInUse: Int32 = 98
    static let connectionAborted: Int32 = 103
    static let connectionReset: Int32 = 104
    static let notConnected: Int32 = 107
    static let connectionRefused: Int32 = 111
    static let inProgress: Int32 = 115
    static let cancelled: Int32 = 125
}
