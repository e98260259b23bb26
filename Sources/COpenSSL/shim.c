// SPDX-License-Identifier: Apache-2.0
// SHA256_Init and its like are deprecated for EVP, which allocates for every digest.
#define OPENSSL_SUPPRESS_DEPRECATED
#include "COpenSSL.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>

int copenssl_hmac_sha256(const uint8_t *key, size_t key_byte_count,
                         const uint8_t *message, size_t message_byte_count,
                         uint8_t digest[32]) {
    unsigned int digest_byte_count = 0;
    static const uint8_t empty = 0;
    const unsigned char *result =
        HMAC(EVP_sha256(), key_byte_count == 0 ? &empty : key, (int)key_byte_count,
             message_byte_count == 0 ? &empty : message, message_byte_count, digest,
             &digest_byte_count);
    return result != NULL && digest_byte_count == 32;
}

int copenssl_sha256(const uint8_t *message, size_t message_byte_count, uint8_t digest[32]) {
    unsigned int digest_byte_count = 0;
    return EVP_Digest(message, message_byte_count, digest, &digest_byte_count, EVP_sha256(),
                      NULL) == 1 && digest_byte_count == 32;
}

int copenssl_sha256_at_once(const void *message, size_t message_byte_count, void *digest) {
    SHA256_CTX state;
    return SHA256_Init(&state) == 1 && SHA256_Update(&state, message, message_byte_count) == 1 &&
        SHA256_Final(digest, &state) == 1;
}

int copenssl_equal_constant_time(const void *left, const void *right, size_t byte_count) {
    return CRYPTO_memcmp(left, right, byte_count) == 0;
}
