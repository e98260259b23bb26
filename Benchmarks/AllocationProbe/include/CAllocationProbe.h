// SPDX-License-Identifier: Apache-2.0
//
// Counts heap allocations of chosen threads by standing before glibc's allocator. Link it into an
// executable of its own: in a test bundle it would see every other test. Not for sanitizers.
#ifndef CALLOCATIONPROBE_H
#define CALLOCATIONPROBE_H

/// Begins (1) or ends (0) counting the calling thread's allocations.
void allocation_probe_count_this_thread(int counting);

/// Allocations counted since the last reset, over all threads.
long allocation_probe_count(void);

/// Sets the count to 0.
void allocation_probe_reset(void);

#endif
