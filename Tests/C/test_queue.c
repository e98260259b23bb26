// SPDX-License-Identifier: Apache-2.0
//
// The asynchronous form.
#include "check.h"

#include <poll.h>

enum { DEPTH = 64, REQUEST_COUNT = 40 };

/// Drains until `count` completions came; false when they do not.
static bool drain(kvs_queue *queue, kvs_completion *completions, size_t count) {
    size_t drained = 0;
    uint64_t end = now_milliseconds() + 10000;
    while (drained < count && now_milliseconds() < end) {
        struct pollfd polled = {kvs_queue_event_fd(queue), POLLIN, 0};
        (void)poll(&polled, 1, 100);
        drained += kvs_queue_drain(queue, completions + drained, count - drained);
    }
    struct pollfd polled = {kvs_queue_event_fd(queue), POLLIN, 0};
    CHECK(poll(&polled, 1, 0) == 0);
    return drained == count;
}

void exercise_queue(const char *address, uint32_t seed) {
    kvs_options options = KVS_OPTIONS_INIT;
    kvs_queue *queue = NULL;
    kvs_completion completions[DEPTH];
    kvs_key keys[REQUEST_COUNT];
    static uint8_t bytes[REQUEST_COUNT][1000], back[REQUEST_COUNT][1000];
    kvs_destination destinations[REQUEST_COUNT];
    kvs_span spans[REQUEST_COUNT];
    kvs_get_result results[REQUEST_COUNT];
    options.deadline_milliseconds = 5000;
    CHECK_STATUS(kvs_queue_open(address, &options, DEPTH, &queue), KVS_OK);
    for (uint32_t index = 0; index < REQUEST_COUNT; index += 1) {
        fill(bytes[index], 1000, seed + index);
        keys[index] = key_numbered(seed + index);
        kvs_const_span part = {bytes[index], 1000};
        CHECK_STATUS(kvs_queue_submit_put(queue, index, &keys[index], &part, 1, NULL, 0), KVS_OK);
    }
    CHECK(drain(queue, completions, REQUEST_COUNT));
    for (uint32_t index = 0; index < REQUEST_COUNT; index += 1) {
        CHECK(completions[index].ticket == index && completions[index].status == KVS_OK);
        CHECK(completions[index].operation == KVS_OPERATION_PUT);
        spans[index] = (kvs_span){back[index], 1000};
        destinations[index] = (kvs_destination){&spans[index], 1};
    }
    memset(back, 0, sizeof back);
    CHECK_STATUS(
        kvs_queue_submit_get(queue, 7, keys, REQUEST_COUNT, destinations, results, 0), KVS_OK);
    CHECK_STATUS(kvs_queue_submit_lookup(queue, 8, keys, REQUEST_COUNT, 1, NULL, 0), KVS_OK);
    CHECK_STATUS(kvs_queue_submit_delete(queue, 9, keys, REQUEST_COUNT, 0), KVS_OK);
    memset(destinations, 0xff, sizeof destinations);  // the queue has copied them
    memset(spans, 0xff, sizeof spans);
    CHECK(drain(queue, completions, 3));
    CHECK(completions[0].ticket == 7 && completions[0].status == KVS_OK);
    CHECK(memcmp(bytes, back, sizeof bytes) == 0 && results[0].status == KVS_OK);
    CHECK(completions[1].count == REQUEST_COUNT && completions[2].count == REQUEST_COUNT);
    kvs_queue_close(queue);
}

/// A full queue says so at once, deadlines run from the submit, and closing does not wait.
static void exercise_bounds(const char *address) {
    kvs_queue *queue = NULL;
    kvs_key key = key_numbered(1);
    kvs_completion completions[2];
    CHECK_STATUS(kvs_queue_open(address, NULL, 0, &queue), KVS_INVALID_ARGUMENT);
    CHECK_STATUS(kvs_queue_open(address, NULL, 2, &queue), KVS_OK);
    CHECK_STATUS(kvs_queue_submit_delete(queue, 1, &key, 1, 200), KVS_OK);
    CHECK_STATUS(kvs_queue_submit_delete(queue, 2, &key, 1, 100), KVS_OK);
    CHECK_STATUS(kvs_queue_submit_delete(queue, 3, &key, 1, 100), KVS_BUSY);
    uint64_t start = now_milliseconds();
    CHECK(drain(queue, completions, 2));
    CHECK(completions[0].status == KVS_DEADLINE_EXCEEDED);
    CHECK(completions[1].status == KVS_DEADLINE_EXCEEDED);
    CHECK(now_milliseconds() - start < 1000);
    kvs_queue_close(queue);
    CHECK_STATUS(kvs_queue_open(address, NULL, 2, &queue), KVS_OK);
    CHECK_STATUS(kvs_queue_submit_delete(queue, 1, &key, 1, 60000), KVS_OK);
    CHECK_STATUS(kvs_queue_submit_delete(queue, 2, &key, 1, 60000), KVS_OK);
    start = now_milliseconds();
    (void)poll(NULL, 0, 50);
    kvs_queue_close(queue);
    CHECK(now_milliseconds() - start < 1000);
    kvs_queue_close(NULL);
}

void test_queue(void) {
    struct server server = server_start("shared");
    exercise_queue(server.unix_address, 1000);
    exercise_queue(server.tcp_address, 2000);
    server_stop(&server);
    server = server_start("silent-after-hello");
    exercise_bounds(server.unix_address);
    server_stop(&server);
}
