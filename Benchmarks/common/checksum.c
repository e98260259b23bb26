// SPDX-License-Identifier: Apache-2.0
#include "checksum.h"

#if defined(__x86_64__)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

uint64_t checksum_xxh3(const void *bytes, size_t byte_count) {
    return XXH3_64bits(bytes, byte_count);
}
