// SPDX-License-Identifier: Apache-2.0
#include "worker.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "checksum.h"

// The pattern of every value that PUT writes: one buffer, one checksum.
static const uint64_t put_pattern_seed = 0x6b7673746f7265;

static uint64_t next_random(uint64_t *state) {
    *state += 1;
    return mix64(*state);
}

static void expect_ok(const struct worker *worker, enum outcome outcome) {
    if (outcome == OUTCOME_OK) return;
    fail("%s: operation %llu answered %s: %s", worker->driver->name,
         (unsigned long long)worker->operation_count,
         outcome == OUTCOME_ABSENT        ? "absent"
         : outcome == OUTCOME_BUSY        ? "busy"
         : outcome == OUTCOME_NOT_DURABLE ? "not durable"
                                          : "a fault",
         worker->driver->fault(worker->connection));
}

static void expect_ends(const struct worker *worker, const uint8_t *bytes,
                        const struct value_key *key) {
    if (pattern_ends_match(bytes, worker->keys.value_byte_count, value_seed(key))) return;
    fail("%s: a value of %zu bytes is wrong", worker->driver->name, worker->keys.value_byte_count);
}

// Chooses the keys of the next operation: of a batch without an order, one after the other.
static void choose_keys(struct worker *worker, uint64_t *random_state, struct value_key *keys,
                        uint64_t *numbers) {
    const uint64_t key_count = worker->keys.key_count;
    const uint64_t turn = worker->operation_count * worker->number_stride + worker->first_number;
    const uint64_t first = worker->order == NULL
                               ? next_random(random_state) % key_count
                               : worker->first_position + turn * worker->batch_key_count;
    for (unsigned index = 0; index < worker->batch_key_count; index += 1) {
        const uint64_t place = (first + index) % key_count;
        numbers[index] = worker->order == NULL ? place : worker->order[place];
        keys[index] = key_set_key(&worker->keys, numbers[index]);
    }
}

static enum outcome get_and_check(struct worker *worker, uint64_t *elapsed_nanoseconds,
                                  uint64_t *random_state) {
    struct value_key key;
    uint64_t number;
    choose_keys(worker, random_state, &key, &number);
    const uint64_t start = clock_nanoseconds();
    const enum outcome outcome = worker->driver->get(worker->connection, &key, worker->buffer,
                                                     worker->keys.value_byte_count);
    *elapsed_nanoseconds = clock_nanoseconds() - start;
    if (outcome == OUTCOME_OK) expect_ends(worker, worker->buffer, &key);
    return outcome;
}

// Copies the value, or leaves it in place, and reads its ends: the value has been reached, not only
// named.
static void use_place(struct worker *worker, const uint8_t *place, const struct value_key *key) {
    if (worker->operation != OPERATION_LEASE) {
        memcpy(worker->buffer, place, worker->keys.value_byte_count);
        place = worker->buffer;
    }
    expect_ends(worker, place, key);
}

// Leases a batch of keys and uses each value.
static enum outcome lease_and_check(struct worker *worker, uint64_t *elapsed_nanoseconds,
                                    uint64_t *random_state) {
    struct value_key keys[BENCH_BATCH_KEY_COUNT_MAX];
    uint64_t numbers[BENCH_BATCH_KEY_COUNT_MAX];
    const uint8_t *places[BENCH_BATCH_KEY_COUNT_MAX];
    choose_keys(worker, random_state, keys, numbers);
    const uint64_t start = clock_nanoseconds();
    const enum outcome outcome = worker->driver->lease(
        worker->connection, keys, worker->batch_key_count, worker->keys.value_byte_count, places);
    if (outcome != OUTCOME_OK) return outcome;
    for (unsigned index = 0; index < worker->batch_key_count; index += 1) {
        use_place(worker, places[index], &keys[index]);
    }
    *elapsed_nanoseconds = clock_nanoseconds() - start;
    return outcome;
}

// The copies alone, of the same values in the same order.
static enum outcome copy_and_check(struct worker *worker, uint64_t *elapsed_nanoseconds,
                                   uint64_t *random_state) {
    struct value_key keys[BENCH_BATCH_KEY_COUNT_MAX];
    uint64_t numbers[BENCH_BATCH_KEY_COUNT_MAX];
    choose_keys(worker, random_state, keys, numbers);
    const uint64_t start = clock_nanoseconds();
    for (unsigned index = 0; index < worker->batch_key_count; index += 1) {
        use_place(worker, worker->places[numbers[index]], &keys[index]);
    }
    *elapsed_nanoseconds = clock_nanoseconds() - start;
    return OUTCOME_OK;
}

static uint64_t put_number(const struct worker *worker, uint64_t operation_index) {
    const uint64_t number = worker->first_number + operation_index * worker->number_stride;
    return worker->driver->immutable ? number : number % worker->keys.key_count;
}

static enum outcome put_next(struct worker *worker, uint64_t *elapsed_nanoseconds,
                             const struct value_source *source) {
    const struct value_key key =
        key_set_key(&worker->keys, put_number(worker, worker->operation_count));
    const uint64_t start = clock_nanoseconds();
    put_function *put = worker->operation == OPERATION_PUT_LOCAL ? worker->driver->put_local
                                                                 : worker->driver->put;
    const enum outcome outcome =
        worker->durable
            ? put_patiently(put, worker->connection, &key, source, &worker->busy_count)
            : put(worker->connection, &key, source);
    *elapsed_nanoseconds = clock_nanoseconds() - start;
    return outcome;
}

// Stores the next value of the set, if it is not there yet.
static enum outcome fill_next(struct worker *worker, uint64_t *elapsed_nanoseconds) {
    const struct value_key key =
        key_set_key(&worker->keys, put_number(worker, worker->operation_count));
    pattern_fill(worker->buffer, worker->keys.value_byte_count, value_seed(&key));
    const struct value_source source = {
        worker->buffer, worker->keys.value_byte_count,
        checksum_xxh3(worker->buffer, worker->keys.value_byte_count), worker->durable};
    const uint64_t start = clock_nanoseconds();
    const enum outcome outcome = put_patiently(worker->driver->put, worker->connection, &key,
                                               &source, &worker->busy_count);
    *elapsed_nanoseconds = clock_nanoseconds() - start;
    return outcome == OUTCOME_EXISTS ? OUTCOME_OK : outcome;
}

// Reads the next value of the set whole.
static enum outcome verify_next(struct worker *worker, uint64_t *elapsed_nanoseconds) {
    const uint64_t number = put_number(worker, worker->operation_count);
    const struct value_key key = key_set_key(&worker->keys, number);
    const uint64_t start = clock_nanoseconds();
    const enum outcome outcome = worker->driver->get(worker->connection, &key, worker->buffer,
                                                     worker->keys.value_byte_count);
    *elapsed_nanoseconds = clock_nanoseconds() - start;
    if (outcome == OUTCOME_OK &&
        !pattern_matches(worker->buffer, worker->keys.value_byte_count, value_seed(&key))) {
        fail("%s: value %llu of %zu bytes came back changed", worker->driver->name,
             (unsigned long long)number, worker->keys.value_byte_count);
    }
    return outcome;
}

static enum outcome operate(struct worker *worker, uint64_t *elapsed_nanoseconds,
                            uint64_t *random_state, const struct value_source *source) {
    switch (worker->operation) {
    case OPERATION_PING: {
        const uint64_t start = clock_nanoseconds();
        const enum outcome outcome = worker->driver->ping(worker->connection);
        *elapsed_nanoseconds = clock_nanoseconds() - start;
        return outcome;
    }
    case OPERATION_PUT:
    case OPERATION_PUT_LOCAL: return put_next(worker, elapsed_nanoseconds, source);
    case OPERATION_FILL: return fill_next(worker, elapsed_nanoseconds);
    case OPERATION_VERIFY: return verify_next(worker, elapsed_nanoseconds);
    case OPERATION_GET: return get_and_check(worker, elapsed_nanoseconds, random_state);
    case OPERATION_MEMCPY: return copy_and_check(worker, elapsed_nanoseconds, random_state);
    case OPERATION_LEASE:
    case OPERATION_LEASE_COPY: return lease_and_check(worker, elapsed_nanoseconds, random_state);
    }
    fail("unknown operation");
}

// Sleeps until the next operation is due; returns the time. A late worker does not catch up.
static uint64_t wait_for_pace(const struct worker *worker, uint64_t last_start_nanoseconds) {
    const uint64_t due = last_start_nanoseconds + worker->pace_nanoseconds;
    const struct timespec until = {.tv_sec = (time_t)(due / 1000000000u),
                                   .tv_nsec = (long)(due % 1000000000u)};
    if (worker->pace_nanoseconds > 0) {
        (void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    }
    return clock_nanoseconds();
}

static bool puts_fresh_values(const struct worker *worker) {
    return worker->operation == OPERATION_PUT || worker->operation == OPERATION_PUT_LOCAL;
}

static void *run(void *argument) {
    struct worker *worker = argument;
    uint64_t random_state = mix64(worker->random_seed);
    struct value_source source = {worker->buffer, worker->keys.value_byte_count, 0,
                                  worker->durable};
    if (puts_fresh_values(worker)) {
        source.checksum = checksum_xxh3(source.bytes, source.byte_count);
    }
    pthread_barrier_wait(worker->barrier);
    worker->start_nanoseconds = clock_nanoseconds();
    const uint64_t deadline = worker->start_nanoseconds + worker->duration_nanoseconds;
    uint64_t now = worker->start_nanoseconds;
    while (now < deadline && worker->operation_count < worker->operation_count_max) {
        uint64_t elapsed_nanoseconds = 0;
        expect_ok(worker, operate(worker, &elapsed_nanoseconds, &random_state, &source));
        histogram_add(&worker->histogram, elapsed_nanoseconds);
        worker->operation_count += 1;
        now = wait_for_pace(worker, now);
    }
    worker->end_nanoseconds = now;
    return NULL;
}

// Asks once for the place of every value. Nothing is written while places are used, so they stay.
static void collect_places(struct worker *worker) {
    worker->places = calloc(worker->keys.key_count, sizeof *worker->places);
    if (worker->places == NULL) fail("out of memory");
    for (uint64_t number = 0; number < worker->keys.key_count; number += 1) {
        const struct value_key key = key_set_key(&worker->keys, number);
        expect_ok(worker,
                  worker->driver->lease(worker->connection, &key, 1, worker->keys.value_byte_count,
                                        &worker->places[number]));
    }
}

void worker_start(struct worker *worker) {
    worker->buffer = memory_allocate(worker->keys.value_byte_count);
    if (worker->operation == OPERATION_MEMCPY) collect_places(worker);
    if (puts_fresh_values(worker)) {
        pattern_fill(worker->buffer, worker->keys.value_byte_count, put_pattern_seed);
    }
    if (pthread_create(&worker->thread, NULL, run, worker) != 0) fail("cannot start a thread");
}

void worker_check(struct worker *worker) {
    if (!puts_fresh_values(worker) || worker->operation_count == 0) return;
    const struct value_key key =
        key_set_key(&worker->keys, put_number(worker, worker->operation_count - 1));
    memset(worker->buffer, 0, worker->keys.value_byte_count);
    expect_ok(worker, worker->driver->get(worker->connection, &key, worker->buffer,
                                          worker->keys.value_byte_count));
    if (!pattern_matches(worker->buffer, worker->keys.value_byte_count, put_pattern_seed)) {
        fail("%s: the value put last came back changed", worker->driver->name);
    }
}
