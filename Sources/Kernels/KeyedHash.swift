// SPDX-License-Identifier: Apache-2.0
internal import COpenSSL
package import KVCore

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

/// SHA-256 of `message` as a chunk's key. Allocates nothing.
package func secureHash(_ message: PinnedBytes) -> ChunkKey {
    var words: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
    // SAFETY: the run is valid for its count, and the words are 32 bytes in a row.
    let done = unsafe withUnsafeMutableBytes(of: &words) { digest in
        unsafe copenssl_sha256_at_once(message.start, message.count, digest.baseAddress)
    }
    precondition(done == 1, "libcrypto cannot compute SHA-256: check the OpenSSL installation")
    return ChunkKey(
        words: (
            UInt64(littleEndian: words.0), UInt64(littleEndian: words.1),
            UInt64(littleEndian: words.2), UInt64(littleEndian: words.3)
        ))
}

/// Whether both are equal, in a time that does not tell where they differ.
package func equalInConstantTime(_ left: [UInt8], _ right: [UInt8]) -> Bool {
    guard left.count == right.count else { return false }
    // SAFETY: both arrays are valid for `left.count` bytes.
    return unsafe copenssl_equal_constant_time(left, right, left.count) == 1
}
