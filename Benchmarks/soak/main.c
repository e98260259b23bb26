// SPDX-License-Identifier: Apache-2.0
//
// The soak client: holds many idle connections while random puts, gets and deletes run on a few
// others, checks every byte that comes back, and watches the server's resident memory. The work is
// bounded by a count.
#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "../load/driver.h"
#include "../load/keys.h"
#include "checksum.h"

enum {
    IDLE_CONNECTION_COUNT_MAX = 100000,
    ACTIVE_CONNECTION_COUNT_MAX = 64,
    REMEMBERED_KEY_COUNT = 4096,  // what one active connection reads back or deletes
    CONNECTIONS_PER_ADDRESS = 5000,
    SAMPLE_PAUSE_NANOSECONDS = 50000000,
    DESCRIPTORS_BESIDE_IDLE = 256,
};

// Resident memory may exceed the store's budget by this much.
#define ALLOWANCE_BYTE_COUNT ((uint64_t)64 << 20)

struct options {
    const struct driver *driver;
    struct endpoint endpoint;
    unsigned idle_connection_count;
    unsigned connection_count;
    uint64_t operation_count;
    size_t value_byte_count_max;
    uint64_t budget_byte_count;
    pid_t server_process;
    uint64_t seed;
};

struct counts {
    uint64_t puts, puts_busy, gets, gets_absent, deletes, put_byte_count, get_byte_count;
};

struct remembered {
    uint64_t number;
    size_t byte_count;
};

struct active {
    const struct options *options;
    struct connection *connection;
    pthread_t thread;
    uint64_t operation_count;
    uint64_t random_state;
    struct counts counts;
    struct key_set keys;
    uint64_t next_number;
    struct remembered remembered[REMEMBERED_KEY_COUNT];
    size_t remembered_count;
    uint8_t *buffer;
};

static _Atomic unsigned running_count;

static uint64_t next_random(struct active *active) {
    active->random_state += 1;
    return mix64(active->random_state);
}

// Sizes from 1 byte to the largest, each octave as likely as another.
static size_t random_byte_count(struct active *active) {
    const size_t highest = active->options->value_byte_count_max;
    unsigned octave_count = 0;
    while (octave_count < 63 && ((size_t)2 << octave_count) <= highest)
        octave_count += 1;
    const size_t low = (size_t)1 << (next_random(active) % (octave_count + 1));
    const size_t byte_count = low + next_random(active) % low;
    return byte_count < highest ? byte_count : highest;
}

static _Noreturn void fail_operation(const struct active *active, const char *what) {
    fail("%s failed: %s", what, active->options->driver->fault(active->connection));
}

static void put_random(struct active *active) {
    const struct remembered new = {active->next_number, random_byte_count(active)};
    active->next_number += 1;
    const struct value_key key = key_set_key(&active->keys, new.number);
    pattern_fill(active->buffer, new.byte_count, value_seed(&key));
    const struct value_source source = {active->buffer, new.byte_count,
                                        checksum_xxh3(active->buffer, new.byte_count), false};
    const enum outcome outcome = active->options->driver->put(active->connection, &key, &source);
    if (outcome == OUTCOME_BUSY) {
        active->counts.puts_busy += 1;
        return;
    }
    if (outcome != OUTCOME_OK) fail_operation(active, "put");
    active->counts.puts += 1;
    active->counts.put_byte_count += new.byte_count;
    size_t slot = active->remembered_count;
    if (slot < REMEMBERED_KEY_COUNT)
        active->remembered_count += 1;
    else
        slot = next_random(active) % REMEMBERED_KEY_COUNT;
    active->remembered[slot] = new;
}

static void get_random(struct active *active) {
    const struct remembered old =
        active->remembered[next_random(active) % active->remembered_count];
    const struct value_key key = key_set_key(&active->keys, old.number);
    const enum outcome outcome =
        active->options->driver->get(active->connection, &key, active->buffer, old.byte_count);
    active->counts.gets += 1;
    if (outcome == OUTCOME_ABSENT) {
        active->counts.gets_absent += 1;
        return;
    }
    if (outcome != OUTCOME_OK) fail_operation(active, "get");
    active->counts.get_byte_count += old.byte_count;
    if (!pattern_matches(active->buffer, old.byte_count, value_seed(&key))) {
        fail("a value of %zu bytes came back changed", old.byte_count);
    }
}

static void delete_random(struct active *active) {
    const size_t slot = next_random(active) % active->remembered_count;
    const struct value_key key = key_set_key(&active->keys, active->remembered[slot].number);
    const enum outcome outcome = active->options->driver->delete(active->connection, &key);
    if (outcome != OUTCOME_OK && outcome != OUTCOME_ABSENT) fail_operation(active, "delete");
    active->counts.deletes += 1;
    active->remembered_count -= 1;
    active->remembered[slot] = active->remembered[active->remembered_count];
}

static void *run(void *argument) {
    struct active *active = argument;
    for (uint64_t done = 0; done < active->operation_count; done += 1) {
        const unsigned choice = (unsigned)(next_random(active) % 100);
        if (choice < 50 || active->remembered_count == 0)
            put_random(active);
        else if (choice < 90 || active->options->driver->delete == NULL)
            get_random(active);
        else
            delete_random(active);
    }
    atomic_fetch_sub(&running_count, 1);
    return NULL;
}

static struct connection **open_idle(const struct options *options) {
    const rlim_t needed = options->idle_connection_count + DESCRIPTORS_BESIDE_IDLE;
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur < needed) {
        limit.rlim_cur = needed;
        if (limit.rlim_max < needed) limit.rlim_max = needed;
        if (setrlimit(RLIMIT_NOFILE, &limit) != 0) {
            fail("%llu descriptors are needed; raise `ulimit -n`", (unsigned long long)needed);
        }
    }
    struct connection **idle = calloc(options->idle_connection_count + 1, sizeof *idle);
    if (idle == NULL) fail("out of memory");
    for (unsigned index = 0; index < options->idle_connection_count; index += 1) {
        char source_address[32];
        snprintf(source_address, sizeof source_address, "127.0.0.%u",
                 2 + index / CONNECTIONS_PER_ADDRESS);
        struct endpoint endpoint = options->endpoint;
        if (endpoint.unix_path == NULL) endpoint.source_address = source_address;
        idle[index] = options->driver->open(&endpoint, false);
        if (idle[index] == NULL) fail("idle connection %u: %s", index, strerror(errno));
    }
    return idle;
}

static unsigned count_alive(const struct options *options, struct connection **idle) {
    unsigned alive_count = 0;
    for (unsigned index = 0; index < options->idle_connection_count; index += 1) {
        if (options->driver->ping(idle[index]) == OUTCOME_OK) alive_count += 1;
    }
    return alive_count;
}

static void start_active(struct active *active, const struct options *options, unsigned index) {
    active->options = options;
    active->connection = options->driver->open(&options->endpoint, false);
    if (active->connection == NULL) fail("cannot connect: %s", strerror(errno));
    active->operation_count = options->operation_count / options->connection_count;
    active->random_state = mix64(options->seed + index);
    active->keys.salt = mix64(clock_nanoseconds() + index);
    active->keys.key_count = 1;  // places in the reference's arena, which has no part here
    active->keys.value_byte_count = options->value_byte_count_max;
    active->buffer = memory_allocate(options->value_byte_count_max);
    if (pthread_create(&active->thread, NULL, run, active) != 0) fail("cannot start a thread");
}

static uint64_t watch_memory(const struct options *options, uint64_t highest) {
    const struct timespec pause = {.tv_nsec = SAMPLE_PAUSE_NANOSECONDS};
    for (;;) {
        const uint64_t now = process_memory_bytes(options->server_process, "VmRSS");
        if (now > highest) highest = now;
        if (atomic_load(&running_count) == 0) return highest;
        nanosleep(&pause, NULL);
    }
}

static void take_option(struct options *options, char letter, const char *text) {
    const uint64_t number = strtoull(text, NULL, 10);
    switch (letter) {
    case 's': options->driver = driver_named(text); break;
    case 'u': options->endpoint.unix_path = text; break;
    case 'p': options->endpoint.port = (uint16_t)number; break;
    case 'i': options->idle_connection_count = (unsigned)number; break;
    case 'c': options->connection_count = (unsigned)number; break;
    case 'o': options->operation_count = number; break;
    case 'v': options->value_byte_count_max = number; break;
    case 'm': options->budget_byte_count = number << 20; break;
    case 'P': options->server_process = (pid_t)number; break;
    case 'S': options->seed = number; break;
    default: fail("unknown option; Benchmarks/soak/main.c lists them");
    }
}

static struct options parse_options(int argument_count, char **arguments) {
    static const struct option long_options[] = {{"system", required_argument, NULL, 's'},
                                                 {"unix-socket", required_argument, NULL, 'u'},
                                                 {"port", required_argument, NULL, 'p'},
                                                 {"idle-connections", required_argument, NULL, 'i'},
                                                 {"connections", required_argument, NULL, 'c'},
                                                 {"operations", required_argument, NULL, 'o'},
                                                 {"value-bytes-max", required_argument, NULL, 'v'},
                                                 {"memory-mebibytes", required_argument, NULL, 'm'},
                                                 {"server-pid", required_argument, NULL, 'P'},
                                                 {"seed", required_argument, NULL, 'S'},
                                                 {NULL, 0, NULL, 0}};
    struct options options = {.driver = &kvstore_driver,
                              .endpoint = {.address = "127.0.0.1"},
                              .connection_count = 4,
                              .operation_count = 10000,
                              .value_byte_count_max = (size_t)4 << 20,
                              .budget_byte_count = (uint64_t)1 << 30};
    int option;
    while ((option = getopt_long(argument_count, arguments, "", long_options, NULL)) != -1) {
        take_option(&options, (char)option, optarg);
    }
    if (options.driver == &reference_driver) fail("the reference keeps no keys: it is no store");
    if (options.server_process <= 0) fail("--server-pid is missing");
    if (options.idle_connection_count > IDLE_CONNECTION_COUNT_MAX ||
        options.connection_count == 0 || options.connection_count > ACTIVE_CONNECTION_COUNT_MAX ||
        options.value_byte_count_max == 0 ||
        options.value_byte_count_max > BENCH_VALUE_BYTE_COUNT_MAX) {
        fail("a count or size is out of range");
    }
    return options;
}

int main(int argument_count, char **arguments) {
    const struct options options = parse_options(argument_count, arguments);
    signal(SIGPIPE, SIG_IGN);
    const uint64_t memory_before = process_memory_bytes(options.server_process, "VmRSS");
    struct connection **idle = open_idle(&options);
    const uint64_t memory_idle = process_memory_bytes(options.server_process, "VmRSS");
    struct active *actives = calloc(options.connection_count, sizeof *actives);
    if (actives == NULL) fail("out of memory");
    atomic_store(&running_count, options.connection_count);
    for (unsigned index = 0; index < options.connection_count; index += 1) {
        start_active(&actives[index], &options, index);
    }
    const uint64_t memory_highest = watch_memory(&options, memory_idle);
    struct counts sum = {0};
    for (unsigned index = 0; index < options.connection_count; index += 1) {
        pthread_join(actives[index].thread, NULL);
        const struct counts *counts = &actives[index].counts;
        sum.puts += counts->puts;
        sum.puts_busy += counts->puts_busy;
        sum.gets += counts->gets;
        sum.gets_absent += counts->gets_absent;
        sum.deletes += counts->deletes;
        sum.put_byte_count += counts->put_byte_count;
        sum.get_byte_count += counts->get_byte_count;
    }
    const unsigned alive_count = count_alive(&options, idle);
    const uint64_t limit = options.budget_byte_count + ALLOWANCE_BYTE_COUNT;
    const bool kept = memory_highest > 0 && memory_highest <= limit &&
                      alive_count == options.idle_connection_count;
    printf("{\"system\": \"%s\", \"idle_connections\": %u, \"idle_connections_alive\": %u, "
           "\"puts\": %llu, \"puts_busy\": %llu, \"gets\": %llu, \"gets_absent\": %llu, "
           "\"deletes\": %llu, \"put_bytes\": %llu, \"get_bytes\": %llu, ",
           options.driver->name, options.idle_connection_count, alive_count,
           (unsigned long long)sum.puts, (unsigned long long)sum.puts_busy,
           (unsigned long long)sum.gets, (unsigned long long)sum.gets_absent,
           (unsigned long long)sum.deletes, (unsigned long long)sum.put_byte_count,
           (unsigned long long)sum.get_byte_count);
    printf("\"resident_bytes_before\": %llu, \"resident_bytes_idle\": %llu, "
           "\"resident_bytes_highest\": %llu, \"resident_bytes_limit\": %llu, \"kept\": %s}\n",
           (unsigned long long)memory_before, (unsigned long long)memory_idle,
           (unsigned long long)memory_highest, (unsigned long long)limit, kept ? "true" : "false");
    return kept ? 0 : 1;
}
