// SPDX-License-Identifier: Apache-2.0
//
// The load client: measures one cell (one system, operation, size, number of connections) and
// prints one JSON row. Benchmarks/run.py and ssd.py call it once per cell, system and round.
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "inspect.h"
#include "worker.h"

#define GIGABYTE 1e9
#define WHOLE_SET_NANOSECONDS_MAX (UINT64_C(3600) * 1000000000u)

// What is asked once instead of an operation that is measured.
enum question { QUESTION_NONE, QUESTION_STAT, QUESTION_LOOKUP };

struct options {
    const struct driver *driver;
    struct endpoint endpoint;
    enum question question;
    enum operation operation;
    enum operation background_operation;
    const char *operation_name;
    size_t value_byte_count;
    unsigned connection_count;
    unsigned batch_key_count;
    bool key_set_is_stored;  // by an earlier call: neither stored nor compared again
    bool durable;            // PUTs are answered when on stable storage
    uint64_t order_seed;     // of the order in which keys are read; 0: any key at any time
    uint64_t first_position;
    const char *background_operation_name;  // null: the operation that is measured
    size_t background_value_byte_count;
    unsigned background_connection_count;
    double seconds;
    uint64_t operation_count_max;
    uint64_t pace_microseconds;
    size_t key_set_mebibytes;
    uint64_t key_count_max;
    uint64_t key_count;  // 0: what fits the key set's mebibytes
    pid_t server_process;
    uint64_t seed;
};

// In the order of `enum operation`.
static const char *const operation_names[] = {"ping",   "get",       "put",   "fill",
                                              "verify", "put-local", "lease", "lease-copy",
                                              "memcpy"};

static enum operation operation_named(const char *name) {
    for (size_t index = 0; index < sizeof operation_names / sizeof operation_names[0]; index += 1) {
        if (strcmp(operation_names[index], name) == 0) return (enum operation)index;
    }
    fail("no operation is called %s; Benchmarks/load/main.c lists them", name);
}

static enum question question_named(const char *name) {
    if (strcmp(name, "stat") == 0) return QUESTION_STAT;
    return strcmp(name, "lookup") == 0 ? QUESTION_LOOKUP : QUESTION_NONE;
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

// True for `yes`, false for `no`.
static bool choice(const char *text, const char *name, const char *yes, const char *no) {
    const bool chosen = strcmp(text, yes) == 0;
    if (!chosen && strcmp(text, no) != 0) fail("--%s is %s or %s, not %s", name, yes, no, text);
    return chosen;
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
    else if (strcmp(name, "key-set") == 0)
        options->key_set_is_stored = choice(text, name, "stored", "load");
    else if (strcmp(name, "key-count") == 0)
        options->key_count = number(text, name, 1, UINT32_MAX);
    else if (strcmp(name, "acknowledge") == 0)
        options->durable = choice(text, name, "ssd", "memory");
    else if (strcmp(name, "order-seed") == 0)
        options->order_seed = number(text, name, 1, UINT64_MAX);
    else if (strcmp(name, "first-position") == 0)
        options->first_position = number(text, name, 0, UINT64_MAX);
    else if (strcmp(name, "background-operation") == 0)
        options->background_operation_name = text;
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
                                        "key-set",
                                        "key-count",
                                        "acknowledge",
                                        "order-seed",
                                        "first-position",
                                        "background-operation",
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
    if (options.driver == NULL) fail("--system is missing");
    if (options.durable && strcmp(options.driver->name, "kvstore") != 0) {
        fail("--acknowledge ssd is for kvstore alone");
    }
    options.question = question_named(options.operation_name);
    if (options.question == QUESTION_NONE) {
        options.operation = operation_named(options.operation_name);
    }
    options.background_operation = options.background_operation_name == NULL
                                       ? options.operation
                                       : operation_named(options.background_operation_name);
    if (options.operation < OPERATION_LEASE && options.batch_key_count != 1) {
        fail("--batch is for lease, lease-copy and memcpy");
    }
    if (options.endpoint.unix_path == NULL && options.endpoint.port == 0) {
        fail("give --port or --unix-socket");
    }
    return options;
}

static struct key_set make_key_set(const struct options *options, size_t value_byte_count) {
    struct key_set set = {.salt = key_set_salt(value_byte_count),
                          .value_byte_count = value_byte_count};
    set.key_count = (options->key_set_mebibytes << 20) / key_set_stride(value_byte_count);
    if (set.key_count > options->key_count_max) set.key_count = options->key_count_max;
    if (set.key_count == 0) set.key_count = 1;
    if (options->key_count > 0) set.key_count = options->key_count;
    return set;
}

static struct connection *open_connection(const struct options *options, bool shared_memory) {
    if (shared_memory && (options->driver->lease == NULL || options->endpoint.unix_path == NULL)) {
        fail("%s needs --unix-socket and a system with shared memory", options->operation_name);
    }
    // With both addresses given, only what needs the Unix socket takes it.
    struct endpoint endpoint = options->endpoint;
    if (!shared_memory && endpoint.port != 0) endpoint.unix_path = NULL;
    struct connection *connection = options->driver->open(&endpoint, shared_memory);
    if (connection == NULL)
        fail("cannot connect to %s: %s", options->driver->name, strerror(errno));
    return connection;
}

// The numbers 0 ..< key count in an order that the seed decides (Fisher and Yates).
static const uint32_t *make_order(uint64_t key_count, uint64_t seed) {
    uint32_t *order = calloc(key_count, sizeof *order);
    if (order == NULL) fail("out of memory");
    for (uint64_t place = 0; place < key_count; place += 1) {
        const uint64_t other = mix64(seed + place) % (place + 1);
        order[place] = order[other];
        order[other] = (uint32_t)place;
    }
    return order;
}

static void prepare_worker(struct worker *worker, const struct options *options, unsigned index,
                           const struct key_set *keys) {
    const bool is_front = index < options->connection_count;
    worker->driver = options->driver;
    worker->operation = is_front ? options->operation : options->background_operation;
    worker->connection = open_connection(options, worker->operation >= OPERATION_PUT_LOCAL);
    worker->keys = *keys;
    worker->first_number = is_front ? index : index - options->connection_count;
    worker->number_stride =
        is_front ? options->connection_count : options->background_connection_count;
    worker->batch_key_count = is_front ? options->batch_key_count : 1;
    worker->durable = options->durable;
    worker->random_seed = mix64(options->seed) + index * 0x100000001b3u;
    worker->duration_nanoseconds = (uint64_t)(options->seconds * 1e9);
    worker->operation_count_max = options->operation_count_max;
    const bool puts =
        worker->operation == OPERATION_PUT || worker->operation == OPERATION_PUT_LOCAL;
    if (worker->operation == OPERATION_PUT_LOCAL && options->driver->put_local == NULL) {
        fail("%s takes no values through shared memory", options->driver->name);
    }
    if (puts && options->driver->immutable) {
        worker->keys.salt = mix64(clock_nanoseconds());  // keys that nobody has put before
    }
    if (worker->operation == OPERATION_FILL || worker->operation == OPERATION_VERIFY) {
        // Once through the set, whatever the time.
        worker->operation_count_max =
            (keys->key_count + worker->number_stride - 1 - worker->first_number) /
            worker->number_stride;
        worker->duration_nanoseconds = WHOLE_SET_NANOSECONDS_MAX;
    }
    worker->pace_nanoseconds = is_front ? options->pace_microseconds * 1000 : 0;
    if (!is_front) worker->operation_count_max = UINT64_MAX;
}

struct totals {
    struct histogram histogram;
    uint64_t operation_count;
    uint64_t busy_count;
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
        totals->busy_count += worker->busy_count;
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
        options->operation >= OPERATION_PUT_LOCAL || options->endpoint.port == 0 ? "unix" : "tcp",
        options->value_byte_count, options->connection_count, options->batch_key_count,
        (unsigned long long)front->operation_count, front->elapsed_seconds);
    printf(
        "\"gigabytes_per_second\": %.4f, \"p50_microseconds\": %.2f, \"p99_microseconds\": %.2f, "
        "\"p999_microseconds\": %.2f, \"busy\": %llu, ",
        per_second(front), histogram_microseconds(&front->histogram, 0.5),
        histogram_microseconds(&front->histogram, 0.99),
        histogram_microseconds(&front->histogram, 0.999),
        (unsigned long long)(front->busy_count + background->busy_count));
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

// Whether values must be stored before the operation. PUT of immutable values brings its own keys;
// other systems' memory is touched once, so that first use of fresh pages is not measured.
static bool needs_key_set(const struct options *options, enum operation operation) {
    switch (operation) {
    case OPERATION_PING:
    case OPERATION_FILL:
    case OPERATION_VERIFY: return false;
    case OPERATION_PUT:
    case OPERATION_PUT_LOCAL: return !options->driver->immutable;
    case OPERATION_GET:
    case OPERATION_LEASE:
    case OPERATION_LEASE_COPY:
    case OPERATION_MEMCPY: return !options->key_set_is_stored;
    }
    fail("unknown operation");
}

static void load_key_sets(const struct options *options, const struct key_set *front,
                          const struct key_set *background) {
    const bool front_is_needed = needs_key_set(options, options->operation);
    const bool background_is_needed = options->background_connection_count > 0 &&
                                      needs_key_set(options, options->background_operation);
    if (!front_is_needed && !background_is_needed) return;
    struct connection *connection = open_connection(options, false);
    if (front_is_needed) key_set_load(front, options->driver, connection);
    if (background_is_needed) key_set_load(background, options->driver, connection);
    options->driver->close(connection);
}

// Asks the question instead of measuring.
static void ask(const struct options *options, const struct key_set *keys) {
    struct connection *connection = open_connection(options, false);
    if (options->question == QUESTION_STAT)
        inspect_counters(options->driver, connection);
    else
        inspect_presence(options->driver, connection, keys);
    options->driver->close(connection);
}

int main(int argument_count, char **arguments) {
    const struct options options = parse_options(argument_count, arguments);
    signal(SIGPIPE, SIG_IGN);
    const struct key_set front_keys = make_key_set(&options, options.value_byte_count);
    if (options.question != QUESTION_NONE) {
        ask(&options, &front_keys);
        return 0;
    }
    struct key_set background_keys = make_key_set(&options, options.background_value_byte_count);
    background_keys.salt = mix64(background_keys.salt);
    background_keys.arena_base = front_keys.key_count * key_set_stride(options.value_byte_count);
    load_key_sets(&options, &front_keys, &background_keys);

    const unsigned worker_count = options.connection_count + options.background_connection_count;
    struct worker *workers = calloc(worker_count, sizeof *workers);
    struct totals *totals = calloc(2, sizeof *totals);
    const uint32_t *order =
        options.order_seed > 0 ? make_order(front_keys.key_count, options.order_seed) : NULL;
    if (workers == NULL || totals == NULL) fail("out of memory");
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, worker_count + 1);
    for (unsigned index = 0; index < worker_count; index += 1) {
        struct worker *worker = &workers[index];
        const bool is_front = index < options.connection_count;
        prepare_worker(worker, &options, index, is_front ? &front_keys : &background_keys);
        if (is_front) worker->order = order;
        worker->first_position = options.first_position;
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
