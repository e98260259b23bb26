// SPDX-License-Identifier: Apache-2.0
//
// RESP2 as Redis speaks it. The length of a value is known, so its reply's head has a known length
// too.
#include "driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LINE_BYTE_COUNT_MAX = 256 };

struct connection {
    int socket;
    char fault[LINE_BYTE_COUNT_MAX + 1];
};

static struct connection *redis_open(const struct endpoint *endpoint, bool shared_memory) {
    if (shared_memory) fail("redis has no shared memory");
    const int socket = socket_connect(endpoint);
    if (socket < 0) return NULL;
    struct connection *connection = calloc(1, sizeof *connection);
    if (connection == NULL) fail("out of memory");
    connection->socket = socket;
    strcpy(connection->fault, "redis closed the connection or did not answer in time");
    return connection;
}

static void redis_close(struct connection *connection) {
    close(connection->socket);
    free(connection);
}

static const char *redis_fault(const struct connection *connection) { return connection->fault; }

// Receives `expected` (a whole line with its CRLF), in one call where it is there already. Any
// other line is read to its end and judged.
static enum outcome take_line(struct connection *connection, const char *expected) {
    char line[LINE_BYTE_COUNT_MAX + 1];
    const size_t expected_byte_count = strlen(expected);
    size_t byte_count = 0;
    while (byte_count < expected_byte_count && memcmp(line, expected, byte_count) == 0) {
        const ssize_t received =
            recv(connection->socket, line + byte_count, expected_byte_count - byte_count, 0);
        if (received <= 0) return OUTCOME_FAILED;
        byte_count += (size_t)received;
    }
    if (memcmp(line, expected, byte_count) == 0) return OUTCOME_OK;
    while (byte_count < LINE_BYTE_COUNT_MAX && line[byte_count - 1] != '\n') {
        if (!receive_exactly(connection->socket, line + byte_count, 1)) return OUTCOME_FAILED;
        byte_count += 1;
    }
    line[byte_count] = '\0';
    strcpy(connection->fault, line);
    if (strcmp(line, "$-1\r\n") == 0) return OUTCOME_ABSENT;
    return strncmp(line, "-OOM", 4) == 0 ? OUTCOME_BUSY : OUTCOME_FAILED;
}

static enum outcome redis_ping(struct connection *connection) {
    if (!send_exactly(connection->socket, "*1\r\n$4\r\nPING\r\n", 14)) return OUTCOME_FAILED;
    return take_line(connection, "+PONG\r\n");
}

static enum outcome redis_put(struct connection *connection, const struct value_key *key,
                              const struct value_source *source) {
    char front[128] = "*3\r\n$3\r\nSET\r\n$32\r\n";
    size_t front_byte_count = strlen(front);
    memcpy(front + front_byte_count, key->bytes, sizeof key->bytes);
    front_byte_count += sizeof key->bytes;
    front_byte_count += (size_t)snprintf(front + front_byte_count, sizeof front - front_byte_count,
                                         "\r\n$%zu\r\n", source->byte_count);
    char back[2] = {'\r', '\n'};
    struct iovec pieces[3] = {{front, front_byte_count},
                              {(void *)(uintptr_t)source->bytes, source->byte_count},
                              {back, sizeof back}};
    if (!send_pieces(connection->socket, pieces, 3)) return OUTCOME_FAILED;
    return take_line(connection, "+OK\r\n");
}

static enum outcome redis_get(struct connection *connection, const struct value_key *key,
                              uint8_t *destination, size_t byte_count) {
    char front[64] = "*2\r\n$3\r\nGET\r\n$32\r\n";
    size_t front_byte_count = strlen(front);
    memcpy(front + front_byte_count, key->bytes, sizeof key->bytes);
    front_byte_count += sizeof key->bytes;
    memcpy(front + front_byte_count, "\r\n", 2);
    front_byte_count += 2;
    if (!send_exactly(connection->socket, front, front_byte_count)) return OUTCOME_FAILED;
    char expected[32], back[2];
    snprintf(expected, sizeof expected, "$%zu\r\n", byte_count);
    const enum outcome outcome = take_line(connection, expected);
    if (outcome != OUTCOME_OK) return outcome;
    struct iovec pieces[2] = {{destination, byte_count}, {back, sizeof back}};
    if (!receive_pieces(connection->socket, pieces, 2)) return OUTCOME_FAILED;
    return memcmp(back, "\r\n", 2) == 0 ? OUTCOME_OK : OUTCOME_FAILED;
}

const struct driver redis_driver = {
    .name = "redis",
    .open = redis_open,
    .close = redis_close,
    .ping = redis_ping,
    .put = redis_put,
    .get = redis_get,
    .fault = redis_fault,
};
