// SPDX-License-Identifier: Apache-2.0

internal import KVCore

/// One call of the seam that is suspended: it ends exactly once, by success, by fault, by its
/// deadline or by the end of its reactor. Confined to the scheduler's thread.
final class SimulatedOperation {
    enum Kind: Int {
        case sleep = 1
        case yield, connect, accept, receive, send, read, write, synchronize
    }

    let kind: Kind
    private let reactor: SimulatedReactor
    private var continuation: CheckedContinuation<Result<Int, IOFault>, Never>?
    private var deadline: SimulatedEvent?
    /// Bytes that a send or receive moves at most.
    var byteCountMax = 0
    /// Bytes of a receive that are in the caller's buffer already.
    var transferredByteCount = 0
    /// Takes the operation out of whatever waits for it; runs once, before the caller resumes.
    var onEnd: (() -> Void)?

    init(
        kind: Kind, reactor: SimulatedReactor,
        continuation: CheckedContinuation<Result<Int, IOFault>, Never>
    ) {
        self.kind = kind
        self.reactor = reactor
        self.continuation = continuation
    }

    var isUnderWay: Bool { continuation != nil }

    /// Has the operation end with `.deadlineExceeded` at `instant`.
    func expire(at instant: Instant) {
        guard instant != .distantFuture else { return }
        deadline = reactor.scheduler.at(instant) { [self] in
            end(.failure(.deadlineExceeded))
        }
    }

    /// Ends the operation; the caller resumes `nanoseconds` later. Does nothing a second time.
    func end(_ result: Result<Int, IOFault>, afterNanoseconds nanoseconds: UInt64 = 0) {
        guard let continuation else { return }
        self.continuation = nil
        deadline?.cancel()
        deadline = nil
        let onEnd = onEnd
        self.onEnd = nil
        onEnd?()
        reactor.forget(self)
        let scheduler = reactor.scheduler
        let index = reactor.index
        let kind = kind
        // By an event in any case: a continuation resumes within a run alone, where its job cannot
        // get away to the real global pool.
        scheduler.after(nanoseconds: nanoseconds) {
            switch result {
            case .success(let value):
                scheduler.record(.resumed, reactor: index, size: kind.rawValue << 32 | value)
            case .failure(let fault):
                scheduler.record(.failed, reactor: index, size: kind.rawValue << 32 | fault.number)
            }
            continuation.resume(returning: result)
        }
    }
}

extension IOFault {
    /// A number for the trace.
    var number: Int {
        switch self {
        case .closed: 1
        case .deadlineExceeded: 2
        case .cancelled: 3
        case .busy: 4
        case .system(let code): 1_000 + Int(code)
        }
    }
}
