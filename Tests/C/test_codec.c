// SPDX-License-Identifier: Apache-2.0
//
// Encoding at a put and decoding at a get: with a codec of our own against the stub, where it can
// be made to fail, and with libkvstore-codec against the daemon, where both are given.
#include "check.h"
#include "internal.h"

#include "COpenSSL.h"

#ifdef WITH_CODEC
#include <math.h>

#include "kvstore_codec.h"

/// A container with one layer in mode scalar, and what finishes its symbols.
struct codec_vector {
    const char *description;
    size_t description_byte_count;
    const char *profile;
    size_t profile_byte_count;
    const char *container;
    size_t container_byte_count;
    const char *means[2];  // little-endian float32, of K and of V
    const char *steps[2];
    float level_step;
};

#include "codec_vectors.h"
#endif

// A codec that packs runs of one byte: "RUN1", the byte, the level, zeros, count and position -----

enum { RUN_BYTE_COUNT = 24, PAYLOAD_BYTE_COUNT = 100000 };

struct run_codec {
    int encode_fault;
    int decode_fault;
    uint64_t byte_count;  // what is told of each payload, if not 0
    uint32_t call_count;
};

static int run_encode(void *context, const void *payload, uint64_t payload_byte_count,
                      kvs_level level, int64_t first_position, void *container, uint64_t capacity,
                      uint64_t *container_byte_count) {
    struct run_codec *codec = context;
    const uint8_t *bytes = payload;
    uint8_t *made = container;
    codec->call_count += 1;
    *container_byte_count = 0;
    for (uint64_t index = 0; index < payload_byte_count; index += 1) {
        if (bytes[index] != bytes[0]) {
            return codec->encode_fault;
        }
    }
    if (capacity >= RUN_BYTE_COUNT) {
        memcpy(made, "RUN1", 4);
        memset(made + 4, 0, 4);
        made[4] = bytes[0];
        made[5] = (uint8_t)level;
        memcpy(made + 8, &payload_byte_count, 8);
        memcpy(made + 16, &first_position, 8);
        *container_byte_count = RUN_BYTE_COUNT;
    }
    return codec->encode_fault;
}

static int run_payload_byte_count(void *context, const void *container,
                                  uint64_t container_byte_count, uint64_t *payload_byte_count) {
    struct run_codec *codec = context;
    if (container_byte_count != RUN_BYTE_COUNT || memcmp(container, "RUN1", 4) != 0) {
        return 5;
    }
    memcpy(payload_byte_count, (const uint8_t *)container + 8, 8);
    *payload_byte_count = codec->byte_count != 0 ? codec->byte_count : *payload_byte_count;
    return 0;
}

static int run_decode(void *context, const void *container, uint64_t container_byte_count,
                      void *payload, uint64_t payload_byte_count) {
    struct run_codec *codec = context;
    codec->call_count += 1;
    CHECK(container_byte_count == RUN_BYTE_COUNT);
    memset(payload, ((const uint8_t *)container)[4], (size_t)payload_byte_count);
    return codec->decode_fault;
}

static const char *run_error_text(void *context) {
    (void)context;
    return "told to";
}

static kvs_codec codec_over(struct run_codec *context) {
    return (kvs_codec){.context = context, .encode = run_encode,
                       .payload_byte_count = run_payload_byte_count, .decode = run_decode,
                       .error_text = run_error_text};
}

static bool is_run(const uint8_t *bytes, size_t byte_count, uint8_t value) {
    for (size_t index = 0; index < byte_count; index += 1) {
        if (bytes[index] != value) {
            return false;
        }
    }
    return true;
}

/// Gets one chunk at a level into two spans, the first of `split` bytes.
static kvs_status get_split(kvs_client *client, kvs_key key, kvs_level level,
                            const kvs_codec *codec, uint8_t *bytes, size_t split, size_t capacity,
                            kvs_get_result *result) {
    kvs_get_options options = KVS_GET_OPTIONS_INIT;
    kvs_span spans[] = {{bytes, split}, {bytes + split, capacity - split}};
    kvs_destination destination = {spans, 2};
    options.level = level;
    options.codec = codec;
    return kvs_get_at(client, &key, 1, &options, &destination, NULL, NULL, result, 0);
}

static void *provide_here(void *context, size_t index, uint64_t byte_count) {
    (void)index;
    CHECK(byte_count == PAYLOAD_BYTE_COUNT);
    return context;
}

static void exercise_run_codec(kvs_client *client, uint32_t seed) {
    struct run_codec context = {0};
    kvs_codec codec = codec_over(&context);
    kvs_key key = key_numbered(seed);
    uint8_t *bytes = malloc(PAYLOAD_BYTE_COUNT);
    uint8_t *back = malloc(PAYLOAD_BYTE_COUNT);
    kvs_const_span parts[] = {{bytes, 10}, {NULL, 0}, {bytes + 10, PAYLOAD_BYTE_COUNT - 10}};
    kvs_put_options options = {.flags = KVS_POSITIONED, .first_position = 77,
                               .level = KVS_LEVEL_Q2, .codec = &codec};
    kvs_get_result result;
    memset(bytes, 9, PAYLOAD_BYTE_COUNT);
    CHECK_STATUS(kvs_put(client, &key, parts, 3, &options, 0), KVS_OK);
    CHECK_STATUS(kvs_put(client, &key, parts, 3, &options, 0), KVS_EXISTS);
    CHECK(context.call_count == 2);
    // In one run of memory, in two, and where the caller says once the size is known.
    for (size_t split = 0; split <= PAYLOAD_BYTE_COUNT; split += PAYLOAD_BYTE_COUNT / 2) {
        memset(back, 0, PAYLOAD_BYTE_COUNT);
        CHECK_STATUS(get_split(client, key, KVS_LEVEL_Q2, &codec, back, split, PAYLOAD_BYTE_COUNT,
                               &result),
                     KVS_OK);
        CHECK_STATUS(result.status, KVS_OK);
        CHECK(result.byte_count == PAYLOAD_BYTE_COUNT && result.level == KVS_LEVEL_Q2);
        CHECK(is_run(back, PAYLOAD_BYTE_COUNT, 9));
    }
    kvs_get_options get_options = KVS_GET_OPTIONS_INIT;
    get_options.level = KVS_LEVEL_ADAPTIVE;
    get_options.codec = &codec;
    memset(back, 0, PAYLOAD_BYTE_COUNT);
    CHECK_STATUS(kvs_get_at(client, &key, 1, &get_options, NULL, provide_here, back, &result, 0),
                 KVS_OK);
    CHECK(result.status == KVS_OK && is_run(back, PAYLOAD_BYTE_COUNT, 9));
    // Without a codec the container comes as it is.
    CHECK_STATUS(get_split(client, key, KVS_LEVEL_AS_STORED, NULL, back, 8, PAYLOAD_BYTE_COUNT,
                           &result),
                 KVS_OK);
    int64_t position = 0;
    memcpy(&position, back + 16, sizeof position);
    CHECK(result.byte_count == RUN_BYTE_COUNT && result.level == KVS_LEVEL_Q2 && position == 77);
    // What goes wrong with one chunk leaves the connection in step.
    CHECK_STATUS(get_split(client, key, KVS_LEVEL_Q2, &codec, back, 8, PAYLOAD_BYTE_COUNT - 1,
                           &result),
                 KVS_OK);
    CHECK_STATUS(result.status, KVS_DESTINATION_TOO_SMALL);
    CHECK(result.byte_count == PAYLOAD_BYTE_COUNT);
    context.decode_fault = 11;
    for (size_t split = 0; split <= PAYLOAD_BYTE_COUNT; split += PAYLOAD_BYTE_COUNT / 2) {
        CHECK_STATUS(get_split(client, key, KVS_LEVEL_Q2, &codec, back, split, PAYLOAD_BYTE_COUNT,
                               &result),
                     KVS_OK);
        CHECK_STATUS(result.status, KVS_NOT_DECODED);
        CHECK(result.byte_count == 0);
        CHECK(strstr(kvs_last_error_text(client), "(11): told to") != NULL);
    }
    context.byte_count = (1u << 28) + 1;
    CHECK_STATUS(get_split(client, key, KVS_LEVEL_Q2, &codec, back, 8, PAYLOAD_BYTE_COUNT,
                           &result),
                 KVS_OK);
    CHECK_STATUS(result.status, KVS_NOT_DECODED);
    CHECK_STATUS(kvs_ping(client, 0), KVS_OK);
    CHECK(kvs_last_error_text(client)[0] == '\0');
    free(bytes);
    free(back);
}

static void exercise_refusals(kvs_client *client, uint32_t seed) {
    struct run_codec context = {0};
    kvs_codec codec = codec_over(&context);
    kvs_key key = key_numbered(seed);
    uint8_t bytes[100], back[100];
    kvs_const_span part = {bytes, sizeof bytes};
    kvs_put_options options = {.level = KVS_LEVEL_Q1, .codec = &codec};
    kvs_get_result result;
    // What does not become smaller is stored as it is.
    fill(bytes, sizeof bytes, seed);
    CHECK_STATUS(kvs_put(client, &key, &part, 1, &options, 0), KVS_OK);
    CHECK_STATUS(get_split(client, key, KVS_LEVEL_Q1, &codec, back, 0, sizeof back, &result),
                 KVS_OK);
    CHECK(result.status == KVS_OK && result.level == KVS_LEVEL_RAW);
    CHECK(result.byte_count == sizeof bytes && memcmp(bytes, back, sizeof bytes) == 0);
    CHECK(context.call_count == 1);
    // A level of 0 asks no codec, and a codec that refuses stores nothing.
    key = key_numbered(seed + 1);
    context.encode_fault = 3;
    CHECK_STATUS(kvs_put(client, &key, &part, 1, &options, 0), KVS_INVALID_ARGUMENT);
    CHECK(strstr(kvs_last_error_text(client), "(3): told to") != NULL);
    options.level = KVS_LEVEL_RAW;
    CHECK_STATUS(kvs_put(client, &key, &part, 1, &options, 0), KVS_OK);
    options.level = (kvs_level)7;
    options.codec = NULL;
    CHECK_STATUS(kvs_put(client, &key, &part, 1, &options, 0), KVS_INVALID_ARGUMENT);
    options.level = KVS_LEVEL_Q1;
    options.codec = &codec;
    CHECK_STATUS(kvs_put(client, NULL, &part, 1, &options, 0), KVS_INVALID_ARGUMENT);
    CHECK_STATUS(kvs_put(client, &key, &part, 0, &options, 0), KVS_INVALID_ARGUMENT);
    CHECK_STATUS(kvs_put_begin(client, &key, 100, &options, 0), KVS_INVALID_ARGUMENT);
    kvs_reservation reservation;
    CHECK_STATUS(kvs_reserve(client, &key, 100, &options, &reservation, 0), KVS_INVALID_ARGUMENT);
    CHECK_STATUS(get_split(client, key, (kvs_level)7, &codec, back, 0, 1, &result),
                 KVS_INVALID_ARGUMENT);
    codec.decode = NULL;
    CHECK_STATUS(get_split(client, key, KVS_LEVEL_Q1, &codec, back, 0, 1, &result),
                 KVS_INVALID_ARGUMENT);
    CHECK_STATUS(kvs_get_at(client, &key, 1, NULL, NULL, provide_here, back, &result, 0),
                 KVS_INVALID_ARGUMENT);
    CHECK_STATUS(kvs_ping(client, 0), KVS_OK);
}

/// Descriptions and profiles as chunks of the namespace.
static void exercise_descriptions(kvs_client *client, uint32_t seed) {
    static const char end[] = "\nlayers=2\nmodel=";
    char number[16], canonical[128];
    (void)snprintf(number, sizeof number, "%u", seed);
    kvs_layout_field fields[] = {{"model", number}, {"layers", "2"}, {"axes", "layer,token"}};
    kvs_layout layout, expected, unknown = {{1, 2, 3}};
    void *bytes = NULL;
    size_t byte_count = 0;
    CHECK_STATUS(kvs_layout_id(fields, 3, &expected), KVS_OK);
    CHECK_STATUS(kvs_fetch_description(client, &expected, &bytes, &byte_count, 0), KVS_NOT_FOUND);
    for (int turn = 0; turn < 2; turn += 1) {  // the second time it is there
        CHECK_STATUS(kvs_describe_layout(client, fields, 3, &layout, 0), KVS_OK);
        CHECK(memcmp(&layout, &expected, sizeof layout) == 0);
    }
    CHECK_STATUS(kvs_fetch_description(client, &layout, &bytes, &byte_count, 0), KVS_OK);
    (void)snprintf(canonical, sizeof canonical, "kvstore_layout=1\naxes=layer,token%s%s\n", end,
                   number);
    CHECK(byte_count == strlen(canonical) && memcmp(bytes, canonical, byte_count) == 0);
    kvs_free(bytes);
    fields[0].name = "Model";
    CHECK_STATUS(kvs_describe_layout(client, fields, 3, &layout, 0), KVS_INVALID_ARGUMENT);
    CHECK_STATUS(kvs_describe_layout(client, fields, 3, NULL, 0), KVS_INVALID_ARGUMENT);

    uint8_t secret[32], digest[32], profile[5000];
    kvs_key profile_key, choice_key;
    uint8_t choice[32] = {0};
    fill(profile, sizeof profile, seed);
    CHECK_STATUS(kvs_secret(client, secret, 0), KVS_OK);
    CHECK(copenssl_sha256(profile, sizeof profile, digest) == 1);
    memcpy(choice, digest, 16);
    CHECK_STATUS(kvsi_derive_codec_key(secret, "f1", digest, &profile_key), KVS_OK);
    CHECK_STATUS(kvsi_derive_codec_key(secret, "f2", layout.bytes, &choice_key), KVS_OK);
    kvs_const_span profile_part = {profile, sizeof profile}, choice_part = {choice, 32};
    CHECK_STATUS(kvs_fetch_profile(client, &layout, NULL, &bytes, &byte_count, 0), KVS_NOT_FOUND);
    CHECK_STATUS(kvs_put(client, &choice_key, &choice_part, 1, NULL, 0), KVS_OK);
    CHECK_STATUS(kvs_fetch_profile(client, &layout, NULL, &bytes, &byte_count, 0), KVS_NOT_FOUND);
    CHECK_STATUS(kvs_put(client, &profile_key, &profile_part, 1, NULL, 0), KVS_OK);
    for (int turn = 0; turn < 2; turn += 1) {
        bytes = NULL;
        CHECK_STATUS(kvs_fetch_profile(client, &layout, turn == 0 ? NULL : digest, &bytes,
                                       &byte_count, 0),
                     KVS_OK);
        CHECK(byte_count == sizeof profile && memcmp(bytes, profile, byte_count) == 0);
        kvs_free(bytes);
    }
    CHECK_STATUS(kvs_fetch_profile(client, NULL, NULL, &bytes, &byte_count, 0),
                 KVS_INVALID_ARGUMENT);
    // What is not what its name says is not used.
    CHECK_STATUS(kvs_delete(client, &profile_key, 1, NULL, 0), KVS_OK);
    CHECK_STATUS(kvs_put(client, &profile_key, &choice_part, 1, NULL, 0), KVS_OK);
    CHECK_STATUS(kvs_fetch_profile(client, &layout, NULL, &bytes, &byte_count, 0), KVS_DAMAGED);
    CHECK_STATUS(kvs_delete(client, &choice_key, 1, NULL, 0), KVS_OK);
    CHECK_STATUS(kvs_put(client, &choice_key, &profile_part, 1, NULL, 0), KVS_OK);
    CHECK_STATUS(kvs_fetch_profile(client, &layout, NULL, &bytes, &byte_count, 0),
                 KVS_DESTINATION_TOO_SMALL);
    CHECK_STATUS(kvs_fetch_description(client, &unknown, &bytes, &byte_count, 0), KVS_NOT_FOUND);
}

// With libkvstore-codec ---------------------------------------------------------------------------

#ifdef WITH_CODEC
enum { LAYERS = 2, TOKENS = 64, COLUMNS = 32, VALUES = 2 * LAYERS * TOKENS * COLUMNS };

/// What an engine does: describe, open a codec by the namespace, put at a level, get.
static void exercise_codec_library(kvs_client *client, uint32_t seed) {
    static const kvs_layout_field fields[] = {
        {"axes", "layer,kv,token,head,channel"}, {"dtype", "float16"}, {"head_dim", "16"},
        {"kv_heads", "2"},                       {"layers", "2"},
    };
    kvs_put_options options = {.flags = KVS_POSITIONED};
    uint16_t payload[VALUES], back[VALUES];
    kvs_const_span part = {payload, sizeof payload};
    kvs_get_result result;
    kvsc_codec *codec = NULL;
    kvs_codec functions;
    void *description = NULL;
    size_t byte_count = 0;
    CHECK_STATUS(kvs_describe_layout(client, fields, 5, &options.layout, 0), KVS_OK);
    CHECK_STATUS(kvs_fetch_description(client, &options.layout, &description, &byte_count, 0),
                 KVS_OK);
    CHECK(kvsc_abi_version() == KVSC_ABI_VERSION);
    CHECK(kvsc_open(description, byte_count, sizeof payload, &codec) == KVSC_OK);
    CHECK(kvsc_knows_layout(codec) == 1);
    kvs_free(description);
    kvsc_attach(codec, &functions);
    options.codec = &functions;
    // Numbers from 1 to 2 in float16.
    fill((uint8_t *)payload, sizeof payload, seed);
    for (size_t index = 0; index < VALUES; index += 1) {
        payload[index] = (uint16_t)(0x3c00 | (payload[index] & 0x3ff));
    }
    for (int level = KVS_LEVEL_ZSTD; level <= KVS_LEVEL_Q4; level += 1) {
        kvs_key key = key_numbered(seed + (uint32_t)level);
        kvs_lookup_record record;
        options.level = (kvs_level)level;
        CHECK_STATUS(kvs_put(client, &key, &part, 1, &options, 0), KVS_OK);
        CHECK_STATUS(kvs_lookup(client, &key, 1, &record, 0), KVS_OK);
        CHECK(record.level == level && record.byte_count < sizeof payload);
        // Decoded by the daemon, and here: the same.
        for (int turn = 0; turn < 2; turn += 1) {
            memset(back, 0, sizeof back);
            CHECK_STATUS(get_split(client, key, turn == 0 ? KVS_LEVEL_RAW : (kvs_level)level,
                                   &functions, (uint8_t *)back, sizeof back, sizeof back, &result),
                         KVS_OK);
            CHECK_STATUS(result.status, KVS_OK);
            CHECK(result.byte_count == sizeof back);
            CHECK(result.level == (turn == 0 ? 0u : (uint32_t)level));
            for (size_t index = 0; index < VALUES; index += 1) {
                // Between 1 and 2 the bits are even steps; no level is off by more than half.
                int difference = abs((int)payload[index] - (int)back[index]);
                CHECK(level <= KVS_LEVEL_LOSSLESS ? difference == 0 : difference < 0x300);
            }
        }
    }
    CHECK(kvsc_last_error_text(codec)[0] == '\0');
    kvsc_close(codec);
}

/// A codec with the description and the profile of a vector.
static kvsc_codec *open_vector(const struct codec_vector *vector) {
    kvsc_codec *codec = NULL;
    CHECK(kvsc_open(vector->description, vector->description_byte_count, 1 << 20, &codec) ==
          KVSC_OK);
    CHECK(kvsc_add_profile(codec, vector->profile, vector->profile_byte_count, NULL) == KVSC_OK);
    return codec;
}

static float float_at(const char *numbers, size_t index) {
    float number;
    memcpy(&number, numbers + 4 * index, 4);
    return number;
}

/// Finishes the symbols of a section of float32 that is not turned: section 9 of
/// docs/container-format.md, whose roundings the statements are cut by.
static void finish_scalar(const struct codec_vector *vector, uint32_t kind,
                          const kvsc_coefficients *told, const int8_t *symbols, float *values) {
    const uint8_t *codes = told->row_codes, *escapes = told->escapes;
    const uint8_t *end = escapes + told->escape_byte_count;
    for (size_t row = 0; row < told->row_count; row += 1) {
        float factor = 1;
        if (told->row_code_byte_count != 0) {
            int code = codes[row / 2] >> (4 * (row % 2)) & 15;
            factor = (float)exp2((code - 8) / 4.0);
        }
        for (size_t column = 0; column < told->column_count; column += 1) {
            size_t place = row * told->column_count + column;
            int32_t symbol = symbols[place];
            if (symbol == -128 && escapes < end) {
                uint32_t listed;
                memcpy(&listed, escapes, 4);
                memcpy(&symbol, escapes + 4, 4);
                CHECK(listed == place);
                escapes += 8;
            }
            float step = float_at(vector->steps[kind], column) * vector->level_step;
            step *= factor;
            float difference = (float)symbol * step;
            values[place] = float_at(vector->means[kind], column) + difference;
        }
    }
    CHECK(escapes == end);
}

/// A section's coefficients, finished here, are the values that the library decodes.
static void exercise_coefficients(const struct codec_vector *vector, uint32_t kind,
                                  uint64_t row_code_byte_count, uint64_t escape_byte_count) {
    enum { CAPACITY = 4096, GUARD = 99 };
    static int8_t symbols[CAPACITY];
    static float values[CAPACITY], expected[CAPACITY];
    kvsc_codec *codec = open_vector(vector);
    kvsc_coefficients sizes, told;
    kvsc_info info;
    const void *container = vector->container;
    uint64_t byte_count = vector->container_byte_count;
    CHECK(kvsc_inspect(codec, container, byte_count, &info) == KVSC_OK);
    CHECK(kvsc_decode_coefficients(codec, container, byte_count, 0, kind, NULL, 0, &sizes) ==
          KVSC_OK);
    CHECK(sizes.exact_rows == NULL && sizes.row_codes == NULL && sizes.escapes == NULL);
    CHECK(sizes.mode == 4 && sizes.method == 5 && sizes.level == info.level);
    CHECK(sizes.value_type == 3 && sizes.exact_row_count == 0 && sizes.group_layer_count == 0);
    CHECK(sizes.first_position == info.first_position && sizes.exact_row_byte_count == 0);
    CHECK(memcmp(sizes.profile_hash, info.profile_hash, 16) == 0);
    CHECK(sizes.row_count == info.token_count);
    CHECK(sizes.column_count == (kind == 0 ? info.key_column_count : info.value_column_count));
    CHECK(sizes.symbol_byte_count == (uint64_t)sizes.row_count * sizes.column_count);
    CHECK(sizes.row_code_byte_count == row_code_byte_count);
    CHECK(sizes.escape_byte_count == escape_byte_count);
    if (sizes.symbol_byte_count < CAPACITY) {
        memset(symbols, GUARD, sizeof symbols);
        CHECK(kvsc_decode_coefficients(codec, container, byte_count, 0, kind, symbols,
                                       sizes.symbol_byte_count, &told) == KVSC_OK);
        CHECK(symbols[sizes.symbol_byte_count] == GUARD);
        CHECK(told.escape_byte_count == sizes.escape_byte_count);
        finish_scalar(vector, kind, &told, symbols, values);
        CHECK(kvsc_decode_section(codec, container, byte_count, 0, kind, 3, expected,
                                  4 * sizes.symbol_byte_count) == KVSC_OK);
        CHECK(memcmp(values, expected, 4 * sizes.symbol_byte_count) == 0);
    }
    CHECK(kvsc_decode_coefficients(codec, container, byte_count, 0, kind, symbols,
                                   sizes.symbol_byte_count - 1,
                                   &told) == KVSC_TARGET_TOO_SMALL);
    kvsc_close(codec);
}

static void exercise_coefficient_refusals(void) {
    static int8_t symbols[4096];
    uint8_t container[4096], payload[1024] = {0};
    uint64_t byte_count = 0;
    kvsc_coefficients told;
    const struct codec_vector *vector = &far_vector;
    kvsc_codec *codec = open_vector(vector);
    CHECK(kvsc_decode_coefficients(codec, vector->container, vector->container_byte_count, 1, 0,
                                   symbols, sizeof symbols, &told) == KVSC_INVALID_ARGUMENT);
    CHECK(kvsc_decode_coefficients(codec, vector->container, vector->container_byte_count, 0, 2,
                                   symbols, sizeof symbols, &told) == KVSC_INVALID_ARGUMENT);
    CHECK(kvsc_decode_coefficients(codec, vector->container, vector->container_byte_count, 0, 0,
                                   symbols, sizeof symbols, NULL) == KVSC_INVALID_ARGUMENT);
    CHECK(kvsc_decode_coefficients(codec, vector->container, vector->container_byte_count, 0, 0,
                                   NULL, 1, &told) == KVSC_INVALID_ARGUMENT);
    CHECK(kvsc_encode(codec, payload, sizeof payload, KVS_LEVEL_LOSSLESS, 0, container,
                      sizeof container, &byte_count) == KVSC_OK);
    CHECK(kvsc_decode_coefficients(codec, container, byte_count, 0, 0, symbols, sizeof symbols,
                                   &told) == KVSC_NO_COEFFICIENTS);
    CHECK(strcmp(kvsc_status_text(KVSC_NO_COEFFICIENTS), "no coefficients") == 0);
    CHECK(strstr(kvsc_last_error_text(codec), "without coefficients") != NULL);
    kvsc_close(codec);

    vector = &embedded_vector;
    codec = open_vector(vector);
    CHECK(kvsc_decode_coefficients(codec, vector->container, vector->container_byte_count, 0, 0,
                                   symbols, sizeof symbols, &told) == KVSC_PROFILE_UNSUITABLE);
    CHECK(strstr(kvsc_last_error_text(codec), "embedded") != NULL);
    kvsc_close(codec);

    CHECK(kvsc_open(NULL, 0, 1 << 20, &codec) == KVSC_OK);
    CHECK(kvsc_decode_coefficients(codec, vector->container, vector->container_byte_count, 0, 0,
                                   symbols, sizeof symbols, &told) == KVSC_PROFILE_MISSING);
    CHECK(kvsc_encode(codec, payload, sizeof payload, KVS_LEVEL_ZSTD, -1, container,
                      sizeof container, &byte_count) == KVSC_OK);
    CHECK(kvsc_decode_coefficients(codec, container, byte_count, 0, 0, symbols, sizeof symbols,
                                   &told) == KVSC_LAYOUT);
    kvsc_close(codec);
}
#endif

void test_codec(void) {
#ifdef WITH_CODEC
    for (uint32_t kind = 0; kind < 2; kind += 1) {
        exercise_coefficients(&far_vector, kind, 0, kind == 0 ? 2608 : 2672);
        exercise_coefficients(&coded_vector, kind, kind == 0 ? 1 : 0, 16);
    }
    exercise_coefficient_refusals();
#endif
    struct server server = server_start("shared");
    kvs_client *client = open_client(server.unix_address, 0, 5000);
    exercise_run_codec(client, 1);
    exercise_refusals(client, 11);
    exercise_descriptions(client, 21);
    kvs_close(client);
    client = open_client(server.tcp_address, 0, 5000);
    exercise_run_codec(client, 101);
    exercise_descriptions(client, 121);
    kvs_close(client);
    server_stop(&server);
    if (server_under_test(&server)) {
        uint32_t seed = (uint32_t)(now_milliseconds() * 10000) + 500000;
        client = open_client(server.unix_address, 0, 5000);
        exercise_descriptions(client, seed);
#ifdef WITH_CODEC
        exercise_codec_library(client, seed + 100);
#endif
        kvs_close(client);
    }
}
