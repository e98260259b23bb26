// SPDX-License-Identifier: Apache-2.0
//
// 64-lane rANS over any vector unit. Included once per unit, after its lanes_*.h.

#include "CKernelsCodec.h"

/// Vectors that hold the 64 lanes.
#define VECTORS (CKERNELS_LANE_COUNT / WIDTH)

/// Words yet to decode. A row takes at most 64 of them and a vector may load some more that it does
/// not use, so the last ones are read from a copy with zeros behind.
struct word_reader {
    const uint16_t *next;
    /// From here on, ask before each row.
    const uint16_t *safe;
    const uint16_t *end;
    int is_last;
    uint16_t last[3 * CKERNELS_LANE_COUNT];
};

LANES void open_words(struct word_reader *reader, const void *words, size_t count) {
    reader->next = (const uint16_t *)words;
    reader->end = reader->next + count;
    reader->safe = reader->next + (count > CKERNELS_LANE_COUNT ? count - CKERNELS_LANE_COUNT : 0);
    reader->is_last = 0;
}

/// Makes room to read one row; 0 when an earlier row has read too many words.
LANES int reserve_row(struct word_reader *reader) {
    if (__builtin_expect(reader->next < reader->safe, 1)) return 1;
    if (reader->is_last) return reader->next <= reader->end;
    size_t count = (size_t)(reader->end - reader->next);
    memset(reader->last, 0, sizeof reader->last);
    memcpy(reader->last, reader->next, count * sizeof(uint16_t));
    reader->next = reader->last;
    reader->safe = reader->last;
    reader->end = reader->last + count;
    reader->is_last = 1;
    return 1;
}

/// One symbol of each lane onto `packed`. `contexts`: of the block's rows, of which this is row
/// `r`; NULL: every column has one table.
LANES void decode_row(
    u32v state[VECTORS], u32v packed[VECTORS], const uint32_t *tables, const uint32_t *starts,
    const uint32_t *contexts, uint32_t r, const uint16_t **words) {
    UNROLLED
    for (int v = 0; v < VECTORS; v++) {
        u32v slot = both(state[v], splat(CKERNELS_SLOT_COUNT - 1));
        if (contexts != NULL) {
            u32v context = both(right(load_words(contexts + v * WIDTH), (int)(8 * r)), splat(3));
            slot = plus(slot, left(context, CKERNELS_SLOT_BITS));
        }
        u32v entry = gather(tables, plus(load_words(starts + v * WIDTH), slot));
        u32v frequency = both(entry, splat(0xFFF));
        u32v bias = both(right(entry, 12), splat(0xFFF));
        state[v] = plus(times(frequency, right(state[v], CKERNELS_SLOT_BITS)), bias);
        packed[v] = push_symbol(packed[v], entry);
    }
    UNROLLED
    for (int v = 0; v < VECTORS; v++) state[v] = refill(state[v], words);
}

LANES int64_t decode_stream(
    const ckernels_coded_columns *columns, const uint32_t *contexts, const void *states,
    const void *words, size_t word_count, uint32_t *packed) {
    struct word_reader reader;
    open_words(&reader, words, word_count);
    u32v state[VECTORS];
    uint32_t first[CKERNELS_LANE_COUNT];
    memcpy(first, states, sizeof first);
    UNROLLED
    for (int v = 0; v < VECTORS; v++) state[v] = load_words(first + v * WIDTH);

    size_t pitch = (size_t)columns->group_count * CKERNELS_LANE_COUNT;
    int64_t escape_count = 0;
    for (uint32_t group = 0; group < columns->group_count; group++) {
        const uint32_t *starts = columns->table_starts + (size_t)group * CKERNELS_LANE_COUNT;
        uint32_t *to = packed + (size_t)group * CKERNELS_LANE_COUNT;
        for (uint32_t row = 0; row < columns->row_count; row += 4, to += pitch) {
            const uint32_t *around = contexts == NULL ? NULL : contexts + (to - packed);
            uint32_t rows = columns->row_count - row < 4 ? columns->row_count - row : 4;
            u32v symbols[VECTORS];
            UNROLLED
            for (int v = 0; v < VECTORS; v++) symbols[v] = splat(0);
            for (uint32_t r = 0; r < rows; r++) {
                if (!reserve_row(&reader)) return -1;
                decode_row(state, symbols, columns->tables, starts, around, r, &reader.next);
            }
            for (uint32_t r = rows; r < 4; r++) {
                UNROLLED
                for (int v = 0; v < VECTORS; v++) symbols[v] = right(symbols[v], 8);
            }
            UNROLLED
            for (int v = 0; v < VECTORS; v++) {
                escape_count += count_escapes(symbols[v]);
                store_words(to + v * WIDTH, symbols[v]);
            }
        }
    }
    UNROLLED
    for (int v = 0; v < VECTORS; v++) {
        store_words(first + v * WIDTH, state[v]);
    }
    for (int lane = 0; lane < CKERNELS_LANE_COUNT; lane++) {
        if (first[lane] != 0x10000) return -1;
    }
    return reader.next == reader.end ? escape_count : -1;
}

KERNEL int64_t rans_decode(
    const ckernels_coded_columns *columns, const void *states, const void *words,
    size_t word_count, uint32_t *packed) {
    return decode_stream(columns, NULL, states, words, word_count, packed);
}

KERNEL int64_t rans_decode_contexts(
    const ckernels_coded_columns *columns, const uint32_t *contexts, const void *states,
    const void *words, size_t word_count, uint32_t *packed) {
    return decode_stream(columns, contexts, states, words, word_count, packed);
}

/// The table entries of row `r` of a block of symbols.
LANES void look_up_row(
    u32v entries[VECTORS], const u32v packed[VECTORS], uint32_t r, const uint32_t *tables,
    const uint32_t *starts) {
    UNROLLED
    for (int v = 0; v < VECTORS; v++) {
        u32v symbol = both(right(packed[v], (int)(8 * r)), splat(0xFF));
        entries[v] = gather(tables, plus(load_words(starts + v * WIDTH), symbol));
    }
}

/// Takes a symbol, whose table entry is known, from each lane, the last lanes first.
LANES void encode_row(u32v state[VECTORS], const u32v entries[VECTORS], uint16_t **end) {
    UNROLLED
    for (int v = VECTORS - 1; v >= 0; v--) {
        u32v entry = entries[v];
        u32v frequency = right(entry, 16);
        u32v x = spill(state[v], frequency, end);
        // x = (x / frequency << 11) + x % frequency + cumulative, where the quotient may be one
        // too small and the rest then one frequency too large.
        u32v whole = quotient(x, frequency);
        u32v rest = minus(x, times(whole, frequency));
        u32v missing = minus(splat(CKERNELS_SLOT_COUNT), frequency);
        u32v more = where_at_least(rest, frequency, missing, splat(0));
        u32v place = plus(rest, both(entry, splat(0xFFFF)));
        state[v] = plus(plus(left(whole, CKERNELS_SLOT_BITS), place), more);
    }
}

KERNEL size_t rans_encode(
    const ckernels_coded_columns *columns, const uint32_t *packed, const uint32_t *column_at,
    uint16_t *area, void *states) {
    size_t pitch = (size_t)columns->group_count * CKERNELS_LANE_COUNT;
    uint16_t *const area_end =
        area + CKERNELS_AREA_WORD_COUNT(columns->row_count, columns->group_count);
    uint16_t *end = area_end;
    uint32_t blocks = (columns->row_count + 3) / 4;
    u32v state[VECTORS];
    UNROLLED
    for (int v = 0; v < VECTORS; v++) state[v] = splat(0x10000);

    for (uint32_t group = columns->group_count; group-- > 0;) {
        const uint32_t *starts = columns->table_starts + (size_t)group * CKERNELS_LANE_COUNT;
        const uint32_t *from = column_at + (size_t)group * CKERNELS_LANE_COUNT;
        for (uint32_t block = blocks; block-- > 0;) {
            const uint32_t *symbols = packed + block * pitch;
            u32v lanes[VECTORS];
            UNROLLED
            for (int v = 0; v < VECTORS; v++) {
                lanes[v] = gather(symbols, load_words(from + v * WIDTH));
            }
            // Looked up before words are written: a gather waits for all stores before it, whose
            // places follow from the states. This is worth half of the time.
            uint32_t rows = columns->row_count - 4 * block;
            u32v entries[4][VECTORS];
            for (uint32_t r = 0; r < 4; r++) {
                look_up_row(entries[r], lanes, r, columns->tables, starts);
            }
            for (uint32_t r = rows < 4 ? rows : 4; r-- > 0;) encode_row(state, entries[r], &end);
        }
    }
    uint32_t last[CKERNELS_LANE_COUNT];
    UNROLLED
    for (int v = 0; v < VECTORS; v++) store_words(last + v * WIDTH, state[v]);
    memcpy(states, last, sizeof last);
    return (size_t)(area_end - end);
}
