// SPDX-License-Identifier: Apache-2.0
#include "chain.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

enum {
    LAYER_COUNT = 30,
    GROUP_LAYER_COUNT = 15,
    KEPT_LAYER_COUNT = 3,
    SECTIONS_OF_LAYER = 2,
    COEFFICIENT_CLASS_COUNT = 30,
    SYNTHESIS_NUMBER = 100,
    REFERENCE_SCALE = 28,
};

// Of one layer's K or V: SmolLM2 has 60, which no second-level cache holds together.
struct matrices {
    uint32_t *prediction;
    uint32_t *synthesis;
    float *analysis;
};

struct chain {
    const struct sample *sample;
    uint32_t width;
    uint32_t lookback;
    uint32_t panel_count;
    uint32_t pitch;
    uint32_t word_count;  // of a section's columns
    struct matrices matrices[LAYER_COUNT * SECTIONS_OF_LAYER];
    struct coding coding;
    int32_t *lowest;
    int32_t *highest;
    float *means;
    float *reference_steps;
    float *prediction_scales;
    float *synthesis_scales;
    float *steps;
    float *ones;
    float *values;
    float *predictions;
    uint8_t *symbols;
    uint8_t *references[KEPT_LAYER_COUNT * SECTIONS_OF_LAYER];
    int32_t *row_sums;
    uint16_t *places;
    int32_t *sums;
};

static void *zeros(size_t count, size_t size) {
    const size_t byte_count = (count * size + 127) / 64 * 64;
    void *memory = aligned_alloc(64, byte_count);
    if (memory == NULL) fail("no memory for matrices");
    memset(memory, 0, byte_count);
    return memory;
}

const struct coding *chain_coding(const struct chain *chain) {
    return &chain->coding;
}

float chain_error_max(const struct chain *chain, uint32_t column) {
    return 0.55f * chain->steps[column];
}

static ckernels_turns turns_of(const struct chain *chain) {
    return (ckernels_turns){
        .rotated_width = HEAD_WIDTH,
        .cosines = chain->sample->cosines,
        .sines = chain->sample->sines,
    };
}

static ckernels_tensor tensor_of(const struct chain *chain, uint8_t *start) {
    const ptrdiff_t head = HEAD_WIDTH * 2;
    return (ckernels_tensor){
        .start = start,
        .row_stride = (ptrdiff_t)chain->sample->column_count * 2,
        .head_stride = head,
        .row_count = SECTION_ROW_COUNT,
        .head_count = chain->sample->column_count / HEAD_WIDTH,
        .head_width = HEAD_WIDTH,
        .element = chain->sample->element,
    };
}

static void load(struct chain *chain, size_t section) {
    const ckernels_tensor tensor = tensor_of(chain, sample_section(chain->sample, section));
    const ckernels_turns turns = turns_of(chain);
    if (!ckernels_values_load(chain->width, &tensor, &turns, chain->panel_count, chain->values)) {
        fail("section %zu is not finite", section);
    }
}

// Deviation over step of a coefficient: from 6 down to a twentieth.
static double power_of(const struct chain *chain, uint32_t coefficient) {
    return exp2(2.6 - 7.0 * coefficient / chain->sample->column_count);
}

// Steps and scales from the columns' deviations in the first section.
static void learn_columns(struct chain *chain) {
    const uint32_t count = chain->sample->column_count;
    const uint32_t rows = (2 * chain->lookback + 1) * count;
    load(chain, 0);
    for (uint32_t column = 0; column < chain->pitch; column++) {
        chain->reference_steps[column] = INFINITY;
        if (column >= count) continue;
        double sum = 0, squares = 0;
        for (uint32_t row = 0; row < SECTION_ROW_COUNT; row++) {
            const double value = chain->values[row * chain->pitch + column];
            sum += value;
            squares += value * value;
        }
        const double mean = sum / SECTION_ROW_COUNT;
        const double deviation = sqrt(squares / SECTION_ROW_COUNT - mean * mean);
        chain->means[column] = (float)mean;
        chain->reference_steps[column] = (float)(deviation / REFERENCE_SCALE);
        // Random numbers predict nothing: they are kept small beside what is coded.
        chain->prediction_scales[column] =
            (float)(deviation / 4 / (12 * REFERENCE_SCALE * sqrt(rows)));
        chain->steps[column] = (float)(deviation / power_of(chain, column));
        chain->synthesis_scales[column] = chain->steps[column] / SYNTHESIS_NUMBER;
    }
}

static void learn_tables(struct chain *chain) {
    uint8_t *classes = zeros(chain->sample->column_count, 1);
    for (uint32_t column = 0; column < chain->sample->column_count; column++) {
        // Quarter octaves from 2^-4.5 on.
        classes[column] = (uint8_t)rint(4 * (log2(power_of(chain, column)) + 4.5));
    }
    sample_coding(&chain->coding, chain->sample, classes, COEFFICIENT_CLASS_COUNT, -4.5, 0);
    memcpy(chain->lowest, chain->coding.lowest, chain->sample->column_count * 4);
    memcpy(chain->highest, chain->coding.highest, chain->sample->column_count * 4);
    free(classes);
}

static void make_matrices(struct chain *chain, struct matrices *matrices, uint64_t seed) {
    const uint32_t count = chain->sample->column_count;
    const uint32_t words = (2 * chain->lookback + 1) * chain->word_count;
    const size_t panel = CKERNELS_PANEL_WIDTH * chain->panel_count;
    int8_t *numbers = zeros((size_t)4 * words * count, 1);
    for (size_t i = 0; i < (size_t)4 * words * count; i++) {
        numbers[i] = (int8_t)(mix64(seed * 0x9e3779b9 + i) % 41) - 20;
    }
    matrices->prediction = zeros(words * panel, 4);
    ckernels_pack_bytes(numbers, 4 * words, count, 0, words, matrices->prediction);
    memset(numbers, 0, (size_t)count * count);
    matrices->analysis = zeros(count * panel, 4);
    for (uint32_t column = 0; column < count; column++) {
        numbers[column * count + column] = SYNTHESIS_NUMBER;
        const size_t at = (column / CKERNELS_PANEL_WIDTH * count + column) * CKERNELS_PANEL_WIDTH;
        matrices->analysis[at + column % CKERNELS_PANEL_WIDTH] = 1 / chain->steps[column];
    }
    matrices->synthesis = zeros(chain->word_count * panel, 4);
    ckernels_pack_bytes(numbers, count, count, 0, chain->word_count, matrices->synthesis);
    free(numbers);
}

struct chain *chain_make(const struct sample *sample, uint32_t width, uint32_t lookback) {
    struct chain *chain = zeros(1, sizeof *chain);
    chain->sample = sample;
    chain->width = width;
    chain->lookback = lookback;
    chain->panel_count = (sample->column_count + CKERNELS_PANEL_WIDTH - 1) / CKERNELS_PANEL_WIDTH;
    chain->pitch = chain->panel_count * CKERNELS_PANEL_WIDTH;
    chain->word_count = (sample->column_count + 3) / 4;
    const size_t count = (size_t)SECTION_ROW_COUNT * chain->pitch;
    float **columns[] = {&chain->means, &chain->reference_steps, &chain->prediction_scales,
                         &chain->synthesis_scales, &chain->steps};
    for (size_t i = 0; i < sizeof columns / sizeof columns[0]; i++) {
        *columns[i] = zeros(chain->pitch, 4);
    }
    chain->lowest = zeros(chain->pitch, 4);
    chain->highest = zeros(chain->pitch, 4);
    chain->ones = zeros(SECTION_ROW_COUNT, 4);
    for (int row = 0; row < SECTION_ROW_COUNT; row++) chain->ones[row] = 1;
    chain->values = zeros(count, 4);
    chain->predictions = zeros(count, 4);
    chain->symbols = zeros(count, 1);
    for (int i = 0; i < KEPT_LAYER_COUNT * SECTIONS_OF_LAYER; i++) {
        chain->references[i] = zeros(count, 1);
    }
    chain->row_sums = zeros(SECTION_ROW_COUNT, 4);
    chain->places = zeros(CKERNELS_PLACE_COUNT(SECTION_ROW_COUNT, chain->word_count), 2);
    chain->sums = zeros(chain->pitch, 4);
    learn_columns(chain);
    learn_tables(chain);
    for (int i = 0; i < LAYER_COUNT * SECTIONS_OF_LAYER; i++) {
        make_matrices(chain, &chain->matrices[i], (uint64_t)i);
    }
    return chain;
}

void chain_free(struct chain *chain) {
    for (int i = 0; i < LAYER_COUNT * SECTIONS_OF_LAYER; i++) {
        free(chain->matrices[i].prediction);
        free(chain->matrices[i].synthesis);
        free(chain->matrices[i].analysis);
    }
    for (int i = 0; i < KEPT_LAYER_COUNT * SECTIONS_OF_LAYER; i++) free(chain->references[i]);
    void *const memories[] = {
        chain->lowest, chain->highest, chain->means, chain->reference_steps,
        chain->prediction_scales, chain->synthesis_scales, chain->steps, chain->ones,
        chain->values, chain->predictions, chain->symbols, chain->row_sums, chain->places,
        chain->sums};
    for (size_t i = 0; i < sizeof memories / sizeof memories[0]; i++) free(memories[i]);
    coding_free(&chain->coding);
    free(chain);
}

static const struct matrices *matrices_of(const struct chain *chain, size_t section) {
    return &chain->matrices[section % (LAYER_COUNT * SECTIONS_OF_LAYER)];
}

static uint8_t *references_of(const struct chain *chain, size_t section) {
    return chain->references[section % (KEPT_LAYER_COUNT * SECTIONS_OF_LAYER)];
}

// A product whose memory and rows are the chain's.
static ckernels_product product_of(const struct chain *chain) {
    return (ckernels_product){
        .row_count = SECTION_ROW_COUNT,
        .values = chain->values,
        .row_sums = chain->row_sums,
        .places = chain->places,
    };
}

static void predict(struct chain *chain, size_t section) {
    const size_t layer = section / SECTIONS_OF_LAYER, in_group = layer % GROUP_LAYER_COUNT;
    ckernels_product product = product_of(chain);
    product.matrix = (ckernels_matrix){
        matrices_of(chain, section)->prediction, NULL,
        (2 * chain->lookback + 1) * chain->word_count, chain->panel_count};
    product.scales = chain->prediction_scales;
    product.bases = chain->means;
    product.values = chain->predictions;
    size_t sources[CKERNELS_SEGMENT_COUNT_MAX], count = 0;
    if (section % SECTIONS_OF_LAYER == 1) sources[count++] = section - 1;
    for (size_t back = 1; back <= chain->lookback && back <= in_group; back++) {
        sources[count++] = (layer - back) * SECTIONS_OF_LAYER;
        sources[count++] = (layer - back) * SECTIONS_OF_LAYER + 1;
    }
    for (size_t i = 0; i < count; i++) {
        product.segments[i] = (ckernels_rows){
            references_of(chain, sources[i]), chain->pitch, chain->word_count};
    }
    product.segment_count = (uint32_t)count;
    ckernels_multiply(chain->width, &product);
}

static ckernels_product synthesis_of(const struct chain *chain, size_t section) {
    ckernels_product product = product_of(chain);
    product.matrix = (ckernels_matrix){
        matrices_of(chain, section)->synthesis, NULL, chain->word_count, chain->panel_count};
    product.scales = chain->synthesis_scales;
    product.bases = chain->predictions;
    product.base_pitch = chain->pitch;
    product.segments[0] = (ckernels_rows){chain->symbols, chain->pitch, chain->word_count};
    product.segment_count = 1;
    return product;
}

// Values of the rows of escapes once more, with 64-bit sums.
static void patch(struct chain *chain, size_t section, const ckernels_escape *escapes,
                  size_t count) {
    const uint32_t columns = chain->sample->column_count;
    for (size_t first = 0, end = 0; first < count; first = end) {
        const uint32_t row = escapes[first].position / columns;
        ckernels_product product = synthesis_of(chain, section);
        product.segments[0].start += (size_t)row * chain->pitch;
        product.row_count = 1;
        product.sums = chain->sums;
        ckernels_multiply(chain->width, &product);
        while (end < count && escapes[end].position / columns == row) end++;
        for (uint32_t column = 0; column < columns; column++) {
            int64_t sum = chain->sums[column];
            for (size_t i = first; i < end; i++) {
                const int is_own = escapes[i].position % columns == column;
                sum += (int64_t)escapes[i].value * (is_own ? SYNTHESIS_NUMBER : 0);
            }
            const size_t at = (size_t)row * chain->pitch + column;
            chain->values[at] =
                chain->predictions[at] + chain->synthesis_scales[column] * (float)sum;
        }
    }
}

// Values from predictions and symbols, and how later sections refer to them.
static void synthesise(struct chain *chain, size_t section, const uint32_t *packed,
                       const ckernels_escape *escapes, size_t count) {
    const uint32_t columns = chain->sample->column_count;
    ckernels_unpack(chain->width, packed, SECTION_ROW_COUNT, chain->panel_count, chain->symbols);
    for (size_t i = 0; i < count; i++) {
        const uint32_t row = escapes[i].position / columns;
        chain->symbols[(size_t)row * chain->pitch + escapes[i].position % columns] = 0;
    }
    ckernels_product product = synthesis_of(chain, section);
    product.is_sparse = 1;
    ckernels_multiply(chain->width, &product);
    patch(chain, section, escapes, count);
    ckernels_refer(chain->width, chain->values, SECTION_ROW_COUNT, chain->panel_count,
                   chain->means, chain->reference_steps, references_of(chain, section));
}

static int by_position(const void *left, const void *right) {
    const ckernels_escape *a = left, *b = right;
    return (a->position > b->position) - (a->position < b->position);
}

int64_t chain_encode(struct chain *chain, size_t section, uint32_t *packed,
                     ckernels_escape *escapes, size_t limit) {
    load(chain, section);
    predict(chain, section);
    ckernels_subtract(chain->values, chain->predictions, (size_t)SECTION_ROW_COUNT * chain->pitch);
    const ckernels_analysis analysis = {
        .matrix = matrices_of(chain, section)->analysis,
        .column_count = chain->sample->column_count,
        .panel_count = chain->panel_count,
        .differences = chain->values,
        .scales = chain->ones,
        .lowest = chain->lowest,
        .highest = chain->highest,
    };
    const int64_t count = ckernels_analyse(chain->width, &analysis, SECTION_ROW_COUNT, packed,
                                           escapes, limit);
    if (count < 0) return count;
    qsort(escapes, (size_t)count, sizeof *escapes, by_position);
    synthesise(chain, section, packed, escapes, (size_t)count);
    return count;
}

void chain_decode(struct chain *chain, size_t section, const uint32_t *packed,
                  const ckernels_escape *escapes, size_t count, uint8_t *target) {
    predict(chain, section);
    synthesise(chain, section, packed, escapes, count);
    const ckernels_tensor tensor = tensor_of(chain, target);
    const ckernels_turns turns = turns_of(chain);
    ckernels_values_store(chain->width, &tensor, &turns, chain->panel_count, chain->values);
}
