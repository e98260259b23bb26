// SPDX-License-Identifier: Apache-2.0
//
// A key set: a fixed number of keys, together larger than the last cache, each with the value that
// belongs to it.
#ifndef KEYS_H
#define KEYS_H

#include "driver.h"

struct key_set {
    uint64_t salt;
    uint64_t key_count;
    size_t value_byte_count;
    uint64_t arena_base;  // where the reference's arena holds the first of them
};

// What tells the keys of one value size from those of another, in every run.
uint64_t key_set_salt(size_t value_byte_count);

// Bytes between two values of this size in the reference's arena.
size_t key_set_stride(size_t value_byte_count);

struct value_key key_set_key(const struct key_set *set, uint64_t number);

// What seeds the pattern of the key's value.
uint64_t value_seed(const struct value_key *key);

// Puts one value, again and again while the server is busy or its queue to stable storage is full,
// within limits. Such answers are counted.
typedef enum outcome put_function(struct connection *connection, const struct value_key *key,
                                  const struct value_source *source);
enum outcome put_patiently(put_function *put, struct connection *connection,
                           const struct value_key *key, const struct value_source *source,
                           uint64_t *busy_count);

// Stores the whole set, then reads every value back and compares every byte; ends the process on a
// difference.
void key_set_load(const struct key_set *set, const struct driver *driver,
                  struct connection *connection);

#endif
