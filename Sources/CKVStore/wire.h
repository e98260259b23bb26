// SPDX-License-Identifier: Apache-2.0
//
// Bytes of the protocol (docs/protocol.md): numbers, encoders for requests, decoders for responses.
// Pure functions over memory. Decoders are total: any input gives a value or a refusal, and nothing
// outside the given bytes is read.
#ifndef KVS_WIRE_H
#define KVS_WIRE_H

#include "kvstore.h"

#include <stdbool.h>

enum {
    KVSI_HEADER_BYTE_COUNT = 48,
    KVSI_BODY_BYTE_COUNT_MAXIMUM = 65536,
    KVSI_KEY_COUNT_MAXIMUM = 1024,
    KVSI_RELEASE_COUNT_MAXIMUM = 1024,
    KVSI_NAME_BYTE_COUNT_MAXIMUM = 64,
    KVSI_TOKEN_BYTE_COUNT_MAXIMUM = 256,
    KVSI_CHECKSUM_BYTE_COUNT = 8,
    KVSI_PUT_BODY_BYTE_COUNT = 72,
    KVSI_DEADLINE_MILLISECONDS_MAXIMUM = 600000,
    KVSI_ERROR_TEXT_BYTE_COUNT = 513,
};

#define KVSI_CHUNK_BYTE_COUNT_MAXIMUM ((uint64_t)1 << 28)
#define KVSI_FEATURE_SHARED_MEMORY ((uint64_t)1)

enum kvsi_verb {
    KVSI_HELLO = 0x01,
    KVSI_PING = 0x02,
    KVSI_PUT = 0x10,
    KVSI_GET = 0x11,
    KVSI_LOOKUP = 0x12,
    KVSI_DELETE = 0x13,
    KVSI_STAT = 0x14,
    KVSI_LEASE = 0x20,
    KVSI_RELEASE = 0x21,
    KVSI_RESERVE = 0x22,
    KVSI_COMMIT = 0x23,
    KVSI_ABORT = 0x24,
    KVSI_PIN = 0x30,
    KVSI_UNPIN = 0x31,
};

enum kvsi_flag {
    KVSI_FLAG_RESPONSE = 1,
    KVSI_FLAG_MORE = 2,
    KVSI_FLAG_FINAL = 4,
};

// Requests ------------------------------------------------------------------------------------

/// What the header of a request says; everything else in it follows.
struct kvsi_request {
    uint8_t verb;
    uint64_t id;
    uint32_t deadline_milliseconds;
    uint32_t body_byte_count;
    uint64_t payload_byte_count;
};

/// Writes the 48 bytes of a request's header, with the checksum of `body`.
void kvsi_encode_header(uint8_t *header, const struct kvsi_request *request, const uint8_t *body);

/// What HELLO says. The names may be empty, not NULL.
struct kvsi_hello_request {
    uint64_t wanted_features;
    const char *namespace_name;
    const void *token;
    size_t token_byte_count;
    const char *client_name;
};

/// A part of every chunk of a GET; NULL where it is asked for means all of it.
struct kvsi_range {
    uint64_t offset;
    uint64_t byte_count;
};

// Each encoder writes a body and returns its byte count. The caller's buffer holds
// KVSI_BODY_BYTE_COUNT_MAXIMUM bytes and the counts are within the limits above.
size_t kvsi_encode_hello(uint8_t *body, const struct kvsi_hello_request *hello);
size_t kvsi_encode_put(uint8_t *body, const kvs_key *key, uint64_t byte_count,
                       const kvs_put_options *options);
size_t kvsi_encode_get(uint8_t *body, const kvs_key *keys, size_t key_count,
                       uint8_t level, const kvs_layout *expected_layout,
                       const struct kvsi_range *range);
size_t kvsi_encode_lookup(uint8_t *body, const kvs_key *keys, size_t key_count, bool prefix);
/// DELETE, and UNPIN.
size_t kvsi_encode_delete(uint8_t *body, const kvs_key *keys, size_t key_count);
size_t kvsi_encode_pin(uint8_t *body, const kvs_key *keys, size_t key_count,
                       uint64_t milliseconds);
size_t kvsi_encode_stat(uint8_t *body, const kvs_key *key);
size_t kvsi_encode_lease(uint8_t *body, const kvs_key *keys, size_t key_count,
                         const uint64_t *released, size_t released_count, uint32_t milliseconds);
size_t kvsi_encode_release(uint8_t *body, const uint64_t *released, size_t released_count);
size_t kvsi_encode_commit(uint8_t *body, uint64_t reservation_id, uint64_t checksum);
size_t kvsi_encode_abort(uint8_t *body, uint64_t reservation_id);
void kvsi_encode_u64(uint8_t *bytes, uint64_t value);

// Responses -----------------------------------------------------------------------------------

struct kvsi_response {
    uint8_t verb;
    uint16_t flags;
    uint16_t status;
    uint64_t id;
    uint32_t body_byte_count;
    uint64_t payload_byte_count;
    uint32_t body_checksum;
};

/// Decodes 48 bytes; checks magic, checksum, version, reserved fields, flags and body size.
bool kvsi_decode_header(const uint8_t *header, struct kvsi_response *response);

/// Whether the frame answers this request: it repeats verb and id, or is a refusal with id 0 of a
/// daemon that could not read our header or has no room for us; and it has a body, a payload or a
/// successor only where that belongs.
bool kvsi_answers(const struct kvsi_response *response, uint8_t verb, uint64_t request_id);

/// Whether the body has the checksum that the header announced.
bool kvsi_body_is_intact(const struct kvsi_response *response, const uint8_t *body);

/// The status as callers see it; numbers we do not know become KVS_INTERNAL.
kvs_status kvsi_decode_status(uint16_t number);

/// Whether the daemon closes the connection after this status, section 5.
bool kvsi_status_closes(kvs_status status);

struct kvsi_hello {
    uint64_t granted_features;
    uint8_t secret[32];
    uint64_t node_id;
    uint32_t body_byte_count_limit;
    uint32_t key_count_limit;
    uint64_t chunk_byte_count_limit;
    uint32_t lease_milliseconds_limit;
    uint64_t arena_byte_count;
    uint64_t staging_byte_count_limit;
};

bool kvsi_decode_hello(const uint8_t *body, size_t byte_count, struct kvsi_hello *hello);

/// Copies an error text with control characters replaced; false, and "", if it is ill-formed.
bool kvsi_decode_error_text(const uint8_t *body, size_t byte_count,
                            char text[KVSI_ERROR_TEXT_BYTE_COUNT]);

struct kvsi_get_record {
    uint32_t index;
    kvs_chunk_description description;
};

/// The body of an `ok` frame of GET, or of STAT for one chunk.
bool kvsi_decode_get(const uint8_t *body, size_t byte_count, struct kvsi_get_record *record);

/// The body of a GET frame about one key that is not `ok`.
bool kvsi_decode_get_miss(const uint8_t *body, size_t byte_count, uint32_t *index,
                          char text[KVSI_ERROR_TEXT_BYTE_COUNT]);

/// LOOKUP: `records` (may be NULL) has room for `key_count`; `prefix` says which mode was asked
/// for.
bool kvsi_decode_lookup(const uint8_t *body, size_t byte_count, size_t key_count, bool prefix,
                        size_t *prefix_count, kvs_lookup_record *records);
/// DELETE, PIN and UNPIN: a status for each of `key_count` keys.
bool kvsi_decode_statuses(const uint8_t *body, size_t byte_count, size_t key_count,
                          kvs_status *statuses);
bool kvsi_decode_stat(const uint8_t *body, size_t byte_count, kvs_stat_pair *pairs,
                      size_t capacity, size_t *pair_count);

/// LEASE: `leases` has room for `key_count`. `bytes` of a granted lease is only set, from
/// `arena`, if offset and length lie within `arena_byte_count`; otherwise the body is refused.
bool kvsi_decode_lease(const uint8_t *body, size_t byte_count, size_t key_count,
                       const uint8_t *arena, uint64_t arena_byte_count, kvs_lease *leases);
bool kvsi_decode_release(const uint8_t *body, size_t byte_count, uint32_t *released_count);

struct kvsi_reserve {
    uint64_t reservation_id;
    uint64_t offset;
    uint64_t staging_byte_count;
    uint64_t expiry_nanoseconds;
};

/// RESERVE: refused unless `chunk_byte_count` bytes at the offset lie within the region.
bool kvsi_decode_reserve(const uint8_t *body, size_t byte_count, uint64_t chunk_byte_count,
                         struct kvsi_reserve *reserve);

#endif
