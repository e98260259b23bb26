// SPDX-License-Identifier: Apache-2.0
//
// The short verbs: ping, keys under the namespace's secret, lookup, delete, figures.
#include "internal.h"

#include <string.h>

kvs_status kvs_ping(kvs_client *client, uint32_t deadline_milliseconds) {
    kvsi_instant deadline;
    size_t byte_count = 0;
    kvs_status status = kvsi_begin(client, deadline_milliseconds, &deadline);
    return status == KVS_OK ? kvsi_exchange(client, KVSI_PING, 0, &byte_count, deadline) : status;
}

// Keys --------------------------------------------------------------------------------------------

static kvs_status learn_secret(kvs_client *client, uint32_t deadline_milliseconds) {
    kvsi_instant deadline;
    if (client != NULL && client->has_hello) {
        return KVS_OK;
    }
    return kvsi_begin(client, deadline_milliseconds, &deadline);
}

kvs_status kvs_secret(kvs_client *client, uint8_t secret[32], uint32_t deadline_milliseconds) {
    if (secret == NULL) {
        return KVS_INVALID_ARGUMENT;
    }
    kvs_status status = learn_secret(client, deadline_milliseconds);
    if (status == KVS_OK) {
        memcpy(secret, client->hello.secret, sizeof client->hello.secret);
    }
    return status;
}

kvs_status kvs_prefix_keys(kvs_client *client, const kvs_layout *layout, const uint32_t *tokens,
                           size_t token_count, size_t chunk_token_count, kvs_key *keys,
                           size_t *key_count) {
    if (key_count != NULL) {
        *key_count = 0;
    }
    kvs_status status = learn_secret(client, 0);
    if (status == KVS_OK) {
        status = kvs_derive_prefix_keys(client->hello.secret, layout, NULL, tokens, token_count,
                                        chunk_token_count, keys);
    }
    if (status == KVS_OK && key_count != NULL) {
        *key_count = token_count / chunk_token_count;
    }
    return status;
}

kvs_status kvs_opaque_key(kvs_client *client, const void *name, size_t name_byte_count,
                          kvs_key *key) {
    kvs_status status = learn_secret(client, 0);
    return status == KVS_OK
               ? kvs_derive_opaque_key(client->hello.secret, name, name_byte_count, key)
               : status;
}

// Lookup ------------------------------------------------------------------------------------------

static kvs_status lookup_batch(kvs_client *client, const kvs_key *keys, size_t count, bool prefix,
                               size_t *prefix_count, kvs_lookup_record *records,
                               kvsi_instant deadline) {
    size_t byte_count = 0;
    size_t body_byte_count = kvsi_encode_lookup(kvsi_request_body(client), keys, count, prefix);
    kvs_status status =
        kvsi_exchange(client, KVSI_LOOKUP, body_byte_count, &byte_count, deadline);
    if (status == KVS_OK && !kvsi_decode_lookup(client->response_body, byte_count, count, prefix,
                                                prefix_count, records)) {
        status = kvsi_refuse_body(client, "LOOKUP");
    }
    return status;
}

static kvs_status lookup(kvs_client *client, const kvs_key *keys, size_t key_count, bool prefix,
                         size_t *prefix_count, kvs_lookup_record *records,
                         uint32_t deadline_milliseconds) {
    kvsi_instant deadline;
    kvs_status status = kvsi_begin(client, deadline_milliseconds, &deadline);
    if (status != KVS_OK) {
        return status;
    }
    size_t limit = kvsi_batch_key_count(client, 8);
    *prefix_count = 0;
    for (size_t first = 0; first < key_count;) {
        size_t count = key_count - first < limit ? key_count - first : limit;
        size_t found = 0;
        status = lookup_batch(client, keys + first, count, prefix, &found,
                              records != NULL ? records + first : NULL, deadline);
        if (status != KVS_OK) {
            return status;
        }
        *prefix_count += found;
        first += count;
        if (prefix && found < count) {
            break;
        }
    }
    return KVS_OK;
}

kvs_status kvs_lookup(kvs_client *client, const kvs_key *keys, size_t key_count,
                      kvs_lookup_record *records, uint32_t deadline_milliseconds) {
    size_t prefix_count = 0;
    if (key_count != 0 && (keys == NULL || records == NULL)) {
        return KVS_INVALID_ARGUMENT;
    }
    return lookup(client, keys, key_count, false, &prefix_count, records, deadline_milliseconds);
}

kvs_status kvs_lookup_prefix(kvs_client *client, const kvs_key *keys, size_t key_count,
                             size_t *prefix_count, kvs_lookup_record *records,
                             uint32_t deadline_milliseconds) {
    if (prefix_count == NULL || (key_count != 0 && keys == NULL)) {
        return KVS_INVALID_ARGUMENT;
    }
    *prefix_count = 0;
    return lookup(client, keys, key_count, true, prefix_count, records, deadline_milliseconds);
}

// Delete and figures ------------------------------------------------------------------------------

kvs_status kvs_delete(kvs_client *client, const kvs_key *keys, size_t key_count,
                      size_t *deleted_count, uint32_t deadline_milliseconds) {
    kvsi_instant deadline;
    size_t total = 0;
    if (key_count != 0 && keys == NULL) {
        return KVS_INVALID_ARGUMENT;
    }
    kvs_status status = kvsi_begin(client, deadline_milliseconds, &deadline);
    for (size_t first = 0; status == KVS_OK && first < key_count;) {
        size_t limit = kvsi_batch_key_count(client, 8);
        size_t count = key_count - first < limit ? key_count - first : limit;
        size_t byte_count = 0;
        size_t deleted = 0;
        size_t body_byte_count =
            kvsi_encode_delete(kvsi_request_body(client), keys + first, count);
        status = kvsi_exchange(client, KVSI_DELETE, body_byte_count, &byte_count, deadline);
        if (status == KVS_OK &&
            !kvsi_decode_delete(client->response_body, byte_count, count, &deleted)) {
            status = kvsi_refuse_body(client, "DELETE");
        }
        total += status == KVS_OK ? deleted : 0;
        first += count;
    }
    if (deleted_count != NULL) {
        *deleted_count = total;
    }
    return status;
}

kvs_status kvs_stat(kvs_client *client, kvs_stat_pair *pairs, size_t capacity, size_t *pair_count,
                    uint32_t deadline_milliseconds) {
    kvsi_instant deadline;
    size_t byte_count = 0;
    if (pair_count == NULL || (pairs == NULL && capacity != 0)) {
        return KVS_INVALID_ARGUMENT;
    }
    *pair_count = 0;
    kvs_status status = kvsi_begin(client, deadline_milliseconds, &deadline);
    if (status != KVS_OK) {
        return status;
    }
    size_t body_byte_count = kvsi_encode_stat(kvsi_request_body(client), NULL);
    status = kvsi_exchange(client, KVSI_STAT, body_byte_count, &byte_count, deadline);
    if (status == KVS_OK && !kvsi_decode_stat(client->response_body, byte_count, pairs, capacity,
                                              pair_count)) {
        *pair_count = 0;
        status = kvsi_refuse_body(client, "STAT");
    }
    return status;
}

kvs_status kvs_describe(kvs_client *client, const kvs_key *key,
                        kvs_chunk_description *description, uint32_t deadline_milliseconds) {
    kvsi_instant deadline;
    size_t byte_count = 0;
    struct kvsi_get_record record;
    if (key == NULL || description == NULL) {
        return KVS_INVALID_ARGUMENT;
    }
    kvs_status status = kvsi_begin(client, deadline_milliseconds, &deadline);
    if (status != KVS_OK) {
        return status;
    }
    size_t body_byte_count = kvsi_encode_stat(kvsi_request_body(client), key);
    status = kvsi_exchange(client, KVSI_STAT, body_byte_count, &byte_count, deadline);
    if (status != KVS_OK) {
        return status;
    }
    if (!kvsi_decode_get(client->response_body, byte_count, &record) || record.index != 0) {
        return kvsi_refuse_body(client, "STAT");
    }
    *description = record.description;
    return KVS_OK;
}
