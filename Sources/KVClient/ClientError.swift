// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// Why a call of `Client` did not succeed. A value.
package struct ClientError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What went wrong, coarsely enough to decide by.
    package enum Kind: Hashable, Sendable, CaseIterable {
        /// No connection could be opened; `fault` says why.
        case unreachable
        /// The connection ended in the middle of the request, which may or may not have happened.
        case connectionLost
        /// The daemon answered with `status`, and perhaps `message`.
        case refused
        /// The caller's deadline passed here before the answer was complete.
        case deadlineExceeded
        /// Bytes arrived, but they do not match their checksum; they must not be used.
        case damaged
        /// The daemon's answer breaks the protocol; the connection was closed.
        case brokenAnswer
        /// The call cannot be made: a limit, or a feature that this connection does not have.
        case unusable
    }

    package let kind: Kind
    /// The daemon's answer, or the status that says the same; nil when there was no answer.
    package let status: Status?
    /// What the daemon or this client has to say about it; may be empty.
    package let message: String
    /// What the kernel said, for `unreachable` and `connectionLost`.
    package let fault: IOFault?

    /// An error of `kind`; `status` and `fault` where there is one.
    package init(_ kind: Kind, status: Status? = nil, message: String, fault: IOFault? = nil) {
        self.kind = kind
        self.status = status
        self.message = message
        self.fault = fault
    }

    package var description: String {
        var text =
            switch kind {
            case .unreachable: "cannot connect"
            case .connectionLost: "the connection was lost"
            case .refused: "the daemon answered \(status.map { "\($0)" } ?? "nothing")"
            case .deadlineExceeded: "the deadline passed"
            case .damaged: "the bytes do not match their checksum"
            case .brokenAnswer: "the answer breaks the protocol"
            case .unusable: "the call cannot be made"
            }
        if !message.isEmpty { text += ": \(message)" }
        if let fault { text += " (\(fault))" }
        return text
    }

    /// The error for an I/O operation of an open connection that failed with `fault`.
    static func connection(_ fault: IOFault, _ activity: String) -> ClientError {
        switch fault {
        case .deadlineExceeded:
            ClientError(.deadlineExceeded, status: .deadlineExceeded, message: activity)
        case .closed, .cancelled, .busy, .system:
            ClientError(.connectionLost, message: activity, fault: fault)
        }
    }

    /// The error for an answer that breaks the protocol in the way `message` tells.
    static func broken(_ message: String) -> ClientError {
        ClientError(.brokenAnswer, message: message)
    }

    /// The error for a call that cannot be made, for the reason that `message` tells.
    static func unusable(_ status: Status, _ message: String) -> ClientError {
        ClientError(.unusable, status: status, message: message)
    }
}
