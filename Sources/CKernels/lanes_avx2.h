// SPDX-License-Identifier: Apache-2.0
//
// Vector operations of eight elements: AVX2 and F16C. What each does stands in lanes_scalar.h.
#ifndef CKERNELS_LANES_AVX2_H
#define CKERNELS_LANES_AVX2_H

#include <immintrin.h>

#include "floats.h"
#include "lane_tables.h"

#define UNIT __attribute__((target("avx2,f16c,popcnt")))
#define KERNEL static UNIT
#define LANES static inline __attribute__((always_inline)) UNIT
#define WIDTH 8
/// Sums that a product keeps in registers: rows, and vectors of a row.
#define TILE_ROWS 4
#define TILE_VECTORS 2
#define UNROLLED UNROLL_ALL

typedef __m256i u32v;
typedef __m256 f32v;

LANES u32v load_words(const uint32_t *from) {
    return _mm256_loadu_si256((const __m256i *)(const void *)from);
}
LANES void store_words(uint32_t *to, u32v x) { _mm256_storeu_si256((__m256i *)(void *)to, x); }
LANES u32v splat(uint32_t x) { return _mm256_set1_epi32((int)x); }
LANES u32v plus(u32v a, u32v b) { return _mm256_add_epi32(a, b); }
LANES u32v minus(u32v a, u32v b) { return _mm256_sub_epi32(a, b); }
LANES u32v times(u32v a, u32v b) { return _mm256_mullo_epi32(a, b); }
LANES u32v both(u32v a, u32v b) { return _mm256_and_si256(a, b); }
LANES u32v either(u32v a, u32v b) { return _mm256_or_si256(a, b); }
LANES u32v right(u32v x, int count) { return _mm256_srli_epi32(x, count); }
LANES u32v left(u32v x, int count) { return _mm256_slli_epi32(x, count); }
LANES u32v signed_right(u32v x, int count) { return _mm256_srai_epi32(x, count); }
LANES u32v gather(const uint32_t *table, u32v index) {
    return _mm256_i32gather_epi32((const int *)(const void *)table, index, 4);
}
LANES u32v where_at_least(u32v a, u32v b, u32v then, u32v otherwise) {
    u32v is_at_least = _mm256_cmpeq_epi32(_mm256_max_epu32(a, b), a);
    return _mm256_blendv_epi8(otherwise, then, is_at_least);
}
LANES uint32_t sign_bits(u32v x) { return (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(x)); }
LANES uint32_t outside(u32v x, u32v low, u32v high) {
    return sign_bits(either(_mm256_cmpgt_epi32(low, x), _mm256_cmpgt_epi32(x, high)));
}
LANES u32v lanes_of(const uint8_t lanes[8]) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)lanes));
}
LANES u32v pick(uint32_t mask, u32v a, u32v b) {
    const u32v bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    u32v is_set = _mm256_cmpeq_epi32(both(splat(mask), bits), bits);
    return _mm256_blendv_epi8(a, b, is_set);
}
LANES uint32_t count_escapes(u32v x) {
    u32v is_escape = _mm256_cmpeq_epi8(x, _mm256_set1_epi8(-128));
    return (uint32_t)_mm_popcnt_u32((uint32_t)_mm256_movemask_epi8(is_escape));
}
LANES u32v push_symbol(u32v packed, u32v entry) {
    return either(right(packed, 8), both(entry, splat(0xFF000000)));
}

LANES u32v refill(u32v x, const uint16_t **words) {
    u32v is_small = _mm256_cmpeq_epi32(right(x, 16), _mm256_setzero_si256());
    uint32_t mask = sign_bits(is_small);
    u32v next = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)*words));
    next = _mm256_permutevar8x32_epi32(next, lanes_of(ckernels_spread_lanes[mask]));
    *words += _mm_popcnt_u32(mask);
    return _mm256_blendv_epi8(x, either(left(x, 16), next), is_small);
}
LANES u32v spill(u32v x, u32v frequency, uint16_t **end) {
    u32v is_large = _mm256_xor_si256(
        _mm256_cmpgt_epi32(frequency, right(x, 21)), _mm256_set1_epi32(-1));
    uint32_t mask = sign_bits(is_large);
    u32v low = both(x, splat(0xFFFF));
    low = _mm256_permutevar8x32_epi32(low, lanes_of(ckernels_gathered_lanes[mask]));
    __m128i words = _mm_packus_epi32(
        _mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
    // The words that count stand last; what lies before them is overwritten by the next ones.
    _mm_storeu_si128((__m128i *)(void *)(*end - 8), words);
    *end -= _mm_popcnt_u32(mask);
    return _mm256_blendv_epi8(x, right(x, 16), is_large);
}
/// Exact for the high half, rounded once: conversions know signed numbers only.
LANES f32v float_of_unsigned(u32v x) {
    f32v high = _mm256_cvtepi32_ps(right(x, 16));
    f32v low = _mm256_cvtepi32_ps(both(x, splat(0xFFFF)));
    return _mm256_add_ps(_mm256_mul_ps(high, _mm256_set1_ps(65536.0f)), low);
}
LANES u32v quotient(u32v x, u32v frequency) {
    // The quotient is below 2^21, so two roundings move it by less than a quarter.
    f32v ratio = _mm256_div_ps(float_of_unsigned(x), _mm256_cvtepi32_ps(frequency));
    return _mm256_cvttps_epi32(_mm256_sub_ps(ratio, _mm256_set1_ps(0.25f)));
}

LANES f32v load_floats(const float *from) { return _mm256_loadu_ps(from); }
LANES f32v splat_float(float x) { return _mm256_set1_ps(x); }
LANES f32v add(f32v a, f32v b) { return _mm256_add_ps(a, b); }
LANES f32v subtract(f32v a, f32v b) { return _mm256_sub_ps(a, b); }
LANES f32v multiply(f32v a, f32v b) { return _mm256_mul_ps(a, b); }
LANES f32v float_of_int(u32v x) { return _mm256_cvtepi32_ps(x); }
LANES u32v rounded(f32v x) { return _mm256_cvtps_epi32(x); }

LANES f32v load_half(const void *from) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
}
LANES void store_half(void *to, f32v x) {
    x = _mm256_min_ps(x, _mm256_set1_ps(HALF_MAX));
    x = _mm256_max_ps(x, _mm256_set1_ps(-HALF_MAX));
    _mm_storeu_si128((__m128i *)to, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
LANES u32v load_shorts(const void *from) {
    return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
}
LANES void store_shorts(void *to, u32v x) {
    x = both(x, splat(0xFFFF));
    __m128i low = _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    _mm_storeu_si128((__m128i *)to, low);
}
LANES f32v load_bfloat(const void *from) {
    return _mm256_castsi256_ps(left(load_shorts(from), 16));
}
LANES void store_bfloat(void *to, f32v x) {
    u32v bits = _mm256_castps_si256(x);
    u32v half = plus(splat(0x7FFF), both(right(bits, 16), splat(1)));
    store_shorts(to, right(plus(bits, half), 16));
}
LANES f32v load_single(const void *from) { return _mm256_loadu_ps((const float *)from); }
LANES void store_single(void *to, f32v x) { _mm256_storeu_ps((float *)to, x); }
LANES u32v load_bytes(const uint8_t *from) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)from));
}
LANES void store_bytes(uint8_t *to, u32v x) {
    x = both(x, splat(0xFF));
    __m128i low = _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    _mm_storel_epi64((__m128i *)(void *)to, _mm_packus_epi16(low, low));
}
LANES void zip(f32v *a, f32v *b) {
    f32v low = _mm256_unpacklo_ps(*a, *b);
    f32v high = _mm256_unpackhi_ps(*a, *b);
    *a = _mm256_permute2f128_ps(low, high, 0x20);
    *b = _mm256_permute2f128_ps(low, high, 0x31);
}
LANES void unzip(f32v *a, f32v *b) {
    f32v low = _mm256_permute2f128_ps(*a, *b, 0x20);
    f32v high = _mm256_permute2f128_ps(*a, *b, 0x31);
    *a = _mm256_shuffle_ps(low, high, 0x88);
    *b = _mm256_shuffle_ps(low, high, 0xDD);
}

LANES f32v divide(f32v a, f32v b) { return _mm256_div_ps(a, b); }
LANES f32v clamped(f32v x, float low, float high) {
    x = _mm256_and_ps(x, _mm256_cmp_ps(x, x, _CMP_ORD_Q));
    return _mm256_min_ps(_mm256_max_ps(x, _mm256_set1_ps(low)), _mm256_set1_ps(high));
}
LANES u32v bits_of(f32v x) { return _mm256_castps_si256(x); }
LANES f32v of_bits(u32v x) { return _mm256_castsi256_ps(x); }
LANES u32v add_products(u32v sums, u32v bytes, u32v numbers) {
    // Bytes 0 and 2 of each word, then 1 and 3, as numbers of 16 bits.
    u32v even = _mm256_madd_epi16(
        both(bytes, splat(0x00FF00FF)), _mm256_srai_epi16(_mm256_slli_epi16(numbers, 8), 8));
    u32v odd = _mm256_madd_epi16(_mm256_srli_epi16(bytes, 8), _mm256_srai_epi16(numbers, 8));
    return plus(sums, plus(even, odd));
}

#endif
