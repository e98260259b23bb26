// SPDX-License-Identifier: Apache-2.0
#include "kvstore_frames.h"

#include <stdio.h>
#include <string.h>

#include "checksum.h"

static const uint8_t frame_magic[4] = {'K', 'V', 'S', '1'};

enum outcome frame_fault(struct connection *connection, const char *text) {
    snprintf(connection->fault, sizeof connection->fault, "%s", text);
    return OUTCOME_FAILED;
}

uint32_t frame_checksum(const void *bytes, size_t byte_count) {
    return (uint32_t)checksum_xxh3(bytes, byte_count);
}

bool frame_send(struct connection *connection, uint8_t verb, const void *body,
                         size_t body_byte_count, const struct value_source *source) {
    connection->request_id += 1;
    struct frame_header header = {
        .version = 1,
        .verb = verb,
        .request_id = connection->request_id,
        .deadline_milliseconds = REQUEST_DEADLINE_MILLISECONDS,
        .body_byte_count = (uint32_t)body_byte_count,
        .body_checksum = frame_checksum(body, body_byte_count),
        .payload_byte_count = source == NULL ? 0 : source->byte_count + sizeof source->checksum,
    };
    memcpy(header.magic, frame_magic, sizeof frame_magic);
    header.header_checksum = frame_checksum(&header, sizeof header - 4);
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

enum outcome frame_check(struct connection *connection, const struct frame_header *header,
                                 uint8_t verb, size_t body_byte_count_max) {
    if (memcmp(header->magic, frame_magic, sizeof frame_magic) != 0 ||
        header->header_checksum != frame_checksum(header, sizeof *header - 4)) {
        return frame_fault(connection, "the answer's header is damaged");
    }
    if (header->version != 1 || (header->flags & FLAG_RESPONSE) == 0 ||
        (header->flags & FLAG_MORE) != 0) {
        return frame_fault(connection, "the answer has another version or unexpected flags");
    }
    if (header->body_byte_count > body_byte_count_max) {
        return frame_fault(connection, "the answer's body is larger than its request needs");
    }
    const bool refused_blindly = header->status != STATUS_OK && header->request_id == 0;
    if (!refused_blindly &&
        (header->request_id != connection->request_id || header->verb != verb)) {
        return frame_fault(connection, "the answer belongs to another request");
    }
    return OUTCOME_OK;
}

enum outcome frame_take_error(struct connection *connection, const struct frame_header *header,
                               size_t index_byte_count) {
    uint8_t body[BODY_BYTE_COUNT_MAX];
    if (!receive_exactly(connection->socket, body, header->body_byte_count)) {
        return frame_fault(connection, "the connection ended inside an error text");
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

enum outcome frame_take_header(struct connection *connection, struct frame_header *header,
                                uint8_t verb) {
    if (!receive_exactly(connection->socket, header, sizeof *header)) {
        return frame_fault(connection, "kvstored closed the connection or did not answer in time");
    }
    return frame_check(connection, header, verb, BODY_BYTE_COUNT_MAX);
}

enum outcome frame_take_header_with_descriptor(struct connection *connection,
                                               struct frame_header *header, uint8_t verb,
                                               int *descriptor) {
    const ssize_t received =
        receive_with_descriptor(connection->socket, header, sizeof *header, descriptor);
    const size_t rest = received > 0 ? sizeof *header - (size_t)received : 0;
    if (received <= 0 ||
        !receive_exactly(connection->socket, (uint8_t *)header + received, rest)) {
        return frame_fault(connection, "kvstored closed the connection or did not answer in time");
    }
    return frame_check(connection, header, verb, BODY_BYTE_COUNT_MAX);
}

enum outcome frame_take_body(struct connection *connection, const struct frame_header *header,
                             void *body, size_t body_byte_count) {
    if (header->status != STATUS_OK) return frame_take_error(connection, header, 0);
    if (header->body_byte_count != body_byte_count || header->payload_byte_count != 0) {
        return frame_fault(connection, "the answer has another size than the protocol says");
    }
    if (!receive_exactly(connection->socket, body, body_byte_count)) {
        return frame_fault(connection, "the connection ended inside an answer");
    }
    if (header->body_checksum != frame_checksum(body, body_byte_count)) {
        return frame_fault(connection, "the answer's body is damaged");
    }
    return OUTCOME_OK;
}

enum outcome frame_take_answer(struct connection *connection, uint8_t verb, void *body,
                               size_t body_byte_count) {
    struct frame_header header;
    const enum outcome outcome = frame_take_header(connection, &header, verb);
    if (outcome != OUTCOME_OK) return outcome;
    return frame_take_body(connection, &header, body, body_byte_count);
}
