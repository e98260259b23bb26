// SPDX-License-Identifier: Apache-2.0
package import KVCore
internal import Kernels
internal import Synchronization

/// What is spoken on a listener.
package enum FrontDoor: String, CaseIterable, Sendable {
    /// docs/protocol.md.
    case native
    /// docs/resp.md.
    case resp
    /// docs/lm-protocol.md.
    case lm
}

/// What the RESP listener is told. A value; holds secrets, so it is never printed.
package struct RESPConfiguration: Sendable {
    /// Where its values lie.
    package var namespace: NamespaceID
    /// Any of them opens the listener; empty: it is open to everybody who can connect.
    package var passwords: [[UInt8]] = []
    package var connectionCountMax = 512
    /// Whether replies have the shapes that LMCache's native client insists on.
    package var isStrict = false
    /// How long what EXISTS found stays in memory, with strict replies.
    package var leaseMilliseconds: UInt32 = 5_000
    /// Whether FLUSHDB is served.
    package var mayFlush = false
    /// Within this a request arrives, once it has begun, and a reply is taken.
    package var transferMilliseconds: UInt32 = 60_000

    package init(namespace: NamespaceID) {
        self.namespace = namespace
    }

    /// Which of the passwords `password` is, if any, in a time that does not tell which, or how
    /// nearly.
    func number(of password: PinnedBytes) -> Int? {
        let candidate = secureHash(password).bytes
        var found: Int?
        for (number, wanted) in passwords.enumerated()
        where equalInConstantTime(secureHash(wanted), candidate) {
            found = number
        }
        return found
    }
}

/// What the lm listener is told. A value.
package struct LMConfiguration: Sendable {
    package var namespace: NamespaceID

    package init(namespace: NamespaceID) {
        self.namespace = namespace
    }
}

/// How large the values of a family of keys are: what a strict client expects of a value that is
/// not there. Any thread; bounded.
final class ValueSizes: Sendable {
    /// A copy of it all.
    struct Known: Equatable {
        var byteCountByFamily: [UInt64: Int] = [:]
        var last: Int
    }

    /// Seven digits: chunks of 1 to 10 MB are the most common.
    private static let standardByteCount = 4 << 20
    private let state = Mutex(Known(last: standardByteCount))

    var known: Known { state.withLock { $0 } }

    /// Takes over what another knew.
    func learn(_ known: Known) {
        state.withLock { $0 = known }
    }

    /// A value of that name has `byteCount` bytes.
    func learn(_ name: PinnedBytes, byteCount: Int) {
        let family = Self.family(name)
        state.withLock { state in
            state.last = byteCount
            guard state.byteCountByFamily[family] != byteCount else { return }
            if state.byteCountByFamily.count >= Limits.respFamilyCountMax,
                state.byteCountByFamily[family] == nil
            {
                // Any one goes: the families in use are soon learnt again.
                state.byteCountByFamily.remove(at: state.byteCountByFamily.startIndex)
            }
            state.byteCountByFamily[family] = byteCount
        }
    }

    /// The likely size of a value of that name.
    func byteCount(_ name: PinnedBytes) -> Int {
        let family = Self.family(name)
        return state.withLock { $0.byteCountByFamily[family] ?? $0.last }
    }

    /// The name without its fourth field between `@`, which in LMCache's keys is the chunk's hash.
    private static func family(_ name: PinnedBytes) -> UInt64 {
        var (fieldCount, start, end) = (1, name.count, name.count)
        for offset in 0..<name.count where name[offset] == UInt8(ascii: "@") {
            fieldCount += 1
            if fieldCount == 4 { start = offset + 1 }
            if fieldCount == 5 { end = offset }
        }
        let front = Checksum.of(name.prefix(start))
        return front &* 0x9e37_79b9_7f4a_7c15 ^ Checksum.of(name.dropFirst(max(start, end)))
    }
}
