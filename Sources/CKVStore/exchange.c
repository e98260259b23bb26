// SPDX-License-Identifier: Apache-2.0
//
// One request, one response frame. One request is in flight at a time, so a frame that answers
// anything else means that the two sides are out of step, and the connection is closed.
#include "internal.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

uint32_t kvsi_left_milliseconds(kvsi_instant deadline) {
    kvsi_instant now = kvsi_now();
    uint64_t left = deadline > now ? (deadline - now) / KVSI_NANOSECONDS_PER_MILLISECOND : 0;
    return left == 0 ? 1 : (uint32_t)left;  // 0 would mean ten seconds
}

void kvsi_make_header(kvs_client *client, uint8_t *header, const struct kvsi_request *request,
                      const uint8_t *body) {
    client->next_request_id += 1;
    struct kvsi_request numbered = *request;
    numbered.id = client->next_request_id;
    kvsi_encode_header(header, &numbered, body);
}

kvs_status kvsi_send_request(kvs_client *client, uint8_t verb, size_t body_byte_count,
                             kvsi_instant deadline, uint64_t *request_id) {
    struct kvsi_request request = {
        .verb = verb,
        .deadline_milliseconds = kvsi_left_milliseconds(deadline),
        .body_byte_count = (uint32_t)body_byte_count,
    };
    kvsi_make_header(client, client->request, &request, kvsi_request_body(client));
    *request_id = client->next_request_id;
    struct iovec part = {client->request, KVSI_HEADER_BYTE_COUNT + body_byte_count};
    return kvsi_transport_send(client, &part, 1, deadline);
}

static kvs_status break_off(kvs_client *client, const char *what) {
    kvsi_disconnect(client, true);
    return kvsi_fail(client, KVS_PROTOCOL_ERROR,
                     "%s: %s; is this a kvstored, and of a version that suits this library?",
                     client->address_text, what);
}

kvs_status kvsi_refuse_body(kvs_client *client, const char *verb) {
    char what[64];
    (void)snprintf(what, sizeof what, "the answer to %s breaks the protocol", verb);
    return break_off(client, what);
}

kvs_status kvsi_receive_frame(kvs_client *client, uint8_t verb, uint64_t request_id,
                              struct kvsi_response *response, kvsi_instant deadline) {
    uint8_t header[KVSI_HEADER_BYTE_COUNT];
    if (client->received_descriptor >= 0) {
        (void)close(client->received_descriptor);
        client->received_descriptor = -1;
    }
    kvs_status status = kvsi_transport_receive(client, header, sizeof header, deadline);
    if (status != KVS_OK) {
        return status;
    }
    if (!kvsi_decode_header(header, response)) {
        return break_off(client, "a frame of the daemon is malformed");
    }
    if (!kvsi_answers(response, verb, request_id)) {
        return break_off(client, "the daemon answered something else than was asked");
    }
    status = kvsi_transport_receive(client, client->response_body, response->body_byte_count,
                                    deadline);
    if (status != KVS_OK) {
        return status;
    }
    if (!kvsi_body_is_intact(response, client->response_body)) {
        return break_off(client, "a frame's body was damaged on the way");
    }
    return KVS_OK;
}

kvs_status kvsi_finish_frame(kvs_client *client, const struct kvsi_response *response) {
    kvs_status status = kvsi_decode_status(response->status);
    if (status == KVS_OK) {
        // A greeting alone is no proof of life: requests may still hang behind it.
        if (response->verb != KVSI_HELLO) {
            kvsi_note_success(client);
        }
        if ((response->flags & KVSI_FLAG_FINAL) != 0) {
            kvsi_disconnect(client, false);
        }
        return KVS_OK;
    }
    char text[KVSI_ERROR_TEXT_BYTE_COUNT];
    if (!kvsi_decode_error_text(client->response_body, response->body_byte_count, text)) {
        return break_off(client, "an error text of the daemon is malformed");
    }
    bool closes = kvsi_status_closes(status) || (response->flags & KVSI_FLAG_FINAL) != 0 ||
                  response->id == 0;
    if (closes) {
        kvsi_disconnect(client, true);
    } else {
        kvsi_note_success(client);
    }
    return kvsi_fail(client, status, "%s: %s%s%s", client->address_text, kvs_status_text(status),
                     text[0] != '\0' ? ": " : "", text);
}

kvs_status kvsi_exchange(kvs_client *client, uint8_t verb, size_t body_byte_count,
                         size_t *response_byte_count, kvsi_instant deadline) {
    uint64_t request_id = 0;
    struct kvsi_response response;
    kvs_status status = kvsi_send_request(client, verb, body_byte_count, deadline, &request_id);
    if (status == KVS_OK) {
        status = kvsi_receive_frame(client, verb, request_id, &response, deadline);
    }
    if (status != KVS_OK) {
        return status;
    }
    *response_byte_count = response.body_byte_count;
    return kvsi_finish_frame(client, &response);
}
