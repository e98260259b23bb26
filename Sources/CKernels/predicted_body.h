// SPDX-License-Identifier: Apache-2.0
//
// What mode P does with values, over any vector unit. Included once per unit, after its lanes_*.h
// and scaled_body.h.

#include "CKernelsCodec.h"

KERNEL void refer(
    const float *values, uint32_t row_count, uint32_t panel_count, const float *means,
    const float *steps, uint8_t *references) {
    uint32_t pitch = panel_count * CKERNELS_PANEL_WIDTH;
    for (uint32_t row = 0; row < row_count; row++) {
        for (uint32_t column = 0; column < pitch; column += WIDTH) {
            f32v x = subtract(load_floats(values + column), load_floats(means + column));
            x = divide(x, load_floats(steps + column));
            store_bytes(references + column, rounded(clamped(x, -127.0f, 127.0f)));
        }
        values += pitch;
        references += pitch;
    }
}

KERNEL void unpack(
    const uint32_t *packed, uint32_t row_count, uint32_t panel_count, uint8_t *symbols) {
    uint32_t pitch = panel_count * CKERNELS_PANEL_WIDTH;
    for (uint32_t row = 0; row < row_count; row++) {
        const uint32_t *block = packed + (size_t)(row / 4) * pitch;
        for (uint32_t column = 0; column < pitch; column += WIDTH) {
            store_bytes(symbols + column, right(load_words(block + column), (int)(8 * (row % 4))));
        }
        symbols += pitch;
    }
}

/// One row of one head, and where its values stand.
struct head_row {
    uint8_t *bytes;
    float *values;
    const float *cosines;
    const float *sines;
};

LANES void load_plain(
    const struct head_row *row, uint32_t element, uint32_t low, uint32_t high, u32v *largest) {
    for (uint32_t i = low; i < high; i += WIDTH) {
        f32v x = load_element(row->bytes, element, i);
        u32v size = both(bits_of(x), splat(0x7FFFFFFF));
        *largest = where_at_least(*largest, size, *largest, size);
        store_single(row->values + i, x);
    }
}

LANES void load_turned(
    const struct head_row *row, const ckernels_turns *turns, uint32_t element,
    int is_interleaved, u32v *largest) {
    uint32_t half = turns->rotated_width / 2, base = turns->rotated_from;
    for (uint32_t i = 0; i < half; i += WIDTH) {
        uint32_t left_channel = base + (is_interleaved ? 2 * i : i);
        uint32_t right_channel = base + (is_interleaved ? 2 * i + WIDTH : half + i);
        f32v a = load_element(row->bytes, element, left_channel);
        f32v b = load_element(row->bytes, element, right_channel);
        u32v size = both(bits_of(a), splat(0x7FFFFFFF));
        *largest = where_at_least(*largest, size, *largest, size);
        size = both(bits_of(b), splat(0x7FFFFFFF));
        *largest = where_at_least(*largest, size, *largest, size);
        if (is_interleaved) unzip(&a, &b);
        f32v cosine = load_floats(row->cosines + i), sine = load_floats(row->sines + i);
        f32v x = add(multiply(a, cosine), multiply(b, sine));
        f32v y = subtract(multiply(b, cosine), multiply(a, sine));
        if (is_interleaved) zip(&x, &y);
        store_single(row->values + left_channel, x);
        store_single(row->values + right_channel, y);
    }
}

LANES void store_plain(
    const struct head_row *row, uint32_t element, uint32_t low, uint32_t high) {
    for (uint32_t i = low; i < high; i += WIDTH) {
        store_element(row->bytes, element, i, load_floats(row->values + i));
    }
}

LANES void store_turned(
    const struct head_row *row, const ckernels_turns *turns, uint32_t element,
    int is_interleaved) {
    uint32_t half = turns->rotated_width / 2, base = turns->rotated_from;
    for (uint32_t i = 0; i < half; i += WIDTH) {
        uint32_t left_channel = base + (is_interleaved ? 2 * i : i);
        uint32_t right_channel = base + (is_interleaved ? 2 * i + WIDTH : half + i);
        f32v x = load_floats(row->values + left_channel);
        f32v y = load_floats(row->values + right_channel);
        if (is_interleaved) unzip(&x, &y);
        f32v cosine = load_floats(row->cosines + i), sine = load_floats(row->sines + i);
        f32v a = subtract(multiply(x, cosine), multiply(y, sine));
        f32v b = add(multiply(y, cosine), multiply(x, sine));
        if (is_interleaved) zip(&a, &b);
        store_element(row->bytes, element, left_channel, a);
        store_element(row->bytes, element, right_channel, b);
    }
}

LANES struct head_row row_of_head(
    const ckernels_tensor *tensor, const ckernels_turns *turns, uint32_t panel_count,
    const float *values, uint32_t row, uint32_t head) {
    size_t pitch = (size_t)panel_count * CKERNELS_PANEL_WIDTH;
    size_t half = turns->rotated_width / 2;
    return (struct head_row){
        .bytes = tensor->start + (ptrdiff_t)head * tensor->head_stride
            + (ptrdiff_t)row * tensor->row_stride,
        .values = (float *)(uintptr_t)values + row * pitch + (size_t)head * tensor->head_width,
        .cosines = half > 0 ? turns->cosines + row * half : NULL,
        .sines = half > 0 ? turns->sines + row * half : NULL,
    };
}

LANES void load_head(
    const struct head_row *row, const ckernels_turns *turns, uint32_t head_width,
    uint32_t element, int is_interleaved, u32v *largest) {
    uint32_t low = turns->rotated_from, high = low + turns->rotated_width;
    load_plain(row, element, 0, low, largest);
    load_turned(row, turns, element, is_interleaved, largest);
    load_plain(row, element, high, head_width, largest);
}

LANES void store_head(
    const struct head_row *row, const ckernels_turns *turns, uint32_t head_width,
    uint32_t element, int is_interleaved) {
    uint32_t low = turns->rotated_from, high = low + turns->rotated_width;
    store_plain(row, element, 0, low);
    store_turned(row, turns, element, is_interleaved);
    store_plain(row, element, high, head_width);
}

/// Runs CALL with the element's type and the pairing as constants where that is worth it.
#define BY_ELEMENT(CALL) \
    if (is_interleaved) { \
        CALL(tensor->element, 1); \
    } else if (tensor->element == CKERNELS_FLOAT16) { \
        CALL(CKERNELS_FLOAT16, 0); \
    } else if (tensor->element == CKERNELS_BFLOAT16) { \
        CALL(CKERNELS_BFLOAT16, 0); \
    } else { \
        CALL(CKERNELS_FLOAT32, 0); \
    }

KERNEL int values_load(
    const ckernels_tensor *tensor, const ckernels_turns *turns, uint32_t panel_count,
    float *values) {
    int is_interleaved = turns->is_interleaved != 0;
    u32v largest = splat(0);
    for (uint32_t row = 0; row < tensor->row_count; row++) {
        for (uint32_t head = 0; head < tensor->head_count; head++) {
            struct head_row at = row_of_head(tensor, turns, panel_count, values, row, head);
#define LOAD(element, pairing) \
    load_head(&at, turns, tensor->head_width, element, pairing, &largest)
            BY_ELEMENT(LOAD)
#undef LOAD
        }
    }
    uint32_t sizes[WIDTH];
    store_words(sizes, largest);
    // Numbers without sign are ordered as their bits; what is none has the largest.
    for (int lane = 0; lane < WIDTH; lane++) {
        if (sizes[lane] > bits_of_float(0x1p80f)) return 0;
    }
    return 1;
}

KERNEL void values_store(
    const ckernels_tensor *tensor, const ckernels_turns *turns, uint32_t panel_count,
    const float *values) {
    int is_interleaved = turns->is_interleaved != 0;
    for (uint32_t row = 0; row < tensor->row_count; row++) {
        for (uint32_t head = 0; head < tensor->head_count; head++) {
            struct head_row at = row_of_head(tensor, turns, panel_count, values, row, head);
#define STORE(element, pairing) store_head(&at, turns, tensor->head_width, element, pairing)
            BY_ELEMENT(STORE)
#undef STORE
        }
    }
}

/// Vectors of coefficients that are looked at together.
#define ANALYSIS_VECTORS (WIDTH >= 16 ? 4 : 2)

/// Symbols of a vector of coefficients in one row; `position` is that of the first.
LANES u32v symbols_of(
    f32v x, const ckernels_analysis *analysis, uint32_t coefficient, uint32_t position,
    struct escape_list *escapes) {
    // To nearest from 0.05 nearer to zero on: up from 0.55 on.
    u32v sign = both(bits_of(x), splat(0x80000000));
    x = subtract(x, of_bits(either(sign, splat(bits_of_float(0.05f)))));
    u32v symbol = rounded(x);
    uint32_t mask = outside(
        symbol, load_words((const uint32_t *)analysis->lowest + coefficient),
        load_words((const uint32_t *)analysis->highest + coefficient));
    if (__builtin_expect(mask != 0, 0)) {
        float exact[WIDTH];
        uint32_t whole[WIDTH];
        store_single(exact, x);
        store_words(whole, symbol);
        for (int lane = 0; lane < WIDTH; lane++) {
            int is_exact = exact[lane] > -QUANTISED_LIMIT && exact[lane] < QUANTISED_LIMIT;
            if (is_exact) exact[lane] = (float)(int32_t)whole[lane];
        }
        list_escapes(escapes, mask, position, exact);
        symbol = pick(mask, symbol, splat((uint32_t)CKERNELS_ESCAPE));
    }
    return both(symbol, splat(0xFF));
}

/// Four rows, or the last fewer, of ANALYSIS_VECTORS vectors of coefficients.
LANES void analyse_tile(
    const ckernels_analysis *analysis, uint32_t row, uint32_t rows, uint32_t coefficient,
    uint32_t *packed, struct escape_list *escapes) {
    size_t pitch = (size_t)analysis->panel_count * CKERNELS_PANEL_WIDTH;
    const float *matrix = analysis->matrix
        + (size_t)(coefficient / CKERNELS_PANEL_WIDTH) * analysis->column_count
            * CKERNELS_PANEL_WIDTH
        + coefficient % CKERNELS_PANEL_WIDTH;
    const float *differences[4];
    for (uint32_t r = 0; r < 4; r++) {
        // Rows beyond the last are the last once more, and thrown away.
        differences[r] = analysis->differences + (row + (r < rows ? r : rows - 1)) * pitch;
    }
    f32v sums[4][ANALYSIS_VECTORS];
    UNROLLED
    for (int i = 0; i < 4; i++) {
        UNROLLED
        for (int v = 0; v < ANALYSIS_VECTORS; v++) sums[i][v] = splat_float(0);
    }
    for (uint32_t column = 0; column < analysis->column_count; column++) {
        f32v line[ANALYSIS_VECTORS];
        UNROLLED
        for (int v = 0; v < ANALYSIS_VECTORS; v++) {
            line[v] = load_floats(matrix + (size_t)column * CKERNELS_PANEL_WIDTH + v * WIDTH);
        }
        UNROLLED
        for (int r = 0; r < 4; r++) {
            f32v x = splat_float(differences[r][column]);
            UNROLLED
            for (int v = 0; v < ANALYSIS_VECTORS; v++) {
                sums[r][v] = add(sums[r][v], multiply(x, line[v]));
            }
        }
    }
    UNROLLED
    for (int v = 0; v < ANALYSIS_VECTORS; v++) {
        uint32_t at = coefficient + (uint32_t)(v * WIDTH);
        u32v symbols = splat(0);
        for (uint32_t r = 0; r < rows; r++) {
            f32v x = multiply(sums[r][v], splat_float(analysis->scales[row + r]));
            uint32_t position = (row + r) * analysis->column_count + at;
            u32v symbol = symbols_of(x, analysis, at, position, escapes);
            symbols = either(symbols, left(symbol, (int)(8 * r)));
        }
        store_words(packed + at, symbols);
    }
}

KERNEL int64_t analyse(
    const ckernels_analysis *analysis, uint32_t row_count, uint32_t *packed,
    ckernels_escape *entries, size_t limit) {
    struct escape_list escapes = {entries, 0, limit, 0};
    uint32_t pitch = analysis->panel_count * CKERNELS_PANEL_WIDTH;
    for (uint32_t at = 0; at < pitch; at += ANALYSIS_VECTORS * WIDTH) {
        for (uint32_t row = 0; row < row_count; row += 4) {
            uint32_t rows = row_count - row < 4 ? row_count - row : 4;
            analyse_tile(
                analysis, row, rows, at, packed + (size_t)(row / 4) * pitch, &escapes);
        }
        if (escapes.is_unfit) return -1;
    }
    return (int64_t)escapes.count;
}
