// SPDX-License-Identifier: Apache-2.0
//
// Doorway to the kernels that run over chunk bytes. Plain C11, no allocation, no state, any thread.
#ifndef CKERNELS_H
#define CKERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "CKernelsCodec.h"

/// XXH3-64 with seed 0 of `byte_count` bytes; the CPU's widest vector unit is picked at run time.
uint64_t ckernels_xxh3_64(const void *bytes, size_t byte_count);

/// Bytes that a streaming XXH3 state occupies; the caller provides them, aligned to 64.
#define CKERNELS_XXH3_STATE_BYTE_COUNT 576

/// Begins a streaming XXH3-64 with seed 0 in `state`.
void ckernels_xxh3_reset(void *state);
/// Adds `byte_count` bytes.
void ckernels_xxh3_update(void *state, const void *bytes, size_t byte_count);
/// The hash of all bytes added since the reset; more may be added afterwards.
uint64_t ckernels_xxh3_digest(const void *state);

#endif
