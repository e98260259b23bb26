// SPDX-License-Identifier: Apache-2.0
//
// Frames of the KVStore protocol over one blocking connection, one request at a time.
#ifndef KVSTORE_FRAMES_H
#define KVSTORE_FRAMES_H

#include "driver.h"
#include "kvstore_wire.h"

struct connection {
    int socket;
    uint64_t request_id;
    unsigned lease_count;
    uint64_t lease_ids[BENCH_BATCH_KEY_COUNT_MAX];
    struct shared_arena arena;
    struct shared_arena staging;  // where values are put together before COMMIT
    // The value that lies in the staging region and need not be written again.
    const uint8_t *staged_source;
    uint64_t staged_offset;
    char fault[ERROR_TEXT_BYTE_COUNT_MAX + 64];
};

uint32_t frame_checksum(const void *bytes, size_t byte_count);

// Notes what went wrong; returns OUTCOME_FAILED.
enum outcome frame_fault(struct connection *connection, const char *text);

// Sends one frame. The request waits for its answer, so one id at a time is open.
bool frame_send(struct connection *connection, uint8_t verb, const void *body,
                size_t body_byte_count, const struct value_source *source);

// Checks what every answer must satisfy.
enum outcome frame_check(struct connection *connection, const struct frame_header *header,
                         uint8_t verb, size_t body_byte_count_max);

// Reads the body of an answer that is not ok; `index_byte_count` is 4 where an index precedes the
// text.
enum outcome frame_take_error(struct connection *connection, const struct frame_header *header,
                              size_t index_byte_count);

enum outcome frame_take_header(struct connection *connection, struct frame_header *header,
                               uint8_t verb);

// Takes a header whose first byte may carry a descriptor; *descriptor is -1 when none came.
enum outcome frame_take_header_with_descriptor(struct connection *connection,
                                               struct frame_header *header, uint8_t verb,
                                               int *descriptor);

// Takes the body of an answer that has one known size and no payload.
enum outcome frame_take_body(struct connection *connection, const struct frame_header *header,
                             void *body, size_t body_byte_count);

// Both: header and body.
enum outcome frame_take_answer(struct connection *connection, uint8_t verb, void *body,
                               size_t body_byte_count);

#endif
