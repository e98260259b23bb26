// SPDX-License-Identifier: Apache-2.0
//
// Sections of a sample as K and V of layers in mode P, each predicted from those before it: what a
// profile would hold, with random matrices, and the steps of an encoder and a decoder.
#ifndef BENCH_CODEC_CHAIN_H
#define BENCH_CODEC_CHAIN_H

#include "sample.h"

struct chain;

// Sections 2l and 2l + 1 are K and V of layer l. Coefficients are sorted by their power, as a
// learner sorts them: about 1.6 bits each, and the last half mostly zero. `lookback`: 1 or 2.
struct chain *chain_make(const struct sample *sample, uint32_t width, uint32_t lookback);
void chain_free(struct chain *chain);

const struct coding *chain_coding(const struct chain *chain);
// What a column's value before RoPE may be off by.
float chain_error_max(const struct chain *chain, uint32_t column);

// Sections are encoded, or decoded, one after the other from the first on. The number of escapes,
// sorted; below 0 when they are more than `limit`.
int64_t chain_encode(struct chain *chain, size_t section, uint32_t *packed,
                     ckernels_escape *escapes, size_t limit);
void chain_decode(struct chain *chain, size_t section, const uint32_t *packed,
                  const ckernels_escape *escapes, size_t count, uint8_t *target);

#endif
