// SPDX-License-Identifier: Apache-2.0
//
// Mode L for elements of one and of four bytes, on any machine: rare enough not to need vectors.
#include "kernel_set.h"

#include "floats.h"

/// The coded byte of an element and, for four bytes, the others into `raw`, the lowest first.
static uint8_t take_apart(const uint8_t *from, int is_wide, uint8_t *raw) {
    if (!is_wide) return *from;
    uint32_t element;
    memcpy(&element, from, sizeof element);
    uint32_t turned = element << 1 | element >> 31;
    for (int byte = 0; byte < 3; byte++) raw[byte] = (uint8_t)(turned >> (8 * byte));
    return (uint8_t)(turned >> 24);
}

void ckernels_put_together(uint8_t *to, uint32_t element, uint8_t high, const uint8_t *raw) {
    if (element == CKERNELS_FLOAT8) {
        *to = high;
    } else if (element == CKERNELS_FLOAT32) {
        uint32_t turned = (uint32_t)high << 24 | (uint32_t)raw[2] << 16 | (uint32_t)raw[1] << 8
            | raw[0];
        uint32_t whole = turned >> 1 | turned << 31;
        memcpy(to, &whole, sizeof whole);
    } else {
        uint16_t turned = (uint16_t)(high << 8 | raw[0]);
        uint16_t whole = (uint16_t)(turned >> 1 | turned << 15);
        memcpy(to, &whole, sizeof whole);
    }
}

int64_t ckernels_split_other(
    const ckernels_tensor *tensor, const ckernels_split_columns *columns, uint32_t *packed,
    uint8_t *raw, ckernels_escape *escapes, size_t escape_limit) {
    int is_wide = tensor->element == CKERNELS_FLOAT32;
    size_t size = is_wide ? 4 : 1, count = 0;
    uint32_t column_count = tensor->head_count * tensor->head_width;
    for (uint32_t row = 0; row < tensor->row_count; row++) {
        uint32_t *block = packed + (size_t)(row / 4) * columns->pitch;
        for (uint32_t column = 0; column < column_count; column++, raw += size - 1) {
            const uint8_t *from = tensor->start + (ptrdiff_t)row * tensor->row_stride
                + (ptrdiff_t)(column / tensor->head_width) * tensor->head_stride
                + (size_t)(column % tensor->head_width) * size;
            uint8_t high = take_apart(from, is_wide, raw);
            int8_t symbol = (int8_t)(high - columns->offsets[column]);
            if (symbol < columns->lowest[column] || symbol > columns->highest[column]) {
                if (count == escape_limit) return -1;
                escapes[count] = (ckernels_escape){row * column_count + column, high};
                count += 1;
                symbol = CKERNELS_ESCAPE;
            }
            uint32_t shift = 8 * (row % 4);
            uint32_t others = shift == 0 ? 0 : block[column];
            block[column] = others | (uint32_t)(uint8_t)symbol << shift;
        }
    }
    return (int64_t)count;
}

void ckernels_join_other(
    const ckernels_tensor *tensor, const ckernels_split_columns *columns, const uint32_t *packed,
    const uint8_t *raw) {
    size_t size = tensor->element == CKERNELS_FLOAT32 ? 4 : 1;
    uint32_t column_count = tensor->head_count * tensor->head_width;
    for (uint32_t row = 0; row < tensor->row_count; row++) {
        const uint32_t *block = packed + (size_t)(row / 4) * columns->pitch;
        for (uint32_t column = 0; column < column_count; column++, raw += size - 1) {
            uint8_t *to = tensor->start + (ptrdiff_t)row * tensor->row_stride
                + (ptrdiff_t)(column / tensor->head_width) * tensor->head_stride
                + (size_t)(column % tensor->head_width) * size;
            uint8_t symbol = (uint8_t)(block[column] >> (8 * (row % 4)));
            uint8_t high = (uint8_t)(symbol + columns->offsets[column]);
            ckernels_put_together(to, tensor->element, high, raw);
        }
    }
}
