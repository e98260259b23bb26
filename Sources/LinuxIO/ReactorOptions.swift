// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// How a reactor is built. A value.
package struct ReactorOptions: Sendable {
    /// What carries the operations to the kernel.
    package enum Backend: String, Sendable, CaseIterable {
        /// io_uring, or poll with a warning where io_uring is forbidden or missing.
        case automatic
        /// io_uring or nothing.
        case ioUring
        /// io_uring as kernels before 6.1 have it; for tests.
        case olderIOUring
        /// epoll and non-blocking system calls; file operations block the reactor's thread.
        case poll
    }

    package var backend: Backend = .automatic
    /// The thread's name in ps(1); at most 15 bytes.
    package var name = "kvstore-io"
    /// The processor that the thread is bound to; nil: any.
    package var processor: Int?
    /// Operations and sleeps that may be under way at once; more are answered `.busy`. 32 bytes
    /// each, touched when used first. One idle connection holds one: a receive.
    package var operationCountMax = 65_536
    /// Memory to register with the ring, so that file operations on it need no page lookups.
    package var fixedBuffers: [PinnedBytes] = []
    /// Permissions of the files of Unix listeners: by default for the same user alone.
    package var socketFileMode: UInt32 = 0o600

    package init() {}
}

/// The bounds of the reactor, with their reasons.
enum ReactorLimits {
    /// Entries of the submission queue. A fuller round is submitted in several calls.
    static let submissionCount: UInt32 = 256
    /// Entries of the completion queue (64 KiB). The kernel keeps what does not fit (NODROP).
    static let completionCount: UInt32 = 4_096
    /// Completions handled per round, so that jobs and submissions get their turn.
    static let completionsPerRoundMax = 256
    /// Jobs run per round, so that completions get their turn.
    static let jobsPerRoundMax = 64
    /// Deadlines are looked at this often at most; they may pass late by as much.
    static let deadlineTickNanoseconds: UInt64 = 10_000_000
    /// Bytes per operation; results are 32-bit, and io_uring registers 1 GiB per buffer at most.
    static let operationByteCountMax = 1 << 30
    /// Sends and receives of more bytes than this count as transfers.
    static let transferByteCountMin = 64 << 10
    /// How often a connect to a Unix socket with a full backlog is tried again (poll backend).
    static let connectRetryNanoseconds: UInt64 = 5_000_000
    /// A TCP peer that vanished without a word is noticed after 60 + 6 × 10 seconds.
    static let keepAliveIdleSeconds: Int32 = 60
    static let keepAliveIntervalSeconds: Int32 = 10
    static let keepAliveProbeCount: Int32 = 6
}
