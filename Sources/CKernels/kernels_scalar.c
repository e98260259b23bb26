// SPDX-License-Identifier: Apache-2.0
//
// The kernels for any machine: one layer of vector operations under the common bodies.
#include "lanes_scalar.h"

#include "kernel_set.h"
#include "rans_body.h"
#include "scaled_body.h"
#include "split_body.h"

const struct kernel_set ckernels_scalar_set = {
    .vector_width = WIDTH,
    .rans_decode = rans_decode,
    .rans_encode = rans_encode,
    .quantise = quantise,
    .squares = squares,
    .restore = restore,
    .split = split,
    .join = join,
};
