// SPDX-License-Identifier: Apache-2.0
import KVCore
import Kernels

// Stand-in for the Wire module.

enum FrameLayout {
    static let headerByteCount = 48
    static let magic: UInt32 = 0x3153_564b
}

enum Verb: UInt8 {
    case hello = 0x01
    case ping = 0x02
    case put = 0x10
    case get = 0x11
    case lookup = 0x12
    case delete = 0x13
    case stat = 0x14
    case lease = 0x20
    case release = 0x21
    case reserve = 0x22
    case commit = 0x23
    case abort = 0x24
}

struct AnswerHeader {
    var verb: UInt8
    var flags: UInt16
    var requestID: UInt64
    var status: UInt16
    var bodyByteCount: Int
    var bodyChecksum: UInt32
    var payloadByteCount: UInt64
    var hasMore: Bool { flags & 2 != 0 }
    var isFinal: Bool { flags & 4 != 0 }
}

/// Writes little-endian fields into a run of memory; traps when it is full.
struct FieldWriter {
    private let room: PinnedBytes
    private(set) var count = 0
    init(_ room: PinnedBytes) { self.room = room }

    mutating func append<Number: FixedWidthInteger & BitwiseCopyable>(_ number: Number) {
        let size = MemoryLayout<Number>.size
        room.slice(offset: count, count: size).withMutableBytes { span in
            span.storeBytes(of: number.littleEndian, as: Number.self)
        }
        count += size
    }
    mutating func append(_ bytes: [UInt8]) { for byte in bytes { append(byte) } }
    mutating func append(zeros: Int) { for _ in 0..<zeros { append(UInt8(0)) } }
    mutating func append(_ key: ChunkKey) {
        append(key.words.0)
        append(key.words.1)
        append(key.words.2)
        append(key.words.3)
    }
    mutating func append(_ layout: LayoutID) {
        append(layout.words.0)
        append(layout.words.1)
    }
}

/// Reads little-endian fields; nil past the end.
struct FieldReader {
    private let bytes: PinnedBytes
    private var offset = 0
    init(_ bytes: PinnedBytes) { self.bytes = bytes }
    var remaining: Int { bytes.count - offset }

    mutating func read<Number: FixedWidthInteger & BitwiseCopyable>(
        _: Number.Type = Number.self
    ) -> Number? {
        let size = MemoryLayout<Number>.size
        guard remaining >= size else { return nil }
        defer { offset += size }
        return bytes.slice(offset: offset, count: size).withBytes { span in
            // SAFETY: every bit pattern of an integer is fine, and the span has its size.
            unsafe Number(littleEndian: span.unsafeLoadUnaligned(as: Number.self))
        }
    }
    mutating func readBytes(_ count: Int) -> [UInt8]? {
        guard remaining >= count else { return nil }
        var result: [UInt8] = []
        for _ in 0..<count { if let byte = read(UInt8.self) { result.append(byte) } }
        return result
    }
    mutating func skip(_ count: Int) -> Bool {
        guard remaining >= count else { return false }
        offset += count
        return true
    }
    mutating func readText(_ count: Int) -> String? {
        readBytes(count).map { String(decoding: $0, as: UTF8.self) }
    }
    mutating func readLayout() -> LayoutID? {
        guard let low = read(UInt64.self), let high = read(UInt64.self) else { return nil }
        return LayoutID(words: (low, high))
    }
}

func writeHeader(
    into room: PinnedBytes, verb: Verb, requestID: UInt64, deadlineMilliseconds: UInt32,
    body: PinnedBytes, payloadByteCount: UInt64
) {
    var writer = FieldWriter(room)
    writer.append(FrameLayout.magic)
    writer.append(UInt8(1))
    writer.append(verb.rawValue)
    writer.append(UInt16(0))
    writer.append(requestID)
    writer.append(deadlineMilliseconds)
    writer.append(UInt32(0))
    writer.append(UInt32(body.count))
    writer.append(body.withBytes { Checksum.short($0) })
    writer.append(payloadByteCount)
    writer.append(UInt32(0))
    writer.append(room.prefix(44).withBytes { Checksum.short($0) })
}

func readHeader(_ bytes: PinnedBytes) -> Result<AnswerHeader, ClientError> {
    var reader = FieldReader(bytes)
    guard let magic = reader.read(UInt32.self), magic == FrameLayout.magic else {
        return .failure(.broken("an answer does not begin with KVS1"))
    }
    guard let version = reader.read(UInt8.self), let verb = reader.read(UInt8.self),
        let flags = reader.read(UInt16.self), let id = reader.read(UInt64.self),
        reader.read(UInt32.self) != nil, let status = reader.read(UInt16.self),
        let reserved = reader.read(UInt16.self), let bodyByteCount = reader.read(UInt32.self),
        let bodyChecksum = reader.read(UInt32.self), let payload = reader.read(UInt64.self),
        let reserved2 = reader.read(UInt32.self), let checksum = reader.read(UInt32.self)
    else { return .failure(.broken("an answer's header is incomplete")) }
    guard checksum == bytes.prefix(44).withBytes({ Checksum.short($0) }) else {
        return .failure(.broken("an answer's header does not match its checksum"))
    }
    guard version == 1, reserved == 0, reserved2 == 0, flags & 1 == 1 else {
        return .failure(.broken("an answer's header has fields that version 1 does not"))
    }
    guard bodyByteCount <= Limits.bodyByteCountMax else {
        return .failure(.broken("an answer's body has \(bodyByteCount) bytes"))
    }
    return .success(
        AnswerHeader(
            verb: verb, flags: flags, requestID: id, status: status,
            bodyByteCount: Int(bodyByteCount), bodyChecksum: bodyChecksum,
            payloadByteCount: payload))
}
