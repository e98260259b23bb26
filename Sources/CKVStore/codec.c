// SPDX-License-Identifier: Apache-2.0
//
// What libkvstore does around a codec that the caller brings: encoding before a put, decoding after
// a get, and fetching what a codec needs to know from the namespace.
#include "internal.h"

#include "COpenSSL.h"

#include <stdlib.h>
#include <string.h>

enum {
    DESCRIPTION_BYTE_COUNT_MAXIMUM = 65536,
    HASH_BYTE_COUNT = 16,
    CHOICE_BYTE_COUNT = 32,
};

static kvs_status fail_in_codec(kvs_client *client, kvs_status status, const kvs_codec *codec,
                                int fault) {
    const char *text = codec->error_text != NULL ? codec->error_text(codec->context) : "";
    return kvsi_fail(client, status, "the codec refuses (%d): %s", fault,
                     text != NULL ? text : "");
}

// Put ---------------------------------------------------------------------------------------------

/// All parts one after another, to be freed; NULL when there is no memory for it.
static uint8_t *join(const kvs_const_span *parts, size_t part_count, uint64_t byte_count) {
    uint8_t *joined = malloc((size_t)byte_count);
    size_t used = 0;
    for (size_t index = 0; joined != NULL && index < part_count; index += 1) {
        if (parts[index].byte_count != 0) {
            memcpy(joined + used, parts[index].bytes, parts[index].byte_count);
        }
        used += parts[index].byte_count;
    }
    return joined;
}

/// Encodes into `container`, which holds one byte less than the payload, and puts what is smaller.
static kvs_status encode_and_put(kvs_client *client, const kvs_key *key,
                                 const kvs_const_span *payload, uint8_t *container,
                                 const kvs_put_options *options, uint32_t deadline_milliseconds) {
    const kvs_codec *codec = options->codec;
    kvs_put_options plain = *options;
    kvs_const_span part = {container, 0};
    uint64_t byte_count = 0;
    bool has_position = (options->flags & KVS_POSITIONED) != 0;
    int fault = codec->encode(codec->context, payload->bytes, payload->byte_count, options->level,
                              has_position ? (int64_t)options->first_position : -1, container,
                              payload->byte_count - 1, &byte_count);
    if (fault != 0) {
        return fail_in_codec(client, KVS_INVALID_ARGUMENT, codec, fault);
    }
    plain.codec = NULL;
    if (byte_count == 0) {
        plain.level = KVS_LEVEL_RAW;
        part = *payload;
    } else {
        part.byte_count = (size_t)byte_count;
    }
    return kvs_put(client, key, &part, 1, &plain, deadline_milliseconds);
}

kvs_status kvsi_put_encoded(kvs_client *client, const kvs_key *key, const kvs_const_span *parts,
                            size_t part_count, const kvs_put_options *options,
                            uint32_t deadline_milliseconds) {
    uint64_t byte_count = 0;
    if (client == NULL || options->codec->encode == NULL || key == NULL ||
        (parts == NULL && part_count != 0) ||
        !kvsi_part_byte_count(parts, part_count, &byte_count) || byte_count == 0) {
        return KVS_INVALID_ARGUMENT;
    }
    if (byte_count > KVSI_CHUNK_BYTE_COUNT_MAXIMUM) {
        return kvsi_fail(client, KVS_TOO_LARGE, "%llu bytes are too large; use smaller chunks",
                         (unsigned long long)byte_count);
    }
    uint8_t *joined = part_count == 1 ? NULL : join(parts, part_count, byte_count);
    uint8_t *container = malloc((size_t)byte_count);
    kvs_status status = KVS_OUT_OF_MEMORY;
    if (container != NULL && (part_count == 1 || joined != NULL)) {
        const kvs_const_span payload = {part_count == 1 ? parts[0].bytes : joined,
                                        (size_t)byte_count};
        status =
            encode_and_put(client, key, &payload, container, options, deadline_milliseconds);
    }
    free(container);
    free(joined);
    return status;
}

// Get ---------------------------------------------------------------------------------------------

kvs_status kvsi_decoded_byte_count(kvs_client *client, const kvs_codec *codec,
                                   const uint8_t *container, uint64_t container_byte_count,
                                   uint64_t *byte_count) {
    int fault = codec->payload_byte_count(codec->context, container, container_byte_count,
                                          byte_count);
    if (fault == 0 && (*byte_count == 0 || *byte_count > KVSI_CHUNK_BYTE_COUNT_MAXIMUM)) {
        return kvsi_fail(client, KVS_NOT_DECODED, "the codec knows no size of the payload");
    }
    return fault == 0 ? KVS_OK : fail_in_codec(client, KVS_NOT_DECODED, codec, fault);
}

kvs_status kvsi_decode_to_spans(kvs_client *client, const kvs_codec *codec,
                                const uint8_t *container, uint64_t container_byte_count,
                                const kvs_span *spans, size_t span_count, uint64_t byte_count) {
    // One run of memory is decoded in place; a codec knows no others.
    bool is_whole = span_count != 0 && spans[0].byte_count >= byte_count;
    uint8_t *payload = is_whole ? spans[0].bytes : malloc((size_t)byte_count);
    if (payload == NULL) {
        return KVS_OUT_OF_MEMORY;
    }
    int fault = codec->decode(codec->context, container, container_byte_count, payload, byte_count);
    if (fault == 0 && !is_whole) {
        (void)kvsi_copy_hashed_out(spans, span_count, payload, byte_count);
    }
    if (!is_whole) {
        free(payload);
    }
    return fault == 0 ? KVS_OK : fail_in_codec(client, KVS_NOT_DECODED, codec, fault);
}

// What a codec needs to know ----------------------------------------------------------------------

struct fetched {
    void *bytes;
    uint64_t byte_count_maximum;
};

static void *provide_fetched(void *context, size_t index, uint64_t byte_count) {
    struct fetched *fetched = context;
    (void)index;
    free(fetched->bytes);
    fetched->bytes = NULL;
    if (byte_count != 0 && byte_count <= fetched->byte_count_maximum) {
        fetched->bytes = malloc((size_t)byte_count);
    }
    return fetched->bytes;
}

/// Fetches the chunk under a codec's key. With `hash` not NULL its bytes must have that SHA-256.
static kvs_status fetch(kvs_client *client, const char prefix[2], const uint8_t *name,
                        const uint8_t *hash, uint64_t byte_count_maximum, void **bytes,
                        size_t *byte_count, uint32_t deadline_milliseconds) {
    uint8_t secret[32];
    kvs_key key;
    struct fetched fetched = {NULL, byte_count_maximum};
    kvs_get_result result;
    kvs_status status = kvs_secret(client, secret, deadline_milliseconds);
    if (status == KVS_OK) {
        status = kvsi_derive_codec_key(secret, prefix, name, &key);
    }
    if (status == KVS_OK) {
        status = kvs_get_with(client, &key, 1, provide_fetched, &fetched, &result, NULL,
                              deadline_milliseconds);
    }
    if (status == KVS_OK) {
        status = result.status;
    }
    if (status == KVS_OK && hash != NULL) {
        uint8_t digest[32];
        if (copenssl_sha256(fetched.bytes, (size_t)result.byte_count, digest) != 1) {
            status = KVS_OUT_OF_MEMORY;
        } else if (memcmp(digest, hash, HASH_BYTE_COUNT) != 0) {
            status = kvsi_fail(client, KVS_DAMAGED,
                               "what is stored under \"%.2s\" is not what its name says", prefix);
        }
    }
    if (status != KVS_OK) {
        free(fetched.bytes);
        return status;
    }
    *bytes = fetched.bytes;
    *byte_count = (size_t)result.byte_count;
    return KVS_OK;
}

kvs_status kvs_fetch_description(kvs_client *client, const kvs_layout *layout, void **bytes,
                                 size_t *byte_count, uint32_t deadline_milliseconds) {
    if (layout == NULL || bytes == NULL || byte_count == NULL) {
        return KVS_INVALID_ARGUMENT;
    }
    return fetch(client, "l1", layout->bytes, layout->bytes, DESCRIPTION_BYTE_COUNT_MAXIMUM, bytes,
                 byte_count, deadline_milliseconds);
}

kvs_status kvs_fetch_profile(kvs_client *client, const kvs_layout *layout, const uint8_t *hash,
                             void **bytes, size_t *byte_count, uint32_t deadline_milliseconds) {
    static const uint8_t zeros[CHOICE_BYTE_COUNT - HASH_BYTE_COUNT];
    uint8_t chosen[HASH_BYTE_COUNT];
    if ((layout == NULL && hash == NULL) || bytes == NULL || byte_count == NULL) {
        return KVS_INVALID_ARGUMENT;
    }
    if (hash == NULL) {
        void *choice = NULL;
        size_t choice_byte_count = 0;
        kvs_status status = fetch(client, "f2", layout->bytes, NULL, CHOICE_BYTE_COUNT, &choice,
                                  &choice_byte_count, deadline_milliseconds);
        if (status != KVS_OK) {
            return status;
        }
        bool is_choice =
            choice_byte_count == CHOICE_BYTE_COUNT &&
            memcmp((uint8_t *)choice + HASH_BYTE_COUNT, zeros, sizeof zeros) == 0;
        if (is_choice) {
            memcpy(chosen, choice, sizeof chosen);
        }
        free(choice);
        if (!is_choice) {
            return kvsi_fail(client, KVS_DAMAGED, "the choice of a profile is malformed");
        }
        hash = chosen;
    }
    return fetch(client, "f1", hash, hash, KVSI_CHUNK_BYTE_COUNT_MAXIMUM, bytes, byte_count,
                 deadline_milliseconds);
}

void kvs_free(void *bytes) { free(bytes); }
