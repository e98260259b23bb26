// SPDX-License-Identifier: Apache-2.0
//
// Key derivation, docs/key-derivation.md.
#include "internal.h"
#include "kvstore.h"

#include "COpenSSL.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PREFIX_BYTE_COUNT = 2,
    LAYOUT_FIELD_COUNT_MAXIMUM = 256,
    LAYOUT_TEXT_BYTE_COUNT_MAXIMUM = 4096,
};

static const uint8_t zero_secret[32];

static kvs_status hash_message(const uint8_t *secret, const uint8_t *message, size_t byte_count,
                               kvs_key *key) {
    const uint8_t *used = secret != NULL ? secret : zero_secret;
    return copenssl_hmac_sha256(used, 32, message, byte_count, key->bytes) == 1
               ? KVS_OK
               : KVS_OUT_OF_MEMORY;
}

static void write_tokens(uint8_t *bytes, const uint32_t *tokens, size_t token_count) {
    for (size_t index = 0; index < token_count; index += 1) {
        uint32_t token = tokens[index];
        bytes[4 * index] = (uint8_t)token;
        bytes[4 * index + 1] = (uint8_t)(token >> 8);
        bytes[4 * index + 2] = (uint8_t)(token >> 16);
        bytes[4 * index + 3] = (uint8_t)(token >> 24);
    }
}

kvs_status kvs_derive_prefix_keys(const uint8_t *secret, const kvs_layout *layout,
                                  const kvs_key *parent, const uint32_t *tokens,
                                  size_t token_count, size_t chunk_token_count, kvs_key *keys) {
    if (layout == NULL || chunk_token_count == 0 ||
        chunk_token_count > KVS_CHUNK_TOKEN_COUNT_MAXIMUM) {
        return KVS_INVALID_ARGUMENT;
    }
    size_t key_count = token_count / chunk_token_count;
    if (key_count == 0) {
        return KVS_OK;
    }
    if (tokens == NULL || keys == NULL) {
        return KVS_INVALID_ARGUMENT;
    }
    size_t head_byte_count = PREFIX_BYTE_COUNT + KVS_LAYOUT_BYTE_COUNT + KVS_KEY_BYTE_COUNT;
    size_t message_byte_count = head_byte_count + 4 * chunk_token_count;
    uint8_t *message = calloc(1, message_byte_count);
    if (message == NULL) {
        return KVS_OUT_OF_MEMORY;
    }
    memcpy(message, "p1", PREFIX_BYTE_COUNT);
    memcpy(message + PREFIX_BYTE_COUNT, layout->bytes, KVS_LAYOUT_BYTE_COUNT);
    kvs_status status = KVS_OK;
    for (size_t index = 0; index < key_count && status == KVS_OK; index += 1) {
        if (parent != NULL) {
            memcpy(message + PREFIX_BYTE_COUNT + KVS_LAYOUT_BYTE_COUNT, parent->bytes,
                   KVS_KEY_BYTE_COUNT);
        }
        write_tokens(message + head_byte_count, tokens + index * chunk_token_count,
                     chunk_token_count);
        status = hash_message(secret, message, message_byte_count, &keys[index]);
        parent = &keys[index];
    }
    free(message);
    return status;
}

kvs_status kvs_derive_content_key(const uint8_t *secret, const kvs_layout *layout,
                                  const uint32_t *tokens, size_t token_count, kvs_key *key) {
    if (layout == NULL || (tokens == NULL && token_count != 0) || key == NULL ||
        token_count > KVS_CHUNK_TOKEN_COUNT_MAXIMUM) {
        return KVS_INVALID_ARGUMENT;
    }
    size_t head_byte_count = PREFIX_BYTE_COUNT + KVS_LAYOUT_BYTE_COUNT;
    uint8_t *message = malloc(head_byte_count + 4 * token_count);
    if (message == NULL) {
        return KVS_OUT_OF_MEMORY;
    }
    memcpy(message, "c1", PREFIX_BYTE_COUNT);
    memcpy(message + PREFIX_BYTE_COUNT, layout->bytes, KVS_LAYOUT_BYTE_COUNT);
    write_tokens(message + head_byte_count, tokens, token_count);
    kvs_status status = hash_message(secret, message, head_byte_count + 4 * token_count, key);
    free(message);
    return status;
}

kvs_status kvs_derive_opaque_key(const uint8_t *secret, const void *name, size_t name_byte_count,
                                 kvs_key *key) {
    if (key == NULL || (name == NULL && name_byte_count != 0) ||
        name_byte_count > SIZE_MAX - PREFIX_BYTE_COUNT) {
        return KVS_INVALID_ARGUMENT;
    }
    uint8_t *message = malloc(PREFIX_BYTE_COUNT + name_byte_count);
    if (message == NULL) {
        return KVS_OUT_OF_MEMORY;
    }
    memcpy(message, "o1", PREFIX_BYTE_COUNT);
    if (name_byte_count != 0) {
        memcpy(message + PREFIX_BYTE_COUNT, name, name_byte_count);
    }
    kvs_status status = hash_message(secret, message, PREFIX_BYTE_COUNT + name_byte_count, key);
    free(message);
    return status;
}

// Layout ------------------------------------------------------------------------------------------

/// The digits and the decimal exponent of a double in their shortest form that reads back.
struct decimal {
    char digits[20];  // without point
    int digit_count;
    int exponent;     // of the first digit: value = d.ddd × 10^exponent
};

static struct decimal shortest_decimal(double magnitude) {
    struct decimal result = {.digit_count = 0, .exponent = 0};
    char text[KVS_NUMBER_BYTE_COUNT];
    for (int precision = 0; precision < 17; precision += 1) {
        (void)snprintf(text, sizeof text, "%.*e", precision, magnitude);
        if (strtod(text, NULL) == magnitude) {
            break;
        }
    }
    const char *next = text;
    for (; *next != '\0' && *next != 'e'; next += 1) {
        if (*next >= '0' && *next <= '9') {  // skips the point, whatever the locale writes
            result.digits[result.digit_count] = *next;
            result.digit_count += 1;
        }
    }
    result.exponent = *next == 'e' ? atoi(next + 1) : 0;
    return result;
}

kvs_status kvs_format_number(double value, char text[KVS_NUMBER_BYTE_COUNT]) {
    if (text == NULL || !isfinite(value)) {
        return KVS_INVALID_ARGUMENT;
    }
    const char *sign = signbit(value) ? "-" : "";
    struct decimal decimal = shortest_decimal(signbit(value) ? -value : value);
    int whole_count = decimal.exponent + 1;
    if (decimal.exponent >= 16 || decimal.exponent < -4) {
        (void)snprintf(text, KVS_NUMBER_BYTE_COUNT, "%s%c%s%.*se%c%02d", sign, decimal.digits[0],
                       decimal.digit_count > 1 ? "." : "", decimal.digit_count - 1,
                       decimal.digits + 1, decimal.exponent < 0 ? '-' : '+',
                       abs(decimal.exponent));
    } else if (decimal.exponent < 0) {
        (void)snprintf(text, KVS_NUMBER_BYTE_COUNT, "%s0.%.*s%.*s", sign, -decimal.exponent - 1,
                       "000", decimal.digit_count, decimal.digits);
    } else if (decimal.digit_count > whole_count) {
        (void)snprintf(text, KVS_NUMBER_BYTE_COUNT, "%s%.*s.%.*s", sign, whole_count,
                       decimal.digits, decimal.digit_count - whole_count,
                       decimal.digits + whole_count);
    } else {
        (void)snprintf(text, KVS_NUMBER_BYTE_COUNT, "%s%.*s%.*s.0", sign, decimal.digit_count,
                       decimal.digits, whole_count - decimal.digit_count, "0000000000000000");
    }
    return KVS_OK;
}

static bool is_field_valid(const kvs_layout_field *field) {
    if (field->name == NULL || field->value == NULL || field->name[0] == '\0') {
        return false;
    }
    size_t name_byte_count = strspn(field->name, "abcdefghijklmnopqrstuvwxyz0123456789_");
    return field->name[name_byte_count] == '\0' && strcmp(field->name, "kvstore_layout") != 0 &&
           strpbrk(field->value, "\r\n") == NULL &&
           name_byte_count <= LAYOUT_TEXT_BYTE_COUNT_MAXIMUM &&
           strlen(field->value) <= LAYOUT_TEXT_BYTE_COUNT_MAXIMUM;
}

/// Orders pointers to fields by name; insertion sort, descriptions are short. False: a name twice.
static bool sort_fields(const kvs_layout_field **sorted, size_t field_count) {
    for (size_t index = 1; index < field_count; index += 1) {
        const kvs_layout_field *field = sorted[index];
        size_t place = index;
        while (place > 0 && strcmp(sorted[place - 1]->name, field->name) >= 0) {
            if (strcmp(sorted[place - 1]->name, field->name) == 0) {
                return false;
            }
            sorted[place] = sorted[place - 1];
            place -= 1;
        }
        sorted[place] = field;
    }
    return true;
}

kvs_status kvsi_canonical_description(const kvs_layout_field *fields, size_t field_count,
                                      char **text, size_t *text_byte_count) {
    static const char first_line[] = "kvstore_layout=1\n";
    const kvs_layout_field *sorted[LAYOUT_FIELD_COUNT_MAXIMUM];
    size_t byte_count = sizeof first_line - 1;
    if ((fields == NULL && field_count != 0) || field_count > LAYOUT_FIELD_COUNT_MAXIMUM) {
        return KVS_INVALID_ARGUMENT;
    }
    for (size_t index = 0; index < field_count; index += 1) {
        if (!is_field_valid(&fields[index])) {
            return KVS_INVALID_ARGUMENT;
        }
        sorted[index] = &fields[index];
        byte_count += strlen(fields[index].name) + strlen(fields[index].value) + 2;
    }
    if (!sort_fields(sorted, field_count)) {
        return KVS_INVALID_ARGUMENT;
    }
    char *written = malloc(byte_count + 1);
    if (written == NULL) {
        return KVS_OUT_OF_MEMORY;
    }
    size_t used = (size_t)snprintf(written, byte_count + 1, "%s", first_line);
    for (size_t index = 0; index < field_count; index += 1) {
        used += (size_t)snprintf(written + used, byte_count + 1 - used, "%s=%s\n",
                                 sorted[index]->name, sorted[index]->value);
    }
    *text = written;
    *text_byte_count = used;
    return KVS_OK;
}

kvs_status kvs_layout_id(const kvs_layout_field *fields, size_t field_count, kvs_layout *layout) {
    if (layout == NULL) {
        return KVS_INVALID_ARGUMENT;
    }
    char *text = NULL;
    size_t byte_count = 0;
    kvs_status status = kvsi_canonical_description(fields, field_count, &text, &byte_count);
    if (status != KVS_OK) {
        return status;
    }
    uint8_t digest[32];
    int hashed = copenssl_sha256((const uint8_t *)text, byte_count, digest);
    free(text);
    if (hashed != 1) {
        return KVS_OUT_OF_MEMORY;
    }
    memcpy(layout->bytes, digest, KVS_LAYOUT_BYTE_COUNT);
    return KVS_OK;
}

kvs_status kvsi_derive_codec_key(const uint8_t *secret, const char prefix[2], const uint8_t *name,
                                 kvs_key *key) {
    uint8_t message[PREFIX_BYTE_COUNT + KVS_LAYOUT_BYTE_COUNT];
    memcpy(message, prefix, PREFIX_BYTE_COUNT);
    memcpy(message + PREFIX_BYTE_COUNT, name, KVS_LAYOUT_BYTE_COUNT);
    return hash_message(secret, message, sizeof message, key);
}
