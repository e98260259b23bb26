// SPDX-License-Identifier: Apache-2.0
//
// libFuzzer over everything the C client decodes. Checks what callers rely on: counts within what
// was asked for, places within the region, texts that end.
//
//   Fuzz/c/build [OUTPUT]     then OUTPUT -max_total_time=60
#include "wire.h"

#include "CKernels.h"

#include <stdlib.h>
#include <string.h>

enum { KEY_COUNT = 8, PAIR_COUNT = 4, REGION_BYTE_COUNT = 4096, CHUNK_BYTE_COUNT = 100 };

static void require(bool condition) {
    if (!condition) {
        abort();
    }
}

static void decode_header(const uint8_t *body, size_t byte_count) {
    uint8_t header[KVSI_HEADER_BYTE_COUNT] = {0};
    struct kvsi_response response;
    memcpy(header, body, byte_count < sizeof header ? byte_count : sizeof header);
    if (byte_count % 2 == 0) {
        // Half of the inputs get a right checksum, else nothing passes it.
        uint32_t checksum = (uint32_t)ckernels_xxh3_64(header, sizeof header - 4);
        for (size_t index = 0; index < 4; index += 1) {
            header[44 + index] = (uint8_t)(checksum >> (8 * index));
        }
    }
    if (kvsi_decode_header(header, &response)) {
        require(response.body_byte_count <= KVSI_BODY_BYTE_COUNT_MAXIMUM);
        require(response.payload_byte_count <= KVSI_CHUNK_BYTE_COUNT_MAXIMUM);
        (void)kvs_status_text(kvsi_decode_status(response.status));
        (void)kvsi_status_closes(kvsi_decode_status(response.status));
    }
}

static void decode_leases(const uint8_t *body, size_t byte_count) {
    static const uint8_t region[REGION_BYTE_COUNT];
    kvs_lease leases[KEY_COUNT];
    if (!kvsi_decode_lease(body, byte_count, KEY_COUNT, region, sizeof region, leases)) {
        return;
    }
    for (size_t index = 0; index < KEY_COUNT; index += 1) {
        if (leases[index].status == KVS_OK) {
            const uint8_t *first = leases[index].bytes;
            require(first >= region && first + leases[index].byte_count <= region + sizeof region);
        }
    }
}

static void decode_records(const uint8_t *body, size_t byte_count, bool prefix) {
    kvs_lookup_record records[KEY_COUNT];
    size_t prefix_count = 0;
    if (kvsi_decode_lookup(body, byte_count, KEY_COUNT, prefix, &prefix_count, records)) {
        require(prefix_count <= KEY_COUNT);
    }
    (void)kvsi_decode_lookup(body, byte_count, KEY_COUNT, prefix, &prefix_count, NULL);
}

static void decode_one(uint8_t choice, const uint8_t *body, size_t byte_count) {
    char text[KVSI_ERROR_TEXT_BYTE_COUNT];
    kvs_stat_pair pairs[PAIR_COUNT];
    kvs_status statuses[KEY_COUNT];
    struct kvsi_hello hello;
    struct kvsi_get_record record;
    struct kvsi_reserve reserve;
    size_t count = 0;
    uint32_t number = 0;
    switch (choice % 11) {
    case 0: decode_header(body, byte_count); break;
    case 1: (void)kvsi_decode_hello(body, byte_count, &hello); break;
    case 2:
        (void)kvsi_decode_error_text(body, byte_count, text);
        require(strlen(text) < sizeof text);
        break;
    case 3: (void)kvsi_decode_get(body, byte_count, &record); break;
    case 4: (void)kvsi_decode_get_miss(body, byte_count, &number, text); break;
    case 5: decode_records(body, byte_count, false); break;
    case 6: decode_records(body, byte_count, true); break;
    case 7:
        if (kvsi_decode_statuses(body, byte_count, KEY_COUNT, statuses)) {
            for (size_t index = 0; index < KEY_COUNT; index += 1) {
                require(statuses[index] <= KVS_NOT_DURABLE);
            }
        }
        break;
    case 8:
        if (kvsi_decode_stat(body, byte_count, pairs, PAIR_COUNT, &count)) {
            for (size_t index = 0; index < count && index < PAIR_COUNT; index += 1) {
                require(strlen(pairs[index].name) < sizeof pairs[index].name);
            }
        }
        break;
    case 9: decode_leases(body, byte_count); break;
    case 10:
        if (kvsi_decode_reserve(body, byte_count, CHUNK_BYTE_COUNT, &reserve)) {
            require(reserve.offset <= reserve.staging_byte_count - CHUNK_BYTE_COUNT);
        }
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t byte_count);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t byte_count) {
    if (byte_count == 0 || byte_count > KVSI_BODY_BYTE_COUNT_MAXIMUM) {
        return 0;
    }
    // A block of exactly this size, so that reading one byte too far is found.
    uint8_t *body = malloc(byte_count > 1 ? byte_count - 1 : 1);
    if (body != NULL) {
        memcpy(body, bytes + 1, byte_count - 1);
        decode_one(bytes[0], body, byte_count - 1);
        free(body);
    }
    return 0;
}
