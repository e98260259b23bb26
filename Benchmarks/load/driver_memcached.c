// SPDX-License-Identifier: Apache-2.0
//
// memcached's binary protocol (its doc/protocol-binary.xml): 24-byte heads in network byte order.
#include "driver.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    MAGIC_REQUEST = 0x80,
    MAGIC_RESPONSE = 0x81,
    OPCODE_GET = 0x00,
    OPCODE_SET = 0x01,
    OPCODE_NOOP = 0x0a,
    STATUS_OK = 0,
    STATUS_NOT_FOUND = 1,
    STATUS_OUT_OF_MEMORY = 0x82,
    SET_EXTRAS_BYTE_COUNT = 8,
    GET_EXTRAS_BYTE_COUNT = 4,
    ERROR_TEXT_BYTE_COUNT_MAX = 256,
};

struct head {
    uint8_t magic;
    uint8_t opcode;
    uint16_t key_byte_count;
    uint8_t extras_byte_count;
    uint8_t data_type;
    uint16_t status;
    uint32_t body_byte_count;
    uint32_t opaque;
    uint64_t version;
};

_Static_assert(sizeof(struct head) == 24, "memcached heads are 24 bytes");

struct connection {
    int socket;
    char fault[ERROR_TEXT_BYTE_COUNT_MAX + 1];
};

static struct connection *memcached_open(const struct endpoint *endpoint, bool shared_memory) {
    if (shared_memory) fail("memcached has no shared memory");
    const int socket = socket_connect(endpoint);
    if (socket < 0) return NULL;
    struct connection *connection = calloc(1, sizeof *connection);
    if (connection == NULL) fail("out of memory");
    connection->socket = socket;
    strcpy(connection->fault, "memcached closed the connection or did not answer in time");
    return connection;
}

static void memcached_close(struct connection *connection) {
    close(connection->socket);
    free(connection);
}

static const char *memcached_fault(const struct connection *connection) {
    return connection->fault;
}

static bool take_head(struct connection *connection, struct head *head) {
    if (!receive_exactly(connection->socket, head, sizeof *head)) return false;
    head->status = ntohs(head->status);
    head->body_byte_count = ntohl(head->body_byte_count);
    return head->magic == MAGIC_RESPONSE;
}

// Reads the error text of a reply that is not ok.
static enum outcome take_error(struct connection *connection, const struct head *head) {
    if (head->body_byte_count > ERROR_TEXT_BYTE_COUNT_MAX ||
        !receive_exactly(connection->socket, connection->fault, head->body_byte_count)) {
        return OUTCOME_FAILED;
    }
    connection->fault[head->body_byte_count] = '\0';
    if (head->status == STATUS_NOT_FOUND) return OUTCOME_ABSENT;
    return head->status == STATUS_OUT_OF_MEMORY ? OUTCOME_BUSY : OUTCOME_FAILED;
}

static enum outcome memcached_ping(struct connection *connection) {
    struct head head = {.magic = MAGIC_REQUEST, .opcode = OPCODE_NOOP};
    if (!send_exactly(connection->socket, &head, sizeof head)) return OUTCOME_FAILED;
    if (!take_head(connection, &head)) return OUTCOME_FAILED;
    return head.status == STATUS_OK ? OUTCOME_OK : take_error(connection, &head);
}

static enum outcome memcached_put(struct connection *connection, const struct value_key *key,
                                  const struct value_source *source) {
    uint8_t front[sizeof(struct head) + SET_EXTRAS_BYTE_COUNT + BENCH_KEY_BYTE_COUNT] = {0};
    struct head head = {.magic = MAGIC_REQUEST,
                        .opcode = OPCODE_SET,
                        .key_byte_count = htons(BENCH_KEY_BYTE_COUNT),
                        .extras_byte_count = SET_EXTRAS_BYTE_COUNT,
                        .body_byte_count =
                            htonl((uint32_t)(sizeof front - sizeof head + source->byte_count))};
    memcpy(front, &head, sizeof head);
    memcpy(front + sizeof head + SET_EXTRAS_BYTE_COUNT, key->bytes, sizeof key->bytes);
    struct iovec pieces[2] = {{front, sizeof front},
                              {(void *)(uintptr_t)source->bytes, source->byte_count}};
    if (!send_pieces(connection->socket, pieces, 2)) return OUTCOME_FAILED;
    if (!take_head(connection, &head)) return OUTCOME_FAILED;
    return head.status == STATUS_OK ? OUTCOME_OK : take_error(connection, &head);
}

static enum outcome memcached_get(struct connection *connection, const struct value_key *key,
                                  uint8_t *destination, size_t byte_count) {
    uint8_t front[sizeof(struct head) + BENCH_KEY_BYTE_COUNT];
    struct head head = {.magic = MAGIC_REQUEST,
                        .opcode = OPCODE_GET,
                        .key_byte_count = htons(BENCH_KEY_BYTE_COUNT),
                        .body_byte_count = htonl(BENCH_KEY_BYTE_COUNT)};
    memcpy(front, &head, sizeof head);
    memcpy(front + sizeof head, key->bytes, sizeof key->bytes);
    if (!send_exactly(connection->socket, front, sizeof front)) return OUTCOME_FAILED;
    if (!take_head(connection, &head)) return OUTCOME_FAILED;
    if (head.status != STATUS_OK) return take_error(connection, &head);
    if (head.extras_byte_count != GET_EXTRAS_BYTE_COUNT ||
        head.body_byte_count != GET_EXTRAS_BYTE_COUNT + byte_count) {
        strcpy(connection->fault, "memcached answered a value of another size");
        return OUTCOME_FAILED;
    }
    uint8_t extras[GET_EXTRAS_BYTE_COUNT];
    struct iovec pieces[2] = {{extras, sizeof extras}, {destination, byte_count}};
    return receive_pieces(connection->socket, pieces, 2) ? OUTCOME_OK : OUTCOME_FAILED;
}

const struct driver memcached_driver = {
    .name = "memcached",
    .open = memcached_open,
    .close = memcached_close,
    .ping = memcached_ping,
    .put = memcached_put,
    .get = memcached_get,
    .fault = memcached_fault,
};
