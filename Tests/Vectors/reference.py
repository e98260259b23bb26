# SPDX-License-Identifier: Apache-2.0
"""A second reader and writer of the KVStore protocol, version 1.

Written from docs/protocol.md and docs/key-derivation.md alone, to find out whether they say
enough, and to make the vectors beside it (dev/make-vectors). Slow and plain on purpose. It needs
nothing but the `xxhash` package.

    frame = encode_request("PING", request_id=7, deadline_ms=1000)
    request = decode_request(frame)      # Frame, or raises Refusal with the status to answer

A message's body is a dict of the names that the tables BODIES_OF_REQUESTS and BODIES_OF_ANSWERS
give; keys and other byte strings are hexadecimal text.
"""

import hashlib
import hmac
import struct
from dataclasses import dataclass, field

import xxhash

HEADER_BYTE_COUNT = 48
MAGIC = b"KVS1"
VERSION = 1
BODY_BYTE_COUNT_MAX = 65_536
BATCH_KEY_COUNT_MAX = 1_024
RELEASED_LEASE_COUNT_MAX = 1_024
PIN_MS_MAX = 1 << 40
CHUNK_BYTE_COUNT_MAX = 1 << 28
PAYLOAD_BYTE_COUNT_MAX = CHUNK_BYTE_COUNT_MAX + 8
FOR_EVER = (1 << 64) - 1

RESPONSE, MORE, FINAL_BAD = 1, 2, 4

VERBS = {
    "HELLO": 0x01, "PING": 0x02, "PUT": 0x10, "GET": 0x11, "LOOKUP": 0x12, "DELETE": 0x13,
    "STAT": 0x14, "LEASE": 0x20, "RELEASE": 0x21, "RESERVE": 0x22, "COMMIT": 0x23, "ABORT": 0x24,
    "PIN": 0x30, "UNPIN": 0x31, "CONTROL": 0x60,
}
RESERVED_VERBS = {
    "TOUCH": 0x32, "BLEND": 0x40, "FEEDBACK": 0x41,
    "PREFETCH": 0x42, "SUBSCRIBE": 0x50, "LOCATE": 0x51,
}
STATUSES = [
    "ok", "notFound", "exists", "busy", "tooLarge", "deadlineExceeded", "checksumMismatch",
    "unauthorized", "unsupported", "malformed", "versionMismatch", "helloRequired", "noLease",
    "shuttingDown", "limitExceeded", "layoutMismatch", "internal",
    "notDurable",
]
CLOSING = {
    "unauthorized", "malformed", "versionMismatch", "helloRequired", "shuttingDown", "internal",
}
# Answers to GET that are about one key of the batch.
OF_ONE_KEY = {"ok", "notFound", "layoutMismatch", "deadlineExceeded"}
# With option bit 1 of GET, a range follows the layout id.
CHECK_LAYOUT, RANGE = 1, 2


class Refusal(Exception):
    """Bytes that are not served: `status` is the answer; a client closes whatever it says."""

    def __init__(self, status, why):
        super().__init__(f"{status}: {why}")
        self.status = status


def checksum(data):
    """XXH3-64 with seed 0."""
    return xxhash.xxh3_64_intdigest(data)


def short(data):
    """The checksum's low 32 bits."""
    return checksum(data) & 0xFFFF_FFFF


# --- Fields -------------------------------------------------------------------------------------


class Number:
    """A little-endian unsigned integer; `allowed` and `refusal` say what it may be."""

    def __init__(self, size, allowed=None, refusal="malformed", fixed=None):
        self.size, self.allowed, self.refusal, self.fixed = size, allowed, refusal, fixed

    def write(self, value):
        return value.to_bytes(self.size, "little")

    def read(self, reader):
        value = int.from_bytes(reader.take(self.size), "little")
        if self.allowed is not None and value not in self.allowed:
            raise Refusal(self.refusal, f"{value} is not allowed")
        return value


class PlusOne:
    """A number of 4 bytes that is written plus 1; 0 is none, and not among the fields."""

    def write(self, value):
        return (0 if value is None else value + 1).to_bytes(4, "little")

    def read(self, reader):
        written = int.from_bytes(reader.take(4), "little")
        return None if written == 0 else written - 1


class Raw:
    """A fixed number of bytes, in hexadecimal."""

    def __init__(self, size):
        self.size = size

    def write(self, value):
        data = bytes.fromhex(value)
        assert len(data) == self.size
        return data

    def read(self, reader):
        return reader.take(self.size).hex()


class Reserved:
    """Zero bytes. `ignored`: the receiver does not look."""

    def __init__(self, size, ignored=False):
        self.size, self.ignored = size, ignored

    def write(self, _):
        return bytes(self.size)

    def read(self, reader):
        if any(reader.take(self.size)) and not self.ignored:
            raise Refusal("malformed", "a reserved field is not zero")


class Sized:
    """A byte count and as many bytes: UTF-8 text, or bytes in hexadecimal."""

    def __init__(self, count_size, most, is_text=True, repairs=False):
        self.count_size, self.most = count_size, most
        self.is_text, self.repairs = is_text, repairs

    def write(self, value):
        data = value.encode() if self.is_text else bytes.fromhex(value)
        assert len(data) <= self.most
        return len(data).to_bytes(self.count_size, "little") + data

    def read(self, reader):
        count = int.from_bytes(reader.take(self.count_size), "little")
        if count > self.most:
            raise Refusal("malformed", f"{count} bytes; at most {self.most}")
        data = reader.take(count)
        if not self.is_text:
            return data.hex()
        try:
            return data.decode("utf-8", "replace" if self.repairs else "strict")
        except UnicodeDecodeError as error:
            raise Refusal("malformed", "not UTF-8") from error


class Count:
    """How many elements the list called `of` has; the list itself comes later."""

    def __init__(self, size, of, allowed, refusal="limitExceeded"):
        self.size, self.of, self.allowed, self.refusal = size, of, allowed, refusal


class List:
    """Elements one after another: single fields, or records (a list of named fields)."""

    def __init__(self, element):
        self.element = element


class Reader:
    def __init__(self, data):
        self.data, self.offset = data, 0

    def take(self, count):
        if count > len(self.data) - self.offset:
            raise Refusal("malformed", f"ends at {len(self.data)}, inside a field")
        self.offset += count
        return self.data[self.offset - count : self.offset]


KEY, LAYOUT = Raw(32), Raw(16)
U8, U16, U32, U64 = Number(1), Number(2), Number(4), Number(8)
KEYS = range(1, BATCH_KEY_COUNT_MAX + 1)
OR_NONE = range(0, BATCH_KEY_COUNT_MAX + 1)


def limited(size, allowed):
    return Number(size, allowed=allowed, refusal="limitExceeded")


def choice(size, *values):
    return Number(size, allowed=values, refusal="unsupported")


# --- Bodies, as docs/protocol.md section 4 lists them -------------------------------------------

PUT_BODY = [
    ("key", KEY), ("layout", LAYOUT), ("chunk_byte_count", U64), ("time_to_live_ms", U32),
    ("level", choice(1, *range(7))), ("acknowledge", choice(1, 0, 1)), (None, Reserved(2)),
    (None, Reserved(2)), ("first_position", PlusOne()), (None, Reserved(2)),
]

BODIES_OF_REQUESTS = {
    "HELLO": [
        ("lowest_version", U8), ("highest_version", U8), (None, Reserved(2)),
        ("wanted_features", U64), ("namespace", Sized(1, 64)),
        ("token", Sized(2, 256, is_text=False)), ("client_name", Sized(1, 64)),
    ],
    "PING": [],
    "PUT": PUT_BODY,
    "GET": [
        ("key_count", Count(2, "keys", KEYS)), ("level", choice(1, *range(7), 254, 255)),
        ("options", choice(1, 0, 1, 2, 3)), (None, Reserved(4)), ("layout", LAYOUT),
        # With option bit 1 a range comes here; see `body_fields`.
        ("keys", List(KEY)),
    ],
    "LOOKUP": [
        ("key_count", Count(2, "keys", KEYS)), ("mode", choice(1, 0, 1)), (None, Reserved(5)),
        ("keys", List(KEY)),
    ],
    "DELETE": [
        ("key_count", Count(2, "keys", KEYS)), (None, Reserved(6)), ("keys", List(KEY)),
    ],
    # Scope 1 has a key behind; see `body_fields`.
    "STAT": [("scope", choice(1, 0, 1)), (None, Reserved(7))],
    "LEASE": [
        ("key_count", Count(2, "keys", OR_NONE)),
        ("released_count", Count(2, "released", OR_NONE)), ("lease_ms", U32),
        (None, Reserved(8)), ("released", List(U64)), ("keys", List(KEY)),
    ],
    "RELEASE": [
        ("lease_count", Count(2, "leases", KEYS)), (None, Reserved(6)), ("leases", List(U64)),
    ],
    "RESERVE": PUT_BODY,
    "COMMIT": [("reservation_id", U64), ("checksum", U64)],
    "ABORT": [("reservation_id", U64)],
    "PIN": [
        ("key_count", Count(2, "keys", KEYS)), (None, Reserved(6)),
        ("pin_ms", limited(8, range(1, PIN_MS_MAX + 1))), ("keys", List(KEY)),
    ],
    "UNPIN": [
        ("key_count", Count(2, "keys", KEYS)), (None, Reserved(6)), ("keys", List(KEY)),
    ],
    "CONTROL": [
        ("operation", choice(2, 1, 2, 3)), (None, Reserved(6)), ("argument", Sized(2, 4_096)),
    ],
}

RANGE_FIELDS = [("range_offset", U64), ("range_byte_count", Number(8, range(1, 1 << 64)))]

CHUNK_BODY = [
    ("index", U32), ("level", U8), (None, Reserved(3)),
    ("chunk_byte_count", Number(8, allowed=range(1, CHUNK_BYTE_COUNT_MAX + 1))),
    ("checksum", U64), ("layout", LAYOUT), ("time_to_live_ms", U64),
]

PINNED_BODY = [
    ("ok_count", U32),
    ("key_count", Count(4, "statuses", range(0, BATCH_KEY_COUNT_MAX + 1), "malformed")),
    ("statuses", List(U16)),
]

BODIES_OF_ANSWERS = {
    "HELLO": [
        ("version", U8), (None, Reserved(3)), ("granted_features", U64), ("secret", Raw(32)),
        ("node_id", U64), ("body_byte_count_limit", U32), ("batch_key_count_limit", U32),
        ("chunk_byte_count_limit", U64), ("in_flight_limit", U32), ("lease_ms_limit", U32),
        ("arena_byte_count", U64), ("staging_byte_count_limit", U64),
        (None, Reserved(48, ignored=True)), ("daemon_name", Sized(1, 255)),
    ],
    "PING": [],
    "PUT": [],
    "GET": CHUNK_BODY,
    "LOOKUP": [
        ("prefix_count", U32),
        ("record_count", Count(4, "records", range(0, BATCH_KEY_COUNT_MAX + 1), "malformed")),
        ("records", List([
            ("status", U16), ("tier", U8), ("level", U8), ("load_us", U32),
            ("chunk_byte_count", U64), ("time_to_live_ms", U64),
        ])),
    ],
    "DELETE": [
        ("deleted_count", U32),
        ("key_count", Count(4, "statuses", range(0, BATCH_KEY_COUNT_MAX + 1), "malformed")),
        ("statuses", List(U16)),
    ],
    # Of scope 0; scope 1 is answered as by GET.
    "STAT": [
        ("pair_count", Count(4, "pairs", range(0, BODY_BYTE_COUNT_MAX), "malformed")),
        ("pairs", List([("name", Sized(1, 255)), ("value", U64)])),
    ],
    "LEASE": [
        ("record_count", Count(4, "records", range(0, BATCH_KEY_COUNT_MAX + 1), "malformed")),
        (None, Reserved(4)), ("expiry_ns", U64),
        ("records", List([
            ("status", U16), ("level", U8), (None, Reserved(5)), ("lease_id", U64),
            ("arena_offset", U64), ("chunk_byte_count", U64), ("checksum", U64),
            ("time_to_live_ms", U64),
        ])),
    ],
    "RELEASE": [("released_count", U32), (None, Reserved(4))],
    "RESERVE": [
        ("reservation_id", U64), ("staging_offset", U64), ("staging_byte_count", U64),
        ("expiry_ns", U64),
    ],
    "COMMIT": [],
    "ABORT": [],
    "PIN": PINNED_BODY,
    "UNPIN": PINNED_BODY,
    "CONTROL": [
        ("pair_count", Count(2, "texts", range(0, BODY_BYTE_COUNT_MAX), "malformed")),
        ("texts", List([("name", Sized(1, 255)), ("text", Sized(2, 65_535))])),
    ],
}

ERROR_TEXT = ("error_text", Sized(2, 512, repairs=True))


def write_fields(fields, body, cuts=None, start=0):
    """The bytes of `body`; notes where each field begins in `cuts`."""
    data = b""
    for name, kind in fields:
        if cuts is not None:
            cuts.append(start + len(data))
        if isinstance(kind, Count):
            data += len(body[kind.of]).to_bytes(kind.size, "little")
        elif isinstance(kind, List):
            for element in body[name]:
                if isinstance(kind.element, list):
                    data += write_fields(kind.element, element)
                else:
                    data += kind.element.write(element)
        else:
            data += kind.write(body.get(name))
    return data


def read_fields(fields, reader):
    body, counts = {}, {}
    for name, kind in fields:
        if isinstance(kind, Count):
            count = int.from_bytes(reader.take(kind.size), "little")
            if count not in kind.allowed:
                raise Refusal(kind.refusal, f"a count of {count}")
            counts[kind.of] = count
        elif isinstance(kind, List):
            body[name] = [
                read_fields(kind.element, reader)
                if isinstance(kind.element, list)
                else kind.element.read(reader)
                for _ in range(counts[name])
            ]
        else:
            value = kind.read(reader)
            if name is not None and not (isinstance(kind, PlusOne) and value is None):
                body[name] = value
    return body


def body_fields(verb, is_answer, status="ok", flags=0, scope=0, options=0, has_range=False):
    """The table for the body of a frame. `scope` and `options` are a request's own; `scope` and
    `has_range` of an answer tell what was asked for."""
    if not is_answer:
        fields = BODIES_OF_REQUESTS[verb]
        if verb == "GET" and options & RANGE:
            return fields[:-1] + RANGE_FIELDS + fields[-1:]
        return fields + [("key", KEY)] if verb == "STAT" and scope == 1 else fields
    if status != "ok":
        is_of_key = status in OF_ONE_KEY or (has_range and status == "limitExceeded")
        is_item = verb == "GET" and is_of_key and not flags & FINAL_BAD
        return [("index", U32), ERROR_TEXT] if is_item else [ERROR_TEXT]
    return CHUNK_BODY if verb == "STAT" and scope == 1 else BODIES_OF_ANSWERS[verb]


# --- Frames -------------------------------------------------------------------------------------


@dataclass
class Frame:
    verb: int
    flags: int = 0
    request_id: int = 0
    deadline_ms: int = 0
    status: int = 0
    payload_byte_count: int = 0
    body: bytes = b""
    fields: dict = field(default_factory=dict)

    @property
    def status_name(self):
        return STATUSES[self.status] if self.status < len(STATUSES) else "internal"

    @property
    def verb_name(self):
        return next((name for name, number in VERBS.items() if number == self.verb), None)

    @property
    def closes(self):
        return bool(self.flags & FINAL_BAD) or self.status_name in CLOSING

    def encode(self, magic=MAGIC, version=VERSION, reserved=(0, 0), body_byte_count=None):
        """Header and body. The arguments make frames that are wrong on purpose."""
        size = len(self.body) if body_byte_count is None else body_byte_count
        covered = magic + struct.pack(
            "<BBHQIHHIIQI", version, self.verb, self.flags, self.request_id, self.deadline_ms,
            self.status, reserved[0], size, short(self.body), self.payload_byte_count,
            reserved[1])
        assert len(covered) == 44
        return covered + struct.pack("<I", short(covered)) + self.body


def encode_request(verb, request_id=0, deadline_ms=0, payload_byte_count=0, **body):
    fields = body_fields(verb, False, scope=body.get("scope", 0), options=body.get("options", 0))
    return Frame(
        VERBS[verb], 0, request_id, deadline_ms, 0, payload_byte_count,
        write_fields(fields, body)).encode()


def encode_answer(verb, request_id=0, status="ok", flags=0, payload_byte_count=0, **body):
    scope, has_range = body.pop("scope", 0), body.pop("has_range", False)
    fields = body_fields(verb, True, status, flags, scope, has_range=has_range)
    return Frame(
        VERBS[verb], flags | RESPONSE, request_id, 0, STATUSES.index(status),
        payload_byte_count, write_fields(fields, body)).encode()


def decode_header(data):
    """The header of a whole frame, checked in the order that the text gives, and its body."""
    if len(data) < HEADER_BYTE_COUNT:
        raise Refusal("malformed", "no whole header")
    if data[:4] != MAGIC:
        raise Refusal("malformed", "magic")
    if int.from_bytes(data[44:48], "little") != short(data[:44]):
        raise Refusal("malformed", "header checksum")
    (version, verb, flags, request_id, deadline_ms, status, reserved, size, body_checksum,
     payload_byte_count, reserved_too) = struct.unpack("<BBHQIHHIIQI", data[4:44])
    if version != VERSION:
        raise Refusal("versionMismatch", f"version {version}")
    if reserved or reserved_too:
        raise Refusal("malformed", "reserved")
    if size > BODY_BYTE_COUNT_MAX:
        raise Refusal("malformed", "body byte count")
    body = data[HEADER_BYTE_COUNT : HEADER_BYTE_COUNT + size]
    if len(body) != size or short(body) != body_checksum:
        raise Refusal("malformed", "body checksum")
    return Frame(verb, flags, request_id, deadline_ms, status, payload_byte_count, body)


def decode_request(data):
    """As a daemon: the request in `data` (header and body), or the Refusal to answer."""
    frame = decode_header(data)
    if frame.flags:
        raise Refusal("unsupported", "flags")
    verb = frame.verb_name
    if verb is None:
        raise Refusal("unsupported", "verb")
    if frame.status:
        raise Refusal("malformed", "status")
    if verb != "PUT" and frame.payload_byte_count:
        raise Refusal("malformed", "payload")
    scope = frame.body[0] if verb == "STAT" and frame.body else 0
    options = frame.body[3] if verb == "GET" and len(frame.body) > 3 else 0
    body = decode_body(frame, body_fields(verb, False, scope=scope, options=options))
    check_request(verb, body, frame.payload_byte_count)
    return frame


def decode_answer(data, scope=0, range_byte_count=None):
    """As a client: the answer in `data` (header and body), or a Refusal: close. `scope` and
    `range_byte_count` are those of the STAT or GET that is answered."""
    frame = decode_header(data)
    verb, status = frame.verb_name, frame.status_name
    if not frame.flags & RESPONSE or frame.flags & ~(RESPONSE | MORE | FINAL_BAD):
        raise Refusal("malformed", "flags")
    if frame.flags & MORE and verb != "GET":
        raise Refusal("malformed", "more")
    if frame.deadline_ms:
        raise Refusal("malformed", "deadline")
    if verb is None and status == "ok":
        raise Refusal("malformed", "verb")
    has_range = range_byte_count is not None
    body = decode_body(
        frame, body_fields(verb, True, status, frame.flags, scope, has_range=has_range))
    is_chunk = verb == "GET" and status == "ok"
    expected = body["chunk_byte_count"] if is_chunk else 0
    if is_chunk and has_range:
        if range_byte_count > body["chunk_byte_count"]:
            raise Refusal("malformed", "a range of more than the chunk")
        expected = range_byte_count
    if frame.payload_byte_count != expected:
        raise Refusal("malformed", "payload byte count")
    if verb == "LOOKUP" and status == "ok" and body["prefix_count"] > len(body["records"]):
        raise Refusal("malformed", "prefix count")
    if verb == "DELETE" and status == "ok" and body["deleted_count"] > len(body["statuses"]):
        raise Refusal("malformed", "deleted count")
    if verb in ("PIN", "UNPIN") and status == "ok" and body["ok_count"] > len(body["statuses"]):
        raise Refusal("malformed", "ok count")
    return frame


def decode_body(frame, fields):
    reader = Reader(frame.body)
    frame.fields = read_fields(fields, reader)
    if reader.offset != len(frame.body):
        raise Refusal("malformed", "bytes behind the last field")
    return frame.fields


def check_request(verb, body, payload_byte_count):
    """What one field alone does not tell."""
    if verb == "HELLO":
        if body["lowest_version"] > body["highest_version"]:
            raise Refusal("malformed", "versions")
        if not body["lowest_version"] <= VERSION <= body["highest_version"]:
            raise Refusal("versionMismatch", "versions")
    if verb == "GET" and not body["options"] & CHECK_LAYOUT and body["layout"] != "00" * 16:
        raise Refusal("malformed", "layout id without its option")
    if verb in ("PUT", "RESERVE"):
        if body["chunk_byte_count"] == 0:
            raise Refusal("malformed", "no chunk")
        if body["chunk_byte_count"] > CHUNK_BYTE_COUNT_MAX:
            raise Refusal("tooLarge", "chunk")
    if verb == "PUT" and payload_byte_count != body["chunk_byte_count"] + 8:
        raise Refusal("malformed", "payload byte count")


# --- Keys (docs/key-derivation.md) --------------------------------------------------------------


def canonical(description):
    """The canonical form of a layout description: text, whole numbers or doubles by name."""
    lines = ["kvstore_layout=1\n"]
    for name in sorted(description, key=lambda name: name.encode()):
        value = description[name]
        lines.append(f"{name}={repr(value) if isinstance(value, float) else value}\n")
    return "".join(lines).encode()


def layout_id(description):
    return hashlib.sha256(canonical(description)).digest()[:16]


def derive(secret, message):
    return hmac.new(secret, message, hashlib.sha256).digest()


def token_bytes(tokens):
    return b"".join(struct.pack("<I", token) for token in tokens)


def prefix_keys(secret, layout, tokens, tokens_per_chunk=256):
    """Keys of the complete chunks of a prompt."""
    keys, parent = [], bytes(32)
    for start in range(0, len(tokens) - tokens_per_chunk + 1, tokens_per_chunk):
        chunk = token_bytes(tokens[start : start + tokens_per_chunk])
        parent = derive(secret, b"p1" + layout + parent + chunk)
        keys.append(parent)
    return keys


def position_independent_key(secret, layout, tokens):
    return derive(secret, b"c1" + layout + token_bytes(tokens))


def opaque_key(secret, name):
    return derive(secret, b"o1" + name)
