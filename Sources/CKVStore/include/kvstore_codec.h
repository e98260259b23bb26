// SPDX-License-Identifier: Apache-2.0
//
// libkvstore-codec: KV chunks as containers (docs/container-format.md), and back.
//
// A library of its own, for engines that want to send or receive fewer bytes: the code of the
// daemon's codec behind C functions. libkvstore does not need it, and it does not need libkvstore;
// kvsc_attach joins the two. It starts no thread, prints nothing and does no I/O.
//
// Rules that hold for every function:
//   - A codec is used by one thread at a time; make one for each thread. Codecs are independent.
//   - A call returns KVSC_OK or says why not; kvsc_last_error_text says it in words.
//   - Memory belongs to the caller and may have any alignment. Input and output do not overlap.
//   - Bytes from anywhere can be decoded: what is damaged is refused, and what stands in the
//     target is undefined then.
//   - After fork(2) the child may use a codec that no other thread was using at that moment.
//   - The library cannot be unloaded. Where the system has no more memory, the process ends.
#ifndef KVSTORE_CODEC_H
#define KVSTORE_CODEC_H

#include "kvstore.h"

#ifdef __cplusplus
extern "C" {
#endif

/// Raised when a program compiled against this header could not use an older library.
#define KVSC_ABI_VERSION 1u

/// Version of the interface of the library that is loaded; compare with KVSC_ABI_VERSION.
uint32_t kvsc_abi_version(void);

/// Why something was not encoded or not decoded. Numbers are never reused.
typedef enum kvsc_status {
    KVSC_OK = 0,
    KVSC_TRUNCATED = 1,
    KVSC_MAGIC = 2,                ///< no container, or no profile
    KVSC_CHECKSUM = 3,
    KVSC_VERSION = 4,              ///< made by a later release
    KVSC_HEADER = 5,
    KVSC_DIRECTORY = 6,
    KVSC_LENGTH = 7,
    KVSC_SECTION_CHECKSUM = 8,
    KVSC_SECTION = 9,
    KVSC_LAYOUT = 10,              ///< the container's own description; or it has no layers
    KVSC_PROFILE_MISSING = 11,     ///< the container names a profile that the codec has not
    KVSC_PROFILE_UNSUITABLE = 12,  ///< the profile is of another model than the layout
    KVSC_PROFILE_DAMAGED = 13,
    KVSC_TARGET_TOO_SMALL = 14,
    KVSC_WORKSPACE_TOO_SMALL = 15, ///< more bytes than kvsc_open was told of
    KVSC_INVALID_ARGUMENT = 16,
    KVSC_NO_COEFFICIENTS = 17      ///< the section has a method without them
} kvsc_status;

/// Constant name of a status, such as "profile missing"; never NULL.
const char *kvsc_status_text(kvsc_status status);

typedef struct kvsc_codec kvsc_codec;

/// Makes a codec for chunks of at most `payload_byte_count_maximum` bytes (1 to 2^28).
///
/// `description` is the canonical description of their layout, as kvs_fetch_description brings it.
/// NULL, or one that does not say where values stand: chunks are encoded as opaque bytes. Any
/// container can be decoded, whatever the description. Memory is taken when it is needed: up to 42
/// bytes for each value of the largest K or V of a layer. Give the codec back with kvsc_close.
kvsc_status kvsc_open(const void *description, size_t description_byte_count,
                      uint64_t payload_byte_count_maximum, kvsc_codec **codec);

/// Frees the codec. NULL is fine.
void kvsc_close(kvsc_codec *codec);

/// Why the last call on this codec did not return KVSC_OK; "" if it did. Until the next call.
const char *kvsc_last_error_text(const kvsc_codec *codec);

/// Whether the description says where values stand: 1, or 0.
int kvsc_knows_layout(const kvsc_codec *codec);

/// Adds a profile, which the codec copies. What is encoded from now on uses it; what was encoded
/// with this one, or with those added before, can be decoded. `hash` (may be NULL) receives the 16
/// bytes that name it. Some 60 bytes for each column of each layer and level.
kvsc_status kvsc_add_profile(kvsc_codec *codec, const void *bytes, size_t byte_count,
                             uint8_t hash[16]);

/// What the container of a payload takes at most; 0 for a payload of no or too many bytes.
uint64_t kvsc_container_byte_count_maximum(const kvsc_codec *codec, uint64_t payload_byte_count);

/// Encodes a payload at a level from KVS_LEVEL_ZSTD to KVS_LEVEL_Q4, by the best mode that layout,
/// profile and position allow. `first_position` is that of the chunk's first token in its sequence,
/// below 2^32 - 1; -1: not known. A `capacity` below the maximum may do: KVSC_TARGET_TOO_SMALL if
/// it does not, for example that of the payload itself, above which encoding would be no use.
kvsc_status kvsc_encode(kvsc_codec *codec, const void *payload, uint64_t payload_byte_count,
                        kvs_level level, int64_t first_position, void *container,
                        uint64_t capacity, uint64_t *container_byte_count);

/// What a container says of itself.
typedef struct kvsc_info {
    uint8_t mode;              ///< 0 raw, 1 zstd, 2 lossless, 3 cachegen, 4 scalar, 5 predictive
    uint8_t level;             ///< that was asked for
    uint8_t value_type;        ///< as for kvsc_decode_section; 0: opaque bytes
    uint8_t exact_token_count; ///< of tokens at the beginning that are exact at every level
    uint32_t token_count;      ///< 0: opaque bytes; so are the counts of layers and kinds
    uint32_t layer_count;
    uint32_t kind_count;       ///< 2: K and V; 1: K alone
    uint32_t key_column_count; ///< of a token in one layer
    uint32_t value_column_count;
    int64_t first_position;    ///< -1: not known
    uint64_t payload_byte_count;
    uint8_t profile_hash[16];  ///< zeros: it needs none
    kvs_layout layout;
} kvsc_info;

/// Reads a container's header and directory; its sections are not looked at.
kvsc_status kvsc_inspect(kvsc_codec *codec, const void *container, uint64_t container_byte_count,
                         kvsc_info *info);

/// Decodes a container to its payload, which has exactly `payload_byte_count` bytes.
kvsc_status kvsc_decode(kvsc_codec *codec, const void *container, uint64_t container_byte_count,
                        void *payload, uint64_t payload_byte_count);

/// Decodes K and V of some layers to their places in `payload`, and leaves its other bytes alone.
/// KVSC_LAYOUT for a container of opaque bytes, KVSC_INVALID_ARGUMENT for layers that it has not.
kvsc_status kvsc_decode_layers(kvsc_codec *codec, const void *container,
                               uint64_t container_byte_count, uint32_t first_layer,
                               uint32_t layer_count, void *payload, uint64_t payload_byte_count);

/// Decodes one layer's K (kind 0) or V (kind 1), token by token, columns in order (heads, and
/// within each its channels), as values of a type: 1 float16, 2 bfloat16, 3 float32, 4 float8_e4m3,
/// 5 float8_e5m2. `byte_count` is exactly that of the values.
kvsc_status kvsc_decode_section(kvsc_codec *codec, const void *container,
                                uint64_t container_byte_count, uint32_t layer, uint32_t kind,
                                uint32_t value_type, void *values, uint64_t byte_count);

/// One layer's K or V between the two halves of decoding: what finishes its symbols, on a GPU for
/// example, by sections 9 and 10 of docs/container-format.md. Numbers are little-endian and may
/// have any alignment. The pointers are into the container, and end with it.
typedef struct kvsc_coefficients {
    uint8_t mode;                  ///< of the container, as in kvsc_info
    uint8_t method;                ///< of this section: 5 scalar (section 9), 6 predicted (10)
    uint8_t level;                 ///< that was asked for; the profile has its step
    uint8_t value_type;            ///< of exact rows, as for kvsc_decode_section
    uint32_t row_count;            ///< R: tokens behind the exact ones
    uint32_t column_count;         ///< C: symbols of a row
    uint32_t exact_row_count;      ///< E: tokens at the beginning that have no symbols
    uint32_t group_layer_count;    ///< layers of a group in mode predictive, else 0
    int64_t first_position;        ///< of the chunk's first token; row 0 is E behind it; -1: none
    uint64_t symbol_byte_count;    ///< R x C
    uint64_t exact_row_byte_count;
    uint64_t row_code_byte_count;  ///< 0: the level has no row codes for this kind
    uint64_t escape_byte_count;    ///< 8 for each symbol of -128
    const void *exact_rows;        ///< E x C values as the payload has them, after RoPE
    const void *row_codes;         ///< two to a byte, an earlier row in the low half
    const void *escapes;           ///< by rising place: u32 row x C + column, signed 32-bit q
    uint8_t profile_hash[16];
} kvsc_coefficients;

/// Decodes one layer's K (kind 0) or V (kind 1) as far as its symbols: signed bytes [row][column],
/// columns in order, or coefficients in mode predictive. `symbols` has room for at least
/// `symbol_byte_count`, which is never above token count x column count of kvsc_inspect.
///
/// With NULL and a capacity of 0 it decodes nothing and tells all but the pointers, which are NULL;
/// only a call with symbols has checked the escapes. KVSC_NO_COEFFICIENTS: this section, like any
/// of another method, is for kvsc_decode_section. KVSC_PROFILE_UNSUITABLE: the container is
/// embedded, or the profile lacks its level. KVSC_TARGET_TOO_SMALL: the capacity is.
/// KVSC_LAYOUT for a container of opaque bytes, KVSC_INVALID_ARGUMENT for a layer or kind that it
/// has not. `coefficients` is written when the call returns KVSC_OK. One rANS stream is decoded,
/// and no other section is read.
kvsc_status kvsc_decode_coefficients(kvsc_codec *codec, const void *container,
                                     uint64_t container_byte_count, uint32_t layer, uint32_t kind,
                                     int8_t *symbols, uint64_t capacity,
                                     kvsc_coefficients *coefficients);

/// Fills `functions` so that libkvstore encodes and decodes by this codec, which must outlive them.
void kvsc_attach(kvsc_codec *codec, kvs_codec *functions);

#ifdef __cplusplus
}
#endif

#endif
