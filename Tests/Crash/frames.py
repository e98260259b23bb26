# SPDX-License-Identifier: Apache-2.0
"""The protocol (docs/protocol.md) as the crash test speaks it: plain, and strict about answers.

One connection belongs to one thread. Everything that a daemon may do wrong on the wire is `Broken`;
that it is gone is `Lost`, which is what a crash test expects.
"""
import ctypes
import ctypes.util
import socket
import struct
from typing import NamedTuple

HELLO, PUT, GET, LOOKUP, DELETE, STAT = 0x01, 0x10, 0x11, 0x12, 0x13, 0x14
PIN, UNPIN = 0x30, 0x31
OK, NOT_FOUND, EXISTS, BUSY, DEADLINE_EXCEEDED = 0, 1, 2, 3, 5
UNSUPPORTED, SHUTTING_DOWN, LIMIT_EXCEEDED, NOT_DURABLE = 8, 13, 14, 17
RESPONSE, MORE = 1, 2
FOR_EVER = 2**64 - 1
# Payloads up to this are sent in one piece with their header.
JOINED_BYTE_COUNT_MAX = 65_536

_xxhash = ctypes.CDLL(ctypes.util.find_library("xxhash") or "libxxhash.so.0")
_xxhash.XXH3_64bits.restype = ctypes.c_uint64
_xxhash.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


class Lost(Exception):
    """The daemon closed the connection, or is dead."""


class Broken(Exception):
    """An answer that breaks the protocol, or none for a long time."""


class Answer(NamedTuple):
    """A frame from the daemon."""

    status: int
    has_more: bool
    body: bytes
    payload: bytes


class Chunk(NamedTuple):
    """What GET says about one key; only the status counts unless that is OK."""

    status: int
    data: bytes = b""
    layout: bytes = b""
    remaining_ms: int = 0


class Record(NamedTuple):
    """What LOOKUP says about one key."""

    status: int
    tier: int
    byte_count: int
    remaining_ms: int


def checksum(data):
    """XXH3-64 of `data` (bytes), seed 0."""
    return _xxhash.XXH3_64bits(data, len(data))


def encode(verb, request_id, body, payload_byte_count=0):
    """The header and the body of a request."""
    head = struct.pack("<4sBBHQIHHIIQI", b"KVS1", 1, verb, 0, request_id, 0, 0, 0, len(body),
                       checksum(body) & 0xFFFF_FFFF, payload_byte_count, 0)
    return head + struct.pack("<I", checksum(head) & 0xFFFF_FFFF) + body


class Connection:
    """One connection that has said HELLO."""

    def __init__(self, port, namespace, timeout_seconds=20.0):
        self.request_id = 0
        self.waiting = []
        try:
            self.socket = socket.create_connection(("127.0.0.1", port), timeout_seconds)
        except OSError as error:
            raise Lost(str(error)) from error
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = self.socket.makefile("rb", 1 << 16)
        try:
            name = namespace.encode()
            self.send(HELLO, struct.pack("<BBHQB", 1, 1, 0, 0, len(name)) + name
                      + struct.pack("<HB", 0, 0))
            status = self.receive().status
            if status != OK:
                raise Broken(f"HELLO for namespace {namespace!r} is answered {status}")
        except BaseException:
            self.close()
            raise

    def close(self):
        """Closes the connection; what it had not been answered stays unknown."""
        self.reader.close()
        self.socket.close()

    # --- Frames -----------------------------------------------------------------------------

    def send(self, verb, body, payload=b""):
        """Sends a request; its answer is to be received in its turn."""
        self.request_id += 1
        self.waiting.append((self.request_id, verb))
        head = encode(verb, self.request_id, body, len(payload))
        if len(payload) <= JOINED_BYTE_COUNT_MAX:
            self.send_bytes(head + payload)
        else:
            self.send_bytes(head)
            self.send_bytes(payload)

    def send_bytes(self, data):
        try:
            self.socket.sendall(data)
        except TimeoutError as error:
            raise Broken("the daemon takes no bytes") from error
        except OSError as error:
            raise Lost(str(error)) from error

    def receive_bytes(self, count):
        try:
            data = self.reader.read(count)
        except TimeoutError as error:
            raise Broken("the daemon gives no answer") from error
        except OSError as error:
            raise Lost(str(error)) from error
        if len(data) != count:
            raise Lost("closed")
        return data

    def receive(self):
        """The next frame, checked as far as every frame can be."""
        head = self.receive_bytes(48)
        (magic, version, verb, flags, request_id, _, status, _, body_byte_count, body_checksum,
         payload_byte_count, _, head_checksum) = struct.unpack("<4sBBHQIHHIIQII", head)
        if magic != b"KVS1" or version != 1 or not flags & RESPONSE:
            raise Broken(f"a frame that begins {head[:16].hex()}")
        if head_checksum != checksum(head[:44]) & 0xFFFF_FFFF:
            raise Broken("the checksum of a header is wrong")
        body = self.receive_bytes(body_byte_count)
        if body_checksum != checksum(body) & 0xFFFF_FFFF:
            raise Broken("the checksum of a body is wrong")
        payload = self.receive_bytes(payload_byte_count)
        if status == SHUTTING_DOWN:
            raise Lost("the daemon stops")
        has_more = bool(flags & MORE)
        if (request_id, verb) != self.waiting[0]:
            raise Broken(f"an answer to request {request_id}, verb {verb}; {self.waiting[0]} waits")
        if not has_more:
            self.waiting.pop(0)
        return Answer(status, has_more, body, payload)

    # --- Verbs ------------------------------------------------------------------------------

    def send_put(self, key, layout, data, ttl_ms, is_durable, missing_byte_count=0):
        """Sends a PUT; with `missing_byte_count` not to its end. Its answer is `receive`'s."""
        body = struct.pack("<32s16sQIBB10x", key, layout, len(data), ttl_ms, 0, int(is_durable))
        payload = data + struct.pack("<Q", checksum(data))
        if missing_byte_count:
            self.send_bytes(encode(PUT, self.request_id + 1, body, len(payload))
                            + payload[:-missing_byte_count])
        else:
            self.send(PUT, body, payload)

    def get(self, keys, bounds=None):
        """A Chunk for each key, as they arrive. `bounds`: offset and byte count of a range."""
        wanted = struct.pack("<QQ", *bounds) if bounds else b""
        self.send(GET, struct.pack("<HBB20x", len(keys), 255, 2 if bounds else 0) + wanted
                  + b"".join(keys))
        for index in range(len(keys)):
            answer = self.receive()
            if answer.status == BUSY and not answer.has_more:
                # It is about the rest of the request; nothing follows.
                yield from [Chunk(BUSY)] * (len(keys) - index)
                return
            if answer.has_more != (index + 1 < len(keys)):
                raise Broken(f"GET of {len(keys)} keys: 'more' is wrong in frame {index}")
            if answer.status in (NOT_FOUND, DEADLINE_EXCEEDED) + (LIMIT_EXCEEDED,) * bool(bounds):
                yield Chunk(answer.status)
                continue
            if answer.status != OK:
                raise Broken(f"GET is answered {answer.status}: {answer.body!r}")
            number, _, byte_count, check, layout, remaining_ms = struct.unpack(
                "<IB3xQQ16sQ", answer.body)
            expected_byte_count = bounds[1] if bounds else byte_count
            if number != index or expected_byte_count != len(answer.payload):
                raise Broken(f"GET frame {index} says index {number}, {byte_count} bytes")
            if check != checksum(answer.payload):
                raise Broken(f"GET frame {index}: {byte_count} bytes are not as their checksum")
            yield Chunk(OK, answer.payload, layout, remaining_ms)

    def lookup(self, keys):
        """A Record for each key."""
        self.send(LOOKUP, struct.pack("<HB5x", len(keys), 0) + b"".join(keys))
        answer = self.receive()
        if answer.status != OK:
            raise Broken(f"LOOKUP is answered {answer.status}: {answer.body!r}")
        _, count = struct.unpack_from("<II", answer.body)
        if count != len(keys) or len(answer.body) != 8 + 24 * count:
            raise Broken(f"LOOKUP of {len(keys)} keys has {count} records")
        return [Record(status, tier, byte_count, remaining_ms)
                for status, tier, _, _, byte_count, remaining_ms
                in struct.iter_unpack("<HBBIQQ", answer.body[8:])]

    def delete(self, keys):
        """A status for each key."""
        return self._change(DELETE, keys)

    def pin(self, keys, pin_ms):
        """A status for each key."""
        return self._change(PIN, keys, struct.pack("<Q", pin_ms))

    def unpin(self, keys):
        """A status for each key."""
        return self._change(UNPIN, keys)

    def _change(self, verb, keys, more=b""):
        self.send(verb, struct.pack("<H6x", len(keys)) + more + b"".join(keys))
        answer = self.receive()
        if answer.status != OK:
            return [answer.status] * len(keys)
        _, count = struct.unpack_from("<II", answer.body)
        if count != len(keys) or len(answer.body) != 8 + 2 * count:
            raise Broken(f"verb {verb} with {len(keys)} keys has {count} statuses")
        return list(struct.unpack_from(f"<{count}H", answer.body, 8))

    def stat(self):
        """The daemon's counters by name."""
        self.send(STAT, bytes(8))
        answer = self.receive()
        if answer.status != OK:
            raise Broken(f"STAT is answered {answer.status}")
        (count,) = struct.unpack_from("<I", answer.body)
        offset, counters = 4, {}
        for _ in range(count):
            end = offset + 1 + answer.body[offset]
            (counters[answer.body[offset + 1:end].decode()],) = struct.unpack_from(
                "<Q", answer.body, end)
            offset = end + 8
        return counters
