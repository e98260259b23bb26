// SPDX-License-Identifier: Apache-2.0
//
// Vector operations of one element: any machine, and what the others are compared with.
#ifndef CKERNELS_LANES_SCALAR_H
#define CKERNELS_LANES_SCALAR_H

#include "floats.h"

#define KERNEL static
#define LANES static inline
#define WIDTH 1
/// In front of loops over vectors, which other widths unroll.
/// Sums that a product keeps in registers: rows, and vectors of a row.
#define TILE_ROWS 4
#define TILE_VECTORS 4
#define UNROLLED

typedef uint32_t u32v;
typedef float f32v;

LANES u32v load_words(const uint32_t *from) { return *from; }
LANES void store_words(uint32_t *to, u32v x) { *to = x; }
LANES u32v splat(uint32_t x) { return x; }
LANES u32v plus(u32v a, u32v b) { return a + b; }
LANES u32v minus(u32v a, u32v b) { return a - b; }
LANES u32v times(u32v a, u32v b) { return a * b; }
LANES u32v both(u32v a, u32v b) { return a & b; }
LANES u32v either(u32v a, u32v b) { return a | b; }
LANES u32v right(u32v x, int count) { return x >> count; }
LANES u32v left(u32v x, int count) { return x << count; }
LANES u32v signed_right(u32v x, int count) { return (uint32_t)((int32_t)x >> count); }
LANES u32v gather(const uint32_t *table, u32v index) { return table[index]; }
/// `then` in lanes where a >= b, without sign, `otherwise` elsewhere.
LANES u32v where_at_least(u32v a, u32v b, u32v then, u32v otherwise) {
    return a >= b ? then : otherwise;
}
/// A bit per lane: whether x < low or x > high, with sign.
LANES uint32_t outside(u32v x, u32v low, u32v high) {
    return (int32_t)x < (int32_t)low || (int32_t)x > (int32_t)high;
}
/// Lanes whose bit is set in `mask` from b, others from a.
LANES u32v pick(uint32_t mask, u32v a, u32v b) { return mask != 0 ? b : a; }
/// Bytes of x that are 0x80.
LANES uint32_t count_escapes(u32v x) {
    return ((x & 0xFF) == 0x80) + ((x >> 8 & 0xFF) == 0x80) + ((x >> 16 & 0xFF) == 0x80)
        + (x >> 24 == 0x80);
}
/// The next packed symbols: those of `packed` one byte down, the high byte of `entry` on top.
LANES u32v push_symbol(u32v packed, u32v entry) { return packed >> 8 | (entry & 0xFF000000); }

/// Lanes below 2^16 take the next words, in lane order.
LANES u32v refill(u32v x, const uint16_t **words) {
    if (x >= 0x10000) return x;
    uint16_t word;
    memcpy(&word, *words, sizeof word);
    *words += 1;
    return x << 16 | word;
}
/// Lanes with x >= frequency << 21 give their low words to the place before `*end`, in lane order.
LANES u32v spill(u32v x, u32v frequency, uint16_t **end) {
    if (x >> 21 < frequency) return x;
    *end -= 1;
    **end = (uint16_t)x;
    return x >> 16;
}
/// x / frequency or one less; the quotient is below 2^21.
LANES u32v quotient(u32v x, u32v frequency) { return x / frequency; }

LANES f32v load_floats(const float *from) { return *from; }
LANES f32v splat_float(float x) { return x; }
LANES f32v add(f32v a, f32v b) { return a + b; }
LANES f32v subtract(f32v a, f32v b) { return a - b; }
LANES f32v multiply(f32v a, f32v b) { return a * b; }
LANES f32v float_of_int(u32v x) { return (float)(int32_t)x; }
/// To nearest even; anything beyond an int32, and what is no number, becomes its least.
LANES u32v rounded(f32v x) {
    // Adding and taking away 1.5 * 2^23 leaves a whole number; from 2^22 on x has at most a half.
    if (!(x > -2147483648.0f && x < 2147483648.0f)) return 0x80000000;
    if (x > -4194304.0f && x < 4194304.0f) {
        volatile float whole = x + 12582912.0f;
        return (uint32_t)(int32_t)(whole - 12582912.0f);
    }
    int32_t below = (int32_t)x;
    float rest = x - (float)below;
    int32_t step = rest > 0 ? 1 : -1;
    int is_up = rest == 0.5f || rest == -0.5f ? below & 1 : rest > 0.5f || rest < -0.5f;
    return (uint32_t)(is_up ? below + step : below);
}

LANES f32v load_half(const void *from) {
    uint16_t half;
    memcpy(&half, from, sizeof half);
    return float_of_half(half);
}
LANES void store_half(void *to, f32v x) {
    uint16_t half = half_of_float(x);
    memcpy(to, &half, sizeof half);
}
LANES f32v load_bfloat(const void *from) {
    uint16_t high;
    memcpy(&high, from, sizeof high);
    return float_of_bits((uint32_t)high << 16);
}
LANES void store_bfloat(void *to, f32v x) {
    uint16_t high = bfloat_of_float(x);
    memcpy(to, &high, sizeof high);
}
LANES f32v load_single(const void *from) {
    float x;
    memcpy(&x, from, sizeof x);
    return x;
}
LANES void store_single(void *to, f32v x) { memcpy(to, &x, sizeof x); }
/// One byte per lane, without sign.
LANES u32v load_bytes(const uint8_t *from) { return *from; }
/// The low byte of each lane.
LANES void store_bytes(uint8_t *to, u32v x) { *to = (uint8_t)x; }
/// Two bytes per lane, without sign.
LANES u32v load_shorts(const void *from) {
    uint16_t x;
    memcpy(&x, from, sizeof x);
    return x;
}
/// The low two bytes of each lane.
LANES void store_shorts(void *to, u32v x) {
    uint16_t low = (uint16_t)x;
    memcpy(to, &low, sizeof low);
}
/// Elements of two vectors by turns: a0 b0 a1 b1 ...
LANES void zip(f32v *a, f32v *b) {
    (void)a;
    (void)b;
}
/// The reverse of zip.
LANES void unzip(f32v *a, f32v *b) {
    (void)a;
    (void)b;
}

LANES f32v divide(f32v a, f32v b) { return a / b; }
/// From low to high; what is no number becomes 0.
LANES f32v clamped(f32v x, float low, float high) {
    if (!(x == x)) return 0;
    return x < low ? low : x > high ? high : x;
}
LANES u32v bits_of(f32v x) { return bits_of_float(x); }
LANES f32v of_bits(u32v x) { return float_of_bits(x); }
/// To each lane of `sums` the products of its four bytes, without sign, with four signed numbers.
LANES u32v add_products(u32v sums, u32v bytes, u32v numbers) {
    for (int i = 0; i < 32; i += 8) {
        sums += (bytes >> i & 0xFF) * (uint32_t)(int32_t)(int8_t)(numbers >> i);
    }
    return sums;
}

#endif
