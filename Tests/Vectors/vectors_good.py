# SPDX-License-Identifier: Apache-2.0
"""The vectors that are sound: frames of both directions, and keys. See README.md."""

import reference as r

LAYOUT = bytes(range(0xA0, 0xB0)).hex()
OPAQUE = "00" * 16
ALL_ONES_64 = (1 << 64) - 1
ALL_ONES_32 = (1 << 32) - 1


def key(number):
    """A key that tells its number: 28 bytes that repeat it, then itself big-endian."""
    return (bytes([number % 251]) * 28 + number.to_bytes(4, "big")).hex()


def keys(count):
    return [key(number) for number in range(count)]


class Requests:
    def __init__(self):
        self.vectors = []

    def add(self, name, verb, request_id=1, deadline_ms=0, payload=None, payload_byte_count=None,
            **fields):
        """`payload` is the chunk; PUT's checksum is put behind it here."""
        if payload is not None:
            payload += r.checksum(payload).to_bytes(8, "little")
        if payload_byte_count is None:
            payload_byte_count = len(payload or b"")
        frame = r.encode_request(verb, request_id, deadline_ms, payload_byte_count, **fields)
        decoded = r.decode_request(frame)
        assert decoded.fields == fields, (decoded.fields, fields)
        self.vectors.append({
            "name": name, "verb": verb, "request_id": request_id, "deadline_ms": deadline_ms,
            "payload_byte_count": payload_byte_count, "fields": fields, "frame": frame.hex(),
            "payload": None if payload is None else payload.hex(),
        })

    def put(self, name, verb, chunk=None, chunk_byte_count=None, **fields):
        count = len(chunk) if chunk_byte_count is None else chunk_byte_count
        fields = {
            "chunk_byte_count": count, "level": 0, "acknowledge": 0, "key": key(7),
            "layout": OPAQUE, "time_to_live_ms": 0, **fields,
        }
        self.add(
            name, verb, payload=chunk if verb == "PUT" else None,
            payload_byte_count=count + 8 if verb == "PUT" else 0, **fields)


def requests():
    all_of_them = Requests()
    add, put = all_of_them.add, all_of_them.put
    hello = {
        "lowest_version": 1, "highest_version": 1, "wanted_features": 0, "namespace": "",
        "token": "", "client_name": "",
    }
    add("hello: nothing said", "HELLO", **hello)
    add("hello: everything said", "HELLO", **{
        **hello, "wanted_features": 1, "namespace": "tenant-a", "token": b"s3cret".hex(),
        "client_name": "vllm 0.12",
    })
    add("hello: not ASCII", "HELLO", **{
        **hello, "namespace": "Zürich", "token": "00ff80", "client_name": "κλειδί 🔑"})
    add("hello: longest fields", "HELLO", **{
        **hello, "namespace": "n" * 64, "token": bytes(range(256)).hex(), "client_name": "c" * 64})
    add("hello: later versions too, unknown features", "HELLO", **{
        **hello, "highest_version": 255, "wanted_features": ALL_ONES_64})
    add("hello: versions from 0", "HELLO", **{**hello, "lowest_version": 0})

    add("ping", "PING", request_id=7, deadline_ms=1_000)
    add("ping: largest id and deadline", "PING", ALL_ONES_64, ALL_ONES_32)
    add("ping: id 0", "PING", request_id=0)

    for verb in ("PUT", "RESERVE"):
        name = verb.lower()
        put(f"{name}: as in docs/protocol.md", verb, b"hello, chunk",
            key=bytes(range(32)).hex(), request_id=8)
        put(f"{name}: one byte", verb, b"\xff")
        put(f"{name}: with a layout and a time to live", verb, bytes(range(256)), layout=LAYOUT,
            time_to_live_ms=60_000)
        put(f"{name}: largest time to live", verb, b"x", time_to_live_ms=ALL_ONES_32)
        put(f"{name}: largest chunk", verb, chunk_byte_count=r.CHUNK_BYTE_COUNT_MAX)
        put(f"{name}: when on stable storage", verb, b"durable", acknowledge=1)
        for level in (1, 6):
            put(f"{name}: a container of level {level}", verb, b"opaque here", level=level)
        for position in (0, 256, ALL_ONES_32 - 1):
            put(f"{name}: from position {position} on", verb, b"tokens", first_position=position)

    for level in (255, 0):
        add(f"get: one key, level {level}", "GET", level=level, options=0, layout=OPAQUE,
            keys=keys(1))
    add("get: three keys of a layout", "GET", deadline_ms=250, level=255, options=1,
        layout=LAYOUT, keys=keys(3))
    add("get: opaque ones only", "GET", level=255, options=1, layout=OPAQUE, keys=keys(2))
    add("get: the same key twice", "GET", level=255, options=0, layout=OPAQUE,
        keys=[key(5), key(5)])
    add("get: 1,024 keys", "GET", level=255, options=0, layout=OPAQUE, keys=keys(1_024))

    for level in (1, 2, 3, 6, 254):
        add(f"get: at level {level}", "GET", level=level, options=0, layout=OPAQUE, keys=keys(1))

    for options, layout in ((2, OPAQUE), (3, LAYOUT)):
        add(f"get: a range, options {options}", "GET", level=255, options=options, layout=layout,
            keys=keys(2), range_offset=4_096, range_byte_count=100)
    add("get: a range of the largest chunk's last byte", "GET", level=0, options=2, layout=OPAQUE,
        keys=keys(1), range_offset=r.CHUNK_BYTE_COUNT_MAX - 1, range_byte_count=1)
    add("get: a range of raw chunks of a layout", "GET", level=0, options=3, layout=LAYOUT,
        keys=keys(3), range_offset=1, range_byte_count=1 << 20)
    add("get: a range that no chunk has", "GET", level=255, options=2, layout=OPAQUE,
        keys=keys(1), range_offset=ALL_ONES_64, range_byte_count=ALL_ONES_64)
    add("get: a range of 1,024 keys", "GET", level=255, options=3, layout=LAYOUT,
        keys=keys(1_024), range_offset=0, range_byte_count=1)

    for mode in (0, 1):
        add(f"lookup: mode {mode}", "LOOKUP", mode=mode, keys=keys(3))
    add("lookup: 1,024 keys", "LOOKUP", mode=1, keys=keys(1_024))
    add("delete: one key", "DELETE", keys=keys(1))
    add("delete: five keys", "DELETE", keys=keys(5))
    add("stat: the node", "STAT", scope=0)
    add("stat: a chunk", "STAT", scope=1, key=key(9))

    add("lease: one key", "LEASE", lease_ms=5_000, released=[], keys=keys(1))
    add("lease: keys and released ids", "LEASE", lease_ms=0, released=[1, 2, ALL_ONES_64],
        keys=keys(2))
    add("lease: no keys", "LEASE", lease_ms=1, released=[9], keys=[])
    add("lease: nothing", "LEASE", lease_ms=0, released=[], keys=[])
    add("lease: the most of both", "LEASE", lease_ms=ALL_ONES_32,
        released=list(range(1, 1_025)), keys=keys(1_024))
    add("release: one", "RELEASE", leases=[1])
    add("release: several", "RELEASE", leases=[0, 1, ALL_ONES_64])
    add("release: 1,024", "RELEASE", leases=list(range(1_024)))
    add("commit", "COMMIT", reservation_id=3, checksum=r.checksum(b"hello, chunk"))
    add("commit: all ones", "COMMIT", reservation_id=ALL_ONES_64, checksum=ALL_ONES_64)
    add("abort", "ABORT", reservation_id=3)
    pins_and_control(add)
    return all_of_them.vectors


def pins_and_control(add):
    add("pin: one key", "PIN", pin_ms=600_000, keys=keys(1))
    add("pin: three keys, shortest", "PIN", pin_ms=1, keys=keys(3))
    add("pin: 1,024 keys, longest", "PIN", pin_ms=r.PIN_MS_MAX, keys=keys(1_024))
    add("unpin: one key", "UNPIN", keys=keys(1))
    add("unpin: five keys", "UNPIN", keys=keys(5))
    add("unpin: 1,024 keys", "UNPIN", keys=keys(1_024))
    add("control: ssd status", "CONTROL", operation=1, argument="")
    add("control: ssd scrub", "CONTROL", operation=2, argument="")
    add("control: ssd scrub at a rate", "CONTROL", operation=2, argument="100000000")
    add("control: ssd evacuate", "CONTROL", operation=3, argument="/var/lib/kvstore/größer")
    add("control: longest argument", "CONTROL", operation=3, argument="/" + "d" * 4_095)


class Answers:
    def __init__(self):
        self.vectors = []

    def add(self, name, verb, status="ok", request_id=1, flags=0, scope=0, payload=None,
            payload_byte_count=None, range_byte_count=None, **fields):
        if payload_byte_count is None:
            payload_byte_count = len(payload or b"")
        frame = r.encode_answer(
            verb, request_id, status, flags, payload_byte_count, scope=scope,
            has_range=range_byte_count is not None, **fields)
        decoded = r.decode_answer(frame, scope, range_byte_count)
        assert decoded.fields == fields, (decoded.fields, fields)
        self.vectors.append({
            "name": name, "verb": verb, "request_id": request_id, "status": status,
            "status_number": r.STATUSES.index(status), "flags": flags | r.RESPONSE,
            "closes": decoded.closes, "scope": scope,
            **({} if range_byte_count is None else {"range_byte_count": range_byte_count}),
            "payload_byte_count": payload_byte_count,
            "fields": fields, "frame": frame.hex(),
            "payload": None if payload is None else payload.hex(),
        })


def chunk(payload, **other):
    return {
        "index": 0, "level": 0, "chunk_byte_count": len(payload), "checksum": r.checksum(payload),
        "layout": OPAQUE, "time_to_live_ms": r.FOR_EVER, **other,
    }


def answers_to_lookups(add):
    absent = {
        "status": 1, "tier": 0, "level": 0, "load_us": 0, "chunk_byte_count": 0,
        "time_to_live_ms": 0,
    }
    there = {
        "status": 0, "tier": 1, "level": 0, "load_us": 120, "chunk_byte_count": 65_536,
        "time_to_live_ms": r.FOR_EVER,
    }
    add("lookup: every key, some absent", "LOOKUP", prefix_count=1, records=[
        there, absent, {**there, "tier": 2, "load_us": 900, "time_to_live_ms": 59_000}])
    add("lookup: no prefix", "LOOKUP", prefix_count=0, records=[])
    add("lookup: what a later daemon may say", "LOOKUP", prefix_count=1, records=[
        {**there, "tier": 200, "level": 7, "load_us": ALL_ONES_32}])
    add("lookup: 1,024 records", "LOOKUP", prefix_count=1_024, records=[there] * 1_024)
    add("delete: some", "DELETE", deleted_count=1, statuses=[0, 1])
    add("delete: none", "DELETE", deleted_count=0, statuses=[1])
    add("delete: one of them not for ever", "DELETE", deleted_count=1, statuses=[0, 17, 1])
    for verb in ("PIN", "UNPIN"):
        name = verb.lower()
        add(f"{name}: some", verb, ok_count=1, statuses=[0, 1, 17])
        add(f"{name}: none", verb, ok_count=0, statuses=[1])
        add(f"{name}: 1,024 keys", verb, ok_count=1_024, statuses=[0] * 1_024)
    add("pin: more than the node allows", "PIN", ok_count=1, statuses=[0, 3])


def answers_to_ranges(add, data):
    part = data[3:7]
    add("get: a range", "GET", payload=part, range_byte_count=4, **chunk(
        data, checksum=r.checksum(part)))
    add("get: a range, one of several", "GET", flags=r.MORE, payload=data[:1], range_byte_count=1,
        **chunk(data, checksum=r.checksum(data[:1]), index=1_022, layout=LAYOUT))
    add("get: a range that is the whole chunk", "GET", payload=data, range_byte_count=len(data),
        **chunk(data))
    for flags, name in ((0, "one key"), (r.MORE, "one key of several")):
        add(f"get: a range, {name}, limitExceeded", "GET", "limitExceeded", flags=flags,
            range_byte_count=4, index=2, error_text="the range ends behind the chunk")
    add("get: a range, one key, notFound", "GET", "notFound", range_byte_count=4, index=0,
        error_text="not stored")
    add("get: a range, refused as a whole", "GET", "unsupported", range_byte_count=4,
        error_text="no ranges here")


def answers_to_control(add):
    add("control: nothing to say", "CONTROL", texts=[])
    add("control: ssd status", "CONTROL", texts=[
        {"name": "ssd_directory_count", "text": "1"},
        {"name": "ssd_directory_0_path", "text": "/var/lib/kvstore/größer"},
        {"name": "ssd_directory_0_state", "text": ""}])
    add("control: longest name and text", "CONTROL", texts=[
        {"name": "x" * 255, "text": "t" * 65_000}])
    add("control: not the operator", "CONTROL", "unauthorized", flags=r.FINAL_BAD,
        error_text="only root and the daemon's own user may")
    add("control: no such tier", "CONTROL", "unsupported", error_text="there is no SSD tier")


def answers_of_shared_memory(add):
    missing = {
        "status": 1, "level": 0, "lease_id": 0, "arena_offset": 0, "chunk_byte_count": 0,
        "checksum": 0, "time_to_live_ms": 0,
    }
    granted = {
        "status": 0, "level": 0, "lease_id": 17, "arena_offset": 1 << 33,
        "chunk_byte_count": 1 << 20, "checksum": 0x0123456789ABCDEF,
        "time_to_live_ms": r.FOR_EVER,
    }
    add("lease: granted, absent, refused", "LEASE", expiry_ns=1_234_567_890_123,
        records=[granted, missing, {**missing, "status": 3}])
    add("lease: no keys", "LEASE", expiry_ns=ALL_ONES_64, records=[])
    add("lease: 1,024 records", "LEASE", expiry_ns=1, records=[
        {**granted, "lease_id": number, "arena_offset": number << 20}
        for number in range(1_024)])
    add("release", "RELEASE", released_count=3)
    add("reserve", "RESERVE", reservation_id=5, staging_offset=4_096,
        staging_byte_count=1 << 26, expiry_ns=99)
    add("commit", "COMMIT")
    add("abort", "ABORT")


def answers():
    all_of_them = Answers()
    add = all_of_them.add
    hello = {
        "version": 1, "granted_features": 0, "secret": "00" * 32, "node_id": 1,
        "body_byte_count_limit": 65_536, "batch_key_count_limit": 1_024,
        "chunk_byte_count_limit": r.CHUNK_BYTE_COUNT_MAX, "in_flight_limit": 64,
        "lease_ms_limit": 30_000, "arena_byte_count": 0, "staging_byte_count_limit": 0,
        "daemon_name": "kvstored 0.1",
    }
    add("hello", "HELLO", **hello)
    add("hello: with shared memory and a secret", "HELLO", **{
        **hello, "granted_features": 1, "secret": bytes(range(32)).hex(),
        "node_id": ALL_ONES_64, "arena_byte_count": 1 << 36,
        "staging_byte_count_limit": 1 << 28})
    add("hello: no name", "HELLO", **{**hello, "daemon_name": ""})
    add("hello: longest name", "HELLO", **{**hello, "daemon_name": "é" * 127 + "!"})
    add("ping", "PING", request_id=7)
    add("put", "PUT", request_id=8)

    data = b"hello, chunk"
    add("get: the only chunk", "GET", payload=data, **chunk(data))
    add("get: one of several", "GET", flags=r.MORE, payload=data, **chunk(
        data, index=1_022, layout=LAYOUT, time_to_live_ms=1))
    add("get: largest chunk", "GET", payload_byte_count=r.CHUNK_BYTE_COUNT_MAX, **{
        **chunk(data), "chunk_byte_count": r.CHUNK_BYTE_COUNT_MAX})
    for status in ("notFound", "layoutMismatch", "deadlineExceeded"):
        add(f"get: one key, {status}", "GET", status, index=2, error_text="compute it")
        add(f"get: one key of several, {status}", "GET", status, flags=r.MORE, index=0,
            error_text="")
    add("get: refused as a whole, too late", "GET", "deadlineExceeded", flags=r.FINAL_BAD,
        error_text="the body did not arrive in time")
    for status in ("limitExceeded", "busy", "shuttingDown"):
        add(f"get: refused as a whole, {status}", "GET", status, error_text="send fewer keys")

    answers_to_ranges(add, data)
    answers_to_lookups(add)
    add("stat: the node", "STAT", pairs=[
        {"name": "memory_budget_bytes", "value": 1 << 40}, {"name": "a", "value": 0},
        {"name": "x" * 255, "value": ALL_ONES_64}])
    add("stat: a node that says nothing", "STAT", pairs=[])
    add("stat: a chunk", "STAT", scope=1, **chunk(data))
    add("stat: no such chunk", "STAT", "notFound", scope=1, error_text="not stored")
    answers_of_shared_memory(add)
    answers_to_control(add)

    for status in r.STATUSES[1:]:
        add(f"put: {status}", "PUT", status, error_text=f"{status}: what to do")
    add("text: empty", "PUT", "exists", error_text="")
    add("text: not ASCII", "PUT", "busy", error_text="später – noch einmal 🙂")
    add("text: longest", "PUT", "tooLarge", flags=r.FINAL_BAD, error_text="t" * 512)
    add("unasked: the daemon speaks up before a request", "PING", "busy", request_id=0,
        flags=r.FINAL_BAD, error_text="too many connections")
    return all_of_them.vectors


# --- Keys ---------------------------------------------------------------------------------------

ZERO_SECRET = bytes(32)
SECRET = bytes(range(32, 64))
MODEL = {
    "model": "sha256:9f2b", "dtype": "bf16", "layer_count": 32, "kv_head_count": 8,
    "head_dimension": 128, "tokens_per_chunk": 256, "axis_order": "layer,kv,token,head,channel",
    "rope_theta": 500_000.0, "tensor_parallel_rank": 0, "tensor_parallel_size": 1,
}


def layouts():
    cases = {
        "no fields": {},
        "a model": MODEL,
        "the same model, other rank": {**MODEL, "tensor_parallel_rank": 1},
        "sorted bytewise": {"b": 1, "a_": 2, "a1": 3, "a": 4, "aa": 5, "_": 6, "0": 7},
        "texts": {"empty": "", "equals": "a=b=c", "not_ascii": "Grüße, κόσμε 🌍", "blank": " x "},
        "whole numbers": {
            "zero": 0, "minus": -1, "largest": (1 << 63) - 1, "smallest": -(1 << 63)},
        "doubles": {
            "half": 0.5, "whole": 10_000.0, "tenth": 0.1, "third": 1 / 3, "zero": 0.0,
            "minus_zero": -0.0, "small": 0.0001, "smaller": 0.00001, "smallest": 5e-324,
            "to_the_53rd": 2.0**53, "above": 2.0**53 + 2, "below_exponent": 9999999999999998.0,
            "exponent": 1e16, "digits_and_exponent": 1.5e16, "large": 1e22, "minus": -1234.5678,
            "largest": 1.7976931348623157e308, "minus_above": -9801660732802520.0,
        },
    }
    vectors = []
    for name, description in cases.items():
        fields = [
            {"name": field, **(
                {"text": value} if isinstance(value, str)
                else {"double_bits": r.struct.unpack("<Q", r.struct.pack("<d", value))[0]}
                if isinstance(value, float) else {"whole": value})}
            for field, value in description.items()
        ]
        vectors.append({
            "name": name, "fields": fields, "canonical": r.canonical(description).decode(),
            "id": r.layout_id(description).hex(),
        })
    return vectors


def prefixes():
    model = r.layout_id(MODEL)
    counting = list(range(1_024))
    spread = [(number * 2_654_435_761) % (1 << 32) for number in range(64)]
    cases = [
        ("four chunks, no secret", ZERO_SECRET, model, counting, 256),
        ("four chunks, a secret", SECRET, model, counting, 256),
        ("opaque layout", SECRET, bytes(16), counting[:512], 256),
        ("the rest has no key", SECRET, model, counting[:300], 256),
        ("not one chunk", SECRET, model, counting[:255], 256),
        ("no tokens", SECRET, model, [], 256),
        ("small chunks, large ids", SECRET, model, spread, 16),
        ("one token each", SECRET, model, [0, 1, (1 << 32) - 1], 1),
    ]
    return [
        {"name": name, "secret": secret.hex(), "layout": layout.hex(), "tokens": tokens,
         "tokens_per_chunk": size,
         "keys": [key.hex() for key in r.prefix_keys(secret, layout, tokens, size)]}
        for name, secret, layout, tokens, size in cases
    ]


def singles():
    model = r.layout_id(MODEL)
    vectors = []
    for label, secret in (("no secret", ZERO_SECRET), ("a secret", SECRET)):
        for name, tokens in (("256 tokens", list(range(256))), ("one token", [42]), ("none", [])):
            vectors.append({
                "name": f"position-independent: {name}, {label}", "secret": secret.hex(),
                "layout": model.hex(), "tokens": tokens, "opaque_name": None,
                "key": r.position_independent_key(secret, model, tokens).hex()})
        for name in (b"", b"greeting", "Grüße".encode(), bytes(range(256))):
            vectors.append({
                "name": f"opaque: {len(name)} bytes, {label}", "secret": secret.hex(),
                "layout": None, "tokens": None, "opaque_name": name.hex(),
                "key": r.opaque_key(secret, name).hex()})
    return vectors


def files():
    return {
        "wire/requests.json": requests(), "wire/answers.json": answers(),
        "key/layouts.json": layouts(), "key/prefixes.json": prefixes(),
        "key/singles.json": singles(),
    }
