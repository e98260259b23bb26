// SPDX-License-Identifier: Apache-2.0
#include "CKernels.h"

#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>
#if defined(__x86_64__)
#include <xxh_x86dispatch.h>
#endif

_Static_assert(sizeof(XXH3_state_t) <= CKERNELS_XXH3_STATE_BYTE_COUNT, "XXH3 state grew");

uint64_t ckernels_xxh3_64(const void *bytes, size_t byte_count) {
    return XXH3_64bits(bytes, byte_count);
}

void ckernels_xxh3_reset(void *state) {
    (void)XXH3_64bits_reset((XXH3_state_t *)state);
}

void ckernels_xxh3_update(void *state, const void *bytes, size_t byte_count) {
    (void)XXH3_64bits_update((XXH3_state_t *)state, bytes, byte_count);
}

uint64_t ckernels_xxh3_digest(const void *state) {
    return XXH3_64bits_digest((const XXH3_state_t *)state);
}
