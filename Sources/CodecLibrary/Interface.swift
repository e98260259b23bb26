// SPDX-License-Identifier: Apache-2.0
//
// The functions of kvstore_codec.h, against whose declarations the compiler holds them, so that
// their names are C's. What they promise stands there; here are checks of arguments and the way to
// a `CodecHandle`.
// swift-format-ignore-file: AlwaysUseLowerCamelCase
internal import CKVStore
internal import Codec
internal import KVCore

@c @implementation
func kvsc_abi_version() -> UInt32 { KVSC_ABI_VERSION }

@c @implementation
func kvsc_status_text(_ status: kvsc_status) -> UnsafePointer<CChar>! {
    // SAFETY: literals are there for ever, and end with a zero.
    unsafe statusTexts[min(Int(status.rawValue), statusTexts.count - 1)].utf8Start
        .withMemoryRebound(to: CChar.self, capacity: 1) { unsafe $0 }
}

private let statusTexts: [StaticString] = [
    "ok", "truncated", "magic", "checksum", "version", "header", "directory", "length",
    "section checksum", "section", "layout", "profile missing", "profile unsuitable",
    "profile damaged", "target too small", "workspace too small", "invalid argument",
    "no coefficients", "unknown status",
]

@c @implementation
func kvsc_open(
    _ description: UnsafeRawPointer!, _ descriptionByteCount: Int,
    _ payloadByteCountMax: UInt64, _ codec: UnsafeMutablePointer<OpaquePointer?>!
) -> kvsc_status {
    guard unsafe codec != nil, (1...UInt64(Limits.chunkByteCountMax)).contains(payloadByteCountMax),
        unsafe description != nil || descriptionByteCount == 0,
        descriptionByteCount <= Limits.bodyByteCountMax
    else { return KVSC_INVALID_ARGUMENT }
    // SAFETY: the caller promises these bytes during the call.
    let text = unsafe Array(
        UnsafeRawBufferPointer(start: description, count: descriptionByteCount))
    let handle = CodecHandle(
        description: text, payloadByteCountMax: Int(payloadByteCountMax))
    // SAFETY: the reference that is made here is given back by kvsc_close.
    unsafe codec.pointee = OpaquePointer(Unmanaged.passRetained(handle).toOpaque())
    return KVSC_OK
}

@c @implementation
func kvsc_close(_ codec: OpaquePointer!) {
    guard let codec = unsafe codec else { return }
    // SAFETY: made by kvsc_open, and not used any more.
    unsafe Unmanaged<CodecHandle>.fromOpaque(UnsafeRawPointer(codec)).release()
}

@c @implementation
func kvsc_last_error_text(_ codec: OpaquePointer!) -> UnsafePointer<CChar>! {
    guard let handle = unsafe handle(codec) else { return unsafe kvsc_status_text(KVSC_OK) }
    // SAFETY: the text ends with a zero, and lives as long as the codec.
    return unsafe UnsafeRawPointer(handle.errorText.start).assumingMemoryBound(to: CChar.self)
}

@c @implementation
func kvsc_knows_layout(_ codec: OpaquePointer!) -> CInt {
    // SAFETY: what the caller passes is as kvstore_codec.h asks for.
    unsafe handle(codec)?.codec.layout != nil ? 1 : 0
}

@c @implementation
func kvsc_add_profile(
    _ codec: OpaquePointer!, _ bytes: UnsafeRawPointer!, _ byteCount: Int,
    _ hash: UnsafeMutablePointer<UInt8>!
) -> kvsc_status {
    guard let handle = unsafe handle(codec),
        let bytes = unsafe input(bytes, UInt64(byteCount))
    else { return unsafe refuse(codec) }
    return handle.answer { () throws(CodecFault) in
        let added = try handle.codec.addProfile(bytes)
        if let hash = unsafe hash {
            // SAFETY: the caller gives 16 bytes.
            for (offset, byte) in profileBytes(of: added).enumerated() {
                unsafe hash[offset] = byte
            }
        }
        return KVSC_OK
    }
}

@c @implementation
func kvsc_container_byte_count_maximum(
    _ codec: OpaquePointer!, _ payloadByteCount: UInt64
) -> UInt64 {
    // SAFETY: what the caller passes is as kvstore_codec.h asks for.
    guard let handle = unsafe handle(codec),
        (1...UInt64(Limits.chunkByteCountMax)).contains(payloadByteCount)
    else { return 0 }
    return UInt64(
        handle.codec.containerByteCountMax(payloadByteCount: Int(payloadByteCount)))
}

@c @implementation
func kvsc_encode(
    _ codec: OpaquePointer!, _ payload: UnsafeRawPointer!, _ payloadByteCount: UInt64,
    _ level: kvs_level, _ firstPosition: Int64, _ container: UnsafeMutableRawPointer!,
    _ capacity: UInt64, _ containerByteCount: UnsafeMutablePointer<UInt64>!
) -> kvsc_status {
    guard let handle = unsafe handle(codec) else { return KVSC_INVALID_ARGUMENT }
    return handle.answer { () throws(CodecFault) in
        guard let payload = unsafe input(payload, payloadByteCount),
            let container = unsafe output(container, capacity),
            let level = Level(rawValue: UInt8(clamping: level.rawValue)), level != .raw,
            firstPosition >= -1, firstPosition < Int64(UInt32.max),
            unsafe containerByteCount != nil
        else { return KVSC_INVALID_ARGUMENT }
        let made = try handle.codec.encode(
            payload, level, firstPosition: firstPosition < 0 ? nil : UInt32(firstPosition),
            into: container)
        // SAFETY: not nil, and the caller's.
        unsafe containerByteCount.pointee = UInt64(made.byteCount)
        return KVSC_OK
    }
}

@c @implementation
func kvsc_inspect(
    _ codec: OpaquePointer!, _ container: UnsafeRawPointer!, _ containerByteCount: UInt64,
    _ info: UnsafeMutablePointer<kvsc_info>!
) -> kvsc_status {
    guard let handle = unsafe handle(codec),
        let container = unsafe input(container, containerByteCount), unsafe info != nil
    else { return unsafe refuse(codec) }
    return handle.answer(reading: container) { reader throws(CodecFault) in
        let header = reader.header
        var told = kvsc_info()
        told.mode = header.mode.rawValue
        told.level = header.level.rawValue
        told.value_type = header.type?.rawValue ?? 0
        told.exact_token_count = UInt8(clamping: header.exactRowCount)
        told.token_count = UInt32(header.tokenCount)
        told.layer_count = UInt32(header.layerCount)
        told.kind_count = UInt32(reader.layout?.kinds.count ?? 0)
        told.key_column_count = UInt32(reader.layout?.columnCount(.keys) ?? 0)
        told.value_column_count = UInt32(reader.layout?.columnCount(.values) ?? 0)
        told.first_position = header.firstPosition.map { Int64($0) } ?? -1
        told.payload_byte_count = UInt64(header.payloadByteCount)
        // SAFETY: both fields have 16 bytes.
        unsafe withUnsafeMutableBytes(of: &told.profile_hash) {
            unsafe $0.copyBytes(from: profileBytes(of: header.profile))
        }
        unsafe withUnsafeMutableBytes(of: &told.layout) {
            unsafe $0.copyBytes(from: header.layout.bytes)
        }
        unsafe info.pointee = told
        return KVSC_OK
    }
}

@c @implementation
func kvsc_decode(
    _ codec: OpaquePointer!, _ container: UnsafeRawPointer!, _ containerByteCount: UInt64,
    _ payload: UnsafeMutableRawPointer!, _ payloadByteCount: UInt64
) -> kvsc_status {
    // SAFETY: what the caller passes is as kvstore_codec.h asks for.
    guard let handle = unsafe handle(codec),
        let container = unsafe input(container, containerByteCount),
        let payload = unsafe output(payload, payloadByteCount)
    else { return unsafe refuse(codec) }
    return handle.answer(reading: container) { reader throws(CodecFault) in
        try handle.codec.decode(reader, into: payload)
        return KVSC_OK
    }
}

@c @implementation
func kvsc_decode_layers(
    _ codec: OpaquePointer!, _ container: UnsafeRawPointer!, _ containerByteCount: UInt64,
    _ firstLayer: UInt32, _ layerCount: UInt32, _ payload: UnsafeMutableRawPointer!,
    _ payloadByteCount: UInt64
) -> kvsc_status {
    // SAFETY: what the caller passes is as kvstore_codec.h asks for.
    guard let handle = unsafe handle(codec),
        let container = unsafe input(container, containerByteCount),
        let payload = unsafe output(payload, payloadByteCount)
    else { return unsafe refuse(codec) }
    return handle.answer(reading: container) { reader throws(CodecFault) in
        let layers = Int(firstLayer)..<Int(firstLayer) + Int(layerCount)
        let isThere = try handle.codec.decode(reader, layers: layers, into: payload)
        return isThere ? KVSC_OK : KVSC_INVALID_ARGUMENT
    }
}

@c @implementation
func kvsc_decode_section(
    _ codec: OpaquePointer!, _ container: UnsafeRawPointer!, _ containerByteCount: UInt64,
    _ layer: UInt32, _ kind: UInt32, _ valueType: UInt32, _ values: UnsafeMutableRawPointer!,
    _ byteCount: UInt64
) -> kvsc_status {
    // SAFETY: what the caller passes is as kvstore_codec.h asks for.
    guard let handle = unsafe handle(codec),
        let container = unsafe input(container, containerByteCount),
        let values = unsafe output(values, byteCount)
    else { return unsafe refuse(codec) }
    return handle.answer(reading: container) { reader throws(CodecFault) in
        guard let kind = KVKind(rawValue: UInt8(clamping: kind)),
            let type = ValueType(rawValue: UInt8(clamping: valueType))
        else { return KVSC_INVALID_ARGUMENT }
        let isThere = try handle.codec.decode(
            reader, layer: Int(layer), kind, as: type, into: values)
        return isThere ? KVSC_OK : KVSC_INVALID_ARGUMENT
    }
}

@c @implementation
func kvsc_decode_coefficients(
    _ codec: OpaquePointer!, _ container: UnsafeRawPointer!, _ containerByteCount: UInt64,
    _ layer: UInt32, _ kind: UInt32, _ symbols: UnsafeMutablePointer<Int8>!,
    _ capacity: UInt64, _ coefficients: UnsafeMutablePointer<kvsc_coefficients>!
) -> kvsc_status {
    // SAFETY: what the caller passes is as kvstore_codec.h asks for.
    let target = unsafe output(UnsafeMutableRawPointer(symbols), capacity)
    guard let handle = unsafe handle(codec),
        let container = unsafe input(container, containerByteCount), unsafe coefficients != nil,
        unsafe target != nil || (symbols == nil && capacity == 0)
    else { return unsafe refuse(codec) }
    var isEmbedded = false
    let status = handle.answer(reading: container) { reader throws(CodecFault) in
        isEmbedded = reader.header.isEmbedded
        guard let layout = reader.layout else { throw .layout }
        guard let kind = KVKind(rawValue: UInt8(clamping: kind)), layout.kinds.contains(kind),
            layer < reader.header.layerCount
        else { return KVSC_INVALID_ARGUMENT }
        let found = try handle.codec.coefficients(
            reader, layer: Int(layer), kind, into: target)
        guard let found else { return KVSC_NO_COEFFICIENTS }
        // SAFETY: not nil, and the caller's.
        unsafe coefficients.pointee = told(found, reader.header, hasPointers: target != nil)
        return KVSC_OK
    }
    if status == KVSC_PROFILE_UNSUITABLE && isEmbedded {
        handle.note("the coefficients of an embedded container cannot be had: decode it to values")
    }
    return status
}

/// What a section's coefficients are, for C. The pointers are into the container.
private func told(
    _ found: Coefficients, _ header: ContainerHeader, hasPointers: Bool
) -> kvsc_coefficients {
    var told = unsafe kvsc_coefficients()
    unsafe told.mode = header.mode.rawValue
    unsafe told.method = found.method.rawValue
    unsafe told.level = header.level.rawValue
    unsafe told.value_type = header.type?.rawValue ?? 0
    unsafe told.row_count = UInt32(found.rowCount)
    unsafe told.column_count = UInt32(found.columnCount)
    unsafe told.exact_row_count = UInt32(header.exactRowCount)
    unsafe told.group_layer_count = UInt32(header.groupLayerCount)
    unsafe told.first_position = header.firstPosition.map { Int64($0) } ?? -1
    unsafe told.symbol_byte_count = UInt64(found.rowCount * found.columnCount)
    unsafe told.exact_row_byte_count = UInt64(found.exactRows.count)
    unsafe told.row_code_byte_count = UInt64(found.rowCodes.count)
    unsafe told.escape_byte_count = UInt64(found.escapes.count)
    // SAFETY: the field has 16 bytes; the pointers are used while the container is there.
    unsafe withUnsafeMutableBytes(of: &told.profile_hash) {
        unsafe $0.copyBytes(from: profileBytes(of: header.profile))
    }
    if hasPointers {
        unsafe told.exact_rows = UnsafeRawPointer(found.exactRows.start)
        unsafe told.row_codes = UnsafeRawPointer(found.rowCodes.start)
        unsafe told.escapes = UnsafeRawPointer(found.escapes.start)
    }
    return unsafe told
}

@c @implementation
func kvsc_attach(_ codec: OpaquePointer!, _ functions: UnsafeMutablePointer<kvs_codec>!) {
    // SAFETY: what the caller passes is as kvstore_codec.h asks for.
    guard unsafe functions != nil else { return }
    var made = unsafe kvs_codec()
    unsafe made.context = UnsafeMutableRawPointer(codec)
    unsafe made.encode = {
        context, payload, byteCount, level, position, container, capacity, madeByteCount in
        let status = unsafe kvsc_encode(
            OpaquePointer(context), payload, byteCount, level, position, container, capacity,
            madeByteCount)
        guard status == KVSC_TARGET_TOO_SMALL else { return CInt(status.rawValue) }
        unsafe madeByteCount?.pointee = 0
        return 0
    }
    unsafe made.payload_byte_count = { context, container, byteCount, payloadByteCount in
        var info = kvsc_info()
        let status = unsafe kvsc_inspect(OpaquePointer(context), container, byteCount, &info)
        unsafe payloadByteCount?.pointee = info.payload_byte_count
        return CInt(status.rawValue)
    }
    unsafe made.decode = { context, container, byteCount, payload, payloadByteCount in
        let status = unsafe kvsc_decode(
            OpaquePointer(context), container, byteCount, payload, payloadByteCount)
        return CInt(status.rawValue)
    }
    unsafe made.error_text = { context in unsafe kvsc_last_error_text(OpaquePointer(context)) }
    unsafe functions.pointee = made
}

// MARK: Arguments

/// The object behind a codec; nil for NULL.
private func handle(_ codec: OpaquePointer!) -> CodecHandle? {
    guard let codec = unsafe codec else { return nil }
    // SAFETY: made by kvsc_open, and not closed yet.
    return unsafe Unmanaged<CodecHandle>.fromOpaque(UnsafeRawPointer(codec)).takeUnretainedValue()
}

/// An argument is wrong, which the codec notes, if it is there.
private func refuse(_ codec: OpaquePointer!) -> kvsc_status {
    // SAFETY: what the caller passes is as kvstore_codec.h asks for.
    unsafe handle(codec)?.answer { () throws(CodecFault) in KVSC_INVALID_ARGUMENT }
        ?? KVSC_INVALID_ARGUMENT
}

/// Bytes to read; nil for none, or more than a chunk and its container's head can have.
private func input(_ start: UnsafeRawPointer!, _ count: UInt64) -> PinnedBytes? {
    // SAFETY: nobody writes to what this module names as input.
    unsafe output(UnsafeMutableRawPointer(mutating: start), count)
}

/// Bytes to write.
private func output(_ start: UnsafeMutableRawPointer!, _ count: UInt64) -> PinnedBytes? {
    guard let start = unsafe start, count > 0, count <= 2 * UInt64(Limits.chunkByteCountMax) else {
        return nil
    }
    // SAFETY: the caller promises these bytes during the call.
    return unsafe PinnedBytes(start: start, count: Int(count))
}

/// The 16 bytes of a profile's hash, in order.
func profileBytes(of hash: ProfileHash) -> [UInt8] {
    [hash.words.0, hash.words.1].flatMap { word in
        (0..<8).map { UInt8(truncatingIfNeeded: word >> (8 * UInt64($0))) }
    }
}
