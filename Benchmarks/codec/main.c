// SPDX-License-Identifier: Apache-2.0
//
// How fast one core encodes and decodes sections of 256 tokens by the kernels of modes S (RoPE
// included; with row codes and without), P (at SmolLM2's shape, one and two layers back) and L,
// beside memcpy, zstd -1 and LZ4 on the same bytes.
// Cold: every call gets another section, and all together are larger than the last cache.
// Operations are alternated within a round; a row gives the median and the extremes over the
// rounds, in GB of 16-bit values for each second of CPU time.
//
// usage: codec-speed [--cpu N] [--rounds N] [--mebibytes N] [--width NAME]
//        codec-speed --has NAME     exit status 0 when this CPU has it: scalar, neon, avx2, avx512,
//                                   vnni (AVX-512 with sums of products of bytes)
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zstd.h>
#if __has_include(<lz4.h>)
#include <lz4.h>
#define HAS_LZ4 1
#else
#define HAS_LZ4 0
#endif

#include "CKernels.h"
#include "bench.h"
#include "chain.h"
#include "sample.h"

enum {
    ROUND_COUNT_MAX = 99,
    STREAM_BYTE_COUNT = 256,
    WIDTH_COUNT = 5,
    ROW_CODES_BYTE_COUNT = SECTION_ROW_COUNT / 2,
    // Columns of SmolLM2's K and V: mode P is measured at its shape alone.
    PREDICTED_COLUMN_COUNT = 192,
};

static const char *const width_names[WIDTH_COUNT] = {"scalar", "neon", "avx2", "avx512", "vnni"};

// Where an encoder puts sections, and what it needs for that.
struct work {
    const struct sample *sample;
    uint32_t width;
    uint8_t *encoded;  // stride bytes for each section
    size_t stride;
    size_t *byte_counts;
    uint64_t *checksums;
    uint8_t *target;  // one section
    uint32_t *packed;
    uint16_t *area;
    size_t area_word_count;
    ckernels_escape *escapes;
    size_t escape_limit;
    size_t *escape_counts;
    float factors[SECTION_ROW_COUNT];
    float row_factors[16];
    struct chain *chains[2];  // by how many layers they look back, less 1; NULL at other shapes
    ZSTD_CCtx *packer;
    ZSTD_DCtx *unpacker;
};

struct codec {
    const char *name;
    void (*encode)(struct work *, size_t section);
    void (*decode)(struct work *, size_t section);
    int is_exact;
    int lookback;  // of mode P: its sections are decoded in their order
};

static uint8_t *encoded_section(const struct work *work, size_t section) {
    return work->encoded + section * work->stride;
}

static ckernels_tensor tensor_of(const struct sample *sample, uint8_t *start) {
    const ptrdiff_t head = HEAD_WIDTH * 2;
    return (ckernels_tensor){
        .start = start,
        .row_stride = (ptrdiff_t)sample->column_count * 2,
        .head_stride = head,
        .row_count = SECTION_ROW_COUNT,
        .head_count = sample->column_count / HEAD_WIDTH,
        .head_width = HEAD_WIDTH,
        .element = sample->element,
    };
}

static ckernels_coded_columns coded_of(const struct sample *sample, const struct coding *coding,
                                       int encodes) {
    return (ckernels_coded_columns){
        .row_count = SECTION_ROW_COUNT,
        .group_count = sample->group_count,
        .tables = encodes ? coding->encoding_tables : coding->decoding_tables,
        .table_starts = encodes ? coding->encoding_starts : coding->decoding_starts,
    };
}

static ckernels_scaled_columns scaled_of(const struct sample *sample, int encodes,
                                         const float *factors) {
    return (ckernels_scaled_columns){
        .means = sample->means,
        .scales = encodes ? sample->inverse_steps : sample->steps,
        .lowest = sample->scaled.lowest,
        .highest = sample->scaled.highest,
        .positions = sample->scaled.positions,
        .rotated_width = HEAD_WIDTH,
        .cosines = sample->cosines,
        .sines = sample->sines,
        .factors = factors,
        .pitch = sample->group_count * CKERNELS_LANE_COUNT,
    };
}

static ckernels_split_columns split_of(const struct sample *sample) {
    return (ckernels_split_columns){
        .offsets = sample->offsets,
        .lowest = sample->split.lowest,
        .highest = sample->split.highest,
        .pitch = sample->group_count * CKERNELS_LANE_COUNT,
    };
}

// A section is: states, words, raw bytes, escapes.
static void finish_section(struct work *work, size_t section, size_t word_count,
                           size_t raw_byte_count, int64_t escape_count) {
    uint8_t *const start = encoded_section(work, section);
    uint8_t *to = start + STREAM_BYTE_COUNT;
    memcpy(to, work->area + work->area_word_count - word_count, word_count * 2);
    to += word_count * 2;
    memcpy(to, work->target, raw_byte_count);
    to += raw_byte_count;
    memcpy(to, work->escapes, (size_t)escape_count * sizeof(ckernels_escape));
    to += (size_t)escape_count * sizeof(ckernels_escape);
    work->escape_counts[section] = (size_t)escape_count;
    work->byte_counts[section] = (size_t)(to - start);
    work->checksums[section] = ckernels_xxh3_64(start, work->byte_counts[section]);
}

// Checks and decodes a section's symbols; its escapes are copied out. Its raw bytes.
static const uint8_t *open_section(struct work *work, size_t section, const struct coding *coding,
                                   size_t raw_byte_count) {
    const uint8_t *const start = encoded_section(work, section);
    const size_t byte_count = work->byte_counts[section];
    if (ckernels_xxh3_64(start, byte_count) != work->checksums[section]) fail("wrong checksum");
    const size_t escape_byte_count = work->escape_counts[section] * sizeof(ckernels_escape);
    const size_t rest = raw_byte_count + escape_byte_count;
    const size_t word_count = (byte_count - STREAM_BYTE_COUNT - rest) / 2;
    const ckernels_coded_columns coded = coded_of(work->sample, coding, 0);
    const int64_t found = ckernels_rans_decode(work->width, &coded, start,
                                               start + STREAM_BYTE_COUNT, word_count, work->packed);
    if (found != (int64_t)work->escape_counts[section]) fail("section %zu is no stream", section);
    memcpy(work->escapes, start + byte_count - escape_byte_count, escape_byte_count);
    return start + byte_count - rest;
}

static void encode_scaled_by(struct work *work, size_t section, const float *factors,
                             size_t raw_byte_count) {
    const struct sample *sample = work->sample;
    const ckernels_tensor tensor = tensor_of(sample, sample_section(sample, section));
    const ckernels_scaled_columns columns = scaled_of(sample, 1, factors);
    const int64_t escape_count = ckernels_scaled_quantise(
        work->width, &tensor, &columns, work->packed, work->escapes, work->escape_limit);
    if (escape_count < 0) fail("section %zu does not fit its cells", section);
    const ckernels_coded_columns coded = coded_of(sample, &sample->scaled, 1);
    const size_t word_count =
        ckernels_rans_encode(work->width, &coded, work->packed, sample->scaled.column_at,
                             work->area, encoded_section(work, section));
    finish_section(work, section, word_count, raw_byte_count, escape_count);
}

static void encode_scaled(struct work *work, size_t section) {
    encode_scaled_by(work, section, NULL, 0);
}

// Steps follow the rows, in quarters of an octave around their geometric mean.
static void encode_scaled_rows(struct work *work, size_t section) {
    const struct sample *sample = work->sample;
    const ckernels_tensor tensor = tensor_of(sample, sample_section(sample, section));
    const ckernels_scaled_columns columns = scaled_of(sample, 1, NULL);
    float squares[SECTION_ROW_COUNT], mean = 0;
    ckernels_scaled_squares(work->width, &tensor, &columns, squares);
    for (int row = 0; row < SECTION_ROW_COUNT; row++) {
        squares[row] = log2f(squares[row]) * 2;
        mean += squares[row] / SECTION_ROW_COUNT;
    }
    memset(work->target, 0, ROW_CODES_BYTE_COUNT);
    for (int row = 0; row < SECTION_ROW_COUNT; row++) {
        const float code = fminf(fmaxf(rintf(squares[row] - mean) + 8, 0), 15);
        work->target[row / 2] |= (uint8_t)((uint8_t)code << (row % 2 * 4));
        work->factors[row] = exp2f((8 - code) / 4);
    }
    encode_scaled_by(work, section, work->factors, ROW_CODES_BYTE_COUNT);
}

static int by_position(const void *left, const void *right) {
    const ckernels_escape *a = left, *b = right;
    return (a->position > b->position) - (a->position < b->position);
}

static void decode_scaled_by(struct work *work, size_t section, const float *factors) {
    const struct sample *sample = work->sample;
    const ckernels_tensor tensor = tensor_of(sample, work->target);
    const ckernels_scaled_columns columns = scaled_of(sample, 0, factors);
    ckernels_scaled_restore(work->width, &tensor, &columns, work->packed);
    const size_t count = work->escape_counts[section];
    qsort(work->escapes, count, sizeof(ckernels_escape), by_position);
    if (ckernels_scaled_patch(&tensor, &columns, work->packed, work->escapes, count) != 0) {
        fail("section %zu: wrong escapes", section);
    }
}

static void decode_scaled(struct work *work, size_t section) {
    (void)open_section(work, section, &work->sample->scaled, 0);
    decode_scaled_by(work, section, NULL);
}

static void decode_scaled_rows(struct work *work, size_t section) {
    const uint8_t *codes =
        open_section(work, section, &work->sample->scaled, ROW_CODES_BYTE_COUNT);
    for (int row = 0; row < SECTION_ROW_COUNT; row++) {
        work->factors[row] = work->row_factors[codes[row / 2] >> (row % 2 * 4) & 15];
    }
    decode_scaled_by(work, section, work->factors);
}

static void encode_predicted(struct work *work, size_t section, struct chain *chain) {
    const struct sample *sample = work->sample;
    const int64_t escape_count =
        chain_encode(chain, section, work->packed, work->escapes, work->escape_limit);
    if (escape_count < 0) fail("section %zu has too many escapes", section);
    const struct coding *coding = chain_coding(chain);
    const ckernels_coded_columns coded = coded_of(sample, coding, 1);
    const size_t word_count = ckernels_rans_encode(
        work->width, &coded, work->packed, coding->column_at, work->area,
        encoded_section(work, section));
    finish_section(work, section, word_count, 0, escape_count);
}

static void decode_predicted(struct work *work, size_t section, struct chain *chain) {
    (void)open_section(work, section, chain_coding(chain), 0);
    chain_decode(chain, section, work->packed, work->escapes, work->escape_counts[section],
                 work->target);
}

static void encode_one_back(struct work *work, size_t section) {
    encode_predicted(work, section, work->chains[0]);
}

static void decode_one_back(struct work *work, size_t section) {
    decode_predicted(work, section, work->chains[0]);
}

static void encode_two_back(struct work *work, size_t section) {
    encode_predicted(work, section, work->chains[1]);
}

static void decode_two_back(struct work *work, size_t section) {
    decode_predicted(work, section, work->chains[1]);
}

static void encode_split(struct work *work, size_t section) {
    const struct sample *sample = work->sample;
    const ckernels_tensor tensor = tensor_of(sample, sample_section(sample, section));
    const ckernels_split_columns columns = split_of(sample);
    const int64_t escape_count = ckernels_split(work->width, &tensor, &columns, work->packed,
                                                work->target, work->escapes, work->escape_limit);
    if (escape_count < 0) fail("section %zu has too many escapes", section);
    const ckernels_coded_columns coded = coded_of(sample, &sample->split, 1);
    const size_t word_count =
        ckernels_rans_encode(work->width, &coded, work->packed, sample->split.column_at,
                             work->area, encoded_section(work, section));
    finish_section(work, section, word_count, sample->section_byte_count / 2, escape_count);
}

static void decode_split(struct work *work, size_t section) {
    const struct sample *sample = work->sample;
    const uint8_t *raw =
        open_section(work, section, &sample->split, sample->section_byte_count / 2);
    const ckernels_tensor tensor = tensor_of(sample, work->target);
    const ckernels_split_columns columns = split_of(sample);
    ckernels_join(work->width, &tensor, &columns, work->packed, raw);
    const size_t count = work->escape_counts[section];
    qsort(work->escapes, count, sizeof(ckernels_escape), by_position);
    if (ckernels_join_patch(&tensor, &columns, work->packed, raw, work->escapes, count) != 0) {
        fail("section %zu: wrong escapes", section);
    }
}

static void encode_copy(struct work *work, size_t section) {
    memcpy(encoded_section(work, section), sample_section(work->sample, section),
           work->sample->section_byte_count);
    work->byte_counts[section] = work->sample->section_byte_count;
}

static void decode_copy(struct work *work, size_t section) {
    memcpy(work->target, encoded_section(work, section), work->sample->section_byte_count);
    __asm__ volatile("" : : "r"(work->target) : "memory");
}

static void encode_zstd(struct work *work, size_t section) {
    const size_t count = ZSTD_compressCCtx(
        work->packer, encoded_section(work, section), work->stride,
        sample_section(work->sample, section), work->sample->section_byte_count, 1);
    if (ZSTD_isError(count)) fail("zstd: %s", ZSTD_getErrorName(count));
    work->byte_counts[section] = count;
}

static void decode_zstd(struct work *work, size_t section) {
    const size_t count = ZSTD_decompressDCtx(
        work->unpacker, work->target, work->sample->section_byte_count,
        encoded_section(work, section), work->byte_counts[section]);
    if (count != work->sample->section_byte_count) fail("zstd: section %zu", section);
}

#if HAS_LZ4
static void encode_lz4(struct work *work, size_t section) {
    const int count = LZ4_compress_default(
        (const char *)sample_section(work->sample, section),
        (char *)encoded_section(work, section), (int)work->sample->section_byte_count,
        (int)work->stride);
    if (count <= 0) fail("LZ4: section %zu", section);
    work->byte_counts[section] = (size_t)count;
}

static void decode_lz4(struct work *work, size_t section) {
    const int count = LZ4_decompress_safe(
        (const char *)encoded_section(work, section), (char *)work->target,
        (int)work->byte_counts[section], (int)work->sample->section_byte_count);
    if (count != (int)work->sample->section_byte_count) fail("LZ4: section %zu", section);
}
#endif

static const struct codec codecs[] = {
    {"memcpy", encode_copy, decode_copy, 1, 0},
    {"S", encode_scaled, decode_scaled, 0, 0},
    {"S-rows", encode_scaled_rows, decode_scaled_rows, 0, 0},
    {"P-1", encode_one_back, decode_one_back, 0, 1},
    {"P-2", encode_two_back, decode_two_back, 0, 2},
    {"L", encode_split, decode_split, 1, 0},
    {"zstd-1", encode_zstd, decode_zstd, 1, 0},
#if HAS_LZ4
    {"lz4", encode_lz4, decode_lz4, 1, 0},
#endif
};
enum { CODEC_COUNT = sizeof codecs / sizeof codecs[0] };

// What decoded values may differ by: half the steps of both channels of a pair, and rounding.
static void check_section(const struct work *work, const struct codec *codec, size_t section) {
    const struct sample *sample = work->sample;
    const uint16_t *before = (const uint16_t *)sample_section(sample, section);
    const uint16_t *after = (const uint16_t *)work->target;
    if (codec->is_exact) {
        if (memcmp(before, after, sample->section_byte_count) != 0) {
            fail("%s: section %zu came back changed", codec->name, section);
        }
        return;
    }
    const float unit = sample->element == CKERNELS_FLOAT16 ? 0x1p-10f : 0x1p-7f;
    for (size_t i = 0; i < sample->section_byte_count / 2; i++) {
        const size_t column = i % sample->column_count;
        const size_t other = column ^ (HEAD_WIDTH / 2);
        const float value = sample_value(sample, before[i]);
        const float factor = codec->encode == encode_scaled_rows
                                 ? work->factors[i / sample->column_count]
                                 : 1;
        const struct chain *chain =
            codec->lookback > 0 ? work->chains[codec->lookback - 1] : NULL;
        const float half =
            chain != NULL
                ? hypotf(chain_error_max(chain, (uint32_t)column),
                         chain_error_max(chain, (uint32_t)other))
                : hypotf(sample->steps[column], sample->steps[other]) * factor / 2;
        const float error = fabsf(value - sample_value(sample, after[i]));
        if (!(error <= half * 1.001f + fabsf(value) * unit + half * unit)) {
            fail("%s: section %zu, value %zu is off by %g", codec->name, section, i,
                 (double)error);
        }
    }
}

static int by_value(const void *left, const void *right) {
    const double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static void print_row(const struct work *work, const char *codec, const char *direction,
                      double *speeds, int round_count) {
    const struct sample *sample = work->sample;
    size_t byte_count = 0;
    for (size_t i = 0; i < sample->section_count; i++) byte_count += work->byte_counts[i];
    const size_t values = sample->section_count * sample->section_byte_count / 2;
    qsort(speeds, (size_t)round_count, sizeof *speeds, by_value);
    printf("codec-speed: codec=%s direction=%s dtype=%s columns=%u bits_per_value=%.3f "
           "gbps=%.2f min=%.2f max=%.2f rounds=%d width=%s\n",
           codec, direction, sample->element == CKERNELS_FLOAT16 ? "float16" : "bfloat16",
           sample->column_count, (double)byte_count * 8 / (double)values,
           speeds[round_count / 2], speeds[0], speeds[round_count - 1], round_count,
           width_names[work->width]);
    fflush(stdout);
}

// Time that this thread has run: what else a shared machine does is not counted.
static uint64_t thread_nanoseconds(void) {
    struct timespec time;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time) != 0) fail("no clock for threads");
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static double timed(void (*step)(struct work *, size_t), struct work *work) {
    const struct sample *sample = work->sample;
    const uint64_t start = thread_nanoseconds();
    for (size_t section = 0; section < sample->section_count; section++) step(work, section);
    const double bytes = (double)sample->section_count * (double)sample->section_byte_count;
    return bytes / (double)(thread_nanoseconds() - start);
}

// One sample through all codecs. Codecs share the encoded area, so each round encodes and decodes
// with one codec before it takes the next.
static void measure(struct work *work, int round_count) {
    static double speeds[CODEC_COUNT][2][ROUND_COUNT_MAX];
    for (int round = 0; round < round_count; round++) {
        for (int k = 0; k < CODEC_COUNT; k++) {
            if (codecs[k].lookback > 0 && work->chains[0] == NULL) continue;
            speeds[k][0][round] = timed(codecs[k].encode, work);
            speeds[k][1][round] = timed(codecs[k].decode, work);
            if (round + 1 < round_count) continue;
            const size_t step = 1 + work->sample->section_count / 16;
            for (size_t section = 0; section < work->sample->section_count; section++) {
                if (section % step != 0 && codecs[k].lookback == 0) continue;
                codecs[k].decode(work, section);
                if (section % step == 0) check_section(work, &codecs[k], section);
            }
            print_row(work, codecs[k].name, "encode", speeds[k][0], round_count);
            print_row(work, codecs[k].name, "decode", speeds[k][1], round_count);
        }
    }
}

static void *allocate(size_t byte_count) {
    void *memory = malloc(byte_count);
    if (memory == NULL) fail("no memory");
    return memory;
}

static void measure_sample(uint32_t width, uint32_t element, uint32_t column_count,
                           uint16_t *values, uint8_t *encoded, size_t byte_count,
                           int round_count) {
    struct sample sample;
    sample_make(&sample, element, column_count, values, byte_count);
    const size_t count = sample.section_byte_count / 2;
    const size_t lanes = (size_t)sample.group_count * CKERNELS_LANE_COUNT;
    struct work work = {
        .sample = &sample,
        .width = width,
        .encoded = encoded,
        .stride = 2 * sample.section_byte_count + 4096,
        .byte_counts = allocate(sample.section_count * sizeof(size_t)),
        .checksums = allocate(sample.section_count * sizeof(uint64_t)),
        .target = memory_allocate(sample.section_byte_count),
        .packed = memory_allocate(SECTION_ROW_COUNT / 4 * lanes * 4),
        .area_word_count = CKERNELS_AREA_WORD_COUNT(SECTION_ROW_COUNT, sample.group_count),
        .escape_limit = count / 16,
        .escape_counts = allocate(sample.section_count * sizeof(size_t)),
        .packer = ZSTD_createCCtx(),
        .unpacker = ZSTD_createDCtx(),
    };
    for (int code = 0; code < 16; code++) {
        work.row_factors[code] = exp2f((float)(code - 8) / 4);
    }
    work.area = memory_allocate(work.area_word_count * 2);
    work.escapes = allocate(work.escape_limit * sizeof(ckernels_escape));
    for (uint32_t lookback = 1; lookback <= 2; lookback++) {
        if (column_count != PREDICTED_COLUMN_COUNT) continue;
        work.chains[lookback - 1] = chain_make(&sample, width, lookback);
    }
    measure(&work, round_count);
    for (int i = 0; i < 2; i++) {
        if (work.chains[i] != NULL) chain_free(work.chains[i]);
    }
    ZSTD_freeCCtx(work.packer);
    ZSTD_freeDCtx(work.unpacker);
    free(work.byte_counts);
    free(work.checksums);
    free(work.escape_counts);
    free(work.escapes);
    sample_free(&sample);
}

static void pin(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0) fail("cannot run on CPU %d", cpu);
}

// The vector unit of this name; WIDTH_COUNT when this CPU has none.
static uint32_t width_named(const char *name) {
    uint32_t width = 0;
    while (width < WIDTH_COUNT
           && (strcmp(name, width_names[width]) != 0 || !ckernels_has_width(width))) {
        width += 1;
    }
    return width;
}

int main(int argument_count, char **arguments) {
    int round_count = 5;
    size_t byte_count = (size_t)128 << 20;
    uint32_t width = CKERNELS_WIDTH_AVX512_VNNI;
    while (!ckernels_has_width(width)) width -= 1;
    for (int i = 1; i < argument_count; i += 2) {
        const char *value = i + 1 < argument_count ? arguments[i + 1] : "";
        if (strcmp(arguments[i], "--cpu") == 0) pin(atoi(value));
        else if (strcmp(arguments[i], "--rounds") == 0) round_count = atoi(value);
        else if (strcmp(arguments[i], "--mebibytes") == 0) byte_count = (size_t)atoi(value) << 20;
        else if (strcmp(arguments[i], "--width") == 0) width = width_named(value);
        else if (strcmp(arguments[i], "--has") == 0) return width_named(value) == WIDTH_COUNT;
        else fail("unknown argument '%s'; see the head of Benchmarks/codec/main.c", arguments[i]);
    }
    if (width == WIDTH_COUNT) fail("this CPU has no kernels of that name");
    if (round_count < 1 || round_count > ROUND_COUNT_MAX) fail("1 to %d rounds", ROUND_COUNT_MAX);
    const size_t least = (size_t)SECTION_ROW_COUNT * 1024 * 2;
    if (byte_count < least) byte_count = least;
    uint16_t *values = memory_allocate(byte_count);
    // Twice the values and a little more for each section, whatever a codec makes of them.
    uint8_t *encoded = memory_allocate(2 * byte_count + (byte_count / least + 1) * 8 * 4096);
    static const uint32_t column_counts[] = {192, 1024};
    for (int k = 0; k < 2; k++) {
        measure_sample(width, CKERNELS_FLOAT16, column_counts[k], values, encoded, byte_count,
                       round_count);
        measure_sample(width, CKERNELS_BFLOAT16, column_counts[k], values, encoded, byte_count,
                       round_count);
    }
    return 0;
}
