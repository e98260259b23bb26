// SPDX-License-Identifier: Apache-2.0

internal import KVCore

/// What two connected streams share: the line between two hosts and its faults. Confined to the
/// scheduler's thread.
final class SimulatedLink {
    let network: SimulatedNetwork
    let bytesPerSecond: UInt64
    private let hosts: (String, String)
    /// Bytes until the plan cuts the line; nil when it does not.
    private var byteCountUntilDrop: Int?
    private(set) var isDropped = false
    private weak var near: SimulatedStream?
    private weak var far: SimulatedStream?

    init(network: SimulatedNetwork, hosts: (String, String)) {
        self.network = network
        self.hosts = hosts
        let faults = network.faults
        let isSlow = network.random.happens(permille: faults.slowPermille)
        bytesPerSecond = max(1_024, UInt64(faults.bytesPerSecond) / (isSlow ? 1_000 : 1))
        let drops = network.random.happens(permille: faults.dropPermille)
        let byteCount = network.random.below(max(1, faults.dropByteCountMax))
        byteCountUntilDrop = drops ? byteCount : nil
    }

    /// The two ends: the connecting one, and the accepting one.
    func makeStreams(
        number: Int, address: StreamAddress
    ) -> (SimulatedStream, SimulatedStream) {
        let forth = SimulatedPipe(link: self)
        let back = SimulatedPipe(link: self)
        let near = SimulatedStream(
            incoming: back, outgoing: forth, peerDescription: "\(address) #\(number)")
        let far = SimulatedStream(
            incoming: forth, outgoing: back, peerDescription: "\(hosts.0) #\(number)")
        self.near = near
        self.far = far
        return (near, far)
    }

    /// Another stream is at the end that `stream` was at.
    func replace(_ stream: SimulatedStream, by successor: SimulatedStream) {
        if near === stream { near = successor } else { far = successor }
    }

    /// How many of `byteCount` bytes may still enter the line; fewer mean that it is cut there.
    func admit(_ byteCount: Int) -> Int {
        guard let left = byteCountUntilDrop else { return byteCount }
        byteCountUntilDrop = max(0, left - byteCount)
        return min(left, byteCount)
    }

    var isPartitionedUntil: Instant? { network.partitionEnd(hosts.0, hosts.1) }

    /// Cuts the line: what travels is lost, and each side learns of it sooner or later.
    func drop() {
        guard !isDropped else { return }
        isDropped = true
        byteCountUntilDrop = nil
        network.dropCount += 1
        let scheduler = network.scheduler
        scheduler.record(.dropped, reactor: 0)
        var delays = [network.latency(), network.latency()]
        if network.random.happens(permille: network.faults.halfOpenPermille) {
            let late = network.random.below(2)
            delays[late] +=
                UInt64(1 + network.random.below(network.faults.halfOpenMillisecondsMax))
                * 1_000_000
        }
        for (stream, delay) in zip([near, far], delays) {
            scheduler.after(nanoseconds: delay) { stream?.notice() }
        }
    }
}

/// One direction of a connection: a finite buffer, a line with delay, and at most one call waiting
/// at each end. Confined to the scheduler's thread.
final class SimulatedPipe {
    /// Bytes on their way, or the end of the stream.
    private enum Parcel {
        case bytes(OwnedBytes)
        case end
    }

    struct Sending {
        let operation: SimulatedOperation
        var parts: [PinnedBytes]
        let byteCount: Int
    }

    struct Receiving {
        let operation: SimulatedOperation
        let buffer: PinnedBytes
        let minimum: Int
        var filled = 0
    }

    let link: SimulatedLink
    private var travelling: [Parcel] = []
    private var arrived: [PinnedParcel] = []
    private var heldByteCount = 0
    private var arrivalLast = Instant(nanoseconds: 0)
    private var hasEnded = false
    /// The connection broke, as far as the receiving side knows.
    private var isReset = false
    /// The receiving side closed: bytes are answered by a reset.
    private var isReaderGone = false
    private(set) var sending: Sending?
    private(set) var receiving: Receiving?
    /// Tells the sending side that the connection broke.
    var noticeSender: (() -> Void)?
    /// The sending side knows that the connection broke.
    var isBroken = false

    /// Arrived bytes and how far they were read.
    private struct PinnedParcel {
        let bytes: OwnedBytes
        var offset = 0
        var rest: PinnedBytes { bytes.bytes.dropFirst(offset) }
    }

    init(link: SimulatedLink) {
        self.link = link
    }

    private var network: SimulatedNetwork { link.network }
    private var scheduler: SimulatedScheduler { link.network.scheduler }
    var isUnread: Bool { !arrived.isEmpty || !travelling.isEmpty }

    // MARK: The sending side

    func send(_ sending: Sending) {
        self.sending = sending
        sending.operation.onEnd = { [self] in self.sending = nil }
        pump()
    }

    /// Moves bytes of the waiting send into the buffer, as far as it has room.
    private func pump() {
        guard !isBroken else {
            sending?.operation.end(.failure(.closed))
            return
        }
        while let part = sending?.parts.first, let operation = sending?.operation {
            let room = network.faults.bufferByteCount - heldByteCount
            guard room > 0 else { return }
            let count = min(
                part.count, room, 1 + network.random.below(network.faults.segmentByteCountMax))
            let admitted = link.isDropped ? count : link.admit(count)
            heldByteCount += count
            enter(part.prefix(admitted))
            advance(part.dropFirst(count))
            if admitted < count { link.drop() }
            guard let sent = sending, sent.parts.isEmpty else { continue }
            operation.end(
                .success(sent.byteCount),
                afterNanoseconds: 1 + network.random.below(20_000 as UInt64))
        }
    }

    private func advance(_ rest: PinnedBytes) {
        if rest.count == 0 {
            sending?.parts.removeFirst()
        } else {
            sending?.parts[0] = rest
        }
    }

    private func enter(_ bytes: PinnedBytes) {
        guard !link.isDropped, bytes.count > 0 else { return }
        guard !isReaderGone else {
            noticeSoon()
            return
        }
        let copy = OwnedBytes(count: bytes.count)
        copy.bytes.copy(from: bytes)
        travel(.bytes(copy), byteCount: bytes.count)
    }

    /// The sending side closed in order: what it sent still arrives, then the end.
    func finish() {
        sending?.operation.end(.failure(.closed))
        isBroken = true
        travel(.end, byteCount: 0)
    }

    private func noticeSoon() {
        let notice = noticeSender
        scheduler.after(nanoseconds: network.latency()) { notice?() }
    }

    /// The sending side lost its power: what was sent may be lost, and the line is dead.
    func cut() {
        link.drop()
    }

    // MARK: The line

    private func travel(_ parcel: Parcel, byteCount: Int) {
        travelling.append(parcel)
        let lineNanoseconds = UInt64(byteCount) * 1_000_000_000 / link.bytesPerSecond
        let earliest = max(scheduler.now.nanoseconds + network.latency(), arrivalLast.nanoseconds)
        arrivalLast = Instant(nanoseconds: earliest + lineNanoseconds + 1)
        scheduler.at(arrivalLast) { [self] in arrive() }
    }

    /// The oldest parcel on its way arrives, unless the line is cut or separated.
    private func arrive() {
        guard !travelling.isEmpty, !link.isDropped else { return }
        if let end = link.isPartitionedUntil {
            let delay = network.latency()
            scheduler.at(Instant(nanoseconds: end.nanoseconds + delay)) { [self] in arrive() }
            return
        }
        switch travelling.removeFirst() {
        case .bytes(let bytes):
            scheduler.record(.segmentArrived, reactor: 0, size: bytes.bytes.count)
            arrived.append(PinnedParcel(bytes: bytes))
        case .end:
            scheduler.record(.endArrived, reactor: 0)
            hasEnded = true
        }
        deliver()
    }

    // MARK: The receiving side

    func receive(_ receiving: Receiving) {
        self.receiving = receiving
        receiving.operation.onEnd = { [self] in self.receiving = nil }
        deliver()
    }

    /// Fills the waiting receive with what arrived, and ends it when that is enough.
    private func deliver() {
        guard var current = receiving else { return }
        // A short receive now and then: the kernel may return with less than is there.
        let isShort = network.random.happens(permille: 250)
        let most = isShort ? current.minimum : current.buffer.count
        while current.filled < most, !arrived.isEmpty {
            let rest = arrived[0].rest
            let count = min(rest.count, most - current.filled)
            current.buffer.dropFirst(current.filled).copy(from: rest.prefix(count))
            current.filled += count
            current.operation.transferredByteCount += count
            heldByteCount -= count
            arrived[0].offset += count
            if count == rest.count { arrived.removeFirst() }
        }
        receiving = current
        if current.filled >= current.minimum {
            current.operation.end(
                .success(current.filled),
                afterNanoseconds: 1 + network.random.below(20_000 as UInt64))
        } else if hasEnded || isReset {
            current.operation.end(.failure(.closed))
        }
        pump()
    }

    /// The receiving side learns that the connection broke; whether it still sees what arrived
    /// before depends on the moment.
    func reset() {
        isReset = true
        if network.random.below(2) == 0 {
            arrived.removeAll()
        }
        deliver()
    }

    /// The receiving side closed.
    func abandon() {
        receiving?.operation.end(.failure(.closed))
        isReaderGone = true
        arrived.removeAll()
        travelling.removeAll()
        heldByteCount = 0
        if sending != nil { noticeSoon() }
    }
}
