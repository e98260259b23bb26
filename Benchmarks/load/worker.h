// SPDX-License-Identifier: Apache-2.0
//
// One measured connection: a thread that asks, waits and times, until its deadline or its last
// operation.
#ifndef WORKER_H
#define WORKER_H

#include <pthread.h>

#include "histogram.h"
#include "keys.h"

enum operation {
    OPERATION_PING,    // an empty round trip
    OPERATION_GET,     // through the socket into a reused buffer
    OPERATION_PUT,     // from one buffer; fresh keys where values are immutable
    OPERATION_FILL,    // stores the key set once, each value its own
    OPERATION_VERIFY,  // reads the key set once and compares every byte
    // From here on, through shared memory.
    OPERATION_PUT_LOCAL,   // as PUT; the bytes lie in shared memory before
    OPERATION_LEASE,       // the places of a batch of values; their ends are read there
    OPERATION_LEASE_COPY,  // as above, and the values are copied into a reused buffer
    OPERATION_MEMCPY,      // the copies alone, from the same places, without asking
};

struct worker {
    // Set before the start.
    const struct driver *driver;
    struct connection *connection;
    enum operation operation;
    struct key_set keys;
    uint64_t first_number;   // PUT walks the set from here ...
    uint64_t number_stride;  // ... in these steps, so that no two workers write the same key
    uint64_t random_seed;
    unsigned batch_key_count;  // for the operations on shared memory, else 1
    // The order in which keys are read: position after position, the workers side by side, so that
    // no key returns before all others were read. Null: any key at any time.
    const uint32_t *order;
    uint64_t first_position;
    bool durable;  // a PUT is answered when the value is on stable storage; `busy` is waited out
    uint64_t duration_nanoseconds;
    uint64_t operation_count_max;
    uint64_t pace_nanoseconds;  // from one operation's start to the next one's; 0: at once
    pthread_barrier_t *barrier;
    // Set by the worker.
    pthread_t thread;
    struct histogram histogram;
    uint64_t operation_count;
    uint64_t busy_count;
    uint64_t start_nanoseconds;
    uint64_t end_nanoseconds;
    uint8_t *buffer;
    const uint8_t **places;  // of every key, for OPERATION_MEMCPY
};

// Allocates what the loop needs, collects places, starts the thread. The thread begins at the
// barrier.
void worker_start(struct worker *worker);
// For an ended thread: after PUT, reads the last value back and compares it.
void worker_check(struct worker *worker);

#endif
