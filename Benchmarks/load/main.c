// SPDX-License-Identifier: Apache-2.0
//
// The load client: measures one cell (one system, operation, size, number of connections) and
// prints one JSON row. Benchmarks/run.py calls it once per cell, system and round.
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker.h"

#define GIGABYTE 1e9

struct options {
    const struct driver *driver;
    struct endpoint endpoint;
    enum operation operation;
    const char *operation_name;
    size_t value_byte_count;
    unsigned connection_count;
    unsigned batch_key_count;
    size_t background_value_byte_count;
    unsigned background_connection_count;
    double seconds;
    uint64_t operation_count_max;
    uint64_t pace_microseconds;
    size_t key_set_mebibytes;
    uint64_t key_count_max;
    pid_t server_process;
    uint64_t seed;
};

static const char *const operation_names[] = {"ping",  "get",        "put",
                                              "lease", "lease-copy", "memcpy"};

static enum operation operation_named(const char *name) {
    for (size_t index = 0; index < sizeof operation_names / sizeof operation_names[0]; index += 1) {
        if (strcmp(operation_names[index], name) == 0) return (enum operation)index;
    }
    fail("no operation is called %s; there are ping, get, put, lease, lease-copy and memcpy", name);
}

static uint64_t number(const char *text, const char *name, uint64_t low, uint64_t high) {
    char *end = NULL;
    errno = 0;
    const uint64_t value = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < low || value > high) {
        fail("--%s takes a number from %llu to %llu, not %s", name, (unsigned long long)low,
             (unsigned long long)high, text);
    }
    return value;
}

static void take_option(struct options *options, const char *name, const char *text) {
    if (strcmp(name, "system") == 0)
        options->driver = driver_named(text);
    else if (strcmp(name, "unix-socket") == 0)
        options->endpoint.unix_path = text;
    else if (strcmp(name, "port") == 0)
        options->endpoint.port = (uint16_t)number(text, name, 1, 65535);
    else if (strcmp(name, "operation") == 0)
        options->operation_name = text;
    else if (strcmp(name, "value-bytes") == 0)
        options->value_byte_count = number(text, name, 1, BENCH_VALUE_BYTE_COUNT_MAX);
    else if (strcmp(name, "connections") == 0)
        options->connection_count = (unsigned)number(text, name, 1, BENCH_CONNECTION_COUNT_MAX);
    else if (strcmp(name, "batch") == 0)
        options->batch_key_count = (unsigned)number(text, name, 1, BENCH_BATCH_KEY_COUNT_MAX);
    else if (strcmp(name, "background-value-bytes") == 0)
        options->background_value_byte_count = number(text, name, 1, BENCH_VALUE_BYTE_COUNT_MAX);
    else if (strcmp(name, "background-connections") == 0)
        options->background_connection_count =
            (unsigned)number(text, name, 0, BENCH_CONNECTION_COUNT_MAX);
    else if (strcmp(name, "milliseconds") == 0)
        options->seconds = (double)number(text, name, 1, 600000) / 1000;
    else if (strcmp(name, "operations-max") == 0)
        options->operation_count_max = number(text, name, 1, UINT64_MAX);
    else if (strcmp(name, "key-set-mebibytes") == 0)
        options->key_set_mebibytes = number(text, name, 1, 65536);
    else if (strcmp(name, "keys-max") == 0)
        options->key_count_max = number(text, name, 1, 1 << 24);
    else if (strcmp(name, "pace-microseconds") == 0)
        options->pace_microseconds = number(text, name, 0, 1000000);
    else if (strcmp(name, "server-pid") == 0)
        options->server_process = (pid_t)number(text, name, 1, INT32_MAX);
    else
        options->seed = number(text, name, 0, UINT64_MAX);
}

static struct options parse_options(int argument_count, char **arguments) {
    static const char *const names[] = {"system",
                                        "unix-socket",
                                        "port",
                                        "operation",
                                        "value-bytes",
                                        "connections",
                                        "batch",
                                        "background-value-bytes",
                                        "background-connections",
                                        "milliseconds",
                                        "operations-max",
                                        "key-set-mebibytes",
                                        "keys-max",
                                        "pace-microseconds",
                                        "server-pid",
                                        "seed"};
    enum { NAME_COUNT = sizeof names / sizeof names[0] };
    struct option long_options[NAME_COUNT + 1] = {0};
    for (size_t index = 0; index < NAME_COUNT; index += 1) {
        long_options[index] = (struct option){names[index], required_argument, NULL, 0};
    }
    struct options options = {.endpoint = {.address = "127.0.0.1"},
                              .operation_name = "get",
                              .value_byte_count = (size_t)4 << 20,
                              .connection_count = 1,
                              .batch_key_count = 1,
                              .background_value_byte_count = (size_t)4 << 20,
                              .seconds = 0.5,
                              .operation_count_max = UINT64_MAX,
                              .key_set_mebibytes = 256,
                              .key_count_max = 4096};
    int option, index = 0;
    while ((option = getopt_long(argument_count, arguments, "", long_options, &index)) != -1) {
        if (option != 0) fail("unknown option; Benchmarks/load/main.c lists them");
        take_option(&options, names[index], optarg);
    }
    options.operation = operation_named(options.operation_name);
    if (options.driver == NULL) fail("--system is missing");
    if (options.operation < OPERATION_LEASE && options.batch_key_count != 1) {
        fail("--batch is for lease, lease-copy and memcpy");
    }
    if (options.endpoint.unix_path == NULL && options.endpoint.port == 0) {
        fail("give --port or --unix-socket");
    }
    return options;
}

static struct key_set make_key_set(const struct options *options, size_t value_byte_count) {
    struct key_set set = {.salt = mix64(value_byte_count), .value_byte_count = value_byte_count};
    set.key_count = (options->key_set_mebibytes << 20) / key_set_stride(value_byte_count);
    if (set.key_count > options->key_count_max) set.key_count = options->key_count_max;
    if (set.key_count == 0) set.key_count = 1;
    return set;
}

static struct connection *open_connection(const struct options *options) {
    const bool shared_memory = options->operation >= OPERATION_LEASE;
    if (shared_memory && (options->driver->lease == NULL || options->endpoint.unix_path == NULL)) {
        fail("%s needs --unix-socket and a system with shared memory", options->operation_name);
    }
    struct connection *connection = options->driver->open(&options->endpoint, shared_memory);
    if (connection == NULL)
        fail("cannot connect to %s: %s", options->driver->name, strerror(errno));
    return connection;
}

static void prepare_worker(struct worker *worker, const struct options *options, unsigned index,
                           const struct key_set *keys) {
    worker->driver = options->driver;
    worker->connection = open_connection(options);
    worker->operation = options->operation;
    worker->keys = *keys;
    worker->first_number = index;
    worker->number_stride = options->connection_count;
    worker->batch_key_count = options->batch_key_count;
    worker->random_seed = mix64(options->seed) + index * 0x100000001b3u;
    worker->duration_nanoseconds = (uint64_t)(options->seconds * 1e9);
    worker->operation_count_max = options->operation_count_max;
    if (worker->operation == OPERATION_PUT && options->driver->immutable) {
        worker->keys.salt = mix64(clock_nanoseconds());  // keys that nobody has put before
    }
}

struct totals {
    struct histogram histogram;
    uint64_t operation_count;
    double byte_count;
    double elapsed_seconds;
};

static void sum_workers(const struct worker *workers, unsigned worker_count,
                        struct totals *totals) {
    uint64_t first_start = UINT64_MAX, last_end = 0;
    for (unsigned index = 0; index < worker_count; index += 1) {
        const struct worker *worker = &workers[index];
        histogram_merge(&totals->histogram, &worker->histogram);
        totals->operation_count += worker->operation_count;
        if (worker->operation != OPERATION_PING) {
            totals->byte_count += (double)(worker->operation_count * worker->batch_key_count) *
                                  (double)worker->keys.value_byte_count;
        }
        if (worker->start_nanoseconds < first_start) first_start = worker->start_nanoseconds;
        if (worker->end_nanoseconds > last_end) last_end = worker->end_nanoseconds;
    }
    if (worker_count > 0) totals->elapsed_seconds = (double)(last_end - first_start) / 1e9;
}

static double per_second(const struct totals *totals) {
    return totals->elapsed_seconds > 0 ? totals->byte_count / GIGABYTE / totals->elapsed_seconds
                                       : 0;
}

static void print_row(const struct options *options, const struct totals *front,
                      const struct totals *background, double server_cpu_seconds) {
    const double gigabytes = (front->byte_count + background->byte_count) / GIGABYTE;
    const double operations = (double)(front->operation_count + background->operation_count);
    printf(
        "{\"system\": \"%s\", \"operation\": \"%s\", \"transport\": \"%s\", \"value_bytes\": %zu, "
        "\"connections\": %u, \"batch\": %u, \"operations\": %llu, \"elapsed_seconds\": %.6f, ",
        options->driver->name, options->operation_name,
        options->endpoint.unix_path != NULL ? "unix" : "tcp", options->value_byte_count,
        options->connection_count, options->batch_key_count,
        (unsigned long long)front->operation_count, front->elapsed_seconds);
    printf(
        "\"gigabytes_per_second\": %.4f, \"p50_microseconds\": %.2f, \"p99_microseconds\": %.2f, "
        "\"p999_microseconds\": %.2f, ",
        per_second(front), histogram_microseconds(&front->histogram, 0.5),
        histogram_microseconds(&front->histogram, 0.99),
        histogram_microseconds(&front->histogram, 0.999));
    if (options->server_process > 0 && gigabytes > 0) {
        printf("\"server_cpu_seconds_per_gigabyte\": %.5f, ", server_cpu_seconds / gigabytes);
    } else {
        printf("\"server_cpu_seconds_per_gigabyte\": null, ");
    }
    printf("\"server_cpu_microseconds_per_operation\": %.3f, \"background_connections\": %u, "
           "\"background_value_bytes\": %zu, \"background_gigabytes_per_second\": %.4f}\n",
           operations > 0 ? server_cpu_seconds * 1e6 / operations : 0,
           options->background_connection_count, options->background_value_byte_count,
           per_second(background));
}

// Loads the key sets that will be read. PUT of immutable values brings its own keys; other systems'
// memory is touched once, so that first use of fresh pages is not measured.
static void load_key_sets(const struct options *options, const struct key_set *front,
                          const struct key_set *background) {
    if (options->operation == OPERATION_PING) return;
    if (options->operation == OPERATION_PUT && options->driver->immutable) return;
    struct connection *connection = options->driver->open(&options->endpoint, false);
    if (connection == NULL)
        fail("cannot connect to %s: %s", options->driver->name, strerror(errno));
    key_set_load(front, options->driver, connection);
    if (options->background_connection_count > 0) {
        key_set_load(background, options->driver, connection);
    }
    options->driver->close(connection);
}

int main(int argument_count, char **arguments) {
    const struct options options = parse_options(argument_count, arguments);
    signal(SIGPIPE, SIG_IGN);
    const struct key_set front_keys = make_key_set(&options, options.value_byte_count);
    struct key_set background_keys = make_key_set(&options, options.background_value_byte_count);
    background_keys.salt = mix64(background_keys.salt);
    background_keys.arena_base = front_keys.key_count * key_set_stride(options.value_byte_count);
    load_key_sets(&options, &front_keys, &background_keys);

    const unsigned worker_count = options.connection_count + options.background_connection_count;
    struct worker *workers = calloc(worker_count, sizeof *workers);
    struct totals *totals = calloc(2, sizeof *totals);
    if (workers == NULL || totals == NULL) fail("out of memory");
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, worker_count + 1);
    for (unsigned index = 0; index < worker_count; index += 1) {
        struct worker *worker = &workers[index];
        const bool is_front = index < options.connection_count;
        prepare_worker(worker, &options, index, is_front ? &front_keys : &background_keys);
        if (is_front) worker->pace_nanoseconds = options.pace_microseconds * 1000;
        if (!is_front) worker->operation_count_max = UINT64_MAX;
        worker->barrier = &barrier;
        worker_start(worker);
    }
    const uint64_t cpu_before = process_cpu_nanoseconds(options.server_process);
    pthread_barrier_wait(&barrier);
    for (unsigned index = 0; index < worker_count; index += 1)
        pthread_join(workers[index].thread, NULL);
    const uint64_t cpu_after = process_cpu_nanoseconds(options.server_process);
    for (unsigned index = 0; index < worker_count; index += 1)
        worker_check(&workers[index]);
    sum_workers(workers, options.connection_count, &totals[0]);
    sum_workers(workers + options.connection_count, options.background_connection_count,
                &totals[1]);
    const double cpu_seconds = (double)(cpu_after - cpu_before) / 1e9;
    print_row(&options, &totals[0], &totals[1], options.server_process > 0 ? cpu_seconds : 0);
    return 0;
}
