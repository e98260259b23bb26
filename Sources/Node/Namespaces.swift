// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Kernels

/// A tenant as configured. A value; holds secrets, so it is never printed.
package struct NamespaceConfiguration: Sendable {
    package let name: String
    /// Tokens that open the namespace; empty: open to everybody who can connect.
    package let tokens: [[UInt8]]
    /// The 32-byte key of the key derivation.
    package let secret: [UInt8]
    /// Whether its local clients may map the arena, in which all namespaces' chunks lie.
    package let sharesMemory: Bool
    /// Whether clients of the native protocol may open it at all; not the one of a front door.
    package let isOpenable: Bool

    package init(
        name: String, tokens: [[UInt8]] = [], secret: [UInt8]? = nil, sharesMemory: Bool = true,
        isOpenable: Bool = true
    ) {
        self.name = name
        self.isOpenable = isOpenable
        self.tokens = tokens
        self.sharesMemory = sharesMemory
        self.secret = secret ?? [UInt8](repeating: 0, count: 32)
        invariant(self.secret.count == 32, "a namespace secret has 32 bytes")
    }
}

/// All tenants of a node, fixed while it runs. A value.
struct NamespaceRegistry: Sendable {
    private let namespaces: [NamespaceConfiguration?]

    /// `namespaces` in the order that numbers them; names are unique; nil: nobody may use it.
    init(_ namespaces: [NamespaceConfiguration?]) {
        invariant(namespaces.count <= Int(UInt16.max), "namespace numbers have 16 bits")
        self.namespaces = namespaces
    }

    /// The namespace that `name` and `token` open; nil when either is wrong.
    ///
    /// Takes about the same time whether the name or the token is wrong: each token of every
    /// namespace is compared, in constant time.
    func open(name: String, token: [UInt8]) -> OpenedNamespace? {
        let wanted = name.isEmpty ? "default" : name
        var opened: OpenedNamespace?
        for (number, namespace) in namespaces.enumerated() {
            guard let namespace else { continue }
            var tokenFits = namespace.tokens.isEmpty
            for candidate in namespace.tokens
            where equalInConstantTime(secureHash(candidate), secureHash(token)) {
                tokenFits = true
            }
            if namespace.name == wanted, tokenFits, namespace.isOpenable {
                opened = OpenedNamespace(
                    id: NamespaceID(number: UInt16(number)), secret: namespace.secret,
                    sharesMemory: namespace.sharesMemory)
            }
        }
        return opened
    }
}

/// What HELLO opened. A value.
struct OpenedNamespace {
    let id: NamespaceID
    let secret: [UInt8]
    let sharesMemory: Bool
}
