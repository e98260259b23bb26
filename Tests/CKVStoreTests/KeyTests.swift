// SPDX-License-Identifier: Apache-2.0
import CKVStore
import Kernels
import Testing

/// The C client's keys against the derivation written out in Swift, docs/key-derivation.md.
@Suite struct KeyTests {
    private let secret = [UInt8](0..<32)
    private let layout = [UInt8](repeating: 9, count: 16)
    private let tokens = (0..<600).map { UInt32($0 * 77) }

    private func bytes(of tokens: ArraySlice<UInt32>) -> [UInt8] {
        tokens.flatMap { token in (0..<4).map { UInt8(truncatingIfNeeded: token >> ($0 * 8)) } }
    }

    private var layoutOfC: kvs_layout {
        var made = kvs_layout()
        // SAFETY: 16 bytes into a structure of 16.
        unsafe withUnsafeMutableBytes(of: &made) { unsafe $0.copyBytes(from: layout) }
        return made
    }

    private func array(_ key: kvs_key) -> [UInt8] {
        // SAFETY: copied while the pointer is valid.
        unsafe withUnsafeBytes(of: key) { unsafe [UInt8]($0) }
    }

    @Test func `a prefix chain is what the document says`() {
        var keys = [kvs_key](repeating: kvs_key(), count: 2)
        var layout = layoutOfC
        // SAFETY: every array is valid for the count that goes with it during the call.
        let status = unsafe kvs_derive_prefix_keys(
            secret, &layout, nil, tokens, tokens.count, 256, &keys)
        #expect(status == KVS_OK)
        let root = [UInt8](repeating: 0, count: 32)
        let head = Array("p1".utf8) + self.layout
        let first = keyedHash(key: secret, message: head + root + bytes(of: tokens[0..<256]))
        let second = keyedHash(key: secret, message: head + first + bytes(of: tokens[256..<512]))
        #expect(keys.map(array) == [first, second])
    }

    @Test func `position-independent and opaque keys`() {
        var key = kvs_key()
        var layout = layoutOfC
        // SAFETY: as above.
        #expect(unsafe kvs_derive_content_key(secret, &layout, tokens, 100, &key) == KVS_OK)
        let message = Array("c1".utf8) + self.layout + bytes(of: tokens[0..<100])
        #expect(array(key) == keyedHash(key: secret, message: message))
        let name = Array("a name".utf8)
        // SAFETY: as above.
        #expect(unsafe kvs_derive_opaque_key(secret, name, name.count, &key) == KVS_OK)
        #expect(array(key) == keyedHash(key: secret, message: Array("o1".utf8) + name))
    }
}
