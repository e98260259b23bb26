// SPDX-License-Identifier: Apache-2.0
//
// The kernels of one vector unit. kernels_*.c each define one set: a layer of vector operations
// (lanes_*.h) and the same three bodies over it.
#ifndef CKERNELS_KERNEL_SET_H
#define CKERNELS_KERNEL_SET_H

#include "CKernelsCodec.h"

struct kernel_set {
    /// Elements that a vector holds; runs of channels must be multiples of it.
    uint32_t vector_width;
    int64_t (*rans_decode)(
        const ckernels_coded_columns *, const void *, const void *, size_t, uint32_t *);
    int64_t (*rans_decode_contexts)(
        const ckernels_coded_columns *, const uint32_t *, const void *, const void *, size_t,
        uint32_t *);
    size_t (*rans_encode)(
        const ckernels_coded_columns *, const uint32_t *, const uint32_t *, uint16_t *, void *);
    int64_t (*quantise)(
        const ckernels_tensor *, const ckernels_scaled_columns *, uint32_t *, ckernels_escape *,
        size_t);
    void (*squares)(const ckernels_tensor *, const ckernels_scaled_columns *, float *);
    void (*restore)(
        const ckernels_tensor *, const ckernels_scaled_columns *, const uint32_t *);
    int64_t (*split)(
        const ckernels_tensor *, const ckernels_split_columns *, uint32_t *, uint8_t *,
        ckernels_escape *, size_t);
    void (*join)(
        const ckernels_tensor *, const ckernels_split_columns *, const uint32_t *,
        const uint8_t *);
    void (*multiply)(const ckernels_product *);
    void (*refer)(
        const float *, uint32_t, uint32_t, const float *, const float *, uint8_t *);
    void (*unpack)(const uint32_t *, uint32_t, uint32_t, uint8_t *);
    int (*values_load)(const ckernels_tensor *, const ckernels_turns *, uint32_t, float *);
    void (*values_store)(
        const ckernels_tensor *, const ckernels_turns *, uint32_t, const float *);
    int64_t (*analyse)(
        const ckernels_analysis *, uint32_t, uint32_t *, ckernels_escape *, size_t);
};

extern const struct kernel_set ckernels_scalar_set;
extern const struct kernel_set ckernels_neon_set;
extern const struct kernel_set ckernels_avx2_set;
extern const struct kernel_set ckernels_avx512_set;
extern const struct kernel_set ckernels_avx512_vnni_set;

const struct kernel_set *ckernels_set_of(uint32_t width);
/// The set of `width`, or the next narrower one whose vectors divide the runs of channels.
const struct kernel_set *ckernels_fitting_set(uint32_t width, const uint32_t runs[3]);

/// Mode L for elements of one and of four bytes.
int64_t ckernels_split_other(
    const ckernels_tensor *tensor, const ckernels_split_columns *columns, uint32_t *packed,
    uint8_t *raw, ckernels_escape *escapes, size_t escape_limit);
void ckernels_join_other(
    const ckernels_tensor *tensor, const ckernels_split_columns *columns, const uint32_t *packed,
    const uint8_t *raw);
/// Writes the element of any size whose coded byte is `high`.
void ckernels_put_together(uint8_t *to, uint32_t element, uint8_t high, const uint8_t *raw);

#endif
