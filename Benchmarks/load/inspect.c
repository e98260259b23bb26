// SPDX-License-Identifier: Apache-2.0
#include "inspect.h"

#include <stdio.h>

static void expect_answer(const struct driver *driver, const struct connection *connection,
                          enum outcome outcome, const char *question) {
    if (outcome == OUTCOME_OK) return;
    fail("%s did not answer %s: %s", driver->name, question, driver->fault(connection));
}

void inspect_counters(const struct driver *driver, struct connection *connection) {
    if (driver->stat == NULL) fail("%s has no counters to ask for", driver->name);
    expect_answer(driver, connection, driver->stat(connection, stdout), "stat");
}

void inspect_presence(const struct driver *driver, struct connection *connection,
                      const struct key_set *set) {
    if (driver->lookup == NULL) fail("%s cannot be asked which keys it has", driver->name);
    const uint64_t start = clock_nanoseconds();
    uint64_t present_count = 0;
    for (uint64_t number = 0; number < set->key_count; number += BENCH_BATCH_KEY_COUNT_MAX) {
        struct value_key keys[BENCH_BATCH_KEY_COUNT_MAX];
        unsigned key_count = 0, batch_present_count = 0;
        while (key_count < BENCH_BATCH_KEY_COUNT_MAX && number + key_count < set->key_count) {
            keys[key_count] = key_set_key(set, number + key_count);
            key_count += 1;
        }
        expect_answer(driver, connection,
                      driver->lookup(connection, keys, key_count, &batch_present_count), "lookup");
        present_count += batch_present_count;
    }
    printf("{\"keys\": %llu, \"present\": %llu, \"seconds\": %.3f}\n",
           (unsigned long long)set->key_count, (unsigned long long)present_count,
           (double)(clock_nanoseconds() - start) / 1e9);
}
