// SPDX-License-Identifier: Apache-2.0
//
// The vectors of Tests/Vectors, which bind every client. make_vectors.py turns them into calls of
// the functions below.
#include "check.h"
#include "wire.h"

#include "CKernels.h"

static void miss(const char *name, const char *what) {
    fprintf(stderr, "vector \"%s\": %s\n", name, what);
    check_failure_count += 1;
}

#define EXPECT(condition) \
    do { \
        if (!(condition)) { \
            miss(name, #condition); \
        } \
    } while (0)

// Keys --------------------------------------------------------------------------------------------

static void number(double value, char text[KVS_NUMBER_BYTE_COUNT]) {
    CHECK_STATUS(kvs_format_number(value, text), KVS_OK);
}

static void check_layout(const char *name, const kvs_layout_field *fields, size_t field_count,
                         const char *expected) {
    kvs_layout layout;
    EXPECT(kvs_layout_id(fields, field_count, &layout) == KVS_OK);
    EXPECT(memcmp(layout.bytes, expected, sizeof layout) == 0);
}

static void check_prefix(const char *name, const char *secret, const char *layout,
                         const uint32_t *tokens, size_t token_count, size_t chunk_token_count,
                         const char *expected, size_t key_count) {
    kvs_key keys[64];
    EXPECT(token_count / chunk_token_count == key_count && key_count <= 64);
    EXPECT(kvs_derive_prefix_keys((const uint8_t *)secret, (const kvs_layout *)layout, NULL,
                                  tokens, token_count, chunk_token_count, keys) == KVS_OK);
    EXPECT(memcmp(keys, expected, key_count * sizeof *keys) == 0);
}

static void check_content(const char *name, const char *secret, const char *layout,
                          const uint32_t *tokens, size_t token_count, const char *expected) {
    kvs_key key;
    EXPECT(kvs_derive_content_key((const uint8_t *)secret, (const kvs_layout *)layout, tokens,
                                  token_count, &key) == KVS_OK);
    EXPECT(memcmp(key.bytes, expected, sizeof key) == 0);
}

static void check_opaque(const char *name, const char *secret, const char *opaque_name,
                         size_t byte_count, const char *expected) {
    kvs_key key;
    EXPECT(kvs_derive_opaque_key((const uint8_t *)secret, opaque_name, byte_count, &key) == KVS_OK);
    EXPECT(memcmp(key.bytes, expected, sizeof key) == 0);
}

// Requests ----------------------------------------------------------------------------------------

static const kvs_put_options *options(const char *layout, uint32_t time_to_live_milliseconds,
                                      uint32_t flags, uint32_t first_position, int level) {
    static kvs_put_options made;
    memcpy(made.layout.bytes, layout, sizeof made.layout);
    made.time_to_live_milliseconds = time_to_live_milliseconds;
    made.flags = flags;
    made.first_position = first_position;
    made.level = (kvs_level)level;
    return &made;
}

static size_t encode_hello(uint8_t *body, uint64_t wanted_features, const char *namespace_name,
                           const char *token, size_t token_byte_count, const char *client_name) {
    struct kvsi_hello_request hello = {wanted_features, namespace_name, token, token_byte_count,
                                       client_name};
    return kvsi_encode_hello(body, &hello);
}

static void check_request(const char *name, const char *frame, size_t frame_byte_count,
                          uint8_t verb, uint64_t id, uint32_t deadline_milliseconds,
                          uint64_t payload_byte_count, const uint8_t *body, size_t byte_count) {
    uint8_t header[KVSI_HEADER_BYTE_COUNT];
    struct kvsi_request request = {verb, id, deadline_milliseconds, (uint32_t)byte_count,
                                   payload_byte_count};
    kvsi_encode_header(header, &request, body);
    EXPECT(frame_byte_count == sizeof header + byte_count);
    EXPECT(memcmp(frame, header, sizeof header) == 0);
    EXPECT(memcmp(frame + sizeof header, body, byte_count) == 0);
}

// Answers -----------------------------------------------------------------------------------------

/// Header and place of the body of a frame that must be sound so far.
static const uint8_t *open_frame(const char *name, const char *frame, size_t byte_count,
                                 uint8_t verb, uint64_t id, struct kvsi_response *response) {
    const uint8_t *bytes = (const uint8_t *)frame;
    EXPECT(byte_count >= KVSI_HEADER_BYTE_COUNT && kvsi_decode_header(bytes, response));
    const uint8_t *body = bytes + KVSI_HEADER_BYTE_COUNT;
    EXPECT(response->body_byte_count == byte_count - KVSI_HEADER_BYTE_COUNT);
    EXPECT(kvsi_body_is_intact(response, body));
    EXPECT(kvsi_answers(response, verb, id));
    return body;
}

static void check_empty(const char *name, const char *frame, size_t byte_count, uint8_t verb,
                        uint64_t id) {
    struct kvsi_response response;
    (void)open_frame(name, frame, byte_count, verb, id, &response);
    EXPECT(response.status == KVS_OK && response.body_byte_count == 0);
}

static void check_refusal(const char *name, const char *frame, size_t byte_count, uint8_t verb,
                          uint64_t id, int status, int index, const char *text, int closes) {
    struct kvsi_response response;
    char told[KVSI_ERROR_TEXT_BYTE_COUNT];
    uint32_t told_index = 0;
    const uint8_t *body = open_frame(name, frame, byte_count, verb, id, &response);
    EXPECT((int)kvsi_decode_status(response.status) == status);
    if (index >= 0) {
        EXPECT(kvsi_decode_get_miss(body, response.body_byte_count, &told_index, told));
        EXPECT(told_index == (uint32_t)index);
    } else {
        EXPECT(kvsi_decode_error_text(body, response.body_byte_count, told));
        bool told_closes = kvsi_status_closes(kvsi_decode_status(response.status)) ||
                           (response.flags & KVSI_FLAG_FINAL) != 0;
        EXPECT(told_closes == (closes != 0));
    }
    EXPECT(strcmp(told, text) == 0);
}

static void check_hello(const char *name, const char *frame, size_t byte_count,
                        const struct kvsi_hello *expected) {
    struct kvsi_response response;
    struct kvsi_hello hello;
    const uint8_t *body = open_frame(name, frame, byte_count, KVSI_HELLO, 1, &response);
    EXPECT(kvsi_decode_hello(body, response.body_byte_count, &hello));
    EXPECT(hello.granted_features == expected->granted_features);
    EXPECT(memcmp(hello.secret, expected->secret, sizeof hello.secret) == 0);
    EXPECT(hello.node_id == expected->node_id);
    EXPECT(hello.body_byte_count_limit == expected->body_byte_count_limit);
    EXPECT(hello.key_count_limit == expected->key_count_limit);
    EXPECT(hello.chunk_byte_count_limit == expected->chunk_byte_count_limit);
    EXPECT(hello.lease_milliseconds_limit == expected->lease_milliseconds_limit);
    EXPECT(hello.arena_byte_count == expected->arena_byte_count);
    EXPECT(hello.staging_byte_count_limit == expected->staging_byte_count_limit);
}

static void check_chunk(const char *name, const char *frame, size_t byte_count, uint8_t verb,
                        uint64_t id, uint64_t payload_byte_count, uint32_t index,
                        uint64_t chunk_byte_count, uint64_t checksum, const char *layout,
                        uint64_t remaining_milliseconds, uint8_t level) {
    struct kvsi_response response;
    struct kvsi_get_record record;
    const uint8_t *body = open_frame(name, frame, byte_count, verb, id, &response);
    EXPECT(kvsi_decode_get(body, response.body_byte_count, &record));
    EXPECT(record.index == index && record.description.byte_count == chunk_byte_count);
    EXPECT(response.payload_byte_count == payload_byte_count);
    EXPECT(record.description.checksum == checksum && record.description.level == level);
    EXPECT(memcmp(record.description.layout.bytes, layout, KVS_LAYOUT_BYTE_COUNT) == 0);
    EXPECT(record.description.remaining_milliseconds == remaining_milliseconds);
}

static void check_lookup(const char *name, const char *frame, size_t byte_count,
                         size_t prefix_count, const kvs_lookup_record *expected,
                         size_t record_count) {
    static kvs_lookup_record records[KVSI_KEY_COUNT_MAXIMUM];
    struct kvsi_response response;
    size_t told = 0;
    const uint8_t *body = open_frame(name, frame, byte_count, KVSI_LOOKUP, 1, &response);
    EXPECT(kvsi_decode_lookup(body, response.body_byte_count, record_count,
                              record_count == prefix_count, &told, records));
    EXPECT(told == prefix_count);
    EXPECT(memcmp(records, expected, record_count * sizeof *records) == 0);
}

static void check_statuses(const char *name, const char *frame, size_t byte_count, uint8_t verb,
                           uint64_t id, const int *expected, size_t key_count) {
    static kvs_status statuses[KVSI_KEY_COUNT_MAXIMUM];
    struct kvsi_response response;
    const uint8_t *body = open_frame(name, frame, byte_count, verb, id, &response);
    EXPECT(kvsi_decode_statuses(body, response.body_byte_count, key_count, statuses));
    for (size_t index = 0; index < key_count; index += 1) {
        EXPECT((int)statuses[index] == expected[index]);
    }
}

static void check_stat(const char *name, const char *frame, size_t byte_count,
                       const kvs_stat_pair *expected, size_t pair_count) {
    kvs_stat_pair pairs[8];
    struct kvsi_response response;
    size_t told = 0;
    const uint8_t *body = open_frame(name, frame, byte_count, KVSI_STAT, 1, &response);
    EXPECT(kvsi_decode_stat(body, response.body_byte_count, pairs, 8, &told));
    EXPECT(told == pair_count && memcmp(pairs, expected, pair_count * sizeof *pairs) == 0);
}

struct lease_record {
    int status;
    uint64_t lease_id, offset, byte_count, checksum, remaining_milliseconds;
};

static void check_lease(const char *name, const char *frame, size_t byte_count,
                        uint64_t expiry_nanoseconds, const struct lease_record *expected,
                        size_t record_count) {
    static kvs_lease leases[KVSI_KEY_COUNT_MAXIMUM];
    static const uint8_t arena[1];
    struct kvsi_response response;
    const uint8_t *body = open_frame(name, frame, byte_count, KVSI_LEASE, 1, &response);
    // The arena of the vectors is large; nothing is read from it.
    EXPECT(kvsi_decode_lease(body, response.body_byte_count, record_count, arena,
                             (uint64_t)1 << 40, leases));
    for (size_t index = 0; index < record_count; index += 1) {
        const struct lease_record *record = &expected[index];
        EXPECT((int)leases[index].status == record->status);
        EXPECT(leases[index].lease_id == record->lease_id);
        EXPECT(leases[index].byte_count == record->byte_count);
        EXPECT(leases[index].checksum == record->checksum);
        EXPECT(leases[index].remaining_milliseconds == record->remaining_milliseconds);
        EXPECT(leases[index].expiry_nanoseconds == expiry_nanoseconds);
        EXPECT(record->status != KVS_OK ||
               (uintptr_t)leases[index].bytes - (uintptr_t)arena == record->offset);
    }
}

static void check_release(const char *name, const char *frame, size_t byte_count,
                          uint32_t released_count) {
    struct kvsi_response response;
    uint32_t told = 0;
    const uint8_t *body = open_frame(name, frame, byte_count, KVSI_RELEASE, 1, &response);
    EXPECT(kvsi_decode_release(body, response.body_byte_count, &told) && told == released_count);
}

static void check_reserve(const char *name, const char *frame, size_t byte_count,
                          uint64_t reservation_id, uint64_t offset, uint64_t staging_byte_count,
                          uint64_t expiry_nanoseconds) {
    struct kvsi_response response;
    struct kvsi_reserve reserve;
    const uint8_t *body = open_frame(name, frame, byte_count, KVSI_RESERVE, 1, &response);
    EXPECT(kvsi_decode_reserve(body, response.body_byte_count, 12, &reserve));
    EXPECT(reserve.reservation_id == reservation_id && reserve.offset == offset);
    EXPECT(reserve.staging_byte_count == staging_byte_count);
    EXPECT(reserve.expiry_nanoseconds == expiry_nanoseconds);
}

// Bad answers -------------------------------------------------------------------------------------

/// Whether the decoder of the verb takes an `ok` body. The counts are those that the vectors were
/// damaged from: three keys, of a DELETE two. `range_byte_count` is 0 where whole chunks were asked
/// for.
static bool takes_body(uint8_t verb, int scope, uint64_t range_byte_count,
                       const struct kvsi_response *response, const uint8_t *body) {
    static const uint8_t arena[1];
    size_t byte_count = response->body_byte_count, count = 0;
    struct kvsi_hello hello;
    struct kvsi_get_record record;
    struct kvsi_reserve reserve;
    kvs_lookup_record records[3];
    kvs_stat_pair pairs[3];
    kvs_status statuses[3];
    kvs_lease leases[3];
    uint32_t number = 0;
    switch (verb) {
    case KVSI_HELLO: return kvsi_decode_hello(body, byte_count, &hello);
    case KVSI_GET:
        return kvsi_decode_get(body, byte_count, &record) &&
               range_byte_count <= record.description.byte_count &&
               response->payload_byte_count == (range_byte_count != 0
                                                    ? range_byte_count
                                                    : record.description.byte_count);
    case KVSI_LOOKUP: return kvsi_decode_lookup(body, byte_count, 3, false, &count, records);
    case KVSI_DELETE: return kvsi_decode_statuses(body, byte_count, 2, statuses);
    case KVSI_PIN:
    case KVSI_UNPIN: return kvsi_decode_statuses(body, byte_count, 3, statuses);
    case KVSI_STAT:
        return scope == 1 ? kvsi_decode_get(body, byte_count, &record)
                          : kvsi_decode_stat(body, byte_count, pairs, 3, &count);
    case KVSI_LEASE:
        return kvsi_decode_lease(body, byte_count, 3, arena, (uint64_t)1 << 40, leases);
    case KVSI_RELEASE: return kvsi_decode_release(body, byte_count, &number);
    case KVSI_RESERVE: return kvsi_decode_reserve(body, byte_count, 12, &reserve);
    default: return true;  // kvsi_answers has seen that it is empty
    }
}

static bool is_sound(const uint8_t *bytes, size_t byte_count, uint8_t verb, int scope,
                     uint64_t range_byte_count) {
    struct kvsi_response response;
    char text[KVSI_ERROR_TEXT_BYTE_COUNT];
    uint32_t index = 0;
    if (byte_count < KVSI_HEADER_BYTE_COUNT || !kvsi_decode_header(bytes, &response) ||
        response.body_byte_count != byte_count - KVSI_HEADER_BYTE_COUNT) {
        return false;
    }
    const uint8_t *body = bytes + KVSI_HEADER_BYTE_COUNT;
    if (!kvsi_body_is_intact(&response, body) || !kvsi_answers(&response, verb, response.id)) {
        return false;
    }
    kvs_status status = kvsi_decode_status(response.status);
    if (status == KVS_OK) {
        return takes_body(verb, scope, range_byte_count, &response, body);
    }
    return verb == KVSI_GET && (status == KVS_NOT_FOUND || range_byte_count != 0)
               ? kvsi_decode_get_miss(body, response.body_byte_count, &index, text)
               : kvsi_decode_error_text(body, response.body_byte_count, text);
}

static void check_bad(const char *name, const char *frame, size_t byte_count, size_t zero_count,
                      uint8_t verb, int scope, uint64_t range_byte_count) {
    uint8_t *bytes = calloc(1, byte_count + zero_count);
    memcpy(bytes, frame, byte_count);
    EXPECT(!is_sound(bytes, byte_count + zero_count, verb, scope, range_byte_count));
    free(bytes);
}

#include "vectors.h"

void test_vectors(void) { run_vectors(); }
