// SPDX-License-Identifier: Apache-2.0
//
// The smallest test frame that serves: named cases, checks that count, a stub server per case.
#ifndef CHECK_H
#define CHECK_H

#include "kvstore.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern int check_failure_count;
extern const char *check_case_name;

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            check_failure_count += 1; \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, check_case_name, #condition); \
        } \
    } while (0)

/// Compares statuses and shows both.
#define CHECK_STATUS(expression, expected) \
    check_status((expression), (expected), #expression, __FILE__, __LINE__)
void check_status(kvs_status status, kvs_status expected, const char *text, const char *file,
                  int line);

/// A stub server in a process of its own, or the daemon under test.
struct server {
    int process_id;  // 0: not ours
    int input;       // closing it ends the stub
    char unix_address[160];
    char tcp_address[64];
};

/// Starts Tests/C/stub_server.py with a behaviour and waits until it listens.
struct server server_start(const char *behaviour);
void server_stop(struct server *server);
/// The daemon named by the environment, if any.
bool server_under_test(struct server *server);

/// A client that must open.
kvs_client *open_client(const char *address, uint32_t flags, uint32_t deadline_milliseconds);

kvs_key key_numbered(uint32_t number);
uint64_t now_milliseconds(void);
/// Fills with bytes that depend on the seed.
void fill(uint8_t *bytes, size_t byte_count, uint32_t seed);
void parse_hex(const char *text, uint8_t *bytes, size_t byte_count);

// The cases, by file.
void test_keys(void);
void test_wire(void);
void test_vectors(void);
void test_honest(void);
void test_shared(void);
void test_streaming(void);
void test_hostile(void);
void test_deadlines(void);
void test_back_off(void);
void test_fork(void);
void test_queue(void);
void test_daemon(void);
void test_codec(void);

// Bodies that run against the stub and against the daemon.
void exercise_client(kvs_client *client, uint32_t seed);
void exercise_leases(kvs_client *client, uint32_t seed);
void exercise_fork(const char *address, uint32_t seed);
void exercise_queue(const char *address, uint32_t seed);

#endif
