// SPDX-License-Identifier: Apache-2.0
//
// Vector operations of sixteen elements: AVX-512 F, BW, DQ and VL, as all servers since 2017 with
// AVX-512 have them. What each does stands in lanes_scalar.h.
#ifndef CKERNELS_LANES_AVX512_H
#define CKERNELS_LANES_AVX512_H

#include <immintrin.h>

#include "floats.h"

#define UNIT __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi2,f16c,popcnt")))
#define KERNEL static UNIT
#define LANES static inline __attribute__((always_inline)) UNIT
#define WIDTH 16
/// Sums that a product keeps in registers: rows, and vectors of a row.
#define TILE_ROWS 6
#define TILE_VECTORS 4
#define UNROLLED UNROLL_ALL

typedef __m512i u32v;
typedef __m512 f32v;

LANES u32v load_words(const uint32_t *from) { return _mm512_loadu_si512(from); }
LANES void store_words(uint32_t *to, u32v x) { _mm512_storeu_si512(to, x); }
LANES u32v splat(uint32_t x) { return _mm512_set1_epi32((int)x); }
LANES u32v plus(u32v a, u32v b) { return _mm512_add_epi32(a, b); }
LANES u32v minus(u32v a, u32v b) { return _mm512_sub_epi32(a, b); }
LANES u32v times(u32v a, u32v b) { return _mm512_mullo_epi32(a, b); }
LANES u32v both(u32v a, u32v b) { return _mm512_and_si512(a, b); }
LANES u32v either(u32v a, u32v b) { return _mm512_or_si512(a, b); }
LANES u32v right(u32v x, int count) { return _mm512_srli_epi32(x, (unsigned)count); }
LANES u32v left(u32v x, int count) { return _mm512_slli_epi32(x, (unsigned)count); }
LANES u32v signed_right(u32v x, int count) { return _mm512_srai_epi32(x, (unsigned)count); }
LANES u32v gather(const uint32_t *table, u32v index) {
    return _mm512_i32gather_epi32(index, table, 4);
}
LANES u32v where_at_least(u32v a, u32v b, u32v then, u32v otherwise) {
    return _mm512_mask_mov_epi32(otherwise, _mm512_cmpge_epu32_mask(a, b), then);
}
LANES uint32_t outside(u32v x, u32v low, u32v high) {
    return (uint32_t)(_mm512_cmplt_epi32_mask(x, low) | _mm512_cmpgt_epi32_mask(x, high));
}
LANES u32v pick(uint32_t mask, u32v a, u32v b) {
    return _mm512_mask_mov_epi32(a, (__mmask16)mask, b);
}
LANES uint32_t count_escapes(u32v x) {
    return (uint32_t)_mm_popcnt_u64(_mm512_cmpeq_epi8_mask(x, _mm512_set1_epi8(-128)));
}
LANES u32v push_symbol(u32v packed, u32v entry) {
    // (a & ~c) | (b & c): a's high byte is zero after the shift, so that this is a plain merge.
    return _mm512_ternarylogic_epi32(right(packed, 8), entry, splat(0xFF000000), 0xD8);
}

LANES u32v refill(u32v x, const uint16_t **words) {
    __mmask16 mask = _mm512_cmplt_epu32_mask(x, splat(0x10000));
    u32v next = _mm512_cvtepu16_epi32(
        _mm256_loadu_si256((const __m256i *)(const void *)*words));
    next = _mm512_maskz_expand_epi32(mask, next);
    *words += _mm_popcnt_u32(mask);
    return _mm512_mask_or_epi32(x, mask, left(x, 16), next);
}
LANES u32v spill(u32v x, u32v frequency, uint16_t **end) {
    __mmask16 mask = _mm512_cmpge_epu32_mask(right(x, 21), frequency);
    uint32_t count = (uint32_t)_mm_popcnt_u32(mask);
    __m256i words = _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(mask, x));
    *end -= count;
    _mm256_mask_storeu_epi16(*end, (__mmask16)_bzhi_u32(0xFFFF, count), words);
    return _mm512_mask_srli_epi32(x, mask, x, 16);
}
LANES u32v quotient(u32v x, u32v frequency) {
    // 14 good bits and a step of Newton's method: the quotient, below 2^21, is wrong by less than a
    // half, at a quarter of the time that a division takes.
    f32v divisor = _mm512_cvtepi32_ps(frequency);
    f32v inverse = _mm512_rcp14_ps(divisor);
    f32v rest = _mm512_sub_ps(_mm512_set1_ps(2.0f), _mm512_mul_ps(divisor, inverse));
    f32v ratio = _mm512_mul_ps(_mm512_cvtepu32_ps(x), _mm512_mul_ps(inverse, rest));
    return _mm512_cvttps_epi32(_mm512_sub_ps(ratio, _mm512_set1_ps(0.5f)));
}

LANES f32v load_floats(const float *from) { return _mm512_loadu_ps(from); }
LANES f32v splat_float(float x) { return _mm512_set1_ps(x); }
LANES f32v add(f32v a, f32v b) { return _mm512_add_ps(a, b); }
LANES f32v subtract(f32v a, f32v b) { return _mm512_sub_ps(a, b); }
LANES f32v multiply(f32v a, f32v b) { return _mm512_mul_ps(a, b); }
LANES f32v float_of_int(u32v x) { return _mm512_cvtepi32_ps(x); }
LANES u32v rounded(f32v x) { return _mm512_cvtps_epi32(x); }

LANES f32v load_half(const void *from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
}
LANES void store_half(void *to, f32v x) {
    x = _mm512_min_ps(x, _mm512_set1_ps(HALF_MAX));
    x = _mm512_max_ps(x, _mm512_set1_ps(-HALF_MAX));
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
LANES u32v load_shorts(const void *from) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
}
LANES void store_shorts(void *to, u32v x) {
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtepi32_epi16(x));
}
LANES f32v load_bfloat(const void *from) {
    return _mm512_castsi512_ps(left(load_shorts(from), 16));
}
LANES void store_bfloat(void *to, f32v x) {
    u32v bits = _mm512_castps_si512(x);
    u32v half = plus(splat(0x7FFF), both(right(bits, 16), splat(1)));
    store_shorts(to, right(plus(bits, half), 16));
}
LANES f32v load_single(const void *from) { return _mm512_loadu_ps(from); }
LANES void store_single(void *to, f32v x) { _mm512_storeu_ps(to, x); }
LANES u32v load_bytes(const uint8_t *from) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)from));
}
LANES void store_bytes(uint8_t *to, u32v x) {
    _mm_storeu_si128((__m128i *)(void *)to, _mm512_cvtepi32_epi8(x));
}
LANES void zip(f32v *a, f32v *b) {
    const u32v low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const u32v high = plus(low, splat(8));
    f32v first = _mm512_permutex2var_ps(*a, low, *b);
    *b = _mm512_permutex2var_ps(*a, high, *b);
    *a = first;
}
LANES void unzip(f32v *a, f32v *b) {
    const u32v even = _mm512_setr_epi32(
        0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const u32v odd = plus(even, splat(1));
    f32v first = _mm512_permutex2var_ps(*a, even, *b);
    *b = _mm512_permutex2var_ps(*a, odd, *b);
    *a = first;
}

LANES f32v divide(f32v a, f32v b) { return _mm512_div_ps(a, b); }
LANES f32v clamped(f32v x, float low, float high) {
    x = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, x, _CMP_ORD_Q), x);
    return _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(low)), _mm512_set1_ps(high));
}
LANES u32v bits_of(f32v x) { return _mm512_castps_si512(x); }
LANES f32v of_bits(u32v x) { return _mm512_castsi512_ps(x); }
LANES u32v add_products(u32v sums, u32v bytes, u32v numbers) {
    // Bytes 0 and 2 of each word, then 1 and 3, as numbers of 16 bits.
    u32v even = _mm512_madd_epi16(
        both(bytes, splat(0x00FF00FF)), _mm512_srai_epi16(_mm512_slli_epi16(numbers, 8), 8));
    u32v odd = _mm512_madd_epi16(_mm512_srli_epi16(bytes, 8), _mm512_srai_epi16(numbers, 8));
    return plus(sums, plus(even, odd));
}

/// The same for CPUs that have an instruction for it.
#define UNIT_VNNI \
    __attribute__((target( \
        "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,bmi2,f16c,popcnt")))
#define LANES_VNNI static inline __attribute__((always_inline)) UNIT_VNNI
LANES_VNNI u32v add_products_vnni(u32v sums, u32v bytes, u32v numbers) {
    return _mm512_dpbusd_epi32(sums, bytes, numbers);
}

#endif
