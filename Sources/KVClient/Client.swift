// SPDX-License-Identifier: Apache-2.0
package import KVCore
import Wire

/// A client of one daemon, over one connection that is opened when a call needs it.
///
/// A plain object confined to its reactor's executor: the actor that owns it lives there. One
/// call at a time; a second one meanwhile is refused as `unusable`, and who wants independent
/// progress makes another client. Every call takes a deadline and ends by then. When a call
/// fails in the middle of a frame the connection is closed, and the next call opens another one,
/// after a delay that doubles with every attempt that failed. Nothing is sent twice on its own.
///
/// Its owner closes it, on the executor, before letting go of it; the daemon might take a while
/// to notice otherwise.
///
/// Two buffers of about 70 KiB are allocated per connection, nothing per request except what the
/// calls say.
package final class Client<R: Reactor> {
    /// Where this client's I/O happens.
    package let reactor: R
    /// As given at the beginning.
    package let options: ClientOptions
    /// What the daemon said in HELLO; nil while there is no connection.
    package private(set) var session: Session?

    private var link: Link<R>?
    /// The open link, for the parts of a PUT.
    var currentLink: Link<R>? { link.flatMap { $0.isOpen ? $0 : nil } }
    private var isInCall = false
    private var failuresInARow: UInt64 = 0
    private var nextAttempt = Instant(nanoseconds: 0)
    /// The arena of this connection, when it is shared.
    var arena: MappedMemory?
    /// The staging region of this connection, when there is one.
    var staging: MappedMemory?
    /// A PUT whose parts are being sent.
    var openPut: OpenPut?

    /// A client that connects as `options` say, at the first call. Nothing happens yet.
    package init(reactor: R, options: ClientOptions) {
        self.reactor = reactor
        self.options = options
    }

    /// Whether chunks can be read and written in place: known after `connect`.
    package var sharesMemory: Bool { arena != nil }

    /// The instant `milliseconds` from now, for the calls' deadlines.
    package func deadline(milliseconds: UInt64) -> Instant {
        reactor.now().adding(milliseconds: milliseconds)
    }

    /// Connects and says HELLO unless that has happened; returns what the daemon said.
    ///
    /// Throws `unreachable`, `refused` (`unauthorized`, `versionMismatch`, `busy`),
    /// `deadlineExceeded` or `brokenAnswer`.
    package func connect(deadline: Instant) async throws(ClientError) -> Session {
        _ = try await begin(deadline)
        isInCall = false
        guard let session else { throw .broken("no HELLO on an open connection") }
        return session
    }

    /// Closes the connection; leases and reservations end with it. Memory that calls handed out
    /// stays mapped for as long as somebody holds it. A later call connects again.
    package func close() {
        link?.close()
        forgetConnection()
    }

    /// A round trip that does nothing else.
    package func ping(deadline: Instant) async throws(ClientError) {
        _ = try await call(.ping, deadline: deadline) { _ in }
    }

    // MARK: The frame of every call

    /// Sends a request without payload and receives its one answer; throws `refused` unless the
    /// answer is `ok`. `decode` reads the answer's body; a fault from it ends the connection.
    func call<Result>(
        _ verb: Verb, deadline: Instant, fill: (inout FieldWriter) -> Void,
        decode: (PinnedBytes) throws(WireFault) -> Result
    ) async throws(ClientError) -> Result {
        let link = try await begin(deadline)
        defer { isInCall = false }
        let frame = try link.prepare(
            verb, deadlineMilliseconds: milliseconds(until: deadline), fill: fill)
        try await link.send(frame, deadline: deadline)
        let answer = try await link.receiveAnswer(deadline: deadline)
        try accept(answer, on: link)
        return try self.decode(answer, on: link, decode)
    }

    /// Reads an answer's body; a body that is none ends the connection.
    func decode<Result>(
        _ answer: Answer, on link: Link<R>, _ decode: (PinnedBytes) throws(WireFault) -> Result
    ) throws(ClientError) -> Result {
        do throws(WireFault) {
            return try decode(link.body(of: answer))
        } catch {
            throw link.failing(.broken("the body of an answer: \(error.message)"))
        }
    }

    /// As above, for an answer whose body is empty or does not matter.
    func call(
        _ verb: Verb, deadline: Instant, fill: (inout FieldWriter) -> Void
    ) async throws(ClientError) {
        try await call(verb, deadline: deadline, fill: fill) { _ in () }
    }

    /// Marks the begin of a call and returns an open link, after HELLO. Whoever gets the link
    /// calls `end` afterwards.
    func begin(_ deadline: Instant) async throws(ClientError) -> Link<R> {
        guard !isInCall, openPut == nil else {
            throw .unusable(.busy, "a call of this client is under way; use another client")
        }
        if let link, link.isOpen { isInCall = true; return link }
        forgetConnection()
        isInCall = true
        do throws(ClientError) {
            return try await open(deadline)
        } catch {
            isInCall = false
            throw error
        }
    }

    /// Marks the end of a call.
    func end() {
        isInCall = false
    }

    /// Throws what an answer that is not `ok` stands for; closes the link when the daemon does.
    func accept(_ answer: Answer, on link: Link<R>) throws(ClientError) {
        guard answer.header.payloadByteCount == 0 else {
            throw link.failing(.broken("an answer has a payload that its verb does not know"))
        }
        if answer.status == .ok { return }
        throw refusing(answer, on: link)
    }

    /// The error for an answer that is not `ok`; closes the link when the daemon closes it too.
    func refusing(_ answer: Answer, on link: Link<R>) -> ClientError {
        let error = link.refusal(answer)
        return answer.closesConnection ? link.failing(error) : error
    }

    /// The deadline that a request's header carries: what is left, at least 1 ms.
    func milliseconds(until deadline: Instant) -> UInt32 {
        let left = reactor.now().milliseconds(until: deadline)
        return UInt32(min(max(left, 1), UInt64(Limits.requestMillisecondsMax)))
    }

    // MARK: Connecting

    private func open(_ deadline: Instant) async throws(ClientError) -> Link<R> {
        let now = reactor.now()
        if nextAttempt > now {
            guard nextAttempt < deadline else {
                throw ClientError(
                    .unreachable,
                    message: "\(options.address): waiting after \(failuresInARow) failures")
            }
            do throws(IOFault) {
                try await reactor.sleep(until: nextAttempt)
            } catch {
                throw ClientError(.unreachable, message: "\(options.address)", fault: error)
            }
        }
        do throws(ClientError) {
            let link = try await dial(deadline)
            failuresInARow = 0
            return link
        } catch {
            noteFailure()
            throw error
        }
    }

    private func dial(_ deadline: Instant) async throws(ClientError) -> Link<R> {
        let stream: R.Stream
        do throws(IOFault) {
            stream = try await reactor.connect(to: options.address, deadline: deadline)
        } catch {
            throw ClientError(
                .unreachable, status: error == .deadlineExceeded ? .deadlineExceeded : nil,
                message: "\(options.address)", fault: error)
        }
        let link = Link<R>(stream: stream)
        session = try await hello(link, deadline: deadline)
        self.link = link
        return link
    }

    private func noteFailure() {
        forgetConnection()
        let doublings = min(failuresInARow, 16)
        failuresInARow += 1
        let delay = min(
            options.backOffMillisecondsMin << doublings, options.backOffMillisecondsMax)
        // Half of the delay is random, so that clients of a daemon that restarts come one by one.
        let jitter = delay == 0 ? 0 : reactor.randomBits() % (delay / 2 + 1)
        nextAttempt = reactor.now().adding(milliseconds: delay - jitter)
    }

    private func forgetConnection() {
        link?.close()
        link = nil
        session = nil
        arena = nil
        staging = nil
        openPut = nil
    }

    private func hello(
        _ link: Link<R>, deadline: Instant
    ) async throws(ClientError) -> Session {
        guard options.namespace.utf8.count <= Limits.namespaceByteCountMax,
            options.token.count <= Limits.tokenByteCountMax
        else {
            throw .unusable(.limitExceeded, "the namespace or the token is too long")
        }
        let mapper = link.isLocal ? options.mapper : nil
        var request = HelloRequest()
        request.wanted = mapper == nil ? [] : .sharedMemory
        request.namespace = options.namespace
        request.token = options.token
        request.clientName = options.name
        let frame = try link.prepare(
            .hello, deadlineMilliseconds: milliseconds(until: deadline), fill: request.encode)
        try await link.send(frame, deadline: deadline)
        guard let mapper else {
            let answer = try await link.receiveAnswer(deadline: deadline)
            return try readHello(answer, on: link)
        }
        let (answer, descriptor) = try await link.receiveAnswerWithDescriptor(
            mapper: mapper, deadline: deadline)
        let session: Session
        do throws(ClientError) {
            session = try readHello(answer, on: link)
        } catch {
            if let descriptor { mapper.discard(descriptor) }
            throw error
        }
        if session.arenaByteCount > 0, let descriptor {
            arena = try map(
                descriptor, session.arenaByteCount, .readOnly, mapper: mapper, on: link)
        } else if let descriptor {
            mapper.discard(descriptor)
        }
        return session
    }

    private func readHello(_ answer: Answer, on link: Link<R>) throws(ClientError) -> Session {
        do throws(ClientError) {
            try accept(answer, on: link)
        } catch {
            // Whatever the status, a connection without HELLO is of no use.
            throw link.failing(error)
        }
        let hello = try decode(answer, on: link, HelloAnswer.decode)
        guard hello.version == FrameHeader.version else {
            throw link.failing(.broken("the daemon chose version \(hello.version)"))
        }
        return Session(hello)
    }

    /// Maps what the daemon sent; the descriptor is taken over in any case.
    func map(
        _ descriptor: Int32, _ byteCount: UInt64, _ access: MappingAccess, mapper: MemoryMapper,
        on link: Link<R>
    ) throws(ClientError) -> MappedMemory {
        guard let count = Int(exactly: byteCount), count > 0 else {
            mapper.discard(descriptor)
            throw link.failing(.broken("a shared region of \(byteCount) bytes"))
        }
        do throws(IOFault) {
            return try mapper.map(descriptor, count, access)
        } catch {
            throw link.failing(
                ClientError(.unusable, message: "shared memory cannot be mapped", fault: error))
        }
    }
}
