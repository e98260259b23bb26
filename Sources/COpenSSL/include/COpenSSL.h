// SPDX-License-Identifier: Apache-2.0
//
// Doorway to libcrypto: the few calls we need, without OpenSSL's macro-heavy headers.
#ifndef COPENSSL_H
#define COPENSSL_H

#include <stddef.h>
#include <stdint.h>

/// HMAC-SHA256 (RFC 2104, FIPS 180-4) of `message` under `key`; writes 32 bytes. Returns 1, or 0
/// when libcrypto fails.
int copenssl_hmac_sha256(const uint8_t *key, size_t key_byte_count,
                         const uint8_t *message, size_t message_byte_count,
                         uint8_t digest[32]);

/// SHA-256 of `message`; writes 32 bytes. Returns 1, or 0 when libcrypto fails.
int copenssl_sha256(const uint8_t *message, size_t message_byte_count, uint8_t digest[32]);

/// The same of any bytes, without an allocation.
int copenssl_sha256_at_once(const void *message, size_t message_byte_count, void *digest);

/// 1 when both areas hold the same bytes; the time does not depend on where they differ.
int copenssl_equal_constant_time(const void *left, const void *right, size_t byte_count);

#endif
