// SPDX-License-Identifier: Apache-2.0
//
// Which set of kernels runs, and the parts that are not worth a vector.
#include "CKernelsCodec.h"

#include "floats.h"
#include "kernel_set.h"

int ckernels_has_width(uint32_t width) {
#if defined(__x86_64__)
    if (width == CKERNELS_WIDTH_AVX512_VNNI) {
        return __builtin_cpu_supports("avx512vnni") && ckernels_has_width(CKERNELS_WIDTH_AVX512);
    }
    if (width == CKERNELS_WIDTH_AVX512) {
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
            && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")
            && __builtin_cpu_supports("bmi2")
            && ckernels_has_width(CKERNELS_WIDTH_AVX2);
    }
    if (width == CKERNELS_WIDTH_AVX2) {
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c")
            && __builtin_cpu_supports("popcnt");
    }
#elif defined(__aarch64__)
    if (width == CKERNELS_WIDTH_NEON) return 1;
#endif
    return width == CKERNELS_WIDTH_SCALAR;
}

const struct kernel_set *ckernels_set_of(uint32_t width) {
#if defined(__x86_64__)
    if (width == CKERNELS_WIDTH_AVX512_VNNI) return &ckernels_avx512_vnni_set;
    if (width == CKERNELS_WIDTH_AVX512) return &ckernels_avx512_set;
    if (width == CKERNELS_WIDTH_AVX2) return &ckernels_avx2_set;
#elif defined(__aarch64__)
    if (width == CKERNELS_WIDTH_NEON) return &ckernels_neon_set;
#endif
    (void)width;
    return &ckernels_scalar_set;
}

const struct kernel_set *ckernels_fitting_set(uint32_t width, const uint32_t runs[3]) {
    for (; width > CKERNELS_WIDTH_SCALAR; width--) {
        const struct kernel_set *set = ckernels_set_of(width);
        uint32_t unit = set->vector_width;
        if ((runs[0] | runs[1] | runs[2]) % unit == 0) return set;
    }
    return &ckernels_scalar_set;
}

static const struct kernel_set *scaled_set(
    uint32_t width, const ckernels_tensor *tensor, const ckernels_scaled_columns *columns) {
    const uint32_t runs[3] = {
        tensor->head_width, columns->rotated_width / 2, columns->rotated_from};
    return ckernels_fitting_set(width, runs);
}

static int has_two_bytes(const ckernels_tensor *tensor) {
    return tensor->element == CKERNELS_FLOAT16 || tensor->element == CKERNELS_BFLOAT16;
}

static const struct kernel_set *split_set(uint32_t width, const ckernels_tensor *tensor) {
    const uint32_t runs[3] = {tensor->head_width, 0, 0};
    return ckernels_fitting_set(width, runs);
}

int64_t ckernels_rans_decode(
    uint32_t width, const ckernels_coded_columns *columns, const void *states, const void *words,
    size_t word_count, uint32_t *packed) {
    return ckernels_set_of(width)->rans_decode(columns, states, words, word_count, packed);
}

int64_t ckernels_rans_decode_contexts(
    uint32_t width, const ckernels_coded_columns *columns, const uint32_t *contexts,
    const void *states, const void *words, size_t word_count, uint32_t *packed) {
    return ckernels_set_of(width)->rans_decode_contexts(
        columns, contexts, states, words, word_count, packed);
}

size_t ckernels_rans_encode(
    uint32_t width, const ckernels_coded_columns *columns, const uint32_t *packed,
    const uint32_t *column_at, uint16_t *area, void *states) {
    return ckernels_set_of(width)->rans_encode(columns, packed, column_at, area, states);
}

int64_t ckernels_scaled_quantise(
    uint32_t width, const ckernels_tensor *tensor, const ckernels_scaled_columns *columns,
    uint32_t *packed, ckernels_escape *escapes, size_t escape_limit) {
    const struct kernel_set *set = scaled_set(width, tensor, columns);
    return set->quantise(tensor, columns, packed, escapes, escape_limit);
}

void ckernels_scaled_squares(
    uint32_t width, const ckernels_tensor *tensor, const ckernels_scaled_columns *columns,
    float *sums) {
    scaled_set(width, tensor, columns)->squares(tensor, columns, sums);
}

void ckernels_scaled_restore(
    uint32_t width, const ckernels_tensor *tensor, const ckernels_scaled_columns *columns,
    const uint32_t *packed) {
    scaled_set(width, tensor, columns)->restore(tensor, columns, packed);
}

int64_t ckernels_split(
    uint32_t width, const ckernels_tensor *tensor, const ckernels_split_columns *columns,
    uint32_t *packed, uint8_t *raw, ckernels_escape *escapes, size_t escape_limit) {
    if (!has_two_bytes(tensor)) {
        return ckernels_split_other(tensor, columns, packed, raw, escapes, escape_limit);
    }
    return split_set(width, tensor)
        ->split(tensor, columns, packed, raw, escapes, escape_limit);
}

void ckernels_join(
    uint32_t width, const ckernels_tensor *tensor, const ckernels_split_columns *columns,
    const uint32_t *packed, const uint8_t *raw) {
    if (has_two_bytes(tensor)) {
        split_set(width, tensor)->join(tensor, columns, packed, raw);
    } else {
        ckernels_join_other(tensor, columns, packed, raw);
    }
}

void ckernels_contexts(
    const uint32_t *base, const uint32_t *first, size_t word_count, uint32_t *contexts) {
    const int8_t *coarser = (const int8_t *)base, *finer = (const int8_t *)first;
    uint8_t *to = (uint8_t *)contexts;
    for (size_t i = 0; i < 4 * word_count; i++) {
        // An escape counts as 0, whatever stands behind it.
        int symbol = coarser[i] == CKERNELS_ESCAPE ? 0 : coarser[i];
        int magnitude = symbol < 0 ? -symbol : symbol;
        magnitude = magnitude < 3 ? magnitude : 3;
        if (first != NULL) {
            // Refinements are coded with the sign of what they refine.
            magnitude = 3 * magnitude + finer[i];
            magnitude = magnitude < 0 ? -magnitude : magnitude;
            magnitude = magnitude < 3 ? magnitude : 3;
        }
        to[i] = (uint8_t)magnitude;
    }
}

// MARK: - Escapes

static int8_t symbol_at(const uint32_t *packed, uint32_t pitch, uint32_t row, uint32_t place) {
    return (int8_t)(packed[(size_t)(row / 4) * pitch + place] >> (8 * (row % 4)));
}

/// The value that `escapes` lists for `position`, or the escape symbol where it lists none.
static int32_t listed_value(const ckernels_escape *escapes, size_t count, uint32_t position) {
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (escapes[middle].position < position) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < count && escapes[low].position == position ? escapes[low].value : CKERNELS_ESCAPE;
}

/// Whether escape `index` lies in the tensor and behind the one before it.
static int is_in_order(
    const ckernels_tensor *tensor, const ckernels_escape *escapes, size_t index) {
    uint64_t count = (uint64_t)tensor->row_count * tensor->head_count * tensor->head_width;
    return escapes[index].position < count
        && (index == 0 || escapes[index - 1].position < escapes[index].position);
}

static void put_element(uint8_t *to, uint32_t element, float value) {
    uint16_t bits = element == CKERNELS_FLOAT16 ? half_of_float(value) : bfloat_of_float(value);
    if (element == CKERNELS_FLOAT32) {
        memcpy(to, &value, sizeof value);
    } else {
        memcpy(to, &bits, sizeof bits);
    }
}

struct patch {
    const ckernels_tensor *tensor;
    const ckernels_scaled_columns *columns;
    const uint32_t *packed;
    const ckernels_escape *escapes;
    size_t escape_count;
};

/// The value before rotation at `position`, an escape's that of the list.
static float unrotated_value(const struct patch *patch, uint32_t position) {
    const ckernels_scaled_columns *columns = patch->columns;
    uint32_t column_count = patch->tensor->head_count * patch->tensor->head_width;
    uint32_t row = position / column_count, column = position % column_count;
    uint32_t place = columns->positions[column];
    int32_t symbol = symbol_at(patch->packed, columns->pitch, row, place);
    float step = columns->scales[column];
    if (symbol == CKERNELS_ESCAPE) {
        symbol = listed_value(patch->escapes, patch->escape_count, position);
        if (columns->escape_scales != NULL) step = columns->escape_scales[column];
    } else {
        for (uint32_t k = 1; k <= columns->refinement_count; k++) {
            const uint32_t *refinement = patch->packed + k * columns->refinement_stride;
            int32_t finer = symbol_at(refinement, columns->pitch, row, place);
            symbol = 3 * symbol + (symbol < 0 ? -finer : finer);
        }
    }
    if (columns->factors != NULL) step = step * columns->factors[row];
    float scaled = (float)symbol * step;
    return scaled + columns->means[column];
}

static void patch_value(const struct patch *patch, uint32_t position) {
    const ckernels_tensor *tensor = patch->tensor;
    const ckernels_scaled_columns *columns = patch->columns;
    uint32_t column_count = tensor->head_count * tensor->head_width;
    uint32_t row = position / column_count, column = position % column_count;
    uint32_t head = column / tensor->head_width, channel = column % tensor->head_width;
    uint32_t half = columns->rotated_width / 2;
    uint8_t *to = tensor->start + (ptrdiff_t)row * tensor->row_stride
        + (ptrdiff_t)head * tensor->head_stride;
    size_t size = tensor->element == CKERNELS_FLOAT32 ? 4 : 2;
    uint32_t base = columns->rotated_from;
    if (channel < base || channel >= base + 2 * half) {
        put_element(to + channel * size, tensor->element, unrotated_value(patch, position));
        return;
    }
    uint32_t i = (channel - base) % half;
    uint32_t first = position - channel + base + i;
    float x = unrotated_value(patch, first), y = unrotated_value(patch, first + half);
    float cosine = columns->cosines[(size_t)row * half + i];
    float sine = columns->sines[(size_t)row * half + i];
    float a = x * cosine, b = y * cosine, c = y * sine, d = x * sine;
    uint32_t left = base + (columns->is_interleaved ? 2 * i : i);
    uint32_t right = base + (columns->is_interleaved ? 2 * i + 1 : half + i);
    put_element(to + left * size, tensor->element, a - c);
    put_element(to + right * size, tensor->element, b + d);
}

int ckernels_scaled_patch(
    const ckernels_tensor *tensor, const ckernels_scaled_columns *columns, const uint32_t *packed,
    const ckernels_escape *escapes, size_t escape_count) {
    struct patch patch = {tensor, columns, packed, escapes, escape_count};
    uint32_t column_count = tensor->head_count * tensor->head_width;
    for (size_t index = 0; index < escape_count; index++) {
        if (!is_in_order(tensor, escapes, index)) return -1;
        int32_t value = escapes[index].value;
        if (value > 1 << 24 || value < -(1 << 24)) return -1;
        uint32_t position = escapes[index].position;
        uint32_t row = position / column_count;
        uint32_t place = columns->positions[position % column_count];
        if (symbol_at(packed, columns->pitch, row, place) != CKERNELS_ESCAPE) return -1;
    }
    // Symbols as they are keep the escape symbol: their reader has the list too.
    if (tensor->element == CKERNELS_INT8) return 0;
    for (size_t index = 0; index < escape_count; index++) {
        patch_value(&patch, escapes[index].position);
    }
    return 0;
}

int ckernels_join_patch(
    const ckernels_tensor *tensor, const ckernels_split_columns *columns, const uint32_t *packed,
    const uint8_t *raw, const ckernels_escape *escapes, size_t escape_count) {
    uint32_t column_count = tensor->head_count * tensor->head_width;
    for (size_t index = 0; index < escape_count; index++) {
        if (!is_in_order(tensor, escapes, index)) return -1;
        uint32_t position = escapes[index].position;
        uint32_t row = position / column_count, column = position % column_count;
        if (symbol_at(packed, columns->pitch, row, column) != CKERNELS_ESCAPE) return -1;
        if (escapes[index].value < 0 || escapes[index].value > UINT8_MAX) return -1;
        uint8_t high = (uint8_t)escapes[index].value;
        size_t size = has_two_bytes(tensor) ? 2 : tensor->element == CKERNELS_FLOAT32 ? 4 : 1;
        uint8_t *to = tensor->start + (ptrdiff_t)row * tensor->row_stride
            + (ptrdiff_t)(column / tensor->head_width) * tensor->head_stride
            + (size_t)(column % tensor->head_width) * size;
        const uint8_t *rest = raw + (size_t)position * (size - 1);
        ckernels_put_together(to, tensor->element, high, rest);
    }
    return 0;
}
