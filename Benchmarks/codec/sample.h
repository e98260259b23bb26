// SPDX-License-Identifier: Apache-2.0
//
// Sections that look like a layer's K after RoPE, and what modes S and L need to code them: what a
// profile would hold.
#ifndef BENCH_CODEC_SAMPLE_H
#define BENCH_CODEC_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

#include "CKernelsCodec.h"

enum {
    SECTION_ROW_COUNT = 256,
    HEAD_WIDTH = 64,
    SCALE_CLASS_COUNT = 13,
    EXPONENT_CLASS_COUNT = 4,
};

// Columns in the forms that kernels read, for one mode.
struct coding {
    uint32_t *decoding_tables;
    uint32_t *encoding_tables;
    uint32_t *decoding_starts;
    uint32_t *encoding_starts;
    uint32_t *positions;   // of each column
    uint32_t *column_at;   // of each place
    int32_t *lowest;
    int32_t *highest;
};

struct sample {
    uint32_t element;  // CKERNELS_FLOAT16 or CKERNELS_BFLOAT16
    uint32_t column_count;
    uint32_t group_count;
    size_t section_count;
    size_t section_byte_count;
    uint16_t *values;  // all sections
    float *means;
    float *steps;
    float *inverse_steps;
    float *cosines;
    float *sines;
    uint8_t *offsets;  // of mode L
    struct coding scaled;
    struct coding split;
};

// Makes a sample of at most `byte_count` bytes, at least a section, in `values`, which has room for
// them; the same for the same arguments.
void sample_make(struct sample *sample, uint32_t element, uint32_t column_count,
                 uint16_t *values, size_t byte_count);
void sample_free(struct sample *sample);

// Tables of bells, whose deviations are `first_octave` and each next one a quarter of an octave
// more, for columns of these classes; `sorts`: coded class by class, otherwise in their order.
void sample_coding(struct coding *coding, const struct sample *sample, const uint8_t *classes,
                   uint32_t class_count, double first_octave, int sorts);
void coding_free(struct coding *coding);

uint8_t *sample_section(const struct sample *sample, size_t index);
float sample_value(const struct sample *sample, uint16_t bits);

#endif
