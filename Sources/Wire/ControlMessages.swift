// SPDX-License-Identifier: Apache-2.0
package import KVCore

/// The body of CONTROL: what the node's operator asks for. A value; cold, so it may allocate.
package struct ControlRequest: Hashable, Sendable {
    /// What is to be done.
    package enum Operation: UInt16, Sendable, CaseIterable {
        /// Tells the state of the SSD tier.
        case ssdStatus = 1
        /// Begins to read and verify what is stored; argument: bytes per second, or empty.
        case ssdScrub = 2
        /// Moves everything off a directory; argument: its path.
        case ssdEvacuate = 3
    }

    package var operation: Operation
    package var argument: String

    package init(_ operation: Operation, argument: String = "") {
        self.operation = operation
        self.argument = argument
    }

    /// Traps when the argument is over its limit: cut, it would name something else.
    package func encode(_ writer: inout FieldWriter) {
        invariant(
            argument.utf8.count <= Limits.argumentByteCountMax, "an argument keeps its limit")
        writer.append(operation.rawValue)
        writer.append(zeros: 6)
        writer.append(longText: argument)
    }

    package static func decode(_ body: PinnedBytes) throws(WireFault) -> ControlRequest {
        var reader = FieldReader(body)
        let operation = Operation(rawValue: try reader.read())
        try reader.readReserved(6)
        let argument = try reader.readLongText(byteCountMax: Limits.argumentByteCountMax)
        try reader.finish()
        guard let operation else { throw .notOffered }
        return ControlRequest(operation, argument: argument)
    }
}

/// The body of CONTROL's answer: names and texts. A value; cold, so it may allocate.
package struct ControlAnswer: Sendable {
    package var pairs: [(name: String, text: String)]

    package init(pairs: [(name: String, text: String)]) {
        self.pairs = pairs
    }

    /// Traps when the pairs do not fit a body, `Limits.bodyByteCountMax`.
    package func encode(_ writer: inout FieldWriter) {
        writer.append(UInt16(pairs.count))
        for pair in pairs {
            writer.append(shortText: pair.name)
            writer.append(longText: pair.text)
        }
    }

    package static func decode(_ body: PinnedBytes) throws(WireFault) -> ControlAnswer {
        var reader = FieldReader(body)
        let count = try reader.read(UInt16.self)
        var pairs: [(name: String, text: String)] = []
        for _ in 0..<count {
            pairs.append((try reader.readShortText(), try reader.readLongText()))
        }
        try reader.finish()
        return ControlAnswer(pairs: pairs)
    }
}
