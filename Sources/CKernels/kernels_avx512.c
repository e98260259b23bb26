// SPDX-License-Identifier: Apache-2.0
//
// The kernels for AVX-512: one layer of vector operations under the common bodies.
#if defined(__x86_64__)

#include "lanes_avx512.h"

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
#undef PRODUCT
#undef PRODUCT_KERNEL
#undef PRODUCT_LANES
#undef PRODUCT_DOT

#define PRODUCT(name) product_vnni_##name
#define PRODUCT_KERNEL static UNIT_VNNI
#define PRODUCT_LANES LANES_VNNI
#define PRODUCT_DOT add_products_vnni
#include "product_body.h"

/// Both sets differ in their products alone.
#define KERNEL_SET(product) \
    { \
        .vector_width = WIDTH, \
        .rans_decode = rans_decode, \
        .rans_decode_contexts = rans_decode_contexts, \
        .rans_encode = rans_encode, \
        .quantise = quantise, \
        .squares = squares, \
        .restore = restore, \
        .split = split, \
        .join = join, \
        .multiply = product, \
        .refer = refer, \
        .unpack = unpack, \
        .values_load = values_load, \
        .values_store = values_store, \
        .analyse = analyse, \
    }

const struct kernel_set ckernels_avx512_set = KERNEL_SET(product_multiply);
const struct kernel_set ckernels_avx512_vnni_set = KERNEL_SET(product_vnni_multiply);

#else
typedef int ckernels_no_avx512;
#endif
