// SPDX-License-Identifier: Apache-2.0
//
// The KVStore protocol, written from docs/protocol.md alone. Heads and bodies are checked as that
// text demands; the checksum of a payload is not computed per operation, because the other
// protocols carry none.
#include "checksum.h"
#include "driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the driver copies fields as they are");

enum {
    VERB_HELLO = 0x01,
    VERB_PING = 0x02,
    VERB_PUT = 0x10,
    VERB_GET = 0x11,
    VERB_LOOKUP = 0x12,
    VERB_DELETE = 0x13,
    VERB_STAT = 0x14,
    VERB_LEASE = 0x20,
    FLAG_RESPONSE = 1,
    FLAG_MORE = 2,
    FEATURE_SHARED_MEMORY = 1,
    STATUS_OK = 0,
    STATUS_NOT_FOUND = 1,
    STATUS_EXISTS = 2,
    STATUS_BUSY = 3,
    STATUS_NOT_DURABLE = 17,
    BODY_BYTE_COUNT_MAX = 4096,   // larger ones do not occur with batches as small as ours ...
    STAT_BYTE_COUNT_MAX = 65536,  // ... save in the answer to STAT
    ACKNOWLEDGE_ON_SSD = 1,
    ERROR_TEXT_BYTE_COUNT_MAX = 512,
    REQUEST_DEADLINE_MILLISECONDS = 20000,
    HELLO_FIXED_BYTE_COUNT = 140,
};

static const uint8_t frame_magic[4] = {'K', 'V', 'S', '1'};

struct __attribute__((packed)) frame_header {
    uint8_t magic[4];
    uint8_t version;
    uint8_t verb;
    uint16_t flags;
    uint64_t request_id;
    uint32_t deadline_milliseconds;
    uint16_t status;
    uint16_t reserved_a;
    uint32_t body_byte_count;
    uint32_t body_checksum;
    uint64_t payload_byte_count;
    uint32_t reserved_b;
    uint32_t header_checksum;
};

struct __attribute__((packed)) put_body {
    uint8_t key[BENCH_KEY_BYTE_COUNT];
    uint8_t layout_id[16];
    uint64_t chunk_byte_count;
    uint32_t time_to_live_milliseconds;
    uint8_t level;
    uint8_t acknowledge;
    uint8_t reserved[10];
};

struct __attribute__((packed)) get_body {
    uint16_t key_count;
    uint8_t level;
    uint8_t options;
    uint32_t reserved;
    uint8_t layout_id[16];
    uint8_t key[BENCH_KEY_BYTE_COUNT];
};

struct __attribute__((packed)) get_answer {
    uint32_t index;
    uint8_t level;
    uint8_t reserved[3];
    uint64_t chunk_byte_count;
    uint64_t checksum;
    uint8_t layout_id[16];
    uint64_t remaining_milliseconds;
};

// The keys follow.
struct __attribute__((packed)) lookup_body {
    uint16_t key_count;
    uint8_t mode;
    uint8_t reserved[5];
};

// One record per key follows.
struct __attribute__((packed)) lookup_answer {
    uint32_t prefix_count;
    uint32_t record_count;
};

struct __attribute__((packed)) lookup_record {
    uint16_t status;
    uint8_t tier;
    uint8_t level;
    uint32_t load_microseconds;
    uint64_t chunk_byte_count;
    uint64_t remaining_milliseconds;
};

struct __attribute__((packed)) delete_body {
    uint16_t key_count;
    uint8_t reserved[6];
    uint8_t key[BENCH_KEY_BYTE_COUNT];
};

struct __attribute__((packed)) delete_answer {
    uint32_t deleted_count;
    uint32_t key_count;
    uint16_t status;
};

// Released lease ids follow, then the keys.
struct __attribute__((packed)) lease_body {
    uint16_t key_count;
    uint16_t released_count;
    uint32_t lease_milliseconds;
    uint64_t reserved;
};

// One record per key follows.
struct __attribute__((packed)) lease_answer {
    uint32_t record_count;
    uint32_t reserved;
    uint64_t expiry_nanoseconds;
};

struct __attribute__((packed)) lease_record {
    uint16_t status;
    uint8_t level;
    uint8_t reserved[5];
    uint64_t lease_id;
    uint64_t arena_offset;
    uint64_t chunk_byte_count;
    uint64_t checksum;
    uint64_t remaining_milliseconds;
};

_Static_assert(sizeof(struct frame_header) == 48, "docs/protocol.md, section 2");
_Static_assert(sizeof(struct put_body) == 72, "docs/protocol.md, PUT");
_Static_assert(sizeof(struct get_body) == 24 + 32, "docs/protocol.md, GET");
_Static_assert(sizeof(struct get_answer) == 48, "docs/protocol.md, GET");
_Static_assert(sizeof(struct lookup_record) == 24, "docs/protocol.md, LOOKUP");
_Static_assert(sizeof(struct lease_body) == 16, "docs/protocol.md, LEASE");
_Static_assert(sizeof(struct lease_answer) == 16, "docs/protocol.md, LEASE");
_Static_assert(sizeof(struct lease_record) == 48, "docs/protocol.md, LEASE");
_Static_assert(16 + BENCH_BATCH_KEY_COUNT_MAX * 48 <= BODY_BYTE_COUNT_MAX, "a whole answer fits");

struct connection {
    int socket;
    uint64_t request_id;
    unsigned lease_count;
    uint64_t lease_ids[BENCH_BATCH_KEY_COUNT_MAX];
    struct shared_arena arena;
    char fault[ERROR_TEXT_BYTE_COUNT_MAX + 64];
};

static const char *kvstore_fault(const struct connection *connection) { return connection->fault; }

static enum outcome fault(struct connection *connection, const char *text) {
    snprintf(connection->fault, sizeof connection->fault, "%s", text);
    return OUTCOME_FAILED;
}

static uint32_t short_checksum(const void *bytes, size_t byte_count) {
    return (uint32_t)checksum_xxh3(bytes, byte_count);
}

// Sends one frame. The request waits for its answer, so one id at a time is open.
static bool send_request(struct connection *connection, uint8_t verb, const void *body,
                         size_t body_byte_count, const struct value_source *source) {
    connection->request_id += 1;
    struct frame_header header = {
        .version = 1,
        .verb = verb,
        .request_id = connection->request_id,
        .deadline_milliseconds = REQUEST_DEADLINE_MILLISECONDS,
        .body_byte_count = (uint32_t)body_byte_count,
        .body_checksum = short_checksum(body, body_byte_count),
        .payload_byte_count = source == NULL ? 0 : source->byte_count + sizeof source->checksum,
    };
    memcpy(header.magic, frame_magic, sizeof frame_magic);
    header.header_checksum = short_checksum(&header, sizeof header - 4);
    uint8_t front[sizeof header + BODY_BYTE_COUNT_MAX];
    if (body_byte_count > BODY_BYTE_COUNT_MAX) fail("a request body of %zu bytes", body_byte_count);
    memcpy(front, &header, sizeof header);
    memcpy(front + sizeof header, body, body_byte_count);
    if (source == NULL)
        return send_exactly(connection->socket, front, sizeof header + body_byte_count);
    uint64_t checksum = source->checksum;
    struct iovec pieces[3] = {{front, sizeof header + body_byte_count},
                              {(void *)(uintptr_t)source->bytes, source->byte_count},
                              {&checksum, sizeof checksum}};
    return send_pieces(connection->socket, pieces, 3);
}

// Checks what every answer must satisfy.
static enum outcome check_header(struct connection *connection, const struct frame_header *header,
                                 uint8_t verb, size_t body_byte_count_max) {
    if (memcmp(header->magic, frame_magic, sizeof frame_magic) != 0 ||
        header->header_checksum != short_checksum(header, sizeof *header - 4)) {
        return fault(connection, "the answer's header is damaged");
    }
    if (header->version != 1 || (header->flags & FLAG_RESPONSE) == 0 ||
        (header->flags & FLAG_MORE) != 0) {
        return fault(connection, "the answer has another version or unexpected flags");
    }
    if (header->body_byte_count > body_byte_count_max) {
        return fault(connection, "the answer's body is larger than its request needs");
    }
    const bool refused_blindly = header->status != STATUS_OK && header->request_id == 0;
    if (!refused_blindly &&
        (header->request_id != connection->request_id || header->verb != verb)) {
        return fault(connection, "the answer belongs to another request");
    }
    return OUTCOME_OK;
}

// Reads the body of an answer that is not ok; `index_byte_count` is 4 where an index precedes the
// text.
static enum outcome take_error(struct connection *connection, const struct frame_header *header,
                               size_t index_byte_count) {
    uint8_t body[BODY_BYTE_COUNT_MAX];
    if (!receive_exactly(connection->socket, body, header->body_byte_count)) {
        return fault(connection, "the connection ended inside an error text");
    }
    if (header->status == STATUS_NOT_FOUND) return OUTCOME_ABSENT;
    if (header->status == STATUS_EXISTS) return OUTCOME_EXISTS;
    if (header->status == STATUS_BUSY) return OUTCOME_BUSY;
    if (header->status == STATUS_NOT_DURABLE) return OUTCOME_NOT_DURABLE;
    int text_byte_count = 0;
    if (header->body_byte_count > index_byte_count + 2) {
        text_byte_count = (int)(header->body_byte_count - index_byte_count - 2);
        if (text_byte_count > ERROR_TEXT_BYTE_COUNT_MAX)
            text_byte_count = ERROR_TEXT_BYTE_COUNT_MAX;
    }
    snprintf(connection->fault, sizeof connection->fault, "status %u: %.*s", header->status,
             text_byte_count, (const char *)body + index_byte_count + 2);
    return OUTCOME_FAILED;
}

static enum outcome take_header(struct connection *connection, struct frame_header *header,
                                uint8_t verb) {
    if (!receive_exactly(connection->socket, header, sizeof *header)) {
        return fault(connection, "kvstored closed the connection or did not answer in time");
    }
    return check_header(connection, header, verb, BODY_BYTE_COUNT_MAX);
}

// Takes an answer with a body of one known size and no payload.
static enum outcome take_answer(struct connection *connection, uint8_t verb, void *body,
                                size_t body_byte_count) {
    struct frame_header header;
    const enum outcome outcome = take_header(connection, &header, verb);
    if (outcome != OUTCOME_OK) return outcome;
    if (header.status != STATUS_OK) return take_error(connection, &header, 0);
    if (header.body_byte_count != body_byte_count || header.payload_byte_count != 0) {
        return fault(connection, "the answer has another size than the protocol says");
    }
    if (!receive_exactly(connection->socket, body, body_byte_count)) {
        return fault(connection, "the connection ended inside an answer");
    }
    if (header.body_checksum != short_checksum(body, body_byte_count)) {
        return fault(connection, "the answer's body is damaged");
    }
    return OUTCOME_OK;
}

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
    if (!send_request(connection, VERB_HELLO, body, byte_count, NULL)) {
        fail("kvstored took no HELLO");
    }
}

// Takes the answer to HELLO; when shared memory is granted, its first byte carries the arena's
// descriptor.
static void take_hello(struct connection *connection, bool shared_memory) {
    struct frame_header header;
    uint8_t body[BODY_BYTE_COUNT_MAX];
    int descriptor = -1;
    const ssize_t received =
        receive_with_descriptor(connection->socket, &header, sizeof header, &descriptor);
    const size_t rest = received > 0 ? sizeof header - (size_t)received : 0;
    if (received <= 0 ||
        !receive_exactly(connection->socket, (uint8_t *)&header + received, rest)) {
        fail("kvstored did not answer HELLO");
    }
    if (check_header(connection, &header, VERB_HELLO, BODY_BYTE_COUNT_MAX) != OUTCOME_OK) {
        fail("HELLO: %s", connection->fault);
    }
    if (header.status != STATUS_OK) {
        (void)take_error(connection, &header, 0);
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
    connection->arena = arena_map(descriptor);
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
    if (!send_request(connection, VERB_PING, nothing, 0, NULL)) {
        return fault(connection, "kvstored took no PING");
    }
    return take_answer(connection, VERB_PING, nothing, 0);
}

static enum outcome kvstore_put(struct connection *connection, const struct value_key *key,
                                const struct value_source *source) {
    struct put_body body = {.chunk_byte_count = source->byte_count,
                            .acknowledge = source->durable ? ACKNOWLEDGE_ON_SSD : 0};
    memcpy(body.key, key->bytes, sizeof body.key);
    if (!send_request(connection, VERB_PUT, &body, sizeof body, source)) {
        return fault(connection, "kvstored took no PUT");
    }
    uint8_t nothing[1] = {0};
    return take_answer(connection, VERB_PUT, nothing, 0);
}

static enum outcome kvstore_get(struct connection *connection, const struct value_key *key,
                                uint8_t *destination, size_t byte_count) {
    struct get_body body = {.key_count = 1, .level = 255};
    memcpy(body.key, key->bytes, sizeof body.key);
    if (!send_request(connection, VERB_GET, &body, sizeof body, NULL)) {
        return fault(connection, "kvstored took no GET");
    }
    struct frame_header header;
    const enum outcome outcome = take_header(connection, &header, VERB_GET);
    if (outcome != OUTCOME_OK) return outcome;
    if (header.status != STATUS_OK) return take_error(connection, &header, 4);
    struct get_answer answer;
    if (header.body_byte_count != sizeof answer || header.payload_byte_count != byte_count) {
        return fault(connection, "kvstored answered a value of another size");
    }
    struct iovec pieces[2] = {{&answer, sizeof answer}, {destination, byte_count}};
    if (!receive_pieces(connection->socket, pieces, 2)) {
        return fault(connection, "the connection ended inside a value");
    }
    if (header.body_checksum != short_checksum(&answer, sizeof answer) ||
        answer.chunk_byte_count != byte_count) {
        return fault(connection, "the body of the answer to GET is damaged");
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
        return fault(connection, "the lease does not fit the value or the arena");
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
    if (!send_request(connection, VERB_LEASE, body, body_byte_count, NULL)) {
        return fault(connection, "kvstored took no LEASE");
    }
    connection->lease_count = 0;
    struct __attribute__((packed)) {
        struct lease_answer front;
        struct lease_record records[BENCH_BATCH_KEY_COUNT_MAX];
    } answer;
    enum outcome outcome = take_answer(connection, VERB_LEASE, &answer,
                                       sizeof answer.front + key_count * sizeof answer.records[0]);
    if (outcome != OUTCOME_OK) return outcome;
    if (answer.front.record_count != key_count) {
        return fault(connection, "the answer has not one record per key");
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
    if (!send_request(connection, VERB_DELETE, &body, sizeof body, NULL)) {
        return fault(connection, "kvstored took no DELETE");
    }
    struct delete_answer answer;
    const enum outcome outcome = take_answer(connection, VERB_DELETE, &answer, sizeof answer);
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
    if (!send_request(connection, VERB_LOOKUP, body, body_byte_count, NULL)) {
        return fault(connection, "kvstored took no LOOKUP");
    }
    struct __attribute__((packed)) {
        struct lookup_answer front;
        struct lookup_record records[BENCH_BATCH_KEY_COUNT_MAX];
    } answer;
    const enum outcome outcome =
        take_answer(connection, VERB_LOOKUP, &answer,
                    sizeof answer.front + key_count * sizeof answer.records[0]);
    if (outcome != OUTCOME_OK) return outcome;
    if (answer.front.record_count != key_count) {
        return fault(connection, "the answer has not one record per key");
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
    if (body_byte_count < sizeof pair_count) return fault(connection, "STAT has no pair count");
    memcpy(&pair_count, body, sizeof pair_count);
    size_t next = sizeof pair_count;
    fputc('{', output);
    for (uint32_t index = 0; index < pair_count; index += 1) {
        const size_t name_length = next < body_byte_count ? body[next] : 0;
        uint64_t value;
        if (body_byte_count - next < 1 + name_length + sizeof value) {
            return fault(connection, "the answer to STAT ends inside a pair");
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
    if (!send_request(connection, VERB_STAT, node_scope, sizeof node_scope, NULL)) {
        return fault(connection, "kvstored took no STAT");
    }
    struct frame_header header;
    if (!receive_exactly(connection->socket, &header, sizeof header)) {
        return fault(connection, "kvstored did not answer STAT");
    }
    const enum outcome outcome =
        check_header(connection, &header, VERB_STAT, STAT_BYTE_COUNT_MAX);
    if (outcome != OUTCOME_OK) return outcome;
    if (header.status != STATUS_OK) return take_error(connection, &header, 0);
    uint8_t body[STAT_BYTE_COUNT_MAX];
    if (!receive_exactly(connection->socket, body, header.body_byte_count) ||
        header.body_checksum != short_checksum(body, header.body_byte_count)) {
        return fault(connection, "the answer to STAT is damaged");
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
    .get = kvstore_get,
    .lease = kvstore_lease,
    .delete = kvstore_delete,
    .lookup = kvstore_lookup,
    .stat = kvstore_stat,
    .fault = kvstore_fault,
};
