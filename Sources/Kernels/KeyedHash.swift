// SPDX-License-Identifier: Apache-2.0
internal import COpenSSL

/// HMAC-SHA256 (RFC 2104), for the derivation of keys; libcrypto does the work.
///
/// - Returns: 32 bytes.
package func keyedHash(key: [UInt8], message: [UInt8]) -> [UInt8] {
    var digest = [UInt8](repeating: 0, count: 32)
    // SAFETY: the arrays are valid for their counts during the call; the digest takes 32 bytes.
    let done = unsafe copenssl_hmac_sha256(key, key.count, message, message.count, &digest)
    precondition(done == 1, "libcrypto cannot compute HMAC-SHA256: check the OpenSSL installation")
    return digest
}

/// SHA-256 (FIPS 180-4) of `message`: 32 bytes.
package func secureHash(_ message: [UInt8]) -> [UInt8] {
    var digest = [UInt8](repeating: 0, count: 32)
    // SAFETY: as above.
    let done = unsafe copenssl_sha256(message, message.count, &digest)
    precondition(done == 1, "libcrypto cannot compute SHA-256: check the OpenSSL installation")
    return digest
}

/// Whether both are equal, in a time that does not tell where they differ.
package func equalInConstantTime(_ left: [UInt8], _ right: [UInt8]) -> Bool {
    guard left.count == right.count else { return false }
    // SAFETY: both arrays are valid for `left.count` bytes.
    return unsafe copenssl_equal_constant_time(left, right, left.count) == 1
}
