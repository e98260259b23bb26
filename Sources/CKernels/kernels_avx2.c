// SPDX-License-Identifier: Apache-2.0
//
// The kernels for AVX2: one layer of vector operations under the common bodies.
#if defined(__x86_64__)

#include "lanes_avx2.h"

#include "kernel_set.h"
#include "rans_body.h"
#include "scaled_body.h"
#include "split_body.h"

#include "predicted_body.h"

#define PRODUCT(name) product_##name
#define PRODUCT_KERNEL KERNEL
#define PRODUCT_LANES LANES
#define PRODUCT_DOT add_products
#include "product_body.h"

const struct kernel_set ckernels_avx2_set = {
    .vector_width = WIDTH,
    .rans_decode = rans_decode,
    .rans_decode_contexts = rans_decode_contexts,
    .rans_encode = rans_encode,
    .quantise = quantise,
    .squares = squares,
    .restore = restore,
    .split = split,
    .join = join,
    .multiply = product_multiply,
    .refer = refer,
    .unpack = unpack,
    .values_load = values_load,
    .values_store = values_store,
    .analyse = analyse,
};

#else
typedef int ckernels_no_avx2;
#endif
