// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Kernels
internal import Telemetry
internal import Tiers
internal import Wire

/// A client of the lm listener (docs/lm-protocol.md): one request, then one reply where there is
/// one, until either side ends it.
///
/// A client cannot be told why, so whatever goes wrong is a miss; bytes that are no request end the
/// connection.
final class LMConnection<R: Reactor>: ServedConnection<R> {
    private let header = OwnedBytes(count: LMReply.byteCount)
    private let checksum = StreamingChecksum()

    init(_ seat: Seat<R>, _ settings: LMConfiguration) {
        super.init(seat, inboxByteCount: Limits.inboxByteCount)
        namespace = settings.namespace
    }

    override nonisolated(nonsending) func run() async {
        do throws(ConnectionEnd) {
            var next = Next.goOn
            while next == .goOn { next = try await serveNextRequest() }
            if next == .leave { leave() }
        } catch {
            if error != .closed { node.metrics.add(.connectionsDropped) }
        }
        close()
    }

    override nonisolated(nonsending) func refuse(_ reason: Unwelcome) async {
        close()
    }

    override var sessionToKeep: KeptSession? { KeptSession(.lm) }

    private nonisolated(nonsending) func serveNextRequest() async throws(ConnectionEnd) -> Next {
        if inbox.count == 0, try await !waitForRequest() { return .leave }
        let arrival = reactor.now()
        let deadline = arrival.adding(milliseconds: transferMilliseconds)
        try await receive(atLeast: LMRequest.byteCount, deadline: deadline)
        guard let request = LMRequest.decode(inbox.bytes) else {
            node.metrics.add(.answersMalformed)
            throw .refused
        }
        node.metrics.add(.requestsLM)
        switch request.command {
        case .put:
            try await servePut(request, arrival, deadline)
        case .get:
            try await serveGet(request, arrival, deadline)
            inbox.consume(LMRequest.byteCount)
        case .exist:
            shard.noteSmallRequest(at: arrival)
            let found = describe(secureHash(request.key), now: arrival, asUse: .counts)
            node.metrics.add(found == nil ? .lookupMisses : .lookupHits)
            inbox.consume(LMRequest.byteCount)
            try await reply(isFound: found != nil, deadline)
        case .health:
            inbox.consume(LMRequest.byteCount)
            try await reply(isFound: true, deadline)
        case .list:
            inbox.consume(LMRequest.byteCount)
        }
        return .goOn
    }

    private nonisolated(nonsending) func reply(
        isFound: Bool, _ deadline: Instant
    ) async throws(ConnectionEnd) {
        LMReply.encode(into: header.bytes, isFound: isFound)
        try await send(header.bytes, deadline: deadline)
    }

    private func tierDeadline(_ arrival: Instant) -> Instant {
        arrival.adding(milliseconds: UInt64(node.configuration.requestMillisecondsDefault))
    }

    private nonisolated(nonsending) func servePut(
        _ request: LMRequest, _ arrival: Instant, _ deadline: Instant
    ) async throws(ConnectionEnd) {
        let byteCount = request.payloadByteCount
        let key = secureHash(request.key)
        let chunkByteCount = NamedValue.chunkByteCount(
            value: byteCount, metadata: request.metadata.count, name: request.key.count)
        switch await reserveToReplace(
            key, byteCount: chunkByteCount, deadline: tierDeadline(arrival))
        {
        case .refused(let status):
            node.metrics.add(status == .tooLarge ? .answersTooLarge : .answersBusy)
            try await dropPayload(byteCount, of: key, deadline)
        case .callAgain:
            node.metrics.add(.answersBusy)
            try await dropPayload(byteCount, of: key, deadline)
        case .reserved(let reservation):
            let rest = NamedValue.finish(
                reservation.bytes, valueByteCount: byteCount, metadata: request.metadata,
                name: request.key)
            inbox.consume(LMRequest.byteCount)
            checksum.reset()
            // Nobody else can read the chunk from memory; on SSD its checksum guards it.
            let isChecked = ssd != nil
            try await receivePieces(
                filling: reservation.bytes.prefix(byteCount), deadline: deadline
            ) { if isChecked { checksum.add($0) } }
            if isChecked { checksum.add(rest) }
            _ = publish(
                reservation, key, .any, checksum: checksum.value, expiry: .distantFuture,
                now: reactor.now())
        }
    }

    /// Reads past a value that cannot be stored. Nobody is told, so that the one before goes too.
    private nonisolated(nonsending) func dropPayload(
        _ byteCount: Int, of key: ChunkKey, _ deadline: Instant
    ) async throws(ConnectionEnd) {
        _ = removeEverywhere(key, now: reactor.now())
        inbox.consume(LMRequest.byteCount)
        try await discard(UInt64(byteCount), deadline: deadline)
    }

    private nonisolated(nonsending) func serveGet(
        _ request: LMRequest, _ arrival: Instant, _ deadline: Instant
    ) async throws(ConnectionEnd) {
        let found = await find(
            secureHash(request.key), now: arrival, deadline: tierDeadline(arrival))
        switch consume found {
        case .missing:
            node.metrics.add(.misses)
            try await reply(isFound: false, deadline)
        case .held(let held):
            guard let read = NamedValue.read(held.bytes, named: request.key),
                read.metadata.count == LMRequest.metadataByteCount
            else {
                node.metrics.add(.misses)
                node.metrics.add(.namesMismatched)
                return try await reply(isFound: false, deadline)
            }
            node.metrics.add(.hits)
            let value = read.valueAndLineEnd.prefix(read.valueAndLineEnd.count - 2)
            LMReply.encode(
                into: header.bytes, payloadByteCount: value.count, metadata: read.metadata)
            guard value.count > 0 else { return try await send(header.bytes, deadline: deadline) }
            // Both in one call: a client takes the header with one recv.
            try await send(header.bytes, thenChunk: value, deadline: deadline)
        }
    }
}

/// Within this a request arrives, once it has begun, and its reply is taken.
private let transferMilliseconds: UInt64 = 60_000
