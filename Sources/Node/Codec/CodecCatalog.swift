// SPDX-License-Identifier: Apache-2.0
internal import Codec
internal import KVCore
internal import Kernels
internal import Synchronization

/// What a node has learnt of its namespaces' layouts, and of the profiles that go with them. Any
/// thread; bounded.
///
/// It never loads anything by itself: a `CodecDesk` does, and tells what it found.
final class CodecCatalog: Sendable {
    /// Whose layout.
    struct LayoutName: Hashable, Sendable {
        let namespace: NamespaceID
        let layout: LayoutID
    }

    /// Whose profile, made ready for which layout.
    struct ProfileName: Hashable, Sendable {
        let layout: LayoutName
        let hash: ProfileHash
    }

    /// Nil values: nobody described the layout, or not so that it can be used. A description never
    /// changes.
    let layouts = CodecMemory<LayoutName, KVLayout>(sizeMax: 1_024, keepsWhatIsThere: true)
    /// Which profile a layout's chunks are to be encoded with.
    let choices = CodecMemory<LayoutName, ProfileHash>(sizeMax: 1_024, keepsWhatIsThere: false)
    /// By their bytes: one of a large model takes megabytes.
    let profiles: CodecMemory<ProfileName, Profile>
    private let secrets: [KeyDerivation?]

    /// `secrets` derive the keys of each namespace, in the order that numbers them.
    init(secrets: [KeyDerivation?], profileByteCountMax: Int) {
        self.secrets = secrets
        profiles = CodecMemory(sizeMax: profileByteCountMax, keepsWhatIsThere: true)
    }

    /// What derives a namespace's keys; nil: nobody may use it.
    func keys(of namespace: NamespaceID) -> KeyDerivation? {
        let number = Int(namespace.number)
        return number < secrets.count ? secrets[number] : nil
    }
}

/// What was found under names, and what was not; the latter, and what may change, is looked for
/// again after ten seconds. Any thread.
final class CodecMemory<Name: Hashable & Sendable, Value: Sendable>: Sendable {
    private struct Known {
        let value: Value?
        let size: Int
        let lookAgain: Instant
    }

    private let known = Mutex<[Name: Known]>([:])
    /// Of all together: with more, all are looked for again.
    let sizeMax: Int
    private let keepsWhatIsThere: Bool
    /// Names that are remembered, however small.
    private static var countMax: Int { 1_024 }

    init(sizeMax: Int, keepsWhatIsThere: Bool) {
        self.sizeMax = sizeMax
        self.keepsWhatIsThere = keepsWhatIsThere
    }

    /// What is known of `name`, or that there is nothing; nil: it is time to look.
    func look(_ name: Name, now: Instant) -> Value?? {
        known.withLock { known -> Value?? in
            guard let found = known[name],
                keepsWhatIsThere && found.value != nil || now < found.lookAgain
            else { return .none }
            return .some(found.value)
        }
    }

    /// Remembers a value of that size, or that there is none. What is larger than all may be
    /// together is taken for absent.
    func learn(_ name: Name, _ value: Value?, size: Int = 1, now: Instant) {
        let isKept = value != nil && size <= sizeMax
        let new = Known(
            value: isKept ? value : nil, size: isKept ? size : 0,
            lookAgain: now.adding(milliseconds: lookMilliseconds))
        known.withLock { known in
            known[name] = nil
            let size = known.values.reduce(new.size) { $0 + $1.size }
            if size > sizeMax || known.count >= Self.countMax { known = [:] }
            known[name] = new
        }
    }
}

private let lookMilliseconds: UInt64 = 10_000
