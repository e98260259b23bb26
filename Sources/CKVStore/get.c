// SPDX-License-Identifier: Apache-2.0
//
// Reading chunks into the caller's memory: in place and copied out where memory is shared, through
// the socket otherwise. What shared memory could not serve (too many leases, a lease that ran out
// while we copied) is asked for again through the socket.
#include "internal.h"

#include <stdlib.h>
#include <string.h>

/// Marks a key that the socket must serve; never leaves this file.
#define BY_SOCKET ((kvs_status)-1)

enum { LEASE_BATCH_KEY_COUNT = 64 };

/// One call of kvs_get, kvs_get_with, kvs_get_at or kvs_get_range.
struct get_call {
    kvs_client *client;
    const kvs_key *keys;
    size_t key_count;
    const kvs_destination *destinations;  // or:
    kvs_provider *provide;
    void *context;
    kvs_get_result *results;
    const kvs_layout *expected_layout;
    const struct kvsi_range *range;  // NULL: whole chunks
    kvs_level level;
    const kvs_codec *codec;  // NULL: containers are not decoded
    kvsi_instant deadline;
};

/// Where one chunk goes.
struct target {
    const kvs_span *spans;
    size_t span_count;
    kvs_span single;
};

/// Finds room for a chunk; false: there is none.
static bool find_target(const struct get_call *call, size_t index, uint64_t byte_count,
                        struct target *target) {
    if (call->provide != NULL) {
        void *bytes = call->provide(call->context, index, byte_count);
        target->single = (kvs_span){bytes, (size_t)byte_count};
        target->spans = &target->single;
        target->span_count = 1;
        return bytes != NULL;
    }
    uint64_t capacity = 0;
    target->spans = call->destinations[index].spans;
    target->span_count = call->destinations[index].span_count;
    return kvsi_span_byte_count(target->spans, target->span_count, &capacity) &&
           capacity >= byte_count;
}

static void set_result(const struct get_call *call, size_t index, kvs_status status,
                       uint64_t byte_count, uint64_t remaining_milliseconds) {
    bool has_size = status == KVS_OK || status == KVS_DESTINATION_TOO_SMALL;
    call->results[index] = (kvs_get_result){
        .status = status,
        .byte_count = has_size ? byte_count : 0,
        .remaining_milliseconds = has_size ? remaining_milliseconds : 0,
    };
}

static void set_results(const struct get_call *call, size_t first, size_t count,
                        kvs_status status) {
    for (size_t index = first; index < first + count; index += 1) {
        set_result(call, index, status, 0, 0);
    }
}

// Through the socket ------------------------------------------------------------------------------

static bool is_per_key(const struct get_call *call, kvs_status status) {
    return status == KVS_NOT_FOUND || status == KVS_LAYOUT_MISMATCH ||
           status == KVS_DEADLINE_EXCEEDED ||
           (status == KVS_LIMIT_EXCEEDED && call->range != NULL);
}

/// Whether chunks may come at a level: raw where it was asked for, and always.
static bool is_level_wanted(const struct get_call *call, uint8_t level) {
    return level == KVS_LEVEL_RAW || (call->level != KVS_LEVEL_RAW && level <= KVS_LEVEL_Q4);
}

/// Whether a payload of `byte_count` bytes is what was asked for of this chunk.
static bool is_wanted(const struct get_call *call, const kvs_chunk_description *chunk,
                      uint64_t byte_count) {
    const struct kvsi_range *range = call->range;
    if (range == NULL) {
        return byte_count == chunk->byte_count;
    }
    return byte_count == range->byte_count && range->byte_count <= chunk->byte_count &&
           range->offset <= chunk->byte_count - range->byte_count;
}

/// Decodes a container to its destination.
static void decode_chunk(const struct get_call *call, size_t index,
                         const kvs_chunk_description *chunk, const uint8_t *container) {
    struct target target;
    uint64_t byte_count = 0;
    kvs_status status = kvsi_decoded_byte_count(call->client, call->codec, container,
                                                chunk->byte_count, &byte_count);
    if (status == KVS_OK && !find_target(call, index, byte_count, &target)) {
        status = KVS_DESTINATION_TOO_SMALL;
    } else if (status == KVS_OK) {
        status = kvsi_decode_to_spans(call->client, call->codec, container, chunk->byte_count,
                                      target.spans, target.span_count, byte_count);
    }
    set_result(call, index, status, byte_count, chunk->remaining_milliseconds);
}

/// Takes a container of `byte_count` bytes, and its payload to the destination.
static kvs_status receive_container(const struct get_call *call, size_t index,
                                    const kvs_chunk_description *chunk, uint64_t byte_count) {
    uint8_t *container = malloc((size_t)byte_count + 1);
    const kvs_span span = {container, (size_t)byte_count};
    uint64_t checksum = 0;
    if (container == NULL) {
        set_result(call, index, KVS_OUT_OF_MEMORY, 0, 0);
        return kvsi_transport_discard(call->client, byte_count, call->deadline);
    }
    kvs_status status = kvsi_transport_receive_spans(call->client, &span, 1, byte_count, &checksum,
                                                     call->deadline);
    if (status == KVS_OK && checksum != chunk->checksum) {
        set_result(call, index, KVS_DAMAGED, 0, 0);
    } else if (status == KVS_OK) {
        decode_chunk(call, index, chunk, container);
    }
    free(container);
    return status;
}

/// Takes the `byte_count` bytes of an `ok` frame's payload to their destination, or past it.
static kvs_status receive_chunk(const struct get_call *call, size_t index,
                                const struct kvsi_get_record *record, uint64_t byte_count) {
    kvs_client *client = call->client;
    const kvs_chunk_description *chunk = &record->description;
    if (call->codec != NULL && chunk->level != KVS_LEVEL_RAW) {
        return receive_container(call, index, chunk, byte_count);
    }
    struct target target;
    if (!find_target(call, index, byte_count, &target)) {
        kvs_status status = kvsi_transport_discard(client, byte_count, call->deadline);
        set_result(call, index, KVS_DESTINATION_TOO_SMALL, byte_count,
                   chunk->remaining_milliseconds);
        return status;
    }
    uint64_t checksum = 0;
    kvs_status status = kvsi_transport_receive_spans(
        client, target.spans, target.span_count, byte_count, &checksum, call->deadline);
    if (status == KVS_OK) {
        set_result(call, index, checksum == chunk->checksum ? KVS_OK : KVS_DAMAGED, byte_count,
                   chunk->remaining_milliseconds);
    }
    return status;
}

/// Receives the answer for one key.
static kvs_status receive_key(const struct get_call *call, uint64_t request_id, size_t first,
                              size_t place, size_t count) {
    kvs_client *client = call->client;
    struct kvsi_response response;
    kvs_status status =
        kvsi_receive_frame(client, KVSI_GET, request_id, &response, call->deadline);
    if (status != KVS_OK) {
        return status;
    }
    bool has_more = (response.flags & KVSI_FLAG_MORE) != 0;
    if (has_more && place + 1 == count) {
        return kvsi_refuse_body(client, "GET");
    }
    status = kvsi_decode_status(response.status);
    if (status == KVS_OK) {
        struct kvsi_get_record record;
        if (!kvsi_decode_get(client->response_body, response.body_byte_count, &record) ||
            record.index != place || !is_level_wanted(call, record.description.level) ||
            !is_wanted(call, &record.description, response.payload_byte_count) ||
            (!has_more && place + 1 != count)) {
            return kvsi_refuse_body(client, "GET");
        }
        status = receive_chunk(call, first + place, &record, response.payload_byte_count);
        call->results[first + place].level = record.description.level;
        return status;
    }
    bool is_final = (response.flags & KVSI_FLAG_FINAL) != 0;
    if (!is_per_key(call, status) || is_final) {
        // The whole request was refused.
        return has_more ? kvsi_refuse_body(client, "GET") : kvsi_finish_frame(client, &response);
    }
    uint32_t index = 0;
    char text[KVSI_ERROR_TEXT_BYTE_COUNT];
    if (!kvsi_decode_get_miss(client->response_body, response.body_byte_count, &index, text) ||
        index != place || (!has_more && place + 1 != count)) {
        return kvsi_refuse_body(client, "GET");
    }
    set_result(call, first + place, status, 0, 0);
    return KVS_OK;
}

static kvs_status get_batch(const struct get_call *call, size_t first, size_t count) {
    kvs_client *client = call->client;
    uint64_t request_id = 0;
    size_t body_byte_count = kvsi_encode_get(kvsi_request_body(client), call->keys + first, count,
                                             (uint8_t)call->level, call->expected_layout,
                                             call->range);
    kvs_status status =
        kvsi_send_request(client, KVSI_GET, body_byte_count, call->deadline, &request_id);
    for (size_t place = 0; place < count; place += 1) {
        if (status == KVS_OK) {
            status = receive_key(call, request_id, first, place, count);
        }
        if (status != KVS_OK) {
            set_results(call, first + place, count - place, status);
            return status;
        }
    }
    kvsi_note_success(client);
    return KVS_OK;
}

static kvs_status get_by_socket(const struct get_call *call, size_t first, size_t count) {
    size_t limit = kvsi_batch_key_count(call->client, call->range != NULL ? 40 : 24);
    while (count != 0) {
        size_t batch = count < limit ? count : limit;
        kvs_status status = get_batch(call, first, batch);
        first += batch;
        count -= batch;
        if (status != KVS_OK) {
            set_results(call, first, count, status);
            return status;
        }
    }
    return KVS_OK;
}

// Through shared memory ---------------------------------------------------------------------------

static void copy_leased(const struct get_call *call, size_t index, const kvs_lease *lease) {
    struct target target;
    kvs_status status = KVS_OK;
    if (lease->status != KVS_OK) {
        status = lease->status == KVS_NOT_FOUND ? KVS_NOT_FOUND : BY_SOCKET;
    } else if (kvsi_now() >= call->deadline) {
        status = KVS_DEADLINE_EXCEEDED;
    } else if (!find_target(call, index, lease->byte_count, &target)) {
        status = KVS_DESTINATION_TOO_SMALL;
    } else {
        uint64_t checksum = kvsi_copy_hashed_out(target.spans, target.span_count, lease->bytes,
                                                 lease->byte_count);
        status = checksum == lease->checksum ? KVS_OK : BY_SOCKET;
    }
    set_result(call, index, status, lease->byte_count, lease->remaining_milliseconds);
}

/// Leases a few keys, copies them out and gives the leases back.
static kvs_status get_shared_batch(const struct get_call *call, size_t first, size_t count) {
    kvs_lease leases[LEASE_BATCH_KEY_COUNT];
    // A short lease: should nothing more be asked, the chunks are soon free to be evicted again.
    kvs_status status =
        kvsi_lease_batch(call->client, call->keys + first, count,
                         kvsi_left_milliseconds(call->deadline), leases, call->deadline);
    if (status != KVS_OK) {
        set_results(call, first, count, status);
        return status;
    }
    for (size_t index = 0; index < count; index += 1) {
        copy_leased(call, first + index, &leases[index]);
    }
    kvs_lease_release(call->client, leases, count);
    return KVS_OK;
}

/// Asks for the marked keys again, in runs; with a `status` that is not KVS_OK, gives them that.
static kvs_status get_marked_by_socket(const struct get_call *call, kvs_status status) {
    for (size_t index = 0; index < call->key_count;) {
        size_t end = index;
        while (end < call->key_count && call->results[end].status == BY_SOCKET) {
            end += 1;
        }
        if (end == index) {
            index += 1;
            continue;
        }
        if (status == KVS_OK) {
            status = get_by_socket(call, index, end - index);
        } else {
            set_results(call, index, end - index, status);
        }
        index = end;
    }
    return status;
}

static kvs_status get_shared(const struct get_call *call) {
    kvs_status status = KVS_OK;
    for (size_t first = 0; first < call->key_count && status == KVS_OK;) {
        size_t left = call->key_count - first;
        size_t count = left < LEASE_BATCH_KEY_COUNT ? left : LEASE_BATCH_KEY_COUNT;
        status = get_shared_batch(call, first, count);
        if (status == KVS_UNSUPPORTED && call->client->socket >= 0) {
            return get_by_socket(call, first, left);
        }
        first += count;
        if (status != KVS_OK) {
            set_results(call, first, call->key_count - first, status);
        }
    }
    return get_marked_by_socket(call, status);
}

// Entries -----------------------------------------------------------------------------------------

static kvs_status get(struct get_call *call, uint32_t deadline_milliseconds) {
    if (call->client == NULL || (call->keys == NULL && call->key_count != 0) ||
        (call->results == NULL && call->key_count != 0)) {
        return KVS_INVALID_ARGUMENT;
    }
    kvs_status status = kvsi_begin(call->client, deadline_milliseconds, &call->deadline);
    if (status != KVS_OK) {
        set_results(call, 0, call->key_count, status);
        return status;
    }
    bool shared = kvsi_is_shared(call->client) && call->expected_layout == NULL &&
                  call->range == NULL && call->level == KVS_LEVEL_RAW;
    return shared ? get_shared(call) : get_by_socket(call, 0, call->key_count);
}

kvs_status kvs_get(kvs_client *client, const kvs_key *keys, size_t key_count,
                   const kvs_destination *destinations, kvs_get_result *results,
                   const kvs_layout *expected_layout, uint32_t deadline_milliseconds) {
    if (destinations == NULL && key_count != 0) {
        return KVS_INVALID_ARGUMENT;
    }
    struct get_call call = {.client = client, .keys = keys, .key_count = key_count,
                            .destinations = destinations, .results = results,
                            .expected_layout = expected_layout};
    return get(&call, deadline_milliseconds);
}

kvs_status kvs_get_range(kvs_client *client, const kvs_key *keys, size_t key_count,
                         uint64_t offset, uint64_t byte_count,
                         const kvs_destination *destinations, kvs_get_result *results,
                         const kvs_layout *expected_layout, uint32_t deadline_milliseconds) {
    if ((destinations == NULL && key_count != 0) || byte_count == 0) {
        return KVS_INVALID_ARGUMENT;
    }
    const struct kvsi_range range = {offset, byte_count};
    struct get_call call = {.client = client, .keys = keys, .key_count = key_count,
                            .destinations = destinations, .results = results,
                            .expected_layout = expected_layout, .range = &range};
    return get(&call, deadline_milliseconds);
}

kvs_status kvs_get_with(kvs_client *client, const kvs_key *keys, size_t key_count,
                        kvs_provider *provide, void *context, kvs_get_result *results,
                        const kvs_layout *expected_layout, uint32_t deadline_milliseconds) {
    if (provide == NULL) {
        return KVS_INVALID_ARGUMENT;
    }
    struct get_call call = {.client = client, .keys = keys, .key_count = key_count,
                            .provide = provide, .context = context, .results = results,
                            .expected_layout = expected_layout};
    return get(&call, deadline_milliseconds);
}

kvs_status kvs_get_at(kvs_client *client, const kvs_key *keys, size_t key_count,
                      const kvs_get_options *options, const kvs_destination *destinations,
                      kvs_provider *provide, void *context, kvs_get_result *results,
                      uint32_t deadline_milliseconds) {
    bool is_level_known = options != NULL && options->size >= sizeof *options &&
                          (options->level <= KVS_LEVEL_Q4 ||
                           options->level == KVS_LEVEL_ADAPTIVE ||
                           options->level == KVS_LEVEL_AS_STORED);
    if (!is_level_known || (provide == NULL && destinations == NULL && key_count != 0) ||
        (options->codec != NULL &&
         (options->codec->decode == NULL || options->codec->payload_byte_count == NULL))) {
        return KVS_INVALID_ARGUMENT;
    }
    struct get_call call = {.client = client, .keys = keys, .key_count = key_count,
                            .destinations = destinations, .provide = provide, .context = context,
                            .results = results, .expected_layout = options->expected_layout,
                            .level = options->level, .codec = options->codec};
    return get(&call, deadline_milliseconds);
}
