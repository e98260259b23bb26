// SPDX-License-Identifier: Apache-2.0
internal import Codec
internal import KVCore

/// Whose a chunk is and what its bytes mean: what many chunks have in common, since they are of one
/// size and so begin at the same places of their sequences. A value.
struct SSDBinding: Hashable, Sendable {
    var namespace: NamespaceID
    var layout: LayoutID
    var level: Level
    /// Advice to the codec: unknown where there would be too many bindings.
    var position = CompactPosition.unknown
}

/// The bindings in use, each named by a number of 16 bits, with what they hold. A confined value.
struct SSDBindings: ~Copyable {
    private struct Row {
        var binding: SSDBinding
        var chunkCount: Int
        var byteCount: Int
    }

    private var rows: [Row] = []
    private var numbers: [SSDBinding: UInt16] = [:]
    private var unused: [UInt16] = []
    /// While set, no number gets another meaning: a checkpoint is being written.
    var isFrozen = false {
        didSet {
            guard !isFrozen else { return }
            for number in emptied where rows[Int(number)].chunkCount == 0 { recycle(number) }
            emptied.removeAll()
        }
    }
    private var emptied: Set<UInt16> = []

    /// Bindings of which one with another position becomes one without: half of those with which
    /// there are checkpoints.
    private static let positionedCountMax = CheckpointLayout.smallRowCountMax / 2

    /// The number of `binding`; nil when 65,536 others are in use.
    mutating func number(of wanted: SSDBinding) -> UInt16? {
        if let number = numbers[wanted] { return number }
        var binding = wanted
        if numbers.count >= Self.positionedCountMax {
            binding.position = .unknown
            if let number = numbers[binding] { return number }
        }
        let number: UInt16
        if let reused = unused.popLast() {
            number = reused
            rows[Int(number)].binding = binding
        } else {
            guard rows.count <= Int(UInt16.max) else { return nil }
            number = UInt16(rows.count)
            rows.append(Row(binding: binding, chunkCount: 0, byteCount: 0))
        }
        numbers[binding] = number
        return number
    }

    subscript(number: UInt16) -> SSDBinding { rows[Int(number)].binding }

    func namespace(of number: UInt16) -> NamespaceID { rows[Int(number)].binding.namespace }

    /// Counts a chunk in.
    mutating func add(_ number: UInt16, byteCount: Int) {
        rows[Int(number)].chunkCount += 1
        rows[Int(number)].byteCount += byteCount
    }

    /// Counts a chunk out; the number may name another binding when it was the last.
    mutating func subtract(_ number: UInt16, byteCount: Int) {
        rows[Int(number)].chunkCount -= 1
        rows[Int(number)].byteCount -= byteCount
        guard rows[Int(number)].chunkCount == 0 else { return }
        if isFrozen { emptied.insert(number) } else { recycle(number) }
    }

    private mutating func recycle(_ number: UInt16) {
        numbers[rows[Int(number)].binding] = nil
        unused.append(number)
    }

    /// What a namespace has on SSD.
    func usage(of namespace: NamespaceID) -> (chunkCount: Int, byteCount: Int) {
        rows.reduce((0, 0)) { sum, row in
            row.binding.namespace == namespace
                ? (sum.0 + row.chunkCount, sum.1 + row.byteCount) : sum
        }
    }

    /// Numbers below this are, or were, in use.
    var rowCount: Int { rows.count }
}

/// The namespaces by their tags: those that are configured, and those of chunks that a namespace
/// which is no longer configured left behind. A confined value.
struct SSDNamespaces {
    private(set) var tags: [SSDTag]
    private var numbers: [SSDTag: UInt16] = [:]

    /// `tags` are those of the configured namespaces, in the order that numbers them.
    init(tags: [SSDTag]) {
        self.tags = tags
        for (number, tag) in tags.enumerated() { numbers[tag] = UInt16(number) }
    }

    func tag(of namespace: NamespaceID) -> SSDTag { tags[Int(namespace.number)] }

    /// The namespace with that tag, known from now on; nil when 65,535 are.
    mutating func namespace(tagged tag: SSDTag) -> NamespaceID? {
        if let number = numbers[tag] { return NamespaceID(number: number) }
        guard tags.count < Int(UInt16.max) else { return nil }
        numbers[tag] = UInt16(tags.count)
        tags.append(tag)
        return NamespaceID(number: UInt16(tags.count - 1))
    }
}
