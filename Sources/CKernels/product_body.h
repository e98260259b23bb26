// SPDX-License-Identifier: Apache-2.0
//
// Products of whole numbers over any vector unit. Included once per unit, and once more where a
// unit has sums of products of bytes: PRODUCT(name) names its functions, PRODUCT_KERNEL and
// PRODUCT_LANES declare them, and PRODUCT_DOT(sums, bytes, numbers) adds to each lane the products
// of its four bytes, without sign, with those of four numbers, with sign.
//
// A tile of TILE_ROWS x TILE_VECTORS vectors of sums stays in registers while the matrix' words
// stream by; a panel of them stays in the cache for all rows.

#include "CKernelsCodec.h"

/// Sums of one tile, over `count` words of the matrix: those that `places` names, or all.
PRODUCT_LANES void PRODUCT(add_words)(
    u32v *sums, const uint32_t *words, const uint8_t *rows, size_t row_pitch,
    const uint16_t *places, uint32_t count, int row_count) {
    for (uint32_t k = 0; k < count; k++) {
        size_t word = places != NULL ? places[k] : k;
        const uint32_t *from = words + word * CKERNELS_PANEL_WIDTH;
        u32v bytes[TILE_VECTORS];
        UNROLLED
        for (int v = 0; v < TILE_VECTORS; v++) bytes[v] = load_words(from + v * WIDTH);
        UNROLLED
        for (int r = 0; r < row_count; r++) {
            uint32_t four;
            memcpy(&four, rows + (size_t)r * row_pitch + 4 * word, sizeof four);
            u32v numbers = splat(four);
            UNROLLED
            for (int v = 0; v < TILE_VECTORS; v++) {
                u32v *sum = sums + r * TILE_VECTORS + v;
                *sum = PRODUCT_DOT(*sum, bytes[v], numbers);
            }
        }
    }
}

/// The same over all segments, or over the words of the one that `places` names behind their count.
PRODUCT_LANES void PRODUCT(add_segments)(
    const ckernels_product *product, u32v *sums, const uint32_t *words, uint32_t row,
    const uint16_t *places, int row_count) {
    if (places != NULL) {
        const ckernels_rows *rows = &product->segments[0];
        PRODUCT(add_words)(
            sums, words, rows->start + row * rows->row_pitch, rows->row_pitch, places + 1,
            places[0], row_count);
        return;
    }
    for (uint32_t s = 0; s < product->segment_count; s++) {
        const ckernels_rows *rows = &product->segments[s];
        PRODUCT(add_words)(
            sums, words, rows->start + row * rows->row_pitch, rows->row_pitch, NULL,
            rows->word_count, row_count);
        words += (size_t)rows->word_count * CKERNELS_PANEL_WIDTH;
    }
}

/// One tile: `row_count` rows from `row` on, columns from `column` on.
PRODUCT_LANES void PRODUCT(multiply_tile)(
    const ckernels_product *product, uint32_t column, uint32_t row, const uint16_t *places,
    int row_count) {
    const ckernels_matrix *matrix = &product->matrix;
    size_t panel = (size_t)(column / CKERNELS_PANEL_WIDTH) * matrix->word_count
        * CKERNELS_PANEL_WIDTH + column % CKERNELS_PANEL_WIDTH;
    u32v sums[TILE_ROWS * TILE_VECTORS];
    UNROLLED
    for (int r = 0; r < row_count; r++) {
        u32v bias = splat((uint32_t)product->row_sums[row + (uint32_t)r] * (uint32_t)-128);
        UNROLLED
        for (int v = 0; v < TILE_VECTORS; v++) sums[r * TILE_VECTORS + v] = bias;
    }
    PRODUCT(add_segments)(product, sums, matrix->high + panel, row, places, row_count);
    if (matrix->low != NULL) {
        UNROLLED
        for (int i = 0; i < row_count * TILE_VECTORS; i++) sums[i] = left(sums[i], 8);
        PRODUCT(add_segments)(product, sums, matrix->low + panel, row, places, row_count);
    }
    size_t pitch = (size_t)matrix->panel_count * CKERNELS_PANEL_WIDTH;
    UNROLLED
    for (int r = 0; r < row_count; r++) {
        size_t place = (row + (size_t)r) * pitch + column;
        const float *bases = product->bases + (row + (size_t)r) * product->base_pitch + column;
        float factor = product->factors != NULL ? product->factors[row + (uint32_t)r] : 1.0f;
        UNROLLED
        for (int v = 0; v < TILE_VECTORS; v++) {
            u32v sum = sums[r * TILE_VECTORS + v];
            if (product->sums != NULL) {
                store_words((uint32_t *)product->sums + place + (size_t)(v * WIDTH), sum);
                continue;
            }
            f32v scale = load_floats(product->scales + column + v * WIDTH);
            scale = multiply(scale, splat_float(factor));
            f32v base = load_floats(bases + v * WIDTH);
            store_single(
                product->values + place + v * WIDTH,
                add(base, multiply(scale, float_of_int(sum))));
        }
    }
}

/// Sums of the numbers of each row, which `high` counts 128 times too often.
PRODUCT_KERNEL void PRODUCT(sum_rows)(const ckernels_product *product) {
    for (uint32_t row = 0; row < product->row_count; row++) product->row_sums[row] = 0;
    for (uint32_t s = 0; s < product->segment_count; s++) {
        const ckernels_rows *rows = &product->segments[s];
        size_t count = 4 * (size_t)rows->word_count;
        for (uint32_t row = 0; row < product->row_count; row++) {
            const int8_t *numbers = (const int8_t *)rows->start + row * rows->row_pitch;
            int32_t sum = 0;
            for (size_t i = 0; i < count; i++) sum += numbers[i];
            product->row_sums[row] += sum;
        }
    }
}

/// The first row of tile `tile`: the last tile overlaps the one before it.
PRODUCT_LANES uint32_t PRODUCT(tile_row)(uint32_t tile, uint32_t row_count, uint32_t rows) {
    return tile * rows + rows <= row_count ? tile * rows : row_count - rows;
}

/// Lists for each tile the words that are not zero in all of its rows, behind their count.
PRODUCT_KERNEL void PRODUCT(list_places)(
    const ckernels_product *product, uint32_t tile_count, uint32_t rows) {
    uint32_t words = product->matrix.word_count;
    for (uint32_t tile = 0; tile < tile_count; tile++) {
        uint16_t *places = product->places + (size_t)tile * (words + 1);
        const ckernels_rows *segment = &product->segments[0];
        const uint8_t *from = segment->start
            + PRODUCT(tile_row)(tile, product->row_count, rows) * segment->row_pitch;
        uint32_t count = 0;
        for (uint32_t word = 0; word < words; word++) {
            uint32_t any = 0;
            for (uint32_t r = 0; r < rows; r++) {
                uint32_t four;
                memcpy(&four, from + r * segment->row_pitch + 4 * (size_t)word, sizeof four);
                any |= four;
            }
            places[1 + count] = (uint16_t)word;
            count += any != 0;
        }
        places[0] = (uint16_t)count;
    }
}

PRODUCT_KERNEL void PRODUCT(multiply)(const ckernels_product *product) {
    uint32_t words = product->matrix.word_count;
    uint32_t rows = product->row_count < TILE_ROWS ? 1 : TILE_ROWS;
    uint32_t tile_count = (product->row_count + rows - 1) / rows;
    uint32_t columns = product->matrix.panel_count * CKERNELS_PANEL_WIDTH;
    PRODUCT(sum_rows)(product);
    if (product->is_sparse) PRODUCT(list_places)(product, tile_count, rows);
    for (uint32_t column = 0; column < columns; column += TILE_VECTORS * WIDTH) {
        for (uint32_t tile = 0; tile < tile_count; tile++) {
            uint32_t row = PRODUCT(tile_row)(tile, product->row_count, rows);
            const uint16_t *places =
                product->is_sparse ? product->places + (size_t)tile * (words + 1) : NULL;
            if (rows == 1) {
                PRODUCT(multiply_tile)(product, column, row, places, 1);
            } else {
                PRODUCT(multiply_tile)(product, column, row, places, TILE_ROWS);
            }
        }
    }
}
