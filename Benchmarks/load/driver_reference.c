// SPDX-License-Identifier: Apache-2.0
//
// The protocol of reference/server.c.
#include "../reference/wire.h"
#include "driver.h"

#include <stdlib.h>
#include <unistd.h>

struct connection {
    int socket;
    struct shared_arena arena;
};

static struct connection *reference_open(const struct endpoint *endpoint, bool shared_memory) {
    const int socket = socket_connect(endpoint);
    if (socket < 0) return NULL;
    struct connection *connection = calloc(1, sizeof *connection);
    if (connection == NULL) fail("out of memory");
    connection->socket = socket;
    if (shared_memory) {
        const struct reference_request request = {.operation = REFERENCE_ARENA};
        struct reference_reply reply;
        int descriptor = -1;
        if (!send_exactly(socket, &request, sizeof request) ||
            receive_with_descriptor(socket, &reply, sizeof reply, &descriptor) != sizeof reply ||
            descriptor < 0) {
            fail("the reference server sent no arena");
        }
        connection->arena = arena_map(descriptor, false);
    }
    return connection;
}

static void reference_close(struct connection *connection) {
    close(connection->socket);
    free(connection);
}

static const char *reference_fault(const struct connection *connection) {
    (void)connection;
    return "the reference server refused, closed the connection or did not answer in time";
}

static bool take_reply(struct connection *connection, struct reference_reply *reply) {
    return receive_exactly(connection->socket, reply, sizeof *reply) &&
           reply->status == REFERENCE_OK;
}

static enum outcome reference_ping(struct connection *connection) {
    const struct reference_request request = {.operation = REFERENCE_PING};
    struct reference_reply reply;
    if (!send_exactly(connection->socket, &request, sizeof request)) return OUTCOME_FAILED;
    return take_reply(connection, &reply) ? OUTCOME_OK : OUTCOME_FAILED;
}

static enum outcome reference_put(struct connection *connection, const struct value_key *key,
                                  const struct value_source *source) {
    struct reference_request request = {.operation = REFERENCE_PUT,
                                        .value_bytes = (uint32_t)source->byte_count,
                                        .arena_offset = key->arena_offset};
    struct iovec pieces[2] = {{&request, sizeof request},
                              {(void *)(uintptr_t)source->bytes, source->byte_count}};
    struct reference_reply reply;
    if (!send_pieces(connection->socket, pieces, 2)) return OUTCOME_FAILED;
    return take_reply(connection, &reply) ? OUTCOME_OK : OUTCOME_FAILED;
}

static enum outcome reference_get(struct connection *connection, const struct value_key *key,
                                  uint8_t *destination, size_t byte_count) {
    const struct reference_request request = {.operation = REFERENCE_GET,
                                              .value_bytes = (uint32_t)byte_count,
                                              .arena_offset = key->arena_offset};
    struct reference_reply reply;
    if (!send_exactly(connection->socket, &request, sizeof request)) return OUTCOME_FAILED;
    if (!take_reply(connection, &reply) || reply.value_bytes != byte_count) return OUTCOME_FAILED;
    struct iovec piece = {destination, byte_count};
    return receive_pieces(connection->socket, &piece, 1) ? OUTCOME_OK : OUTCOME_FAILED;
}

static enum outcome reference_lease(struct connection *connection, const struct value_key *keys,
                                    unsigned key_count, size_t byte_count, const uint8_t **places) {
    struct reference_request requests[BENCH_BATCH_KEY_COUNT_MAX];
    struct reference_reply replies[BENCH_BATCH_KEY_COUNT_MAX];
    for (unsigned index = 0; index < key_count; index += 1) {
        requests[index] = (struct reference_request){.operation = REFERENCE_LEASE,
                                                     .value_bytes = (uint32_t)byte_count,
                                                     .arena_offset = keys[index].arena_offset};
    }
    if (!send_exactly(connection->socket, requests, key_count * sizeof requests[0]) ||
        !receive_exactly(connection->socket, replies, key_count * sizeof replies[0])) {
        return OUTCOME_FAILED;
    }
    for (unsigned index = 0; index < key_count; index += 1) {
        if (replies[index].status != REFERENCE_OK) return OUTCOME_FAILED;
        places[index] = connection->arena.bytes + replies[index].arena_offset;
    }
    return OUTCOME_OK;
}

const struct driver reference_driver = {
    .name = "reference",
    .open = reference_open,
    .close = reference_close,
    .ping = reference_ping,
    .put = reference_put,
    .get = reference_get,
    .lease = reference_lease,
    .fault = reference_fault,
};
