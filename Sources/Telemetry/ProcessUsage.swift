// SPDX-License-Identifier: Apache-2.0

import Glibc

/// What this process has used. Any thread.
package enum ProcessUsage {
    /// User and system time of all threads since the start (clock_gettime(2),
    /// CLOCK_PROCESS_CPUTIME_ID).
    package static func cpuMicroseconds() -> UInt64 {
        var time = timespec()
        // SAFETY: the call fills in the structure that it is given.
        guard unsafe clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time) == 0 else { return 0 }
        return UInt64(time.tv_sec) * 1_000_000 + UInt64(time.tv_nsec) / 1_000
    }
}
