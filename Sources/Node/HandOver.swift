// SPDX-License-Identifier: Apache-2.0
package import KVCore
internal import Kernels

/// A connection that stands between two requests and outlives its daemon. Any thread.
package struct KeptConnection<R: Reactor>: Sendable {
    package let connection: R.Listener.Connection
    /// What the next daemon must know to go on with it: `KeptSession.name`.
    package let name: String
}

/// Where a kept connection stands, as told from one daemon to the next. A value.
///
/// Its name is written and read by people, too: `kvstored-1-lm`, `kvstored-1-resp-2-open` or
/// `kvstored-1-resp-3-` and 32 hexadecimal digits. The 1 is the version of all this.
struct KeptSession: Hashable {
    static let prefix = "kvstored-1-"

    /// What opened a connection of the RESP listener.
    enum Admission: Hashable {
        /// There was no password.
        case open
        /// A password with this mark: see `HandOver.mark(of:)`.
        case password(mark: String)
    }

    enum Kind: Hashable {
        case lm
        case resp(version: Int, Admission)
    }

    let kind: Kind

    init(_ kind: Kind) {
        self.kind = kind
    }

    /// Reads a name; nil when it is none that `name` gives.
    init?(name: String) {
        guard name.hasPrefix(Self.prefix) else { return nil }
        let words = name.dropFirst(Self.prefix.count).split(
            separator: "-", omittingEmptySubsequences: false)
        switch words.first {
        case "lm" where words.count == 1:
            kind = .lm
        case "resp" where words.count == 3 && (words[1] == "2" || words[1] == "3"):
            let mark = String(words[2])
            let isMark =
                mark.utf8.count == HandOver.markByteCount * 2
                && mark.utf8.allSatisfy { hexadecimalDigits.contains($0) }
            guard isMark || mark == "open" else { return nil }
            kind = .resp(
                version: words[1] == "2" ? 2 : 3, isMark ? .password(mark: mark) : .open)
        default:
            return nil
        }
    }

    var name: String {
        switch kind {
        case .lm: Self.prefix + "lm"
        case .resp(let version, .open): Self.prefix + "resp-\(version)-open"
        case .resp(let version, .password(let mark)): Self.prefix + "resp-\(version)-\(mark)"
        }
    }

    var door: FrontDoor {
        switch kind {
        case .lm: .lm
        case .resp: .resp
        }
    }
}

/// What one daemon tells the next beside the connections themselves: a secret under which they name
/// passwords, and how large the values are that strict clients ask for. A value.
package struct HandOver: Sendable {
    /// Of the memory file that it travels in.
    package static let name = KeptSession.prefix + "state"
    /// Its size, whatever it says.
    package static let byteCount = headByteCount + Limits.respFamilyCountMax * rowByteCount

    package static let keyByteCount = 32
    static let markByteCount = 16
    private static let magic: UInt64 = 0x31_44_4e_41_48_53_56_4b
    private static let headByteCount = 64
    private static let rowByteCount = 16

    let key: [UInt8]
    var sizes: ValueSizes.Known

    init(key: [UInt8], sizes: ValueSizes.Known) {
        invariant(key.count == Self.keyByteCount, "a key of a fixed size")
        self.key = key
        self.sizes = sizes
    }

    /// What names a password in a place where others may see it, for those who have the key.
    func mark(of password: [UInt8]) -> String {
        Self.mark(of: password, key)
    }

    static func mark(of password: [UInt8], _ key: [UInt8]) -> String {
        let digest = keyedHash(key: key, message: password).prefix(markByteCount)
        let digits = digest.flatMap { byte in
            [hexadecimalDigits[Int(byte >> 4)], hexadecimalDigits[Int(byte & 15)]]
        }
        return String(decoding: digits, as: UTF8.self)
    }

    /// Writes it to memory of `byteCount` bytes, all of them:
    /// magic, checksum of what follows, key (32 bytes), last size, number of families; then for
    /// each its number and size. 8 bytes each but for the key, little-endian.
    package func encode(into bytes: PinnedBytes) {
        invariant(bytes.count == Self.byteCount, "memory of the one size")
        bytes.fill(0)
        bytes.store(Self.magic, at: 0)
        for (index, byte) in key.enumerated() { bytes.store(byte, at: 16 + index) }
        bytes.store(UInt64(sizes.last), at: 48)
        bytes.store(UInt64(sizes.byteCountByFamily.count), at: 56)
        for (index, row) in sizes.byteCountByFamily.enumerated() {
            bytes.store(row.key, at: Self.headByteCount + index * Self.rowByteCount)
            bytes.store(UInt64(row.value), at: Self.headByteCount + index * Self.rowByteCount + 8)
        }
        bytes.store(Checksum.of(bytes.dropFirst(16)), at: 8)
    }

    /// Reads what `encode` wrote; nil when it is anything else.
    package init?(_ bytes: PinnedBytes) {
        guard bytes.count == Self.byteCount, bytes.load(UInt64.self, at: 0) == Self.magic,
            bytes.load(UInt64.self, at: 8) == Checksum.of(bytes.dropFirst(16))
        else { return nil }
        key = (0..<Self.keyByteCount).map { bytes[16 + $0] }
        let last = bytes.load(UInt64.self, at: 48)
        let count = bytes.load(UInt64.self, at: 56)
        guard count <= UInt64(Limits.respFamilyCountMax), Self.isSize(last) else { return nil }
        sizes = ValueSizes.Known(last: Int(last))
        for index in 0..<Int(count) {
            let place = Self.headByteCount + index * Self.rowByteCount
            let size = bytes.load(UInt64.self, at: place + 8)
            guard Self.isSize(size) else { return nil }
            sizes.byteCountByFamily[bytes.load(UInt64.self, at: place)] = Int(size)
        }
    }

    private static func isSize(_ number: UInt64) -> Bool {
        number <= UInt64(Limits.respBulkByteCountMax)
    }
}

/// A connection of the daemon before that this one goes on with. A value.
package struct ResumedSession: Sendable {
    package let door: FrontDoor
    /// Of RESP.
    let version: Int
    /// Which password of the RESP listener opened it; nil: none was asked for.
    let passwordNumber: Int?
}

/// Why a connection of the daemon before ends with it.
package enum NotResumed: String, Error, Sendable {
    case unknown = "its name is none of ours"
    case noListener = "there is no such listener any more, or at another address"
    case password = "the password has changed"
    case notConnected = "it is no TCP connection, or its client is gone"
}

extension Node {
    /// What this node goes on with, of what the daemon before named so.
    package func resume(
        _ name: String, _ handedOver: HandOver
    ) throws(NotResumed) -> ResumedSession {
        guard let session = KeptSession(name: name) else { throw .unknown }
        switch session.kind {
        case .lm:
            guard configuration.lm != nil else { throw .noListener }
            return ResumedSession(door: .lm, version: 2, passwordNumber: nil)
        case .resp(let version, let admission):
            guard let resp = configuration.resp else { throw .noListener }
            guard !resp.passwords.isEmpty else {
                return ResumedSession(door: .resp, version: version, passwordNumber: nil)
            }
            guard case .password(let mark) = admission,
                let number = resp.passwords.firstIndex(where: { handedOver.mark(of: $0) == mark })
            else { throw .password }
            return ResumedSession(door: .resp, version: version, passwordNumber: number)
        }
    }

    /// Takes over what the daemon before knew of its clients' values.
    package func learn(_ handedOver: HandOver) {
        valueSizes.learn(handedOver.sizes)
    }
}

extension StreamAddress {
    /// Whether a listener here would have accepted a connection whose own address is `address`.
    func covers(_ address: StreamAddress) -> Bool {
        guard case .tcp(let host, let port) = self, case .tcp(let ownHost, let ownPort) = address
        else { return false }
        return port == ownPort && (host == ownHost || host == "0.0.0.0" || host == "::")
    }
}

private let hexadecimalDigits = Array("0123456789abcdef".utf8)
