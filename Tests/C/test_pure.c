// SPDX-License-Identifier: Apache-2.0
//
// What needs no daemon: keys, layout ids, encoders and decoders.
#include "check.h"
#include "wire.h"

#include "CKernels.h"

#include <math.h>

static void check_number(double value, const char *expected) {
    char text[KVS_NUMBER_BYTE_COUNT];
    CHECK_STATUS(kvs_format_number(value, text), KVS_OK);
    if (strcmp(text, expected) != 0) {
        fprintf(stderr, "%s is not %s\n", text, expected);
        CHECK(false);
    }
}

static void test_numbers(void) {
    char text[KVS_NUMBER_BYTE_COUNT];
    check_number(0, "0.0");
    check_number(-0.0, "-0.0");
    check_number(10000.0, "10000.0");
    check_number(-32, "-32.0");
    check_number(0.5, "0.5");
    check_number(0.1, "0.1");
    check_number(1e-05, "1e-05");
    check_number(0.0001, "0.0001");
    check_number(0.00012345, "0.00012345");
    check_number(1.0 / 3, "0.3333333333333333");
    check_number(123456.789, "123456.789");
    check_number(-1.25e-7, "-1.25e-07");
    check_number(1e300, "1e+300");
    check_number(1.5e300, "1.5e+300");
    check_number(5e-324, "5e-324");
    check_number(1.7976931348623157e308, "1.7976931348623157e+308");
    CHECK_STATUS(kvs_format_number(NAN, text), KVS_INVALID_ARGUMENT);
    CHECK_STATUS(kvs_format_number(INFINITY, text), KVS_INVALID_ARGUMENT);
}

static void test_layouts(void) {
    const kvs_layout_field fields[] = {{"model", "m"}, {"dtype", "bf16"}, {"layers", "30"}};
    const kvs_layout_field turned[] = {{"layers", "30"}, {"dtype", "bf16"}, {"model", "m"}};
    const kvs_layout_field twice[] = {{"a", "1"}, {"b", "2"}, {"a", "3"}};
    const kvs_layout_field bad_name[] = {{"Model", "m"}};
    const kvs_layout_field bad_value[] = {{"model", "a\nb=c"}};
    kvs_layout first, second;
    uint8_t expected[16];
    CHECK_STATUS(kvs_layout_id(fields, 3, &first), KVS_OK);
    CHECK_STATUS(kvs_layout_id(turned, 3, &second), KVS_OK);
    CHECK(memcmp(&first, &second, sizeof first) == 0);
    // printf 'kvstore_layout=1\ndtype=bf16\nlayers=30\nmodel=m\n' | sha256sum
    parse_hex("a8b75d920d05e05e442326eb1cbf5e09", expected, 16);
    CHECK(memcmp(&first, expected, sizeof first) == 0);
    CHECK_STATUS(kvs_layout_id(NULL, 0, &first), KVS_OK);
    CHECK_STATUS(kvs_layout_id(twice, 3, &first), KVS_INVALID_ARGUMENT);
    CHECK_STATUS(kvs_layout_id(bad_name, 1, &first), KVS_INVALID_ARGUMENT);
    CHECK_STATUS(kvs_layout_id(bad_value, 1, &first), KVS_INVALID_ARGUMENT);
}

void test_keys(void) {
    uint32_t tokens[600];
    kvs_layout layout = {{1, 2, 3}};
    kvs_key keys[2], rest, once;
    test_numbers();
    test_layouts();
    for (uint32_t index = 0; index < 600; index += 1) {
        tokens[index] = index * 7;
    }
    CHECK_STATUS(kvs_derive_prefix_keys(NULL, &layout, NULL, tokens, 600, 256, keys), KVS_OK);
    // The second half alone, with the first key as its parent, gives the second key.
    CHECK_STATUS(kvs_derive_prefix_keys(NULL, &layout, &keys[0], tokens + 256, 256, 256, &rest),
                 KVS_OK);
    CHECK(memcmp(&keys[1], &rest, sizeof rest) == 0);
    CHECK_STATUS(kvs_derive_content_key(NULL, &layout, tokens, 256, &once), KVS_OK);
    CHECK(memcmp(&keys[0], &once, sizeof once) != 0);
    CHECK_STATUS(kvs_derive_prefix_keys(NULL, &layout, NULL, tokens, 600, 0, keys),
                 KVS_INVALID_ARGUMENT);
    CHECK_STATUS(kvs_derive_prefix_keys(NULL, &layout, NULL, NULL, 255, 256, NULL), KVS_OK);
    CHECK_STATUS(kvs_derive_opaque_key(NULL, "name", 4, &once), KVS_OK);
    CHECK_STATUS(kvs_derive_opaque_key(NULL, NULL, 0, &once), KVS_OK);
}

// The examples of docs/protocol.md, section 9 -----------------------------------------------------

static const char ping_hex[] =
    "4b 56 53 31 01 02 00 00  07 00 00 00 00 00 00 00"
    "e8 03 00 00 00 00 00 00  00 00 00 00 c2 94 d3 38"
    "00 00 00 00 00 00 00 00  00 00 00 00 b2 bc ad 49";
static const char put_hex[] =
    "4b 56 53 31 01 10 00 00  08 00 00 00 00 00 00 00"
    "00 00 00 00 00 00 00 00  48 00 00 00 ff d2 61 5c"
    "14 00 00 00 00 00 00 00  00 00 00 00 60 cd f6 28"
    "00 01 02 03 04 05 06 07  08 09 0a 0b 0c 0d 0e 0f"
    "10 11 12 13 14 15 16 17  18 19 1a 1b 1c 1d 1e 1f"
    "00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00"
    "0c 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00"
    "00 00 00 00 00 00 00 00";
static const char answer_hex[] =
    "4b 56 53 31 01 10 01 00  08 00 00 00 00 00 00 00"
    "00 00 00 00 00 00 00 00  00 00 00 00 c2 94 d3 38"
    "00 00 00 00 00 00 00 00  00 00 00 00 13 95 82 3b";

static void test_examples(void) {
    uint8_t expected[120], frame[120];
    kvs_put_options options = {.time_to_live_milliseconds = 0};
    kvs_key key;
    struct kvsi_request request = {.verb = KVSI_PING, .id = 7, .deadline_milliseconds = 1000};
    parse_hex(ping_hex, expected, 48);
    kvsi_encode_header(frame, &request, frame);
    CHECK(memcmp(frame, expected, 48) == 0);

    for (uint8_t index = 0; index < 32; index += 1) {
        key.bytes[index] = index;
    }
    parse_hex(put_hex, expected, 120);
    size_t byte_count = kvsi_encode_put(frame + 48, &key, 12, &options);
    CHECK(byte_count == 72);
    request = (struct kvsi_request){.verb = KVSI_PUT, .id = 8, .body_byte_count = 72,
                                    .payload_byte_count = 20};
    kvsi_encode_header(frame, &request, frame + 48);
    CHECK(memcmp(frame, expected, 120) == 0);
    CHECK(ckernels_xxh3_64("hello, chunk", 12) == 0xbf99311ab62166a1u);

    struct kvsi_response response;
    parse_hex(answer_hex, frame, 48);
    CHECK(kvsi_decode_header(frame, &response));
    CHECK(response.verb == KVSI_PUT && response.id == 8 && response.status == 0);
    CHECK(response.flags == KVSI_FLAG_RESPONSE && kvsi_body_is_intact(&response, frame));
}

/// Every single-bit error in a header is found.
static void test_damaged_headers(void) {
    uint8_t header[48];
    struct kvsi_response response;
    parse_hex(answer_hex, header, 48);
    for (size_t bit = 0; bit < 48 * 8; bit += 1) {
        header[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        CHECK(!kvsi_decode_header(header, &response));
        header[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
}

/// Every decoder over every length of rubbish; the sanitizers watch the edges.
static void test_rubbish(void) {
    for (uint32_t seed = 0; seed < 2000; seed += 1) {
        size_t byte_count = seed % 300;
        uint8_t *body = malloc(byte_count + 1);
        fill(body, byte_count, seed);
        if (seed % 3 == 0) {
            memset(body, 0, byte_count / 2);
        }
        kvs_lookup_record records[4];
        kvs_stat_pair pairs[2];
        kvs_lease leases[4];
        kvs_status statuses[4];
        struct kvsi_hello hello;
        struct kvsi_get_record record;
        struct kvsi_reserve reserve;
        size_t count = 0;
        uint32_t number = 0;
        char text[KVSI_ERROR_TEXT_BYTE_COUNT];
        (void)kvsi_decode_hello(body, byte_count, &hello);
        (void)kvsi_decode_get(body, byte_count, &record);
        (void)kvsi_decode_get_miss(body, byte_count, &number, text);
        (void)kvsi_decode_lookup(body, byte_count, 4, seed % 2, &count, records);
        (void)kvsi_decode_statuses(body, byte_count, 4, statuses);
        (void)kvsi_decode_stat(body, byte_count, pairs, 2, &count);
        (void)kvsi_decode_release(body, byte_count, &number);
        if (kvsi_decode_reserve(body, byte_count, 100, &reserve)) {
            CHECK(reserve.offset + 100 <= reserve.staging_byte_count);
        }
        if (kvsi_decode_lease(body, byte_count, 4, body, byte_count, leases)) {
            for (size_t index = 0; index < 4; index += 1) {
                CHECK(leases[index].status != KVS_OK || leases[index].byte_count <= byte_count);
            }
        }
        (void)kvsi_decode_error_text(body, byte_count, text);
        CHECK(strlen(text) < sizeof text);
        free(body);
    }
}

void test_wire(void) {
    test_examples();
    test_damaged_headers();
    test_rubbish();
}
