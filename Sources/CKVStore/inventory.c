// SPDX-License-Identifier: Apache-2.0
//
// The short verbs: ping, keys under the namespace's secret, lookup, delete, pin, figures.
#include "internal.h"

#include <stdlib.h>
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

kvs_status kvs_describe_layout(kvs_client *client, const kvs_layout_field *fields,
                               size_t field_count, kvs_layout *layout,
                               uint32_t deadline_milliseconds) {
    kvs_status status = kvs_layout_id(fields, field_count, layout);
    if (status != KVS_OK) {
        return status;
    }
    status = learn_secret(client, deadline_milliseconds);
    if (status != KVS_OK) {
        return status;
    }
    kvs_key key;
    char *text = NULL;
    size_t byte_count = 0;
    status = kvsi_derive_codec_key(client->hello.secret, "l1", layout->bytes, &key);
    if (status == KVS_OK) {
        status = kvsi_canonical_description(fields, field_count, &text, &byte_count);
    }
    if (status != KVS_OK) {
        return status;
    }
    const kvs_const_span part = {text, byte_count};
    status = kvs_put(client, &key, &part, 1, NULL, deadline_milliseconds);
    free(text);
    return status == KVS_EXISTS ? KVS_OK : status;
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

// Delete, pin and figures -------------------------------------------------------------------------

/// One batch of DELETE, PIN or UNPIN; `milliseconds` is PIN's.
static kvs_status exchange_statuses(kvs_client *client, uint8_t verb, const kvs_key *keys,
                                    size_t count, uint64_t milliseconds, kvs_status *statuses,
                                    kvsi_instant deadline) {
    uint8_t *body = kvsi_request_body(client);
    size_t byte_count = 0;
    size_t body_byte_count = verb == KVSI_PIN ? kvsi_encode_pin(body, keys, count, milliseconds)
                                              : kvsi_encode_delete(body, keys, count);
    kvs_status status = kvsi_exchange(client, verb, body_byte_count, &byte_count, deadline);
    if (status == KVS_OK &&
        !kvsi_decode_statuses(client->response_body, byte_count, count, statuses)) {
        status = kvsi_refuse_body(client, verb == KVSI_PIN      ? "PIN"
                                          : verb == KVSI_UNPIN ? "UNPIN"
                                                               : "DELETE");
    }
    return status;
}

kvs_status kvs_delete(kvs_client *client, const kvs_key *keys, size_t key_count,
                      size_t *deleted_count, uint32_t deadline_milliseconds) {
    kvsi_instant deadline;
    kvs_status statuses[KVSI_KEY_COUNT_MAXIMUM];
    size_t total = 0;
    size_t not_durable_count = 0;
    if (key_count != 0 && keys == NULL) {
        return KVS_INVALID_ARGUMENT;
    }
    kvs_status status = kvsi_begin(client, deadline_milliseconds, &deadline);
    for (size_t first = 0; status == KVS_OK && first < key_count;) {
        size_t limit = kvsi_batch_key_count(client, 8);
        size_t count = key_count - first < limit ? key_count - first : limit;
        status = exchange_statuses(client, KVSI_DELETE, keys + first, count, 0, statuses,
                                   deadline);
        for (size_t index = 0; status == KVS_OK && index < count; index += 1) {
            bool was_kept = statuses[index] == KVS_NOT_DURABLE;
            not_durable_count += was_kept ? 1 : 0;
            total += was_kept || statuses[index] == KVS_OK ? 1 : 0;
        }
        first += count;
    }
    if (deleted_count != NULL) {
        *deleted_count = total;
    }
    if (status == KVS_OK && not_durable_count != 0) {
        status = kvsi_fail(client, KVS_NOT_DURABLE,
                           "%zu deleted chunks may come back after a restart of the daemon",
                           not_durable_count);
    }
    return status;
}

static kvs_status pin_or_unpin(kvs_client *client, uint8_t verb, const kvs_key *keys,
                               size_t key_count, uint64_t milliseconds, kvs_status *statuses,
                               uint32_t deadline_milliseconds) {
    kvsi_instant deadline;
    size_t first = 0;
    if (client == NULL || (key_count != 0 && (keys == NULL || statuses == NULL))) {
        return KVS_INVALID_ARGUMENT;
    }
    kvs_status status = kvsi_begin(client, deadline_milliseconds, &deadline);
    while (status == KVS_OK && first < key_count) {
        size_t limit = kvsi_batch_key_count(client, verb == KVSI_PIN ? 16 : 8);
        size_t count = key_count - first < limit ? key_count - first : limit;
        status = exchange_statuses(client, verb, keys + first, count, milliseconds,
                                   statuses + first, deadline);
        first += status == KVS_OK ? count : 0;
    }
    for (; first < key_count; first += 1) {
        statuses[first] = status;
    }
    return status;
}

kvs_status kvs_pin(kvs_client *client, const kvs_key *keys, size_t key_count,
                   uint64_t milliseconds, kvs_status *statuses, uint32_t deadline_milliseconds) {
    if (milliseconds == 0 || milliseconds > KVS_PIN_MILLISECONDS_MAXIMUM) {
        return KVS_INVALID_ARGUMENT;
    }
    return pin_or_unpin(client, KVSI_PIN, keys, key_count, milliseconds, statuses,
                        deadline_milliseconds);
}

kvs_status kvs_unpin(kvs_client *client, const kvs_key *keys, size_t key_count,
                     kvs_status *statuses, uint32_t deadline_milliseconds) {
    return pin_or_unpin(client, KVSI_UNPIN, keys, key_count, 0, statuses, deadline_milliseconds);
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
