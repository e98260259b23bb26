// SPDX-License-Identifier: Apache-2.0
//
// Servers that lie, stall and vanish: every call ends in time, with a status, and no bytes are
// presented as good that are not.
#include "check.h"

#include <unistd.h>

enum { BYTE_COUNT = 5000, RANGE_OFFSET = 4000, RANGE_BYTE_COUNT = 900 };
enum { DEADLINE_MILLISECONDS = 300, SLACK_MILLISECONDS = 700 };

static uint8_t sample[BYTE_COUNT];

static void check_time(uint64_t start, const char *behaviour) {
    uint64_t taken = now_milliseconds() - start;
    if (taken > DEADLINE_MILLISECONDS + SLACK_MILLISECONDS) {
        fprintf(stderr, "%s: %llu ms\n", behaviour, (unsigned long long)taken);
        CHECK(false);
    }
}

/// Calls everything once; whatever comes back must be the truth or an error.
static void exercise_liar(kvs_client *client, const char *behaviour) {
    struct {
        uint8_t before[64], bytes[BYTE_COUNT], after[64];
    } *guarded = calloc(1, sizeof *guarded);
    kvs_key keys[2] = {key_numbered(1), key_numbered(2)};
    kvs_const_span part = {sample, sizeof sample};
    kvs_span span = {guarded->bytes, BYTE_COUNT};
    kvs_destination destinations[2] = {{&span, 1}, {&span, 1}};
    kvs_get_result results[2];
    kvs_lookup_record records[2];
    kvs_stat_pair pairs[4];
    kvs_lease leases[2];
    kvs_reservation reservation;
    size_t count = 0;
    uint8_t zeros[64] = {0};
    uint64_t start = now_milliseconds();
    (void)kvs_put(client, &keys[0], &part, 1, NULL, 0);
    check_time(start, behaviour);
    start = now_milliseconds();
    kvs_status status = kvs_get(client, keys, 2, destinations, results, NULL, 0);
    check_time(start, behaviour);
    for (size_t index = 0; index < 2; index += 1) {
        CHECK(results[index].status != KVS_OK ||
              (results[index].byte_count == BYTE_COUNT &&
               memcmp(guarded->bytes, sample, BYTE_COUNT) == 0));
        CHECK(status == KVS_OK || results[index].status != (kvs_status)-1);
    }
    (void)kvs_lookup(client, keys, 2, records, 0);
    (void)kvs_lookup_prefix(client, keys, 2, &count, records, 0);
    CHECK(count <= 2);
    (void)kvs_stat(client, pairs, 4, &count, 0);
    start = now_milliseconds();
    if (kvs_lease_acquire(client, keys, 2, 0, leases, 0) == KVS_OK) {
        CHECK(leases[0].status != KVS_OK || memcmp(leases[0].bytes, sample, BYTE_COUNT) == 0);
        kvs_lease_release(client, leases, 2);
    }
    if (kvs_reserve(client, &keys[1], BYTE_COUNT, NULL, &reservation, 0) == KVS_OK) {
        memset(reservation.bytes, 1, BYTE_COUNT);
        (void)kvs_commit(client, &reservation, 0);
    }
    (void)kvs_delete(client, keys, 2, &count, 0);
    check_time(start, behaviour);
    start = now_milliseconds();
    memset(guarded->bytes, 0, BYTE_COUNT);
    (void)kvs_put(client, &keys[0], &part, 1, NULL, 0);
    (void)kvs_get_range(client, keys, 2, RANGE_OFFSET, RANGE_BYTE_COUNT, destinations, results,
                        NULL, 0);
    for (size_t index = 0; index < 2; index += 1) {
        CHECK(results[index].status != KVS_OK ||
              (results[index].byte_count == RANGE_BYTE_COUNT &&
               memcmp(guarded->bytes, sample + RANGE_OFFSET, RANGE_BYTE_COUNT) == 0));
    }
    check_time(start, behaviour);
    start = now_milliseconds();
    kvs_status statuses[2] = {(kvs_status)-1, (kvs_status)-1};
    (void)kvs_pin(client, keys, 2, 1000, statuses, 0);
    CHECK(statuses[0] != (kvs_status)-1 && statuses[1] != (kvs_status)-1);
    (void)kvs_unpin(client, keys, 2, statuses, 0);
    check_time(start, behaviour);
    CHECK(memcmp(guarded->before, zeros, 64) == 0 && memcmp(guarded->after, zeros, 64) == 0);
    free(guarded);
}

static kvs_status first_status(const char *address) {
    kvs_client *client = open_client(address, 0, 10000);
    kvs_status status = kvs_ping(client, 0);
    CHECK(status == KVS_OK || kvs_last_error_text(client)[0] != '\0');
    kvs_close(client);
    return status;
}

void test_hostile(void) {
    static const struct {
        const char *behaviour;
        kvs_status ping;
    } liars[] = {
        {"close-at-once", KVS_CONNECTION_LOST}, {"busy-at-accept", KVS_BUSY},
        {"unauthorized", KVS_UNAUTHORIZED},
        {"wrong-header-checksum", KVS_PROTOCOL_ERROR},
        {"wrong-body-checksum", KVS_OK},        {"wrong-payload-checksum", KVS_OK},
        {"close-in-payload", KVS_OK},           {"body-bomb", KVS_PROTOCOL_ERROR},
        {"payload-bomb", KVS_PROTOCOL_ERROR},   {"payload-lie", KVS_OK},
        {"payload-everywhere", KVS_PROTOCOL_ERROR},
        {"wrong-id", KVS_PROTOCOL_ERROR},       {"more-for-ever", KVS_OK},
        {"wrong-index", KVS_OK},                {"count-lie", KVS_OK},
        {"lease-outside", KVS_OK},              {"reserve-outside", KVS_OK},
        {"unsealed", KVS_OK},                   {"small-arena", KVS_OK},
        {"unknown-status", KVS_INTERNAL},       {"final", KVS_OK},
        {"drop-every-second", KVS_OK},
    };
    fill(sample, sizeof sample, 99);
    for (size_t index = 0; index < sizeof liars / sizeof liars[0]; index += 1) {
        const char *behaviour = liars[index].behaviour;
        struct server server = server_start(behaviour);
        kvs_status status = first_status(server.unix_address);
        if (status != liars[index].ping) {
            fprintf(stderr, "%s: ping is \"%s\"\n", behaviour, kvs_status_text(status));
            CHECK(false);
        }
        // A new client each time, so that the back-off of one does not spare the other.
        kvs_client *client = open_client(server.unix_address, 0, DEADLINE_MILLISECONDS);
        exercise_liar(client, behaviour);
        kvs_close(client);
        client = open_client(server.tcp_address, 0, DEADLINE_MILLISECONDS);
        exercise_liar(client, behaviour);
        kvs_close(client);
        server_stop(&server);
    }
}

static void check_deadline(const char *address, const char *behaviour) {
    kvs_client *client = open_client(address, 0, DEADLINE_MILLISECONDS);
    uint64_t start = now_milliseconds();
    CHECK_STATUS(kvs_ping(client, 0), KVS_DEADLINE_EXCEEDED);
    uint64_t taken = now_milliseconds() - start;
    CHECK(taken >= DEADLINE_MILLISECONDS - 1);
    check_time(start, behaviour);
    // After calls in vain the client stops waiting: one of these fails at once.
    uint32_t refused_count = 0;
    for (int index = 0; index < 8; index += 1) {
        start = now_milliseconds();
        refused_count += kvs_ping(client, 50) == KVS_CANNOT_CONNECT &&
                         now_milliseconds() - start < 50;
    }
    CHECK(refused_count > 0);
    kvs_close(client);
}

void test_deadlines(void) {
    static const char *const behaviours[] = {"silent", "silent-after-hello", "trickle"};
    for (size_t index = 0; index < 3; index += 1) {
        struct server server = server_start(behaviours[index]);
        check_deadline(server.unix_address, behaviours[index]);
        check_deadline(server.tcp_address, behaviours[index]);
        server_stop(&server);
    }
    // A large put into a socket that nobody reads.
    struct server server = server_start("trickle");
    kvs_client *client = open_client(server.unix_address, 0, DEADLINE_MILLISECONDS);
    kvs_key key = key_numbered(1);
    uint8_t *bytes = calloc(1, 4000000);
    kvs_const_span part = {bytes, 4000000};
    uint64_t start = now_milliseconds();
    CHECK(kvs_put(client, &key, &part, 1, NULL, 0) != KVS_OK);
    check_time(start, "large put");
    free(bytes);
    kvs_close(client);
    server_stop(&server);
}

void test_back_off(void) {
    kvs_client *client = open_client("unix:/tmp/kvstore-test-nobody-listens.sock", 0, 1000);
    uint64_t start = now_milliseconds();
    CHECK_STATUS(kvs_ping(client, 0), KVS_CANNOT_CONNECT);
    CHECK(strstr(kvs_last_error_text(client), "is kvstored running") != NULL);
    for (int index = 0; index < 10000; index += 1) {
        CHECK_STATUS(kvs_ping(client, 0), KVS_CANNOT_CONNECT);
    }
    CHECK(strstr(kvs_last_error_text(client), "not tried again") != NULL);
    CHECK(now_milliseconds() - start < 1000);
    kvs_close(client);
    // A daemon that restarts is found again without a failed call.
    struct server server = server_start("honest");
    client = open_client(server.unix_address, 0, 1000);
    CHECK_STATUS(kvs_ping(client, 0), KVS_OK);
    server_stop(&server);
    CHECK_STATUS(kvs_ping(client, 0), KVS_CANNOT_CONNECT);
    kvs_close(client);
}
