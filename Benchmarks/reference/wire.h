// SPDX-License-Identifier: Apache-2.0
//
// The reference protocol: 16-byte requests and replies, host byte order, depth 1. The client names
// places in the arena itself, so the server has no index at all: it is the floor, not a store.
#ifndef REFERENCE_WIRE_H
#define REFERENCE_WIRE_H

#include <stdint.h>

enum reference_operation {
    REFERENCE_PING = 1,  // reply alone
    REFERENCE_GET = 2,   // reply, then value_bytes
    REFERENCE_PUT = 3,   // request, then value_bytes; reply after the last byte stands in the arena
    REFERENCE_LEASE = 4,  // reply with offset and length: the value is read in place
    REFERENCE_ARENA = 5,  // Unix socket only: reply with the arena's descriptor beside it
};

enum reference_status { REFERENCE_OK = 0, REFERENCE_REFUSED = 1 };

struct reference_request {
    uint32_t operation;
    uint32_t value_bytes;
    uint64_t arena_offset;
};

struct reference_reply {
    uint32_t status;
    uint32_t value_bytes;
    uint64_t arena_offset;
};

_Static_assert(sizeof(struct reference_request) == 16, "requests are 16 bytes");
_Static_assert(sizeof(struct reference_reply) == 16, "replies are 16 bytes");

#endif
