// SPDX-License-Identifier: Apache-2.0
#include "wire.h"

#include "CKernels.h"

#include <string.h>

/// Where the next field goes.
struct writer {
    uint8_t *next;
};

static void put_bytes(struct writer *writer, const void *bytes, size_t byte_count) {
    if (byte_count != 0) {
        memcpy(writer->next, bytes, byte_count);
    }
    writer->next += byte_count;
}

static void put_zeros(struct writer *writer, size_t byte_count) {
    memset(writer->next, 0, byte_count);
    writer->next += byte_count;
}

static void put_integer(struct writer *writer, uint64_t value, size_t byte_count) {
    for (size_t index = 0; index < byte_count; index += 1) {
        writer->next[index] = (uint8_t)(value >> (8 * index));
    }
    writer->next += byte_count;
}

static void put_u8(struct writer *writer, uint8_t value) { put_integer(writer, value, 1); }
static void put_u16(struct writer *writer, uint16_t value) { put_integer(writer, value, 2); }
static void put_u32(struct writer *writer, uint32_t value) { put_integer(writer, value, 4); }
static void put_u64(struct writer *writer, uint64_t value) { put_integer(writer, value, 8); }

static void put_keys(struct writer *writer, const kvs_key *keys, size_t key_count) {
    put_bytes(writer, keys, key_count * KVS_KEY_BYTE_COUNT);
}

void kvsi_encode_u64(uint8_t *bytes, uint64_t value) {
    struct writer writer = {bytes};
    put_u64(&writer, value);
}

void kvsi_encode_header(uint8_t *header, const struct kvsi_request *request, const uint8_t *body) {
    struct writer writer = {header};
    put_bytes(&writer, "KVS1", 4);
    put_u8(&writer, 1);
    put_u8(&writer, request->verb);
    put_u16(&writer, 0);
    put_u64(&writer, request->id);
    put_u32(&writer, request->deadline_milliseconds);
    put_u16(&writer, 0);
    put_u16(&writer, 0);
    put_u32(&writer, request->body_byte_count);
    put_u32(&writer, (uint32_t)ckernels_xxh3_64(body, request->body_byte_count));
    put_u64(&writer, request->payload_byte_count);
    put_u32(&writer, 0);
    put_u32(&writer, (uint32_t)ckernels_xxh3_64(header, KVSI_HEADER_BYTE_COUNT - 4));
}

size_t kvsi_encode_hello(uint8_t *body, const struct kvsi_hello_request *hello) {
    struct writer writer = {body};
    size_t namespace_byte_count = strlen(hello->namespace_name);
    size_t name_byte_count = strlen(hello->client_name);
    put_u8(&writer, 1);
    put_u8(&writer, 1);
    put_u16(&writer, 0);
    put_u64(&writer, hello->wanted_features);
    put_u8(&writer, (uint8_t)namespace_byte_count);
    put_bytes(&writer, hello->namespace_name, namespace_byte_count);
    put_u16(&writer, (uint16_t)hello->token_byte_count);
    put_bytes(&writer, hello->token, hello->token_byte_count);
    put_u8(&writer, (uint8_t)name_byte_count);
    put_bytes(&writer, hello->client_name, name_byte_count);
    return (size_t)(writer.next - body);
}

size_t kvsi_encode_put(uint8_t *body, const kvs_key *key, uint64_t byte_count,
                       const kvs_put_options *options) {
    struct writer writer = {body};
    put_keys(&writer, key, 1);
    put_bytes(&writer, options->layout.bytes, KVS_LAYOUT_BYTE_COUNT);
    put_u64(&writer, byte_count);
    put_u32(&writer, options->time_to_live_milliseconds);
    put_u8(&writer, (uint8_t)options->level);
    put_u8(&writer, (options->flags & KVS_DURABLE) != 0);
    put_zeros(&writer, 4);
    // Plus one; 0 is not known, and so is the last position of all.
    put_u32(&writer, (options->flags & KVS_POSITIONED) != 0 ? options->first_position + 1 : 0);
    put_zeros(&writer, 2);
    return (size_t)(writer.next - body);
}

size_t kvsi_encode_get(uint8_t *body, const kvs_key *keys, size_t key_count,
                       uint8_t level, const kvs_layout *expected_layout,
                       const struct kvsi_range *range) {
    struct writer writer = {body};
    put_u16(&writer, (uint16_t)key_count);
    put_u8(&writer, level);
    put_u8(&writer, (uint8_t)((expected_layout != NULL) | (range != NULL) << 1));
    put_u32(&writer, 0);
    if (expected_layout != NULL) {
        put_bytes(&writer, expected_layout->bytes, KVS_LAYOUT_BYTE_COUNT);
    } else {
        put_zeros(&writer, KVS_LAYOUT_BYTE_COUNT);
    }
    if (range != NULL) {
        put_u64(&writer, range->offset);
        put_u64(&writer, range->byte_count);
    }
    put_keys(&writer, keys, key_count);
    return (size_t)(writer.next - body);
}

size_t kvsi_encode_lookup(uint8_t *body, const kvs_key *keys, size_t key_count, bool prefix) {
    struct writer writer = {body};
    put_u16(&writer, (uint16_t)key_count);
    put_u8(&writer, prefix);
    put_zeros(&writer, 5);
    put_keys(&writer, keys, key_count);
    return (size_t)(writer.next - body);
}

size_t kvsi_encode_delete(uint8_t *body, const kvs_key *keys, size_t key_count) {
    struct writer writer = {body};
    put_u16(&writer, (uint16_t)key_count);
    put_zeros(&writer, 6);
    put_keys(&writer, keys, key_count);
    return (size_t)(writer.next - body);
}

size_t kvsi_encode_pin(uint8_t *body, const kvs_key *keys, size_t key_count,
                       uint64_t milliseconds) {
    struct writer writer = {body};
    put_u16(&writer, (uint16_t)key_count);
    put_zeros(&writer, 6);
    put_u64(&writer, milliseconds);
    put_keys(&writer, keys, key_count);
    return (size_t)(writer.next - body);
}

size_t kvsi_encode_stat(uint8_t *body, const kvs_key *key) {
    struct writer writer = {body};
    put_u8(&writer, key != NULL);
    put_zeros(&writer, 7);
    put_keys(&writer, key, key != NULL ? 1 : 0);
    return (size_t)(writer.next - body);
}

static void put_released(struct writer *writer, const uint64_t *released, size_t released_count) {
    for (size_t index = 0; index < released_count; index += 1) {
        put_u64(writer, released[index]);
    }
}

size_t kvsi_encode_lease(uint8_t *body, const kvs_key *keys, size_t key_count,
                         const uint64_t *released, size_t released_count, uint32_t milliseconds) {
    struct writer writer = {body};
    put_u16(&writer, (uint16_t)key_count);
    put_u16(&writer, (uint16_t)released_count);
    put_u32(&writer, milliseconds);
    put_u64(&writer, 0);
    put_released(&writer, released, released_count);
    put_keys(&writer, keys, key_count);
    return (size_t)(writer.next - body);
}

size_t kvsi_encode_release(uint8_t *body, const uint64_t *released, size_t released_count) {
    struct writer writer = {body};
    put_u16(&writer, (uint16_t)released_count);
    put_zeros(&writer, 6);
    put_released(&writer, released, released_count);
    return (size_t)(writer.next - body);
}

size_t kvsi_encode_commit(uint8_t *body, uint64_t reservation_id, uint64_t checksum) {
    struct writer writer = {body};
    put_u64(&writer, reservation_id);
    put_u64(&writer, checksum);
    return (size_t)(writer.next - body);
}

size_t kvsi_encode_abort(uint8_t *body, uint64_t reservation_id) {
    struct writer writer = {body};
    put_u64(&writer, reservation_id);
    return (size_t)(writer.next - body);
}
