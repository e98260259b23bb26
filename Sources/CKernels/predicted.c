// SPDX-License-Identifier: Apache-2.0
//
// Mode P: which set of kernels runs, and how matrices are packed.
#include "CKernelsCodec.h"

#include "floats.h"
#include "kernel_set.h"

void ckernels_multiply(uint32_t width, const ckernels_product *product) {
    ckernels_set_of(width)->multiply(product);
}

void ckernels_refer(
    uint32_t width, const float *values, uint32_t row_count, uint32_t panel_count,
    const float *means, const float *steps, uint8_t *references) {
    ckernels_set_of(width)->refer(values, row_count, panel_count, means, steps, references);
}

void ckernels_unpack(
    uint32_t width, const uint32_t *packed, uint32_t row_count, uint32_t panel_count,
    uint8_t *symbols) {
    ckernels_set_of(width)->unpack(packed, row_count, panel_count, symbols);
}

static const struct kernel_set *turning_set(
    uint32_t width, const ckernels_tensor *tensor, const ckernels_turns *turns) {
    const uint32_t runs[3] = {tensor->head_width, turns->rotated_width / 2, turns->rotated_from};
    return ckernels_fitting_set(width, runs);
}

int ckernels_values_load(
    uint32_t width, const ckernels_tensor *tensor, const ckernels_turns *turns,
    uint32_t panel_count, float *values) {
    return turning_set(width, tensor, turns)->values_load(tensor, turns, panel_count, values);
}

void ckernels_values_store(
    uint32_t width, const ckernels_tensor *tensor, const ckernels_turns *turns,
    uint32_t panel_count, const float *values) {
    turning_set(width, tensor, turns)->values_store(tensor, turns, panel_count, values);
}

int64_t ckernels_analyse(
    uint32_t width, const ckernels_analysis *analysis, uint32_t row_count, uint32_t *packed,
    ckernels_escape *escapes, size_t escape_limit) {
    return ckernels_set_of(width)->analyse(analysis, row_count, packed, escapes, escape_limit);
}

void ckernels_subtract(float *values, const float *bases, size_t count) {
    for (size_t place = 0; place < count; place++) values[place] -= bases[place];
}

// MARK: - Packing

/// The byte of `panels` that belongs to a row and a column.
static uint8_t *byte_of(uint32_t *panels, uint32_t word_count, uint32_t row, uint32_t column) {
    size_t panel = column / CKERNELS_PANEL_WIDTH, lane = column % CKERNELS_PANEL_WIDTH;
    size_t word = (panel * word_count + row / 4) * CKERNELS_PANEL_WIDTH + lane;
    return (uint8_t *)(panels + word) + row % 4;
}

static int16_t short_at(const void *numbers, size_t place) {
    int16_t number;
    memcpy(&number, (const uint8_t *)numbers + 2 * place, sizeof number);
    return number;
}

void ckernels_pack_bytes(
    const void *numbers, uint32_t row_count, uint32_t column_count, uint32_t first,
    uint32_t word_count, uint32_t *panels) {
    const int8_t *from = numbers;
    for (uint32_t row = 0; row < row_count; row++) {
        for (uint32_t column = 0; column < column_count; column++) {
            *byte_of(panels, word_count, 4 * first + row, column) = (uint8_t)(*from++ + 128);
        }
    }
}

void ckernels_pack_shorts(
    const void *numbers, uint32_t row_count, uint32_t column_count, uint32_t word_count,
    uint32_t *high, uint32_t *low) {
    for (uint32_t row = 0; row < row_count; row++) {
        for (uint32_t column = 0; column < column_count; column++) {
            int32_t number = short_at(numbers, (size_t)row * column_count + column);
            int32_t above = number;
            if (low != NULL) {
                *byte_of(low, word_count, row, column) = (uint8_t)(number & 0xFF);
                above = (number - (number & 0xFF)) / 256;
            }
            *byte_of(high, word_count, row, column) = (uint8_t)(above + 128);
        }
    }
}

int64_t ckernels_column_sum_max(
    const void *numbers, int is_short, uint32_t row_count, uint32_t column_count, int64_t *sums) {
    memset(sums, 0, column_count * sizeof *sums);
    for (uint32_t row = 0; row < row_count; row++) {
        for (uint32_t column = 0; column < column_count; column++) {
            size_t place = (size_t)row * column_count + column;
            int32_t number =
                is_short ? short_at(numbers, place) : ((const int8_t *)numbers)[place];
            sums[column] += number < 0 ? -number : number;
        }
    }
    int64_t largest = 0;
    for (uint32_t column = 0; column < column_count; column++) {
        if (sums[column] > largest) largest = sums[column];
    }
    return largest;
}

int ckernels_shorts_fit_bytes(const void *numbers, size_t count) {
    for (size_t place = 0; place < count; place++) {
        int16_t number = short_at(numbers, place);
        if (number < INT8_MIN || number > INT8_MAX) return 0;
    }
    return 1;
}
