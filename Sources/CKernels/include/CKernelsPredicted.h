// SPDX-License-Identifier: Apache-2.0
//
// The kernels of the codec's mode P (docs/container-format.md, section 10): products of whole
// numbers, references, and the directions that an encoder looks in. Included by CKernelsCodec.h.
//
// Values stand row by row, columns in their natural order, 64 * panel_count to a row: a panel is 64
// columns, and those beyond the last are nobody's.
#ifndef CKERNELS_PREDICTED_H
#define CKERNELS_PREDICTED_H

#include <stddef.h>
#include <stdint.h>

enum { CKERNELS_PANEL_WIDTH = 64 };

/// A matrix of whole numbers, a row of it for each number of a row that it is multiplied with.
///
/// Its words stand [panel][row / 4][column]: byte i of a word belongs to row 4w + i, and rows
/// beyond the last are multiplied with zeros. A number is a byte less 128, or two: 256 times
/// the byte of `high` less 128, and the byte of `low`.
typedef struct {
    const uint32_t *high;
    /// NULL: numbers have one byte.
    const uint32_t *low;
    /// Rows / 4.
    uint32_t word_count;
    uint32_t panel_count;
} ckernels_matrix;

/// Packs signed bytes [row][column] into the words of `panels` from word `first` of `word_count`
/// on. What is not written stays.
void ckernels_pack_bytes(
    const void *numbers, uint32_t row_count, uint32_t column_count, uint32_t first,
    uint32_t word_count, uint32_t *panels);
/// The same of little-endian signed 16-bit numbers from row 0 on, in two bytes; in one, `low` being
/// NULL, when they fit.
void ckernels_pack_shorts(
    const void *numbers, uint32_t row_count, uint32_t column_count, uint32_t word_count,
    uint32_t *high, uint32_t *low);
/// The largest sum of the magnitudes of a column; `is_short`: numbers of 16 bits, not of 8.
/// `sums` has room for a number for each column.
int64_t ckernels_column_sum_max(
    const void *numbers, int is_short, uint32_t row_count, uint32_t column_count, int64_t *sums);
/// Whether 16-bit numbers fit in a byte.
int ckernels_shorts_fit_bytes(const void *numbers, size_t count);

/// Signed bytes of rows, which a part of a matrix is multiplied with.
typedef struct {
    const uint8_t *start;
    size_t row_pitch;
    /// Words of the matrix: four bytes of each row.
    uint32_t word_count;
} ckernels_rows;

enum { CKERNELS_SEGMENT_COUNT_MAX = 5 };

/// value = base + scale * factor * sum, each operation rounded on its own, where `sum` is that of
/// the products of a row's numbers with those of the matrix' column.
typedef struct {
    ckernels_matrix matrix;
    /// [column]
    const float *scales;
    /// What the matrix is multiplied with, part by part; their words are the matrix'.
    ckernels_rows segments[CKERNELS_SEGMENT_COUNT_MAX];
    uint32_t segment_count;
    uint32_t row_count;
    /// Whether most numbers of the one segment are zero: words that are so in many rows are
    /// skipped.
    uint32_t is_sparse;
    /// [row][column], of this many numbers a row; 0: all rows have the same.
    const float *bases;
    size_t base_pitch;
    /// [row]; NULL: 1
    const float *factors;
    /// [row][column]; not `bases`.
    float *values;
    /// If not NULL, sums are written here and not to `values`: [row][column]
    int32_t *sums;
    /// To work with: a number for each row.
    int32_t *row_sums;
    /// To work with when sparse: CKERNELS_PLACE_COUNT numbers.
    uint16_t *places;
} ckernels_product;

#define CKERNELS_PLACE_COUNT(row_count, word_count) \
    (((size_t)(row_count) / 4 + 6) * ((size_t)(word_count) + 1))

/// Sums are those of 32-bit numbers, and do not pass them.
void ckernels_multiply(uint32_t width, const ckernels_product *product);

/// References of `row_count` rows of values: in whole steps from the mean, at most 127 of them.
/// Columns beyond the last have an infinite step, so that theirs are 0.
void ckernels_refer(
    uint32_t width, const float *values, uint32_t row_count, uint32_t panel_count,
    const float *means, const float *steps, uint8_t *references);

/// Packed symbols in natural order as bytes [row][64 * panel_count].
void ckernels_unpack(
    uint32_t width, const uint32_t *packed, uint32_t row_count, uint32_t panel_count,
    uint8_t *symbols);

/// How the channels of each head turn; see ckernels_scaled_columns.
typedef struct {
    uint32_t rotated_width;
    uint32_t rotated_from;
    uint32_t is_interleaved;
    const float *cosines;
    const float *sines;
} ckernels_turns;

/// What an encoder finds in the direction of each coefficient.
typedef struct {
    /// [panel][column][64]
    const float *matrix;
    uint32_t column_count;
    uint32_t panel_count;
    /// [row][64 * panel_count]
    const float *differences;
    /// [row]: one over the step.
    const float *scales;
    /// [coefficient]: the symbols that its table knows.
    const int32_t *lowest;
    const int32_t *highest;
} ckernels_analysis;

/// Takes `bases` away from as many values.
void ckernels_subtract(float *values, const float *bases, size_t count);

#endif
