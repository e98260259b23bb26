// SPDX-License-Identifier: Apache-2.0
//
// Vector operations of four elements: NEON of AArch64. What each does stands in lanes_scalar.h.
#ifndef CKERNELS_LANES_NEON_H
#define CKERNELS_LANES_NEON_H

#include <arm_neon.h>

#include "floats.h"

#define KERNEL static
#define LANES static inline __attribute__((always_inline))
#define WIDTH 4
/// Sums that a product keeps in registers: rows, and vectors of a row.
#define TILE_ROWS 4
#define TILE_VECTORS 4
#define UNROLLED UNROLL_ALL

typedef uint32x4_t u32v;
typedef float32x4_t f32v;

LANES u32v load_words(const uint32_t *from) { return vld1q_u32(from); }
LANES void store_words(uint32_t *to, u32v x) { vst1q_u32(to, x); }
LANES u32v splat(uint32_t x) { return vdupq_n_u32(x); }
LANES u32v plus(u32v a, u32v b) { return vaddq_u32(a, b); }
LANES u32v minus(u32v a, u32v b) { return vsubq_u32(a, b); }
LANES u32v times(u32v a, u32v b) { return vmulq_u32(a, b); }
LANES u32v both(u32v a, u32v b) { return vandq_u32(a, b); }
LANES u32v either(u32v a, u32v b) { return vorrq_u32(a, b); }
LANES u32v right(u32v x, int count) { return vshlq_u32(x, vdupq_n_s32(-count)); }
LANES u32v left(u32v x, int count) { return vshlq_u32(x, vdupq_n_s32(count)); }
LANES u32v signed_right(u32v x, int count) {
    return vreinterpretq_u32_s32(vshlq_s32(vreinterpretq_s32_u32(x), vdupq_n_s32(-count)));
}
LANES u32v gather(const uint32_t *table, u32v index) {
    u32v found = vdupq_n_u32(table[vgetq_lane_u32(index, 0)]);
    found = vld1q_lane_u32(table + vgetq_lane_u32(index, 1), found, 1);
    found = vld1q_lane_u32(table + vgetq_lane_u32(index, 2), found, 2);
    return vld1q_lane_u32(table + vgetq_lane_u32(index, 3), found, 3);
}
LANES u32v where_at_least(u32v a, u32v b, u32v then, u32v otherwise) {
    return vbslq_u32(vcgeq_u32(a, b), then, otherwise);
}
LANES u32v lane_bits(void) {
    const uint32_t bits[4] = {1, 2, 4, 8};
    return vld1q_u32(bits);
}
LANES uint32_t mask_of(u32v is_set) { return vaddvq_u32(vandq_u32(is_set, lane_bits())); }
LANES uint32_t outside(u32v x, u32v low, u32v high) {
    int32x4_t value = vreinterpretq_s32_u32(x);
    u32v is_low = vcltq_s32(value, vreinterpretq_s32_u32(low));
    return mask_of(vorrq_u32(is_low, vcgtq_s32(value, vreinterpretq_s32_u32(high))));
}
LANES u32v pick(uint32_t mask, u32v a, u32v b) {
    return vbslq_u32(vtstq_u32(vdupq_n_u32(mask), lane_bits()), b, a);
}
LANES uint32_t count_escapes(u32v x) {
    uint8x16_t is_escape = vceqq_u8(vreinterpretq_u8_u32(x), vdupq_n_u8(0x80));
    return vaddvq_u8(vandq_u8(is_escape, vdupq_n_u8(1)));
}
LANES u32v push_symbol(u32v packed, u32v entry) {
    return vsriq_n_u32(vandq_u32(entry, vdupq_n_u32(0xFF000000)), packed, 8);
}

LANES u32v refill(u32v x, const uint16_t **words) {
    // Lane k takes the word after as many as lanes below k take.
    static const uint8_t places[16][4] = {
        {0, 0, 0, 0}, {0, 1, 1, 1}, {0, 0, 1, 1}, {0, 1, 2, 2}, {0, 0, 0, 1}, {0, 1, 1, 2},
        {0, 0, 1, 2}, {0, 1, 2, 3}, {0, 0, 0, 0}, {0, 1, 1, 1}, {0, 0, 1, 1}, {0, 1, 2, 2},
        {0, 0, 0, 1}, {0, 1, 1, 2}, {0, 0, 1, 2}, {0, 1, 2, 3},
    };
    u32v is_small = vcltq_u32(x, vdupq_n_u32(0x10000));
    uint32_t mask = mask_of(is_small);
    const uint16_t *from = *words;
    const uint8_t *place = places[mask];
    u32v next = {from[place[0]], from[place[1]], from[place[2]], from[place[3]]};
    *words += __builtin_popcount(mask);
    return vbslq_u32(is_small, vorrq_u32(vshlq_n_u32(x, 16), next), x);
}
LANES u32v spill(u32v x, u32v frequency, uint16_t **end) {
    u32v is_large = vcgeq_u32(vshrq_n_u32(x, 21), frequency);
    uint16_t words[4];
    vst1_u16(words, vmovn_u32(x));
    for (uint32_t mask = mask_of(is_large); mask != 0;) {
        uint32_t lane = 31 - (uint32_t)__builtin_clz(mask);
        *end -= 1;
        **end = words[lane];
        mask ^= 1u << lane;
    }
    return vbslq_u32(is_large, vshrq_n_u32(x, 16), x);
}
LANES u32v quotient(u32v x, u32v frequency) {
    // The quotient is below 2^21, so two roundings move it by less than a quarter.
    f32v ratio = vdivq_f32(vcvtq_f32_u32(x), vcvtq_f32_u32(frequency));
    return vcvtq_u32_f32(vsubq_f32(ratio, vdupq_n_f32(0.25f)));
}

LANES f32v load_floats(const float *from) { return vld1q_f32(from); }
LANES f32v splat_float(float x) { return vdupq_n_f32(x); }
LANES f32v add(f32v a, f32v b) { return vaddq_f32(a, b); }
LANES f32v subtract(f32v a, f32v b) { return vsubq_f32(a, b); }
LANES f32v multiply(f32v a, f32v b) { return vmulq_f32(a, b); }
LANES f32v float_of_int(u32v x) { return vcvtq_f32_s32(vreinterpretq_s32_u32(x)); }
LANES u32v rounded(f32v x) {
    // NEON saturates to the greatest int32 and turns what is no number into 0.
    u32v is_inside = vandq_u32(
        vcgtq_f32(x, vdupq_n_f32(-2147483648.0f)), vcltq_f32(x, vdupq_n_f32(2147483648.0f)));
    u32v whole = vreinterpretq_u32_s32(vcvtnq_s32_f32(x));
    return vbslq_u32(is_inside, whole, vdupq_n_u32(0x80000000));
}

LANES u32v load_shorts(const void *from) {
    uint16x4_t low;
    memcpy(&low, from, sizeof low);
    return vmovl_u16(low);
}
LANES void store_shorts(void *to, u32v x) {
    uint16x4_t low = vmovn_u32(x);
    memcpy(to, &low, sizeof low);
}
LANES f32v load_half(const void *from) {
    uint16x4_t halves;
    memcpy(&halves, from, sizeof halves);
    return vcvt_f32_f16(vreinterpret_f16_u16(halves));
}
LANES void store_half(void *to, f32v x) {
    const f32v limit = vdupq_n_f32(HALF_MAX);
    x = vbslq_f32(vcltq_f32(x, limit), x, limit);
    x = vbslq_f32(vcgtq_f32(x, vnegq_f32(limit)), x, vnegq_f32(limit));
    uint16x4_t halves = vreinterpret_u16_f16(vcvt_f16_f32(x));
    memcpy(to, &halves, sizeof halves);
}
LANES f32v load_bfloat(const void *from) {
    return vreinterpretq_f32_u32(vshlq_n_u32(load_shorts(from), 16));
}
LANES void store_bfloat(void *to, f32v x) {
    u32v bits = vreinterpretq_u32_f32(x);
    u32v half = plus(splat(0x7FFF), both(vshrq_n_u32(bits, 16), splat(1)));
    store_shorts(to, vshrq_n_u32(plus(bits, half), 16));
}
LANES f32v load_single(const void *from) {
    f32v x;
    memcpy(&x, from, sizeof x);
    return x;
}
LANES void store_single(void *to, f32v x) { memcpy(to, &x, sizeof x); }
LANES u32v load_bytes(const uint8_t *from) {
    uint32_t bytes;
    memcpy(&bytes, from, sizeof bytes);
    return vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(bytes))));
}
LANES void store_bytes(uint8_t *to, u32v x) {
    uint16x4_t shorts = vmovn_u32(vandq_u32(x, vdupq_n_u32(0xFF)));
    uint8x8_t bytes = vmovn_u16(vcombine_u16(shorts, shorts));
    memcpy(to, &bytes, 4);
}
LANES void zip(f32v *a, f32v *b) {
    f32v low = vzip1q_f32(*a, *b);
    *b = vzip2q_f32(*a, *b);
    *a = low;
}
LANES void unzip(f32v *a, f32v *b) {
    f32v even = vuzp1q_f32(*a, *b);
    *b = vuzp2q_f32(*a, *b);
    *a = even;
}

LANES f32v divide(f32v a, f32v b) { return vdivq_f32(a, b); }
LANES f32v clamped(f32v x, float low, float high) {
    x = vbslq_f32(vceqq_f32(x, x), x, vdupq_n_f32(0));
    return vminq_f32(vmaxq_f32(x, vdupq_n_f32(low)), vdupq_n_f32(high));
}
LANES u32v bits_of(f32v x) { return vreinterpretq_u32_f32(x); }
LANES f32v of_bits(u32v x) { return vreinterpretq_f32_u32(x); }
LANES u32v add_products(u32v sums, u32v bytes, u32v numbers) {
    uint8x16_t b = vreinterpretq_u8_u32(bytes);
    int8x16_t n = vreinterpretq_s8_u32(numbers);
#if defined(__ARM_FEATURE_MATMUL_INT8)
    return vreinterpretq_u32_s32(vusdotq_s32(vreinterpretq_s32_u32(sums), b, n));
#else
    int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(b)));
    int16x8_t high = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(b)));
    int16x8_t by_low = vmovl_s8(vget_low_s8(n)), by_high = vmovl_s8(vget_high_s8(n));
    int32x4_t first = vpaddq_s32(
        vmull_s16(vget_low_s16(low), vget_low_s16(by_low)),
        vmull_s16(vget_high_s16(low), vget_high_s16(by_low)));
    int32x4_t second = vpaddq_s32(
        vmull_s16(vget_low_s16(high), vget_low_s16(by_high)),
        vmull_s16(vget_high_s16(high), vget_high_s16(by_high)));
    return plus(sums, vreinterpretq_u32_s32(vpaddq_s32(first, second)));
#endif
}

#endif
