// SPDX-License-Identifier: Apache-2.0
internal import KVCore
internal import Kernels
internal import Telemetry
internal import Tiers
internal import Wire

/// A client of the RESP listener (docs/resp.md).
///
/// Requests that arrived together are served one after the other, and their replies collect in one
/// buffer, which goes out before anything is waited for. What can go wrong:
/// - *bytes that are no request*: answered with an error, then closed;
/// - *a request that cannot be served*: answered with an error, and the connection goes on;
/// - *a client that is too slow, or gone*: closed.
final class RESPConnection<R: Reactor>: ServedConnection<R> {
    let settings: RESPConfiguration
    let id: UInt64
    var parser: RESPParser
    /// Replies that have not been sent.
    var replies: RESPWriter
    var clientName: [UInt8] = []
    /// Which password the client gave.
    var passwordNumber: Int?
    /// Whether much came at once.
    private var isPipelining = false
    /// When the request began; requests that came together, and wait for nothing, share one.
    var arrival: Instant
    /// Whether nothing was waited for since `arrival`.
    private var isArrivalFresh = false
    /// When the request must be here, and its reply be taken.
    var transferDeadline: Instant
    /// Checks a value while it arrives; made by the first large one.
    var checksum: StreamingChecksum?
    private var replyMemory: OwnedBytes
    /// What the connection has instead of its own buffers, and those.
    private var large: LargeBuffers?

    private struct LargeBuffers {
        let ownInbox: OwnedBytes
        let ownReplies: OwnedBytes
    }

    init(_ seat: Seat<R>, _ settings: RESPConfiguration) {
        self.settings = settings
        id = seat.node.nextConnectionNumber()
        parser = RESPParser(isAuthenticated: settings.passwords.isEmpty)
        replyMemory = OwnedBytes(count: Limits.respBufferByteCount)
        replies = RESPWriter(replyMemory.bytes)
        arrival = seat.reactor.now()
        transferDeadline = arrival
        super.init(seat, inboxByteCount: Limits.respBufferByteCount)
        namespace = settings.namespace
    }

    override nonisolated(nonsending) func run() async {
        do throws(ConnectionEnd) {
            var next = Next.goOn
            while next == .goOn { next = try await serveNextRequest() }
            try await flush()
            if next == .leave { leave() }
        } catch {
            if error != .closed { node.metrics.add(.connectionsDropped) }
        }
        close()
        giveBackLargeBuffers()
    }

    override nonisolated(nonsending) func refuse(_ reason: Unwelcome) async {
        switch reason {
        case .stopping: replies.error("ERR the daemon stops")
        case .tooMany: replies.error("ERR max number of clients reached")
        }
        do throws(ConnectionEnd) {
            try await send(
                replies.bytes, deadline: reactor.now().adding(milliseconds: refusalMilliseconds))
        } catch {
            // The client is gone already: nothing is left to tell.
        }
        close()
    }

    override var sessionToKeep: KeptSession? {
        guard parser.isAuthenticated else { return nil }
        guard let passwordNumber else {
            return KeptSession(.resp(version: replies.version.rawValue, .open))
        }
        guard let handOver = node.handOver else { return nil }
        return KeptSession(
            .resp(
                version: replies.version.rawValue,
                .password(mark: handOver.mark(of: settings.passwords[passwordNumber]))))
    }

    override func resume(_ session: ResumedSession) {
        parser.isAuthenticated = true
        passwordNumber = session.passwordNumber
        replies.version = RESPWriter.Version(rawValue: session.version) ?? .two
    }

    // MARK: Requests

    private nonisolated(nonsending) func serveNextRequest() async throws(ConnectionEnd) -> Next {
        parser.begin()
        if inbox.count == 0 {
            // Who says much at once, or asks for much, goes on with it.
            if replies.count > Limits.respBufferByteCount / 2 { isPipelining = true }
            try await flush()
            if !isPipelining { giveBackLargeBuffers() }
            guard try await waitForRequest() else { return .leave }
            isArrivalFresh = false
            isPipelining = inbox.count > Limits.respBufferByteCount / 2
            if isPipelining { _ = takeLargeBuffers() }
        }
        if !isArrivalFresh {
            arrival = reactor.now()
            transferDeadline = arrival.adding(milliseconds: UInt64(settings.transferMilliseconds))
            isArrivalFresh = true
        }
        while true {
            switch parser.advance(inbox.bytes) {
            case .incomplete:
                isArrivalFresh = false
                try await receiveMore()
            case .value(let byteCount) where parser.verb == .set && parser.arguments.count == 2:
                if storeSmallValue(byteCount) { return .goOn }
                isArrivalFresh = false
                return try await serveSet(byteCount)
            case .value(let byteCount):
                isArrivalFresh = false
                if try await passBy(byteCount) { return try await serve() }
            case .request:
                if parser.verb == .get, isReadyForSmallValue, replySmallValue() {
                    inbox.consume(parser.position)
                    return .goOn
                }
                isArrivalFresh = false
                return try await serve()
            case .fault(let fault):
                throw try await refuse(fault)
            }
        }
    }

    /// Whether a GET has nothing wrong with it.
    private var isReadyForSmallValue: Bool {
        parser.isAuthenticated && parser.arguments.count == 2 && parser.argumentCount == 2
            && parser.arguments[1].byteCount <= Limits.respKeyByteCountMax
    }

    /// Serves a request whose arguments lie in the inbox.
    private nonisolated(nonsending) func serve() async throws(ConnectionEnd) -> Next {
        defer { inbox.consume(parser.position) }
        guard parser.argumentCount > 0 else { return .goOn }
        node.metrics.add(.requestsRESP)
        try await makeRoom(replyRoom)
        guard let verb = parser.verb else {
            let name = parser.arguments.isEmpty ? inbox.bytes.prefix(0) : argument(0)
            replies.error("ERR unknown command ", naming: name)
            return .goOn
        }
        guard parser.isAuthenticated || verb.needsNoPassword else {
            node.metrics.add(.answersUnauthorized)
            reply("NOAUTH Authentication required.", to: verb)
            return .goOn
        }
        guard verb.argumentCounts.contains(parser.argumentCount) else {
            replies.error("ERR wrong number of arguments for ", naming: argument(0))
            return .goOn
        }
        guard !parser.isCutShort else {
            reply("ERR request is too large", to: verb)
            return .goOn
        }
        guard hasNames(verb) else {
            reply("ERR key is longer than 1024 bytes", to: verb)
            return .goOn
        }
        return try await serve(verb)
    }

    private nonisolated(nonsending) func serve(
        _ verb: RESPVerb
    ) async throws(ConnectionEnd) -> Next {
        switch verb {
        case .get: try await serveGet()
        case .mget: try await serveMultipleGet()
        case .exists: try await serveExists()
        case .del, .unlink: serveDelete()
        case .strlen: serveLength()
        case .ttl: serveTimeToLive(millisecondsPerUnit: 1_000)
        case .pttl: serveTimeToLive(millisecondsPerUnit: 1)
        case .expire: try await serveExpire(millisecondsPerUnit: 1_000)
        case .pexpire: try await serveExpire(millisecondsPerUnit: 1)
        case .persist: try await servePersist()
        case .type: serveType()
        case .scan: try await serveScan()
        case .dbsize: try await serveCount()
        case .flushdb: try await serveFlush()
        case .ping: try await servePing()
        case .echo: try await serveEcho()
        case .auth: try await serveAuthentication()
        case .hello: try await serveHello()
        case .select: serveSelect()
        case .client: try await serveClient()
        case .command: try await serveCommand()
        case .config: serveConfiguration()
        case .info: try await serveInfo()
        case .quit:
            replies.simple("OK")
            return .close
        case .set:
            // It has two arguments at most: with three, its value comes by itself.
            replies.error("ERR wrong number of arguments for 'set'")
        }
        return .goOn
    }

    /// An argument of the request; 0 is its name. Good until something is received.
    func argument(_ index: Int) -> PinnedBytes {
        let argument = parser.arguments[index]
        return inbox.bytes.slice(offset: argument.offset, count: argument.byteCount)
    }

    /// Whether the arguments that are names of values are short enough.
    private func hasNames(_ verb: RESPVerb) -> Bool {
        let positions = verb.keyPositions
        guard positions.first > 0 else { return true }
        let last = positions.last > 0 ? positions.last : parser.arguments.count - 1
        return (positions.first...last).allSatisfy {
            parser.arguments[$0].byteCount <= Limits.respKeyByteCountMax
        }
    }

    /// When the tiers must have done their part.
    var tierDeadline: Instant {
        arrival.adding(milliseconds: UInt64(node.configuration.requestMillisecondsDefault))
    }

    // MARK: Receiving

    /// Receives more of a request that has begun.
    func receiveMore() async throws(ConnectionEnd) {
        try await flush()
        if inbox.count == inbox.capacity, !takeLargeBuffers() {
            inbox.consume(parser.position)
            parser.dropArguments()
        }
        try await receive(atLeast: inbox.count + 1, deadline: transferDeadline)
    }

    /// Reads past an argument that is not kept.
    /// - Returns: whether the request ends with it.
    func passBy(_ byteCount: Int) async throws(ConnectionEnd) -> Bool {
        try await flush()
        inbox.consume(parser.position)
        try await discard(UInt64(byteCount) + 2, deadline: transferDeadline)
        return parser.passValue()
    }

    /// Goes on with large buffers, if the shard has some to spare.
    private func takeLargeBuffers() -> Bool {
        guard large == nil, let taken = shard.respBuffers.take() else { return false }
        guard let second = shard.respBuffers.take() else {
            shard.respBuffers.giveBack(taken)
            return false
        }
        large = LargeBuffers(ownInbox: inbox.move(to: taken), ownReplies: replyMemory)
        use(second)
        return true
    }

    /// The inbox is empty, or nobody needs it any more; the replies have been sent.
    private func giveBackLargeBuffers() {
        guard let large else { return }
        inbox.consume(inbox.count)
        shard.respBuffers.giveBack(inbox.move(to: large.ownInbox))
        shard.respBuffers.giveBack(replyMemory)
        replies.clear()
        use(large.ownReplies)
        self.large = nil
    }

    /// Collects replies in other memory, in which those so far find room.
    private func use(_ memory: OwnedBytes) {
        var writer = RESPWriter(memory.bytes)
        writer.version = replies.version
        writer.append(replies.bytes)
        replies = writer
        replyMemory = memory
    }

    // MARK: Replying

    /// Sends the replies that have collected.
    func flush() async throws(ConnectionEnd) {
        guard replies.count > 0 else { return }
        let bytes = replies.bytes
        replies.clear()
        try await send(bytes, deadline: sendDeadline)
    }

    /// Makes room for a reply of `byteCount` bytes, at most what the buffer has.
    func makeRoom(_ byteCount: Int) async throws(ConnectionEnd) {
        guard replies.room < byteCount, !takeLargeBuffers() else { return }
        try await flush()
    }

    /// When what is sent now must have been taken.
    var sendDeadline: Instant {
        reactor.now().adding(milliseconds: UInt64(settings.transferMilliseconds))
    }

    /// Tells what is wrong with the client's bytes; the connection ends.
    func refuse(_ fault: RESPFault) async throws(ConnectionEnd) -> ConnectionEnd {
        try await makeRoom(replyRoom)
        node.metrics.add(.answersMalformed)
        replies.error(fault.message)
        try await flush()
        return .refused
    }

    /// Replies `error`, or to a strict client's commands what they wait for.
    func reply(_ error: StaticString, to verb: RESPVerb) {
        guard settings.isStrict else { return replies.error(error) }
        switch verb {
        case .get:
            let name = parser.arguments.count == 2 ? argument(1) : argument(0)
            replies.error("MISS", ofByteCount: headByteCountExpected(name))
        case .set: replies.error("NO")
        case .exists, .del, .unlink: replies.integer(0)
        default: replies.error(error)
        }
    }
}

extension RESPVerb {
    fileprivate var needsNoPassword: Bool {
        switch self {
        case .auth, .hello, .quit: true
        default: false
        }
    }
}

/// What every reply but those that carry a client's own bytes fits in.
let replyRoom = 512
/// A client that is told why it is not served reads the answer in this time, or not at all.
private let refusalMilliseconds: UInt64 = 1_000
