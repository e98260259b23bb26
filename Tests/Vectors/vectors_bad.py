# SPDX-License-Identifier: Apache-2.0
"""The vectors that are wrong, one fault each, and what a receiver says to them. See README.md."""

import reference as r
import vectors_good as good

# What was refused with `unsupported` until it was defined.
OUTGROWN = {
    "verb: PIN is reserved", "verb: UNPIN is reserved", "put: acknowledge 1",
    "reserve: acknowledge 1", "get: option bit 1", "put: level 1", "reserve: level 1",
    "get: level 1", "get: level 254",
}


class Bad:
    def __init__(self, decode):
        self.decode, self.vectors, self.outgrown = decode, [], []

    def add(self, name, frame, status="malformed", scope=0, closes=None, zeros=0,
            range_byte_count=None):
        """`zeros` zero bytes follow the frame's hexadecimal digits, to keep the file small."""
        if name in OUTGROWN:
            self.add_outgrown(name, frame, status)
            return
        try:
            decoded = self.decode(frame + bytes(zeros), scope, range_byte_count)
        except r.Refusal as refusal:
            assert refusal.status == status, (name, refusal)
        else:
            raise AssertionError(f"{name}: accepted as {decoded}")
        vector = {"name": name, "frame": frame.hex(), "zeros": zeros, "scope": scope}
        if range_byte_count is not None:
            vector["range_byte_count"] = range_byte_count
        if self.decode is decode_request:
            large = int.from_bytes(frame[32:40], "little") > r.PAYLOAD_BYTE_COUNT_MAX
            vector["status"] = status
            vector["closes"] = status in r.CLOSING or large if closes is None else closes
        self.vectors.append(vector)


    def add_outgrown(self, name, frame, status):
        try:
            self.decode(frame, 0, None)
        except r.Refusal as refusal:
            assert refusal.status != status, f"{name} is refused as ever"
        self.outgrown.append({
            "name": name, "frame": frame.hex(), "zeros": 0, "scope": 0, "status": status,
            "closes": False})


def decode_request(frame, _scope, _range_byte_count):
    return r.decode_request(frame)


def frame_of(vector):
    """Header and body of a good vector, as a Frame that can be spoilt."""
    return r.decode_header(bytes.fromhex(vector["frame"]))


def spoilt(frame, offset, data):
    """The frame with other bytes in its body, and right checksums."""
    body = bytearray(frame.body)
    body[offset : offset + len(data)] = data
    return with_body(frame, bytes(body))


def with_body(frame, body):
    return r.Frame(
        frame.verb, frame.flags, frame.request_id, frame.deadline_ms, frame.status,
        frame.payload_byte_count, body).encode()


def headers(bad, frame):
    """Faults of the header and of the body's checksum, on a sound frame."""
    sound = frame.encode()
    bad.add("header: magic", frame.encode(magic=b"KVS2"))
    bad.add("header: another protocol", b"GET / HTTP/1.1\r\nHost: kv\r\n\r\n" + bytes(40))
    bad.add("header: checksum", sound[:44] + bytes([sound[44] ^ 1]) + sound[45:])
    bad.add("header: damaged request id", sound[:8] + bytes([sound[8] ^ 0x80]) + sound[9:])
    for version in (0, 2, 255):
        bad.add(f"header: version {version}", frame.encode(version=version), "versionMismatch")
    for offset, value in ((22, (1, 0)), (23, (0x8000, 0)), (40, (0, 1)), (43, (0, 1 << 31))):
        bad.add(f"header: reserved byte {offset}", frame.encode(reserved=value))
    for count in (r.BODY_BYTE_COUNT_MAX + 1, (1 << 31), (1 << 32) - 1):
        bad.add(f"header: body of {count} bytes", frame.encode(body_byte_count=count))
    if frame.body:
        damaged = sound[:-1] + bytes([sound[-1] ^ 1])
        bad.add("body: damaged", damaged)


def cuts(frame, fields, element_byte_counts):
    """Offsets where fields begin; of lists, where the elements of the first and last do."""
    offsets = []
    r.write_fields(fields, frame.fields, offsets)
    for size in element_byte_counts:
        offsets.append(len(frame.body) - size)
    return sorted({offset for offset in offsets if offset < len(frame.body)})


def lengths(bad, vector, is_answer, element_byte_count):
    """Truncated at each field, one byte short, and one byte long; the header agrees each time."""
    frame, name, scope = frame_of(vector), vector["name"], vector.get("scope", 0)
    asked = {"scope": scope, "range_byte_count": vector.get("range_byte_count")}
    frame.fields = vector["fields"]
    status = vector.get("status", "ok")
    request_scope = frame.fields.get("scope", 0)
    fields = r.body_fields(
        vector["verb"], is_answer, status, frame.flags, scope if is_answer else request_scope,
        frame.fields.get("options", 0), "range_byte_count" in vector)
    offsets = cuts(frame, fields, [element_byte_count] if element_byte_count else [])
    for offset in sorted({*offsets, len(frame.body) - 1} - {-1}):
        bad.add(f"{name}: ends after {offset} bytes", with_body(frame, frame.body[:offset]),
                **asked)
    bad.add(f"{name}: a byte behind", with_body(frame, frame.body + b"\0"), **asked)
    if frame.body:
        bad.add(f"{name}: the largest body", with_body(
            frame, frame.body + bytes(r.BODY_BYTE_COUNT_MAX - len(frame.body)))[
                : r.HEADER_BYTE_COUNT + len(frame.body)],
            **asked, zeros=r.BODY_BYTE_COUNT_MAX - len(frame.body))


def reserved(bad, vector, is_answer):
    """Each reserved byte set, one after another."""
    frame, scope = frame_of(vector), vector.get("scope", 0)
    fields = r.body_fields(
        vector["verb"], is_answer, vector.get("status", "ok"), frame.flags,
        scope if is_answer else vector["fields"].get("scope", 0),
        vector["fields"].get("options", 0), "range_byte_count" in vector)
    offset = 0
    for name, kind in fields:
        size = len(r.write_fields([(name, kind)], vector["fields"]))
        if isinstance(kind, r.Reserved) and not kind.ignored:
            for index in (offset, offset + size - 1):
                bad.add(f"{vector['name']}: reserved byte {index}",
                        spoilt(frame, index, b"\x01"), scope=scope,
                        range_byte_count=vector.get("range_byte_count"))
                if size == 1:
                    break
        offset += size


def by_name(vectors):
    return {vector["name"]: vector for vector in vectors}


def flags_and_verbs(bad, ping):
    for bit in range(16):
        frame = r.Frame(ping.verb, 1 << bit, 7, 1_000)
        bad.add(f"flags: bit {bit}", frame.encode(), "unsupported")
    for name, number in {"PIN": 0x30, "UNPIN": 0x31, **r.RESERVED_VERBS}.items():
        bad.add(f"verb: {name} is reserved", r.Frame(number, 0, 7).encode(), "unsupported")
    for number in (0x00, 0x03, 0x0F, 0x15, 0x25, 0x52, 0x7F, 0x80, 0xFF):
        bad.add(f"verb: {number:#04x}", r.Frame(number, 0, 7).encode(), "unsupported")
    bad.add("verb: unknown, with a body and a payload", r.Frame(
        0x77, 0, 7, 0, 0, 3, b"something").encode(), "unsupported")
    whole = r.Frame(0x77, 0, 7, body=bytes(r.BODY_BYTE_COUNT_MAX)).encode()
    bad.add("verb: unknown, with the largest body", whole[: r.HEADER_BYTE_COUNT], "unsupported",
            zeros=r.BODY_BYTE_COUNT_MAX)
    bad.add("verb: unknown, with a payload that is not worth reading", r.Frame(
        0x77, 0, 7, 0, 0, r.PAYLOAD_BYTE_COUNT_MAX + 1).encode(), "unsupported")
    for status in (1, 9, 65_535):
        bad.add(f"status {status} in a request", r.Frame(
            ping.verb, 0, 7, 0, status).encode())
    for verb, number in r.VERBS.items():
        if verb == "PUT":
            continue
        vector = next(v for v in good.requests() if v["verb"] == verb)
        frame = frame_of(vector)
        frame.payload_byte_count = 1
        bad.add(f"{verb.lower()}: with a payload", frame.encode())


def counts_that_lie(bad, requests):
    lists = {
        "get: three keys of a layout": [0], "lookup: mode 0": [0], "delete: five keys": [0],
        "lease: keys and released ids": [0, 2], "release: several": [0],
        "pin: three keys, shortest": [0], "unpin: five keys": [0],
        "get: a range, options 3": [0],
    }
    for name, offsets in lists.items():
        frame = frame_of(requests[name])
        for offset in offsets:
            count = int.from_bytes(frame.body[offset : offset + 2], "little")
            for lie in (count - 1, count + 1, 1_024):
                bad.add(f"{name}: says {lie} at {offset}",
                        spoilt(frame, offset, lie.to_bytes(2, "little")))
            for lie in (1_025, 65_535):
                bad.add(f"{name}: says {lie} at {offset}",
                        spoilt(frame, offset, lie.to_bytes(2, "little")), "limitExceeded")
    for name, size in (
        ("get: three keys of a layout", 24), ("lookup: mode 0", 8), ("delete: five keys", 8),
        ("release: several", 8), ("pin: three keys, shortest", 16), ("unpin: five keys", 8),
        ("get: a range, options 3", 40),
    ):
        frame = frame_of(requests[name])
        empty = b"\0\0" + frame.body[2:size]
        bad.add(f"{name}: but none", with_body(frame, empty), "limitExceeded")
    frame = frame_of(requests["get: one key, level 255"])
    many = (1_025).to_bytes(2, "little") + frame.body[2:24]
    bad.add("get: 1,025 keys that are there", with_body(frame, many + bytes(32 * 1_025))[
        : r.HEADER_BYTE_COUNT + 24], "limitExceeded", zeros=32 * 1_025)


def choices(bad, requests):
    for verb in ("put", "reserve"):
        frame = frame_of(requests[f"{verb}: one byte"])
        for level in (1, 7, 254, 255):
            bad.add(f"{verb}: level {level}", spoilt(frame, 60, bytes([level])), "unsupported")
        for acknowledge in (1, 2, 255):
            bad.add(f"{verb}: acknowledge {acknowledge}",
                    spoilt(frame, 61, bytes([acknowledge])), "unsupported")
    frame = frame_of(requests["get: opaque ones only"])
    for level in (1, 7, 253, 254):
        bad.add(f"get: level {level}", spoilt(frame, 2, bytes([level])), "unsupported")
    for bit in range(1, 8):
        bad.add(f"get: option bit {bit}", spoilt(frame, 3, bytes([1 << bit])), "unsupported")
    frame = frame_of(requests["get: one key, level 255"])
    bad.add("get: a layout without its option", spoilt(frame, 8, b"\x01"))
    for mode in (2, 255):
        frame = frame_of(requests["lookup: mode 0"])
        bad.add(f"lookup: mode {mode}", spoilt(frame, 2, bytes([mode])), "unsupported")
    frame = frame_of(requests["stat: the node"])
    for scope in (2, 255):
        bad.add(f"stat: scope {scope}", spoilt(frame, 0, bytes([scope])), "unsupported")
    bad.add("stat: the node, with a key", with_body(frame, frame.body + bytes(32)))


def ranges_and_pins(bad, requests):
    frame = frame_of(requests["get: a range, options 2"])
    bad.add("get: a range of no bytes", spoilt(frame, 32, bytes(8)))
    bad.add("get: a range, and a layout without its option", spoilt(frame, 8, b"\x01"))
    bad.add("get: the range without its option", spoilt(frame, 3, b"\0"))
    for bit in range(2, 8):
        bad.add(f"get: a range, and option bit {bit}", spoilt(frame, 3, bytes([2 | 1 << bit])),
                "unsupported")
    frame = frame_of(requests["pin: three keys, shortest"])
    for milliseconds in (0, r.PIN_MS_MAX + 1, (1 << 64) - 1):
        bad.add(f"pin: for {milliseconds} ms", spoilt(
            frame, 8, milliseconds.to_bytes(8, "little")), "limitExceeded")


def controls(bad, requests):
    frame = frame_of(requests["control: ssd evacuate"])
    for operation in (0, 4, 65_535):
        bad.add(f"control: operation {operation}", spoilt(
            frame, 0, operation.to_bytes(2, "little")), "unsupported")
    bad.add("control: an argument that is not UTF-8", spoilt(frame, 10, b"\xff"))
    head = frame.body[:8]
    bad.add("control: an argument of 4,097 bytes", with_body(
        frame, head + (4_097).to_bytes(2, "little") + b"a" * 4_097))
    bad.add("control: the argument says 65,535 bytes", with_body(frame, head + b"\xff\xff"))


def chunks(bad, requests):
    for verb in ("put", "reserve"):
        frame = frame_of(requests[f"{verb}: one byte"])
        for count in (r.CHUNK_BYTE_COUNT_MAX + 1, 1 << 40, (1 << 64) - 9, (1 << 64) - 1):
            if verb == "put":
                frame.payload_byte_count = (count + 8) % (1 << 64)
            bad.add(f"{verb}: {count} bytes",
                    spoilt(frame, 48, count.to_bytes(8, "little")), "tooLarge")
        frame.payload_byte_count = 8 if verb == "put" else 0
        bad.add(f"{verb}: no bytes", spoilt(frame, 48, bytes(8)))
    frame = frame_of(requests["put: one byte"])
    for payload in (0, 1, 8, 10, r.PAYLOAD_BYTE_COUNT_MAX + 1, (1 << 64) - 1):
        frame.payload_byte_count = payload
        bad.add(f"put: one byte, in a payload of {payload}", frame.encode())


def hellos(bad, requests):
    frame = frame_of(requests["hello: nothing said"])
    for versions in ((0, 0), (2, 2), (2, 255)):
        bad.add(f"hello: versions {versions[0]} to {versions[1]}",
                spoilt(frame, 0, bytes(versions)), "versionMismatch")
    bad.add("hello: versions 2 to 1", spoilt(frame, 0, b"\x02\x01"))
    said = frame_of(requests["hello: everything said"])
    for name, offset in (("namespace", 13), ("client name", 30)):
        bad.add(f"hello: {name} is not UTF-8", spoilt(said, offset, b"\xff"))
    head = frame.body[:12]
    bad.add("hello: namespace of 65 bytes", with_body(frame, head + b"\x41" + bytes(65 + 3)))
    bad.add("hello: namespace says 255 bytes", with_body(frame, head + b"\xff\0\0\0"))
    bad.add("hello: token of 257 bytes", with_body(
        frame, head + b"\0" + b"\x01\x01" + bytes(257 + 1)))
    bad.add("hello: token says 65,535 bytes", with_body(frame, head + b"\0\xff\xff\0"))
    bad.add("hello: client name of 65 bytes", with_body(
        frame, head + b"\0\0\0" + b"\x41" + b"c" * 65))
    bad.add("hello: a surrogate in UTF-8", with_body(
        frame, head + b"\x03\xed\xa0\x80" + b"\0\0\0"))
    bad.add("hello: an overlong form", with_body(frame, head + b"\x02\xc0\x80" + b"\0\0\0"))


LENGTHS_OF_REQUESTS = {
    "hello: everything said": 0, "ping": 0, "put: one byte": 0, "get: three keys of a layout": 32,
    "lookup: mode 0": 32, "delete: five keys": 32, "stat: the node": 0, "stat: a chunk": 0,
    "lease: keys and released ids": 32, "release: several": 8, "reserve: one byte": 0,
    "commit": 0, "abort": 0, "get: a range, options 3": 32, "pin: three keys, shortest": 32,
    "unpin: five keys": 32, "control: ssd scrub at a rate": 0, "put: when on stable storage": 0,
}


def bad_requests():
    """Those, and the ones that are outgrown."""
    bad = Bad(decode_request)
    requests = by_name(good.requests())
    headers(bad, frame_of(requests["put: as in docs/protocol.md"]))
    flags_and_verbs(bad, frame_of(requests["ping"]))
    for name, size in LENGTHS_OF_REQUESTS.items():
        lengths(bad, requests[name], False, size)
        reserved(bad, requests[name], False)
    counts_that_lie(bad, requests)
    choices(bad, requests)
    chunks(bad, requests)
    hellos(bad, requests)
    ranges_and_pins(bad, requests)
    controls(bad, requests)
    assert {vector["name"] for vector in bad.outgrown} == OUTGROWN
    return bad.vectors, bad.outgrown


LENGTHS_OF_ANSWERS = {
    "hello": 0, "ping": 0, "put": 0, "get: the only chunk": 0, "get: one key, notFound": 0,
    "lookup: every key, some absent": 24, "delete: some": 2, "stat: the node": 8,
    "stat: a chunk": 0, "lease: granted, absent, refused": 48, "release": 0, "reserve": 0,
    "commit": 0, "abort": 0, "put: busy": 0, "get: a range": 0,
    "get: a range, one key, limitExceeded": 0, "pin: some": 2, "unpin: some": 2,
    "control: ssd status": 0,
}


def bad_answers():
    bad = Bad(r.decode_answer)
    answers = by_name(good.answers())
    headers_of = frame_of(answers["get: the only chunk"])
    headers(Renamed(bad), headers_of)
    flags_of_answers(bad, answers)
    for name, size in LENGTHS_OF_ANSWERS.items():
        lengths(Renamed(bad), answers[name], True, size)
        reserved(bad, answers[name], True)
    records_of_answers(bad, answers)
    return bad.vectors


class Renamed:
    """A client does not answer, so every fault counts as one kind."""

    def __init__(self, bad):
        self.bad = bad

    def add(self, name, frame, status="malformed", **other):
        self.bad.add(name, frame, status, **other)


def flags_of_answers(bad, answers):
    ping = frame_of(answers["ping"])
    bad.add("flags: not a response", r.Frame(ping.verb, 0, 7).encode())
    for bit in range(3, 16):
        bad.add(f"flags: bit {bit}", r.Frame(ping.verb, r.RESPONSE | 1 << bit, 7).encode())
    bad.add("flags: more, but no GET", r.Frame(ping.verb, r.RESPONSE | r.MORE, 7).encode())
    bad.add("deadline in an answer", r.Frame(ping.verb, r.RESPONSE, 7, 1).encode())
    bad.add("payload where none belongs", r.Frame(
        ping.verb, r.RESPONSE, 7, 0, 0, 1).encode())
    bad.add("ok to a verb that nobody knows", r.Frame(0x77, r.RESPONSE, 7).encode())
    get = frame_of(answers["get: the only chunk"])
    for payload in (0, 11, 13, r.CHUNK_BYTE_COUNT_MAX + 1, (1 << 64) - 1):
        get.payload_byte_count = payload
        bad.add(f"get: 12 bytes, in a payload of {payload}", get.encode())
    ranged = frame_of(answers["get: a range"])
    bad.add("get: a range that was not asked for", ranged.encode())
    for payload in (0, 3, 5, 12):
        ranged.payload_byte_count = payload
        bad.add(f"get: a range of 4 bytes, in a payload of {payload}", ranged.encode(),
                range_byte_count=4)
    ranged.payload_byte_count = 13
    bad.add("get: a range of 13 bytes of 12", ranged.encode(), range_byte_count=13)
    missing = frame_of(answers["get: one key, notFound"])
    missing.payload_byte_count = 1
    bad.add("get: notFound with a payload", missing.encode())


def records_of_answers(bad, answers):
    get = frame_of(answers["get: the only chunk"])
    for count in (0, r.CHUNK_BYTE_COUNT_MAX + 1, (1 << 64) - 1):
        get.payload_byte_count = count
        bad.add(f"get: a chunk of {count} bytes", spoilt(get, 8, count.to_bytes(8, "little")))
    for name, offset, count in (
        ("lookup: every key, some absent", 4, 3), ("delete: some", 4, 2),
        ("stat: the node", 0, 3), ("lease: granted, absent, refused", 0, 3),
        ("pin: some", 4, 3), ("unpin: some", 4, 3),
    ):
        frame = frame_of(answers[name])
        for lie in (0, count - 1, count + 1, 1_025, (1 << 31), (1 << 32) - 1):
            bad.add(f"{name}: says {lie} records", spoilt(
                frame, offset, lie.to_bytes(4, "little")))
    bad.add("lookup: a prefix of more than there is", spoilt(
        frame_of(answers["lookup: every key, some absent"]), 0, b"\x04"))
    bad.add("delete: more deleted than asked for", spoilt(
        frame_of(answers["delete: some"]), 0, b"\x03"))
    for verb in ("pin", "unpin"):
        bad.add(f"{verb}: more ok than asked for", spoilt(
            frame_of(answers[f"{verb}: some"]), 0, b"\x04"))
    control = frame_of(answers["control: ssd status"])
    for lie in (0, 2, 4, 65_535):
        bad.add(f"control: ssd status: says {lie} pairs", spoilt(
            control, 0, lie.to_bytes(2, "little")))
    bad.add("control: a name that is not UTF-8", spoilt(control, 3, b"\xff"))
    bad.add("control: a text that is not UTF-8", spoilt(
        control, len(control.body) - 2 - 22 - 5, b"\xff"))
    busy = frame_of(answers["put: busy"])
    bad.add("text of 513 bytes", with_body(busy, b"\x01\x02" + b"t" * 513))
    bad.add("text says 65,535 bytes", spoilt(busy, 0, b"\xff\xff"))
    stat = frame_of(answers["stat: the node"])
    bad.add("stat: a name that is not UTF-8", spoilt(stat, 5, b"\xff"))
    hello = frame_of(answers["hello"])
    bad.add("hello: a name that is not UTF-8", spoilt(hello, 141, b"\xff"))


def files():
    refused, outgrown = bad_requests()
    return {
        "wire/bad-requests.json": refused, "wire/bad-answers.json": bad_answers(),
        "wire/outgrown-requests.json": outgrown,
    }
