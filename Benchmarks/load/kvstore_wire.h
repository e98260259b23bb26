// SPDX-License-Identifier: Apache-2.0
//
// The messages of docs/protocol.md that the benchmarks use, field by field.
#ifndef KVSTORE_WIRE_H
#define KVSTORE_WIRE_H

#include "bench.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "fields are copied as they are");

enum {
    VERB_HELLO = 0x01,
    VERB_PING = 0x02,
    VERB_PUT = 0x10,
    VERB_GET = 0x11,
    VERB_LOOKUP = 0x12,
    VERB_DELETE = 0x13,
    VERB_STAT = 0x14,
    VERB_LEASE = 0x20,
    VERB_RESERVE = 0x22,
    VERB_COMMIT = 0x23,
    FLAG_RESPONSE = 1,
    FLAG_MORE = 2,
    FEATURE_SHARED_MEMORY = 1,
    STATUS_OK = 0,
    STATUS_NOT_FOUND = 1,
    STATUS_EXISTS = 2,
    STATUS_BUSY = 3,
    STATUS_NOT_DURABLE = 17,
    BODY_BYTE_COUNT_MAX = 4096,   // larger ones do not occur with batches as small as ours ...
    STAT_BYTE_COUNT_MAX = 65536,  // ... save in the answer to STAT
    ACKNOWLEDGE_ON_SSD = 1,
    ERROR_TEXT_BYTE_COUNT_MAX = 512,
    REQUEST_DEADLINE_MILLISECONDS = 20000,
    HELLO_FIXED_BYTE_COUNT = 140,
};

struct __attribute__((packed)) frame_header {
    uint8_t magic[4];
    uint8_t version;
    uint8_t verb;
    uint16_t flags;
    uint64_t request_id;
    uint32_t deadline_milliseconds;
    uint16_t status;
    uint16_t reserved_a;
    uint32_t body_byte_count;
    uint32_t body_checksum;
    uint64_t payload_byte_count;
    uint32_t reserved_b;
    uint32_t header_checksum;
};

struct __attribute__((packed)) put_body {
    uint8_t key[BENCH_KEY_BYTE_COUNT];
    uint8_t layout_id[16];
    uint64_t chunk_byte_count;
    uint32_t time_to_live_milliseconds;
    uint8_t level;
    uint8_t acknowledge;
    uint8_t reserved[10];
};

struct __attribute__((packed)) get_body {
    uint16_t key_count;
    uint8_t level;
    uint8_t options;
    uint32_t reserved;
    uint8_t layout_id[16];
    uint8_t key[BENCH_KEY_BYTE_COUNT];
};

struct __attribute__((packed)) get_answer {
    uint32_t index;
    uint8_t level;
    uint8_t reserved[3];
    uint64_t chunk_byte_count;
    uint64_t checksum;
    uint8_t layout_id[16];
    uint64_t remaining_milliseconds;
};

// The keys follow.
struct __attribute__((packed)) lookup_body {
    uint16_t key_count;
    uint8_t mode;
    uint8_t reserved[5];
};

// One record per key follows.
struct __attribute__((packed)) lookup_answer {
    uint32_t prefix_count;
    uint32_t record_count;
};

struct __attribute__((packed)) lookup_record {
    uint16_t status;
    uint8_t tier;
    uint8_t level;
    uint32_t load_microseconds;
    uint64_t chunk_byte_count;
    uint64_t remaining_milliseconds;
};

struct __attribute__((packed)) delete_body {
    uint16_t key_count;
    uint8_t reserved[6];
    uint8_t key[BENCH_KEY_BYTE_COUNT];
};

struct __attribute__((packed)) delete_answer {
    uint32_t deleted_count;
    uint32_t key_count;
    uint16_t status;
};

// Released lease ids follow, then the keys.
struct __attribute__((packed)) lease_body {
    uint16_t key_count;
    uint16_t released_count;
    uint32_t lease_milliseconds;
    uint64_t reserved;
};

// One record per key follows.
struct __attribute__((packed)) lease_answer {
    uint32_t record_count;
    uint32_t reserved;
    uint64_t expiry_nanoseconds;
};

struct __attribute__((packed)) lease_record {
    uint16_t status;
    uint8_t level;
    uint8_t reserved[5];
    uint64_t lease_id;
    uint64_t arena_offset;
    uint64_t chunk_byte_count;
    uint64_t checksum;
    uint64_t remaining_milliseconds;
};

struct __attribute__((packed)) reserve_answer {
    uint64_t reservation_id;
    uint64_t staging_offset;
    uint64_t staging_byte_count;
    uint64_t expiry_nanoseconds;
};

struct __attribute__((packed)) commit_body {
    uint64_t reservation_id;
    uint64_t checksum;
};

_Static_assert(sizeof(struct frame_header) == 48, "docs/protocol.md, section 2");
_Static_assert(sizeof(struct put_body) == 72, "docs/protocol.md, PUT");
_Static_assert(sizeof(struct get_body) == 24 + 32, "docs/protocol.md, GET");
_Static_assert(sizeof(struct get_answer) == 48, "docs/protocol.md, GET");
_Static_assert(sizeof(struct lookup_record) == 24, "docs/protocol.md, LOOKUP");
_Static_assert(sizeof(struct lease_body) == 16, "docs/protocol.md, LEASE");
_Static_assert(sizeof(struct lease_answer) == 16, "docs/protocol.md, LEASE");
_Static_assert(sizeof(struct lease_record) == 48, "docs/protocol.md, LEASE");
_Static_assert(16 + BENCH_BATCH_KEY_COUNT_MAX * 48 <= BODY_BYTE_COUNT_MAX, "a whole answer fits");

#endif
