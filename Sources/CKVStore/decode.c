// SPDX-License-Identifier: Apache-2.0
//
// Everything a daemon can say passes through here before anything believes it. A reader that runs
// out of bytes becomes bad and stays bad, and reads zeros from then on, so that a decoder checks
// once at its end instead of after every field.
#include "wire.h"

#include "CKernels.h"

#include <string.h>

struct reader {
    const uint8_t *next;
    size_t left_byte_count;
    bool bad;
};

static struct reader reader_over(const uint8_t *bytes, size_t byte_count) {
    return (struct reader){bytes, byte_count, false};
}

/// The next bytes, or NULL when there are not so many.
static const uint8_t *take(struct reader *reader, size_t byte_count) {
    if (reader->bad || reader->left_byte_count < byte_count) {
        reader->bad = true;
        return NULL;
    }
    const uint8_t *bytes = reader->next;
    reader->next += byte_count;
    reader->left_byte_count -= byte_count;
    return bytes;
}

static uint64_t take_integer(struct reader *reader, size_t byte_count) {
    const uint8_t *bytes = take(reader, byte_count);
    uint64_t value = 0;
    for (size_t index = 0; bytes != NULL && index < byte_count; index += 1) {
        value |= (uint64_t)bytes[index] << (8 * index);
    }
    return value;
}

static uint8_t take_u8(struct reader *reader) { return (uint8_t)take_integer(reader, 1); }
static uint16_t take_u16(struct reader *reader) { return (uint16_t)take_integer(reader, 2); }
static uint32_t take_u32(struct reader *reader) { return (uint32_t)take_integer(reader, 4); }
static uint64_t take_u64(struct reader *reader) { return take_integer(reader, 8); }

static void take_bytes(struct reader *reader, void *destination, size_t byte_count) {
    const uint8_t *bytes = take(reader, byte_count);
    if (bytes != NULL) {
        memcpy(destination, bytes, byte_count);
    }
}

/// Reserved fields must be zero.
static void take_zeros(struct reader *reader, size_t byte_count) {
    const uint8_t *bytes = take(reader, byte_count);
    for (size_t index = 0; bytes != NULL && index < byte_count; index += 1) {
        if (bytes[index] != 0) {
            reader->bad = true;
        }
    }
}

/// How many bytes the UTF-8 character at `bytes` has; 0 if it is none (RFC 3629, table 3-7 of the
/// Unicode standard: no overlong forms, no surrogates, nothing above U+10FFFF).
static size_t character_byte_count(const uint8_t *bytes, size_t left) {
    uint8_t first = bytes[0];
    if (first < 0x80) {
        return 1;
    }
    size_t count = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    if (first < 0xc2 || first > 0xf4 || left < count) {
        return 0;
    }
    uint8_t lowest = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    uint8_t highest = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (bytes[1] < lowest || bytes[1] > highest) {
        return 0;
    }
    for (size_t index = 2; index < count; index += 1) {
        if ((bytes[index] & 0xc0) != 0x80) {
            return 0;
        }
    }
    return count;
}

/// The next bytes, which must be UTF-8.
static const uint8_t *take_text(struct reader *reader, size_t byte_count) {
    const uint8_t *bytes = take(reader, byte_count);
    for (size_t index = 0; bytes != NULL && index < byte_count;) {
        size_t count = character_byte_count(bytes + index, byte_count - index);
        if (count == 0) {
            reader->bad = true;
            return NULL;
        }
        index += count;
    }
    return bytes;
}

static bool is_complete(const struct reader *reader) {
    return !reader->bad && reader->left_byte_count == 0;
}

bool kvsi_decode_header(const uint8_t *header, struct kvsi_response *response) {
    static const uint8_t magic[4] = {'K', 'V', 'S', '1'};
    static const uint16_t known_flags = KVSI_FLAG_RESPONSE | KVSI_FLAG_MORE | KVSI_FLAG_FINAL;
    struct reader reader = reader_over(header, KVSI_HEADER_BYTE_COUNT);
    memset(response, 0, sizeof *response);
    const uint8_t *first = take(&reader, sizeof magic);
    if (first == NULL || memcmp(first, magic, sizeof magic) != 0) {
        return false;
    }
    uint8_t version = take_u8(&reader);
    response->verb = take_u8(&reader);
    response->flags = take_u16(&reader);
    response->id = take_u64(&reader);
    take_zeros(&reader, 4);  // the deadline is the client's to say
    response->status = take_u16(&reader);
    take_zeros(&reader, 2);
    response->body_byte_count = take_u32(&reader);
    response->body_checksum = take_u32(&reader);
    response->payload_byte_count = take_u64(&reader);
    take_zeros(&reader, 4);
    uint32_t checksum = take_u32(&reader);
    return is_complete(&reader) && version == 1 &&
           checksum == (uint32_t)ckernels_xxh3_64(header, KVSI_HEADER_BYTE_COUNT - 4) &&
           (response->flags & KVSI_FLAG_RESPONSE) != 0 && (response->flags & ~known_flags) == 0 &&
           response->body_byte_count <= KVSI_BODY_BYTE_COUNT_MAXIMUM &&
           response->payload_byte_count <= KVSI_CHUNK_BYTE_COUNT_MAXIMUM;
}

static bool has_empty_body(uint8_t verb) {
    return verb == KVSI_PING || verb == KVSI_PUT || verb == KVSI_COMMIT || verb == KVSI_ABORT;
}

bool kvsi_answers(const struct kvsi_response *response, uint8_t verb, uint64_t request_id) {
    bool is_ok = response->status == KVS_OK;
    if ((response->id != request_id || response->verb != verb) && (response->id != 0 || is_ok)) {
        return false;
    }
    return (response->payload_byte_count == 0 || (verb == KVSI_GET && is_ok)) &&
           (response->body_byte_count == 0 || !is_ok || !has_empty_body(verb)) &&
           ((response->flags & KVSI_FLAG_MORE) == 0 || verb == KVSI_GET);
}

bool kvsi_body_is_intact(const struct kvsi_response *response, const uint8_t *body) {
    return response->body_checksum == (uint32_t)ckernels_xxh3_64(body, response->body_byte_count);
}

kvs_status kvsi_decode_status(uint16_t number) {
    return number <= KVS_NOT_DURABLE ? (kvs_status)number : KVS_INTERNAL;
}

bool kvsi_status_closes(kvs_status status) {
    switch (status) {
    case KVS_UNAUTHORIZED:
    case KVS_MALFORMED:
    case KVS_VERSION_MISMATCH:
    case KVS_HELLO_REQUIRED:
    case KVS_SHUTTING_DOWN:
    case KVS_INTERNAL:
        return true;
    default:
        return false;
    }
}

bool kvsi_decode_hello(const uint8_t *body, size_t byte_count, struct kvsi_hello *hello) {
    struct reader reader = reader_over(body, byte_count);
    memset(hello, 0, sizeof *hello);
    uint8_t version = take_u8(&reader);
    take_zeros(&reader, 3);
    hello->granted_features = take_u64(&reader);
    take_bytes(&reader, hello->secret, sizeof hello->secret);
    hello->node_id = take_u64(&reader);
    hello->body_byte_count_limit = take_u32(&reader);
    hello->key_count_limit = take_u32(&reader);
    hello->chunk_byte_count_limit = take_u64(&reader);
    (void)take_u32(&reader);  // in-flight limit: we have one request in flight
    hello->lease_milliseconds_limit = take_u32(&reader);
    hello->arena_byte_count = take_u64(&reader);
    hello->staging_byte_count_limit = take_u64(&reader);
    (void)take(&reader, 48);  // a later daemon may say more here
    (void)take_text(&reader, take_u8(&reader));
    return is_complete(&reader) && version == 1 && hello->key_count_limit != 0 &&
           hello->chunk_byte_count_limit != 0;
}

/// Takes an error text: `u16 byte count ‖ UTF-8`, with control characters replaced.
static void take_error_text(struct reader *reader, char text[KVSI_ERROR_TEXT_BYTE_COUNT]) {
    size_t byte_count = take_u16(reader);
    text[0] = '\0';
    if (byte_count >= KVSI_ERROR_TEXT_BYTE_COUNT) {
        reader->bad = true;
    }
    const uint8_t *bytes = take_text(reader, byte_count);
    if (!is_complete(reader)) {
        reader->bad = true;
        return;
    }
    for (size_t index = 0; index < byte_count; index += 1) {
        bool is_control = bytes[index] < 0x20 || bytes[index] == 0x7f;
        text[index] = is_control ? '?' : (char)bytes[index];
    }
    text[byte_count] = '\0';
}

bool kvsi_decode_error_text(const uint8_t *body, size_t byte_count,
                            char text[KVSI_ERROR_TEXT_BYTE_COUNT]) {
    struct reader reader = reader_over(body, byte_count);
    take_error_text(&reader, text);
    return !reader.bad;
}

bool kvsi_decode_get(const uint8_t *body, size_t byte_count, struct kvsi_get_record *record) {
    struct reader reader = reader_over(body, byte_count);
    memset(record, 0, sizeof *record);
    record->index = take_u32(&reader);
    record->description.level = take_u8(&reader);
    take_zeros(&reader, 3);
    record->description.byte_count = take_u64(&reader);
    record->description.checksum = take_u64(&reader);
    take_bytes(&reader, record->description.layout.bytes, KVS_LAYOUT_BYTE_COUNT);
    record->description.remaining_milliseconds = take_u64(&reader);
    return is_complete(&reader) && record->description.byte_count != 0 &&
           record->description.byte_count <= KVSI_CHUNK_BYTE_COUNT_MAXIMUM;
}

bool kvsi_decode_get_miss(const uint8_t *body, size_t byte_count, uint32_t *index,
                          char text[KVSI_ERROR_TEXT_BYTE_COUNT]) {
    struct reader reader = reader_over(body, byte_count);
    *index = take_u32(&reader);
    take_error_text(&reader, text);
    return !reader.bad;
}

static void take_lookup_record(struct reader *reader, kvs_lookup_record *record) {
    memset(record, 0, sizeof *record);
    record->status = kvsi_decode_status(take_u16(reader));
    record->tier = take_u8(reader);
    record->level = take_u8(reader);
    record->load_microseconds = take_u32(reader);
    record->byte_count = take_u64(reader);
    record->remaining_milliseconds = take_u64(reader);
    if (record->status != KVS_OK && record->status != KVS_NOT_FOUND) {
        reader->bad = true;
    }
}

bool kvsi_decode_lookup(const uint8_t *body, size_t byte_count, size_t key_count, bool prefix,
                        size_t *prefix_count, kvs_lookup_record *records) {
    struct reader reader = reader_over(body, byte_count);
    *prefix_count = take_u32(&reader);
    size_t record_count = take_u32(&reader);
    if (*prefix_count > key_count || record_count != (prefix ? *prefix_count : key_count)) {
        return false;
    }
    for (size_t index = 0; index < record_count; index += 1) {
        kvs_lookup_record record;
        take_lookup_record(&reader, &record);
        if ((index < *prefix_count) && record.status != KVS_OK) {
            return false;
        }
        if (records != NULL) {
            records[index] = record;
        }
    }
    return is_complete(&reader);
}

bool kvsi_decode_statuses(const uint8_t *body, size_t byte_count, size_t key_count,
                          kvs_status *statuses) {
    struct reader reader = reader_over(body, byte_count);
    size_t ok_count = take_u32(&reader);
    if (take_u32(&reader) != key_count) {
        return false;
    }
    for (size_t index = 0; index < key_count; index += 1) {
        statuses[index] = kvsi_decode_status(take_u16(&reader));
        ok_count -= statuses[index] == KVS_OK ? 1 : 0;
    }
    return is_complete(&reader) && ok_count == 0;
}

bool kvsi_decode_stat(const uint8_t *body, size_t byte_count, kvs_stat_pair *pairs,
                      size_t capacity, size_t *pair_count) {
    struct reader reader = reader_over(body, byte_count);
    uint32_t announced_count = take_u32(&reader);
    *pair_count = 0;
    for (uint32_t index = 0; index < announced_count && !reader.bad; index += 1) {
        size_t name_byte_count = take_u8(&reader);
        const uint8_t *name = take_text(&reader, name_byte_count);
        uint64_t value = take_u64(&reader);
        if (reader.bad || name_byte_count >= sizeof pairs->name ||
            memchr(name, 0, name_byte_count) != NULL) {
            continue;
        }
        if (*pair_count < capacity) {
            kvs_stat_pair *pair = &pairs[*pair_count];
            memset(pair, 0, sizeof *pair);
            memcpy(pair->name, name, name_byte_count);
            pair->value = value;
        }
        *pair_count += 1;
    }
    return is_complete(&reader);
}

static bool take_lease_record(struct reader *reader, const uint8_t *arena,
                              uint64_t arena_byte_count, kvs_lease *lease) {
    memset(lease, 0, sizeof *lease);
    lease->status = kvsi_decode_status(take_u16(reader));
    uint8_t level = take_u8(reader);
    take_zeros(reader, 5);
    lease->lease_id = take_u64(reader);
    uint64_t offset = take_u64(reader);
    lease->byte_count = take_u64(reader);
    lease->checksum = take_u64(reader);
    lease->remaining_milliseconds = take_u64(reader);
    if (lease->status != KVS_OK) {
        lease->byte_count = 0;
        return !reader->bad;
    }
    if (reader->bad || level != 0 || lease->byte_count == 0 ||
        lease->byte_count > arena_byte_count || offset > arena_byte_count - lease->byte_count) {
        return false;
    }
    lease->bytes = arena + offset;
    return true;
}

bool kvsi_decode_lease(const uint8_t *body, size_t byte_count, size_t key_count,
                       const uint8_t *arena, uint64_t arena_byte_count, kvs_lease *leases) {
    struct reader reader = reader_over(body, byte_count);
    uint32_t record_count = take_u32(&reader);
    take_zeros(&reader, 4);
    uint64_t expiry_nanoseconds = take_u64(&reader);
    if (record_count != key_count) {
        return false;
    }
    for (size_t index = 0; index < key_count; index += 1) {
        if (!take_lease_record(&reader, arena, arena_byte_count, &leases[index])) {
            return false;
        }
        leases[index].expiry_nanoseconds = expiry_nanoseconds;
    }
    return is_complete(&reader);
}

bool kvsi_decode_release(const uint8_t *body, size_t byte_count, uint32_t *released_count) {
    struct reader reader = reader_over(body, byte_count);
    *released_count = take_u32(&reader);
    take_zeros(&reader, 4);
    return is_complete(&reader);
}

bool kvsi_decode_reserve(const uint8_t *body, size_t byte_count, uint64_t chunk_byte_count,
                         struct kvsi_reserve *reserve) {
    struct reader reader = reader_over(body, byte_count);
    reserve->reservation_id = take_u64(&reader);
    reserve->offset = take_u64(&reader);
    reserve->staging_byte_count = take_u64(&reader);
    reserve->expiry_nanoseconds = take_u64(&reader);
    return is_complete(&reader) && chunk_byte_count <= reserve->staging_byte_count &&
           reserve->offset <= reserve->staging_byte_count - chunk_byte_count;
}
