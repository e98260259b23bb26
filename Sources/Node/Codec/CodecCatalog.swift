// SPDX-License-Identifier: Apache-2.0
internal import Codec
internal import KVCore
internal import Kernels
internal import Synchronization

/// What a node has learnt of its namespaces' layouts. Any thread; bounded.
///
/// It never loads anything by itself: a `CodecDesk` does, and tells what it found.
final class CodecCatalog: Sendable {
    private struct Name: Hashable, Sendable {
        let namespace: NamespaceID
        let layout: LayoutID
    }

    private struct Known {
        /// Nil: nobody described it, or not so that it can be used.
        let layout: KVLayout?
        let lookAgain: Instant
    }

    private let secrets: [KeyDerivation?]
    private let layouts = Mutex<[Name: Known]>([:])

    /// `secrets` derive the keys of each namespace, in the order that numbers them.
    init(secrets: [KeyDerivation?]) { self.secrets = secrets }

    /// What derives a namespace's keys; nil: nobody may use it.
    func keys(of namespace: NamespaceID) -> KeyDerivation? {
        let number = Int(namespace.number)
        return number < secrets.count ? secrets[number] : nil
    }

    /// A layout, or that nobody described it; nil: it is time to look.
    func layout(_ namespace: NamespaceID, _ layout: LayoutID, now: Instant) -> KVLayout?? {
        layouts.withLock { layouts -> KVLayout?? in
            guard let known = layouts[Name(namespace: namespace, layout: layout)],
                // A description never changes.
                known.layout != nil || now < known.lookAgain
            else { return .none }
            return .some(known.layout)
        }
    }

    func learn(
        _ namespace: NamespaceID, _ id: LayoutID, _ layout: KVLayout?, now: Instant
    ) {
        layouts.withLock { layouts in
            if layouts.count >= layoutCountMax { layouts = [:] }
            layouts[Name(namespace: namespace, layout: id)] = Known(
                layout: layout, lookAgain: now.adding(milliseconds: lookMilliseconds))
        }
    }
}

/// Layouts that are known at once; with one more, all are looked for again.
private let layoutCountMax = 1_024
/// When a layout that nobody described is looked for again.
private let lookMilliseconds: UInt64 = 10_000
