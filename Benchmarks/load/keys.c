// SPDX-License-Identifier: Apache-2.0
#include "keys.h"

#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "checksum.h"

enum { BUSY_ATTEMPT_COUNT_MAX = 10000, BUSY_PAUSE_NANOSECONDS = 1000000 };

uint64_t key_set_salt(size_t value_byte_count) { return mix64(value_byte_count); }

size_t key_set_stride(size_t value_byte_count) { return (value_byte_count + 4095) & ~(size_t)4095; }

struct value_key key_set_key(const struct key_set *set, uint64_t number) {
    struct value_key key = {.arena_offset =
                                set->arena_base +
                                (number % set->key_count) * key_set_stride(set->value_byte_count)};
    for (uint64_t word_index = 0; word_index < sizeof key.bytes / 8; word_index += 1) {
        const uint64_t word = mix64(set->salt ^ mix64(number * 4 + word_index));
        memcpy(key.bytes + word_index * 8, &word, 8);
    }
    return key;
}

uint64_t value_seed(const struct value_key *key) {
    uint64_t seed;
    memcpy(&seed, key->bytes, sizeof seed);
    return seed;
}

enum outcome put_patiently(put_function *put, struct connection *connection,
                           const struct value_key *key, const struct value_source *source,
                           uint64_t *busy_count) {
    const struct timespec pause = {.tv_nsec = BUSY_PAUSE_NANOSECONDS};
    bool was_stored = false;
    for (int attempt = 1;; attempt += 1) {
        const enum outcome outcome = put(connection, key, source);
        // What an earlier attempt stored exists; by now, on stable storage too.
        if (outcome == OUTCOME_EXISTS && was_stored) return OUTCOME_OK;
        if (outcome != OUTCOME_BUSY && outcome != OUTCOME_NOT_DURABLE) return outcome;
        was_stored = was_stored || outcome == OUTCOME_NOT_DURABLE;
        *busy_count += 1;
        if (attempt == BUSY_ATTEMPT_COUNT_MAX) return outcome;
        nanosleep(&pause, NULL);
    }
}

void key_set_load(const struct key_set *set, const struct driver *driver,
                  struct connection *connection) {
    uint64_t busy_count = 0;
    uint8_t *bytes = memory_allocate(set->value_byte_count);
    for (uint64_t number = 0; number < set->key_count; number += 1) {
        const struct value_key key = key_set_key(set, number);
        pattern_fill(bytes, set->value_byte_count, value_seed(&key));
        const struct value_source source = {bytes, set->value_byte_count,
                                            checksum_xxh3(bytes, set->value_byte_count), false};
        const enum outcome outcome =
            put_patiently(driver->put, connection, &key, &source, &busy_count);
        if (outcome != OUTCOME_OK && outcome != OUTCOME_EXISTS) {
            fail("%s: cannot store value %llu of %zu bytes: %s", driver->name,
                 (unsigned long long)number, set->value_byte_count, driver->fault(connection));
        }
    }
    for (uint64_t number = 0; number < set->key_count; number += 1) {
        const struct value_key key = key_set_key(set, number);
        memset(bytes, 0, set->value_byte_count);
        if (driver->get(connection, &key, bytes, set->value_byte_count) != OUTCOME_OK) {
            fail("%s: value %llu of %zu bytes is not there: %s", driver->name,
                 (unsigned long long)number, set->value_byte_count, driver->fault(connection));
        }
        if (!pattern_matches(bytes, set->value_byte_count, value_seed(&key))) {
            fail("%s: value %llu of %zu bytes came back changed", driver->name,
                 (unsigned long long)number, set->value_byte_count);
        }
    }
    munmap(bytes, set->value_byte_count);
}
