// SPDX-License-Identifier: Apache-2.0
#include "sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

enum { NORMAL_COUNT = 1 << 20, SLOT_COUNT = 2048, POSITION = 4096 };

static float *normals;

// A pool of numbers of a normal distribution: computing each would take longer than the benchmark.
static float normal(uint64_t index) {
    if (normals == NULL) {
        normals = memory_allocate(NORMAL_COUNT * sizeof *normals);
        for (uint64_t i = 0; i < NORMAL_COUNT; i++) {
            const double u = ((double)(mix64(2 * i) >> 11) + 1) * 0x1p-53;
            const double angle = (double)(mix64(2 * i + 1) >> 11) * 0x1p-53 * 2 * M_PI;
            normals[i] = (float)(sqrt(-2 * log(u)) * cos(angle));
        }
    }
    return normals[mix64(index) % NORMAL_COUNT];
}

static void *allocate(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (memory == NULL) fail("no memory for the sample");
    return memory;
}

uint8_t *sample_section(const struct sample *sample, size_t index) {
    return (uint8_t *)sample->values + index * sample->section_byte_count;
}

static uint16_t bits_of(uint32_t element, float value) {
    uint32_t bits;
    uint16_t half;
    if (element == CKERNELS_BFLOAT16) {
        memcpy(&bits, &value, sizeof bits);
        return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
    }
    const _Float16 narrow = (_Float16)value;
    memcpy(&half, &narrow, sizeof half);
    return half;
}

float sample_value(const struct sample *sample, uint16_t bits) {
    float value;
    _Float16 narrow;
    if (sample->element == CKERNELS_BFLOAT16) {
        const uint32_t wide = (uint32_t)bits << 16;
        memcpy(&value, &wide, sizeof value);
        return value;
    }
    memcpy(&narrow, &bits, sizeof narrow);
    return (float)narrow;
}

// The tables of one class: `weights` of symbols -128 to 127, that of the escape unused.
static void add_table(struct coding *coding, uint32_t class, const double weights[256]) {
    double sum = 0;
    int known = 0, likeliest = 1;
    for (int i = 1; i < 256; i++) {
        sum += weights[i];
        known += weights[i] > 0;
        if (weights[i] > weights[likeliest]) likeliest = i;
    }
    uint32_t frequencies[256] = {1}, total = 1, cumulative = 0;
    for (int i = 1; i < 256; i++) {
        if (weights[i] <= 0) continue;
        frequencies[i] = 1 + (uint32_t)(weights[i] / sum * (SLOT_COUNT - 1 - known));
        total += frequencies[i];
    }
    frequencies[likeliest] += SLOT_COUNT - total;
    for (int i = 0; i < 256; i++) {
        const uint32_t symbol = (uint8_t)(i - 128);
        coding->encoding_tables[class * 256 + symbol] = frequencies[i] << 16 | cumulative;
        for (uint32_t slot = 0; slot < frequencies[i]; slot++, cumulative++) {
            coding->decoding_tables[class * SLOT_COUNT + cumulative] =
                symbol << 24 | slot << 12 | frequencies[i];
        }
    }
}

static void coding_make(struct coding *coding, const struct sample *sample, uint32_t class_count) {
    const size_t places = (size_t)sample->group_count * CKERNELS_LANE_COUNT;
    coding->decoding_tables = allocate((size_t)(class_count + 1) * SLOT_COUNT, 4);
    coding->encoding_tables = allocate((size_t)(class_count + 1) * 256, 4);
    coding->decoding_starts = allocate(places, 4);
    coding->encoding_starts = allocate(places, 4);
    coding->positions = allocate(places, 4);
    coding->column_at = allocate(places, 4);
    coding->lowest = allocate(places, 4);
    coding->highest = allocate(places, 4);
    // The last table fills the last group: one symbol that costs nothing.
    for (uint32_t slot = 0; slot < SLOT_COUNT; slot++) {
        coding->decoding_tables[class_count * SLOT_COUNT + slot] = slot << 12 | SLOT_COUNT;
    }
    for (uint32_t symbol = 0; symbol < 256; symbol++) {
        coding->encoding_tables[class_count * 256 + symbol] = SLOT_COUNT << 16;
    }
}

void coding_free(struct coding *coding) {
    free(coding->decoding_tables);
    free(coding->encoding_tables);
    free(coding->decoding_starts);
    free(coding->encoding_starts);
    free(coding->positions);
    free(coding->column_at);
    free(coding->lowest);
    free(coding->highest);
}

// Places columns by class, and finds the run of symbols that each table knows.
static void coding_order(struct coding *coding, const struct sample *sample,
                         const uint8_t *classes, uint32_t class_count, int sorts) {
    uint32_t place = 0;
    for (uint32_t class = 0; class < (sorts ? class_count : 1); class++) {
        for (uint32_t column = 0; column < sample->column_count; column++) {
            if (sorts && classes[column] != class) continue;
            coding->positions[column] = place;
            coding->column_at[place] = column;
            coding->decoding_starts[place] = classes[column] * SLOT_COUNT;
            coding->encoding_starts[place] = classes[column] * 256u;
            place += 1;
            const uint32_t *table = coding->encoding_tables + classes[column] * 256;
            for (int symbol = -127; symbol < 128; symbol++) {
                if (table[(uint8_t)symbol] >> 16 == 0) continue;
                if (coding->lowest[column] == 0 && coding->highest[column] == 0) {
                    coding->lowest[column] = symbol;
                }
                coding->highest[column] = symbol;
            }
        }
    }
    for (; place < sample->group_count * CKERNELS_LANE_COUNT; place++) {
        coding->decoding_starts[place] = class_count * SLOT_COUNT;
        coding->encoding_starts[place] = class_count * 256;
    }
}

void sample_coding(struct coding *coding, const struct sample *sample, const uint8_t *classes,
                   uint32_t class_count, double first_octave, int sorts) {
    coding_make(coding, sample, class_count);
    for (uint32_t class = 0; class < class_count; class++) {
        const double deviation = exp2(first_octave + (double)class / 4);
        const int radius = (int)ceil(4.5 * deviation);
        double weights[256] = {0};
        for (int symbol = -radius; symbol <= radius; symbol++) {
            const double scale = deviation * M_SQRT2;
            const double below = erf((symbol - 0.5) / scale);
            weights[symbol + 128] = 1e-9 + erf((symbol + 0.5) / scale) - below;
        }
        add_table(coding, class, weights);
    }
    coding_order(coding, sample, classes, class_count, sorts);
}

// Quarter octaves of deviation over step, about 3.3 bits a value on average.
static double deviation_of(uint32_t class) {
    return exp2(((double)class - 1) / 4);
}

// Columns of about the same mean of what is coded share a table, made of the first sections.
static void make_split(struct sample *sample) {
    const size_t learnt = sample->section_count < 4 ? sample->section_count : 4;
    const size_t rows = learnt * SECTION_ROW_COUNT;
    uint8_t *classes = allocate(sample->column_count, 1);
    static double weights[EXPONENT_CLASS_COUNT][256];
    memset(weights, 0, sizeof weights);
    for (uint32_t column = 0; column < sample->column_count; column++) {
        double sum = 0;
        for (size_t row = 0; row < rows; row++) {
            sum += (uint16_t)(sample->values[row * sample->column_count + column] << 1) >> 8;
        }
        const double mean = sum / (double)rows;
        sample->offsets[column] = (uint8_t)mean;
        classes[column] = (uint8_t)((mean - floor(mean)) * EXPONENT_CLASS_COUNT);
        for (size_t row = 0; row < rows; row++) {
            const uint16_t bits = sample->values[row * sample->column_count + column];
            const int high = (uint16_t)(bits << 1) >> 8;
            weights[classes[column]][(uint8_t)(high - sample->offsets[column] + 128)] += 1;
        }
    }
    coding_make(&sample->split, sample, EXPONENT_CLASS_COUNT);
    for (uint32_t class = 0; class < EXPONENT_CLASS_COUNT; class++) {
        // Every symbol between those that were seen, so that tables know a run of them.
        int low = 255, high = 1;
        for (int i = 1; i < 256; i++) {
            if (weights[class][i] > 0 && i < low) low = i;
            if (weights[class][i] > 0) high = i;
        }
        for (int i = low; i <= high; i++) weights[class][i] += 0.01;
        if (low > high) weights[class][128] = 1;
        add_table(&sample->split, class, weights[class]);
    }
    coding_order(&sample->split, sample, classes, EXPONENT_CLASS_COUNT, 0);
    free(classes);
}

// Values before RoPE of one row, turned and rounded.
static void fill_row(struct sample *sample, const uint8_t *classes, size_t row, uint16_t *to) {
    const uint32_t half = HEAD_WIDTH / 2;
    const size_t turn = (row % SECTION_ROW_COUNT) * half;
    for (uint32_t column = 0; column < sample->column_count; column++) {
        const uint32_t channel = column % HEAD_WIDTH;
        if (channel >= half) continue;
        float before[2];
        for (uint32_t k = 0; k < 2; k++) {
            const uint32_t c = column + k * half;
            const float spread = sample->steps[c] * (float)deviation_of(classes[c]);
            before[k] = sample->means[c] + spread * normal(row * sample->column_count + c);
        }
        const float cosine = sample->cosines[turn + channel], sine = sample->sines[turn + channel];
        to[column] = bits_of(sample->element, before[0] * cosine - before[1] * sine);
        to[column + half] = bits_of(sample->element, before[1] * cosine + before[0] * sine);
    }
}

void sample_make(struct sample *sample, uint32_t element, uint32_t column_count,
                 uint16_t *values, size_t byte_count) {
    memset(sample, 0, sizeof *sample);
    sample->element = element;
    sample->column_count = column_count;
    sample->group_count = (column_count + CKERNELS_LANE_COUNT - 1) / CKERNELS_LANE_COUNT;
    sample->section_byte_count = (size_t)SECTION_ROW_COUNT * column_count * 2;
    sample->section_count = byte_count / sample->section_byte_count;
    if (sample->section_count == 0) sample->section_count = 1;
    sample->values = values;
    sample->means = allocate(column_count, sizeof(float));
    sample->steps = allocate(column_count, sizeof(float));
    sample->inverse_steps = allocate(column_count, sizeof(float));
    sample->offsets = allocate(column_count, 1);
    const uint32_t half = HEAD_WIDTH / 2;
    sample->cosines = allocate((size_t)SECTION_ROW_COUNT * half, sizeof(float));
    sample->sines = allocate((size_t)SECTION_ROW_COUNT * half, sizeof(float));
    for (uint32_t i = 0; i < SECTION_ROW_COUNT * half; i++) {
        const double angle = (POSITION + i / half) * pow(10000, -(double)(i % half) / half);
        sample->cosines[i] = (float)cos(angle);
        sample->sines[i] = (float)sin(angle);
    }
    uint8_t *classes = allocate(column_count, 1);
    for (uint32_t column = 0; column < column_count; column++) {
        classes[column] = (uint8_t)(mix64(column) % SCALE_CLASS_COUNT);
        sample->means[column] = 2 * normal(column + 7);
        // Steps do not follow classes, as importance does not follow spread.
        sample->steps[column] = 0.1f * exp2f(normal(column + 1000));
        sample->inverse_steps[column] = 1 / sample->steps[column];
    }
    for (size_t row = 0; row < sample->section_count * SECTION_ROW_COUNT; row++) {
        fill_row(sample, classes, row, sample->values + row * column_count);
    }
    sample_coding(&sample->scaled, sample, classes, SCALE_CLASS_COUNT, -0.25, 1);
    make_split(sample);
    free(classes);
}

void sample_free(struct sample *sample) {
    coding_free(&sample->scaled);
    coding_free(&sample->split);
    free(sample->means);
    free(sample->steps);
    free(sample->inverse_steps);
    free(sample->offsets);
    free(sample->cosines);
    free(sample->sines);
}
