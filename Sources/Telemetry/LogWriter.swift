// SPDX-License-Identifier: Apache-2.0

import Glibc
import Logging
import Synchronization

/// Takes log lines from any thread and writes them from a thread of its own, so that a full pipe
/// or a stopped terminal behind standard error stalls nobody.
///
/// What does not fit the buffer is dropped and counted; the next line that fits is preceded by one
/// that tells how many were lost. The queue's lock is a leaf and is never held during a write.
package final class LogWriter: Sendable {
    private struct Queue {
        var bytes: [UInt8] = []
        var droppedCount = 0
        var isStopping = false
        var isWriting = false
    }

    /// A few thousand lines: a burst fits, a reader that is gone costs no more memory than this.
    package static let bufferByteCountMax = 512 << 10

    private let queue = Mutex(Queue())
    private let wake = Semaphore()
    package let form: LogLine.Form
    private let descriptor: Int32
    private let metrics: Metrics

    /// Writes to `descriptor`, which it does not own, and counts losses in `metrics`.
    package init(descriptor: Int32, form: LogLine.Form, metrics: Metrics) {
        self.descriptor = descriptor
        self.form = form
        self.metrics = metrics
        startThread { [self] in run() }
    }

    /// Queues `line`, or drops and counts it. Never waits for the reader of the log.
    package func write(_ line: [UInt8]) {
        let isQueued = queue.withLock { queue in
            let room = Self.bufferByteCountMax - queue.bytes.count
            guard !queue.isStopping, line.count <= room else {
                queue.droppedCount += 1
                return false
            }
            queue.bytes += line
            return true
        }
        if isQueued { wake.signal() } else { metrics.add(.logLinesDropped) }
    }

    /// Waits until all lines so far are written, at most `milliseconds`; for the end of `main`.
    package func flush(milliseconds: Int) {
        for _ in 0..<max(1, milliseconds) {
            if queue.withLock({ $0.bytes.isEmpty && !$0.isWriting }) { return }
            usleep(1_000)
        }
    }

    /// Ends the thread once everything is written. Lines that come later are dropped.
    package func stop() {
        queue.withLock { $0.isStopping = true }
        wake.signal()
    }

    private func run() {
        while true {
            wake.wait()
            let (bytes, droppedCount, isStopping) = queue.withLock { queue in
                defer {
                    queue.bytes = []
                    queue.droppedCount = 0
                    queue.isWriting = true
                }
                return (queue.bytes, queue.droppedCount, queue.isStopping)
            }
            if droppedCount > 0 { writeAll(lossLine(droppedCount)) }
            writeAll(bytes)
            queue.withLock { $0.isWriting = false }
            if isStopping && bytes.isEmpty { return }
            if isStopping { wake.signal() }
        }
    }

    private func lossLine(_ count: Int) -> [UInt8] {
        let line = LogLine(
            time: .now(), level: .warning, message: "log lines were dropped: the buffer was full",
            metadata: ["event": "\(EventName.logLinesDropped.rawValue)", "count": "\(count)"])
        return line.bytes(form)
    }

    /// Blocks in this thread alone. A closed or failing log is no reason to stop a daemon.
    private func writeAll(_ bytes: [UInt8]) {
        var offset = 0
        while offset < bytes.count {
            // SAFETY: the kernel reads at most the bytes that the array holds from `offset` on.
            let count = unsafe bytes.withUnsafeBytes { buffer in
                let rest = unsafe UnsafeRawBufferPointer(rebasing: buffer[offset...])
                return unsafe Glibc.write(descriptor, rest.baseAddress, rest.count)
            }
            if count > 0 {
                offset += count
            } else if errno == EAGAIN {
                // Someone made the terminal non-blocking: wait for room.
                var poll = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                // SAFETY: one structure, as the count says.
                _ = unsafe Glibc.poll(&poll, 1, -1)
            } else if errno != EINTR {
                return
            }
        }
    }
}
