// SPDX-License-Identifier: Apache-2.0
//
// A driver speaks one system's protocol. All have one shape, so that the comparison is of servers:
// one blocking connection, one request at a time; a request and its value leave in one sendmsg; a
// reply arrives as its fixed head and then, in one recvmsg, whatever follows straight into the
// reused destination.
#ifndef DRIVER_H
#define DRIVER_H

#include <stdio.h>

#include "bench.h"

// A key of a key set: what each protocol needs to find the value.
struct value_key {
    uint8_t bytes[BENCH_KEY_BYTE_COUNT];
    uint64_t arena_offset;  // where the reference keeps it; other systems have an index
};

// A value to be stored. The checksum is computed once per buffer, not once per operation: the other
// protocols carry none.
struct value_source {
    const uint8_t *bytes;
    size_t byte_count;
    uint64_t checksum;
    bool durable;  // the answer shall mean that it is on stable storage; kvstore alone knows this
};

enum outcome {
    OUTCOME_OK,
    OUTCOME_EXISTS,
    OUTCOME_ABSENT,
    OUTCOME_BUSY,
    OUTCOME_NOT_DURABLE,  // stored, but not yet on stable storage, which was asked for
    OUTCOME_FAILED,
};

struct connection;

struct driver {
    const char *name;
    bool immutable;  // a stored key cannot be written again: PUT needs fresh keys
    struct connection *(*open)(const struct endpoint *endpoint, bool shared_memory);
    void (*close)(struct connection *connection);
    enum outcome (*ping)(struct connection *connection);
    enum outcome (*put)(struct connection *connection, const struct value_key *key,
                        const struct value_source *source);
    // As `put`, through shared memory. A source that was put last by this connection still lies
    // there and is not copied again. Null where there is no shared memory to write to.
    enum outcome (*put_local)(struct connection *connection, const struct value_key *key,
                              const struct value_source *source);
    enum outcome (*get)(struct connection *connection, const struct value_key *key,
                        uint8_t *destination, size_t byte_count);
    // Gives the places of values in shared memory, and ends the leases that this connection took
    // before, in the same message where the protocol can. Null where there is no shared memory.
    enum outcome (*lease)(struct connection *connection, const struct value_key *keys,
                          unsigned key_count, size_t byte_count, const uint8_t **places);
    // Null where the soak does not need it.
    enum outcome (*delete)(struct connection *connection, const struct value_key *key);
    // How many of at most BENCH_BATCH_KEY_COUNT_MAX keys are stored. Null where nobody asks.
    enum outcome (*lookup)(struct connection *connection, const struct value_key *keys,
                           unsigned key_count, unsigned *present_count);
    // Writes the server's counters as one JSON object. Null where nobody asks.
    enum outcome (*stat)(struct connection *connection, FILE *output);
    // What went wrong last, in words.
    const char *(*fault)(const struct connection *connection);
};

extern const struct driver reference_driver, kvstore_driver, memcached_driver, redis_driver;

const struct driver *driver_named(const char *name);

#endif
