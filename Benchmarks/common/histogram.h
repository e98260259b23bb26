// SPDX-License-Identifier: Apache-2.0
//
// Latencies in buckets of at most 0.8 % width: exact below 128 ns, then 128 buckets an octave.
#ifndef HISTOGRAM_H
#define HISTOGRAM_H

#include <stdint.h>

enum {
    HISTOGRAM_BUCKETS_PER_OCTAVE_LOG2 = 7,
    HISTOGRAM_OCTAVE_COUNT = 34,  // up to 2^40 ns, 18 minutes
    HISTOGRAM_BUCKET_COUNT = (HISTOGRAM_OCTAVE_COUNT + 1) << HISTOGRAM_BUCKETS_PER_OCTAVE_LOG2,
};

struct histogram {
    uint64_t sample_count;
    uint64_t buckets[HISTOGRAM_BUCKET_COUNT];
};

void histogram_add(struct histogram *histogram, uint64_t nanoseconds);
void histogram_merge(struct histogram *into, const struct histogram *from);
// The latency that `fraction` of the samples do not exceed, in microseconds; 0 without samples.
double histogram_microseconds(const struct histogram *histogram, double fraction);

#endif
