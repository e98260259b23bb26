// SPDX-License-Identifier: Apache-2.0
//
// The KVStore protocol, written from docs/protocol.md alone. Heads and bodies are checked as that
// text demands; the checksum of a payload is not computed per operation, because the other
// protocols carry none.
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kvstore_frames.h"

static const char *kvstore_fault(const struct connection *connection) { return connection->fault; }

static void send_hello(struct connection *connection, bool shared_memory) {
    static const char client_name[] = "load";
    uint8_t body[64] = {1, 1};  // lowest and highest version, 2 bytes reserved
    size_t byte_count = 4;
    const uint64_t features = shared_memory ? FEATURE_SHARED_MEMORY : 0;
    memcpy(body + byte_count, &features, sizeof features);
    byte_count += sizeof features;
    byte_count += 1 + 2;  // namespace and token are empty
    body[byte_count] = sizeof client_name - 1;
    memcpy(body + byte_count + 1, client_name, sizeof client_name - 1);
    byte_count += sizeof client_name;
    if (!frame_send(connection, VERB_HELLO, body, byte_count, NULL)) {
        fail("kvstored took no HELLO");
    }
}

// Takes the answer to HELLO; when shared memory is granted, its first byte carries the arena's
// descriptor.
static void take_hello(struct connection *connection, bool shared_memory) {
    struct frame_header header;
    uint8_t body[BODY_BYTE_COUNT_MAX];
    int descriptor = -1;
    if (frame_take_header_with_descriptor(connection, &header, VERB_HELLO, &descriptor) !=
        OUTCOME_OK) {
        fail("HELLO: %s", connection->fault);
    }
    if (header.status != STATUS_OK) {
        (void)frame_take_error(connection, &header, 0);
        fail("HELLO was refused: status %u, %s", header.status, connection->fault);
    }
    if (header.body_byte_count < HELLO_FIXED_BYTE_COUNT + 1 ||
        !receive_exactly(connection->socket, body, header.body_byte_count) || body[0] != 1) {
        fail("the answer to HELLO breaks the protocol");
    }
    uint64_t granted, arena_byte_count;
    memcpy(&granted, body + 4, sizeof granted);
    memcpy(&arena_byte_count, body + 76, sizeof arena_byte_count);
    if (!shared_memory) return;
    if ((granted & FEATURE_SHARED_MEMORY) == 0 || descriptor < 0) {
        fail("kvstored does not share its arena with this connection");
    }
    connection->arena = arena_map(descriptor, false);
    if (connection->arena.byte_count < arena_byte_count)
        fail("the arena is smaller than announced");
}

static struct connection *kvstore_open(const struct endpoint *endpoint, bool shared_memory) {
    const int socket = socket_connect(endpoint);
    if (socket < 0) return NULL;
    struct connection *connection = calloc(1, sizeof *connection);
    if (connection == NULL) fail("out of memory");
    connection->socket = socket;
    send_hello(connection, shared_memory);
    take_hello(connection, shared_memory);
    return connection;
}

static void kvstore_close(struct connection *connection) {
    close(connection->socket);
    free(connection);
}

static enum outcome kvstore_ping(struct connection *connection) {
    uint8_t nothing[1] = {0};
    if (!frame_send(connection, VERB_PING, nothing, 0, NULL)) {
        return frame_fault(connection, "kvstored took no PING");
    }
    return frame_take_answer(connection, VERB_PING, nothing, 0);
}

static struct put_body put_body_of(const struct value_key *key, const struct value_source *source) {
    struct put_body body = {.chunk_byte_count = source->byte_count,
                            .acknowledge = source->durable ? ACKNOWLEDGE_ON_SSD : 0};
    memcpy(body.key, key->bytes, sizeof body.key);
    return body;
}

static enum outcome kvstore_put(struct connection *connection, const struct value_key *key,
                                const struct value_source *source) {
    const struct put_body body = put_body_of(key, source);
    if (!frame_send(connection, VERB_PUT, &body, sizeof body, source)) {
        return frame_fault(connection, "kvstored took no PUT");
    }
    uint8_t nothing[1] = {0};
    return frame_take_answer(connection, VERB_PUT, nothing, 0);
}

// Asks for room in the staging region, and maps the region when its descriptor comes along.
static enum outcome reserve(struct connection *connection, const struct value_key *key,
                            const struct value_source *source, struct reserve_answer *answer) {
    const struct put_body body = put_body_of(key, source);
    if (!frame_send(connection, VERB_RESERVE, &body, sizeof body, NULL)) {
        return frame_fault(connection, "kvstored took no RESERVE");
    }
    struct frame_header header;
    int descriptor = -1;
    enum outcome outcome =
        frame_take_header_with_descriptor(connection, &header, VERB_RESERVE, &descriptor);
    if (outcome == OUTCOME_OK) {
        outcome = frame_take_body(connection, &header, answer, sizeof *answer);
    }
    if (descriptor >= 0) {
        arena_unmap(&connection->staging);
        connection->staging = arena_map(descriptor, true);
        connection->staged_source = NULL;
    }
    if (outcome == OUTCOME_OK &&
        (answer->staging_offset > connection->staging.byte_count ||
         source->byte_count > connection->staging.byte_count - answer->staging_offset)) {
        return frame_fault(connection, "the reservation does not lie in the staging region");
    }
    return outcome;
}

static enum outcome kvstore_put_local(struct connection *connection, const struct value_key *key,
                                      const struct value_source *source) {
    struct reserve_answer reserved;
    const enum outcome outcome = reserve(connection, key, source, &reserved);
    if (outcome != OUTCOME_OK) return outcome;
    if (connection->staged_source != source->bytes ||
        connection->staged_offset != reserved.staging_offset) {
        memcpy(connection->staging.bytes + reserved.staging_offset, source->bytes,
               source->byte_count);
        connection->staged_source = source->bytes;
        connection->staged_offset = reserved.staging_offset;
    }
    const struct commit_body body = {reserved.reservation_id, source->checksum};
    if (!frame_send(connection, VERB_COMMIT, &body, sizeof body, NULL)) {
        return frame_fault(connection, "kvstored took no COMMIT");
    }
    uint8_t nothing[1] = {0};
    return frame_take_answer(connection, VERB_COMMIT, nothing, 0);
}

static enum outcome kvstore_get(struct connection *connection, const struct value_key *key,
                                uint8_t *destination, size_t byte_count) {
    struct get_body body = {.key_count = 1, .level = 255};
    memcpy(body.key, key->bytes, sizeof body.key);
    if (!frame_send(connection, VERB_GET, &body, sizeof body, NULL)) {
        return frame_fault(connection, "kvstored took no GET");
    }
    struct frame_header header;
    const enum outcome outcome = frame_take_header(connection, &header, VERB_GET);
    if (outcome != OUTCOME_OK) return outcome;
    if (header.status != STATUS_OK) return frame_take_error(connection, &header, 4);
    struct get_answer answer;
    if (header.body_byte_count != sizeof answer || header.payload_byte_count != byte_count) {
        return frame_fault(connection, "kvstored answered a value of another size");
    }
    struct iovec pieces[2] = {{&answer, sizeof answer}, {destination, byte_count}};
    if (!receive_pieces(connection->socket, pieces, 2)) {
        return frame_fault(connection, "the connection ended inside a value");
    }
    if (header.body_checksum != frame_checksum(&answer, sizeof answer) ||
        answer.chunk_byte_count != byte_count) {
        return frame_fault(connection, "the body of the answer to GET is damaged");
    }
    return OUTCOME_OK;
}

// Checks one lease and keeps its id, to be released with the next request.
static enum outcome take_lease(struct connection *connection, const struct lease_record *record,
                               size_t byte_count, const uint8_t **place) {
    if (record->status == STATUS_NOT_FOUND) return OUTCOME_ABSENT;
    if (record->status == STATUS_BUSY) return OUTCOME_BUSY;
    if (record->status != STATUS_OK || record->chunk_byte_count != byte_count ||
        record->arena_offset > connection->arena.byte_count ||
        byte_count > connection->arena.byte_count - record->arena_offset) {
        return frame_fault(connection, "the lease does not fit the value or the arena");
    }
    connection->lease_ids[connection->lease_count] = record->lease_id;
    connection->lease_count += 1;
    *place = connection->arena.bytes + record->arena_offset;
    return OUTCOME_OK;
}

static enum outcome kvstore_lease(struct connection *connection, const struct value_key *keys,
                                  unsigned key_count, size_t byte_count, const uint8_t **places) {
    uint8_t body[BODY_BYTE_COUNT_MAX];
    const struct lease_body front = {.key_count = (uint16_t)key_count,
                                     .released_count = (uint16_t)connection->lease_count};
    memcpy(body, &front, sizeof front);
    size_t body_byte_count = sizeof front;
    const size_t released_byte_count = connection->lease_count * sizeof connection->lease_ids[0];
    memcpy(body + body_byte_count, connection->lease_ids, released_byte_count);
    body_byte_count += released_byte_count;
    for (unsigned index = 0; index < key_count; index += 1) {
        memcpy(body + body_byte_count, keys[index].bytes, BENCH_KEY_BYTE_COUNT);
        body_byte_count += BENCH_KEY_BYTE_COUNT;
    }
    if (!frame_send(connection, VERB_LEASE, body, body_byte_count, NULL)) {
        return frame_fault(connection, "kvstored took no LEASE");
    }
    connection->lease_count = 0;
    struct __attribute__((packed)) {
        struct lease_answer front;
        struct lease_record records[BENCH_BATCH_KEY_COUNT_MAX];
    } answer;
    enum outcome outcome = frame_take_answer(connection, VERB_LEASE, &answer,
                                       sizeof answer.front + key_count * sizeof answer.records[0]);
    if (outcome != OUTCOME_OK) return outcome;
    if (answer.front.record_count != key_count) {
        return frame_fault(connection, "the answer has not one record per key");
    }
    for (unsigned index = 0; index < key_count; index += 1) {
        const enum outcome one =
            take_lease(connection, &answer.records[index], byte_count, &places[index]);
        if (one != OUTCOME_OK) outcome = one;
    }
    return outcome;
}

static enum outcome kvstore_delete(struct connection *connection, const struct value_key *key) {
    struct delete_body body = {.key_count = 1};
    memcpy(body.key, key->bytes, sizeof body.key);
    if (!frame_send(connection, VERB_DELETE, &body, sizeof body, NULL)) {
        return frame_fault(connection, "kvstored took no DELETE");
    }
    struct delete_answer answer;
    const enum outcome outcome = frame_take_answer(connection, VERB_DELETE, &answer, sizeof answer);
    if (outcome != OUTCOME_OK) return outcome;
    return answer.status == STATUS_OK ? OUTCOME_OK : OUTCOME_ABSENT;
}

static enum outcome kvstore_lookup(struct connection *connection, const struct value_key *keys,
                                   unsigned key_count, unsigned *present_count) {
    uint8_t body[BODY_BYTE_COUNT_MAX];
    const struct lookup_body front = {.key_count = (uint16_t)key_count};
    memcpy(body, &front, sizeof front);
    for (unsigned index = 0; index < key_count; index += 1) {
        memcpy(body + sizeof front + index * BENCH_KEY_BYTE_COUNT, keys[index].bytes,
               BENCH_KEY_BYTE_COUNT);
    }
    const size_t body_byte_count = sizeof front + key_count * BENCH_KEY_BYTE_COUNT;
    if (!frame_send(connection, VERB_LOOKUP, body, body_byte_count, NULL)) {
        return frame_fault(connection, "kvstored took no LOOKUP");
    }
    struct __attribute__((packed)) {
        struct lookup_answer front;
        struct lookup_record records[BENCH_BATCH_KEY_COUNT_MAX];
    } answer;
    const enum outcome outcome =
        frame_take_answer(connection, VERB_LOOKUP, &answer,
                    sizeof answer.front + key_count * sizeof answer.records[0]);
    if (outcome != OUTCOME_OK) return outcome;
    if (answer.front.record_count != key_count) {
        return frame_fault(connection, "the answer has not one record per key");
    }
    *present_count = 0;
    for (unsigned index = 0; index < key_count; index += 1) {
        if (answer.records[index].status == STATUS_OK) *present_count += 1;
    }
    return OUTCOME_OK;
}

// Prints the pairs of an answer to STAT: u32 count, then u8 length, name, u64 value each. Names are
// lower-case words with underscores, so JSON needs no escapes.
static enum outcome print_counters(struct connection *connection, const uint8_t *body,
                                   size_t body_byte_count, FILE *output) {
    uint32_t pair_count = 0;
    if (body_byte_count < sizeof pair_count) {
        return frame_fault(connection, "STAT has no pair count");
    }
    memcpy(&pair_count, body, sizeof pair_count);
    size_t next = sizeof pair_count;
    fputc('{', output);
    for (uint32_t index = 0; index < pair_count; index += 1) {
        const size_t name_length = next < body_byte_count ? body[next] : 0;
        uint64_t value;
        if (body_byte_count - next < 1 + name_length + sizeof value) {
            return frame_fault(connection, "the answer to STAT ends inside a pair");
        }
        memcpy(&value, body + next + 1 + name_length, sizeof value);
        fprintf(output, "%s\"%.*s\": %llu", index == 0 ? "" : ", ", (int)name_length,
                (const char *)body + next + 1, (unsigned long long)value);
        next += 1 + name_length + sizeof value;
    }
    fputs("}\n", output);
    return OUTCOME_OK;
}

static enum outcome kvstore_stat(struct connection *connection, FILE *output) {
    const uint8_t node_scope[8] = {0};
    if (!frame_send(connection, VERB_STAT, node_scope, sizeof node_scope, NULL)) {
        return frame_fault(connection, "kvstored took no STAT");
    }
    struct frame_header header;
    if (!receive_exactly(connection->socket, &header, sizeof header)) {
        return frame_fault(connection, "kvstored did not answer STAT");
    }
    const enum outcome outcome =
        frame_check(connection, &header, VERB_STAT, STAT_BYTE_COUNT_MAX);
    if (outcome != OUTCOME_OK) return outcome;
    if (header.status != STATUS_OK) return frame_take_error(connection, &header, 0);
    uint8_t body[STAT_BYTE_COUNT_MAX];
    if (!receive_exactly(connection->socket, body, header.body_byte_count) ||
        header.body_checksum != frame_checksum(body, header.body_byte_count)) {
        return frame_fault(connection, "the answer to STAT is damaged");
    }
    return print_counters(connection, body, header.body_byte_count, output);
}

const struct driver kvstore_driver = {
    .name = "kvstore",
    .immutable = true,
    .open = kvstore_open,
    .close = kvstore_close,
    .ping = kvstore_ping,
    .put = kvstore_put,
    .put_local = kvstore_put_local,
    .get = kvstore_get,
    .lease = kvstore_lease,
    .delete = kvstore_delete,
    .lookup = kvstore_lookup,
    .stat = kvstore_stat,
    .fault = kvstore_fault,
};
