// SPDX-License-Identifier: Apache-2.0
//
// fork(2) with a client, a lease, a put and a queue in use: the child gets on with a connection of
// its own, the parent's is not disturbed.
#include "check.h"

#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

static void check_child(pid_t child) {
    int status = 0;
    uint64_t end = now_milliseconds() + 10000;
    while (waitpid(child, &status, WNOHANG) == 0) {
        if (now_milliseconds() > end) {
            CHECK(!"the child hangs");
            return;
        }
        usleep(1000);
    }
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static kvs_status read_back(kvs_client *client, kvs_key key, const void *expected,
                            size_t byte_count) {
    uint8_t bytes[64];
    kvs_span span = {bytes, sizeof bytes};
    kvs_destination destination = {&span, 1};
    kvs_get_result result;
    kvs_status status = kvs_get(client, &key, 1, &destination, &result, NULL, 0);
    if (status == KVS_OK && result.status == KVS_OK) {
        CHECK(result.byte_count == byte_count && memcmp(bytes, expected, byte_count) == 0);
    }
    return status != KVS_OK ? status : result.status;
}

/// What a forked worker does: uses the client it inherited.
static void work_in_child(kvs_client *client, uint32_t seed) {
    kvs_key key = key_numbered(seed + 1);
    kvs_const_span part = {"child", 5};
    check_failure_count = 0;
    CHECK_STATUS(read_back(client, key_numbered(seed), "parent", 6), KVS_OK);
    CHECK_STATUS(kvs_put(client, &key, &part, 1, NULL, 0), KVS_OK);
    kvs_close(client);
    _exit(check_failure_count == 0 ? 0 : 1);
}

static void fork_with_client(const char *address, uint32_t seed) {
    kvs_client *client = open_client(address, 0, 3000);
    kvs_key key = key_numbered(seed);
    kvs_const_span part = {"parent", 6};
    CHECK_STATUS(kvs_put(client, &key, &part, 1, NULL, 0), KVS_OK);
    pid_t children[4];
    for (int index = 0; index < 4; index += 1) {
        children[index] = fork();
        if (children[index] == 0) {
            kvs_key mine = key_numbered(seed + 10 + (uint32_t)index);
            (void)kvs_put(client, &mine, &part, 1, NULL, 0);
            work_in_child(client, index == 0 ? seed : seed);
        }
        // The parent goes on meanwhile on its own connection.
        CHECK_STATUS(read_back(client, key, "parent", 6), KVS_OK);
        check_child(children[index]);
        CHECK_STATUS(read_back(client, key_numbered(seed + 1), "child", 5), KVS_OK);
        CHECK_STATUS(kvs_delete(client, (kvs_key[]){key_numbered(seed + 1)}, 1, NULL, 0), KVS_OK);
    }
    kvs_close(client);
}

static void fork_with_put_under_way(const char *address, uint32_t seed) {
    kvs_client *client = open_client(address, 0, 3000);
    kvs_key key = key_numbered(seed + 30);
    kvs_const_span half = {"half", 4};
    CHECK_STATUS(kvs_put_begin(client, &key, 8, NULL, 0), KVS_OK);
    CHECK_STATUS(kvs_put_append(client, &half, 1), KVS_OK);
    pid_t child = fork();
    if (child == 0) {
        check_failure_count = 0;
        CHECK_STATUS(kvs_put_append(client, &half, 1), KVS_FORKED);
        CHECK_STATUS(kvs_ping(client, 0), KVS_OK);
        CHECK_STATUS(kvs_put_append(client, &half, 1), KVS_WRONG_STATE);
        kvs_close(client);
        _exit(check_failure_count == 0 ? 0 : 1);
    }
    check_child(child);
    CHECK_STATUS(kvs_put_append(client, &half, 1), KVS_OK);
    CHECK_STATUS(kvs_put_finish(client), KVS_OK);
    CHECK_STATUS(read_back(client, key, "halfhalf", 8), KVS_OK);
    kvs_close(client);
}

static void fork_with_lease(const char *address, uint32_t seed) {
    kvs_client *client = open_client(address, 0, 3000);
    kvs_key key = key_numbered(seed + 40), other = key_numbered(seed + 41);
    kvs_const_span part = {"leased", 6};
    kvs_lease lease;
    kvs_reservation reservation;
    CHECK_STATUS(kvs_put(client, &key, &part, 1, NULL, 0), KVS_OK);
    CHECK_STATUS(kvs_reserve(client, &other, 6, NULL, &reservation, 0), KVS_OK);
    memcpy(reservation.bytes, "parent", 6);
    CHECK_STATUS(kvs_lease_acquire(client, &key, 1, 0, &lease, 0), KVS_OK);
    pid_t child = fork();
    if (child == 0) {
        check_failure_count = 0;
        CHECK(kvs_lease_still_valid(client, &lease) == 0);
        CHECK_STATUS(kvs_commit(client, &reservation, 0), KVS_FORKED);
        CHECK_STATUS(kvs_ping(client, 0), KVS_OK);
        CHECK(kvs_lease_still_valid(client, &lease) == 0);
        kvs_lease_release(client, &lease, 1);
        kvs_close(client);
        _exit(check_failure_count == 0 ? 0 : 1);
    }
    check_child(child);
    CHECK(kvs_lease_still_valid(client, &lease) == 1);
    CHECK(memcmp(lease.bytes, "leased", 6) == 0);
    kvs_lease_release(client, &lease, 1);
    CHECK_STATUS(kvs_commit(client, &reservation, 0), KVS_OK);
    CHECK_STATUS(read_back(client, other, "parent", 6), KVS_OK);
    kvs_close(client);
}

static void fork_with_queue(const char *address, uint32_t seed) {
    kvs_queue *queue = NULL;
    kvs_key key = key_numbered(seed + 50);
    kvs_completion completion;
    CHECK_STATUS(kvs_queue_open(address, NULL, 4, &queue), KVS_OK);
    pid_t child = fork();
    if (child == 0) {
        check_failure_count = 0;
        CHECK_STATUS(kvs_queue_submit_delete(queue, 1, &key, 1, 0), KVS_FORKED);
        CHECK(kvs_queue_drain(queue, &completion, 1) == 0);
        kvs_queue_close(queue);
        _exit(check_failure_count == 0 ? 0 : 1);
    }
    check_child(child);
    CHECK_STATUS(kvs_queue_submit_delete(queue, 1, &key, 1, 1000), KVS_OK);
    struct pollfd polled = {kvs_queue_event_fd(queue), POLLIN, 0};
    CHECK(poll(&polled, 1, 5000) == 1);
    CHECK(kvs_queue_drain(queue, &completion, 1) == 1 && completion.status == KVS_OK);
    kvs_queue_close(queue);
}

void exercise_fork(const char *address, uint32_t seed) {
    fork_with_client(address, seed);
    fork_with_put_under_way(address, seed);
    fork_with_lease(address, seed);
    fork_with_queue(address, seed);
}

void test_fork(void) {
    struct server server = server_start("shared");
    exercise_fork(server.unix_address, 1000);
    fork_with_client(server.tcp_address, 2000);
    fork_with_put_under_way(server.tcp_address, 2000);
    server_stop(&server);
}
