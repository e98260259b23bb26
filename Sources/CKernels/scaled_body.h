// SPDX-License-Identifier: Apache-2.0
//
// Mode S over any vector unit: floats to packed symbols and back. Included once per unit, after its
// lanes_*.h. Loops over element types and pairings are written once and inlined with constants.

#include "CKernelsCodec.h"

/// Where escapes go.
struct escape_list {
    ckernels_escape *entries;
    size_t count;
    size_t limit;
    int is_unfit;
};

/// Lists one escape per set bit of `mask`: the exact quantised values stand in `values`.
static inline void list_escapes(
    struct escape_list *list, uint32_t mask, uint32_t position, const float *values) {
    for (; mask != 0; mask &= mask - 1) {
        uint32_t lane = (uint32_t)__builtin_ctz(mask);
        float value = values[lane];
        // What is no number fails both comparisons.
        int is_fit = value > -QUANTISED_LIMIT && value < QUANTISED_LIMIT;
        if (!is_fit || list->count == list->limit) {
            list->is_unfit = 1;
            return;
        }
        list->entries[list->count] = (ckernels_escape){position + lane, (int32_t)value};
        list->count += 1;
    }
}

static inline size_t element_size(uint32_t element) {
    return element == CKERNELS_FLOAT32 ? 4 : 2;
}

LANES f32v load_element(const uint8_t *from, uint32_t element, uint32_t channel) {
    if (element == CKERNELS_FLOAT16) return load_half(from + 2 * (size_t)channel);
    if (element == CKERNELS_BFLOAT16) return load_bfloat(from + 2 * (size_t)channel);
    return load_single(from + 4 * (size_t)channel);
}

LANES void store_element(uint8_t *to, uint32_t element, uint32_t channel, f32v x) {
    if (element == CKERNELS_FLOAT16) {
        store_half(to + 2 * (size_t)channel, x);
    } else if (element == CKERNELS_BFLOAT16) {
        store_bfloat(to + 2 * (size_t)channel, x);
    } else {
        store_single(to + 4 * (size_t)channel, x);
    }
}

/// Asks for what stands at `from` four rows further down: hardware does not foresee four streams.
LANES void prefetch_row(const uint8_t *from, ptrdiff_t row_stride) {
    __builtin_prefetch((const void *)((uintptr_t)from + 4 * (uintptr_t)row_stride));
}

/// One vector of columns in one row, in steps from their means.
LANES f32v in_steps(f32v x, const ckernels_scaled_columns *columns, uint32_t column) {
    return multiply(
        subtract(x, load_floats(columns->means + column)),
        load_floats(columns->scales + column));
}

/// The whole number nearest to a third, which no number has in two; right up to 2^20.
LANES u32v third(u32v x) { return rounded(multiply(float_of_int(x), splat_float(1.0f / 3))); }

/// 1 where x is 0 or above, -1 below.
LANES u32v sign_of(u32v x) { return either(signed_right(x, 31), splat(1)); }

/// What refines `coarser` to `finer`, as an encoder looks it up: context << 2 | (t + 1).
LANES u32v refinement_of(u32v coarser, u32v finer) {
    u32v sign = sign_of(coarser), magnitude = times(coarser, sign);
    u32v context = where_at_least(magnitude, splat(3), splat(3), magnitude);
    u32v t = times(minus(finer, times(coarser, splat(3))), sign);
    return either(left(context, 2), plus(t, splat(1)));
}

/// The bytes of one vector of columns in one row: symbols and, in an embedded section, what refines
/// them.
struct symbols {
    u32v base;
    u32v first;
    u32v second;
};

/// Puts those of row `r` of a block to the others.
LANES void put_symbols(
    struct symbols *all, const struct symbols *own, uint32_t r, int is_embedded) {
    all->base = either(all->base, left(own->base, (int)(8 * r)));
    if (!is_embedded) return;
    all->first = either(all->first, left(own->first, (int)(8 * r)));
    all->second = either(all->second, left(own->second, (int)(8 * r)));
}

LANES void store_symbols(
    uint32_t *packed, const ckernels_scaled_columns *columns, const struct symbols *symbols,
    int is_embedded) {
    store_words(packed, symbols->base);
    if (!is_embedded) return;
    store_words(packed + columns->refinement_stride, symbols->first);
    store_words(packed + 2 * columns->refinement_stride, symbols->second);
}

LANES struct symbols no_symbols(void) {
    return (struct symbols){.base = splat(0), .first = splat(0), .second = splat(0)};
}

/// Symbols of one vector of columns in one row; `position` is that of its first column, `factor`
/// that of the row or NULL.
LANES struct symbols quantise_vector(
    f32v x, const ckernels_scaled_columns *columns, uint32_t column, uint32_t position,
    const float *factor, int is_embedded, struct escape_list *escapes) {
    f32v scaled = in_steps(x, columns, column);
    if (factor != NULL) scaled = multiply(scaled, splat_float(*factor));
    u32v whole = rounded(scaled), symbol = whole;
    struct symbols found = no_symbols();
    if (is_embedded) {
        u32v middle = third(whole);
        symbol = third(middle);
        found.first = refinement_of(symbol, middle);
        found.second = refinement_of(middle, whole);
    }
    uint32_t mask = outside(
        symbol, load_words((const uint32_t *)columns->lowest + column),
        load_words((const uint32_t *)columns->highest + column));
    if (__builtin_expect(mask != 0, 0)) {
        float exact[WIDTH];
        uint32_t wholes[WIDTH];
        store_single(exact, scaled);
        store_words(wholes, whole);
        for (int lane = 0; lane < WIDTH; lane++) {
            // Conversions saturate at int32; the float tells whether it did.
            int is_exact = exact[lane] > -QUANTISED_LIMIT && exact[lane] < QUANTISED_LIMIT;
            if (is_exact) exact[lane] = (float)(int32_t)wholes[lane];
        }
        list_escapes(escapes, mask, position, exact);
        symbol = pick(mask, symbol, splat((uint32_t)CKERNELS_ESCAPE));
        // Context 0 and t = 0: there is nothing to refine.
        found.first = pick(mask, found.first, splat(1));
        found.second = pick(mask, found.second, splat(1));
    }
    found.base = both(symbol, splat(0xFF));
    return found;
}

/// What the rows of one head share.
struct head_view {
    uint8_t *start;
    ptrdiff_t row_stride;
    /// Of the rows from `row` on; NULL: none.
    const float *factors;
    uint32_t row;
    uint32_t first_column;
    uint32_t half;
    uint32_t rotated_from;
    uint32_t column_count;
};

LANES struct head_view view_head(
    const ckernels_tensor *tensor, const ckernels_scaled_columns *columns, uint32_t row,
    uint32_t head) {
    return (struct head_view){
        .start = tensor->start + (ptrdiff_t)head * tensor->head_stride
            + (ptrdiff_t)row * tensor->row_stride,
        .row_stride = tensor->row_stride,
        .factors = columns->factors == NULL ? NULL : columns->factors + row,
        .row = row,
        .first_column = head * tensor->head_width,
        .half = columns->rotated_width / 2,
        .rotated_from = columns->rotated_from,
        .column_count = tensor->head_count * tensor->head_width,
    };
}

/// Where a row's factor stands; NULL without factors, which a constant says: the compiler then
/// leaves out what they cost.
LANES const float *row_factor(const struct head_view *view, uint32_t r, int has_factors) {
    return has_factors ? view->factors + r : NULL;
}

/// Quantises the channels from `low` to `high`, which are not rotated.
LANES void quantise_plain(
    const struct head_view *view, const ckernels_scaled_columns *columns, uint32_t low,
    uint32_t high, uint32_t rows, uint32_t element, int has_factors, int is_embedded,
    uint32_t *packed, struct escape_list *escapes) {
    for (uint32_t i = low; i < high; i += WIDTH) {
        struct symbols symbols = no_symbols();
        uint32_t column = view->first_column + i;
        const uint8_t *from = view->start;
        for (uint32_t r = 0; r < rows; r++, from += view->row_stride) {
            uint32_t position = (view->row + r) * view->column_count + column;
            prefetch_row(from + (size_t)i * element_size(element), view->row_stride);
            struct symbols own = quantise_vector(
                load_element(from, element, i), columns, column, position,
                row_factor(view, r, has_factors), is_embedded, escapes);
            put_symbols(&symbols, &own, r, is_embedded);
        }
        store_symbols(packed + column, columns, &symbols, is_embedded);
    }
}

/// Loads the pairs of channels from `i` on in the row at `from`, `row` of the tensor, and turns
/// them back.
LANES void load_unrotated(
    const struct head_view *view, const ckernels_scaled_columns *columns, const uint8_t *from,
    uint32_t row, uint32_t i, uint32_t element, int is_interleaved, f32v *x, f32v *y) {
    uint32_t half = view->half, base = view->rotated_from;
    uint32_t left_channel = base + (is_interleaved ? 2 * i : i);
    uint32_t right_channel = base + (is_interleaved ? 2 * i + WIDTH : half + i);
    f32v a = load_element(from, element, left_channel);
    f32v b = load_element(from, element, right_channel);
    prefetch_row(from + left_channel * element_size(element), view->row_stride);
    prefetch_row(from + right_channel * element_size(element), view->row_stride);
    if (is_interleaved) unzip(&a, &b);
    f32v cosine = load_floats(columns->cosines + (size_t)row * half + i);
    f32v sine = load_floats(columns->sines + (size_t)row * half + i);
    *x = add(multiply(a, cosine), multiply(b, sine));
    *y = subtract(multiply(b, cosine), multiply(a, sine));
}

/// Turns the rotated channels back and quantises them.
LANES void quantise_rotated(
    const struct head_view *view, const ckernels_scaled_columns *columns, uint32_t rows,
    uint32_t element, int is_interleaved, int has_factors, int is_embedded, uint32_t *packed,
    struct escape_list *escapes) {
    uint32_t half = view->half, base = view->rotated_from;
    for (uint32_t i = 0; i < half; i += WIDTH) {
        struct symbols left_symbols = no_symbols(), right_symbols = no_symbols();
        uint32_t column = view->first_column + base + i;
        const uint8_t *from = view->start;
        for (uint32_t r = 0; r < rows; r++, from += view->row_stride) {
            f32v x, y;
            load_unrotated(
                view, columns, from, view->row + r, i, element, is_interleaved, &x, &y);
            uint32_t position = (view->row + r) * view->column_count + column;
            const float *factor = row_factor(view, r, has_factors);
            struct symbols own = quantise_vector(
                x, columns, column, position, factor, is_embedded, escapes);
            put_symbols(&left_symbols, &own, r, is_embedded);
            own = quantise_vector(
                y, columns, column + half, position + half, factor, is_embedded, escapes);
            put_symbols(&right_symbols, &own, r, is_embedded);
        }
        store_symbols(packed + column, columns, &left_symbols, is_embedded);
        store_symbols(packed + column + half, columns, &right_symbols, is_embedded);
    }
}

/// Quantises four rows (or fewer, the tensor's last) of one head.
LANES void quantise_head(
    const ckernels_tensor *tensor, const ckernels_scaled_columns *columns, uint32_t row,
    uint32_t head, uint32_t element, int is_interleaved, int has_factors, int is_embedded,
    uint32_t *packed, struct escape_list *escapes) {
    struct head_view view = view_head(tensor, columns, row, head);
    uint32_t rows = tensor->row_count - row < 4 ? tensor->row_count - row : 4;
    uint32_t low = view.rotated_from, high = low + 2 * view.half;
    quantise_plain(
        &view, columns, 0, low, rows, element, has_factors, is_embedded, packed, escapes);
    quantise_rotated(
        &view, columns, rows, element, is_interleaved, has_factors, is_embedded, packed, escapes);
    quantise_plain(
        &view, columns, high, tensor->head_width, rows, element, has_factors, is_embedded, packed,
        escapes);
}

KERNEL int64_t quantise(
    const ckernels_tensor *tensor, const ckernels_scaled_columns *columns, uint32_t *packed,
    ckernels_escape *entries, size_t limit) {
    struct escape_list escapes = {entries, 0, limit, 0};
    int is_interleaved = columns->is_interleaved != 0;
    for (uint32_t row = 0; row < tensor->row_count; row += 4, packed += columns->pitch) {
        for (uint32_t head = 0; head < tensor->head_count; head++) {
#define QUANTISE(element, pairing) \
    (columns->factors == NULL \
         ? quantise_head(tensor, columns, row, head, element, pairing, 0, 0, packed, &escapes) \
         : quantise_head(tensor, columns, row, head, element, pairing, 1, 0, packed, &escapes))
            if (columns->refinement_stride != 0) {
                quantise_head(
                    tensor, columns, row, head, tensor->element, is_interleaved,
                    columns->factors != NULL, 1, packed, &escapes);
            } else if (is_interleaved) {
                QUANTISE(tensor->element, 1);
            } else if (tensor->element == CKERNELS_FLOAT16) {
                QUANTISE(CKERNELS_FLOAT16, 0);
            } else if (tensor->element == CKERNELS_BFLOAT16) {
                QUANTISE(CKERNELS_BFLOAT16, 0);
            } else {
                QUANTISE(CKERNELS_FLOAT32, 0);
            }
#undef QUANTISE
        }
        if (escapes.is_unfit) return -1;
    }
    return (int64_t)escapes.count;
}

/// Sums are kept apart by column modulo this number, so that every width adds in one order.
#define SUM_COUNT 16
#define SUM_VECTORS (SUM_COUNT / WIDTH)

LANES void add_square(f32v *sum, f32v steps) { *sum = add(*sum, multiply(steps, steps)); }

/// Adds the squares of one row of one head, whose channels from `low` to `high` are not rotated.
LANES void add_plain_squares(
    const struct head_view *view, const ckernels_scaled_columns *columns, uint32_t low,
    uint32_t high, uint32_t element, f32v sums[SUM_VECTORS]) {
    for (uint32_t i = low; i < high; i += SUM_COUNT) {
        UNROLLED
        for (uint32_t v = 0; v < SUM_VECTORS; v++) {
            uint32_t channel = i + v * WIDTH;
            if (channel >= high) break;
            f32v x = load_element(view->start, element, channel);
            add_square(&sums[v], in_steps(x, columns, view->first_column + channel));
        }
    }
}

/// Adds the squares of the rotated channels of one row of one head.
LANES void add_rotated_squares(
    const struct head_view *view, const ckernels_scaled_columns *columns, uint32_t element,
    int is_interleaved, f32v sums[SUM_VECTORS]) {
    uint32_t half = view->half, first = view->first_column + view->rotated_from;
    for (uint32_t i = 0; i < half; i += SUM_COUNT) {
        UNROLLED
        for (uint32_t v = 0; v < SUM_VECTORS; v++) {
            uint32_t pair = i + v * WIDTH;
            if (pair >= half) break;
            f32v x, y;
            load_unrotated(
                view, columns, view->start, view->row, pair, element, is_interleaved, &x, &y);
            add_square(&sums[v], in_steps(x, columns, first + pair));
            add_square(&sums[v], in_steps(y, columns, first + half + pair));
        }
    }
}

/// The sum of the squares of one row.
LANES float row_squares(
    const ckernels_tensor *tensor, const ckernels_scaled_columns *columns, uint32_t row,
    uint32_t element, int is_interleaved) {
    f32v sums[SUM_VECTORS];
    UNROLLED
    for (int v = 0; v < SUM_VECTORS; v++) sums[v] = splat_float(0);
    for (uint32_t head = 0; head < tensor->head_count; head++) {
        struct head_view view = view_head(tensor, columns, row, head);
        uint32_t low = view.rotated_from, high = low + 2 * view.half;
        add_plain_squares(&view, columns, 0, low, element, sums);
        add_rotated_squares(&view, columns, element, is_interleaved, sums);
        add_plain_squares(&view, columns, high, tensor->head_width, element, sums);
    }
    float parts[SUM_COUNT], sum = 0;
    UNROLLED
    for (int v = 0; v < SUM_VECTORS; v++) store_single(parts + v * WIDTH, sums[v]);
    for (int i = 0; i < SUM_COUNT; i++) sum += parts[i];
    return sum;
}

KERNEL void squares(
    const ckernels_tensor *tensor, const ckernels_scaled_columns *columns, float *sums) {
    int is_interleaved = columns->is_interleaved != 0;
    for (uint32_t row = 0; row < tensor->row_count; row++) {
        if (is_interleaved) {
            sums[row] = row_squares(tensor, columns, row, tensor->element, 1);
        } else if (tensor->element == CKERNELS_FLOAT16) {
            sums[row] = row_squares(tensor, columns, row, CKERNELS_FLOAT16, 0);
        } else if (tensor->element == CKERNELS_BFLOAT16) {
            sums[row] = row_squares(tensor, columns, row, CKERNELS_BFLOAT16, 0);
        } else {
            sums[row] = row_squares(tensor, columns, row, CKERNELS_FLOAT32, 0);
        }
    }
}

/// Steps of a row: those of the columns, times its factor where there is one.
LANES f32v row_step(const struct head_view *view, uint32_t r, int has_factors, f32v step) {
    return has_factors ? multiply(step, splat_float(view->factors[r])) : step;
}

/// Byte `r` of each lane, with sign.
LANES u32v row_of(u32v symbols, uint32_t r) {
    return signed_right(left(symbols, (int)(24 - 8 * r)), 24);
}

/// A whole number made finer by a refinement, which is coded with its sign.
LANES u32v refined(u32v whole, u32v t) {
    return plus(times(whole, splat(3)), times(t, sign_of(whole)));
}

/// The symbols of a block of rows from `column` on, and their refinements.
LANES struct symbols load_symbols(
    const ckernels_scaled_columns *columns, const uint32_t *packed, uint32_t column,
    int is_refined) {
    u32v places = load_words(columns->positions + column);
    struct symbols symbols = no_symbols();
    symbols.base = gather(packed, places);
    if (!is_refined) return symbols;
    symbols.first = gather(packed + columns->refinement_stride, places);
    if (columns->refinement_count > 1) {
        symbols.second = gather(packed + 2 * columns->refinement_stride, places);
    }
    return symbols;
}

/// The number of row `r` of each lane times step plus mean.
LANES f32v scaled(
    const ckernels_scaled_columns *columns, const struct symbols *symbols, uint32_t r,
    int is_refined, f32v step, f32v mean) {
    u32v whole = row_of(symbols->base, r);
    if (is_refined) {
        whole = refined(whole, row_of(symbols->first, r));
        if (columns->refinement_count > 1) whole = refined(whole, row_of(symbols->second, r));
    }
    return add(multiply(float_of_int(whole), step), mean);
}

/// Restores the channels from `low` to `high`, which are not rotated.
LANES void restore_plain(
    const struct head_view *view, const ckernels_scaled_columns *columns, uint32_t low,
    uint32_t high, uint32_t rows, uint32_t element, int has_factors, int is_refined,
    const uint32_t *packed) {
    for (uint32_t i = low; i < high; i += WIDTH) {
        uint32_t column = view->first_column + i;
        struct symbols symbols = load_symbols(columns, packed, column, is_refined);
        f32v step = load_floats(columns->scales + column);
        f32v mean = load_floats(columns->means + column);
        uint8_t *to = view->start;
        UNROLL_ROWS
        for (uint32_t r = 0; r < rows; r++, to += view->row_stride) {
            f32v own = row_step(view, r, has_factors, step);
            store_element(
                to, element, i, scaled(columns, &symbols, r, is_refined, own, mean));
        }
    }
}

/// Restores and turns the rotated channels.
LANES void restore_rotated(
    const struct head_view *view, const ckernels_scaled_columns *columns, uint32_t rows,
    uint32_t element, int is_interleaved, int has_factors, int is_refined,
    const uint32_t *packed) {
    uint32_t half = view->half, base = view->rotated_from;
    for (uint32_t i = 0; i < half; i += WIDTH) {
        uint32_t column = view->first_column + base + i;
        struct symbols left_symbols = load_symbols(columns, packed, column, is_refined);
        struct symbols right_symbols =
            load_symbols(columns, packed, column + half, is_refined);
        f32v left_step = load_floats(columns->scales + column);
        f32v left_mean = load_floats(columns->means + column);
        f32v right_step = load_floats(columns->scales + column + half);
        f32v right_mean = load_floats(columns->means + column + half);
        const float *cosines = columns->cosines + (size_t)view->row * half + i;
        const float *sines = columns->sines + (size_t)view->row * half + i;
        uint8_t *to = view->start;
        UNROLL_ROWS
        for (uint32_t r = 0; r < rows; r++, to += view->row_stride) {
            f32v x = scaled(
                columns, &left_symbols, r, is_refined, row_step(view, r, has_factors, left_step),
                left_mean);
            f32v y = scaled(
                columns, &right_symbols, r, is_refined,
                row_step(view, r, has_factors, right_step), right_mean);
            f32v cosine = load_floats(cosines + (size_t)r * half);
            f32v sine = load_floats(sines + (size_t)r * half);
            f32v a = subtract(multiply(x, cosine), multiply(y, sine));
            f32v b = add(multiply(y, cosine), multiply(x, sine));
            if (is_interleaved) zip(&a, &b);
            store_element(to, element, base + (is_interleaved ? 2 * i : i), a);
            store_element(to, element, base + (is_interleaved ? 2 * i + WIDTH : half + i), b);
        }
    }
}

/// Restores `rows` rows of one head.
LANES void restore_head(
    const ckernels_tensor *tensor, const ckernels_scaled_columns *columns, uint32_t row,
    uint32_t head, uint32_t element, int is_interleaved, int has_factors, int is_refined,
    uint32_t rows, const uint32_t *packed) {
    struct head_view view = view_head(tensor, columns, row, head);
    uint32_t low = view.rotated_from, high = low + 2 * view.half;
    restore_plain(&view, columns, 0, low, rows, element, has_factors, is_refined, packed);
    restore_rotated(
        &view, columns, rows, element, is_interleaved, has_factors, is_refined, packed);
    restore_plain(
        &view, columns, high, tensor->head_width, rows, element, has_factors, is_refined, packed);
}

/// Symbols of `rows` rows of one head as they are, in natural order of channels.
LANES void copy_symbols(
    const struct head_view *view, const ckernels_scaled_columns *columns, uint32_t head_width,
    uint32_t rows, const uint32_t *packed) {
    for (uint32_t i = 0; i < head_width; i++) {
        uint32_t symbols = packed[columns->positions[view->first_column + i]];
        uint32_t channel = i, pair = i - view->rotated_from;
        if (columns->is_interleaved && pair < 2 * view->half) {
            channel = pair < view->half ? 2 * pair : 2 * (pair - view->half) + 1;
            channel += view->rotated_from;
        }
        for (uint32_t r = 0; r < rows; r++) {
            view->start[(ptrdiff_t)r * view->row_stride + channel] = (uint8_t)(symbols >> (8 * r));
        }
    }
}

KERNEL void restore(
    const ckernels_tensor *tensor, const ckernels_scaled_columns *columns,
    const uint32_t *packed) {
    int is_interleaved = columns->is_interleaved != 0;
    for (uint32_t row = 0; row < tensor->row_count; row += 4, packed += columns->pitch) {
        uint32_t rows = tensor->row_count - row < 4 ? tensor->row_count - row : 4;
        for (uint32_t head = 0; head < tensor->head_count; head++) {
#define RESTORE(element, pairing, rows) \
    (columns->factors == NULL \
         ? restore_head(tensor, columns, row, head, element, pairing, 0, 0, rows, packed) \
         : restore_head(tensor, columns, row, head, element, pairing, 1, 0, rows, packed))
            if (tensor->element == CKERNELS_INT8) {
                struct head_view view = view_head(tensor, columns, row, head);
                copy_symbols(&view, columns, tensor->head_width, rows, packed);
            } else if (columns->refinement_count > 0) {
                restore_head(
                    tensor, columns, row, head, tensor->element, is_interleaved,
                    columns->factors != NULL, 1, rows, packed);
            } else if (is_interleaved || rows < 4) {
                if (is_interleaved) RESTORE(tensor->element, 1, rows);
                else RESTORE(tensor->element, 0, rows);
            } else if (tensor->element == CKERNELS_FLOAT16) {
                RESTORE(CKERNELS_FLOAT16, 0, 4);
            } else if (tensor->element == CKERNELS_BFLOAT16) {
                RESTORE(CKERNELS_BFLOAT16, 0, 4);
            } else {
                RESTORE(CKERNELS_FLOAT32, 0, 4);
            }
#undef RESTORE
        }
    }
}
