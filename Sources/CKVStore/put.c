// SPDX-License-Identifier: Apache-2.0
//
// Storing chunks: through the socket, whole or piece by piece, or through shared memory.
#include "internal.h"

#include <string.h>

static const kvs_put_options default_options;

static kvs_status check_put(kvs_client *client, const kvs_key *key, uint64_t byte_count,
                            const kvs_put_options *options) {
    if (key == NULL || byte_count == 0 ||
        (options->flags & ~(KVS_DURABLE | KVS_POSITIONED)) != 0 || options->level > KVS_LEVEL_Q4) {
        return kvsi_fail(client, KVS_INVALID_ARGUMENT,
                         "a put needs a key and at least one byte, and no flag or level that is "
                         "not named");
    }
    if (byte_count > KVSI_CHUNK_BYTE_COUNT_MAXIMUM ||
        (client->socket >= 0 && byte_count > client->hello.chunk_byte_count_limit)) {
        return kvsi_fail(client, KVS_TOO_LARGE, "%llu bytes are too large; use smaller chunks",
                         (unsigned long long)byte_count);
    }
    return KVS_OK;
}

// Through the socket ------------------------------------------------------------------------------

static void begin_stream(kvs_client *client, const kvs_key *key, uint64_t byte_count,
                         const kvs_put_options *options, kvsi_instant deadline) {
    struct kvsi_put_stream *put = &client->put;
    uint8_t *body = put->head + KVSI_HEADER_BYTE_COUNT;
    struct kvsi_request request = {
        .verb = KVSI_PUT,
        .deadline_milliseconds = kvsi_left_milliseconds(deadline),
        .body_byte_count = (uint32_t)kvsi_encode_put(body, key, byte_count, options),
        .payload_byte_count = byte_count + KVSI_CHECKSUM_BYTE_COUNT,
    };
    kvsi_make_header(client, put->head, &request, body);
    put->is_active = true;
    put->head_is_sent = false;
    put->left_byte_count = byte_count;
    put->request_id = client->next_request_id;
    put->deadline = deadline;
    ckernels_xxh3_reset(put->hash);
}

/// Parts on their way: hashed slices, sent together.
struct batch {
    struct iovec parts[KVSI_IOVEC_COUNT_MAXIMUM];
    size_t part_count;
    size_t byte_count;
    uint8_t trailer[KVSI_CHECKSUM_BYTE_COUNT];
};

static void add_to_batch(struct batch *batch, const void *bytes, size_t byte_count) {
    batch->parts[batch->part_count] = (struct iovec){(void *)(uintptr_t)bytes, byte_count};
    batch->part_count += 1;
    batch->byte_count += byte_count;
}

/// Sends the batch, with the head before the first and the checksum after the last byte.
static kvs_status flush_batch(kvs_client *client, struct batch *batch) {
    struct kvsi_put_stream *put = &client->put;
    if (put->left_byte_count == 0) {
        kvsi_encode_u64(batch->trailer, ckernels_xxh3_digest(put->hash));
        add_to_batch(batch, batch->trailer, sizeof batch->trailer);
    }
    kvs_status status =
        kvsi_transport_send(client, batch->parts, batch->part_count, put->deadline);
    batch->part_count = 0;
    batch->byte_count = 0;
    return status;
}

static kvs_status append_to_stream(kvs_client *client, const kvs_const_span *parts,
                                   size_t part_count) {
    struct kvsi_put_stream *put = &client->put;
    struct batch batch = {.part_count = 0, .byte_count = 0};
    if (!put->head_is_sent) {
        add_to_batch(&batch, put->head, sizeof put->head);
        put->head_is_sent = true;
    }
    for (size_t index = 0; index < part_count; index += 1) {
        const uint8_t *next = parts[index].bytes;
        size_t left = parts[index].byte_count;
        while (left != 0) {
            size_t slice = left < KVSI_SLICE_BYTE_COUNT ? left : KVSI_SLICE_BYTE_COUNT;
            ckernels_xxh3_update(put->hash, next, slice);
            add_to_batch(&batch, next, slice);
            next += slice;
            left -= slice;
            put->left_byte_count -= slice;
            // One place stays free for the checksum.
            if (put->left_byte_count != 0 && (batch.byte_count >= KVSI_SLICE_BYTE_COUNT ||
                                              batch.part_count == KVSI_IOVEC_COUNT_MAXIMUM - 1)) {
                kvs_status status = flush_batch(client, &batch);
                if (status != KVS_OK) {
                    return status;
                }
            }
        }
    }
    return batch.part_count != 0 ? flush_batch(client, &batch) : KVS_OK;
}

static kvs_status finish_stream(kvs_client *client) {
    struct kvsi_response response;
    struct kvsi_put_stream *put = &client->put;
    put->is_active = false;
    kvs_status status =
        kvsi_receive_frame(client, KVSI_PUT, put->request_id, &response, put->deadline);
    return status == KVS_OK ? kvsi_finish_frame(client, &response) : status;
}

kvs_status kvs_put_begin(kvs_client *client, const kvs_key *key, uint64_t byte_count,
                         const kvs_put_options *options, uint32_t deadline_milliseconds) {
    kvsi_instant deadline;
    kvs_status status = kvsi_begin(client, deadline_milliseconds, &deadline);
    options = options != NULL ? options : &default_options;
    if (status == KVS_OK && options->codec != NULL) {
        status = kvsi_fail(client, KVS_INVALID_ARGUMENT,
                           "a codec needs all bytes at once; use kvs_put");
    }
    if (status == KVS_OK) {
        status = check_put(client, key, byte_count, options);
    }
    if (status == KVS_OK) {
        begin_stream(client, key, byte_count, options, deadline);
    }
    return status;
}

/// Whether a put of this process is under way.
static kvs_status check_stream(kvs_client *client) {
    if (client == NULL) {
        return KVS_INVALID_ARGUMENT;
    }
    client->error_text[0] = '\0';
    if (kvsi_fork_guard_tripped(&client->fork_guard)) {
        return kvsi_fail(client, KVS_FORKED, "the put belongs to the parent process");
    }
    if (!client->put.is_active) {
        return kvsi_fail(client, KVS_WRONG_STATE,
                         "no put is under way: it was not begun, or failed before");
    }
    return KVS_OK;
}

kvs_status kvs_put_append(kvs_client *client, const kvs_const_span *parts, size_t part_count) {
    kvs_status status = check_stream(client);
    uint64_t byte_count = 0;
    if (status != KVS_OK) {
        return status;
    }
    if ((parts == NULL && part_count != 0) ||
        !kvsi_part_byte_count(parts, part_count, &byte_count) ||
        byte_count > client->put.left_byte_count) {
        kvs_put_cancel(client);
        return kvsi_fail(client, KVS_INVALID_ARGUMENT,
                         "more bytes than kvs_put_begin announced; the put was given up");
    }
    return append_to_stream(client, parts, part_count);
}

kvs_status kvs_put_finish(kvs_client *client) {
    kvs_status status = check_stream(client);
    if (status != KVS_OK) {
        return status;
    }
    if (client->put.left_byte_count != 0) {
        kvs_put_cancel(client);
        return kvsi_fail(client, KVS_INVALID_ARGUMENT,
                         "fewer bytes than kvs_put_begin announced; the put was given up");
    }
    return finish_stream(client);
}

void kvs_put_cancel(kvs_client *client) {
    if (client == NULL || !client->put.is_active ||
        kvsi_fork_guard_tripped(&client->fork_guard)) {
        return;
    }
    if (client->put.head_is_sent) {
        kvsi_disconnect(client, false);
    }
    client->put.is_active = false;
}

// Through shared memory ---------------------------------------------------------------------------

/// `*may_stream`: whether the socket may do what shared memory did not.
static kvs_status put_shared(kvs_client *client, const kvs_key *key, uint64_t byte_count,
                             const kvs_const_span *parts, size_t part_count,
                             const kvs_put_options *options, kvsi_instant deadline,
                             bool *may_stream) {
    kvs_reservation reservation;
    kvs_status status = kvsi_reserve(client, key, byte_count, options, &reservation, deadline);
    // Busy is told here when other writers fill the staging region, which the socket needs not.
    *may_stream = status == KVS_BUSY;
    if (status == KVS_OK) {
        uint64_t checksum = kvsi_copy_hashed_in(reservation.bytes, parts, part_count);
        status = kvsi_commit(client, &reservation, checksum, deadline);
    }
    *may_stream |= status == KVS_UNSUPPORTED || status == KVS_SYSTEM || status == KVS_NO_LEASE;
    return status;
}

kvs_status kvs_put(kvs_client *client, const kvs_key *key, const kvs_const_span *parts,
                   size_t part_count, const kvs_put_options *options,
                   uint32_t deadline_milliseconds) {
    kvsi_instant deadline;
    uint64_t byte_count = 0;
    options = options != NULL ? options : &default_options;
    if (options->codec != NULL && options->level != KVS_LEVEL_RAW) {
        return kvsi_put_encoded(client, key, parts, part_count, options, deadline_milliseconds);
    }
    kvs_status status = kvsi_begin(client, deadline_milliseconds, &deadline);
    if (status != KVS_OK) {
        return status;
    }
    if ((parts == NULL && part_count != 0) ||
        !kvsi_part_byte_count(parts, part_count, &byte_count)) {
        return kvsi_fail(client, KVS_INVALID_ARGUMENT, "a part has bytes but no address");
    }
    status = check_put(client, key, byte_count, options);
    if (status != KVS_OK) {
        return status;
    }
    if (kvsi_is_shared(client) && byte_count >= client->shared_put_byte_count &&
        byte_count <= client->hello.staging_byte_count_limit) {
        bool may_stream = false;
        status = put_shared(client, key, byte_count, parts, part_count, options, deadline,
                            &may_stream);
        if (!may_stream) {
            return status;
        }
        client->error_text[0] = '\0';
        if (client->socket < 0) {
            return kvsi_fail(client, KVS_CONNECTION_LOST, "%s: connection lost",
                             client->address_text);
        }
    }
    begin_stream(client, key, byte_count, options, deadline);
    status = append_to_stream(client, parts, part_count);
    return status == KVS_OK ? finish_stream(client) : status;
}
