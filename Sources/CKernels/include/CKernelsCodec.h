// SPDX-License-Identifier: Apache-2.0
//
// The kernels of the codec's modes S and L (docs/container-format.md): 64-lane rANS, quantisation
// with and without rotary position embedding, and the splitting of floats into a coded and a raw
// part. Plain C11, no allocation, no state, any thread; all memory comes from the caller.
//
// Symbols travel between the steps four rows to a word: byte r of word [b][c] is the symbol of row
// 4b + r in column c, and a block of four rows has 64 * group_count words ("packed symbols").
// Every width gives the same bytes: no operation is fused and each is rounded on its own.
#ifndef CKERNELS_CODEC_H
#define CKERNELS_CODEC_H

#include <stddef.h>
#include <stdint.h>

#include "CKernelsPredicted.h"

/// Vector units that kernels are written for, ascending by preference.
enum {
    CKERNELS_WIDTH_SCALAR = 0,
    CKERNELS_WIDTH_NEON = 1,
    CKERNELS_WIDTH_AVX2 = 2,
    CKERNELS_WIDTH_AVX512 = 3,
    /// The same with sums of products of bytes.
    CKERNELS_WIDTH_AVX512_VNNI = 4,
};

/// Whether this CPU runs the kernels of `width`.
int ckernels_has_width(uint32_t width);

enum {
    CKERNELS_LANE_COUNT = 64,
    CKERNELS_SLOT_BITS = 11,
    /// Entries of a decoding table: symbol << 24 | (slot - cumulative) << 12 | frequency.
    CKERNELS_SLOT_COUNT = 1 << CKERNELS_SLOT_BITS,
    /// Entries of an encoding table, by symbol as uint8_t: frequency << 16 | cumulative.
    CKERNELS_SYMBOL_COUNT = 256,
    /// The symbol that stands for a value of the escape list.
    CKERNELS_ESCAPE = -128,
};

/// Columns in coded order, in groups of 64, and the probability table of each.
///
/// A table with frequency 2,048 for one symbol costs no bits: such tables fill the last group.
typedef struct {
    uint32_t row_count;
    uint32_t group_count;
    /// Decoding or encoding tables, one after the other.
    const uint32_t *tables;
    /// [64 * group_count]: where each column's table begins in `tables`, in entries.
    const uint32_t *table_starts;
} ckernels_coded_columns;

/// Decodes `word_count` little-endian 16-bit words that start from 64 little-endian 32-bit
/// `states` into packed symbols in coded order.
///
/// Returns the number of escapes, or -1 when the words end too early or too late or the final
/// states are not those that an encoder starts with. Reads no byte beyond the words.
int64_t ckernels_rans_decode(
    uint32_t width, const ckernels_coded_columns *columns, const void *states, const void *words,
    size_t word_count, uint32_t *packed);

/// The same where each symbol's table follows from the column and a context, a byte of 0 to 3, that
/// stands where the symbol will: the tables of contexts follow each other.
int64_t ckernels_rans_decode_contexts(
    uint32_t width, const ckernels_coded_columns *columns, const uint32_t *contexts,
    const void *states, const void *words, size_t word_count, uint32_t *packed);

/// Words of `area` that `ckernels_rans_encode` needs, whatever the symbols.
#define CKERNELS_AREA_WORD_COUNT(row_count, group_count) \
    ((size_t)(row_count) * (size_t)(group_count) * 64 + 32)

/// Encodes packed symbols, whose column `column_at[p]` is the p-th in coded order; the words end
/// where `area` ends. Returns their count. Every symbol has a frequency in its column's table.
size_t ckernels_rans_encode(
    uint32_t width, const ckernels_coded_columns *columns, const uint32_t *packed,
    const uint32_t *column_at, uint16_t *area, void *states);

/// Element types of a tensor.
enum {
    CKERNELS_FLOAT16 = 0,
    CKERNELS_BFLOAT16 = 1,
    CKERNELS_FLOAT32 = 2,
    /// Symbols as they are, without step, mean and rotation; to decode only.
    CKERNELS_INT8 = 3,
    /// Any format of one byte; for mode L only.
    CKERNELS_FLOAT8 = 4,
};

/// A view [row, head, channel] of one layer's K or V; channels are adjacent, strides are in bytes.
typedef struct {
    uint8_t *start;
    ptrdiff_t row_stride;
    ptrdiff_t head_stride;
    uint32_t row_count;
    uint32_t head_count;
    uint32_t head_width;
    uint32_t element;
} ckernels_tensor;

/// How mode S codes the columns of a tensor.
///
/// Arrays have one entry per column, head after head. Within a head, columns stand in work order:
/// that of the channels, but where rotated pairs are interleaved, the first channels of all pairs
/// stand before the second ones.
typedef struct {
    const float *means;
    /// To decode: the step. To encode: one over the step.
    const float *scales;
    /// To encode: the symbols that the column's table knows.
    const int32_t *lowest;
    const int32_t *highest;
    /// To decode: the place of the column in coded order.
    const uint32_t *positions;
    /// Rotated channels of a head, even; 0 for none.
    uint32_t rotated_width;
    /// The first of them.
    uint32_t rotated_from;
    /// Counted from there, 0: channel i rotates with i + rotated_width / 2; 1: 2i with 2i + 1.
    uint32_t is_interleaved;
    /// [row][rotated_width / 2]
    const float *cosines;
    const float *sines;
    /// To decode: [row], what steps of a row are multiplied by. To encode: one over it. NULL: 1.
    const float *factors;
    /// Words of a block of packed symbols.
    uint32_t pitch;
    /// To decode: how many refinements, up to 2, stand behind the symbols.
    uint32_t refinement_count;
    /// Words from the packed symbols to those of the first refinement, and from there to those of
    /// the second; 0: the section is not embedded.
    size_t refinement_stride;
    /// To decode: the steps of escapes; NULL: `scales`.
    const float *escape_scales;
} ckernels_scaled_columns;

/// A value whose symbol is the escape; `position` is row * columns + column in work order.
typedef struct {
    uint32_t position;
    int32_t value;
} ckernels_escape;

/// Un-rotates and quantises a tensor into packed symbols in work order, and lists escapes in no
/// order. Returns their count, or -1 when there are more than `escape_limit`, or a value is not
/// finite or more than 2^24 steps from its mean.
///
/// With a refinement stride, symbols are of nine steps, and the bytes of both refinements are
/// context << 2 | (t + 1), with the t that is coded.
int64_t ckernels_scaled_quantise(
    uint32_t width, const ckernels_tensor *tensor, const ckernels_scaled_columns *columns,
    uint32_t *packed, ckernels_escape *escapes, size_t escape_limit);

/// Un-rotates a tensor and writes, for each row, the sum of the squares of its values, less their
/// means and times `scales`.
void ckernels_scaled_squares(
    uint32_t width, const ckernels_tensor *tensor, const ckernels_scaled_columns *columns,
    float *sums);

/// Turns packed symbols in coded order into floats: step, mean, rotation, rounding.
void ckernels_scaled_restore(
    uint32_t width, const ckernels_tensor *tensor, const ckernels_scaled_columns *columns,
    const uint32_t *packed);

/// Writes the values of `escapes`, which are sorted by position, over what `restore` wrote.
///
/// Returns 0, or -1 when a position is not that of an escape, is named twice or out of order.
int ckernels_scaled_patch(
    const ckernels_tensor *tensor, const ckernels_scaled_columns *columns, const uint32_t *packed,
    const ckernels_escape *escapes, size_t escape_count);

/// The contexts of an embedded section's first refinement, whose coarser symbols are `base`, or,
/// with the symbols of the `first` refinement, those of the second; `word_count` packed words.
void ckernels_contexts(
    const uint32_t *base, const uint32_t *first, size_t word_count, uint32_t *contexts);

/// Turns a tensor back to values [row][64 * panel_count]. Whether all are finite, and no larger
/// than 2^80. Columns beyond the last are left alone.
int ckernels_values_load(
    uint32_t width, const ckernels_tensor *tensor, const ckernels_turns *turns,
    uint32_t panel_count, float *values);
/// Turns such values, and rounds them into a tensor.
void ckernels_values_store(
    uint32_t width, const ckernels_tensor *tensor, const ckernels_turns *turns,
    uint32_t panel_count, const float *values);

/// Symbols of differences, rounded towards zero from 0.55 on, into packed symbols in natural order;
/// escapes as in `ckernels_scaled_quantise`, their places being row * column_count + coefficient.
int64_t ckernels_analyse(
    uint32_t width, const ckernels_analysis *analysis, uint32_t row_count, uint32_t *packed,
    ckernels_escape *escapes, size_t escape_limit);

/// How mode L codes the columns of a tensor: an element is rotated left by one bit (but a float8 is
/// not), its high byte minus the column's offset is the symbol, its other bytes stay raw.
typedef struct {
    const uint8_t *offsets;
    /// To encode: the symbols that the column's table knows.
    const int32_t *lowest;
    const int32_t *highest;
    /// Words of a block of packed symbols.
    uint32_t pitch;
} ckernels_split_columns;

/// Splits a tensor into packed symbols and raw bytes [row][column][byte], the lowest byte first;
/// escapes as in `quantise`, their values being high bytes.
int64_t ckernels_split(
    uint32_t width, const ckernels_tensor *tensor, const ckernels_split_columns *columns,
    uint32_t *packed, uint8_t *raw, ckernels_escape *escapes, size_t escape_limit);

/// Joins packed symbols and raw bytes to the tensor again.
void ckernels_join(
    uint32_t width, const ckernels_tensor *tensor, const ckernels_split_columns *columns,
    const uint32_t *packed, const uint8_t *raw);

/// As `ckernels_scaled_patch`, for mode L.
int ckernels_join_patch(
    const ckernels_tensor *tensor, const ckernels_split_columns *columns, const uint32_t *packed,
    const uint8_t *raw, const ckernels_escape *escapes, size_t escape_count);

#endif
