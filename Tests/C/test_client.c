// SPDX-License-Identifier: Apache-2.0
//
// The verbs against an honest server: the stub, over each transport, and the daemon where given.
#include "check.h"

#include <unistd.h>

enum {
    LARGE_BYTE_COUNT = 3000000,
    /// Chunks that the stub pins at most.
    STUB_PIN_COUNT = 4,
};

static kvs_const_span part(const void *bytes, size_t byte_count) {
    return (kvs_const_span){bytes, byte_count};
}

static kvs_status get_one(kvs_client *client, kvs_key key, void *bytes, size_t capacity,
                          kvs_get_result *result) {
    kvs_span span = {bytes, capacity};
    kvs_destination destination = {&span, 1};
    return kvs_get(client, &key, 1, &destination, result, NULL, 0);
}

static void exercise_small(kvs_client *client, uint32_t seed) {
    kvs_key key = key_numbered(seed);
    kvs_const_span parts[] = {part("hello", 5), part(NULL, 0), part(", ", 2), part("chunk", 5)};
    uint8_t bytes[64] = {0};
    kvs_get_result result;
    CHECK_STATUS(kvs_ping(client, 0), KVS_OK);
    CHECK_STATUS(get_one(client, key, bytes, sizeof bytes, &result), KVS_OK);
    CHECK_STATUS(result.status, KVS_NOT_FOUND);
    CHECK_STATUS(kvs_put(client, &key, parts, 4, NULL, 0), KVS_OK);
    CHECK(kvs_last_error_text(client)[0] == '\0');
    CHECK_STATUS(kvs_put(client, &key, parts, 4, NULL, 0), KVS_EXISTS);
    CHECK_STATUS(get_one(client, key, bytes, sizeof bytes, &result), KVS_OK);
    CHECK_STATUS(result.status, KVS_OK);
    CHECK(result.byte_count == 12 && memcmp(bytes, "hello, chunk", 12) == 0);
    CHECK(result.remaining_milliseconds == UINT64_MAX);
    // Too small a place: the size is told and the connection stays in step.
    CHECK_STATUS(get_one(client, key, bytes, 11, &result), KVS_OK);
    CHECK_STATUS(result.status, KVS_DESTINATION_TOO_SMALL);
    CHECK(result.byte_count == 12);
    CHECK_STATUS(kvs_ping(client, 0), KVS_OK);
    CHECK_STATUS(kvs_put(client, &key, parts, 0, NULL, 0), KVS_INVALID_ARGUMENT);
    CHECK_STATUS(kvs_put(client, NULL, parts, 4, NULL, 0), KVS_INVALID_ARGUMENT);
}

static void exercise_large(kvs_client *client, uint32_t seed) {
    kvs_key key = key_numbered(seed + 1);
    uint8_t *bytes = malloc(LARGE_BYTE_COUNT);
    uint8_t *back = malloc(LARGE_BYTE_COUNT);
    kvs_const_span parts[200];
    kvs_span spans[101];
    kvs_get_result result;
    fill(bytes, LARGE_BYTE_COUNT, seed);
    size_t step = LARGE_BYTE_COUNT / 200;
    for (size_t index = 0; index < 200; index += 1) {
        parts[index] = part(bytes + index * step, step);
    }
    CHECK_STATUS(kvs_put(client, &key, parts, 200, NULL, 5000), KVS_OK);
    for (size_t index = 0; index < 101; index += 1) {
        spans[index] = (kvs_span){back + 2 * index * step, index < 100 ? 2 * step : 0};
    }
    kvs_destination destination = {spans, 101};
    CHECK_STATUS(kvs_get(client, &key, 1, &destination, &result, NULL, 5000), KVS_OK);
    CHECK_STATUS(result.status, KVS_OK);
    CHECK(result.byte_count == LARGE_BYTE_COUNT && memcmp(bytes, back, LARGE_BYTE_COUNT) == 0);
    CHECK_STATUS(get_one(client, key, back, 1000, &result), KVS_OK);
    CHECK_STATUS(result.status, KVS_DESTINATION_TOO_SMALL);
    kvs_layout other = {{9}};
    CHECK_STATUS(kvs_get(client, &key, 1, &destination, &result, &other, 5000), KVS_OK);
    CHECK_STATUS(result.status, KVS_LAYOUT_MISMATCH);
    free(bytes);
    free(back);
}

static void *provide(void *context, size_t index, uint64_t byte_count) {
    void **places = context;
    places[index] = malloc(byte_count);
    return places[index];
}

/// More keys than one request holds; every third is stored.
static void exercise_many(kvs_client *client, uint32_t seed) {
    enum { KEY_COUNT = 1500 };
    kvs_key *keys = malloc(KEY_COUNT * sizeof *keys);
    kvs_lookup_record *records = malloc(KEY_COUNT * sizeof *records);
    kvs_get_result *results = malloc(KEY_COUNT * sizeof *results);
    void **places = calloc(KEY_COUNT, sizeof *places);
    size_t count = 0;
    for (uint32_t index = 0; index < KEY_COUNT; index += 1) {
        keys[index] = key_numbered(seed + 100 + index);
        kvs_const_span bytes = part(&index, sizeof index);
        if (index % 3 == 0) {
            CHECK_STATUS(kvs_put(client, &keys[index], &bytes, 1, NULL, 0), KVS_OK);
        }
    }
    CHECK_STATUS(kvs_lookup(client, keys, KEY_COUNT, records, 0), KVS_OK);
    CHECK_STATUS(kvs_get_with(client, keys, KEY_COUNT, provide, places, results, NULL, 5000),
                 KVS_OK);
    for (uint32_t index = 0; index < KEY_COUNT; index += 1) {
        kvs_status expected = index % 3 == 0 ? KVS_OK : KVS_NOT_FOUND;
        CHECK(records[index].status == expected && results[index].status == expected);
        CHECK(expected != KVS_OK || (places[index] != NULL &&
                                     memcmp(places[index], &index, sizeof index) == 0));
        free(places[index]);
    }
    CHECK_STATUS(kvs_lookup_prefix(client, keys, KEY_COUNT, &count, records, 0), KVS_OK);
    CHECK(count == 1 && records[0].byte_count == 4 && records[0].tier == 1);
    CHECK_STATUS(kvs_delete(client, keys, KEY_COUNT, &count, 0), KVS_OK);
    CHECK(count == KEY_COUNT / 3);
    CHECK_STATUS(kvs_lookup_prefix(client, keys, KEY_COUNT, &count, NULL, 0), KVS_OK);
    CHECK(count == 0);
    free(keys);
    free(records);
    free(results);
    free(places);
}

static void exercise_figures(kvs_client *client, uint32_t seed) {
    kvs_stat_pair pairs[100];
    size_t count = 0;
    kvs_chunk_description description;
    kvs_key key = key_numbered(seed + 2);
    kvs_put_options options = {.layout = {{4, 2}}, .time_to_live_milliseconds = 60000};
    kvs_const_span bytes = part("x", 1);
    CHECK_STATUS(kvs_stat(client, pairs, 100, &count, 0), KVS_OK);
    CHECK(count > 0 && pairs[0].name[0] != '\0');
    CHECK_STATUS(kvs_stat(client, NULL, 0, &count, 0), KVS_OK);
    CHECK_STATUS(kvs_describe(client, &key, &description, 0), KVS_NOT_FOUND);
    CHECK_STATUS(kvs_put(client, &key, &bytes, 1, &options, 0), KVS_OK);
    CHECK_STATUS(kvs_describe(client, &key, &description, 0), KVS_OK);
    CHECK(memcmp(&description.layout, &options.layout, sizeof options.layout) == 0);
    CHECK(description.byte_count == 1 && description.remaining_milliseconds <= 60000);
    kvs_put_options soon = {.time_to_live_milliseconds = 1};
    kvs_key short_lived = key_numbered(seed + 3);
    CHECK_STATUS(kvs_put(client, &short_lived, &bytes, 1, &soon, 0), KVS_OK);
    usleep(20000);
    CHECK_STATUS(kvs_describe(client, &short_lived, &description, 0), KVS_NOT_FOUND);
}

static void exercise_stream(kvs_client *client, uint32_t seed) {
    kvs_key key = key_numbered(seed + 4);
    uint8_t bytes[10000], back[10000];
    kvs_get_result result;
    fill(bytes, sizeof bytes, seed);
    CHECK_STATUS(kvs_put_finish(client), KVS_WRONG_STATE);
    CHECK_STATUS(kvs_put_begin(client, &key, sizeof bytes, NULL, 0), KVS_OK);
    CHECK_STATUS(kvs_ping(client, 0), KVS_WRONG_STATE);
    for (size_t offset = 0; offset < sizeof bytes; offset += 1000) {
        kvs_const_span layer = part(bytes + offset, 1000);
        CHECK_STATUS(kvs_put_append(client, &layer, 1), KVS_OK);
    }
    CHECK_STATUS(kvs_put_finish(client), KVS_OK);
    CHECK_STATUS(get_one(client, key, back, sizeof back, &result), KVS_OK);
    CHECK(result.status == KVS_OK && memcmp(bytes, back, sizeof bytes) == 0);
    // Given up in the middle: nothing is stored, and the client goes on.
    kvs_key other = key_numbered(seed + 5);
    kvs_const_span half = part(bytes, 5000);
    CHECK_STATUS(kvs_put_begin(client, &other, sizeof bytes, NULL, 0), KVS_OK);
    CHECK_STATUS(kvs_put_append(client, &half, 1), KVS_OK);
    kvs_put_cancel(client);
    CHECK_STATUS(get_one(client, other, back, sizeof back, &result), KVS_OK);
    CHECK_STATUS(result.status, KVS_NOT_FOUND);
    CHECK_STATUS(kvs_put_begin(client, &other, 5001, NULL, 0), KVS_OK);
    CHECK_STATUS(kvs_put_append(client, &half, 1), KVS_OK);
    CHECK_STATUS(kvs_put_finish(client), KVS_INVALID_ARGUMENT);
    CHECK_STATUS(kvs_put_begin(client, &other, 4999, NULL, 0), KVS_OK);
    CHECK_STATUS(kvs_put_append(client, &half, 1), KVS_INVALID_ARGUMENT);
    CHECK_STATUS(kvs_ping(client, 0), KVS_OK);
}

/// Parts of chunks of 100, 50 and 100 bytes, and of one that is not there.
static void exercise_ranges(kvs_client *client, uint32_t seed) {
    enum { KEY_COUNT = 4, BYTE_COUNT = 100, OFFSET = 40, RANGE_BYTE_COUNT = 30 };
    kvs_key keys[KEY_COUNT];
    uint8_t bytes[BYTE_COUNT], back[KEY_COUNT][RANGE_BYTE_COUNT + 1];
    kvs_span spans[KEY_COUNT];
    kvs_destination destinations[KEY_COUNT];
    kvs_get_result results[KEY_COUNT];
    fill(bytes, sizeof bytes, seed);
    memset(back, 0, sizeof back);
    for (uint32_t index = 0; index < KEY_COUNT; index += 1) {
        keys[index] = key_numbered(seed + 10 + index);
        spans[index] = (kvs_span){back[index], RANGE_BYTE_COUNT};
        destinations[index] = (kvs_destination){&spans[index], 1};
        kvs_const_span whole = part(bytes, index == 1 ? 50 : BYTE_COUNT);
        if (index != 3) {
            CHECK_STATUS(kvs_put(client, &keys[index], &whole, 1, NULL, 0), KVS_OK);
        }
    }
    spans[2].byte_count = RANGE_BYTE_COUNT - 1;
    CHECK_STATUS(kvs_get_range(client, keys, KEY_COUNT, OFFSET, RANGE_BYTE_COUNT, destinations,
                               results, NULL, 0), KVS_OK);
    CHECK_STATUS(results[0].status, KVS_OK);
    CHECK(results[0].byte_count == RANGE_BYTE_COUNT);
    CHECK(memcmp(back[0], bytes + OFFSET, RANGE_BYTE_COUNT) == 0 && back[0][RANGE_BYTE_COUNT] == 0);
    CHECK_STATUS(results[1].status, KVS_LIMIT_EXCEEDED);
    CHECK(results[1].byte_count == 0);
    CHECK_STATUS(results[2].status, KVS_DESTINATION_TOO_SMALL);
    CHECK(results[2].byte_count == RANGE_BYTE_COUNT);
    CHECK_STATUS(results[3].status, KVS_NOT_FOUND);
    // A single key that does not have the range is no failure of the request.
    CHECK_STATUS(kvs_get_range(client, keys, 1, BYTE_COUNT, 1, destinations, results, NULL, 0),
                 KVS_OK);
    CHECK_STATUS(results[0].status, KVS_LIMIT_EXCEEDED);
    CHECK_STATUS(kvs_get_range(client, keys, 1, UINT64_MAX, UINT64_MAX, destinations, results,
                               NULL, 0), KVS_OK);
    CHECK_STATUS(results[0].status, KVS_LIMIT_EXCEEDED);
    CHECK_STATUS(kvs_get_range(client, keys, 1, BYTE_COUNT - 1, 1, destinations, results, NULL, 0),
                 KVS_OK);
    CHECK(results[0].status == KVS_OK && back[0][0] == bytes[BYTE_COUNT - 1]);
    kvs_layout other = {{9}};
    CHECK_STATUS(kvs_get_range(client, keys, 1, 0, 1, destinations, results, &other, 0), KVS_OK);
    CHECK_STATUS(results[0].status, KVS_LAYOUT_MISMATCH);
    CHECK_STATUS(kvs_get_range(client, keys, 1, 0, 0, destinations, results, NULL, 0),
                 KVS_INVALID_ARGUMENT);
    CHECK_STATUS(kvs_ping(client, 0), KVS_OK);
}

/// A range of more keys than one request holds; every third is stored.
static void exercise_many_ranges(kvs_client *client, uint32_t seed) {
    enum { KEY_COUNT = 1500 };
    kvs_key *keys = malloc(KEY_COUNT * sizeof *keys);
    uint16_t *halves = calloc(KEY_COUNT, sizeof *halves);
    kvs_span *spans = malloc(KEY_COUNT * sizeof *spans);
    kvs_destination *destinations = malloc(KEY_COUNT * sizeof *destinations);
    kvs_get_result *results = malloc(KEY_COUNT * sizeof *results);
    for (uint32_t index = 0; index < KEY_COUNT; index += 1) {
        uint16_t halves_of_chunk[2] = {0, (uint16_t)index};
        kvs_const_span bytes = part(halves_of_chunk, sizeof halves_of_chunk);
        keys[index] = key_numbered(seed + 2000 + index);
        spans[index] = (kvs_span){&halves[index], sizeof halves[index]};
        destinations[index] = (kvs_destination){&spans[index], 1};
        if (index % 3 == 0) {
            CHECK_STATUS(kvs_put(client, &keys[index], &bytes, 1, NULL, 0), KVS_OK);
        }
    }
    CHECK_STATUS(kvs_get_range(client, keys, KEY_COUNT, 2, 2, destinations, results, NULL, 5000),
                 KVS_OK);
    for (uint32_t index = 0; index < KEY_COUNT; index += 1) {
        kvs_status expected = index % 3 == 0 ? KVS_OK : KVS_NOT_FOUND;
        CHECK(results[index].status == expected);
        CHECK(expected != KVS_OK || halves[index] == index);
    }
    free(keys);
    free(halves);
    free(spans);
    free(destinations);
    free(results);
}

/// What a restart shall not undo; `durable` is what the server answers to that, `pin_count` how
/// many chunks it pins.
static void exercise_keeping(kvs_client *client, uint32_t seed, kvs_status durable,
                             size_t pin_count) {
    enum { KEY_COUNT = 6 };
    kvs_key keys[KEY_COUNT];
    kvs_status statuses[KEY_COUNT];
    kvs_put_options options = {.flags = KVS_DURABLE};
    kvs_const_span bytes = part("kept", 4);
    kvs_get_result result;
    uint8_t back[4];
    size_t count = 0;
    for (uint32_t index = 0; index < KEY_COUNT; index += 1) {
        keys[index] = key_numbered(seed + 20 + index);
    }
    CHECK_STATUS(kvs_put(client, &keys[0], &bytes, 1, &options, 0), durable);
    CHECK((kvs_last_error_text(client)[0] == '\0') == (durable == KVS_OK));
    CHECK_STATUS(kvs_put(client, &keys[0], &bytes, 1, &options, 0),
                 durable == KVS_OK ? KVS_EXISTS : durable);
    CHECK_STATUS(get_one(client, keys[0], back, sizeof back, &result), KVS_OK);
    CHECK(result.status == KVS_OK && memcmp(back, "kept", 4) == 0);
    options.flags = KVS_POSITIONED << 1;
    CHECK_STATUS(kvs_put(client, &keys[0], &bytes, 1, &options, 0), KVS_INVALID_ARGUMENT);
    for (uint32_t index = 1; index < KEY_COUNT - 1; index += 1) {
        CHECK_STATUS(kvs_put(client, &keys[index], &bytes, 1, NULL, 0), KVS_OK);
    }
    // The last of the six is not there.
    CHECK_STATUS(kvs_pin(client, keys, KEY_COUNT, 60000, statuses, 0), KVS_OK);
    for (size_t index = 0; index < KEY_COUNT; index += 1) {
        CHECK_STATUS(statuses[index], index == KEY_COUNT - 1 ? KVS_NOT_FOUND
                                      : index < pin_count    ? durable
                                                             : KVS_BUSY);
    }
    CHECK_STATUS(kvs_unpin(client, keys, KEY_COUNT, statuses, 0), KVS_OK);
    CHECK(statuses[0] == durable && statuses[4] == durable && statuses[5] == KVS_NOT_FOUND);
    CHECK_STATUS(kvs_pin(client, keys, 1, 0, statuses, 0), KVS_INVALID_ARGUMENT);
    CHECK_STATUS(kvs_pin(client, keys, 1, KVS_PIN_MILLISECONDS_MAXIMUM + 1, statuses, 0),
                 KVS_INVALID_ARGUMENT);
    CHECK_STATUS(kvs_delete(client, keys, KEY_COUNT, &count, 0), durable);
    CHECK(count == KEY_COUNT - 1);
    CHECK_STATUS(kvs_delete(client, keys, KEY_COUNT, &count, 0), KVS_OK);
    CHECK(count == 0);
}

static void exercise_durable_reservation(kvs_client *client, uint32_t seed) {
    kvs_key key = key_numbered(seed + 30);
    kvs_put_options options = {.flags = KVS_DURABLE};
    kvs_reservation reservation;
    CHECK_STATUS(kvs_reserve(client, &key, 100, &options, &reservation, 0), KVS_OK);
    CHECK_STATUS(kvs_commit(client, &reservation, 0), KVS_OK);
    CHECK_STATUS(kvs_reserve(client, &key, 100, &options, &reservation, 0), KVS_EXISTS);
    options.flags = 4;  // no flag has this number
    CHECK_STATUS(kvs_reserve(client, &key, 100, &options, &reservation, 0),
                 KVS_INVALID_ARGUMENT);
}

void exercise_client(kvs_client *client, uint32_t seed) {
    exercise_small(client, seed);
    exercise_large(client, seed);
    exercise_many(client, seed);
    exercise_figures(client, seed);
    exercise_stream(client, seed);
}

void exercise_leases(kvs_client *client, uint32_t seed) {
    kvs_key keys[2] = {key_numbered(seed), key_numbered(seed + 1)};
    kvs_reservation reservation;
    kvs_lease leases[2];
    uint8_t back[4096];
    CHECK_STATUS(kvs_reserve(client, &keys[0], 4096, NULL, &reservation, 0), KVS_OK);
    if (reservation.bytes == NULL) {
        return;
    }
    fill(reservation.bytes, 4096, seed);
    CHECK_STATUS(kvs_commit(client, &reservation, 0), KVS_OK);
    CHECK_STATUS(kvs_commit(client, &reservation, 0), KVS_INVALID_ARGUMENT);
    CHECK_STATUS(kvs_reserve(client, &keys[0], 4096, NULL, &reservation, 0), KVS_EXISTS);
    CHECK_STATUS(kvs_reserve(client, &keys[1], 100, NULL, &reservation, 0), KVS_OK);
    CHECK_STATUS(kvs_abort(client, &reservation, 0), KVS_OK);

    CHECK_STATUS(kvs_lease_acquire(client, keys, 2, 0, leases, 0), KVS_OK);
    CHECK_STATUS(leases[0].status, KVS_OK);
    CHECK_STATUS(leases[1].status, KVS_NOT_FOUND);
    CHECK(leases[1].bytes == NULL && leases[0].byte_count == 4096);
    fill(back, sizeof back, seed);
    CHECK(leases[0].bytes != NULL && memcmp(leases[0].bytes, back, sizeof back) == 0);
    CHECK(kvs_lease_still_valid(client, &leases[0]) == 1);
    memset(back, 0, sizeof back);
    kvs_span span = {back, sizeof back};
    kvs_destination destination = {&span, 1};
    CHECK_STATUS(kvs_copy_out(client, &leases[0], &destination), KVS_OK);
    CHECK(memcmp(leases[0].bytes, back, sizeof back) == 0);
    kvs_lease_release(client, leases, 2);
    CHECK(kvs_lease_still_valid(client, &leases[0]) == 0);
    CHECK_STATUS(kvs_copy_out(client, &leases[0], &destination), KVS_NO_LEASE);
    CHECK_STATUS(kvs_release_now(client, 0), KVS_OK);
    // A lease that ran out is known as such.
    CHECK_STATUS(kvs_lease_acquire(client, keys, 1, 1, leases, 0), KVS_OK);
    usleep(5000);
    CHECK(kvs_lease_still_valid(client, &leases[0]) == 0);
    kvs_lease_release(client, leases, 1);
}

static void exercise_derivation(kvs_client *client) {
    uint8_t secret[32];
    uint32_t tokens[512] = {1, 2, 3};
    kvs_layout layout = {{7}};
    kvs_key ours[2], theirs[2];
    size_t count = 0;
    CHECK_STATUS(kvs_prefix_keys(client, &layout, tokens, 512, 256, ours, &count), KVS_OK);
    CHECK(count == 2);
    CHECK_STATUS(kvs_secret(client, secret, 0), KVS_OK);
    CHECK_STATUS(kvs_derive_prefix_keys(secret, &layout, NULL, tokens, 512, 256, theirs), KVS_OK);
    CHECK(memcmp(ours, theirs, sizeof ours) == 0);
    CHECK_STATUS(kvs_opaque_key(client, "n", 1, ours), KVS_OK);
    CHECK_STATUS(kvs_derive_opaque_key(secret, "n", 1, theirs), KVS_OK);
    CHECK(memcmp(&ours[0], &theirs[0], sizeof ours[0]) == 0);
}

static void exercise_address(const char *address, uint32_t flags, uint32_t seed) {
    kvs_client *client = open_client(address, flags, 3000);
    exercise_derivation(client);
    exercise_client(client, seed);
    kvs_close(client);
}

void test_honest(void) {
    struct server server = server_start("honest");
    kvs_client *client = NULL;
    kvs_lease lease;
    kvs_key key = key_numbered(0);
    exercise_address(server.unix_address, 0, 10000);
    exercise_address(server.tcp_address, 0, 20000);
    client = open_client(server.unix_address, 0, 3000);
    exercise_ranges(client, 30000);
    exercise_many_ranges(client, 30000);
    exercise_keeping(client, 30000, KVS_OK, STUB_PIN_COUNT);
    kvs_close(client);
    client = open_client(server.tcp_address, 0, 0);
    CHECK_STATUS(kvs_lease_acquire(client, &key, 1, 0, &lease, 0), KVS_UNSUPPORTED);
    CHECK(strstr(kvs_last_error_text(client), "unix:") != NULL);
    kvs_close(client);
    CHECK_STATUS(kvs_open("file:/x", NULL, &client), KVS_INVALID_ARGUMENT);
    CHECK_STATUS(kvs_open("tcp:nohost", NULL, &client), KVS_INVALID_ARGUMENT);
    CHECK_STATUS(kvs_open("tcp:::1:80", NULL, &client), KVS_INVALID_ARGUMENT);
    CHECK_STATUS(kvs_open("tcp:[::1]:80", NULL, &client), KVS_OK);
    kvs_close(client);
    kvs_close(NULL);
    server_stop(&server);
}

void test_shared(void) {
    struct server server = server_start("shared");
    exercise_address(server.unix_address, 0, 10000);
    exercise_address(server.unix_address, KVS_WITHOUT_SHARED_MEMORY, 20000);
    kvs_client *client = open_client(server.unix_address, 0, 3000);
    exercise_leases(client, 30000);
    exercise_ranges(client, 40000);
    exercise_durable_reservation(client, 40000);
    kvs_close(client);
    server_stop(&server);
    server = server_start("forgetful");
    client = open_client(server.tcp_address, 0, 3000);
    exercise_keeping(client, 10000, KVS_NOT_DURABLE, STUB_PIN_COUNT);
    kvs_close(client);
    server_stop(&server);
    server = server_start("refuses-leases");
    exercise_address(server.unix_address, 0, 10000);
    server_stop(&server);
    server = server_start("no-staging-room");
    exercise_address(server.unix_address, 0, 10000);
    server_stop(&server);
}

void test_streaming(void) {
    // A put that fails on the way leaves a client that works again at the next call.
    struct server server = server_start("drop-every-second");
    kvs_client *client = open_client(server.tcp_address, 0, 2000);
    uint32_t ok_count = 0;
    for (int index = 0; index < 20; index += 1) {
        ok_count += kvs_ping(client, 0) == KVS_OK;
    }
    CHECK(ok_count >= 10);
    kvs_close(client);
    server_stop(&server);
}

void test_daemon(void) {
    struct server server;
    if (!server_under_test(&server)) {
        printf("  daemon: not given\n");
        return;
    }
    uint32_t seed = (uint32_t)(now_milliseconds() * 10000);
    exercise_address(server.tcp_address, 0, seed);
    exercise_address(server.unix_address, KVS_WITHOUT_SHARED_MEMORY, seed + 10000);
    exercise_address(server.unix_address, 0, seed + 20000);
    kvs_client *client = open_client(server.unix_address, 0, 3000);
    exercise_leases(client, seed + 30000);
    exercise_ranges(client, seed + 70000);
    exercise_many_ranges(client, seed + 70000);
    exercise_keeping(client, seed + 70000, KVS_OK, SIZE_MAX);
    exercise_durable_reservation(client, seed + 70000);
    kvs_close(client);
    client = open_client(server.tcp_address, 0, 3000);
    exercise_ranges(client, seed + 80000);
    exercise_many_ranges(client, seed + 80000);
    exercise_keeping(client, seed + 80000, KVS_OK, SIZE_MAX);
    kvs_close(client);
    exercise_fork(server.unix_address, seed + 40000);
    exercise_queue(server.unix_address, seed + 50000);
    exercise_queue(server.tcp_address, seed + 60000);
}
