// SPDX-License-Identifier: Apache-2.0
//
// Conversions between float types, one element at a time; every width gives the same bits.
#ifndef CKERNELS_FLOATS_H
#define CKERNELS_FLOATS_H

#include <stdint.h>
#include <string.h>

#ifdef __clang__
// A product that is fused with a sum is not rounded: other bits on other machines. GCC does not
// fuse in ISO C (-std=c11).
#pragma STDC FP_CONTRACT OFF
#endif

#ifdef __clang__
#define UNROLL_ALL _Pragma("clang loop unroll(full)")
#define UNROLL_ROWS _Pragma("clang loop unroll_count(4)")
#else
#define UNROLL_ALL _Pragma("GCC unroll 16")
#define UNROLL_ROWS _Pragma("GCC unroll 4")
#endif

/// The largest finite half: what greater values become.
#define HALF_MAX 65504.0f
/// 2^24: quantised values beyond it are not exact in a float.
#define QUANTISED_LIMIT 16777216.0f

static inline float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/// IEEE binary16 to binary32; exact.
static inline float float_of_half(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    uint32_t magnitude = half & 0x7FFF;
    if (magnitude >= 0x7C00) return float_of_bits(sign | 0x7F800000 | (magnitude & 0x3FF) << 13);
    if (magnitude >= 0x0400) return float_of_bits(sign | ((magnitude << 13) + (112u << 23)));
    // Subnormal: a whole number of 2^-24.
    float value = (float)magnitude * 0x1p-24f;
    return sign != 0 ? -value : value;
}

/// Binary32 to binary16, to nearest even, beyond the largest half to that half.
static inline uint16_t half_of_float(float value) {
    value = value < HALF_MAX ? value : HALF_MAX;
    value = value > -HALF_MAX ? value : -HALF_MAX;
    uint32_t bits = bits_of_float(value);
    uint32_t sign = bits >> 16 & 0x8000;
    uint32_t magnitude = bits & 0x7FFFFFFF;
    if (magnitude < 113u << 23) {
        // Below 2^-14: adding 1/2 puts the half's last place where the float's last place is.
        float shifted = float_of_bits(magnitude) + 0.5f;
        return (uint16_t)(sign | (bits_of_float(shifted) - 0x3F000000));
    }
    magnitude += 0xFFF + (magnitude >> 13 & 1);
    return (uint16_t)(sign | (magnitude - (112u << 23)) >> 13);
}

/// Binary32 to bfloat16, to nearest even; the value is finite.
static inline uint16_t bfloat_of_float(float value) {
    uint32_t bits = bits_of_float(value);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

#endif
