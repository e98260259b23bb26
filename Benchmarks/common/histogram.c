// SPDX-License-Identifier: Apache-2.0
#include "histogram.h"

static unsigned bucket_index(uint64_t nanoseconds) {
    const unsigned sub_log2 = HISTOGRAM_BUCKETS_PER_OCTAVE_LOG2;
    if (nanoseconds < (1u << sub_log2)) return (unsigned)nanoseconds;
    const unsigned octave = 63u - (unsigned)__builtin_clzll(nanoseconds) - sub_log2;
    const unsigned sub = (unsigned)(nanoseconds >> octave) - (1u << sub_log2);
    const unsigned index = ((octave + 1) << sub_log2) + sub;
    return index < HISTOGRAM_BUCKET_COUNT ? index : HISTOGRAM_BUCKET_COUNT - 1;
}

// The middle of a bucket.
static double bucket_nanoseconds(unsigned index) {
    const unsigned sub_log2 = HISTOGRAM_BUCKETS_PER_OCTAVE_LOG2;
    if (index < (1u << sub_log2)) return index;
    const unsigned octave = (index >> sub_log2) - 1;
    const double low =
        (double)(((uint64_t)(index & ((1u << sub_log2) - 1)) + (1u << sub_log2)) << octave);
    return low + (double)((uint64_t)1 << octave) / 2;
}

void histogram_add(struct histogram *histogram, uint64_t nanoseconds) {
    histogram->sample_count += 1;
    histogram->buckets[bucket_index(nanoseconds)] += 1;
}

void histogram_merge(struct histogram *into, const struct histogram *from) {
    into->sample_count += from->sample_count;
    for (unsigned index = 0; index < HISTOGRAM_BUCKET_COUNT; index += 1) {
        into->buckets[index] += from->buckets[index];
    }
}

double histogram_microseconds(const struct histogram *histogram, double fraction) {
    if (histogram->sample_count == 0) return 0;
    uint64_t rank = (uint64_t)(fraction * (double)histogram->sample_count + 0.5);
    if (rank == 0) rank = 1;
    uint64_t seen = 0;
    for (unsigned index = 0; index < HISTOGRAM_BUCKET_COUNT; index += 1) {
        seen += histogram->buckets[index];
        if (seen >= rank) return bucket_nanoseconds(index) / 1000;
    }
    return bucket_nanoseconds(HISTOGRAM_BUCKET_COUNT - 1) / 1000;
}
