// SPDX-License-Identifier: Apache-2.0
//
// Mode L over any vector unit: 16-bit elements to packed symbols and raw bytes, and back. Included
// once per unit, after scaled_body.h.

#include "CKernelsCodec.h"

/// Symbols of one vector of columns in one row, in the low bytes; its raw bytes to `raw`.
LANES u32v split_vector(
    const uint8_t *from, const ckernels_split_columns *columns, uint32_t column,
    uint32_t position, uint8_t *raw, struct escape_list *escapes) {
    u32v element = load_shorts(from);
    u32v turned = either(left(element, 1), right(element, 15));
    store_bytes(raw, turned);
    u32v high = both(right(turned, 8), splat(0xFF));
    u32v symbol = left(minus(high, load_bytes(columns->offsets + column)), 24);
    symbol = signed_right(symbol, 24);
    uint32_t mask = outside(
        symbol, load_words((const uint32_t *)columns->lowest + column),
        load_words((const uint32_t *)columns->highest + column));
    if (__builtin_expect(mask != 0, 0)) {
        float exact[WIDTH];
        store_single(exact, float_of_int(high));
        list_escapes(escapes, mask, position, exact);
        symbol = pick(mask, symbol, splat((uint32_t)CKERNELS_ESCAPE));
    }
    return both(symbol, splat(0xFF));
}

KERNEL int64_t split(
    const ckernels_tensor *tensor, const ckernels_split_columns *columns, uint32_t *packed,
    uint8_t *raw, ckernels_escape *entries, size_t limit) {
    struct escape_list escapes = {entries, 0, limit, 0};
    uint32_t column_count = tensor->head_count * tensor->head_width;
    for (uint32_t row = 0; row < tensor->row_count; row += 4, packed += columns->pitch) {
        uint32_t rows = tensor->row_count - row < 4 ? tensor->row_count - row : 4;
        for (uint32_t head = 0; head < tensor->head_count; head++) {
            const uint8_t *start = tensor->start + (ptrdiff_t)head * tensor->head_stride
                + (ptrdiff_t)row * tensor->row_stride;
            for (uint32_t i = 0; i < tensor->head_width; i += WIDTH) {
                uint32_t column = head * tensor->head_width + i;
                const uint8_t *from = start + 2 * (size_t)i;
                u32v symbols = splat(0);
                for (uint32_t r = 0; r < rows; r++, from += tensor->row_stride) {
                    uint32_t position = (row + r) * column_count + column;
                    prefetch_row(from, tensor->row_stride);
                    u32v symbol = split_vector(
                        from, columns, column, position, raw + position, &escapes);
                    symbols = either(symbols, left(symbol, (int)(8 * r)));
                }
                store_words(packed + column, symbols);
            }
        }
        if (escapes.is_unfit) return -1;
    }
    return (int64_t)escapes.count;
}

/// Joins `rows` rows of one head.
LANES void join_head(
    const ckernels_tensor *tensor, const ckernels_split_columns *columns, uint32_t row,
    uint32_t head, uint32_t rows, const uint32_t *packed, const uint8_t *raw) {
    uint32_t column_count = tensor->head_count * tensor->head_width;
    uint8_t *start = tensor->start + (ptrdiff_t)head * tensor->head_stride
        + (ptrdiff_t)row * tensor->row_stride;
    for (uint32_t i = 0; i < tensor->head_width; i += WIDTH) {
        uint32_t column = head * tensor->head_width + i;
        u32v symbols = load_words(packed + column);
        u32v offset = load_bytes(columns->offsets + column);
        uint8_t *to = start + 2 * (size_t)i;
        const uint8_t *low = raw + (size_t)row * column_count + column;
        for (uint32_t r = 0; r < rows; r++, to += tensor->row_stride, low += column_count) {
            u32v high = both(plus(right(symbols, (int)(8 * r)), offset), splat(0xFF));
            u32v turned = either(left(high, 8), load_bytes(low));
            store_shorts(to, either(right(turned, 1), left(turned, 15)));
        }
    }
}

KERNEL void join(
    const ckernels_tensor *tensor, const ckernels_split_columns *columns, const uint32_t *packed,
    const uint8_t *raw) {
    for (uint32_t row = 0; row < tensor->row_count; row += 4, packed += columns->pitch) {
        uint32_t rows = tensor->row_count - row < 4 ? tensor->row_count - row : 4;
        for (uint32_t head = 0; head < tensor->head_count; head++) {
            if (rows == 4) {
                join_head(tensor, columns, row, head, 4, packed, raw);
            } else {
                join_head(tensor, columns, row, head, rows, packed, raw);
            }
        }
    }
}
